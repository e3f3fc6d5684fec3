//! `history`, `limits` and `cache`: how much is kept and allowed. Not sections of Linkerd 1.x, but for the `cache` of an
//! interface.

use std::{path::PathBuf, time::Duration};

use linkerd_dtab::namerd::{Cache, Keep, Limits, http::MAX_BODY};

use super::super::decode::{At, Decode, MAX_INT, Section};

/// The `history` map: where changes are recorded, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistorySettings {
    /// `directory`: made if it does not exist. Default: none, in memory.
    pub directory: Option<PathBuf>,
    /// `records`, `bytes` in memory and `fileBytes` on disk, each for one namespace, and how many that were
    /// `deleted`. Defaults: [`Keep`]'s.
    pub keep: Keep,
}

/// The `cache` map: how many names and addresses are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameCache {
    /// `bindingCacheActive`: names that somebody watches. Default: 1000.
    pub bindings: usize,
    /// `bindingCacheInactive`: names that nobody watches any more. Default: 100.
    pub idle_bindings: usize,
    /// `bindingCacheInactiveTTLSecs`: for how long these stay. Default: 10 min.
    pub binding_idle_time: Duration,
    /// `addrCacheActive`. Default: 1000.
    pub addrs: usize,
    /// `addrCacheInactive`. Default: 100.
    pub idle_addrs: usize,
    /// `addrCacheInactiveTTLSecs`. Default: 10 min.
    pub addr_idle_time: Duration,
}

impl Default for NameCache {
    fn default() -> Self {
        Self {
            bindings: 1000,
            idle_bindings: 100,
            binding_idle_time: Duration::from_mins(10),
            addrs: 1000,
            idle_addrs: 100,
            addr_idle_time: Duration::from_mins(10),
        }
    }
}

impl NameCache {
    /// What holds if the file says nothing at all: enough for a fleet by gRPC and HTTP, where Linkerd 1.x has no bound.
    pub const UNSAID: Self = Self {
        bindings: 20_000,
        idle_bindings: 1000,
        binding_idle_time: Duration::from_mins(10),
        addrs: 20_000,
        idle_addrs: 1000,
        addr_idle_time: Duration::from_mins(10),
    };

    /// What keeps both.
    #[must_use]
    pub(super) fn larger(self, other: Self) -> Self {
        Self {
            bindings: self.bindings.max(other.bindings),
            idle_bindings: self.idle_bindings.max(other.idle_bindings),
            binding_idle_time: self.binding_idle_time.max(other.binding_idle_time),
            addrs: self.addrs.max(other.addrs),
            idle_addrs: self.idle_addrs.max(other.idle_addrs),
            addr_idle_time: self.addr_idle_time.max(other.addr_idle_time),
        }
    }

    pub(crate) fn of_bindings(&self) -> Cache {
        Cache { active: self.bindings, inactive: self.idle_bindings, inactive_for: self.binding_idle_time }
    }

    pub(crate) fn of_addrs(&self) -> Cache {
        Cache { active: self.addrs, inactive: self.idle_addrs, inactive_for: self.addr_idle_time }
    }
}

impl Decode for NameCache {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "cache")?;
        let default = Self::default();
        let cache = Self {
            bindings: s.size_or("bindingCacheActive", 1, default.bindings),
            idle_bindings: s.size_or("bindingCacheInactive", 0, default.idle_bindings),
            binding_idle_time: s.seconds_or("bindingCacheInactiveTTLSecs", 0, default.binding_idle_time),
            addrs: s.size_or("addrCacheActive", 1, default.addrs),
            idle_addrs: s.size_or("addrCacheInactive", 0, default.idle_addrs),
            addr_idle_time: s.seconds_or("addrCacheInactiveTTLSecs", 0, default.addr_idle_time),
        };
        s.finish();
        Some(cache)
    }
}

impl Decode for HistorySettings {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "history")?;
        let default = Keep::default();
        let directory = s.get("directory");
        let keep = Keep {
            records: s.size_or("records", 1, default.records),
            bytes: s.size_or("bytes", 1, default.bytes),
            file_bytes: s.int("fileBytes", 1..=MAX_INT).map_or(default.file_bytes, |n| n as u64),
            deleted: s.size("deleted", 1).unwrap_or(default.deleted),
        };
        if directory.is_none() && s.has("fileBytes") {
            s.problem("fileBytes", "is for a history in a directory");
        }
        s.finish();
        Some(Self { directory, keep })
    }
}

/// As much as the longest request has: it could never be read otherwise.
const LEAST_READ: i64 = MAX_BODY.cast_signed() as i64;

/// The `limits` map.
pub(super) fn limits(at: &At<'_>) -> Option<Limits> {
    let mut s = Section::open(at, "limits")?;
    let default = Limits::default();
    let limits = Limits {
        clients: s.size_or("clients", 1, default.clients),
        clients_per_peer: s.size_or("clientsPerPeer", 1, default.clients_per_peer),
        watches: s.size_or("watches", 1, default.watches),
        watches_per_peer: s.size_or("watchesPerPeer", 1, default.watches_per_peer),
        new_names_per_sec: s.count("newNamesPerSec", 0).unwrap_or(default.new_names_per_sec),
        new_names_per_sec_per_peer: s.count("newNamesPerSecPerPeer", 0).unwrap_or(default.new_names_per_sec_per_peer),
        names_per_peer_percent: s
            .int("namesPerPeerPercent", 0..=100)
            .map_or(default.names_per_peer_percent, |n| n as usize),
        questions: s.size_or("questions", 1, default.questions),
        questions_per_peer: s.size_or("questionsPerPeer", 1, default.questions_per_peer),
        reading_bytes: s.size_or("readingBytes", LEAST_READ, default.reading_bytes),
        reading_bytes_per_peer: s.size_or("readingBytesPerPeer", LEAST_READ, default.reading_bytes_per_peer),
    };
    for (one, all, key) in [
        (limits.clients_per_peer, limits.clients, "clientsPerPeer"),
        (limits.watches_per_peer, limits.watches, "watchesPerPeer"),
        (limits.questions_per_peer, limits.questions, "questionsPerPeer"),
        (limits.reading_bytes_per_peer, limits.reading_bytes, "readingBytesPerPeer"),
    ] {
        if s.has(key) && one > all {
            s.problem(key, format!("must be at most what all peers may have together, {all}, got {one}"));
        }
    }
    s.finish();
    Some(limits)
}

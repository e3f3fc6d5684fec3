//! The keys `shutdown`, `reload` and `workers`, none of which Linkerd 1.x has: how a process lives and ends.

use std::time::Duration;

use super::decode::{At, Decode, Section};

/// The `shutdown` section: what comes before the time that `admin.shutdownGraceMs` gives to open requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shutdown {
    /// `lameDuckMs`: for how long everything is served as before while `/admin/ready` says no. Default: 0.
    pub lame_duck: Duration,
    /// `closeMs`: for how long after that clients are asked to leave with their next answer and nobody is cut off or
    /// refused, so that idle connections end without a request that crosses. Default: 0.
    pub close: Duration,
}

/// The `reload` section: when the file is read again, and how carefully it takes the place of what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// `watch`: read the file when it changes, and not only when told to. Default: true.
    pub watch: bool,
    /// `intervalMs`: how often it is looked at, at least 10 ms. Default: 1 s.
    pub interval: Duration,
    /// `bindMs`: how long the names in use may take to be bound anew before requests go by the new file; 0 waits for
    /// none. Default: 1 s.
    pub bind: Duration,
}

/// The most workers that a file may ask for.
pub(super) const MAX_WORKERS: i64 = 1024;

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true, interval: Duration::from_secs(1), bind: Duration::from_secs(1) }
    }
}

impl Decode for Shutdown {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "shutdown")?;
        let default = Self::default();
        let shutdown = Self {
            lame_duck: s.millis("lameDuckMs", 0).unwrap_or(default.lame_duck),
            close: s.millis("closeMs", 0).unwrap_or(default.close),
        };
        s.finish();
        Some(shutdown)
    }
}

impl Decode for Reload {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "reload")?;
        let default = Self::default();
        let reload = Self {
            watch: s.or("watch", default.watch),
            interval: s.millis("intervalMs", 10).unwrap_or(default.interval),
            bind: s.millis("bindMs", 0).unwrap_or(default.bind),
        };
        s.finish();
        Some(reload)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_is_out_of_range_is_named() {
        let parsed =
            |keys: &str| Config::parse("f", &format!("{keys}\nrouters: [{{protocol: http, servers: [{{}}]}}]"));
        for (keys, problem) in [
            ("workers: 0", "f:1:10: workers: must be 1..1024, got 0"),
            ("shutdown: {lameDuckMs: -1}", "f:1:24: shutdown.lameDuckMs: must be at least 0, got -1"),
            ("shutdown: {graceMs: 1}", "f:1:12: shutdown.graceMs: unknown key; known here: closeMs, lameDuckMs"),
            ("reload: {intervalMs: 1}", "f:1:22: reload.intervalMs: must be at least 10, got 1"),
            ("reload: {watch: maybe}", "f:1:17: reload.watch: must be true or false, got 'maybe'"),
        ] {
            assert_eq!(parsed(keys).unwrap_err().to_string(), problem);
        }
        assert_eq!(parsed("workers: 3").unwrap().workers, Some(3));
    }
}

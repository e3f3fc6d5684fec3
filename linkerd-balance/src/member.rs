//! What a set is made of.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

/// One endpoint of a set, as whoever knows the endpoints describes it. A pair of key and weight makes one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Member<K> {
    /// What tells it from the others, and from another life of the same address.
    pub key: K,
    /// Its share of the traffic relative to its siblings: finite, above zero.
    pub weight: f64,
    /// Where it runs.
    pub zone: Option<Arc<str>>,
    /// Those with a lower number are preferred, see [`Tiers`](crate::Tiers). 0 if nobody says.
    pub priority: u32,
}

impl<K> Member<K> {
    /// An endpoint of weight 1, anywhere.
    pub const fn new(key: K) -> Self {
        Self { key, weight: 1.0, zone: None, priority: 0 }
    }

    /// The same with another weight.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// The same in a zone.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The same with another priority.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }
}

impl<K> From<(K, f64)> for Member<K> {
    fn from((key, weight): (K, f64)) -> Self {
        Self { key, weight, zone: None, priority: 0 }
    }
}

/// A number for a key that does not depend on the process: FNV-1a over what the key hashes, mixed at the end.
pub(crate) fn stable_id(key: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xCBF2_9CE4_8422_2325);
    key.hash(&mut hasher);
    hasher.finish()
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        // FNV's high bits are weak for short keys.
        crate::rng::SplitMix::new(self.0).next()
    }
}

/// Hashes keys for lookups: eight bytes at a time, seeded by the process. Discovery is no adversary; a million updates
/// of ten thousand endpoints are what this is for.
#[derive(Clone, Debug)]
pub(crate) struct Seed(u64);

pub(crate) struct Folded(u64);

impl Default for Seed {
    fn default() -> Self {
        Self(crate::rng::thread())
    }
}

impl BuildHasher for Seed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

impl Folded {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.fold(u64::from_le_bytes(last));
        }
        self.fold(bytes.len() as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.fold(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.fold(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.fold(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.fold(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.fold(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn lookups_spread_keys_that_differ_little() {
        let seed = Seed::default();
        let low = |port| seed.hash_one(SocketAddr::from(([10, 0, 0, 1], port))) % 1024;
        let used: std::collections::HashSet<_> = (1..=1024).map(low).collect();
        // By chance 647 of 1024 places are taken.
        assert!(used.len() > 550, "{}", used.len());
    }

    #[test]
    fn ids_are_the_same_in_every_process_and_differ_between_keys() {
        let addr = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let ids: std::collections::HashSet<_> = (1..=1000).map(|port| stable_id(&addr(port))).collect();
        assert_eq!(ids.len(), 1000);
        // Pinned: another number would send every hashed key to another endpoint.
        assert_eq!(stable_id(&"10.0.0.1:80"), stable_id(&"10.0.0.1:80".to_owned()));
    }
}

//! `loadBalancer`: which endpoint of a bound name gets a request.

use std::time::Duration;

use super::{
    decode::{At, MAX_INT, Section},
    hash_on::HashOn,
    load::LoadMetric,
    router::ProtocolKind,
    set::{Panic, SlowStart, Zones},
};

/// A `loadBalancer` map.
///
/// All but `kind`, its keys of Linkerd and `enableProbation` are extensions.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    /// `kind` and its own keys. Default: `p2c`.
    pub kind: BalancerKind,
    /// `load` and its keys. Default: `ewma` for kind `ewma`, `leastLoaded` for the others.
    pub load: LoadMetric,
    /// `enableProbation`: endpoints that discovery dropped are used while they work. Default: false.
    pub enable_probation: bool,
    /// `slowStart`. Default: none, newcomers have their full weight.
    pub slow_start: Option<SlowStart>,
    /// `zones`. Default: none, all zones are alike.
    pub zones: Option<Zones>,
    /// `panic`. Default: the last pick is used when no endpoint is open.
    pub panic: Panic,
    /// `overlapMs`: how long those that an update replaced stay in use until one of the new ones is open. Default: 0,
    /// not at all.
    pub overlap: Duration,
    /// `hints`: what endpoints say of themselves (`Retry-After`, `endpoint-load-metrics`) counts. Default: false.
    pub hints: bool,
}

/// The kinds of load balancers.
#[derive(Clone, Debug, PartialEq)]
pub enum BalancerKind {
    /// `p2c`: of two endpoints by chance, the one with less load.
    P2c {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
    },
    /// `ewma`: `p2c`, by a peak-sensitive average latency.
    Ewma {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
    },
    /// `aperture`: `p2c` on a part of the endpoints that grows and shrinks with the load.
    Aperture {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
        /// `smoothWindowMs`: how long a load weighs, at least 1 ms. Default: 5 s.
        smooth_window: Duration,
        /// `lowLoad`: requests per endpoint below which the part shrinks. Above 0. Default: 0.5.
        low_load: f64,
        /// `highLoad`: requests per endpoint above which it grows. Above `lowLoad`. Default: 2.
        high_load: f64,
        /// `minAperture`: endpoints at least. At least 1. Default: 1.
        min_aperture: usize,
        /// `peer` or `clientId`: which endpoints. Default: by chance.
        order: ApertureOrder,
    },
    /// `heap`: the endpoint with the least load of all.
    Heap,
    /// `roundRobin`: one after the other.
    RoundRobin {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
    },
    /// `random` (extension): one by chance, in proportion to the weights.
    Random {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
    },
    /// `ring` (extension): equal keys go to the same endpoint, by a ring of points.
    Ring {
        /// `hashOn`: what the key is. Required.
        hash_on: HashOn,
        /// `pointsPerEndpoint`: points of an endpoint of mean weight, from 1 to 65536. Default: 512.
        points_per_endpoint: usize,
        /// `maxRingSize`: with more points in all, endpoints get fewer, from 1 to 2^24. Default: 2^20.
        max_ring_size: usize,
        /// `loadFactor`: how many times its share of the requests in flight an endpoint gets at most, above 1.
        /// `None` (0 in the file) is no bound. Default: 1.25.
        load_factor: Option<f64>,
    },
    /// `maglev` (extension): equal keys go to the same endpoint, by a table of even shares.
    Maglev {
        /// `hashOn`: what the key is. Required.
        hash_on: HashOn,
        /// `tableSize`: entries, a prime from 2 to 5000011. Default: 65537.
        table_size: usize,
        /// `loadFactor`: as of a ring.
        load_factor: Option<f64>,
    },
    /// `stickyPrimary` (extension): all requests, or all with equal keys, go to one endpoint as long as it is open.
    StickyPrimary {
        /// `hashOn`: what the key is. Default: none, there is one primary for all requests.
        hash_on: Option<HashOn>,
        /// `returnAfterMs`: how long one that comes first has to be open again until requests return to it; 0 is at
        /// once. Default: never, they stay where they are.
        return_after: Option<Duration>,
    },
}

/// Which endpoints are in an aperture. An extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ApertureOrder {
    /// Neither `peer` nor `clientId`: by chance, each time that this is started.
    #[default]
    Chance,
    /// `peer`: this one's slice of a ring that so many share.
    Peer {
        /// `ordinal`, from 0, less than `total`. Required.
        ordinal: usize,
        /// `total`, at least 1. Required.
        total: usize,
    },
    /// `clientId`: by rendezvous hashing with this name, so that it finds its endpoints again.
    Client(String),
}

const MAX_EFFORT: usize = 5;
/// Points of a ring, at most.
const MAX_RING: i64 = 1 << 24;
/// Entries of a table, at most: a prime.
const MAX_TABLE: i64 = 5_000_011;

const KINDS: [&str; 9] = ["p2c", "ewma", "aperture", "heap", "roundRobin", "random", "ring", "maglev", "stickyPrimary"];

/// Keys that only some kinds have, and which do.
const KEYS_OF_KINDS: [(&str, &[&str]); 13] = [
    ("maxEffort", &["p2c", "ewma", "aperture", "roundRobin", "random"]),
    ("smoothWindowMs", &["aperture"]),
    ("lowLoad", &["aperture"]),
    ("highLoad", &["aperture"]),
    ("minAperture", &["aperture"]),
    ("peer", &["aperture"]),
    ("clientId", &["aperture"]),
    ("hashOn", &["ring", "maglev", "stickyPrimary"]),
    ("pointsPerEndpoint", &["ring"]),
    ("maxRingSize", &["ring"]),
    ("loadFactor", &["ring", "maglev"]),
    ("tableSize", &["maglev"]),
    ("returnAfterMs", &["stickyPrimary"]),
];

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            kind: BalancerKind::P2c { max_effort: MAX_EFFORT },
            load: LoadMetric::LEAST_LOADED,
            enable_probation: false,
            slow_start: None,
            zones: None,
            panic: Panic::default(),
            overlap: Duration::ZERO,
            hints: false,
        }
    }
}

impl LoadBalancer {
    pub(super) fn decode(at: &At<'_>, protocol: ProtocolKind) -> Option<Self> {
        let mut s = Section::open(at, "loadBalancer")?;
        let name = s.kind("kind", &KINDS, None)?;
        let kind = BalancerKind::decode(&mut s, name, protocol);
        let load = LoadMetric::decode(&mut s, name);
        let enable_probation = s.or("enableProbation", false);
        let slow_start = s.get("slowStart");
        let zones = s.get("zones");
        let panic = s.or("panic", Panic::default());
        let overlap = s.millis("overlapMs", 0).unwrap_or_default();
        let hints = s.or("hints", false);
        s.finish();
        Some(Self { kind: kind?, load, enable_probation, slow_start, zones, panic, overlap, hints })
    }
}

impl BalancerKind {
    /// `None` means that a problem was recorded.
    fn decode(s: &mut Section<'_>, kind: &'static str, protocol: ProtocolKind) -> Option<Self> {
        for (key, kinds) in KEYS_OF_KINDS.iter().filter(|(_, kinds)| !kinds.contains(&kind)) {
            let plural = if kinds.len() == 1 { "" } else { "s" };
            s.refuse(key, &format!("is a key of the kind{plural} {}, not of {kind}", kinds.join(", ")));
        }
        Some(match kind {
            "p2c" => Self::P2c { max_effort: max_effort(s) },
            "ewma" => Self::Ewma { max_effort: max_effort(s) },
            "aperture" => aperture(s),
            "heap" => Self::Heap,
            "roundRobin" => Self::RoundRobin { max_effort: max_effort(s) },
            "random" => Self::Random { max_effort: max_effort(s) },
            "ring" => return ring(s, protocol),
            "maglev" => {
                let hash_on = s.require_with("hashOn", |at| HashOn::decode(at, protocol));
                let table_size = s.with("tableSize", table_size).unwrap_or(65_537);
                let load_factor = load_factor(s);
                Self::Maglev { hash_on: hash_on?, table_size, load_factor }
            }
            _ => Self::StickyPrimary {
                hash_on: s.with("hashOn", |at| HashOn::decode(at, protocol)),
                return_after: s.millis("returnAfterMs", 0),
            },
        })
    }
}

fn max_effort(s: &mut Section<'_>) -> usize {
    s.size("maxEffort", 1).unwrap_or(MAX_EFFORT)
}

fn aperture(s: &mut Section<'_>) -> BalancerKind {
    let max_effort = max_effort(s);
    let smooth_window = s.millis("smoothWindowMs", 1).unwrap_or(Duration::from_secs(5));
    let low_load = s.number("lowLoad", "above 0", |x| x > 0.0 && x.is_finite()).unwrap_or(0.5);
    let high_load = s.number("highLoad", "above 0", |x| x > 0.0 && x.is_finite()).unwrap_or(2.0);
    let min_aperture = s.size("minAperture", 1).unwrap_or(1);
    if high_load <= low_load {
        s.problem("highLoad", format!("must be above lowLoad {low_load}, got {high_load}"));
    }
    let order = aperture_order(s);
    BalancerKind::Aperture { max_effort, smooth_window, low_load, high_load, min_aperture, order }
}

fn aperture_order(s: &mut Section<'_>) -> ApertureOrder {
    if s.has("peer") && s.has("clientId") {
        s.problem("clientId", "cannot be set together with peer");
    }
    let client = s.with("clientId", |at| match at.text()? {
        "" => at.expected("the name of a client"),
        name => Some(ApertureOrder::Client(name.to_owned())),
    });
    s.with("peer", peer).or(client).unwrap_or_default()
}

fn peer(at: &At<'_>) -> Option<ApertureOrder> {
    let mut s = Section::open(at, "peer")?;
    let ordinal = s.require_with("ordinal", |at| at.int(&(0..=MAX_INT)));
    let total = s.require_with("total", |at| at.int(&(1..=MAX_INT)));
    if let (Some(ordinal), Some(total)) = (ordinal, total)
        && ordinal >= total
    {
        s.problem("ordinal", format!("must be less than total {total}, got {ordinal}"));
    }
    s.finish();
    Some(ApertureOrder::Peer { ordinal: ordinal? as usize, total: total? as usize })
}

fn ring(s: &mut Section<'_>, protocol: ProtocolKind) -> Option<BalancerKind> {
    let hash_on = s.require_with("hashOn", |at| HashOn::decode(at, protocol));
    let size = |n: i64| n as usize;
    let points_per_endpoint = s.int("pointsPerEndpoint", 1..=1 << 16).map_or(512, size);
    let max_ring_size = s.int("maxRingSize", 1..=MAX_RING).map_or(1 << 20, size);
    let load_factor = load_factor(s);
    Some(BalancerKind::Ring { hash_on: hash_on?, points_per_endpoint, max_ring_size, load_factor })
}

/// 0 says that there is none; a bound of the mean itself would leave no room for some request.
fn load_factor(s: &mut Section<'_>) -> Option<f64> {
    let factor = s.number("loadFactor", "above 1, or 0 for no bound", |x| x == 0.0 || (x > 1.0 && x.is_finite()));
    Some(factor.unwrap_or(1.25)).filter(|factor| *factor > 0.0)
}

fn table_size(at: &At<'_>) -> Option<usize> {
    let size = at.int(&(2..=MAX_TABLE))?;
    if is_prime(size) { Some(size as usize) } else { at.expected("a prime number") }
}

fn is_prime(n: i64) -> bool {
    n >= 2 && (2..=n.isqrt()).all(|d| n % d != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let primes: Vec<_> = (-1..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(655_373) && is_prime(MAX_TABLE));
        assert!(!is_prime(65_536) && !is_prime(2_235 * 2_237));
    }
}

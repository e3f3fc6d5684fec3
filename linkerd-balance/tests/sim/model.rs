//! What a world is made of.

use std::fmt;

use crate::rng::Rng;

/// Virtual time since the world began, or a stretch of it.
pub(crate) type Nanos = u64;
/// An endpoint's name: its position in [`World::endpoints`].
pub(crate) type Key = u32;

pub(crate) const US: Nanos = 1_000;
pub(crate) const MS: Nanos = 1_000 * US;
pub(crate) const SECOND: Nanos = 1_000 * MS;

/// How long a request takes once it has a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Service {
    Constant(Nanos),
    /// `slow` for so many of a thousand.
    Bimodal {
        fast: Nanos,
        slow: Nanos,
        slow_per_mille: u64,
    },
    /// Shape 2: mean `2 * least`.
    Pareto {
        least: Nanos,
        most: Nanos,
    },
}

/// What is wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Each answer takes so much longer.
    Slow(Nanos),
    /// Each answer is a failure, after so long.
    Fails(Nanos),
    /// So many of a thousand answers are failures, after their usual time.
    Flaky(u64),
    /// No connection.
    Refuses,
    /// No answer, ever.
    Hangs,
    /// The head of an answer after so long, and nothing more. Clients wait for the rest as long as they do for a head.
    Stalls(Nanos),
    /// No connection, and what was in flight is lost.
    Dies,
}

/// The first requests of a process that just started take longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WarmUp {
    pub(crate) lasts: Nanos,
    /// How many times the usual, at the very start; from there straight down to once.
    pub(crate) factor: u64,
}

/// Some answers have a body that takes long to arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Streams {
    pub(crate) per_mille: u64,
    pub(crate) mean: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) service: Service,
    /// Requests served at once.
    pub(crate) slots: u32,
    /// Requests that may wait for a slot; any more are failures.
    pub(crate) queue: u32,
    pub(crate) weight: f64,
    pub(crate) zone: u8,
    pub(crate) warm_up: Option<WarmUp>,
    pub(crate) streams: Option<Streams>,
}

impl Endpoint {
    /// Of weight 1, in zone 0, with more slots than it needs.
    pub(crate) const fn new(service: Service) -> Self {
        Self { service, slots: 1000, queue: 0, weight: 1.0, zone: 0, warm_up: None, streams: None }
    }
}

/// Everything that will happen, apart from chance.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) endpoints: Vec<Endpoint>,
    /// The set of every client, from each instant on. The first is at zero.
    pub(crate) sets: Vec<(Nanos, Vec<Key>)>,
    /// `None`: well again.
    pub(crate) faults: Vec<(Nanos, Key, Option<Fault>)>,
    pub(crate) clients: usize,
    /// Requests a second, of all clients together, from zero to `length`.
    pub(crate) rate: u64,
    /// A client waits so long for the head of an answer.
    pub(crate) timeout: Nanos,
    /// Then it goes away without a word: the balancer has no outcome, as under a timeout of the caller's own.
    pub(crate) goes_away: bool,
    /// So many of a thousand requests are given up by their callers, soon or late.
    pub(crate) cancel_per_mille: u64,
    /// How many sessions requests belong to, for strategies that hash.
    pub(crate) sessions: u64,
    pub(crate) length: Nanos,
}

impl World {
    /// One client, a timeout of 1 s, nothing wrong.
    pub(crate) fn new(endpoints: Vec<Endpoint>, rate: u64, length: Nanos) -> Self {
        let all = (0..endpoints.len() as Key).collect();
        Self {
            endpoints,
            sets: vec![(0, all)],
            faults: Vec::new(),
            clients: 1,
            rate,
            timeout: SECOND,
            goes_away: false,
            cancel_per_mille: 0,
            sessions: 10_000,
            length,
        }
    }

    pub(crate) fn fault(mut self, from: Nanos, to: Nanos, key: Key, fault: Fault) -> Self {
        self.faults.push((from, key, Some(fault)));
        self.faults.push((to, key, None));
        self
    }

    /// Who is in the set at `at`.
    pub(crate) fn set_at(&self, at: Nanos) -> &[Key] {
        self.sets.iter().take_while(|(from, _)| *from <= at).last().map_or(&[], |(_, set)| set)
    }

    /// Whether something is wrong with `key` at `at`.
    pub(crate) fn is_faulty(&self, key: Key, at: Nanos) -> bool {
        let of_key = self.faults.iter().filter(|(from, of, _)| *of == key && *from <= at);
        of_key.max_by_key(|(from, ..)| *from).is_some_and(|(.., fault)| fault.is_some())
    }
}

/// Lines that are told of a list: enough to see what is going on, of 500 endpoints too.
const TOLD: usize = 30;

/// For people who look at what failed.
impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, sets, faults, clients, rate, timeout, goes_away, cancel_per_mille, sessions, length } =
            self;
        let timeout = format_args!("{timeout} ns timeout{}", if *goes_away { " without a word" } else { "" });
        write!(f, "{length} ns of {rate} requests a second by {clients} clients, {timeout}, ")?;
        writeln!(f, "{cancel_per_mille} of 1000 cancelled, {sessions} sessions, {} endpoints:", endpoints.len())?;
        let mut key = 0;
        for alike in endpoints.chunk_by(PartialEq::eq).take(TOLD) {
            writeln!(f, "    from {key} on: {:?}", alike[0])?;
            key += alike.len();
        }
        for (at, set) in sets.iter().take(TOLD) {
            writeln!(f, "    set of {} from {at} ns on: {:?}", set.len(), &set[..set.len().min(TOLD)])?;
        }
        for (at, key, fault) in faults.iter().take(TOLD) {
            let fault = fault.map_or_else(|| "well".to_owned(), |fault| format!("{fault:?}"));
            writeln!(f, "    {key} from {at} ns on: {fault}")?;
        }
        Ok(())
    }
}

impl Service {
    pub(crate) fn draw(self, rng: &mut Rng) -> Nanos {
        match self {
            Self::Constant(nanos) => nanos,
            Self::Bimodal { fast, slow, slow_per_mille } => {
                if rng.chance(slow_per_mille) {
                    slow
                } else {
                    fast
                }
            }
            Self::Pareto { least, most } => rng.pareto(least, most),
        }
    }

    /// So many times as fast.
    pub(crate) const fn faster(self, times: u64) -> Self {
        match self {
            Self::Constant(nanos) => Self::Constant(nanos / times),
            Self::Bimodal { fast, slow, slow_per_mille } => {
                Self::Bimodal { fast: fast / times, slow: slow / times, slow_per_mille }
            }
            Self::Pareto { least, most } => Self::Pareto { least: least / times, most: most / times },
        }
    }

    pub(crate) const fn mean(self) -> Nanos {
        match self {
            Self::Constant(nanos) => nanos,
            Self::Bimodal { fast, slow, slow_per_mille } => {
                (fast * (1000 - slow_per_mille) + slow * slow_per_mille) / 1000
            }
            Self::Pareto { least, .. } => 2 * least,
        }
    }
}

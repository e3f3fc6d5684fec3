//! What holds in every world. Each is stated in its module, with its bound, and with a broken part that it catches.
//!
//! An [`Invariant`] watches a world and says what it saw. A module draws its worlds by chance, a thousand of them, with
//! one of the policies that it is about in each, and hands them over as a [`Trial`]; what holds always is watched in each
//! of them too, whatever the trial is about.

mod anything;
mod bad_share;
mod comes_back;
mod conservation;
mod ejections;
mod flapping;
mod going_away;
mod hashing;
mod open_first;
mod panic;
mod slow_start;
mod starvation;
mod streams;
mod subsets;
mod trial;
mod weights;
mod width;
mod zones;

use std::{
    fmt::Write as _,
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

pub(crate) use self::trial::{Invariant, Trial, fails, holds};
use crate::rng::Rng;

/// Worlds for each invariant, if `SIM_WORLDS` does not say how many.
const WORLDS: u64 = 1_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}

/// Checks a thousand worlds on all cores, or the one that `SIM_SEED` names.
///
/// `check` draws its world from the seed, and says what is wrong with what it saw.
pub(crate) fn over(name: &str, check: impl Fn(u64) -> Result<(), String> + Sync) {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_WORLDS").unwrap_or(WORLDS),
    };
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let work = || {
        loop {
            // Relaxed: a number for each, nothing more.
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if let Err(what) = check(seed) {
                failed.lock().expect("not poisoned").push((seed, what));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            scope.spawn(work);
        }
        work();
    });
    let mut failed = failed.into_inner().expect("not poisoned");
    failed.sort_unstable();
    assert!(failed.is_empty(), "{} of {} worlds{}", failed.len(), seeds.end - seeds.start, told(name, &failed));
}

/// The first of those that failed, and how to play them again.
fn told(name: &str, failed: &[(u64, String)]) -> String {
    let mut report = String::new();
    for (seed, what) in failed.iter().take(3) {
        let again = format_args!("SIM_SEED={seed} cargo test -p linkerd-balance --test sim {name}");
        let _ = write!(report, "\nseed {seed}: {what}\n  {again}");
    }
    report
}

/// Whether `check` finds something wrong in any of so many worlds.
pub(crate) fn caught(worlds: u64, check: impl Fn(Rng) -> Result<(), String>) -> bool {
    (0..worlds).any(|seed| check(Rng::new(seed)).is_err())
}

#[test]
fn a_failure_can_be_played_again() {
    let report = told("few_keys_move", &[(17, "too many".to_owned()), (23, "far too many".to_owned())]);
    assert!(report.contains("seed 17: too many\n  SIM_SEED=17 cargo test -p linkerd-balance --test sim few_keys_move"));
    assert!(report.contains("SIM_SEED=23"));
}

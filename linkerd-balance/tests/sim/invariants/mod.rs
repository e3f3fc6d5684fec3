//! What holds in every world. Each is stated in its module, with its bound, and with a broken part that it catches.

mod bad_share;
mod comes_back;
mod conservation;
mod ejections;
mod flapping;
mod hashing;
mod open_first;
mod panic;
mod slow_start;
mod starvation;
mod streams;
mod subsets;
mod weights;
mod width;
mod zones;

use std::fmt::Write as _;

use crate::rng::Rng;

/// Checks `seeds` worlds, or the one that `SIM_SEED` names.
///
/// `check` draws its world from the generator, and says what is wrong with what it saw.
pub(crate) fn over(name: &str, seeds: u64, check: impl Fn(Rng) -> Result<(), String>) {
    let only = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = only.map_or(0..seeds, |seed| seed..seed + 1);
    let (mut failed, mut report) = (0, String::new());
    for seed in seeds.clone() {
        let Err(what) = check(Rng::new(seed)) else { continue };
        failed += 1;
        if failed <= 3 {
            let again = format_args!("SIM_SEED={seed} cargo test -p linkerd-balance --test sim {name}");
            let _ = write!(report, "\nseed {seed}: {what}\n  {again}");
        }
    }
    assert_eq!(failed, 0, "of {} worlds{report}", seeds.end - seeds.start);
}

/// What `check` finds wrong in any of so many worlds.
pub(crate) fn caught(seeds: u64, check: impl Fn(Rng) -> Result<(), String>) -> bool {
    (0..seeds).any(|seed| check(Rng::new(seed)).is_err())
}

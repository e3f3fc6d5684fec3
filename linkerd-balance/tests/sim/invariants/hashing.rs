//! **One of N endpoints that goes moves at most 1.2/N of the keys**, and comes back to just what it had. All clients
//! agree on where a key belongs, and while an endpoint is not open only its keys are elsewhere.
//!
//! Chance apart: three standard deviations of what 5,000 keys tell. N is up to 100 for a ring. Maglev's table is 65,537 entries by default, which is enough for 20 (see its docs); here it
//! has 655,373 beyond that.

use std::sync::{Arc, Mutex};

use linkerd_balance::{Balance, Candidates, Draw, Health, LeastLoaded, Maglev, Policy, Ring, Status, Strategy};

use super::{caught, over};
use crate::{rng::Rng, topology};

const KEYS: u64 = 5_000;

struct Client {
    balance: Balance<u32, ()>,
    healths: Arc<Mutex<Vec<Health>>>,
}

impl Client {
    fn new(policy: Policy) -> Self {
        let healths: Arc<Mutex<Vec<Health>>> = Arc::default();
        let made = Arc::clone(&healths);
        let balance = Balance::new(policy, move |_: &u32, health: &Health| {
            made.lock().expect("not poisoned").push(health.clone());
        });
        Self { balance, healths }
    }

    fn update(&self, keys: impl IntoIterator<Item = u32>) {
        self.balance.update(keys.into_iter().map(|key| (key, 1.0))).expect("weights above zero");
    }

    /// Where each key goes, one at a time.
    fn places(&self) -> Vec<u32> {
        let now = tokio::time::Instant::now().into_std();
        let place = |key| {
            let draw = Draw::new(key).with_key(Rng::new(key).next());
            *self.balance.try_acquire(draw, now, &[]).expect("there are some").key()
        };
        (0..KEYS).map(place).collect()
    }
}

fn moved(before: &[u32], after: &[u32]) -> u64 {
    before.iter().zip(after).filter(|(before, after)| before != after).count() as u64
}

fn check(mut rng: Rng, policy: impl Fn(u64) -> Policy) -> Result<(), String> {
    let n = topology::size(&mut rng).clamp(2, 100) as u64;
    let (one, other) = (Client::new(policy(n)), Client::new(policy(n)));
    let all = 0..n as u32;
    one.update(all.clone());
    other.update(all.clone().rev());
    let before = one.places();
    if before != other.places() {
        return Err(format!("clients of {n} disagree"));
    }
    let gone = rng.below(n) as u32;
    let its = before.iter().filter(|key| **key == gone).count() as u64;

    one.healths.lock().expect("not poisoned")[gone as usize].set(Status::Busy);
    let busy = moved(&before, &one.places());
    one.healths.lock().expect("not poisoned")[gone as usize].set(Status::Open);
    if busy != its {
        return Err(format!("{busy} of {its} keys moved from one of {n} that is busy"));
    }

    one.update(all.clone().filter(|key| *key != gone));
    let without = moved(&before, &one.places());
    let part = 1.2 * KEYS as f64 / n as f64;
    if without < its || without as f64 > part + 3.0 * part.sqrt() {
        return Err(format!("{without} of {KEYS} keys moved when one of {n} went that had {its}"));
    }
    one.update(all);
    match moved(&before, &one.places()) {
        0 => Ok(()),
        moved => Err(format!("{moved} keys did not come back to one of {n}")),
    }
}

fn ring(_n: u64) -> Policy {
    Policy::new(Ring::new(), LeastLoaded::new)
}

fn maglev(n: u64) -> Policy {
    let table = if n <= 20 { Maglev::DEFAULT_TABLE_SIZE } else { 655_373 };
    Policy::new(Maglev::new().table_size(table).expect("a prime"), LeastLoaded::new)
}

#[test]
fn few_keys_move() {
    over("few_keys_move", |seed| check(Rng::new(seed), if seed % 32 == 0 { maglev } else { ring }));
}

/// The remainder decides: nearly all keys move.
#[derive(Debug)]
struct Remainder;

impl Strategy for Remainder {
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        let mut by_id: Vec<usize> = (0..nodes.len()).collect();
        by_id.sort_by_key(|i| nodes.id(*i));
        by_id[draw.key.unwrap_or(draw.random) as usize % nodes.len()]
    }
}

#[test]
fn a_remainder_for_a_hash_is_caught() {
    assert!(caught(1, |rng| check(rng, |_| Policy::new(Remainder, LeastLoaded::new))));
}

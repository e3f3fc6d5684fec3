//! Who gets which entry of a table.

use crate::rng::{self, SplitMix};

/// Where an endpoint wants to be in the table: everywhere, in an order of its own.
struct Wish {
    next: u32,
    skip: u32,
    // Turns that it is due, a fraction too. It starts with one, so that none is left out.
    due: f64,
    share: f64,
}

/// A table of `size` entries, a prime number, shared by the endpoints of these ids and weights, in this order: each takes
/// the next entry that it wants and nobody has, as often as its turn comes by its weight.
///
/// Most of the work is to come upon entries that somebody has: `size · ln size` of them. So that is told by a bit each,
/// which fit into a near cache. When so few are free that it is shorter to ask each of them when it would be come
/// upon, that is done.
pub(super) fn fill<T: Copy + Default>(by_id: &[(u64, f64)], size: usize, place: impl Fn(u32) -> T) -> Vec<T> {
    let max = by_id.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
    let wish = |&(id, weight): &(u64, f64)| {
        let mut hash = SplitMix::new(id);
        let next = rng::below(hash.next(), size as u64) as u32;
        let skip = 1 + rng::below(hash.next(), size as u64 - 1) as u32;
        let share = weight / max;
        Wish { next, skip, due: 1.0 - share, share }
    };
    let mut wishes: Vec<_> = by_id.iter().map(wish).collect();
    let mut table = vec![T::default(); size];
    let mut free = Free::new(size as u32);
    loop {
        for (i, wish) in (0..).zip(&mut wishes) {
            wish.due += wish.share;
            if wish.due < 1.0 {
                continue;
            }
            wish.due -= 1.0;
            wish.next = free.take(wish.next, wish.skip);
            table[wish.next as usize] = place(i);
            if free.left == 0 {
                return table;
            }
        }
    }
}

/// The entries that nobody has.
struct Free {
    size: u32,
    left: u32,
    // A bit for each one that somebody has.
    taken: Vec<u64>,
    // The last ones by name.
    last: Vec<u32>,
    few: u32,
}

impl Free {
    fn new(size: u32) -> Self {
        let taken = vec![0; (size as usize).div_ceil(64)];
        // With so many left to ask, a step takes as long as to ask one of them, or a little less.
        Self { size, left: size, taken, last: Vec::new(), few: size.isqrt() / 2 }
    }

    /// Takes the first that is free from `next` on, in steps of `skip`. There is one.
    fn take(&mut self, next: u32, skip: u32) -> u32 {
        self.left -= 1;
        if self.left >= self.few { self.walk(next, skip) } else { self.ask(next, skip) }
    }

    #[cold]
    fn ask(&mut self, next: u32, skip: u32) -> u32 {
        if self.last.is_empty() {
            let words = (0..self.size).step_by(64).zip(&self.taken).filter(|(_, taken)| **taken != u64::MAX);
            let free = words.flat_map(|(first, _)| first..self.size.min(first + 64));
            self.last = free.filter(|at| !is_taken(&self.taken, *at)).collect();
        }
        // How many steps it is to each of them: the size is a prime, so that there is one way.
        let back = u64::from(inverse(skip, self.size));
        let steps = |at: u32| (u64::from(at + self.size - next) * back) % u64::from(self.size);
        let nearest = (0..self.last.len()).min_by_key(|&i| steps(self.last[i])).unwrap_or(0);
        self.last.swap_remove(nearest)
    }

    #[inline]
    fn walk(&mut self, mut next: u32, skip: u32) -> u32 {
        let (taken, size) = (&mut *self.taken, self.size);
        while is_taken(taken, next) {
            let after = next + skip;
            next = if after >= size { after - size } else { after };
        }
        taken[next as usize / 64] |= 1 << (next % 64);
        next
    }
}

#[inline]
fn is_taken(taken: &[u64], at: u32) -> bool {
    taken[at as usize / 64] >> (at % 64) & 1 == 1
}

/// The number that times `n` is 1, modulo a prime: the extended Euclidean algorithm.
fn inverse(n: u32, prime: u32) -> u32 {
    let (mut r, mut next_r) = (i64::from(prime), i64::from(n));
    let (mut t, mut next_t) = (0, 1);
    while next_r != 0 {
        let quotient = r / next_r;
        (r, next_r) = (next_r, r - quotient * next_r);
        (t, next_t) = (next_t, t - quotient * next_t);
    }
    t.rem_euclid(i64::from(prime)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As it is defined.
    fn plainly(by_id: &[(u64, f64)], size: usize) -> Vec<u32> {
        const NOBODY: u32 = u32::MAX;
        let max = by_id.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        let mut wishes: Vec<_> = by_id
            .iter()
            .map(|&(id, weight)| {
                let mut hash = SplitMix::new(id);
                let next = rng::below(hash.next(), size as u64) as usize;
                (next, 1 + rng::below(hash.next(), size as u64 - 1) as usize, 1.0 - weight / max, weight / max)
            })
            .collect();
        let mut table = vec![NOBODY; size];
        let mut left = size;
        while left > 0 {
            for (place, (next, skip, due, share)) in (0..).zip(&mut wishes) {
                *due += *share;
                if *due < 1.0 || left == 0 {
                    continue;
                }
                *due -= 1.0;
                while table[*next] != NOBODY {
                    *next = (*next + *skip) % size;
                }
                table[*next] = place;
                left -= 1;
            }
        }
        table
    }

    #[test]
    fn times_its_inverse_a_number_is_one() {
        for prime in [2, 3, 101, 65_537, 5_000_011] {
            for n in [1, 2, 77, 65_536, 5_000_010].into_iter().filter(|n| *n < prime) {
                assert_eq!(u64::from(n) * u64::from(inverse(n, prime)) % u64::from(prime), 1, "{n} of {prime}");
            }
        }
    }

    proptest! {
        #[test]
        fn everybody_gets_what_it_wants_in_turn(
            weights in prop::collection::vec(prop_oneof![Just(1.0), 0.01..10.0_f64], 1..60),
            seed: u64,
            size in prop::sample::select(vec![2_usize, 3, 5, 7, 101, 997, 4_099]),
        ) {
            let mut ids = SplitMix::new(seed);
            let by_id: Vec<_> = weights.into_iter().map(|weight| (ids.next(), weight)).collect();
            prop_assert_eq!(fill(&by_id, size, |place| place), plainly(&by_id, size));
        }
    }
}

//! Consistent hashing by a table of even shares.

use std::{iter, sync::Arc};

use self::fill::fill;
use super::{
    Candidates, Draw, Strategy,
    hashing::{self, InvalidHashing, Prepared, Room},
};
use crate::rng::{self, SplitMix};

mod fill;

/// Sends equal keys to the same endpoint, by a table whose entries the endpoints share *exactly* by weight.
///
/// The key is [`Draw::key`]; requests without one are spread by chance, in proportion to the weights. If the endpoint of
/// a key is not open, is full, or starts slowly and does not take this key yet, the key is hashed again, up to 64 times,
/// so the keys of an endpoint that fails spread over all others. After that it looks at all endpoints, and takes the
/// open one with room that hashes highest with the key.
///
/// The table follows from ids and weights alone, so all clients agree. An endpoint that goes moves its keys, and a few
/// of the others': how many depends on the size of the table. Of 1/n, measured:
///
/// | endpoints | 65,537 entries | 655,373 entries |
/// |-----------|----------------|-----------------|
/// | 10        | 1.02           | 1.01            |
/// | 100       | 1.56           | 1.14            |
/// | 1,000     | 6.6            | 4.3             |
///
/// [`Ring`](super::Ring) moves none of the others', and its shares are less even.
///
/// Load is bounded as in [`Ring`](super::Ring#bounded-load).
///
/// # Cost
///
/// A pick is one look into the table, and with a load factor adds up what is in flight unless its endpoint is idle:
/// `O(n)` up to 64 endpoints, from there 16 for each pick. A new set fills the table, about a millisecond for 65,537
/// entries and 15 for 655,373, off the path of requests. 2 bytes for each entry, 4 where there are more than 65,536
/// endpoints.
///
/// # Defaults
///
/// Load factor 1.25 as in [`Ring`](super::Ring), 65,537 entries as in the paper.
///
/// After Eisenbud et al., *Maglev* (2016), with weights as turns that an endpoint takes more rarely. With more than a
/// tenth as many endpoints as entries the table grows, to 655,373 and 5,000,011 entries at most.
#[derive(Debug)]
pub struct Maglev {
    load_factor: Option<f64>,
    table_size: usize,
    prepared: Option<Prepared<Table>>,
    room: Room,
}

/// Places in the order of ids.
#[derive(Debug)]
enum Table {
    // Half the size, and half the way through the cache.
    Few(Vec<u16>),
    Many(Vec<u32>),
}

/// Sizes that a table grows to. Primes.
const LARGER: [usize; 2] = [655_373, Maglev::MAX_TABLE_SIZE];
/// Fewer entries than this for an endpoint are too few for its weight.
const LEAST_ENTRIES: usize = 10;

impl Maglev {
    /// The load factor where none is chosen.
    pub const DEFAULT_LOAD_FACTOR: f64 = hashing::DEFAULT_LOAD_FACTOR;
    /// Entries of the table where nothing else is chosen.
    pub const DEFAULT_TABLE_SIZE: usize = 65_537;
    /// The most entries that a table may have.
    pub const MAX_TABLE_SIZE: usize = 5_000_011;

    /// With the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Some(Self::DEFAULT_LOAD_FACTOR), Self::DEFAULT_TABLE_SIZE)
    }

    fn of(load_factor: Option<f64>, table_size: usize) -> Self {
        let now = tokio::time::Instant::now().into_std();
        Self { load_factor, table_size, prepared: None, room: Room::new(load_factor, now) }
    }

    /// Bounds what is in flight at an endpoint to so many times its share. `None` bounds nothing.
    ///
    /// # Errors
    ///
    /// A factor that is not a finite number above one.
    pub fn load_factor(self, factor: Option<f64>) -> Result<Self, InvalidHashing> {
        Ok(Self::of(Room::checked(factor)?, self.table_size))
    }

    /// Gives the table so many entries. A hundred for each endpoint make shares even, 5,000 keep keys in place.
    ///
    /// # Errors
    ///
    /// Not a prime number from 2 to 5,000,011.
    pub fn table_size(self, entries: usize) -> Result<Self, InvalidHashing> {
        if entries > Self::MAX_TABLE_SIZE || !is_prime(entries) {
            return Err(InvalidHashing::TableSize(entries));
        }
        Ok(Self::of(self.load_factor, entries))
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for Maglev {
    fn name(&self) -> &'static str {
        "maglev"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        let key = hashing::position(draw);
        match Prepared::of(self.prepared.as_ref(), nodes) {
            Some((table, index)) => hashing::pick(nodes, key, &self.room, table.from(key).map(index)),
            None => hashing::pick(nodes, key, &self.room, iter::empty()),
        }
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        let table = |by_id: &[(u64, f64)]| Table::new(by_id, self.table_size);
        let prepared = Prepared::new(nodes, self.prepared.as_ref(), table);
        let room = Room::new(self.load_factor, nodes.now());
        Some(Arc::new(Self { prepared: Some(prepared), room, ..*self }))
    }
}

impl Table {
    fn new(by_id: &[(u64, f64)], size: usize) -> Self {
        if by_id.is_empty() {
            return Self::Few(Vec::new());
        }
        let fits = |size: &usize| by_id.len() <= size / LEAST_ENTRIES;
        let larger = || LARGER.into_iter().filter(|larger| *larger > size);
        let size = iter::once(size).chain(larger()).find(fits).unwrap_or(Maglev::MAX_TABLE_SIZE);
        if by_id.len() <= 1 << 16 {
            Self::Few(fill(by_id, size, |place| place as u16))
        } else {
            Self::Many(fill(by_id, size, |place| place))
        }
    }

    /// The places that a key hashes to, again and again.
    fn from(&self, key: u64) -> impl Iterator<Item = u32> {
        let mut hashes = SplitMix::new(key);
        iter::repeat_with(move || {
            let hash = hashes.next();
            match self {
                Self::Few(table) => table[rng::below(hash, table.len() as u64) as usize].into(),
                Self::Many(table) => table[rng::below(hash, table.len() as u64) as usize],
            }
        })
    }
}

fn is_prime(n: usize) -> bool {
    n >= 2 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(weights: &[f64], size: usize) -> Vec<usize> {
        let by_id: Vec<_> = weights.iter().enumerate().map(|(i, w)| (i as u64, *w)).collect();
        let mut seen = vec![0; weights.len()];
        let Table::Few(table) = Table::new(&by_id, size) else { panic!("so few") };
        for place in table {
            seen[usize::from(place)] += 1;
        }
        seen
    }

    #[test]
    fn entries_are_shared_by_weight_to_the_last_few() {
        let seen = entries(&[1.0, 2.0, 4.0], 65_537);
        assert!(seen.iter().zip([9_362, 18_725, 37_450]).all(|(n, wanted)| n.abs_diff(wanted) <= 2), "{seen:?}");
    }

    #[test]
    fn the_lightest_has_an_entry_too() {
        let seen = entries(&[f64::MAX, 1e-300, 5e-324], 101);
        assert_eq!(seen, [99, 1, 1]);
    }

    #[test]
    fn the_table_grows_with_the_set() {
        assert_eq!(entries(&[1.0; 10], 101).iter().sum::<usize>(), 101);
        assert_eq!(entries(&[1.0; 11], 101).iter().sum::<usize>(), 655_373);
        assert!(LARGER.into_iter().all(is_prime) && is_prime(Maglev::DEFAULT_TABLE_SIZE));
    }

    #[test]
    fn sizes_that_are_no_primes_are_named() {
        for bad in [0, 1, 4, 65_536, 5_000_077, usize::MAX] {
            let err = Maglev::new().table_size(bad).unwrap_err();
            assert_eq!(err.to_string(), format!("a table of {bad} entries is not of a prime size from 2 to 5000011"));
        }
    }
}

//! Consistent hashing on a ring.

use std::{iter, sync::Arc};

use self::points::Points;
use super::{
    Candidates, Draw, Strategy,
    hashing::{self, InvalidHashing, Room},
};

mod labels;
mod points;

/// Sends equal keys to the same endpoint: each is on a ring at many points, a key belongs to the next point.
///
/// The key is [`Draw::key`]; requests without one are spread by chance, in proportion to the weights. If the endpoint of
/// a key is not open, is full, or starts slowly and does not take this key yet, the next on the ring gets it. After 64
/// points it looks at all endpoints, and takes the open one with room that hashes highest with the key.
///
/// An endpoint's points follow from its id and weight alone, so all clients agree, and an endpoint that comes or goes
/// moves its own share of the keys and no other: the keys that it has, or gets.
///
/// # Bounded load
///
/// An endpoint has at most [`load_factor`](Self::load_factor) times its share, by weight, of the requests in flight,
/// rounded up; what a popular key brings beyond goes to the next. With few requests in flight that bound is one, so two
/// at a time for the same key part: a factor of `None` sends all to one, whatever their number. Where more than 64
/// endpoints are there the sum is up to a millisecond, or a pick for every 16 endpoints, old.
///
/// # Cost
///
/// A pick searches the ring, `O(log points)`, and with a load factor adds up what is in flight unless its endpoint is
/// idle: `O(n)` up to 64 endpoints, from there 16 for each pick. A set that changes by one
/// takes some 0.3 ms whatever its size, as only what is near that one's points is copied; one that changes by more than a
/// quarter sorts all points, about 10 ms for a million. Both are off the path of requests. 4 bytes for each point.
///
/// # Defaults
///
/// Load factor 1.25 (Mirrokni, Thorup and Zadimoghaddam 2016 recommend from 1.25 to 2), 512 points for an endpoint of
/// about the mean weight, so that shares of equal ones differ by about 4 %, and at most 2²⁰ points.
///
/// After Karger et al. (1997). Envoy's ring hash has a smallest size instead of points for each endpoint: then every
/// removal gives all others new points, and keys move that need not.
#[derive(Debug)]
pub struct Ring {
    load_factor: Option<f64>,
    points: usize,
    max_size: usize,
    prepared: Option<Arc<Points>>,
    room: Room,
}

impl Ring {
    /// The load factor where none is chosen.
    pub const DEFAULT_LOAD_FACTOR: f64 = hashing::DEFAULT_LOAD_FACTOR;
    /// Points for an endpoint where nothing else is chosen.
    pub const DEFAULT_POINTS: usize = 512;
    /// The most points of a ring where nothing else is chosen.
    pub const DEFAULT_MAX_SIZE: usize = 1 << 20;

    /// With the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Some(Self::DEFAULT_LOAD_FACTOR), Self::DEFAULT_POINTS, Self::DEFAULT_MAX_SIZE)
    }

    fn of(load_factor: Option<f64>, points: usize, max_size: usize) -> Self {
        let now = tokio::time::Instant::now().into_std();
        Self { load_factor, points, max_size, prepared: None, room: Room::new(load_factor, now) }
    }

    /// Bounds what is in flight at an endpoint to so many times its share. `None` bounds nothing.
    ///
    /// # Errors
    ///
    /// A factor that is not a finite number above one.
    pub fn load_factor(self, factor: Option<f64>) -> Result<Self, InvalidHashing> {
        Ok(Self::of(Room::checked(factor)?, self.points, self.max_size))
    }

    /// Gives an endpoint so many points, if its weight is about the mean. Four times as many halve how much shares differ.
    ///
    /// "About the mean" is the power of two next to it, so that points do not change with every change of the set. When
    /// the mean passes to another power of two many keys move.
    ///
    /// # Errors
    ///
    /// Not from 1 to 65,536.
    pub fn points(self, points: usize) -> Result<Self, InvalidHashing> {
        if !(1..=1 << 16).contains(&points) {
            return Err(InvalidHashing::Points(points));
        }
        Ok(Self::of(self.load_factor, points, self.max_size))
    }

    /// Bounds the points in all: where there are more endpoints, each has half as many points, or a quarter, and so on,
    /// but at least one. Where that changes many keys move.
    ///
    /// # Errors
    ///
    /// Not from 1 to 2²⁴.
    pub fn max_size(self, points: usize) -> Result<Self, InvalidHashing> {
        if !(1..=1 << 24).contains(&points) {
            return Err(InvalidHashing::RingSize(points));
        }
        Ok(Self::of(self.load_factor, self.points, points))
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for Ring {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        let key = hashing::position(draw);
        match self.prepared.as_ref().filter(|points| points.len() == nodes.len()) {
            Some(points) => hashing::pick(nodes, key, &self.room, points.from(key)),
            None => hashing::pick(nodes, key, &self.room, iter::empty()),
        }
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        let points = Points::new(nodes, self.points, self.max_size, self.prepared.as_deref());
        let room = Room::new(self.load_factor, nodes.now());
        Some(Arc::new(Self { prepared: Some(Arc::new(points)), room, ..*self }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_named() {
        for bad in [0, 65_537] {
            let err = Ring::new().points(bad).unwrap_err();
            assert_eq!(err.to_string(), format!("{bad} points for an endpoint are not from 1 to 65536"));
        }
        let err = Ring::new().max_size(0).unwrap_err();
        assert_eq!(err.to_string(), "a ring of at most 0 points is not from 1 to 16777216");
    }
}

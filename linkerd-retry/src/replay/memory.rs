use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::tally::Counter;

/// How much all bodies together may keep, to be sent again. Clones share it; make one for a process.
///
/// At its limit nothing fails and nothing waits: a body that finds no room is sent once.
#[derive(Clone, Debug)]
pub struct ReplayMemory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cap: usize,
    held: AtomicUsize,
    refused: Counter,
    too_long: Counter,
}

/// What one body holds of it, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    memory: ReplayMemory,
    bytes: usize,
    frames: usize,
}

impl ReplayMemory {
    /// 64 MiB: a thousand bodies of 64 KiB.
    pub const DEFAULT: usize = 64 * 1024 * 1024;

    /// What each frame counts beside its bytes: about what its handle takes, and its share of the buffer that it was read
    /// into. So many small frames are not as cheap as they look.
    pub const FRAME_COST: usize = 128;

    /// At most `cap` bytes, with [`FRAME_COST`](Self::FRAME_COST) for each frame. 0 keeps no body.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        let (refused, too_long) = (Counter::default(), Counter::default());
        Self(Arc::new(Shared { cap, held: AtomicUsize::new(0), refused, too_long }))
    }

    /// How many bytes there may be.
    pub fn cap(&self) -> usize {
        self.0.cap
    }

    /// How many bytes are held now, counted as the cap is.
    pub fn held(&self) -> usize {
        // Relaxed: a statistic.
        self.0.held.load(Ordering::Relaxed)
    }

    /// Bodies that were not kept because there was no room left for all of them.
    pub fn refused(&self) -> u64 {
        self.0.refused.get()
    }

    /// Bodies that were not kept because they were longer than their own cap.
    pub fn too_long(&self) -> u64 {
        self.0.too_long.get()
    }

    pub(super) fn hold(&self) -> Held {
        Held { memory: self.clone(), bytes: 0, frames: 0 }
    }

    pub(super) fn note_too_long(&self) {
        self.0.too_long.add_one();
    }
}

impl Default for ReplayMemory {
    /// Of [`DEFAULT`](Self::DEFAULT) bytes.
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl Held {
    pub(super) fn memory(&self) -> &ReplayMemory {
        &self.memory
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a frame of `more` bytes, if there is room for it.
    pub(super) fn reserve(&mut self, more: usize) -> bool {
        let Shared { cap, held, refused, .. } = &*self.memory.0;
        let cost = more.saturating_add(ReplayMemory::FRAME_COST);
        let sum = |now: usize| now.checked_add(cost).filter(|sum| sum <= cap);
        // Relaxed: a number that orders nothing.
        let has_room = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok();
        if has_room {
            self.bytes += more;
            self.frames += 1;
        } else {
            refused.add_one();
        }
        has_room
    }

    pub(super) fn free(&mut self) {
        let (bytes, frames) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.frames));
        // Relaxed: as above.
        self.memory.0.held.fetch_sub(bytes + frames * ReplayMemory::FRAME_COST, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shared_up_to_its_cap_and_given_back() {
        let cap = 10 + 2 * ReplayMemory::FRAME_COST;
        let memory = ReplayMemory::new(cap);
        let (mut a, mut b) = (memory.hold(), memory.clone().hold());
        assert!(a.reserve(6) && b.reserve(4) && !b.reserve(1));
        assert_eq!((memory.held(), memory.refused(), a.bytes(), b.bytes()), (cap, 1, 6, 4));
        drop(a);
        assert!(b.reserve(6) && !b.reserve(usize::MAX));
        b.free();
        assert_eq!((memory.held(), memory.refused()), (0, 2));
        assert_eq!(memory.cap(), cap);
    }
}

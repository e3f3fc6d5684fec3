//! A load's number and its time, under every order in which threads may read and write them.
#![cfg(loom)]

use loom::{model, sync::Arc, thread};

use self::decaying::{Decaying, Sampled};

#[path = "../src/load/decaying.rs"]
mod decaying;

/// In place of the standard library's.
mod sync {
    pub(super) use loom::{
        hint::spin_loop,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// One look that may fail, then the way that waits.
    pub(super) const TRIES: usize = 1;
}

fn count(decaying: &Decaying) {
    decaying.update(|old| Sampled { value: old.value + 1.0, at: old.at + 1 });
}

#[test]
fn a_reader_sees_a_number_and_its_time_as_they_were_written() {
    model(|| {
        let decaying = Arc::new(Decaying::new(0.0, 0));
        let writer = {
            let decaying = Arc::clone(&decaying);
            thread::spawn(move || {
                count(&decaying);
                count(&decaying);
            })
        };
        let mut last = 0;
        for _ in 0..2 {
            let Sampled { value, at } = decaying.get();
            assert_eq!(value, at as f64);
            assert!(at >= last, "and never an older one after a younger one");
            last = at;
        }
        writer.join().unwrap();
        assert_eq!(decaying.get(), Sampled { value: 2.0, at: 2 });
    });
}

#[test]
fn writers_lose_nothing_of_each_other() {
    model(|| {
        let decaying = Arc::new(Decaying::new(0.0, 0));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let decaying = Arc::clone(&decaying);
                thread::spawn(move || count(&decaying))
            })
            .collect();
        let Sampled { value, at } = decaying.get();
        assert_eq!(value, at as f64);
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(!decaying.is_zero());
        assert_eq!(decaying.get(), Sampled { value: 2.0, at: 2 });
    });
}

//! A load's number and its time, under every order in which threads may read and write them.
#![cfg(loom)]

use loom::{model, sync::Arc, thread};

use self::decaying::{Decaying, Sampled};

#[path = "../src/load/decaying.rs"]
mod decaying;

/// In place of the standard library's.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(super) fn pause(_tries: u32) {
        loom::thread::yield_now();
    }
}

fn count(decaying: &Decaying) {
    decaying.update(|old| Sampled { value: old.value + 1.0, at: old.at + 1 });
}

// loom remembers of each atomic only who read it last. The writer, which reads as well, is therefore the thread that
// runs first: what comes later and conflicts with its stores is then tried before each of them too.

#[test]
fn a_reader_sees_a_number_and_its_time_as_they_were_written() {
    model(|| {
        let decaying = Arc::new(Decaying::new(0.0, 0));
        let reader = {
            let decaying = Arc::clone(&decaying);
            thread::spawn(move || {
                let Sampled { value, at } = decaying.get();
                assert_eq!(value, at as f64);
            })
        };
        count(&decaying);
        reader.join().unwrap();
        assert_eq!(decaying.get(), Sampled { value: 1.0, at: 1 });
    });
}

#[test]
fn writers_lose_nothing_of_each_other() {
    model(|| {
        let decaying = Arc::new(Decaying::new(0.0, 0));
        let writer = {
            let decaying = Arc::clone(&decaying);
            thread::spawn(move || count(&decaying))
        };
        count(&decaying);
        writer.join().unwrap();
        assert!(!decaying.is_zero());
        assert_eq!(decaying.get(), Sampled { value: 2.0, at: 2 });
    });
}

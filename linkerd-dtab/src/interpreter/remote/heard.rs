//! Who of the namerds is back: one that answers anybody is asked again by all who wait for it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

/// What the watches of one interpreter tell each other of its sources.
#[derive(Debug)]
pub(super) struct Heard {
    // Somebody got no answer, and nobody got one since.
    away: Box<[AtomicBool]>,
    // How often each came back.
    returns: watch::Sender<Arc<[u64]>>,
}

/// Hears of sources that are back.
#[derive(Debug)]
pub(super) struct Ear {
    returns: watch::Receiver<Arc<[u64]>>,
    known: Arc<[u64]>,
}

impl Heard {
    pub(super) fn new(sources: usize) -> Self {
        let away = (0..sources).map(|_| AtomicBool::new(false)).collect();
        Self { away, returns: watch::Sender::new(vec![0; sources].into()) }
    }

    /// It did not answer, or does not any more.
    pub(super) fn lost(&self, source: usize) {
        // Relaxed, here and below: who comes between the two waits no longer than a pause.
        self.away[source].store(true, Ordering::Relaxed);
    }

    /// It has answered.
    pub(super) fn answered(&self, source: usize) {
        // Of a thousand who come back at once one tells the others.
        if self.away[source].load(Ordering::Relaxed) && self.away[source].swap(false, Ordering::Relaxed) {
            self.returns.send_modify(|returns| {
                let mut counted = returns.to_vec();
                counted[source] += 1;
                *returns = counted.into();
            });
        }
    }

    pub(super) fn ear(&self) -> Ear {
        let returns = self.returns.subscribe();
        let known = returns.borrow().clone();
        Ear { returns, known }
    }
}

impl Ear {
    /// Waits until one of the first `count` sources is back.
    ///
    /// Cancel safe.
    pub(super) async fn back(&mut self, count: usize) {
        loop {
            if self.returns.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = Arc::clone(&self.returns.borrow_and_update());
            let before = std::mem::replace(&mut self.known, now);
            if before.iter().zip(&*self.known).take(count).any(|(before, now)| before != now) {
                return;
            }
        }
    }
}

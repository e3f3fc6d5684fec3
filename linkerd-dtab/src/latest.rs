//! The latest of the values that a source publishes: `tokio::sync::watch`, at half its size.
//!
//! Tokio's channel spreads those who wait for a change over eight lists, 32 bytes each, so that thousands of them do not
//! get into each other's way. Here there is a channel for each of ten thousand names, with a watcher or two.

use std::{
    mem,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use tokio::{sync::Notify, task::coop::cooperative};

/// Publishes values. When it is dropped the last one stays.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// Reads the latest value. A clone has seen what this one has.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: usize,
}

/// The sender is gone, and its last value was seen.
#[derive(Debug)]
pub(crate) struct Closed;

struct Shared<T> {
    value: RwLock<T>,
    // Changed under the lock of the value. Its lowest bit says that the sender is gone; the rest counts changes.
    version: AtomicUsize,
    receivers: AtomicUsize,
    // Something was published, or the sender is gone.
    changed: Notify,
    // There is no receiver any more.
    unwatched: Notify,
}

const CLOSED: usize = 1;
const CHANGE: usize = 2;

/// A channel whose first value counts as seen.
pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        value: RwLock::new(value),
        version: AtomicUsize::new(0),
        receivers: AtomicUsize::new(1),
        changed: Notify::new(),
        unwatched: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver { shared, seen: 0 })
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Sender<T> {
    /// Publishes what `modify` has made of the value, if it says so.
    pub(crate) fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if !modify(&mut value) {
            return;
        }
        self.0.version.fetch_add(CHANGE, Release);
        drop(value);
        self.0.changed.notify_waiters();
    }

    /// Publishes a value. Returns the last one, which is so dropped without the lock.
    pub(crate) fn send_replace(&self, mut value: T) -> T {
        self.send_if_modified(|last| {
            mem::swap(last, &mut value);
            true
        });
        value
    }

    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    pub(crate) fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Relaxed);
        // Under the lock, so that it is the version of a value that can be read.
        let _value = self.0.read();
        let seen = self.0.version.load(Acquire);
        Receiver { shared: Arc::clone(&self.0), seen }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.receivers.load(Acquire) == 0
    }

    /// Waits until there is no receiver. Cancel safe.
    pub(crate) async fn closed(&self) {
        loop {
            // Before it is looked: who is told is who is there by then.
            let unwatched = self.0.unwatched.notified();
            if self.is_closed() {
                return;
            }
            unwatched.await;
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.version.fetch_or(CLOSED, Release);
        self.0.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.read()
    }

    pub(crate) fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version.load(Acquire) & !CLOSED;
        value
    }

    /// Whether there is a value that was not seen; an error, if there will be no further one.
    pub(crate) fn has_changed(&self) -> Result<bool, Closed> {
        let version = self.shared.version.load(Acquire);
        if version & CLOSED != 0 { Err(Closed) } else { Ok(version != self.seen) }
    }

    /// Waits for a value that was not seen, and marks it as seen. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Result<(), Closed> {
        // As tokio's: one that always changes leaves others their turn.
        cooperative(self.next_change()).await
    }

    async fn next_change(&mut self) -> Result<(), Closed> {
        loop {
            // Before it is looked: who is told is who is there by then.
            let changed = self.shared.changed.notified();
            let version = self.shared.version.load(Acquire);
            if version & !CLOSED != self.seen {
                self.seen = version & !CLOSED;
                return Ok(());
            }
            if version & CLOSED != 0 {
                return Err(Closed);
            }
            changed.await;
        }
    }

    pub(crate) fn same_channel(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Relaxed);
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.shared.receivers.fetch_sub(1, AcqRel) == 1 {
            self.shared.unwatched.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio_test::{assert_pending, assert_ready, block_on, task};

    use super::*;

    #[test]
    fn what_was_not_seen_is_a_change_and_what_was_published_last_is_read() {
        let (sender, mut receiver) = channel(0);
        let mut other = receiver.clone();
        assert!(!receiver.has_changed().unwrap());
        {
            let mut changed = task::spawn(receiver.changed());
            assert_pending!(changed.poll());
            assert_eq!((sender.send_replace(1), sender.send_replace(2)), (0, 1));
            assert!(changed.is_woken());
            assert!(assert_ready!(changed.poll()).is_ok());
        }
        assert_eq!(*receiver.borrow(), 2);
        assert_pending!(task::spawn(receiver.changed()).poll());
        assert!(other.has_changed().unwrap());
        assert_eq!(*other.borrow_and_update(), 2);
        assert!(!other.has_changed().unwrap() && !sender.subscribe().has_changed().unwrap());
        sender.send_if_modified(|value| {
            *value = 3;
            false
        });
        assert_eq!((*sender.borrow(), other.has_changed().unwrap()), (3, false));
    }

    #[test]
    fn the_last_value_is_seen_before_the_end() {
        let (sender, mut receiver) = channel(0);
        sender.send_replace(1);
        drop(sender);
        assert!(receiver.has_changed().is_err());
        assert!(block_on(receiver.changed()).is_ok() && block_on(receiver.changed()).is_err());
        assert_eq!(*receiver.borrow_and_update(), 1);
        let mut waiting = receiver.clone();
        assert!(block_on(waiting.changed()).is_err() && waiting.same_channel(&receiver));
    }

    #[test]
    fn a_sender_is_told_when_nobody_is_left() {
        let (sender, receiver) = channel(0);
        let other = sender.subscribe();
        let mut closed = task::spawn(sender.closed());
        drop(receiver);
        assert_pending!(closed.poll());
        drop(other);
        assert!(closed.is_woken());
        assert_ready!(closed.poll());
        assert!(sender.is_closed());
        let again = sender.subscribe();
        assert!(!sender.is_closed());
        assert_pending!(task::spawn(sender.closed()).poll());
        drop(again);
    }

    #[test]
    fn threads_that_wait_miss_no_last_value_and_no_end() {
        for round in 0..200 {
            let (sender, receiver) = channel(0);
            let watch = |mut receiver: Receiver<usize>| {
                thread::spawn(move || {
                    block_on(async { while receiver.changed().await.is_ok() {} });
                    *receiver.borrow()
                })
            };
            let watching = [watch(receiver.clone()), watch(receiver)];
            for value in 0..=round {
                sender.send_replace(value);
            }
            drop(sender);
            assert_eq!(watching.map(|watching| watching.join().unwrap()), [round; 2]);
            let (sender, receiver) = channel(0);
            let closed = thread::spawn(move || block_on(sender.closed()));
            drop(receiver);
            closed.join().unwrap();
        }
    }
}

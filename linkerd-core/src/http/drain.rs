//! Who is still there when a server ends.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

/// Tells the connections of a server that it ends.
///
/// A flag that each connection looks at whenever it runs anyway, and the wakers of those that do not: nothing is polled
/// for it while requests are served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    begun: AtomicBool,
    wakers: Mutex<Wakers>,
}

#[derive(Debug, Default)]
struct Wakers {
    next: u64,
    by_key: HashMap<u64, Waker>,
}

/// One connection's watch.
#[derive(Debug)]
pub(crate) struct Watch {
    drain: Drain,
    registered: Option<(u64, Waker)>,
}

impl Drain {
    pub(crate) fn watch(&self) -> Watch {
        Watch { drain: self.clone(), registered: None }
    }

    pub(crate) fn begin(&self) {
        self.0.begun.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut self.wakers().by_key);
        wakers.into_values().for_each(Waker::wake);
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Whether the server ends; if not, the task is woken when it does.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        let is_registered = self.registered.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker()));
        if !is_registered {
            let mut wakers = self.drain.wakers();
            let key = if let Some((key, _)) = &self.registered {
                *key
            } else {
                wakers.next += 1;
                wakers.next
            };
            wakers.by_key.insert(key, cx.waker().clone());
            self.registered = Some((key, cx.waker().clone()));
        }
        // SeqCst here and in `begin`: whoever is registered too late to be woken sees the flag.
        self.drain.0.begun.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((key, _)) = &self.registered {
            self.drain.wakers().by_key.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    fn ended(mut watch: Watch) -> impl Future<Output = ()> {
        poll_fn(move |cx| if watch.poll(cx) { Poll::Ready(()) } else { Poll::Pending })
    }

    #[test]
    fn the_end_wakes_everybody_who_watches_and_later_comers_see_it() {
        let drain = Drain::default();
        let mut watches = [task::spawn(Box::pin(ended(drain.watch()))), task::spawn(Box::pin(ended(drain.watch())))];
        for watch in &mut watches {
            assert_pending!(watch.poll());
        }
        drain.begin();
        for watch in &mut watches {
            assert!(watch.is_woken());
            assert_ready!(watch.poll());
        }
        assert_ready!(task::spawn(Box::pin(ended(drain.watch()))).poll());
    }

    #[test]
    fn who_no_longer_watches_is_forgotten() {
        let drain = Drain::default();
        let mut watch = task::spawn(Box::pin(ended(drain.watch())));
        assert_pending!(watch.poll());
        assert_pending!(watch.poll());
        assert_eq!(drain.wakers().by_key.len(), 1);
        drop(watch);
        assert!(drain.wakers().by_key.is_empty());
    }
}

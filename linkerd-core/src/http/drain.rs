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
            let key = match &self.registered {
                Some((key, _)) => *key,
                None => {
                    wakers.next += 1;
                    wakers.next
                }
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

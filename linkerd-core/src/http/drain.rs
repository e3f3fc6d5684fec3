//! Who is still there when a server asks its clients to leave, and when it ends.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Waker},
};

/// Tells the connections of a server how far it is.
///
/// A flag that each connection looks at whenever it runs anyway, and the wakers of those that do not: nothing is polled
/// for it while requests are served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain(Arc<Shared>);

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It serves.
    Serving,
    /// Clients are asked to leave when they have what they asked for.
    Leaving,
    /// It ends: who has nothing to lose is let go.
    Ending,
}

#[derive(Debug, Default)]
struct Shared {
    stage: AtomicU8,
    wakers: Mutex<Wakers>,
}

#[derive(Debug, Default)]
struct Wakers {
    next: u64,
    by_key: HashMap<u64, Waker>,
}

/// One connection's watch.
pub(crate) struct Watch {
    drain: Drain,
    registered: Option<(u64, Waker)>,
    last_turn: LastTurn,
}

/// Before a connection hears of the end, its task gets one more turn, behind one of the reactor's: what had come by then
/// is there to be read.
enum LastTurn {
    Ahead,
    Now(Pin<Box<dyn Future<Output = ()> + Send>>),
    Over,
}

impl Drain {
    pub(crate) fn watch(&self) -> Watch {
        Watch { drain: self.clone(), registered: None, last_turn: LastTurn::Ahead }
    }

    /// Wakes everybody who watches. What has begun to end stays so.
    pub(crate) fn set(&self, stage: Stage) {
        let set = |now| (now != Stage::Ending as u8 && now != stage as u8).then_some(stage as u8);
        if self.0.stage.fetch_update(Ordering::SeqCst, Ordering::SeqCst, set).is_ok() {
            // They stay registered, as there may be a further stage. Not woken under the lock: who is may take it.
            let wakers: Vec<_> = self.wakers().by_key.values().cloned().collect();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn stage(&self) -> Stage {
        match self.0.stage.load(Ordering::SeqCst) {
            0 => Stage::Serving,
            1 => Stage::Leaving,
            _ => Stage::Ending,
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Another watch of the same server.
    pub(crate) fn another(&self) -> Self {
        self.drain.watch()
    }

    /// Whether the server ends; if not, the task is woken when it does. To be asked when nothing is left to read.
    pub(crate) fn is_ending(&mut self, cx: &Context<'_>) -> bool {
        self.poll(cx) == Stage::Ending
    }

    /// How far the server is; the task is woken when that changes.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Stage {
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
        // SeqCst here and in `set`: whoever is registered too late to be woken sees the stage.
        match self.drain.stage() {
            Stage::Ending if !self.had_last_turn(cx) => Stage::Leaving,
            stage => stage,
        }
    }

    fn had_last_turn(&mut self, cx: &Context<'_>) -> bool {
        if matches!(self.last_turn, LastTurn::Ahead) {
            self.last_turn = LastTurn::Now(Box::pin(tokio::task::yield_now()));
        }
        if let LastTurn::Now(turn) = &mut self.last_turn
            && turn.as_mut().poll(&mut Context::from_waker(cx.waker())).is_ready()
        {
            self.last_turn = LastTurn::Over;
        }
        matches!(self.last_turn, LastTurn::Over)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("drain", &self.drain).finish_non_exhaustive()
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
        poll_fn(move |cx| if watch.is_ending(cx) { Poll::Ready(()) } else { Poll::Pending })
    }

    #[test]
    fn the_end_wakes_everybody_who_watches_and_later_comers_see_it() {
        let drain = Drain::default();
        let mut watches = [task::spawn(Box::pin(ended(drain.watch()))), task::spawn(Box::pin(ended(drain.watch())))];
        for watch in &mut watches {
            assert_pending!(watch.poll());
        }
        // Each stage is told, to the same wakers too; and there is no way back from the last.
        drain.set(Stage::Leaving);
        for watch in &mut watches {
            assert!(watch.is_woken());
            assert_pending!(watch.poll());
        }
        drain.set(Stage::Leaving);
        assert!(!watches[0].is_woken());
        drain.set(Stage::Ending);
        drain.set(Stage::Serving);
        for watch in &mut watches {
            assert!(watch.is_woken());
            // There is one more turn.
            assert_pending!(watch.poll());
            assert!(watch.is_woken());
            assert_ready!(watch.poll());
        }
        let mut late = task::spawn(Box::pin(ended(drain.watch())));
        assert_pending!(late.poll());
        assert_ready!(late.poll());
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

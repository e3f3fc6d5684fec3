//! Connections on which nothing moves.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::telemetry::Counter;

/// How long a connection may wait for its peer, either way.
#[derive(Debug)]
pub(crate) struct Silence {
    pub(super) read: Wait,
    pub(super) write: Wait,
}

/// How long it may wait one way.
#[derive(Debug)]
pub(crate) struct Wait {
    limit: Option<Duration>,
    ended: Option<Counter>,
    sleep: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
}

impl Silence {
    /// `None` if neither way has a limit. What ends a connection is counted.
    pub(crate) fn new(
        read: Option<Duration>,
        write: Option<Duration>,
        counter: impl Fn(&'static str) -> Option<Counter>,
    ) -> Option<Box<Self>> {
        let wait = |limit: Option<Duration>, name| {
            let ended = limit.and_then(|_| counter(name));
            Wait { limit, ended, sleep: None, is_armed: false }
        };
        let is_limited = read.is_some() || write.is_some();
        is_limited.then(|| Box::new(Self { read: wait(read, "read_timeout"), write: wait(write, "write_timeout") }))
    }
}

impl Wait {
    /// What came of a poll; an error if nothing has for too long.
    pub(super) fn check<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_armed = false;
            return polled;
        }
        let Some(limit) = self.limit else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !std::mem::replace(&mut self.is_armed, true) {
            sleep.as_mut().reset(Instant::now() + limit);
        }
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(ended) = &self.ended {
            ended.incr();
        }
        // Whoever polls it again waits again.
        self.is_armed = false;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing moved for {limit:?}"))))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;
    use tokio_test::task;

    use super::*;
    use crate::telemetry::Registry;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_moved_for_so_long() {
        let registry = Registry::new();
        let counter = registry.root().counter("read_timeout");
        let mut silence = Silence::new(Some(100 * MS), None, |_| Some(counter.clone())).unwrap();
        let mut polls = task::spawn(());
        let mut poll = |wait: &mut Wait, polled| polls.enter(|cx, _| wait.check(cx, polled));
        assert!(poll(&mut silence.read, Poll::Pending).is_pending());
        advance(99 * MS).await;
        assert!(poll(&mut silence.read, Poll::Pending).is_pending());
        // Something moved: the time begins anew.
        assert!(poll(&mut silence.read, Poll::Ready(Ok(()))).is_ready());
        advance(99 * MS).await;
        assert!(poll(&mut silence.read, Poll::Pending).is_pending());
        advance(99 * MS).await;
        assert!(poll(&mut silence.read, Poll::Pending).is_pending());
        advance(2 * MS).await;
        let Poll::Ready(Err(error)) = poll(&mut silence.read, Poll::Pending) else { panic!("it waits still") };
        assert_eq!((error.kind(), counter.get()), (io::ErrorKind::TimedOut, 1));
        // The other way has no limit.
        assert!(poll(&mut silence.write, Poll::Pending).is_pending());
        advance(1000 * MS).await;
        assert!(poll(&mut silence.write, Poll::Pending).is_pending());
    }

    #[test]
    fn without_limits_there_is_nothing_to_check() {
        assert!(Silence::new(None, None, |_| None).is_none());
    }
}

//! Connections as they come, as long as there are file descriptors for them.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until},
};

/// How long accepting pauses at first, when it fails; twice as long each time that it fails again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How long it pauses at most.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How often a log says that it pauses.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Accepts connections, and pauses when the process is about to have no file descriptor left.
///
/// The last ones are for those who are here already: what they ask for takes connections and files too, and so do the
/// admin pages.
#[derive(Debug)]
pub(crate) struct Accepting {
    listener: TcpListener,
    local: SocketAddr,
    /// The first file descriptor that is kept free.
    kept_from: Option<i32>,
    paused: Option<Paused>,
    pause: Duration,
    said: Option<Instant>,
    is_full: bool,
}

#[derive(Clone, Copy, Debug)]
struct Paused {
    until: Instant,
    /// For want of file descriptors, and not for an error that will pass by itself.
    for_room: bool,
}

impl Accepting {
    pub(crate) fn new(listener: TcpListener, local: SocketAddr, limit: Option<u64>) -> Self {
        let kept_from = limit.map(|limit| i32::try_from(limit - kept(limit)).unwrap_or(i32::MAX));
        Self { listener, local, kept_from, paused: None, pause: FIRST_PAUSE, said: None, is_full: false }
    }

    /// The next connection. `paused` is called for each time that accepting begins to pause.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost: it waits in the listener's backlog.
    pub(crate) async fn next(&mut self, paused: impl Fn()) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(Paused { until, for_room }) = self.paused {
                sleep_until(until).await;
                if for_room && !self.has_room() {
                    self.pause(true);
                    continue;
                }
                self.paused = None;
            }
            match self.listener.accept().await {
                Ok((stream, remote)) => {
                    if self.is_kept(&stream) {
                        self.begin_pause("no file descriptors would be left", true, &paused);
                    } else {
                        self.pause = FIRST_PAUSE;
                    }
                    return (stream, remote);
                }
                // Of this connection alone.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted) => {}
                Err(error) => self.begin_pause(&error.to_string(), false, &paused),
            }
        }
    }

    /// A connection ended: there may be room.
    pub(crate) fn freed(&mut self) {
        if let Some(paused) = &mut self.paused
            && paused.for_room
        {
            paused.until = Instant::now();
        }
    }

    /// Whether as many connections are open as may be. `full` is called for each time that it becomes so.
    pub(crate) fn is_full(&mut self, open: usize, max: Option<usize>, full: impl Fn()) -> bool {
        let is_full = max.is_some_and(|max| open >= max.max(1));
        if is_full && !self.is_full {
            full();
            self.say(&format!("{open} are open, and no more may be"));
        }
        self.is_full = is_full;
        is_full
    }

    fn begin_pause(&mut self, why: &str, for_room: bool, paused: &impl Fn()) {
        paused();
        self.say(why);
        self.pause(for_room);
    }

    fn say(&mut self, why: &str) {
        let now = Instant::now();
        if self.said.is_none_or(|said| now.saturating_duration_since(said) >= SAID_EVERY) {
            self.said = Some(now);
            tracing::warn!(local = %self.local, "accepting connections pauses: {why}");
        }
    }

    fn pause(&mut self, for_room: bool) {
        self.paused = Some(Paused { until: Instant::now() + self.pause, for_room });
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    /// Whether a connection took one of the last file descriptors: the system gives the lowest that is free.
    #[cfg(unix)]
    fn is_kept(&self, stream: &TcpStream) -> bool {
        use std::os::fd::AsRawFd;
        self.kept_from.is_some_and(|kept| stream.as_raw_fd() >= kept)
    }

    /// Whether the next connection would take none of them.
    #[cfg(unix)]
    fn has_room(&self) -> bool {
        use std::os::fd::{AsFd, AsRawFd};
        let Some(kept) = self.kept_from else { return true };
        self.listener.as_fd().try_clone_to_owned().is_ok_and(|next| next.as_raw_fd() < kept)
    }

    #[cfg(not(unix))]
    fn is_kept(&self, _: &TcpStream) -> bool {
        false
    }

    #[cfg(not(unix))]
    fn has_room(&self) -> bool {
        true
    }
}

/// How many file descriptors of so many are kept free: an eighth, from 4 to 64.
fn kept(limit: u64) -> u64 {
    (limit / 8).clamp(4, 64).min(limit)
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsFd, AsRawFd},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio_test::{assert_pending, task};

    use super::*;

    #[tokio::test]
    async fn it_pauses_while_no_file_descriptor_would_be_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let mut accepting = Accepting::new(listener, local, None);
        let pauses = AtomicUsize::new(0);
        let count = || {
            pauses.fetch_add(1, Ordering::SeqCst);
        };
        let _client = TcpStream::connect(local).await.unwrap();
        // All are kept from here on: the next connection takes one of them.
        accepting.kept_from = Some(0);
        let (first, _) = accepting.next(count).await;
        assert_eq!(pauses.load(Ordering::SeqCst), 1);

        let _client = TcpStream::connect(local).await.unwrap();
        tokio::time::pause();
        {
            let mut next = task::spawn(accepting.next(count));
            assert_pending!(next.poll());
            tokio::time::advance(2 * LAST_PAUSE).await;
            assert_pending!(next.poll());
        }
        // There is room again, and nobody has to wait for the end of the pause.
        accepting.kept_from = Some(accepting.listener.as_fd().as_raw_fd() + 10_000);
        drop(first);
        accepting.freed();
        tokio::time::resume();
        accepting.next(count).await;
        assert_eq!(pauses.load(Ordering::SeqCst), 1);
        assert_eq!(accepting.pause, FIRST_PAUSE);
    }

    #[tokio::test]
    async fn it_is_full_once_until_there_is_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let mut accepting = Accepting::new(listener, local, None);
        let times = AtomicUsize::new(0);
        let count = || {
            times.fetch_add(1, Ordering::SeqCst);
        };
        let open = [(1, false), (2, true), (2, true), (1, false), (3, true)];
        for (open, expected) in open {
            assert_eq!(accepting.is_full(open, Some(2), count), expected, "{open}");
        }
        assert_eq!(times.load(Ordering::SeqCst), 2);
        // Who raises the limit, or takes it away, makes room; and one is always let in.
        assert!(!accepting.is_full(3, Some(4), count) && !accepting.is_full(3, None, count));
        assert!(!accepting.is_full(0, Some(0), count) && accepting.is_full(1, Some(0), count));
    }

    #[test]
    fn an_eighth_is_kept() {
        assert_eq!([0, 3, 16, 64, 1024, 1 << 20].map(kept), [0, 3, 4, 8, 64, 64]);
    }
}

//! What is counted of a connection's bytes.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(feature = "server")]
use super::place::Place;
use super::{SocketOptions, silence::Silence};
#[cfg(feature = "admin")]
use crate::telemetry::Scope;
use crate::telemetry::{ClientStats, Counter};
#[cfg(feature = "tls")]
use crate::tls::{self, HandshakeError};

/// Methods of [`AsyncRead`] and [`AsyncWrite`] that do what those of a field do, which is [`Unpin`]:
/// `forward!(inner: poll_flush, poll_shutdown);`
macro_rules! forward {
    ($inner:ident: $($method:ident),+) => {
        $($crate::http::io::forward!(@$method $inner);)+
    };
    (@poll_read $inner:ident) => {
        #[inline]
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$inner).poll_read(cx, buf)
        }
    };
    (@poll_write $inner:ident) => {
        #[inline]
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$inner).poll_write(cx, buf)
        }
    };
    (@poll_write_vectored $inner:ident) => {
        #[inline]
        fn poll_write_vectored(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            bufs: &[std::io::IoSlice<'_>],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$inner).poll_write_vectored(cx, bufs)
        }
    };
    (@is_write_vectored $inner:ident) => {
        #[inline]
        fn is_write_vectored(&self) -> bool {
            self.$inner.is_write_vectored()
        }
    };
    // `poll_flush` and `poll_shutdown`.
    (@$method:ident $inner:ident) => {
        #[inline]
        fn $method(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$inner).$method(cx)
        }
    };
}

pub(crate) use forward;

/// How many bytes of a connection were read and written.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
    awaits_head: AtomicBool,
    interim: AtomicU64,
    totals: Option<Totals>,
    /// The alert by which the peer refused this side's certificate. Zero: none.
    #[cfg(feature = "tls")]
    refused: std::sync::atomic::AtomicU8,
    #[cfg(feature = "tls")]
    is_refusal_told: AtomicBool,
}

/// The same of many connections together.
#[derive(Clone, Debug)]
pub(super) enum Totals {
    Client {
        received: Counter,
        sent: Counter,
    },
    #[cfg(feature = "server")]
    Server(Arc<Place>),
}

impl Totals {
    fn add_received(&self, bytes: u64) {
        match self {
            Self::Client { received, .. } => received.add(bytes),
            #[cfg(feature = "server")]
            Self::Server(place) => place.stats().into_iter().for_each(|stats| stats.received_bytes.add(bytes)),
        }
    }

    fn add_sent(&self, bytes: u64) {
        match self {
            Self::Client { sent, .. } => sent.add(bytes),
            #[cfg(feature = "server")]
            Self::Server(place) => place.stats().into_iter().for_each(|stats| stats.sent_bytes.add(bytes)),
        }
    }
}

/// The metrics of who has connections: a client or a server.
pub(super) trait Connections {
    fn totals(&self) -> Totals;

    /// Counts connections that ended because nothing moved.
    fn timeout(&self, name: &'static str) -> Counter;
}

impl Connections for ClientStats {
    fn totals(&self) -> Totals {
        Totals::Client { received: self.received_bytes.clone(), sent: self.sent_bytes.clone() }
    }

    fn timeout(&self, name: &'static str) -> Counter {
        self.timeout(name)
    }
}

#[cfg(feature = "server")]
impl Connections for Arc<Place> {
    fn totals(&self) -> Totals {
        Totals::Server(Self::clone(self))
    }

    fn timeout(&self, name: &'static str) -> Counter {
        self.stats().map(|stats| stats.timeout(name)).unwrap_or_default()
    }
}

impl Traffic {
    // Relaxed in all: a count, which orders nothing.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// What is read next is the head of a response.
    pub(crate) fn await_head(&self) {
        self.awaits_head.store(true, Ordering::Relaxed);
    }

    /// How many interim responses were seen since the last time that this was asked.
    pub(crate) fn take_interim(&self) -> u64 {
        if self.interim.load(Ordering::Relaxed) == 0 { 0 } else { self.interim.swap(0, Ordering::Relaxed) }
    }

    /// How the peer refused this side's certificate, if it did, and whether this is the first time that it is asked.
    #[cfg(feature = "tls")]
    pub(super) fn refusal(&self) -> Option<(HandshakeError, bool)> {
        let alert = match self.refused.load(Ordering::Relaxed) {
            0 => return None,
            alert => HandshakeError::refused(alert.into()),
        };
        Some((alert, !self.is_refusal_told.swap(true, Ordering::Relaxed)))
    }

    /// Notes why nothing is read, if nothing ever was.
    #[cfg(feature = "tls")]
    fn note(&self, error: &io::Error) {
        if self.read() == 0
            && let Some(alert) = tls::refusal(error)
        {
            self.refused.store(alert.into(), Ordering::Relaxed);
        }
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, reason = "without TLS there is nothing to note")]
    fn note(&self, _: &io::Error) {}

    fn see(&self, bytes: &[u8]) {
        if bytes.is_empty() || !self.awaits_head.load(Ordering::Relaxed) {
            return;
        }
        let (interim, goes_on) = count_interim(bytes);
        self.awaits_head.store(goes_on, Ordering::Relaxed);
        if interim > 0 {
            self.interim.fetch_add(interim, Ordering::Relaxed);
        }
    }

    fn add_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(totals) = &self.totals {
            totals.add_received(bytes as u64);
        }
    }

    fn add_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(totals) = &self.totals {
            totals.add_sent(bytes as u64);
        }
    }
}

/// How many interim responses are at the start, of those that hyper drops and nobody asked for, and whether what comes
/// next begins with a head too.
fn count_interim(mut bytes: &[u8]) -> (u64, bool) {
    let mut seen = 0;
    while bytes.starts_with(b"HTTP/1.") && bytes.get(9) == Some(&b'1') {
        // 100 is what hyper says itself when it is asked to, and 101 is an error.
        if !matches!(bytes.get(9..12), Some(b"100" | b"101")) {
            seen += 1;
        }
        let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return (seen, false) };
        bytes = &bytes[end + 4..];
        if bytes.is_empty() {
            return (seen, true);
        }
    }
    (seen, false)
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Counted<T> {
    inner: T,
    traffic: Arc<Traffic>,
    silence: Option<Box<Silence>>,
}

impl<T> Counted<T> {
    /// Counts in `stats` too, and ends a connection on which nothing moves for longer than `options` have it.
    pub(super) fn of(inner: T, options: &SocketOptions, stats: Option<&impl Connections>) -> (Self, Arc<Traffic>) {
        let traffic = Arc::new(Traffic { totals: stats.map(Connections::totals), ..Traffic::default() });
        let silence = Silence::of(options, |name| stats.map(|stats| stats.timeout(name)));
        (Self { inner, traffic: Arc::clone(&traffic), silence }, traffic)
    }

    /// Counts for nobody, and ends a connection on which nothing moves for longer than `options` have it, which is counted
    /// in `scope`.
    #[cfg(feature = "admin")]
    pub(crate) fn silent(inner: T, options: &SocketOptions, scope: Option<&Scope>) -> Self {
        let silence = Silence::of(options, |name| scope.map(|scope| scope.counter(name)));
        Self { inner, traffic: Arc::default(), silence }
    }

    /// The peer closed the connection while this side wrote. Without a word, unless that is there to be read.
    #[cold]
    fn cut_off<V>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<V>>
    where
        T: AsyncRead + Unpin,
    {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        if self.traffic.read() == 0 && matches!(error.kind(), BrokenPipe | ConnectionReset) {
            // The end, if nothing else, can be read soon. Nothing is taken of what may be there.
            let polled = Pin::new(&mut self.inner).poll_read(cx, &mut ReadBuf::new(&mut []));
            let _ = ready!(polled).inspect_err(|error| self.traffic.note(error));
        }
        Poll::Ready(Err(error))
    }

    fn check_read<V>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<V>>) -> Poll<io::Result<V>> {
        match &mut self.silence {
            None => polled,
            Some(silence) => silence.read.check(cx, polled),
        }
    }

    fn check_write<V>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<V>>) -> Poll<io::Result<V>> {
        match &mut self.silence {
            None => polled,
            Some(silence) => silence.write.check(cx, polled),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        ready!(self.check_read(cx, polled)).inspect_err(|error| self.traffic.note(error))?;
        self.traffic.add_read(buf.filled().len() - before);
        self.traffic.see(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    forward!(inner: poll_shutdown, is_write_vectored);

    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        match ready!(self.check_write(cx, polled)) {
            Ok(n) => {
                self.traffic.add_written(n);
                Poll::Ready(Ok(n))
            }
            Err(error) => self.cut_off(cx, error),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        match ready!(self.check_write(cx, polled)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => self.cut_off(cx, error),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = write_all_at_once(Pin::new(&mut self.inner), cx, bufs);
        match ready!(self.check_write(cx, polled)) {
            Ok(n) => {
                self.traffic.add_written(n);
                Poll::Ready(Ok(n))
            }
            Err(error) => self.cut_off(cx, error),
        }
    }
}

/// Pieces of no more than so many bytes together are made one: to copy them takes less than what the system takes for each.
const MOST_COPIED: usize = 4 * 1024;

thread_local! {
    /// Room for those, of no more than twice as much.
    static COPY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A head and a short body go out as one piece.
fn write_all_at_once<T: AsyncWrite>(
    to: Pin<&mut T>,
    cx: &mut Context<'_>,
    bufs: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match bufs {
        [] => to.poll_write(cx, &[]),
        [one] => to.poll_write(cx, one),
        bufs if bufs.iter().map(|buf| buf.len()).sum::<usize>() > MOST_COPIED => to.poll_write_vectored(cx, bufs),
        bufs => {
            let mut copy = COPY.take();
            copy.clear();
            for buf in bufs {
                copy.extend_from_slice(buf);
            }
            let polled = to.poll_write(cx, &copy);
            COPY.set(copy);
            polled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all, and notes how many bytes came as how many pieces.
    #[derive(Default)]
    struct Pieces(Vec<(usize, usize)>);

    impl AsyncWrite for Pieces {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push((buf.len(), 1));
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let len = bufs.iter().map(|buf| buf.len()).sum();
            self.0.push((len, bufs.len()));
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn short_pieces_are_written_as_one() {
        let mut to = Pieces::default();
        for lens in [&[100, 1024][..], &[100, MOST_COPIED], &[MOST_COPIED + 1], &[1, 0, 2]] {
            let bytes = vec![0; 2 * MOST_COPIED];
            let bufs: Vec<_> = lens.iter().map(|len| io::IoSlice::new(&bytes[..*len])).collect();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let polled = write_all_at_once(Pin::new(&mut to), &mut cx, &bufs);
            assert!(matches!(polled, Poll::Ready(Ok(n)) if n == lens.iter().sum::<usize>()));
        }
        assert_eq!(to.0, [(1124, 1), (100 + MOST_COPIED, 2), (MOST_COPIED + 1, 1), (3, 1)]);
    }

    #[test]
    fn interim_responses_are_told_from_answers() {
        for (bytes, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 103 X\r\n\r\n", (0, false)),
            ("HTTP/1.1 103 X\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", (1, false)),
            ("HTTP/1.1 103 X\r\n\r\nHTTP/1.1 102 X\r\n\r\n", (2, true)),
            ("HTTP/1.1 100 Continue\r\n\r\n", (0, true)),
            ("HTTP/1.1 103 X\r\nLi", (1, false)),
            ("HTTP/1.1 ", (0, false)),
        ] {
            assert_eq!(count_interim(bytes.as_bytes()), expected, "{bytes}");
        }
    }
}

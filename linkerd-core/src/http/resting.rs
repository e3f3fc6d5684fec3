//! Connections to endpoints that rest: of one that nobody has asked for a while the stream alone is kept, and not what
//! hyper has for one that is used, which is some 25 KiB whatever it does.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    runtime::Handle,
    task::AbortHandle,
    time::Instant,
};

use super::{dial::Open, io::Traffic};

/// For how long a stream that is closed may take to say so.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a connection goes over, and what is counted for as long as it is open.
pub(super) struct End {
    io: Box<dyn Io>,
    _open: Option<Open>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream that is lent out, and can be taken back.
#[derive(Clone)]
pub(super) struct Line(Arc<Mutex<Lending>>);

struct Lending {
    end: Option<End>,
    /// All that was to be written is.
    is_flushed: bool,
}

/// The stream, as hyper has it: at its end when it is taken back, and closed with it otherwise.
pub(super) struct Lent(Line);

/// A connection that rests. It is closed when this is dropped, or by its peer, or when anything comes: nobody has asked
/// for it.
pub(crate) struct Resting {
    pub(super) traffic: Arc<Traffic>,
    pub(super) born: Instant,
    line: Line,
    watch: AbortHandle,
}

impl End {
    pub(super) fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, open: Option<Open>) -> Self {
        Self { io: Box::new(io), _open: open }
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Not even what comes in an orderly way: there is no request that it could be for.
        let mut byte = [0];
        Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(drop)
    }

    /// Says goodbye, where there is anything to say.
    fn close(mut self) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { drop(tokio::time::timeout(GOODBYE, self.io.shutdown()).await) });
        }
    }
}

impl Line {
    /// Lends it out.
    pub(super) fn lend(end: End) -> (Self, Lent) {
        let line = Self(Arc::new(Mutex::new(Lending { end: Some(end), is_flushed: true })));
        (line.clone(), Lent(line))
    }

    /// Takes it back if nothing is left to be written. Who has it must want nothing of it: it is at an end there.
    fn take_back(&self) -> Option<End> {
        let mut lending = self.lending();
        if lending.is_flushed { lending.end.take() } else { None }
    }

    fn take(&self) -> Option<End> {
        self.lending().end.take()
    }

    fn lending(&self) -> MutexGuard<'_, Lending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut lending = self.lending();
        let Some(end) = &mut lending.end else { return Poll::Ready(()) };
        ready!(end.poll_ended(cx));
        // Before anybody else can have it, who would miss what was read; and not closed under the lock.
        let end = lending.end.take();
        drop(lending);
        drop(end);
        Poll::Ready(())
    }
}

impl Resting {
    /// Takes back what this was lent to; `None` if that is not over yet. `ended` is called when the peer closes it.
    pub(super) fn begin(
        line: &Line,
        traffic: &Arc<Traffic>,
        born: Instant,
        ended: impl FnOnce() + Send + 'static,
    ) -> Option<Self> {
        let line = Line(Arc::new(Mutex::new(Lending { end: Some(line.take_back()?), is_flushed: true })));
        let watched = line.clone();
        let watch = tokio::spawn(async move {
            poll_fn(|cx| watched.poll_ended(cx)).await;
            ended();
        });
        Some(Self { traffic: Arc::clone(traffic), born, line, watch: watch.abort_handle() })
    }

    /// Closes it: something came while it was taken back.
    pub(super) fn close(&self) {
        if let Some(end) = self.line.take() {
            end.close();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.line.lending().end.is_none()
    }

    /// The stream again; `None` if it was closed.
    pub(super) fn wake(self) -> Option<End> {
        self.line.take()
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.watch.abort();
        self.close();
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let end = self.0.take();
        drop(end);
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0.lending().end {
            Some(end) => Pin::new(&mut end.io).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Lent {
    fn poll_write_by(
        &self,
        poll: impl FnOnce(Pin<&mut Box<dyn Io>>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut lending = self.0.lending();
        lending.is_flushed = false;
        match &mut lending.end {
            Some(end) => poll(Pin::new(&mut end.io)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(|io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(|io| io.poll_write_vectored(cx, bufs))
    }

    /// hyper flushes when it has written all that it holds, and not before.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lending = self.0.lending();
        let Some(end) = &mut lending.end else { return Poll::Ready(Ok(())) };
        let polled = Pin::new(&mut end.io).poll_flush(cx);
        lending.is_flushed |= matches!(polled, Poll::Ready(Ok(())));
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0.lending().end {
            Some(end) => Pin::new(&mut end.io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lending().end.as_ref().is_some_and(|end| end.io.is_write_vectored())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio_test::{assert_pending, task};

    use super::*;

    /// A stream that is lent out, and its other side, which takes so many bytes before it reads.
    fn lent(room: usize) -> (Line, Lent, DuplexStream) {
        let (here, there) = duplex(room);
        let (line, lent) = Line::lend(End::new(here, None));
        (line, lent, there)
    }

    fn rest(line: &Line, ended: impl FnOnce() + Send + 'static) -> Option<Resting> {
        Resting::begin(line, &Arc::default(), Instant::now(), ended)
    }

    #[tokio::test]
    async fn it_is_taken_back_once_all_is_written_and_goes_on_as_it_was() {
        let (line, mut lent, mut there) = lent(4);
        lent.write_all(b"ab").await.unwrap();
        assert!(rest(&line, || ()).is_none(), "it is not flushed");
        lent.flush().await.unwrap();
        let resting = rest(&line, || ()).unwrap();
        // Who had it is at its end, and closes nothing.
        assert_eq!(lent.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(lent.write(b"x").await.is_err());
        drop(lent);
        assert!(rest(&line, || ()).is_none());
        let (_, mut again) = Line::lend(resting.wake().unwrap());
        again.write_all(b"cd").await.unwrap();
        let mut said = [0; 4];
        there.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"abcd");
        there.write_all(b"ok").await.unwrap();
        again.read_exact(&mut said[..2]).await.unwrap();
        assert_eq!(&said[..2], b"ok");
    }

    #[tokio::test]
    async fn what_is_not_all_written_is_not_taken_back() {
        let (line, mut lent, mut there) = lent(4);
        lent.flush().await.unwrap();
        assert_eq!(lent.write(b"abcdef").await.unwrap(), 4);
        let mut rest_of_it = task::spawn(lent.write_all(b"ef"));
        assert_pending!(rest_of_it.poll());
        assert!(rest(&line, || ()).is_none());
        there.read_exact(&mut [0; 4]).await.unwrap();
        rest_of_it.await.unwrap();
        lent.flush().await.unwrap();
        assert!(rest(&line, || ()).is_some());
    }

    #[tokio::test]
    async fn a_peer_that_closes_or_says_anything_ends_it() {
        for says in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let (line, _lent, mut there) = lent(64);
            let (tell, told) = tokio::sync::oneshot::channel();
            let resting = rest(&line, || tell.send(()).unwrap()).unwrap();
            assert!(!resting.is_closed());
            there.write_all(says).await.unwrap();
            if says.is_empty() {
                drop(there);
            }
            told.await.unwrap();
            assert!(resting.is_closed() && resting.wake().is_none());
        }
    }

    #[tokio::test]
    async fn it_is_closed_with_who_has_it() {
        let (_line, held, mut there) = lent(64);
        drop(held);
        assert_eq!(there.read(&mut [0]).await.unwrap(), 0);
        let (line, _lent, mut there) = lent(64);
        drop(rest(&line, || ()));
        assert_eq!(there.read(&mut [0]).await.unwrap(), 0);
    }
}

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Delivery;

/// Fails a body with [`IdleElapsed`] if no frame came within the time since the last one, or since it was first asked.
///
/// Only time in which somebody waits for a frame counts: a reader that is slow does not make the body idle. However long
/// it is, a body that keeps moving does not end by this. After the error it has ended.
///
/// ```
/// # use http_body::Frame;
/// use linkerd_retry::timeout::{IdleBody, IdleElapsed};
/// use http_body_util::{BodyExt, StreamBody};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// # type Frames = Result<Frame<bytes::Bytes>, Box<dyn std::error::Error + Send + Sync>>;
/// let silent = StreamBody::new(futures::stream::pending::<Frames>());
/// let mut body = IdleBody::new(silent, Duration::from_secs(30));
/// let err = body.frame().await.unwrap().unwrap_err();
/// assert_eq!(err.downcast_ref(), Some(&IdleElapsed(Duration::from_secs(30))));
/// # }
/// ```
#[pin_project]
#[derive(Debug)]
pub struct IdleBody<B> {
    #[pin]
    inner: B,
    timeout: Duration,
    /// Whether the timer runs: between a frame and the next time that one is asked for, it does not.
    waiting: bool,
    elapsed: bool,
    // Made on the first `Pending`, and moved on from there. Boxed, so that the body stays small and `Unpin`.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A body was silent for this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body was silent for {0:?}")]
pub struct IdleElapsed(pub Duration);

impl<B> IdleBody<B> {
    /// Allows `timeout` between frames. More than the clock can count is no limit.
    #[must_use]
    pub const fn new(inner: B, timeout: Duration) -> Self {
        Self { inner, timeout, waiting: false, elapsed: false, sleep: None }
    }
}

/// The head of the message was sent.
impl Delivery for IdleElapsed {
    fn bytes_written(&self) -> Option<u64> {
        None
    }
}

impl<B> Body for IdleBody<B>
where
    B: Body,
    B::Error: From<IdleElapsed>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        if *this.elapsed {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            *this.waiting = false;
            return Poll::Ready(frame);
        }
        if !*this.waiting {
            *this.waiting = true;
            match (Instant::now().checked_add(*this.timeout), this.sleep.as_mut()) {
                (Some(at), Some(sleep)) => sleep.as_mut().reset(at),
                (Some(at), None) => *this.sleep = Some(Box::pin(sleep_until(at))),
                (None, _) => {}
            }
        }
        let Some(sleep) = this.sleep else { return Poll::Pending };
        sleep.as_mut().poll(cx).map(|()| {
            *this.elapsed = true;
            Some(Err(IdleElapsed(*this.timeout).into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.elapsed || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::{sync::mpsc, time};
    use tokio_test::{assert_pending, assert_ready, task};
    use tower::BoxError;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(500);
    const MS: Duration = Duration::from_millis(1);
    type Frames = Result<Frame<Bytes>, BoxError>;

    fn body(timeout: Duration) -> (mpsc::Sender<Frames>, IdleBody<impl Body<Data = Bytes, Error = BoxError> + Unpin>) {
        let (tx, mut rx) = mpsc::channel(4);
        (tx, IdleBody::new(StreamBody::new(futures::stream::poll_fn(move |cx| rx.poll_recv(cx))), timeout))
    }

    #[tokio::test(start_paused = true)]
    async fn fails_after_the_silence_and_not_before_and_then_has_ended() {
        let (_tx, mut body) = body(TIMEOUT);
        let mut frame = task::spawn(body.frame());
        assert_pending!(frame.poll());
        time::advance(TIMEOUT.saturating_sub(MS)).await;
        assert_pending!(frame.poll());
        time::advance(2 * MS).await;
        assert!(frame.is_woken());
        let err = assert_ready!(frame.poll()).unwrap().unwrap_err();
        assert_eq!(err.to_string(), "the body was silent for 500ms");
        drop(frame);
        assert!(body.is_end_stream());
        assert!(assert_ready!(task::spawn(body.frame()).poll()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_keeps_moving_lasts_for_ever() {
        let (tx, mut body) = body(TIMEOUT);
        for _ in 0..100 {
            let mut frame = task::spawn(body.frame());
            assert_pending!(frame.poll());
            time::advance(TIMEOUT.saturating_sub(MS)).await;
            tx.try_send(Ok(Frame::data(Bytes::from_static(b"x")))).unwrap();
            assert!(assert_ready!(frame.poll()).unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_does_not_make_it_idle() {
        let (tx, mut body) = body(TIMEOUT);
        let mut frame = task::spawn(body.frame());
        assert_pending!(frame.poll());
        tx.try_send(Ok(Frame::data(Bytes::from_static(b"x")))).unwrap();
        assert!(assert_ready!(frame.poll()).unwrap().is_ok());
        drop(frame);
        time::advance(10 * TIMEOUT).await;
        assert_pending!(task::spawn(body.frame()).poll());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_all_there_never_touches_the_timer() {
        let full = Full::new(Bytes::from_static(b"all")).map_err(|never| -> BoxError { match never {} });
        let mut body = IdleBody::new(full, Duration::ZERO);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "all");
        assert!(body.frame().await.is_none());
        assert!(body.sleep.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_beyond_the_clock_never_ends() {
        let (_tx, mut body) = body(Duration::MAX);
        let mut frame = task::spawn(body.frame());
        assert_pending!(frame.poll());
        time::advance(Duration::from_hours(24)).await;
        assert_pending!(frame.poll());
    }
}

//! Pages that are made while they are sent: of a hundred thousand metrics they take as long as many requests.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep, sleep};

use super::reply::{self, Kind};
use crate::Body;

/// How many pieces are made before anything is sent. What has no more is sent whole, with its length.
const AT_ONCE: usize = 5;

/// How long the processor is left to others after each further piece. It may be the only one.
const PAUSE: Duration = Duration::from_millis(1);

/// A page of these pieces. Empty ones are not sent.
pub(super) fn page(kind: Kind, mut pieces: impl Iterator<Item = Bytes> + Send + Unpin + 'static) -> Response<Body> {
    let mut first = BytesMut::new();
    for _ in 0..AT_ONCE {
        match pieces.next() {
            Some(piece) => first.extend_from_slice(&piece),
            None => return reply::page(kind, first.freeze()),
        }
    }
    let pause = Box::pin(sleep(PAUSE));
    reply::page(kind, Body::new(Paged { first: first.freeze(), pieces, pause }))
}

struct Paged<I> {
    first: Bytes,
    pieces: I,
    pause: Pin<Box<Sleep>>,
}

impl<I: Iterator<Item = Bytes> + Unpin> HttpBody for Paged<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut piece = std::mem::take(&mut self.first);
        while piece.is_empty() {
            ready!(self.pause.as_mut().poll(cx));
            piece = match self.pieces.next() {
                Some(piece) => piece,
                None => return Poll::Ready(None),
            };
            self.pause.as_mut().reset(Instant::now() + PAUSE);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use http_body_util::BodyExt;

    use super::*;

    /// So many pieces, of which every other one is empty, and how many were made.
    fn pieces(count: usize) -> (impl Iterator<Item = Bytes> + Send + Unpin, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let piece = move |n| {
            counted.fetch_add(1, Ordering::Relaxed);
            if n % 2 == 0 { Bytes::new() } else { Bytes::from(format!("{n} ")) }
        };
        ((0..count).map(piece), made)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_is_whole() {
        let rsp = page(Kind::Text, pieces(3).0);
        assert_eq!(rsp.body().size_hint().exact(), Some(2));
        assert_eq!(rsp.into_body().collect().await.unwrap().to_bytes(), "1 ");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_one_is_made_while_it_is_read_and_leaves_time_to_others() {
        let (pieces, made) = pieces(11);
        let begun = Instant::now();
        let mut body = page(Kind::Text, pieces).into_body();
        assert_eq!(body.size_hint().exact(), None);
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            let text = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
            seen.push((text, made.load(Ordering::Relaxed)));
        }
        let expected = [("1 3 ", 5), ("5 ", 6), ("7 ", 8), ("9 ", 10)];
        assert_eq!(seen, expected.map(|(text, made)| (text.to_owned(), made)));
        assert!(begun.elapsed() >= 6 * PAUSE, "{:?}", begun.elapsed());
    }
}

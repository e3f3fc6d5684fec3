//! Requests: how much of them is read, and for how long.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::namerd::limits::{READ_TIMEOUT, Reading};

/// What a request's messages have beside their bytes.
const PREFIX: usize = 5;

/// The body of a request, read within bounds. It counts as being read until it is dropped.
pub(super) struct Bounded<B> {
    body: Pin<Box<B>>,
    reading: Reading,
    length: usize,
    limit: usize,
    // Made when there is something to wait for.
    late: Option<Pin<Box<Sleep>>>,
}

impl<B> Bounded<B> {
    /// At most one message of `limit` bytes.
    pub(super) fn new(body: B, limit: usize, reading: Reading) -> Self {
        Self { body: Box::pin(body), reading, length: 0, limit: limit + PREFIX, late: None }
    }

    fn add(&mut self, data: &Bytes) -> Result<(), Status> {
        self.length += data.len();
        if self.length > self.limit {
            return Err(Status::out_of_range(format!("a request of more than {} bytes", self.limit - PREFIX)));
        }
        Ok(self.reading.hold(self.length)?)
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let added = frame.data_ref().map_or(Ok(()), |data| self.add(data));
                Poll::Ready(Some(added.map(|()| frame).map_err(Into::into)))
            }
            Poll::Ready(end) => Poll::Ready(end.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                let late = self.late.get_or_insert_with(|| Box::pin(sleep(READ_TIMEOUT)));
                late.as_mut().poll(cx).map(|()| {
                    let text = format!("the request did not come within {READ_TIMEOUT:?}");
                    Some(Err(Status::deadline_exceeded(text).into()))
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

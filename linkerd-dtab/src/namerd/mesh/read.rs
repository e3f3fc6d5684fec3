//! Requests: how much of them is read, and for how long.

use std::{
    convert::Infallible,
    error::Error,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tonic::Status;

use crate::namerd::limits::{READ_TIMEOUT, Reading};

/// What a request's messages have beside their bytes.
const PREFIX: usize = 5;

/// A request that was read. It counts as being read until it is dropped.
pub(super) struct Whole {
    data: Bytes,
    _reading: Reading,
}

/// Reads a request: at most one message of `limit` bytes.
///
/// Requests that wait for their bodies have this and not what becomes of them: a client sends many at once.
pub(super) async fn whole<B>(body: B, limit: usize, mut reading: Reading) -> Result<Whole, Status>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let read = async {
        let mut body = pin!(body);
        let (mut first, mut all) = (Bytes::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Status::from_error(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = first.len().max(all.len()) + data.len();
            if length > limit + PREFIX {
                return Err(Status::out_of_range(format!("a request of more than {limit} bytes")));
            }
            reading.hold(length)?;
            if first.is_empty() {
                first = data;
                continue;
            }
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.into() })
    };
    let late = |_| Status::deadline_exceeded(format!("the request did not come within {READ_TIMEOUT:?}"));
    let data = timeout(READ_TIMEOUT, read).await.map_err(late)??;
    Ok(Whole { data, _reading: reading })
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = mem::take(&mut self.data);
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}

//! A body that comes on a stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};

use super::fault;
use crate::{BoxError, telemetry::Half};

/// A body that comes on a stream. What is read makes room for more; what is not read holds the sender up.
///
/// Dropped before its end, it resets the stream.
pub(crate) struct Stream {
    recv: RecvStream,
    // Only the trailers may be to come.
    is_data_over: bool,
    // How much is to come, if its sender says so. h2 holds it to that.
    left: Option<u64>,
    counted: Option<Half>,
}

impl Stream {
    /// What comes is counted, if somebody wants to know.
    pub(super) fn new(recv: RecvStream, headers: &HeaderMap, counted: Option<Half>) -> Self {
        let left = headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
        Self { recv, is_data_over: false, left, counted }
    }
}

impl Stream {
    fn failed(&mut self, error: h2::Error) -> BoxError {
        if let Some(counted) = &mut self.counted {
            counted.fail(fault::reset_by(&error));
        }
        fault::cause(error)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Who knows that there is no more does not read on.
        if let Some(counted) = &mut self.counted
            && self.recv.is_end_stream()
        {
            counted.complete();
        }
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        while !this.is_data_over {
            match ready!(this.recv.poll_data(cx)) {
                None => this.is_data_over = true,
                // The end of a stream, mostly.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // Fails if the stream is over, and then nobody needs the room.
                    let _ = this.recv.flow_control().release_capacity(data.len());
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    if let Some(counted) = &mut this.counted {
                        counted.data(data.len());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(this.failed(error)))),
            }
        }
        Poll::Ready(match ready!(this.recv.poll_trailers(cx)) {
            Ok(trailers) => {
                if let Some(counted) = &mut this.counted {
                    if trailers.is_some() {
                        counted.trailers();
                    }
                    counted.complete();
                }
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Err(error) => Some(Err(this.failed(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

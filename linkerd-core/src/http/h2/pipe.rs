//! A body on its way out on a stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body as _;

use super::fault;
use crate::{
    Body, BoxError,
    telemetry::{Half, Side},
};

/// Sends a body, as fast as the peer reads it: of what it has no room for, one piece is held here.
///
/// Its output is whether all of it was sent. A body that fails resets the stream by its own code, if it has one; else by
/// `otherwise`.
pub(super) struct Pipe<F> {
    body: Body,
    to: SendStream<Bytes>,
    held: Option<Bytes>,
    otherwise: Reason,
    // Sees the trailers before they are sent.
    trailers: F,
    counted: Option<Half>,
}

impl<F: FnMut(&mut HeaderMap)> Pipe<F> {
    pub(super) fn new(body: Body, to: SendStream<Bytes>, otherwise: Reason, trailers: F) -> Self {
        Self { body, to, held: None, otherwise, trailers, counted: None }
    }

    /// Counts what is sent, if somebody wants to know.
    pub(super) fn counted(self, counted: Option<Half>) -> Self {
        Self { counted, ..self }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        loop {
            if self.to.poll_reset(cx)?.is_ready() {
                return Poll::Ready(Err(Failed::Reset));
            }
            if let Some(data) = &self.held {
                // What is asked for is kept from other streams of the connection, so no more than a beginning is; h2
                // asks for the rest as it sends.
                self.to.reserve_capacity(1);
                while self.to.capacity() == 0 {
                    match ready!(self.to.poll_capacity(cx)) {
                        Some(capacity) => drop(capacity?),
                        None => return Poll::Ready(Err(Failed::Gone)),
                    }
                }
                let (data, is_last) = (data.clone(), self.body.is_end_stream());
                self.held = None;
                if let Some(counted) = &mut self.counted {
                    counted.data(data.len());
                }
                self.to.send_data(data, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    self.to.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(Failed::Body(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => self.held = Some(data),
                    Err(frame) => {
                        let Ok(mut trailers) = frame.into_trailers() else { continue };
                        (self.trailers)(&mut trailers);
                        if let Some(counted) = &self.counted {
                            counted.trailers();
                        }
                        self.to.reserve_capacity(0);
                        self.to.send_trailers(trailers)?;
                        return Poll::Ready(Ok(()));
                    }
                },
            }
        }
    }
}

enum Failed {
    /// The peer wants no more of it.
    Reset,
    /// The connection is no more.
    Gone,
    Body(BoxError),
}

impl From<h2::Error> for Failed {
    fn from(_: h2::Error) -> Self {
        Self::Gone
    }
}

impl<F: FnMut(&mut HeaderMap) + Unpin> Future for Pipe<F> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let sent = ready!(self.poll_send(cx));
        if let Some(counted) = &mut self.counted {
            match &sent {
                Ok(()) => counted.complete(),
                Err(Failed::Reset) => counted.fail(Some(Side::Remote)),
                Err(Failed::Gone) => counted.fail(None),
                Err(Failed::Body(_)) => counted.fail(Some(Side::Local)),
            }
        }
        if let Err(Failed::Body(error)) = &sent {
            let reason = fault::reason(&**error, self.otherwise);
            self.to.send_reset(reason);
        }
        Poll::Ready(sent.is_ok())
    }
}

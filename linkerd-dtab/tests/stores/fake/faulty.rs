//! Between a store and its server: what goes wrong on the way.

use std::{future::Future, io, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, stream};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use linkerd_dtab::{
    Failure,
    transport::{Body, Sending, Transport, full},
};
use tokio::sync::watch;

use crate::suite::Fault;

/// A transport with faults. A clone is the same.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn Transport>,
    fault: Arc<watch::Sender<Option<Fault>>>,
}

impl Faulty {
    pub(crate) fn new(inner: impl Transport) -> Self {
        Self { inner: Arc::new(inner), fault: Arc::new(watch::Sender::new(None)) }
    }

    /// What is under way ends, and what comes has this fault.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }
}

fn reset() -> Failure {
    Arc::new(io::Error::from(io::ErrorKind::ConnectionReset))
}

impl Transport for Faulty {
    fn send(&self, request: Request<Body>) -> Sending {
        let mut fault = self.fault.subscribe();
        let now = *fault.borrow_and_update();
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let changes = {
                let mut fault = fault.clone();
                async move { _ = fault.changed().await }
            };
            match now {
                Some(Fault::Away) => return Err(Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused)) as Failure),
                Some(Fault::Hangs) => {
                    changes.await;
                    return Err(reset());
                }
                Some(Fault::Babbles) => return Ok(Response::new(full("]{ \u{1f9}\0 no"))),
                Some(Fault::Blank) => return Ok(Response::new(full("{}"))),
                Some(Fault::Refuses) => {
                    return Ok(Response::builder().status(503).body(full("etcdserver: no leader")).unwrap());
                }
                Some(Fault::Resets | Fault::Halves) | None => {}
            }
            let rsp = tokio::select! {
                rsp = inner.send(request) => rsp?,
                () = changes => return Err(reset()),
            };
            Ok(match now {
                None => rsp.map(|body| until_changed(body, fault)),
                Some(fault) => {
                    let (head, mut body) = rsp.into_parts();
                    let mut read = BytesMut::new();
                    while let Some(Some(Ok(frame))) = body.frame().now_or_never() {
                        read.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
                    }
                    let half = read.split_to(read.len() / 2).freeze();
                    Response::from_parts(head, cut(half, fault == Fault::Resets))
                }
            })
        })
    }
}

fn cut(half: Bytes, is_reset: bool) -> Body {
    let frames = [Ok(Frame::data(half))].into_iter().chain(is_reset.then(|| Err(reset())));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// A body that breaks when there is another fault.
fn until_changed(mut body: Body, mut fault: watch::Receiver<Option<Fault>>) -> Body {
    let changed = async move { _ = fault.changed().await };
    let mut changed = Box::pin(changed.fuse());
    let mut is_over = false;
    let frames = stream::poll_fn(move |cx| {
        if is_over {
            return Poll::Ready(None);
        }
        if changed.as_mut().poll(cx).is_ready() {
            is_over = true;
            return Poll::Ready(Some(Err(reset())));
        }
        std::pin::Pin::new(&mut body).poll_frame(cx)
    });
    StreamBody::new(frames).boxed_unsync()
}

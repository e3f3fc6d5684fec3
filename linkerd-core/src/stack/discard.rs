//! Responses that nobody will see: they are read to their end, so that their connections can be used again, but not for
//! long.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use http::Response;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::classified::Held;
use crate::{Body, Error};

/// How long one is read.
const LONGEST: Duration = Duration::from_millis(20);
/// How much of it.
const MOST: u64 = 64 * 1024;

/// One that is read while its request is sent again: nobody knows when it ends.
pub(super) struct Discarded(Pin<Box<dyn Future<Output = ()> + Send>>);

/// Reads it before its request is sent again: within the `wait` until then, and of what time there is to `spare`. If it has a
/// known length it is here soon, and what is sent next may have its connection. A stream is left for later where there is
/// no wait.
pub(super) async fn discard(body: Body, wait: Duration, spare: Option<Duration>) -> Option<Discarded> {
    let size = body.size_hint();
    if size.lower() > MOST {
        return None;
    }
    if size.exact().is_none() && wait.is_zero() {
        return Some(Discarded(Box::pin(drain(body, LONGEST))));
    }
    drain(body, longest(wait, spare)).await;
    None
}

/// Reads what is passed on if its request cannot be sent again after the `wait`. None of a response that is longer, or takes
/// longer, than one that is discarded: its connection would be held all that time.
pub(super) async fn set_aside(
    result: Result<Response<Body>, Error>,
    wait: Duration,
    spare: Option<Duration>,
) -> Option<Result<Response<Body>, Error>> {
    let rsp = match result {
        Ok(rsp) if !rsp.body().is_end_stream() => rsp,
        here => return Some(here),
    };
    let (head, body) = rsp.into_parts();
    let body = timeout(longest(wait, spare), Held::read(body, MOST as usize)).await.ok()??;
    Some(Ok(Response::from_parts(head, body)))
}

fn longest(wait: Duration, spare: Option<Duration>) -> Duration {
    spare.map_or(LONGEST, |spare| LONGEST.min(wait + spare))
}

impl Discarded {
    /// Reads it beside a future that goes first, and for no longer than that takes.
    pub(super) async fn beside<T>(self, first: impl Future<Output = T>) -> T {
        let (mut first, mut aside) = (pin!(first), Some(self.0));
        poll_fn(move |cx| {
            if let Poll::Ready(outcome) = first.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            if aside.as_mut().is_some_and(|aside| aside.as_mut().poll(cx).is_ready()) {
                aside = None;
            }
            Poll::Pending
        })
        .await
    }
}

/// On time or not, what is not read by then ends with its connection.
async fn drain(mut body: Body, longest: Duration) {
    let drain = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if read > MOST {
                break;
            }
        }
    };
    let _ = timeout(longest, drain).await;
}

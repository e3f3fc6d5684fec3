//! The time that a server gives each request.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};

use super::Peer;
use crate::{Body, Error, ErrorKind, Timer, error::twitter_duration, http::RequestContext, svc::SvcFuture};

impl Peer {
    /// Sends a request that was here for so long already.
    pub(in crate::http) fn send(self: &Arc<Self>, req: Request<Body>, spent: Duration) -> SvcFuture {
        match self.shared.config.timeout {
            None => self.shared.svc.send(req),
            Some(timeout) => Box::pin(Arc::clone(self).send_within(timeout.saturating_sub(spent), req)),
        }
    }

    async fn send_within(self: Arc<Self>, timeout: Duration, mut req: Request<Body>) -> Result<Response<Body>, Error> {
        let mut cx = req.extensions_mut().remove::<RequestContext>().unwrap_or_default();
        let is_ours = cx.keep_within(timeout, Timer::Server);
        cx.until = tokio::time::Instant::now().into_std().checked_add(timeout);
        req.extensions_mut().insert(cx);
        let rsp = self.shared.svc.send(req);
        // What is inside ends at the same time, and knows then why: it goes first, and this is for what does not.
        let result = tokio::time::timeout(timeout.saturating_add(Duration::from_millis(2)), rsp).await;
        let is_timeout = match &result {
            Ok(Err(error)) => is_ours && error.kind() == ErrorKind::Deadline,
            _ => false,
        };
        match result {
            Ok(Err(error)) if is_timeout => Err(self.too_late().in_place_of(error)),
            Ok(result) => result,
            Err(_) => Err(self.too_late()),
        }
    }

    /// The server's timeout is over.
    pub(super) fn too_late(&self) -> Error {
        let timeout = self.shared.config.timeout.unwrap_or_default();
        let text = format!(
            "exceeded {} to {}/{} while waiting for a response for an individual request, excluding retries. \
             Remote Info: Not Available",
            twitter_duration(timeout),
            self.ends.local.ip(),
            self.ends.local.port(),
        );
        Error::new(ErrorKind::AttemptTimeout).with_text(text).with_timer(Timer::Server.after(timeout))
    }
}

/// Whether the time of the server ended a request, and not one further in.
pub(in crate::http) fn is_ours(error: &Error) -> bool {
    error.timer().is_some_and(|timer| timer.timer == Timer::Server)
}

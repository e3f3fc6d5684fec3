//! Asks an endpoint whether it is well: `GET`, and an answer of 2xx is a yes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, header};
use linkerd_balance::{ActiveProbe, Breaker};
use tower_service::Service;

use crate::{Body, Error, ErrorKind, Svc, policy::ProbePolicy};

/// Probes the endpoint of a breaker from now on; not outside of a runtime.
pub(super) fn spawn(policy: &ProbePolicy, authority: &str, svc: Svc, breaker: &Breaker) -> Option<ActiveProbe> {
    tokio::runtime::Handle::try_current().ok()?;
    let host = policy.host.as_deref().unwrap_or(authority).to_owned();
    let probe = Probe { svc, path: policy.path.clone(), host };
    Some(ActiveProbe::spawn(policy.settings, probe, breaker))
}

struct Probe {
    svc: Svc,
    path: String,
    host: String,
}

impl Service<()> for Probe {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let req = Request::get(&self.path).header(header::HOST, &self.host).body(Body::empty());
        let svc = self.svc.clone();
        Box::pin(async move {
            let req = req.map_err(|error| Error::new(ErrorKind::BadRequest).with_text(error.to_string()))?;
            let rsp = svc.send(req).await?;
            if rsp.status().is_success() {
                return Ok(());
            }
            Err(Error::new(ErrorKind::BadResponse).with_text(format!("a probe was answered with {}", rsp.status())))
        })
    }
}

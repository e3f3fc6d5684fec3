//! Asks an endpoint whether it is well: by a `GET`, or by gRPC's health check.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, Uri, header};
use linkerd_balance::{ActiveProbe, Breaker};
use tower_service::Service;

use crate::{
    Body, Error, ErrorKind, Svc,
    policy::{ProbePolicy, ProbeQuestion},
};

mod health;

/// Probes the endpoint of a breaker from now on; not outside of a runtime.
pub(super) fn spawn(policy: &ProbePolicy, authority: &str, svc: Svc, breaker: &Breaker) -> Option<ActiveProbe> {
    tokio::runtime::Handle::try_current().ok()?;
    let host = policy.host.as_deref().unwrap_or(authority).to_owned();
    let probe = Probe { svc, question: policy.question.clone(), host };
    Some(ActiveProbe::spawn(policy.settings, probe, breaker))
}

struct Probe {
    svc: Svc,
    question: ProbeQuestion,
    host: String,
}

impl Probe {
    fn request(&self) -> Result<Request<Body>, http::Error> {
        let (req, body) = match &self.question {
            ProbeQuestion::Http { path } => (Request::get(path), Body::empty()),
            ProbeQuestion::Grpc { service } => {
                let req = Request::post(Uri::from_static(health::METHOD))
                    .header(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
                    .header(header::TE, HeaderValue::from_static("trailers"));
                (req, Body::from(health::question(service)))
            }
        };
        req.header(header::HOST, &self.host).body(body)
    }
}

impl Service<()> for Probe {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let req = self.request();
        let (svc, is_grpc) = (self.svc.clone(), matches!(self.question, ProbeQuestion::Grpc { .. }));
        Box::pin(async move {
            let req = req.map_err(|error| Error::new(ErrorKind::BadRequest).with_text(error.to_string()))?;
            let rsp = svc.send(req).await?;
            let answer = if is_grpc { health::answer(rsp).await } else { success(&rsp) };
            answer.map_err(|what| {
                Error::new(ErrorKind::BadResponse).with_text(format!("a probe was answered with {what}"))
            })
        })
    }
}

fn success(rsp: &Response<Body>) -> Result<(), String> {
    if rsp.status().is_success() { Ok(()) } else { Err(rsp.status().to_string()) }
}

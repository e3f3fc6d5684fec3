//! One share of a path's traffic: a bound name, as one path uses it.

use std::sync::Arc;

use futures::future::Either;
use http::{Request, Response};

use super::{
    BoundClient, BoundName, PathInfo,
    attempt::Attempt,
    hints::Hints,
    outgoing::{Outgoing, Replay},
    time::now,
};
use crate::{
    Body, Error, Svc,
    http::{context::RequestContext, deadline::GrpcUntil},
    mesh::Wrap,
    svc::{Call, SvcFuture},
    telemetry::RequestStats,
};

/// A leaf of a path's tree.
#[derive(Clone)]
pub(crate) struct Share {
    call: Arc<ShareCall>,
    // Only if there are client layers: a seam that nobody needs costs nothing.
    layered: Option<Svc>,
}

struct ShareCall {
    name: Arc<BoundName>,
    info: Arc<PathInfo>,
    // `client/<id>/service/<path>`
    stats: Arc<RequestStats>,
}

impl Share {
    pub(crate) fn new(name: Arc<BoundName>, info: Arc<PathInfo>, layers: &[Wrap]) -> Self {
        let stats = Arc::new(name.client.service_stats(&info.path));
        let call = Arc::new(ShareCall { name, info, stats });
        let layered = (!layers.is_empty()).then(|| {
            let svc = Svc::from_arc(Arc::clone(&call) as _);
            layers.iter().fold(svc, |svc, wrap| wrap(svc))
        });
        Self { call, layered }
    }

    pub(super) fn client(&self) -> &Arc<BoundClient> {
        &self.call.name.client
    }

    pub(crate) fn send(
        &self,
        attempt: &Attempt<'_>,
        req: &mut Outgoing,
    ) -> impl Future<Output = Result<Response<Body>, Error>> {
        match &self.layered {
            None => Either::Left(self.call.name.send(attempt, &self.call.stats, req)),
            Some(svc) => Either::Right(Self::send_layered(svc, attempt, req)),
        }
    }

    async fn send_layered(svc: &Svc, attempt: &Attempt<'_>, req: &mut Outgoing) -> Result<Response<Body>, Error> {
        let mut sent = req.take()?;
        if let Some(cx) = attempt.cx {
            sent.extensions_mut().insert(cx.clone());
        }
        if let Some(hints) = attempt.hints {
            sent.extensions_mut().insert(Arc::clone(hints));
        }
        if let Some(due) = attempt.due {
            sent.extensions_mut().insert(due);
        }
        // Layers take their time too, so it goes with it as an instant; a request that they make anew has the header.
        if let Some(grpc) = attempt.grpc {
            grpc.write(sent.headers_mut(), now(), None);
            sent.extensions_mut().insert(grpc);
        }
        sent.body_mut().set_trail(req.trail().clone());
        svc.send(sent).await
    }
}

/// Below the client layers: what they pass on is a request like any other, so the attempt begins here.
impl Call for ShareCall {
    fn call(self: Arc<Self>, mut req: Request<Body>) -> SvcFuture {
        Box::pin(async move {
            let arrived = now();
            let cx = req.extensions_mut().remove::<RequestContext>();
            let hints = self.info.policy.retry_hints.then(|| Hints::take(&mut req));
            let due = req.extensions_mut().remove();
            let trail = req.body_mut().take_trail();
            let grpc = req.extensions_mut().remove::<GrpcUntil>().or_else(|| GrpcUntil::of(&req, arrived));
            let method = req.method().clone();
            let replay = Replay::of(&req);
            let attempt = Attempt {
                arrived,
                info: &self.info,
                method: &method,
                cx: cx.as_ref(),
                grpc,
                replay: replay.as_ref(),
                // Layers cannot tell: what they drop was cancelled.
                expired: None,
                due,
                hints: hints.as_ref(),
            };
            self.name.send(&attempt, &self.stats, &mut Outgoing::on(req, trail)).await
        })
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Share").field(&self.call.name).finish()
    }
}

//! What a proxy says of a `TRACE` that asks for its way: how it was named, bound and balanced.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING},
};
use linkerd_balance::Draw;
use linkerd_dtab::{
    Path,
    delegate::{Delegation, Node, Step, settled},
};

use super::{attempt::Attempt, bound::BoundName, endpoints::Balanced, outgoing::Outgoing, time::now};
use crate::{Body, Error, http::max_forwards::Trace, telemetry::RequestStats};

/// How long an explanation is waited for: the name is bound already.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

impl BoundName {
    /// What is to be done with a request that asks for its way.
    pub(super) fn asks_for_its_way(attempt: &Attempt<'_>, req: &Outgoing) -> Option<Trace> {
        if *attempt.method != Method::TRACE {
            return None;
        }
        req.request()?.extensions().get().copied()
    }

    /// Sends a `TRACE` on and adds what is known here to the answer, or answers it.
    pub(super) async fn trace(
        &self,
        trace: Trace,
        balanced: &Balanced,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let begun = now();
        let (rsp, selected) = match trace {
            Trace::Invalid => {
                let mut rsp = Response::new(Body::from("Invalid value for Max-Forwards header"));
                *rsp.status_mut() = StatusCode::BAD_REQUEST;
                return Ok(rsp);
            }
            Trace::Answer { tells: false } => return Ok(Response::new(Body::empty())),
            Trace::Answer { tells: true } => {
                // Given back at once: nothing is sent.
                let lease = balanced.balance.try_acquire(Draw::new(crate::random::next()), begun, &[]);
                (Response::new(Body::empty()), lease.ok().map(|lease| lease.into_parts().0.key.addr))
            }
            Trace::Append => {
                let rsp = self.requeue(balanced, attempt, service, req).await?;
                (rsp, req.endpoint())
            }
        };
        let took = now() - begun;
        let told = self.tell(balanced, attempt, selected, took).await;
        Ok(append(rsp, &told))
    }

    async fn tell(
        &self,
        balanced: &Balanced,
        attempt: &Attempt<'_>,
        selected: Option<SocketAddr>,
        took: Duration,
    ) -> String {
        let info = attempt.info;
        let id = self.client.id();
        let addrs = balanced.addrs();
        let selected = selected.map_or_else(|| "none".to_owned(), |addr| addr.to_string());
        let mut told = format!(
            "--- Router: {} ---\nrequest duration: {} ms\nservice name: {}\nclient name: {id}\naddresses: [{addrs}]\n\
             selected address: {selected}\ndtab resolution:\n",
            info.shared.label,
            took.as_millis(),
            info.path
        );
        let dtab = info.shared.base.concat(&info.local);
        match settled(info.shared.interpreter.delegate(&dtab, &info.path), PATIENCE).await {
            Ok(delegation) => write_steps(&mut told, &delegation, id),
            Err(error) => drop(writeln!(told, "  {error}")),
        }
        told
    }
}

/// The answer with this behind its body. A body whose length is not known is left out, as in Linkerd 1.
fn append(mut rsp: Response<Body>, told: &str) -> Response<Body> {
    let text = match rsp.body().as_bytes() {
        Some(body) if body.is_empty() => told.as_bytes().to_vec(),
        Some(body) => [&body, &b"\n\n"[..], told.as_bytes()].concat(),
        None => format!("(a body of unknown length was left out)\n\n{told}").into_bytes(),
    };
    let headers = rsp.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    headers.remove(TRAILER);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    rsp.map(|_| Body::from(text))
}

/// The names on the way from the requested one to the bound one, each with the entry that led there.
fn write_steps(told: &mut String, delegation: &Delegation, id: &Path) {
    let mut way = Vec::new();
    if !leads_to(&delegation.root, id, &mut way) {
        way = vec![&delegation.root];
    }
    for node in way {
        // Writing to a string does not fail.
        let _ = match &node.dentry {
            Some(dentry) => writeln!(told, "  {} ({})", node.path, **dentry),
            None => writeln!(told, "  {}", node.path),
        };
    }
}

/// Finds the way from a node to the bound name.
fn leads_to<'a>(node: &'a Node, id: &Path, way: &mut Vec<&'a Node>) -> bool {
    way.push(node);
    let found = match &node.step {
        Step::Leaf(bound) => bound.id == *id,
        Step::Transformed { bound, to, .. } => bound.id == *id || leads_to(to, id, way),
        Step::Delegate { to, namers } => {
            leads_to(to, id, way) || namers.as_ref().is_some_and(|namers| leads_to(namers, id, way))
        }
        Step::Rewritten(to) => leads_to(to, id, way),
        Step::Alt(nodes) => nodes.iter().any(|node| leads_to(node, id, way)),
        Step::Union(branches) => branches.iter().any(|(_, node)| leads_to(node, id, way)),
        _ => false,
    };
    if !found {
        way.pop();
    }
    found
}

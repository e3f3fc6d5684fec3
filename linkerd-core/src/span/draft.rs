//! Spans that have not ended.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{Request, Response};
use linkerd_dtab::Path;
use linkerd_retry::ResponseClass;

use super::{MAX_ENTRIES, MAX_VALUE_BYTES, Span, SpanKind, Tracer};
use crate::{Error, http::TraceId, stack::now};

/// So many tags of a span are for how it ended.
const OUTCOME: usize = 3;

/// A span that has not ended.
#[derive(Debug)]
pub(super) struct Draft {
    span: Span,
    begun: Instant,
}

/// The span of one attempt. What is dropped without an outcome was cancelled.
#[derive(Debug)]
pub(crate) struct ClientSpan(Box<Attempted>);

#[derive(Debug)]
struct Attempted {
    id: TraceId,
    tracer: Tracer,
    // None once it has ended.
    draft: Option<Draft>,
}

/// At most [`MAX_VALUE_BYTES`] of it.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_VALUE_BYTES));
    text
}

impl Draft {
    pub(super) fn new<B>(id: TraceId, kind: SpanKind, service: String, req: &Request<B>) -> Self {
        let name = req.method().as_str().to_owned();
        let (tags, events) = (Vec::with_capacity(8), Vec::new());
        let (begun, took) = (SystemTime::now(), std::time::Duration::ZERO);
        let span = Span { id, kind, service, name, begun, took, local: None, peer: None, endpoint: None, tags, events };
        let mut draft = Self { span, begun: now() };
        draft.tag("http.method", req.method().as_str());
        draft.tag("http.uri", req.uri().path());
        draft
    }

    pub(super) fn between(&mut self, local: Option<SocketAddr>, peer: Option<SocketAddr>) {
        (self.span.local, self.span.peer) = (local, peer);
    }

    /// The last endpoint counts.
    pub(super) fn sent_to(&mut self, endpoint: SocketAddr) {
        self.span.endpoint = Some(endpoint);
    }

    pub(super) fn name(&self) -> &str {
        &self.span.name
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.span.tag(tag).is_some()
    }

    pub(super) fn rename(&mut self, name: String) {
        self.span.name = cut(name);
    }

    pub(super) fn tag(&mut self, name: &'static str, value: impl Into<String>) {
        if self.span.tags.len() < MAX_ENTRIES - OUTCOME {
            self.span.tags.push((name, cut(value.into())));
        }
    }

    /// A tag that says how it ended, for which there is room whatever came before.
    pub(super) fn outcome(&mut self, name: &'static str, value: impl Into<String>) {
        if self.span.tags.len() < MAX_ENTRIES {
            self.span.tags.push((name, cut(value.into())));
        }
    }

    pub(super) fn event(&mut self, event: &'static str) {
        if self.span.events.len() < MAX_ENTRIES {
            self.span.events.push((now() - self.begun, event));
        }
    }

    pub(super) fn end(mut self) -> Arc<Span> {
        self.span.took = now() - self.begun;
        Arc::new(self.span)
    }
}

impl ClientSpan {
    pub(super) fn begin<B>(tracer: Tracer, id: TraceId, client: &Path, endpoint: SocketAddr, req: &Request<B>) -> Self {
        let client = client.to_string();
        let service = client.strip_prefix('/').unwrap_or(&client).to_owned();
        let mut draft = Draft::new(id, SpanKind::Client, service, req);
        draft.between(None, Some(endpoint));
        Self(Box::new(Attempted { id, tracer, draft: Some(draft) }))
    }

    pub(crate) fn id(&self) -> TraceId {
        self.0.id
    }

    /// Says why it is dropped.
    pub(crate) fn fail(&mut self, reason: &'static str) {
        if let Some(draft) = &mut self.0.draft {
            draft.outcome("error", reason);
        }
        self.record();
    }

    /// Ends it with its outcome.
    pub(crate) fn end<B>(mut self, result: Result<&Response<B>, &Error>, class: ResponseClass) {
        let Some(draft) = &mut self.0.draft else { return };
        match result {
            Ok(rsp) => draft.outcome("http.status_code", rsp.status().as_str()),
            Err(error) => draft.outcome("error", error.kind().name()),
        }
        if class.is_success() {
            draft.outcome("l5d.success", "1.0");
        } else {
            draft.event(if class.is_retryable() { "l5d.retryable" } else { "l5d.failure" });
        }
        self.record();
    }

    fn record(&mut self) {
        let Attempted { tracer, draft, .. } = &mut *self.0;
        if let Some(draft) = draft.take() {
            tracer.record(&draft.end());
        }
    }
}

impl Drop for ClientSpan {
    fn drop(&mut self) {
        if self.0.draft.is_some() {
            self.fail("cancelled");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_the_outcome_whatever_came_before() {
        let mut draft = Draft::new(TraceId::root(), SpanKind::Server, "s".into(), &Request::new(()));
        for _ in 0..MAX_ENTRIES {
            draft.tag("client", "/a");
        }
        draft.outcome("http.status_code", "200");
        let span = draft.end();
        assert_eq!((span.tag("http.status_code"), span.tags.len()), (Some("200"), MAX_ENTRIES - OUTCOME + 1));
    }
}

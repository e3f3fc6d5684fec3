//! Whether requests are recorded, and where their spans go.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::Request;
use linkerd_dtab::{Dtab, Path};

use super::{ClientSpan, Span, SpanSink, draft::Draft};
use crate::http::TraceId;

/// Where spans go, and of which traces. A clone is the same.
#[derive(Clone, Debug)]
pub struct Tracer {
    sink: Arc<dyn SpanSink>,
    sample_rate: f64,
}

/// The span of a request that is being served, for what adds to it and for the attempts below it.
#[derive(Clone, Debug)]
pub(crate) struct Recording(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tracer: Tracer,
    // None once it has ended.
    draft: Mutex<Option<Draft>>,
}

impl Tracer {
    /// Records every trace of which nobody said that it is not recorded.
    #[must_use]
    pub fn new(sink: Arc<dyn SpanSink>) -> Self {
        Self { sink, sample_rate: 1.0 }
    }

    /// Records so large a share of the traces of which nobody decided yet, from 0 to 1. What is out of range is the nearer
    /// end of it, and no number is 0. Default: 1.
    ///
    /// A trace is decided once: by its caller, by `l5d-sample`, or here. What comes after that keeps to it.
    #[must_use]
    pub fn sample_rate(self, rate: f64) -> Self {
        Self { sample_rate: rate, ..self }
    }

    /// The span with its decision, and whether it is that it is recorded.
    pub(super) fn decide(&self, id: TraceId) -> (TraceId, bool) {
        let id = if id.sampled().is_none() { id.with_sample_rate(self.sample_rate) } else { id };
        (id, id.sampled() == Some(true))
    }

    pub(super) fn record(&self, span: Arc<Span>) {
        self.sink.record(span);
    }
}

impl Recording {
    pub(super) fn begin(tracer: Tracer, draft: Draft) -> Self {
        Self(Arc::new(Inner { tracer, draft: Mutex::new(Some(draft)) }))
    }

    /// Changes the span, if it has not ended.
    pub(super) fn edit(&self, edit: impl FnOnce(&mut Draft)) {
        // What panicked while it was held left a whole span.
        if let Some(draft) = &mut *self.0.draft.lock().unwrap_or_else(PoisonError::into_inner) {
            edit(draft);
        }
    }

    /// Ends it. Once: what comes later is not part of it.
    pub(super) fn end(&self) {
        let draft = self.0.draft.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(draft) = draft {
            self.0.tracer.record(draft.end());
        }
    }

    /// Which name it is for, and by which tables that is bound. Of several names the first.
    pub(crate) fn named(&self, path: &Path, base: &Dtab, local: &Dtab) {
        self.edit(|draft| {
            if draft.has("service") {
                return;
            }
            let service = path.to_string();
            draft.rename(format!("{} {service}", draft.name()));
            draft.tag("dtab.base", base.to_string());
            draft.tag("dtab.local", local.to_string());
            draft.tag("service", service);
        });
    }

    pub(crate) fn event(&self, event: &'static str) {
        self.edit(|draft| draft.event(event));
    }

    /// The span of an attempt at an endpoint.
    pub(crate) fn attempt<B>(
        &self,
        id: TraceId,
        client: &Path,
        residual: &str,
        endpoint: SocketAddr,
        req: &Request<B>,
    ) -> ClientSpan {
        self.edit(|draft| {
            draft.tag("client", client.to_string());
            draft.tag("residual", residual);
        });
        ClientSpan::begin(self.0.tracer.clone(), id, client, endpoint, req)
    }
}

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
    sinks: Arc<[Sampled]>,
}

/// A sink and its share of the traces of which nobody decided.
#[derive(Clone, Debug)]
struct Sampled {
    sink: Arc<dyn SpanSink>,
    rate: f64,
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
        Self { sinks: [Sampled { sink, rate: 1.0 }].into() }
    }

    /// Several tracers as one; `None` of none. Each has its own rate of what is decided here, and all have what was decided
    /// to be recorded before it came here.
    ///
    /// The traces of a lower rate are among those of a higher one.
    #[must_use]
    pub fn all(tracers: impl IntoIterator<Item = Self>) -> Option<Self> {
        let sinks: Arc<[_]> = tracers.into_iter().flat_map(|tracer| tracer.sinks.to_vec()).collect();
        (!sinks.is_empty()).then_some(Self { sinks })
    }

    /// Records so large a share of the traces of which nobody decided yet, from 0 to 1. What is out of range is the nearer
    /// end of it, and no number is 0. Default: 1.
    ///
    /// A trace is decided once: by its caller, by `l5d-sample`, or here. What comes after that keeps to it.
    #[must_use]
    pub fn sample_rate(self, rate: f64) -> Self {
        let sinks = self.sinks.iter().map(|sampled| Sampled { sink: Arc::clone(&sampled.sink), rate });
        Self { sinks: sinks.collect() }
    }

    /// The span with its decision, and where it is recorded, if it is.
    pub(super) fn decide(&self, id: TraceId) -> (TraceId, Option<Self>) {
        match id.sampled() {
            Some(true) => (id, Some(self.clone())),
            Some(false) => (id, None),
            None => self.draw(id),
        }
    }

    fn draw(&self, id: TraceId) -> (TraceId, Option<Self>) {
        let takes = |sampled: &&Sampled| id.with_sample_rate(sampled.rate).sampled() == Some(true);
        let tracer = match self.sinks.iter().filter(takes).count() {
            0 => None,
            all if all == self.sinks.len() => Some(self.clone()),
            _ => Some(Self { sinks: self.sinks.iter().filter(takes).cloned().collect() }),
        };
        let rate = if tracer.is_some() { 1.0 } else { 0.0 };
        (id.with_sample_rate(rate), tracer)
    }

    pub(super) fn record(&self, span: &Arc<Span>) {
        for sampled in &*self.sinks {
            sampled.sink.record(Arc::clone(span));
        }
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
            self.0.tracer.record(&draft.end());
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
            draft.sent_to(endpoint);
        });
        ClientSpan::begin(self.0.tracer.clone(), id, client, endpoint, req)
    }
}

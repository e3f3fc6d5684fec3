//! Sinks that need nothing else: a log, the last of them, several.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::Level;

use super::{Span, SpanKind, SpanSink};

/// Writes each span to the log, under the target `linkerd_core::span`.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    level: Level,
}

/// Keeps the last spans in memory: a hundred, unless it is told otherwise. Older ones give way.
///
/// A span has at most [`MAX_ENTRIES`](super::MAX_ENTRIES) tags of [`MAX_VALUE_BYTES`](super::MAX_VALUE_BYTES), whatever its
/// request was like.
#[derive(Debug)]
pub struct Recent {
    spans: Mutex<VecDeque<Arc<Span>>>,
    capacity: NonZeroUsize,
    kind: Option<SpanKind>,
}

/// Gives each span to several sinks.
#[derive(Clone, Debug)]
pub struct Fanout(Arc<[Arc<dyn SpanSink>]>);

impl Log {
    /// Logs at this level.
    #[must_use]
    pub const fn new(level: Level) -> Self {
        Self { level }
    }
}

impl Default for Log {
    /// `INFO`, as Linkerd's `io.l5d.tracelog`.
    fn default() -> Self {
        Self::new(Level::INFO)
    }
}

impl SpanSink for Log {
    fn record(&self, span: Arc<Span>) {
        macro_rules! log {
            ($level:expr) => {
                tracing::event!(
                    target: "linkerd_core::span",
                    $level,
                    trace = format_args!("{:016x}{:016x}", span.id.trace_high().unwrap_or_default(), span.id.trace()),
                    span = format_args!("{:016x}", span.id.span()),
                    parent = span.parent().map(|parent| tracing::field::display(format!("{parent:016x}"))),
                    kind = %span.kind,
                    service = span.service,
                    took_us = span.took.as_micros() as u64,
                    tags = ?span.tags,
                    events = ?span.events,
                    "{}",
                    span.name
                )
            };
        }
        match self.level {
            Level::ERROR => log!(Level::ERROR),
            Level::WARN => log!(Level::WARN),
            Level::INFO => log!(Level::INFO),
            Level::DEBUG => log!(Level::DEBUG),
            _ => log!(Level::TRACE),
        }
    }
}

impl Recent {
    /// Keeps so many.
    #[must_use]
    pub const fn new(capacity: NonZeroUsize) -> Self {
        Self { spans: Mutex::new(VecDeque::new()), capacity, kind: None }
    }

    /// Keeps only spans of this kind: with those of servers, the last requests. Default: both.
    #[must_use]
    pub fn only(self, kind: SpanKind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// Those that there are, the oldest first.
    #[must_use]
    pub fn spans(&self) -> Vec<Arc<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(const { NonZeroUsize::new(100).unwrap() })
    }
}

impl SpanSink for Recent {
    fn record(&self, span: Arc<Span>) {
        if self.kind.is_some_and(|kind| kind != span.kind) {
            return;
        }
        let oldest = {
            let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = if spans.len() >= self.capacity.get() { spans.pop_front() } else { None };
            spans.push_back(span);
            oldest
        };
        // Freed after the lock is.
        drop(oldest);
    }
}

impl Fanout {
    /// Gives to these, in this order.
    #[must_use]
    pub fn new(sinks: impl IntoIterator<Item = Arc<dyn SpanSink>>) -> Self {
        Self(sinks.into_iter().collect())
    }
}

impl SpanSink for Fanout {
    fn record(&self, span: Arc<Span>) {
        for sink in self.0.iter() {
            sink.record(Arc::clone(&span));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, time::SystemTime};

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    use super::*;
    use crate::http::TraceId;

    /// Keeps the lines of one log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(format!("{} {}", event.metadata().level(), event.metadata().target()));
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn span() -> Arc<Span> {
        Arc::new(Span {
            id: TraceId::root(),
            kind: SpanKind::Server,
            service: "0.0.0.0/4140".into(),
            name: "edge /svc/web".into(),
            begun: SystemTime::UNIX_EPOCH,
            took: std::time::Duration::from_millis(2),
            local: None,
            peer: None,
            endpoint: None,
            tags: vec![("http.status_code", "200".into())],
            events: Vec::new(),
        })
    }

    #[test]
    fn a_span_is_one_line_of_the_log_at_its_level() {
        let (lines, span) = (Lines::default(), span());
        tracing::subscriber::with_default(lines.clone(), || {
            let logs = [Level::WARN, Level::INFO].map(|level| Arc::new(Log::new(level)) as Arc<dyn SpanSink>);
            Fanout::new(logs).record(Arc::clone(&span));
        });
        let lines = lines.0.lock().unwrap();
        let starts: Vec<_> = lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
        assert_eq!(starts, [["WARN", "linkerd_core::span"], ["INFO", "linkerd_core::span"]]);
        let id = format!("{:016x}", span.id.span());
        for part in ["edge /svc/web", &id, "kind=server", "service=\"0.0.0.0/4140\"", "took_us=2000", "\"200\""] {
            assert!(lines[0].contains(part), "{part}: {}", lines[0]);
        }
    }
}

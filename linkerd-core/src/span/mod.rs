//! Spans: what one request was at each place that it passed, and where that is told.
//!
//! ```text
//! SpanLayer   one span for a request that comes in: which name, which client, how often it was sent
//!   └ mesh    one span below it for each attempt: which endpoint, which status
//!       └──►  SpanSink: the last hundred, the log, or a collector
//! ```
//!
//! Nothing is recorded, and nothing costs anything, without a [`SpanLayer`] around what a server serves. Their names, tags
//! and annotations are those that Linkerd 1 sent to Zipkin.
//!
//! ```
//! use std::sync::Arc;
//!
//! use linkerd_core::{
//!     Mesh, Svc,
//!     http::{Server, ServerConfig},
//!     identify::HeaderToken,
//!     span::{Recent, SpanLayer, Tracer},
//! };
//! use tower::Layer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let recent = Arc::new(Recent::default());
//! let tracer = Tracer::new(recent.clone()).sample_rate(0.01);
//! let mesh = Mesh::builder().dtab("/svc => /$/inet/127.0.0.1".parse()?).build()?;
//! let router = mesh.router(HeaderToken::host("/svc".parse()?));
//! let server = Server::bind(ServerConfig { addr: "127.0.0.1:0".parse()?, ..ServerConfig::default() })?;
//! let spans = SpanLayer::new(tracer, "edge").at(server.local_addr());
//! tokio::spawn(server.serve(Svc::new(spans.layer(router)), std::future::pending()));
//! assert!(recent.spans().is_empty());
//! # Ok(())
//! # }
//! ```

mod draft;
mod layer;
mod sinks;
mod tracer;

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub(crate) use self::{draft::ClientSpan, tracer::Recording};
pub use self::{
    layer::{ResponseFuture, SpanLayer, Spans},
    sinks::{Fanout, Log, Recent},
    tracer::Tracer,
};
use crate::http::TraceId;

/// How many tags a span has at most, and how many events. Later ones are left out; the last three tags are for how it
/// ended, which is never left out.
pub const MAX_ENTRIES: usize = 32;
/// How many bytes of a tag's value are kept, and of a name.
pub const MAX_VALUE_BYTES: usize = 512;

/// Where spans go.
pub trait SpanSink: fmt::Debug + Send + Sync + 'static {
    /// Takes a span that ended.
    ///
    /// Called in the task of its request, so it must not block. What cannot be kept is dropped, and counted by the sink.
    fn record(&self, span: Arc<Span>);
}

/// Which side of a request a span tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// It came in.
    Server,
    /// It was sent on.
    Client,
}

/// One request at one place, from its head to the head of its answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Span {
    /// Its id, its parent's and its trace's.
    pub id: TraceId,
    /// Which side of the request it is.
    pub kind: SpanKind,
    /// Whose it is: a server's address as `ip/port`, a client's bound name without its leading slash.
    pub service: String,
    /// A server's router and logical name, a client's method.
    pub name: String,
    /// When it began, by the wall clock.
    pub begun: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The address of this side, if it is known.
    pub local: Option<SocketAddr>,
    /// The address of the other side, if it is known.
    pub peer: Option<SocketAddr>,
    /// Of a server's span the endpoint of the last attempt, if there was one. A client's is its `peer`.
    pub endpoint: Option<SocketAddr>,
    /// What is known of it, in the order in which it became known: `router.label`, `flavour`, `service`, `client`, `residual`,
    /// `dtab.base`, `dtab.local`, `http.method`, `http.uri` (without its query), `http.status_code`, `l5d.success`,
    /// `io.buoyant.router.Failure`, `error`.
    pub tags: Vec<(&'static str, String)>,
    /// What happened, and how long after it began: `namer.success`, `namer.failure`, `finagle.retry`, `l5d.retryable`,
    /// `l5d.failure`.
    pub events: Vec<(Duration, &'static str)>,
}

impl Span {
    /// The span that caused it; `None` if it is the first of its trace.
    #[must_use]
    pub fn parent(&self) -> Option<u64> {
        (self.id.parent() != self.id.span()).then(|| self.id.parent())
    }

    /// The first value of a tag.
    #[must_use]
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(tag, _)| *tag == name).map(|(_, value)| value.as_str())
    }

    /// The last value of a tag: of the tags of several attempts that of the last one.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<&str> {
        self.tags.iter().rfind(|(tag, _)| *tag == name).map(|(_, value)| value.as_str())
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, event: &str) -> usize {
        self.events.iter().filter(|(_, happened)| *happened == event).count()
    }
}

impl fmt::Display for SpanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

//! Carries the context of a request through a service: what it brought goes out again with the requests that it causes.
//!
//! A proxy on each side of a service can only tell which of the service's requests belong to one that came in if the
//! service says so, by handing on the headers whose names start with `l5d-ctx-`, and those of its tracer. [`ServerLayer`]
//! keeps those of a request while the service works on it, [`ClientLayer`] puts them onto whatever is sent meanwhile, byte
//! for byte. They stay across `await`, `join!` and `select!`, and while the response's body is read; a task of its own needs
//! [`spawn_with_context`] or [`Context::scope`].
//!
//! What they hold is [`Context`], which [`Context::current`] returns anywhere below the layer, and the request's extensions
//! in a handler: the deadline, the trace, rules for names, how much the request matters, and keys of one's own. Changed, it
//! holds for what runs in its [scope](Context::scope).
//!
//! ```
//! use http::{Request, Response};
//! use linkerd_core::context::{ClientLayer, Context, ServerLayer};
//! use tower::{BoxError, Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let backend = service_fn(|req: Request<()>| async move {
//!     assert_eq!(req.headers()["l5d-ctx-trace"], "abc");
//!     assert_eq!(req.headers()["l5d-ctx-key-tenant"], "acme");
//!     Ok::<_, BoxError>(Response::new(()))
//! });
//! let client = ClientLayer::new().layer(backend);
//! let handler = service_fn(move |_req: Request<()>| {
//!     let send = client.clone().oneshot(Request::new(()));
//!     async { Context::current().with("tenant", "acme")?.scope(send).await }
//! });
//!
//! let req = Request::builder().header("l5d-ctx-trace", "abc").body(())?;
//! ServerLayer::new().layer(handler).oneshot(req).await?;
//! # Ok(())
//! # }
//! ```

mod layer;
mod scope;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use linkerd_dtab::Dtab;
use linkerd_retry::limit::Criticality;

pub use self::{
    layer::{Client, ClientLayer, ResponseFuture, Server, ServerLayer},
    scope::{InContext, spawn_with_context},
};
use crate::http::{
    Deadline, Propagation, RequestContext, TraceId,
    headers::{L5D_CTX_CRITICALITY, L5D_CTX_DEADLINE, L5D_CTX_DTAB, L5D_CTX_TRACE},
};

/// How many values are carried. More are left behind, the later ones.
pub const MAX_VALUES: usize = 32;
/// How many bytes of names and values are carried. A value that does not fit is left behind.
pub const MAX_BYTES: usize = 16 * 1024;

const PREFIX: &str = "l5d-ctx-";
/// Before the name of a key of one's own.
const KEY: &str = "l5d-ctx-key-";

/// What a request carries. A clone is a reference count; nothing costs nothing.
#[derive(Clone, Default)]
pub struct Context(Option<Arc<Carried>>);

struct Carried {
    headers: Vec<(HeaderName, HeaderValue)>,
    // The same for the engine, which need not read headers then. None if it could not read them.
    engine: Option<RequestContext>,
}

/// Something that a context cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A key that cannot be part of a header's name.
    #[error("{0:?} cannot be a key: letters, digits, '-' and '_' can")]
    Key(String),
    /// A value that a header cannot hold.
    #[error("the value of {0:?} has bytes that a header cannot hold")]
    Value(String),
    /// It would hold more than [`MAX_VALUES`], or more than [`MAX_BYTES`].
    #[error("with {0:?} there would be more than {MAX_VALUES} values or {MAX_BYTES} bytes to carry")]
    TooLarge(String),
}

impl Context {
    /// That of the request that is being worked on here; an empty one elsewhere.
    #[must_use]
    pub fn current() -> Self {
        scope::current()
    }

    /// What a request brought.
    pub(crate) fn of<B>(req: &Request<B>) -> Self {
        let mut left = Room::default();
        let mut headers = Vec::new();
        let mut keep = |from: &HeaderMap| {
            for (name, value) in from {
                if is_context(name) && left.take(name, value) {
                    headers.push((name.clone(), value.clone()));
                }
            }
        };
        keep(req.headers());
        let engine = if let Some(cx) = req.extensions().get::<RequestContext>() {
            // Our server took its part off the headers.
            let mut theirs = HeaderMap::new();
            cx.write_span(cx.trace.unwrap_or_else(TraceId::root), &mut theirs);
            keep(&theirs);
            Some(cx.clone())
        } else {
            let mut copy: HeaderMap = headers.iter().cloned().collect();
            let read = (!copy.is_empty()).then(|| RequestContext::read(&mut copy).ok()).flatten();
            // The caller's span goes on as it came: nobody here made one below it.
            read.map(|cx| RequestContext { trace: None, propagation: Propagation::NOTHING, ..cx })
        };
        if headers.is_empty() {
            return Self::default();
        }
        let engine = engine.map(|cx| RequestContext {
            remote: None,
            local: None,
            overrides: None,
            until: None,
            kept_by: None,
            spelling: None,
            ..cx
        });
        Self(Some(Arc::new(Carried { headers, engine })))
    }

    /// Puts it onto a request that is to be sent. A header that the request has already stays as it is.
    pub(crate) fn apply<B>(&self, req: &mut Request<B>) {
        let Some(carried) = &self.0 else { return };
        let headers = req.headers_mut();
        let mut mine: Vec<&HeaderName> = Vec::new();
        for (name, value) in &carried.headers {
            if mine.contains(&name) || !headers.contains_key(name) {
                mine.push(name);
                headers.append(name, value.clone());
            }
        }
        if let Some(engine) = &carried.engine
            && req.extensions().get::<RequestContext>().is_none()
        {
            req.extensions_mut().insert(engine.clone());
        }
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// When the answer to the request is no longer wanted.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.values(L5D_CTX_DEADLINE).filter_map(Deadline::decode).reduce(Deadline::combined)
    }

    /// The span that is the parent of what is sent.
    #[must_use]
    pub fn trace(&self) -> Option<TraceId> {
        self.values(L5D_CTX_TRACE).find_map(TraceId::decode)
    }

    /// Rules for the names of this request and of those that it causes. What cannot be read is none.
    #[must_use]
    pub fn dtab(&self) -> Dtab {
        let tables = self.values(L5D_CTX_DTAB).filter_map(|value| value.to_str().ok()?.parse::<Dtab>().ok());
        tables.fold(Dtab::empty(), |all, table| all.concat(&table))
    }

    /// How much the request matters, if it says so.
    #[must_use]
    pub fn criticality(&self) -> Option<Criticality> {
        self.values(L5D_CTX_CRITICALITY).find_map(|value| value.to_str().ok()?.parse().ok())
    }

    /// The value of a key of one's own, which is the header `l5d-ctx-key-KEY`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let is_key =
            |name: &HeaderName| name.as_str().strip_prefix(KEY).is_some_and(|name| name.eq_ignore_ascii_case(key));
        let mut headers = self.0.iter().flat_map(|carried| &carried.headers);
        headers.find(|(name, _)| is_key(name)).and_then(|(_, value)| value.to_str().ok())
    }

    /// With a key of one's own, in place of what it held. All services behind this one see it.
    ///
    /// # Errors
    ///
    /// The key or the value cannot be in a header, or there is no room left.
    pub fn with(&self, key: &str, value: &str) -> Result<Self, ContextError> {
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let name = Some(format!("{KEY}{key}")).filter(|_| is_key && key.len() <= 128);
        let name =
            name.and_then(|name| HeaderName::try_from(name).ok()).ok_or_else(|| ContextError::Key(key.into()))?;
        let value = HeaderValue::from_str(value).map_err(|_| ContextError::Value(key.into()))?;
        self.replace(name, value)
    }

    /// With a class for what is sent from now on.
    ///
    /// # Errors
    ///
    /// There is no room left.
    pub fn with_criticality(&self, class: Criticality) -> Result<Self, ContextError> {
        self.replace(L5D_CTX_CRITICALITY, HeaderValue::from_static(class.as_str()))
    }

    /// With rules that come after those that there are, and so before them.
    ///
    /// # Errors
    ///
    /// There is no room left.
    pub fn with_dtab(&self, dtab: &Dtab) -> Result<Self, ContextError> {
        let all = self.dtab().concat(dtab);
        let value =
            HeaderValue::try_from(all.to_string()).map_err(|_| ContextError::Value(L5D_CTX_DTAB.to_string()))?;
        let mut cx = self.replace(L5D_CTX_DTAB, value)?;
        cx.edit(|engine| engine.dtab = all);
        Ok(cx)
    }

    /// With a deadline so far from now, unless the one that there is comes first.
    ///
    /// # Errors
    ///
    /// There is no room left.
    pub fn expiring_after(&self, timeout: Duration) -> Result<Self, ContextError> {
        let ours = Deadline::after(std::time::SystemTime::now(), timeout);
        let deadline = self.deadline().map_or(ours, |theirs| theirs.combined(ours));
        let value = deadline.encode().ok_or_else(|| ContextError::Value(L5D_CTX_DEADLINE.to_string()))?;
        let mut cx = self.replace(L5D_CTX_DEADLINE, value)?;
        cx.edit(|engine| engine.deadline = Some(deadline));
        Ok(cx)
    }

    fn values(&self, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
        let headers = self.0.iter().flat_map(|carried| &carried.headers);
        headers.filter(move |(carried, _)| *carried == name).map(|(_, value)| value)
    }

    fn replace(&self, name: HeaderName, value: HeaderValue) -> Result<Self, ContextError> {
        let carried = self.0.as_deref();
        let mut headers: Vec<_> = carried.map(|carried| carried.headers.clone()).unwrap_or_default();
        headers.retain(|(held, _)| *held != name);
        headers.push((name, value));
        let mut room = Room::default();
        if let Some((name, _)) = headers.iter().find(|(name, value)| !room.take(name, value)) {
            return Err(ContextError::TooLarge(name.to_string()));
        }
        // One that begins here has no trace yet: each request that is sent begins one.
        let engine = carried.map_or_else(|| Some(RequestContext::default()), |carried| carried.engine.clone());
        Ok(Self(Some(Arc::new(Carried { headers, engine }))))
    }

    /// Changes what was made just now.
    fn edit(&mut self, edit: impl FnOnce(&mut RequestContext)) {
        if let Some(engine) = self.0.as_mut().and_then(Arc::get_mut).and_then(|carried| carried.engine.as_mut()) {
            edit(engine);
        }
    }
}

/// Whether a header is carried: Linkerd's own, and those of the usual tracers.
fn is_context(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with(PREFIX) || name.starts_with("x-b3-") || matches!(name, "b3" | "traceparent" | "tracestate")
}

/// How much more may be carried.
struct Room {
    values: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { values: MAX_VALUES, bytes: MAX_BYTES }
    }
}

impl Room {
    fn take(&mut self, name: &HeaderName, value: &HeaderValue) -> bool {
        let size = name.as_str().len() + value.len();
        let fits = self.values > 0 && size <= self.bytes;
        if fits {
            self.values -= 1;
            self.bytes -= size;
        } else {
            tracing::debug!(%name, size, "there is no room for a header of the context");
        }
        fits
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.0.iter().flat_map(|carried| &carried.headers);
        f.debug_map().entries(headers.map(|(name, value)| (name, value))).finish()
    }
}

#[cfg(test)]
mod tests;

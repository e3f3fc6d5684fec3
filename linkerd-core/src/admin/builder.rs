//! What the admin pages show, put together.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{Request, Response};
use linkerd_dtab::{Dtab, Interpreter};
use serde_json::Value;

use super::{
    Admin, Extra, Logging, Pages, Security,
    breakers::{Breakers, Forced},
    control::Reload,
    requests,
};
#[cfg(doc)]
use crate::span::SpanKind;
use crate::{
    Body,
    span::Recent,
    telemetry::{Prometheus, Registry},
};

/// Makes an [`Admin`]. What is not given has no page, but for names and state, which are then empty.
#[must_use]
pub struct Builder {
    pages: Pages,
    duplicate: Option<String>,
}

/// A router, as the admin pages show it.
#[derive(Clone)]
pub struct Router {
    pub(super) label: String,
    pub(super) protocol: String,
    pub(super) servers: Vec<String>,
    pub(super) dtab: Dtab,
    pub(super) interpreter: Arc<dyn Interpreter>,
}

/// A page cannot be where it was put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPage {
    /// Paths begin with a slash.
    #[error("the admin page {0:?} does not begin with a slash")]
    NoSlash(String),
    /// Another page is there.
    #[error("there are two admin pages at {0}")]
    Taken(String),
}

impl Router {
    /// A router: its label, its base table, and what binds its names.
    #[must_use]
    pub fn new(label: impl Into<String>, dtab: Dtab, interpreter: Arc<dyn Interpreter>) -> Self {
        Self { label: label.into(), protocol: "http".to_owned(), servers: Vec::new(), dtab, interpreter }
    }

    /// The protocol. Default: `http`.
    #[must_use]
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = protocol.into();
        self
    }

    /// One more server: its address, or `<ip>/<port>` as in its metrics.
    #[must_use]
    pub fn server(mut self, server: impl Into<String>) -> Self {
        let server = server.into();
        let label = server.parse::<SocketAddr>().map_or(server, |addr| format!("{}/{}", addr.ip(), addr.port()));
        self.servers.push(label);
        self
    }
}

impl Builder {
    pub(super) fn new(registry: Registry) -> Self {
        let pages = Pages {
            registry,
            config: None,
            routers: Vec::new(),
            global: None,
            bound_names: None,
            client_state: None,
            state: Vec::new(),
            logging: None,
            shutdown: None,
            drain: None,
            ready: None,
            live: None,
            reload: None,
            breakers: None,
            security: None,
            extra: BTreeMap::new(),
            namespaces: None,
            front: None,
            below: Vec::new(),
        };
        Self { pages, duplicate: None }
    }

    /// What binds names in the namespaces of `/delegator.json` that are no routers.
    pub fn namespaces(
        mut self,
        namespaces: impl Fn(&str) -> Option<Arc<dyn Interpreter>> + Send + Sync + 'static,
    ) -> Self {
        self.pages.namespaces = Some(Arc::new(namespaces));
        self
    }

    /// The first page, a whole document of HTML, instead of the one that shows the routers.
    pub fn front(mut self, page: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.pages.front = Some(Arc::new(page));
        self
    }

    /// What answers for all paths that begin with `path` and have no page of their own.
    pub fn below(
        mut self,
        path: impl Into<String>,
        answer: impl Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static,
    ) -> Self {
        self.pages.below.push((path.into(), Arc::new(answer)));
        self
    }

    /// `/config.json`: the configuration.
    pub fn config(mut self, config: Value) -> Self {
        self.pages.config = Some(config);
        self
    }

    /// One more router on the first page, and a namespace of `/delegator.json`.
    pub fn router(mut self, router: Router) -> Self {
        self.pages.routers.push(router);
        self
    }

    /// What explains names in `/delegator.json` if no router is named: one without configured namers, in Linkerd.
    pub fn global(mut self, interpreter: Arc<dyn Interpreter>) -> Self {
        self.pages.global = Some(interpreter);
        self
    }

    /// `/bound-names.json`: the names that namers can list.
    pub fn bound_names(mut self, names: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.pages.bound_names = Some(Arc::new(names));
        self
    }

    /// `/client_state.json`: an object with a member per client; see [`addr_state`](super::addr_state).
    pub fn client_state(mut self, state: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.pages.client_state = Some(Arc::new(state));
        self
    }

    /// One more member of `/state.json`; see [`watch_state`](super::watch_state).
    pub fn state(mut self, name: impl Into<String>, state: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.pages.state.push((name.into(), Arc::new(state)));
        self
    }

    /// `/logging` and `/logging.json`.
    pub fn logging(mut self, logging: Logging) -> Self {
        self.pages.logging = Some(logging);
        self
    }

    /// `/admin/shutdown`: called once for each `POST`, with the grace that it asks for, if it does. Must only signal: the
    /// answer is sent after it returns.
    pub fn shutdown(mut self, shutdown: impl Fn(Option<Duration>) + Send + Sync + 'static) -> Self {
        self.pages.shutdown = Some(Arc::new(shutdown));
        self
    }

    /// `/admin/drain`: called with true for each `POST`, with false for each `DELETE`. Must only signal.
    pub fn drain(mut self, drain: impl Fn(bool) + Send + Sync + 'static) -> Self {
        self.pages.drain = Some(Arc::new(drain));
        self
    }

    /// `/admin/ready`: 200 if requests should be sent to this process, and 503 with why not.
    pub fn ready(mut self, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.pages.ready = Some(Arc::new(ready));
        self
    }

    /// `/admin/live`: 200 if this process works, and 503 if only a new one would.
    pub fn live(mut self, live: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static) -> Self {
        self.pages.live = Some(Arc::new(live));
        self
    }

    /// `/admin/reload`: `GET` shows `state`; `POST` calls `reload`, and answers with what it returns or, by 422, with why not.
    pub fn reload(
        mut self,
        state: impl Fn() -> Value + Send + Sync + 'static,
        reload: impl Fn() -> BoxFuture<'static, Result<Value, String>> + Send + Sync + 'static,
    ) -> Self {
        self.pages.reload = Some(Reload { state: Arc::new(state), reload: Arc::new(reload) });
        self
    }

    /// `/admin/breakers`: called once for each `POST` that asks for something that can be forced; says how many breakers
    /// were forced. `GET` shows the last hundred.
    pub fn breakers(mut self, force: impl Fn(&Forced) -> usize + Send + Sync + 'static) -> Self {
        self.pages.breakers = Some(Breakers::new(force));
        self
    }

    /// Hides pages. Default: none is hidden.
    pub fn security(mut self, security: Security) -> Self {
        self.pages.security = Some(security);
        self
    }

    /// One more page of metrics, [`Prometheus::DEFAULT_PATH`] for example.
    pub fn prometheus(self, path: impl Into<String>, prometheus: Prometheus) -> Self {
        self.extra(path.into(), Extra::Prometheus(prometheus))
    }

    /// One more page of JSON, `/namer_state/io.l5d.fs.json` for example.
    pub fn json(self, path: impl Into<String>, show: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.extra(path.into(), Extra::Json(Arc::new(show)))
    }

    /// `/requests` and `/requests.json`: the last requests, of which the sink keeps the [servers'](SpanKind::Server) spans.
    pub fn requests(self, recent: Arc<Recent>) -> Self {
        let shown = Arc::clone(&recent);
        self.extra("/requests".to_owned(), Extra::Html(Arc::new(move || requests::html(&shown))))
            .json("/requests.json", move || requests::json(&recent))
    }

    fn extra(mut self, path: String, page: Extra) -> Self {
        if self.pages.extra.insert(path.clone(), page).is_some() {
            self.duplicate.get_or_insert(path);
        }
        self
    }

    /// The pages.
    ///
    /// # Errors
    ///
    /// The first page that cannot be where it was put.
    pub fn build(self) -> Result<Admin, InvalidPage> {
        if let Some(path) = self.duplicate {
            return Err(InvalidPage::Taken(path));
        }
        if let Some(path) = self.pages.extra.keys().find(|path| !path.starts_with('/')) {
            return Err(InvalidPage::NoSlash(path.clone()));
        }
        let paths = self.pages.paths();
        if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidPage::Taken(twice[0].clone()));
        }
        Ok(Admin::new(self.pages))
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, protocol, servers, dtab, interpreter: _ } = self;
        f.debug_struct("Router")
            .field("label", label)
            .field("protocol", protocol)
            .field("servers", servers)
            .field("dtab", dtab)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("paths", &self.pages.paths()).finish_non_exhaustive()
    }
}

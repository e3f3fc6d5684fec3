//! The admin pages: what a process names, routes and counts, as a tower service.
//!
//! The pages, paths and answers are those of Linkerd 1.x, and `/state.json` is ours. What they show is handed in, so
//! that they know neither an engine nor a file; where they are served is the caller's choice.
//!
//! ```
//! use linkerd_core::{Body, admin::Admin, telemetry::Registry};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let registry = Registry::new();
//! let admin = Admin::builder(registry.clone()).config(serde_json::json!({"routers": []})).build()?;
//! let rsp = admin.send(http::Request::get("/admin/ping").body(Body::empty())?).await;
//! assert_eq!(rsp.status(), 200);
//! # Ok(())
//! # }
//! ```

mod breakers;
mod builder;
mod control;
mod delegator;
mod home;
mod identify;
mod mesh;
mod paged;
mod params;
mod playground;
mod reply;
mod requests;
mod security;
mod serve;
mod target;
mod timeouts;
mod watch;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body as _;
use linkerd_dtab::Interpreter;
use serde_json::Value;
use tower::{ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_layer::Layer;
use tower_service::Service;

use self::{
    control::Shutdown,
    params::{BadParams, Params},
    reply::Kind,
};
use crate::{
    Body, BoxError, Error, Svc, SvcFuture,
    telemetry::{Prometheus, Registry, json},
};

pub use breakers::Forced;
pub use builder::{Builder, InvalidPage, Router};
pub use control::Logging;
#[cfg(feature = "namerd")]
pub(crate) use home::Escaped;
pub use identify::Identify;
pub use mesh::{mesh_balancers, mesh_clients, mesh_state};
pub use security::{InvalidPattern, Security};
pub use serve::serve;
pub(crate) use serve::{Through, Way, serve_through};
#[cfg(feature = "namerd")]
pub(crate) use target::AnyTarget;
pub use timeouts::timeouts;
pub use watch::{addr_state, answer_state, snapshot_state, watch_state};

/// The admin pages. A clone serves the same ones.
///
/// Always ready, and never fails: what goes wrong is a status, and so is a panic. Of more than some thousand metrics the page is
/// made while it is read, in pieces with a pause of a millisecond after each: a panic then breaks it off.
#[derive(Clone)]
pub struct Admin {
    svc: Svc,
    pages: Arc<Pages>,
}

type Show<T> = Arc<dyn Fn() -> T + Send + Sync>;

struct Pages {
    registry: Registry,
    config: Option<Value>,
    routers: Vec<Router>,
    global: Option<Arc<dyn Interpreter>>,
    bound_names: Option<Show<Vec<String>>>,
    client_state: Option<Show<Value>>,
    state: Vec<(String, Show<Value>)>,
    logging: Option<Logging>,
    shutdown: Option<Shutdown>,
    drain: Option<control::Drain>,
    ready: Option<control::Ready>,
    live: Option<control::Live>,
    reload: Option<control::Reload>,
    breakers: Option<breakers::Breakers>,
    security: Option<Security>,
    extra: BTreeMap<String, Extra>,
    namespaces: Option<Namespaces>,
    front: Option<Show<String>>,
    below: Vec<(String, Below)>,
}

/// What binds names in a namespace of this name, if there may be one.
type Namespaces = Arc<dyn Fn(&str) -> Option<Arc<dyn Interpreter>> + Send + Sync>;

/// What answers for all paths below one.
type Below = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

enum Extra {
    Html(Show<String>),
    Json(Show<Value>),
    Prometheus(Prometheus),
}

impl Admin {
    /// Pages that show the metrics of a registry, to which further ones are added.
    pub fn builder(registry: Registry) -> Builder {
        Builder::new(registry)
    }

    fn new(pages: Pages) -> Self {
        let pages = Arc::new(pages);
        let shared = Arc::clone(&pages);
        let svc = service_fn(move |req| {
            let pages = Arc::clone(&shared);
            async move { Ok::<_, BoxError>(pages.serve(req).await) }
        });
        // Outside all pages: what a page's function does is not known here.
        let svc = CatchPanicLayer::new().layer(svc).map_response(|rsp: Response<_>| rsp.map(Body::new));
        Self { svc: Svc::new(svc), pages }
    }

    /// Asks for a page.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the page; what was posted may have taken effect.
    pub async fn send(&self, req: Request<Body>) -> Response<Body> {
        match self.svc.send(req).await {
            Ok(rsp) => rsp,
            Err(error) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, error.text()),
        }
    }

    /// The pages as a service.
    #[must_use]
    pub fn into_svc(self) -> Svc {
        self.svc
    }

    /// The paths of all pages, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.pages.paths()
    }
}

impl Pages {
    async fn serve(&self, req: Request<Body>) -> Response<Body> {
        if self.security.as_ref().is_some_and(|security| !security.allows(req.uri().path())) {
            return reply::empty(StatusCode::NOT_FOUND);
        }
        if req.method() != Method::HEAD {
            return self.route(req).await;
        }
        let mut rsp = self.route(req).await;
        if let Some(len) = rsp.body().size_hint().exact() {
            rsp.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        }
        *rsp.body_mut() = Body::empty();
        rsp
    }

    async fn route(&self, req: Request<Body>) -> Response<Body> {
        let path = req.uri().path();
        let page = match path {
            "/" => Some(match &self.front {
                Some(front) => reply::page(Kind::HtmlPlain, front()),
                None => reply::page(Kind::Html, home::home(self)),
            }),
            "/help" => Some(reply::page(Kind::Html, home::help(self))),
            "/logging" => self.logging.as_ref().map(|logging| reply::page(Kind::Html, home::logging(logging))),
            "/files/css/dashboard.css" => Some(reply::page(Kind::Css, home::STYLE)),
            "/favicon.ico" => Some(reply::page(Kind::Icon, home::FAVICON)),
            "/admin" | "/admin/index.txt" => Some(reply::page(Kind::Text, self.paths().join("\n") + "\n")),
            "/admin/server_info" => Some(reply::json(Kind::JsonUtf8, &home::server_info())),
            "/admin/ping" => Some(reply::page(Kind::TextUtf8, "pong")),
            "/admin/metrics.json" => Some(self.metrics(req.uri()).unwrap_or_else(|error| error.answer())),
            "/config.json" => self.config.as_ref().map(|config| reply::json(Kind::JsonUtf8, config)),
            "/bound-names.json" => {
                let names = self.bound_names.as_ref().map_or_else(Vec::new, |names| names());
                Some(reply::json(Kind::Json, &names.into()))
            }
            "/client_state.json" => self.client_state.as_ref().map(|state| reply::json(Kind::JsonUtf8, &state())),
            "/state.json" => Some(reply::json(Kind::Json, &self.state())),
            "/delegator" => return playground::serve(self, req).await,
            "/delegator.json" => return delegator::serve(self, req).await,
            "/dtab/delegator.json" if self.namespaces.is_some() => return delegator::serve(self, req).await,
            "/logging.json" => match &self.logging {
                Some(logging) => return logging.serve(req).await,
                None => None,
            },
            "/admin/breakers" => match &self.breakers {
                Some(breakers) => return breakers.serve(req).await,
                None => None,
            },
            "/admin/shutdown" => match &self.shutdown {
                Some(shutdown) => return control::shut_down(shutdown, req).await,
                None => None,
            },
            "/admin/drain" => self.drain.as_ref().map(|drain| control::drain(drain, &req)),
            "/admin/ready" => self.ready.as_ref().map(control::ready),
            "/admin/live" => match &self.live {
                Some(live) => return control::live(live).await,
                None => None,
            },
            "/admin/reload" => match &self.reload {
                Some(reload) => return reload.serve(req).await,
                None => None,
            },
            _ => match self.extra.get(path) {
                Some(Extra::Html(show)) => Some(reply::page(Kind::HtmlPlain, show())),
                Some(Extra::Json(show)) => Some(reply::json(Kind::Json, &show())),
                Some(Extra::Prometheus(prometheus)) => Some(paged::page(Kind::Text, prometheus.pieces(&self.registry))),
                None => match self.below.iter().find(|(below, _)| path.starts_with(below)) {
                    Some((_, answer)) => return answer(req).await,
                    None => None,
                },
            },
        };
        page.unwrap_or_else(|| not_found(path))
    }

    fn metrics(&self, uri: &Uri) -> Result<Response<Body>, BadParams> {
        let params = Params::query(uri)?;
        let (pretty, tree) = (params.flag("pretty")?, params.flag("tree")?);
        let query = params.get("q");
        let scope: Vec<_> = query.map_or_else(Vec::new, |query| query.trim_end_matches('/').split('/').collect());
        // For people, these are made whole.
        let whole = |all: Value| reply::page(Kind::Json, if pretty { format!("{all:#}") } else { all.to_string() });
        let found = match (tree, pretty) {
            (true, _) => json::tree(&self.registry, &scope).map(whole),
            (false, true) => json::flat(&self.registry, &scope, true).map(whole),
            (false, false) => json::Flat::new(&self.registry, &scope).map(|pieces| paged::page(Kind::Json, pieces)),
        };
        Ok(found.unwrap_or_else(|| {
            let text = Value::from(format!("No such subtree: {}", query.unwrap_or("")));
            reply::with_status(StatusCode::NOT_FOUND, Kind::Json, format!(r#"{{"error": {text}}}"#))
        }))
    }

    fn state(&self) -> Value {
        self.state.iter().map(|(name, show)| (name.clone(), show())).collect()
    }

    fn paths(&self) -> Vec<String> {
        let always = [
            "/",
            "/help",
            "/favicon.ico",
            "/files/css/dashboard.css",
            "/admin",
            "/admin/index.txt",
            "/admin/ping",
            "/admin/server_info",
            "/admin/metrics.json",
            "/bound-names.json",
            "/delegator",
            "/delegator.json",
            "/state.json",
        ];
        let sometimes = [
            ("/config.json", self.config.is_some()),
            ("/client_state.json", self.client_state.is_some()),
            ("/logging", self.logging.is_some()),
            ("/logging.json", self.logging.is_some()),
            ("/admin/breakers", self.breakers.is_some()),
            ("/admin/shutdown", self.shutdown.is_some()),
            ("/admin/drain", self.drain.is_some()),
            ("/admin/ready", self.ready.is_some()),
            ("/admin/live", self.live.is_some()),
            ("/admin/reload", self.reload.is_some()),
        ];
        let sometimes = sometimes.into_iter().filter_map(|(path, there)| there.then_some(path));
        let mut paths: Vec<_> = always.into_iter().chain(sometimes).map(str::to_owned).collect();
        paths.extend(self.extra.keys().cloned());
        paths.extend(self.below.iter().map(|(below, _)| below.clone()));
        paths.sort_unstable();
        paths
    }
}

/// Nothing here. Files say of what type they would have been, as Linkerd's do.
fn not_found(path: &str) -> Response<Body> {
    let is_file = path.starts_with("/files/") || path.starts_with("/admin/files/");
    let kind = match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("css") => Kind::Css,
        Some("js") => Kind::JavaScript,
        _ => return reply::empty(StatusCode::NOT_FOUND),
    };
    if is_file { reply::with_status(StatusCode::NOT_FOUND, kind, ()) } else { reply::empty(StatusCode::NOT_FOUND) }
}

impl Service<Request<Body>> for Admin {
    type Response = Response<Body>;
    type Error = Error;
    type Future = SvcFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<Body>) -> SvcFuture {
        self.svc.send(req)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("paths", &self.paths()).finish()
    }
}

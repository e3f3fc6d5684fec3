//! What a namerd shows of itself on its admin pages.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use linkerd_dtab::{
    Activity, Bound, Delegation, Dtab, Interpreter, NameTree, Path, Snapshot, State,
    interpreter::Local,
    namerd::{Namerd, Peer, Refused, Session, Watched},
    store::Namespace,
};
use serde_json::json;
use tokio::time::timeout;

use super::stats;
use crate::{
    Body, IntoBody,
    admin::{Admin, Escaped, Logging},
    config::{BuiltNamers, Errors, namerd as config},
    proxy::{Pages, Shutdown, Telemeters, namer_pages, security},
    telemetry::Registry,
};

/// How long a store may take to say what there is, before a page is shown without it.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// Namespaces on the first page; the rest is in the HTTP API.
const MAX_NAMESPACES: usize = 1000;

const LINKS: &str = "<h2>pages</h2>\n<ul>\n<li><a href=\"/admin/metrics.json\">metrics</a></li>\n\
    <li><a href=\"/config.json\">configuration</a></li>\n<li><a href=\"/bound-names.json\">bound names</a></li>\n\
    <li><a href=\"/admin\">all pages</a></li>\n</ul>\n";

/// Where a name is asked for.
const QUESTION: &str = "<h3>delegation</h3>\n<form id=\"ask\"><label>name <input name=\"path\" value=\"/svc/\" size=\"40\">\
    </label> <label>dtab <input name=\"dtab\" size=\"40\"></label> <button>explain</button></form>\n\
    <pre id=\"answer\"></pre>\n";

const SCRIPT: &str = include_str!("delegate.js");

/// What the pages are made of.
pub(super) struct Sources<'a> {
    pub(super) config: &'a config::Namerd,
    pub(super) viewer: &'a Arc<Viewer>,
    pub(super) names: &'a BuiltNamers,
    pub(super) registry: &'a Registry,
    pub(super) shutdown: &'a Shutdown,
}

impl Sources<'_> {
    /// # Errors
    ///
    /// Pages that cannot be where the file puts them, patterns that match nothing that is a path.
    pub(super) fn build(self, logging: Option<Logging>) -> Result<Pages, Errors> {
        let Self { config, viewer, names, registry, shutdown } = self;
        let common = &config.common;
        let system: Arc<dyn Interpreter> = Arc::new(Local::new(Vec::new(), Arc::clone(&names.resolve)));
        let end = shutdown.clone();
        let [named, front, shown] = [(); 3].map(|()| Arc::clone(viewer));
        let admin = Admin::builder(registry.clone())
            .config(config.to_json())
            .global(system)
            .namespaces(move |name| Namespaced::of(named.session(), name))
            .shutdown(move |grace| end.begin(grace))
            .json("/admin/process.json", || json!({"version": env!("CARGO_PKG_VERSION")}))
            .front(move || front.page())
            .below("/dtab/", move |req| Box::pin(dtab(shown.session().clone(), req)));
        let mut admin = namer_pages(admin, &names.fs);
        let telemeters = Telemeters::of(common);
        for (path, prometheus) in &telemeters.metrics {
            admin = admin.prometheus(path, prometheus.clone());
        }
        if let Some(logging) = logging {
            admin = admin.logging(logging);
        }
        if let Some(settings) = &common.admin.security {
            let security = security(settings).map_err(|error| common.problem("admin.security", error.to_string()))?;
            admin = admin.security(security);
        }
        let admin = admin.build().map_err(|error| common.problem("telemetry", error.to_string()))?;
        let svc = admin.into_svc();
        Ok(Pages { admin: svc.clone(), names: svc })
    }
}

/// The names of one namespace.
struct Namespaced {
    session: Session,
    namespace: Namespace,
}

impl Namespaced {
    fn of(session: &Session, name: &str) -> Option<Arc<dyn Interpreter>> {
        let namespace = name.parse().ok()?;
        Some(Arc::new(Self { session: session.clone(), namespace }))
    }
}

impl Interpreter for Namespaced {
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        let bound = self.session.bind(&self.namespace, dtab, path);
        bound.map_or_else(|refused| Activity::failed(Arc::new(refused)), |bound| bound.clone())
    }

    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        let shown = self.session.delegate(&self.namespace, dtab, path);
        shown.map_or_else(|refused| Activity::failed(Arc::new(refused)), |shown| shown.clone())
    }
}

/// Who looks at the pages, and the first of them: which namespaces there are, and what is in use.
pub(super) struct Viewer {
    namerd: Arc<Namerd>,
    session: OnceLock<Session>,
    // Held, so that a page need not wait for the store.
    names: OnceLock<Result<Watched<Arc<BTreeSet<Namespace>>>, Refused>>,
}

impl Viewer {
    /// Nothing is asked of the store yet.
    pub(super) fn new(namerd: &Arc<Namerd>) -> Self {
        Self { namerd: Arc::clone(namerd), session: OnceLock::new(), names: OnceLock::new() }
    }

    /// Those who look at the admin pages may see what is there; what they may change goes by the interfaces.
    fn session(&self) -> &Session {
        let peer = Peer { is_operator: true, is_read_only: true, ..Peer::default() };
        self.session.get_or_init(|| self.namerd.session(peer))
    }

    /// The namespaces, which are followed from the first call on.
    pub(super) fn namespaces(&self) -> &Result<Watched<Arc<BTreeSet<Namespace>>>, Refused> {
        self.names.get_or_init(|| self.session().namespaces())
    }

    fn page(&self) -> String {
        let mut body = String::from("<h1>namerd admin</h1>\n<h2>namespaces</h2>\n");
        let names = self.namespaces().as_ref().map(|names| names.snapshot());
        match names {
            Ok(Snapshot { state: State::Ok(names), stale, .. }) => {
                if let Some(stale) = stale {
                    let _ = writeln!(body, "<p>The store does not answer; this is from before: {}</p>", Escaped(stale));
                }
                list(&mut body, &names);
            }
            Ok(Snapshot { state: State::Failed(error), .. }) => {
                let _ = writeln!(body, "<p>The store does not answer: {}</p>", Escaped(error));
            }
            Ok(Snapshot { state: State::Pending, .. }) => body.push_str("<p>The store has not answered yet.</p>\n"),
            Err(refused) => {
                let _ = writeln!(body, "<p>{}</p>", Escaped(refused));
            }
        }
        body.push_str(&stats::table(&self.namerd.stats()));
        body.push_str(LINKS);
        document(&body)
    }
}

impl fmt::Debug for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewer").finish_non_exhaustive()
    }
}

fn list(body: &mut String, names: &BTreeSet<Namespace>) {
    if names.is_empty() {
        body.push_str("<p>There are none.</p>\n");
    }
    body.push_str("<ul>\n");
    for name in names.iter().take(MAX_NAMESPACES) {
        let _ = writeln!(body, "<li><a href=\"/dtab/{name}\">{name}</a></li>");
    }
    body.push_str("</ul>\n");
    if names.len() > MAX_NAMESPACES {
        let _ = writeln!(body, "<p>and {} more</p>", names.len() - MAX_NAMESPACES);
    }
}

/// One namespace: its table, and how a name is bound in it.
async fn dtab(session: Session, req: Request<Body>) -> Response<Body> {
    let name = req.uri().path().trim_start_matches("/dtab/");
    let Ok(namespace) = name.parse::<Namespace>() else { return empty(StatusCode::NOT_FOUND) };
    let mut watched = match session.dtab(&namespace) {
        Ok(watched) => watched,
        Err(refused) => return page(StatusCode::SERVICE_UNAVAILABLE, &format!("<p>{}</p>\n", Escaped(refused))),
    };
    match timeout(STORE_TIMEOUT, watched.ready()).await {
        Ok(Ok(Some(stored))) => {
            let mut body = format!("<h1>namerd admin</h1>\n<h2>{namespace}</h2>\n<pre>");
            for entry in stored.dtab.entries() {
                let _ = writeln!(body, "{} =&gt; {} ;", Escaped(&entry.prefix), Escaped(&entry.dst));
            }
            body.push_str("</pre>\n");
            body.push_str(QUESTION);
            let _ = write!(body, "<script>\nconst namespace = \"{namespace}\";\n{SCRIPT}</script>\n");
            page(StatusCode::OK, &body)
        }
        Ok(Ok(None)) => empty(StatusCode::NOT_FOUND),
        Ok(Err(error)) => page(StatusCode::SERVICE_UNAVAILABLE, &format!("<p>{}</p>\n", Escaped(error))),
        Err(_) => page(StatusCode::SERVICE_UNAVAILABLE, "<p>The store does not answer.</p>\n"),
    }
}

fn page(status: StatusCode, body: &str) -> Response<Body> {
    let mut rsp = empty(status);
    rsp.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    *rsp.body_mut() = document(body).into_body();
    rsp
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut rsp = Response::new(Body::empty());
    *rsp.status_mut() = status;
    rsp
}

/// Its first lines are those of namerd 1.x, which scripts look for.
fn document(body: &str) -> String {
    format!(
        "<!doctype html>\n<html>\n<head>\n<title>namerd admin</title>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <link rel=\"stylesheet\" href=\"/files/css/dashboard.css\">\n</head>\n<body>\n\
         <nav><a href=\"/\">namespaces</a></nav>\n{body}</body>\n</html>\n"
    )
}

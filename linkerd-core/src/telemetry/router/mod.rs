//! The metrics of a router, its servers, services and clients, by the names of Linkerd 1.x.

mod balancer;
mod caches;
mod client;
mod refused;
mod seldom;
mod server;
mod service;

use std::{net::SocketAddr, sync::Arc};

use linkerd_dtab::Path;

use self::seldom::{Rare, Seldom};
pub use self::{
    balancer::BalancerStats,
    caches::{BindCacheStats, CacheStats, SwitchStats},
    client::{AccrualStats, ClientStats, FailFastStats, PoolStats, RequeueStats},
    refused::{Refused, RefusedStats},
    seldom::TimeoutStats,
    server::ServerStats,
    service::{AllowanceStats, LimitStats, RetryStats, ServiceStats},
};
use super::{Registry, Scope};

/// Makes the metrics of one router: everything below `rt/<label>`.
#[derive(Clone, Debug)]
pub struct RouterStats {
    label: Arc<str>,
    scope: Scope,
}

impl RouterStats {
    /// The metrics of the router of this label.
    #[must_use]
    pub fn new(registry: &Registry, label: &str) -> Self {
        Self { label: label.into(), scope: registry.root().scope("rt").scope(label) }
    }

    /// The router's label.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The router's own scope, `rt/<label>`.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Says in `originator` that the router is where requests begin.
    pub fn originator(&self) {
        self.scope.gauge("originator").set(1);
    }

    /// Says that it is not, if it was said to be.
    #[cfg(feature = "config")]
    pub(crate) fn no_originator(&self) {
        let name = "originator";
        let mut is_said = false;
        let path = ["rt", &self.label];
        self.scope.registry().visit_in(&path, |path, _| is_said |= path.len() == 1 && &*path[0] == name);
        if is_said {
            self.scope.gauge(name).set(0);
        }
    }

    /// The metrics of a server.
    #[must_use]
    pub fn server(&self, addr: SocketAddr) -> ServerStats {
        ServerStats::new(&self.scope.scope("server").scope(&format!("{}/{}", addr.ip(), addr.port())))
    }

    /// Takes the metrics of a server out of the registry, once it is gone.
    pub fn forget_server(&self, addr: SocketAddr) {
        self.scope.scope("server").scope(&format!("{}/{}", addr.ip(), addr.port())).prune();
    }

    /// The metrics of a logical name.
    #[must_use]
    pub fn service(&self, path: &Path) -> ServiceStats {
        ServiceStats::new(&self.scope.scope("service").scope(&label(path)))
    }

    /// The metrics of the limit of a logical name.
    #[must_use]
    pub fn limit(&self, path: &Path) -> LimitStats {
        let scope = self.scope.scope("service").scope(&label(path)).scope("limit");
        LimitStats {
            limit: scope.gauge("limit"),
            in_flight: scope.gauge("in_flight"),
            queued: scope.gauge("queued"),
            shed: scope.counter("shed"),
        }
    }

    /// The metrics of what logical names have of their own.
    #[must_use]
    pub fn allowances(&self) -> AllowanceStats {
        AllowanceStats { shared: Seldom::new(&self.scope.scope("allowances"), "shared") }
    }

    /// The metrics of a bound name.
    #[must_use]
    pub fn client(&self, id: &Path) -> ClientStats {
        ClientStats::new(&self.scope.scope("client").scope(&label(id)))
    }

    /// The metrics of the binding caches.
    #[must_use]
    pub fn bind_cache(&self) -> BindCacheStats {
        BindCacheStats::new(&self.scope.scope("bindcache"))
    }
}

/// The label of a name: without its leading slash.
fn label(path: &Path) -> String {
    let path = path.to_string();
    path.strip_prefix('/').map(str::to_owned).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use http::StatusCode;

    use super::*;
    use crate::{Error, ErrorKind, telemetry::Prometheus};

    const MS: Duration = Duration::from_millis(1);

    fn path(elements: &[&str]) -> Path {
        Path::from_elements(elements).unwrap()
    }

    /// The strings of one array of `tests/data/telemetry/names.json`: what Linkerd 1.7.5 showed after the traffic below.
    fn recorded(kind: &str) -> Vec<String> {
        let data = include_str!("../../../tests/data/telemetry/names.json");
        let array = data.split_once(&format!("\"{kind}\": [")).unwrap().1.split_once("\n ]").unwrap().0;
        let names: Vec<_> = array
            .lines()
            .filter_map(|line| line.trim().trim_end_matches(',').strip_prefix('"')?.strip_suffix('"'))
            .map(|name| name.replace("\\\"", "\""))
            .collect();
        assert!(names.len() > 200, "{}", names.len());
        names
    }

    #[test]
    fn names_and_labels_are_those_that_were_recorded() {
        let registry = Registry::new();
        let mut keep = Vec::new();
        let mut requests = |label: &str, port: u16, answers: &[(&[&str], Option<&str>, Option<u16>)], bad: &[u16]| {
            let router = RouterStats::new(&registry, label);
            let caches = router.bind_cache();
            let server = router.server(([127, 0, 0, 1], port).into());
            for (name, id, status) in answers {
                let service = router.service(&path(name));
                let client = id.map(|id| router.client(&path(&["#", "io.l5d.fs", id])));
                let status = status.map(|status| StatusCode::from_u16(status).unwrap());
                server.status.record(Some(status.unwrap_or(StatusCode::BAD_GATEWAY)), MS);
                if let Some(client) = &client {
                    client.algorithm("p2c_least_loaded");
                    if status.is_some() {
                        client.status.record(status, MS);
                    }
                }
                let through = client.as_ref().map(|client| client.service(&path(name)));
                let refused = Error::new(ErrorKind::Connect);
                match (status, &client, &through) {
                    (Some(status), Some(_), Some(through)) if status.is_server_error() => through.failed(None, MS),
                    (None, Some(client), _) => {
                        client.creation_failed(&refused);
                        service.requests.failed(Some(&refused), MS);
                    }
                    _ => {}
                }
                keep.push((service, client, through));
            }
            for code in bad {
                server.status.record(StatusCode::from_u16(*code).ok(), MS);
            }
            (router, server, caches)
        };
        let _http = requests(
            "http",
            4140,
            &[
                (&["svc", "web"], Some("web"), Some(200)),
                (&["svc", "w404"], Some("w404"), Some(404)),
                (&["svc", "w500"], Some("w500"), Some(500)),
                (&["svc", "down"], Some("down"), None),
                (&["svc", "nothing"], None, None),
            ],
            &[400],
        );
        let (router, ..) = &requests("path", 4141, &[(&["svc", "a", "web"], Some("web"), Some(200))], &[400]);
        router.originator();

        let mut names = BTreeSet::new();
        registry.visit(|path, _| {
            names.insert(path.join("/"));
        });
        let missing: Vec<_> = recorded("metrics").into_iter().filter(|name| !names.contains(name)).collect();
        assert_eq!(missing, [""; 0]);

        let text = Prometheus::new().render(&registry);
        let series: BTreeSet<_> = text.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        let missing: Vec<_> = recorded("prometheus").into_iter().filter(|name| !series.contains(&**name)).collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn what_closes_leaves_the_tree() {
        let registry = Registry::new();
        let router = RouterStats::new(&registry, "http");
        let id = path(&["#", "io.l5d.fs", "web"]);
        let client = router.client(&id);
        let through = client.service(&path(&["svc", "web"]));
        client.requests.succeeded(MS);
        drop(client);
        drop(through);
        assert!(registry.is_empty());
        assert_eq!(router.client(&id).requests.requests.get(), 0);
    }
}

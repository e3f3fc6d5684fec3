//! A server whose metrics can be read.

use std::{net::SocketAddr, time::Duration};

use linkerd_core::{
    Svc,
    http::{Server, ServerConfig},
    telemetry::{Registry, RouterStats},
};

/// A server of a router, and where its metrics are.
pub(crate) struct Counted {
    registry: Registry,
    router: &'static str,
    pub(crate) addr: SocketAddr,
}

impl Counted {
    /// One on a free port, which ends with the test.
    pub(crate) fn new(router: &'static str, config: ServerConfig, svc: Svc) -> Self {
        let registry = Registry::new();
        let stats = Some(RouterStats::new(&registry, router));
        let server = Server::bind(ServerConfig { addr: ([127, 0, 0, 1], 0).into(), stats, ..config }).unwrap();
        let addr = server.local_addr();
        tokio::spawn(server.serve(svc, std::future::pending()));
        Self::at(addr, router, registry)
    }

    /// One that serves already.
    pub(crate) fn at(addr: SocketAddr, router: &'static str, registry: Registry) -> Self {
        Self { registry, router, addr }
    }

    /// A metric, by its name below the server's.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let server = self.registry.root().scope("rt").scope(self.router).scope("server");
        let scope = server.scope(&format!("127.0.0.1/{}", self.addr.port()));
        match name.split_once('/') {
            Some((inner, name)) => scope.scope(inner).counter(name).get(),
            None => scope.counter(name).get(),
        }
    }

    /// What was refused, by its name.
    pub(crate) fn refused(&self, name: &str) -> u64 {
        self.count(&format!("refused/{name}"))
    }

    /// This was refused, in the end, and nothing else was.
    pub(crate) async fn has_refused(&self, counts: &[(&str, u64)]) {
        let names = ["bad_request", "late_head", "line_too_long", "headers_too_large", "too_many_streams", "flood"];
        let expected = names.map(|name| counts.iter().find(|count| count.0 == name).map_or(0, |count| count.1));
        for _ in 0..2000 {
            if names.map(|name| self.refused(name)) == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(names.map(|name| self.refused(name)), expected, "{names:?}");
    }
}

//! A namerd of this project, whole but for its program: over a store in memory and names that tests set.

use std::net::{Ipv4Addr, SocketAddr};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use linkerd_dtab::{
    Addr, Bound, Dtab, NameTree, Path,
    namer::fixed,
    namerd::{Builder, Composition, Grant, Namerd, Part, Peer, Role, Roles, Session, Watched, Who, http::Controller},
    store::{Memory, Namespace},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tower_service::Service;

/// It ends with this.
pub(crate) struct Real {
    addr: SocketAddr,
    pub(crate) session: Session,
    task: JoinHandle<()>,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The token of who may write `ns` where it is a part of `all`.
pub(crate) const WRITER: &str = "s3cret";

pub(crate) fn ns(text: &str) -> Namespace {
    text.parse().expect("a namespace")
}

pub(crate) fn dtab(text: &str) -> Dtab {
    text.parse().expect("a table")
}

pub(crate) fn path(text: &str) -> Path {
    text.parse().expect("a path")
}

impl Real {
    /// With these names, each with so many endpoints, below `/#/x`, and one table `ns`.
    pub(crate) async fn start(names: &[(&str, u8)], table: &str) -> Self {
        Self::with(names, table, Peer::default(), |namerd| namerd).await
    }

    /// The same, where `all` is the table, which may define what it owns, and a part that [`WRITER`] may not read, no more
    /// than the whole.
    pub(crate) async fn divided(names: &[(&str, u8)], table: &str, owns: &[&str]) -> Self {
        let part = |name: &str, owns: &[&str]| Part {
            fragments: name.parse().expect("a pattern"),
            owns: owns.iter().map(|owned| owned.parse().expect("a prefix")).collect(),
        };
        let composition = Composition { namespace: ns("all"), parts: vec![part("base", &[]), part("ns", owns)] };
        let grant =
            |who, namespaces: &str, role| Grant { who, namespaces: namespaces.parse().expect("a pattern"), role };
        let token = Who::Token { label: "writer".into(), secret: WRITER.into() };
        let grants = [grant(token, "ns", Role::Write), grant(Who::Name("admin".into()), "*", Role::Admin)];
        let admin = Peer { name: Some("admin".into()), ..Peer::default() };
        Self::with(names, table, admin, |namerd| namerd.compose(composition).roles(Roles::new(grants))).await
    }

    /// The same, set up by `set`, with a session of this peer's.
    pub(crate) async fn with(
        names: &[(&str, u8)],
        table: &str,
        peer: Peer,
        set: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let namer = names.iter().zip(1..).fold(fixed::Namer::new(), |namer, (&(name, endpoints), port)| {
            let addrs = (1..=endpoints).map(|host| SocketAddr::from(([127, 0, 0, host], port)));
            namer.with(path(name), Addr::of(addrs))
        });
        let namerd = set(Namerd::builder(Memory::new([(ns("ns"), dtab(table))])).namer(path("/#/x"), namer)).build();
        let session = namerd.session(peer);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("is bound");
        let controller = Controller::new(namerd);
        let task = tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let controller = controller.clone();
                let service = service_fn(move |mut req: Request<Incoming>| {
                    req.extensions_mut().insert(Peer { addr: Some(peer), ..Peer::default() });
                    controller.clone().call(req)
                });
                // A client that goes away is no failure of the test.
                tokio::spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { addr, session, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Watches a name as a proxy with this table of its own does.
    pub(crate) fn bind(&self, extra: &str, name: &str) -> Watched<NameTree<Bound>> {
        self.bind_in("ns", extra, name)
    }

    pub(crate) fn bind_in(&self, namespace: &str, extra: &str, name: &str) -> Watched<NameTree<Bound>> {
        self.session.bind(&ns(namespace), &dtab(extra), &path(name)).expect("is allowed")
    }

    /// What the table is now.
    pub(crate) fn table(&self) -> String {
        let table = self.session.dtab(&ns("ns")).expect("is allowed").sample().ok().flatten();
        table.map_or_else(|| "(deleted)".into(), |table| table.dtab.to_string())
    }

    /// The last changes, newest first: who, and why.
    pub(crate) fn history(&self) -> Vec<(String, String)> {
        let records = self.session.history(&ns("ns"), 10).expect("is allowed");
        records.iter().map(|record| (record.who.clone(), record.why.clone().unwrap_or_default())).collect()
    }
}

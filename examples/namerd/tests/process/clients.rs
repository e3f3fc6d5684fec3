//! Routers of a proxy, one for each kind of interpreter, whose names a namerd binds.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use linkerd_core::{
    config::{Config, Plan},
    telemetry::Registry,
};
use linkerd_dtab::{Activity, Addr, Bound, Dtab, NameTree, State};
use tokio::{sync::watch, time::timeout};

use crate::{
    harness::{LONG, Namerd},
    relay::Relay,
};

/// The interfaces that the clients use, in the order of the relays. The first is asked by tests, too.
pub(crate) const INTERFACES: &str = "\
interfaces:
- {kind: io.l5d.httpController, port: 0}
- {kind: io.l5d.mesh, port: 0}
- {kind: io.l5d.thriftNameInterpreter, port: 0}
";

/// Three routers and the network between them and a namerd.
pub(crate) struct Clients {
    relays: Vec<Relay>,
    _plan: Plan,
    names: Vec<Followed>,
}

/// `/svc/web` by one of them.
struct Followed {
    kind: &'static str,
    // The last tree, its addresses with it.
    last: watch::Receiver<String>,
    emptied: Arc<Mutex<Vec<String>>>,
}

impl Clients {
    pub(crate) async fn new() -> Self {
        let mut relays = Vec::new();
        let mut file = "routers:\n".to_owned();
        for (kind, namespace) in
            [("io.l5d.namerd.http", "namespace: default"), ("io.l5d.mesh", "root: /default"), ("io.l5d.namerd", "")]
        {
            let relay = Relay::new().await;
            let port = relay.addr.port();
            _ = write!(
                file,
                "- protocol: http
  label: {kind}
  interpreter:
    kind: {kind}
    experimental: true
    dst: /$/inet/127.0.0.1/{port}
    retry: {{baseSeconds: 1, maxSeconds: 1}}
    failureThreshold: {{minPeriodMs: 300, closeTimeoutMs: 2000}}
    {namespace}
  servers: [{{port: 0}}]
"
            );
            relays.push(relay);
        }
        let config = Config::parse("clients.yaml", &file).unwrap_or_else(|errors| panic!("{errors}"));
        let plan = config.build(&Registry::new()).unwrap_or_else(|errors| panic!("{errors}"));
        let names = plan.routers.iter().zip(["http", "mesh", "thrift"]).map(|(router, kind)| {
            let tree = router.interpreter.bind(&Dtab::empty(), &"/svc/web".parse().unwrap());
            Followed::new(kind, tree)
        });
        let names = names.collect();
        Self { relays, _plan: plan, names }
    }

    /// Where they find it from now on.
    pub(crate) fn find(&self, namerd: Option<&Namerd>) {
        for (i, relay) in self.relays.iter().enumerate() {
            relay.to(namerd.map(|namerd| namerd.interfaces[i]));
        }
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        for relay in &self.relays {
            relay.cut(is_cut);
        }
    }

    /// Waits until all of them route to this port, and none ever had nowhere to route to.
    #[track_caller]
    pub(crate) fn route_to(&mut self, port: u16) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let wanted = format!("127.0.0.1:{port}");
            for Followed { kind, last, emptied } in &mut self.names {
                let found = timeout(LONG, last.wait_for(|last| *last == wanted)).await.is_ok();
                assert!(found, "{place}: {kind} routes to {:?}, not to {wanted}", *last.borrow());
                let emptied = emptied.lock().unwrap();
                assert!(emptied.is_empty(), "{place}: {kind} had {emptied:?}");
            }
        }
    }
}

impl Followed {
    fn new(kind: &'static str, tree: Activity<NameTree<Bound>>) -> Self {
        let (shown, last) = watch::channel(String::new());
        let emptied = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(follow(tree, shown, Arc::clone(&emptied)));
        Self { kind, last, emptied }
    }
}

/// Follows a tree and the addresses of its leaf as a balancer does.
async fn follow(mut tree: Activity<NameTree<Bound>>, shown: watch::Sender<String>, emptied: Arc<Mutex<Vec<String>>>) {
    let mut addr: Option<Activity<Addr>> = None;
    loop {
        let state = tree.sample_and_update();
        match state {
            State::Ok(NameTree::Leaf(bound)) if addr.as_ref().is_none_or(|addr| !addr.same_source(&bound.addr)) => {
                addr = Some(bound.addr);
            }
            State::Ok(NameTree::Leaf(_)) => {}
            other if addr.is_some() => emptied.lock().unwrap().push(format!("{other:?}")),
            // Not known yet.
            _ => {}
        }
        if let Some(addr) = &mut addr {
            match addr.sample_and_update() {
                State::Ok(Addr::Bound(addrs)) if !addrs.is_empty() => {
                    let addrs: Vec<_> = addrs.iter().map(|endpoint| endpoint.addr.to_string()).collect();
                    shown.send_replace(addrs.join(" "));
                }
                // Of another id, which is asked for now: the balancer keeps what it has.
                State::Pending => {}
                other => emptied.lock().unwrap().push(format!("{other:?}")),
            }
        }
        tokio::select! {
            () = tree.changed() => {}
            () = async {
                match &mut addr {
                    Some(addr) => addr.changed().await,
                    None => std::future::pending().await,
                }
            } => {}
            () = shown.closed() => return,
        }
    }
}

//! The sockets of the routers' servers, and what is served on them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tower_layer::Layer;

use super::{BindError, BindErrors};
use crate::{
    Svc,
    config::{Plan, RouterPlan},
    http::{Drained, LiveServer, Server, ServerConfig, ServerControl, SocketOptions},
    span::{SpanLayer, Tracer},
    telemetry::{Registry, RouterStats},
};

/// The servers that are there, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    is_leaving: bool,
}

#[derive(Debug)]
struct Listener {
    key: Key,
    label: String,
    socket: SocketOptions,
    control: ServerControl,
    stop: watch::Sender<Option<Stop>>,
}

/// Which server of a file is which of another: by its address. Of those that take a free port, by their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    At(SocketAddr),
    Free { label: String, ip: IpAddr, number: usize },
}

/// How a server ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// For how long its clients are asked to leave before it closes.
    pub(super) close: Duration,
    /// For how long what they asked for is waited.
    pub(super) grace: Duration,
}

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub(super) struct Unserved {
    pub(super) label: String,
    pub(super) addr: SocketAddr,
    server: LiveServer,
    stop: watch::Receiver<Option<Stop>>,
}

/// A server that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) label: String,
    pub(super) addr: SocketAddr,
    pub(super) drained: Drained,
}

/// What became of the listeners with a change.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// New ones, which are to be served.
    pub(super) added: Vec<Unserved>,
    /// Those that end.
    pub(super) removed: Vec<SocketAddr>,
    /// Of those that stay, the ones that listen otherwise than they should.
    pub(super) stale: Vec<SocketAddr>,
}

impl Listeners {
    /// Serves what this plan says: binds what is new first, and changes nothing if that fails.
    ///
    /// What stays keeps its socket and its connections, whose next requests go by the plan; what is not in it any more
    /// ends as `stop` says.
    pub(super) fn change(&mut self, plan: &Plan, tracer: Option<&Tracer>, stop: Stop) -> Result<Change, BindErrors> {
        let wanted = wanted(plan);
        let mut before: HashMap<Key, Listener> = HashMap::new();
        let mut bound: HashMap<Key, Server> = HashMap::new();
        let mut problems = Vec::new();
        for (key, router, config) in &wanted {
            if self.all.iter().any(|listener| listener.key == *key) {
                continue;
            }
            match Server::bind((*config).clone()) {
                Ok(server) => drop(bound.insert(key.clone(), server)),
                Err(source) => {
                    let who = format!("router {}", router.label);
                    problems.push(BindError { who, addr: config.addr, source });
                }
            }
        }
        if !problems.is_empty() {
            return Err(BindErrors(problems));
        }
        let mut change = Change::default();
        before.extend(std::mem::take(&mut self.all).into_iter().map(|listener| (listener.key.clone(), listener)));
        for (key, router, config) in wanted {
            if let Some(mut listener) = before.remove(&key) {
                let addr = listener.control.local_addr();
                if !listens_alike(&listener.socket, &config.socket) {
                    change.stale.push(addr);
                }
                listener.control.replace(service(router, addr, tracer), config.clone());
                listener.label.clone_from(&router.label);
                self.all.push(listener);
            } else if let Some(server) = bound.remove(&key) {
                let addr = server.local_addr();
                let server = server.live(service(router, addr, tracer));
                let (control, (stop, stopped)) = (server.control(), watch::channel(None));
                control.ask_to_leave(self.is_leaving);
                let (label, socket) = (router.label.clone(), config.socket.clone());
                change.added.push(Unserved { label: label.clone(), addr, server, stop: stopped });
                self.all.push(Listener { key, label, socket, control, stop });
            }
        }
        for listener in before.into_values() {
            change.removed.push(listener.control.local_addr());
            listener.control.ask_to_leave(true);
            listener.stop.send_replace(Some(stop));
        }
        Ok(change)
    }

    /// Each server's label and address.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.all.iter().map(|listener| (listener.label.as_str(), listener.control.local_addr()))
    }

    /// Whether clients are asked to leave.
    pub(super) fn ask_to_leave(&mut self, asks: bool) {
        self.is_leaving = asks;
        self.all.iter().for_each(|listener| listener.control.ask_to_leave(asks));
    }

    /// Ends all of them.
    pub(super) fn stop(&self, stop: Stop) {
        for listener in &self.all {
            listener.stop.send_replace(Some(stop));
        }
    }

    /// Takes the metrics of a server that is not served any more out of the registry.
    pub(super) fn forget(&self, registry: &Registry, label: &str, addr: SocketAddr) {
        if self.shown().all(|shown| shown != (label, addr)) {
            RouterStats::new(registry, label).forget_server(addr);
        }
    }
}

impl Unserved {
    pub(super) async fn serve(self) -> Ended {
        let Self { label, addr, server, mut stop } = self;
        let stopped = async move {
            let stopped = stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
            // Whoever could have said so is gone.
            let Stop { close, grace } = stopped.unwrap_or(Stop { close: Duration::ZERO, grace: Duration::ZERO });
            sleep(close).await;
            grace
        };
        let drained = server.serve_until(stopped).await;
        Ended { label, addr, drained }
    }
}

/// The servers of a plan.
fn wanted(plan: &Plan) -> Vec<(Key, &RouterPlan, &ServerConfig)> {
    let mut free: HashMap<(&str, IpAddr), usize> = HashMap::new();
    let mut wanted = Vec::new();
    for router in &plan.routers {
        for config in &router.servers {
            let key = if config.addr.port() == 0 {
                let (label, ip) = (router.label.as_str(), config.addr.ip());
                let number = free.entry((label, ip)).or_default();
                *number += 1;
                Key::Free { label: label.to_owned(), ip, number: *number }
            } else {
                Key::At(config.addr)
            };
            wanted.push((key, router, config));
        }
    }
    wanted
}

fn service(router: &RouterPlan, addr: SocketAddr, tracer: Option<&Tracer>) -> Svc {
    let svc = router.service();
    match tracer {
        Some(tracer) => Svc::new(SpanLayer::new(tracer.clone(), &router.label).at(addr).layer(svc)),
        None => svc,
    }
}

/// Whether what is about listening is the same.
fn listens_alike(a: &SocketOptions, b: &SocketOptions) -> bool {
    (a.reuse_addr, a.reuse_port, a.backlog) == (b.reuse_addr, b.reuse_port, b.backlog)
}

//! The sockets of the routers' servers, and what is served on them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
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
    telemetry::RouterStats,
};

/// The servers that are there, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    // Removed, and accepting still: their addresses cannot be bound anew, and may come back.
    removed: Vec<Listener>,
    is_leaving: bool,
}

#[derive(Debug)]
struct Listener {
    key: Key,
    label: String,
    socket: SocketOptions,
    control: ServerControl,
    course: Arc<watch::Sender<Course>>,
}

/// How far a server is, of what a file decides.
#[derive(Clone, Copy, Debug)]
enum Course {
    Serving,
    /// It is to end so, unless it comes back before it has closed.
    Closing(Stop),
    /// Nothing is accepted any more.
    Closed,
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
    course: Arc<watch::Sender<Course>>,
}

/// A server that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Those of its router, as it was called last.
    pub(super) stats: Option<RouterStats>,
    pub(super) addr: SocketAddr,
    pub(super) drained: Drained,
}

/// What became of the listeners with a change.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// New ones, which are to be served.
    pub(super) added: Vec<Unserved>,
    /// Those that were to end, and do not.
    pub(super) returned: Vec<SocketAddr>,
    /// What was called otherwise before: the label and the address.
    pub(super) renamed: Vec<(String, SocketAddr)>,
    /// Those that end.
    pub(super) removed: Vec<SocketAddr>,
    /// Of those that stay, the ones that listen otherwise than they should.
    pub(super) stale: Vec<SocketAddr>,
}

impl Listeners {
    /// Serves what this plan says: binds what is new first, and changes nothing if that fails.
    ///
    /// What stays keeps its socket and its connections, whose next requests go by the plan; what is not in it any more
    /// ends as `stop` says. What was to end, and accepts still, stays too if it is in it again.
    pub(super) fn change(&mut self, plan: &Plan, tracer: Option<&Tracer>, stop: Stop) -> Result<Change, BindErrors> {
        let wanted = wanted(plan);
        let mut before: HashMap<Key, Listener> = HashMap::new();
        let mut bound: HashMap<Key, Server> = HashMap::new();
        let (mut problems, mut returned) = (Vec::new(), Vec::new());
        for (key, router, config) in &wanted {
            if self.all.iter().any(|listener| listener.key == *key) || self.take_back(key, &mut returned) {
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
            // They end after all, as they were to.
            for (listener, stop) in returned {
                listener.course.send_replace(Course::Closing(stop));
                self.removed.push(listener);
            }
            return Err(BindErrors(problems));
        }
        let mut change = Change::default();
        for (listener, _) in returned {
            listener.control.ask_to_leave(self.is_leaving);
            change.returned.push(listener.control.local_addr());
            self.all.push(listener);
        }
        before.extend(std::mem::take(&mut self.all).into_iter().map(|listener| (listener.key.clone(), listener)));
        for (key, router, config) in wanted {
            if let Some(mut listener) = before.remove(&key) {
                let addr = listener.control.local_addr();
                if !listens_alike(&listener.socket, &config.socket) {
                    change.stale.push(addr);
                }
                listener.control.replace(service(router, addr, tracer), config.clone());
                if listener.label != router.label {
                    change.renamed.push((std::mem::replace(&mut listener.label, router.label.clone()), addr));
                }
                self.all.push(listener);
            } else if let Some(server) = bound.remove(&key) {
                let addr = server.local_addr();
                let server = server.live(service(router, addr, tracer));
                let (control, course) = (server.control(), Arc::new(watch::Sender::new(Course::Serving)));
                control.ask_to_leave(self.is_leaving);
                let (label, socket) = (router.label.clone(), config.socket.clone());
                change.added.push(Unserved { label: label.clone(), addr, server, course: Arc::clone(&course) });
                self.all.push(Listener { key, label, socket, control, course });
            }
        }
        for listener in before.into_values() {
            change.removed.push(listener.control.local_addr());
            listener.control.ask_to_leave(true);
            listener.course.send_replace(Course::Closing(stop));
            self.removed.push(listener);
        }
        Ok(change)
    }

    /// Keeps a server from closing that was to, if it has not yet.
    fn take_back(&mut self, key: &Key, returned: &mut Vec<(Listener, Stop)>) -> bool {
        self.removed.retain(|listener| !matches!(*listener.course.borrow(), Course::Closed));
        let Some(i) = self.removed.iter().position(|listener| listener.key == *key) else { return false };
        let mut stop = None;
        // It closes in the same way, so that one of both is first.
        self.removed[i].course.send_if_modified(|course| match *course {
            Course::Closing(then) => {
                (stop, *course) = (Some(then), Course::Serving);
                true
            }
            Course::Serving | Course::Closed => false,
        });
        let Some(stop) = stop else { return false };
        returned.push((self.removed.swap_remove(i), stop));
        true
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
        for listener in self.all.iter().chain(&self.removed) {
            listener.course.send_if_modified(|course| match course {
                Course::Closed => false,
                course => {
                    *course = Course::Closing(stop);
                    true
                }
            });
        }
    }

    /// Takes the metrics of a server that is not served any more out of the registry.
    pub(super) fn forget(&self, stats: &RouterStats, addr: SocketAddr) {
        if self.shown().all(|shown| shown != (&**stats.label(), addr)) {
            stats.forget_server(addr);
        }
    }
}

impl Unserved {
    pub(super) async fn serve(self) -> Ended {
        let Self { label: _, addr, server, course } = self;
        let control = server.control();
        let drained = server.serve_until(closed(course)).await;
        Ended { stats: control.stats(), addr, drained }
    }
}

/// The grace period, once a server accepts no more.
async fn closed(course: Arc<watch::Sender<Course>>) -> Duration {
    let mut changed = course.subscribe();
    loop {
        let now = *changed.borrow_and_update();
        let close = match now {
            Course::Closing(stop) => Some(stop.close),
            Course::Serving | Course::Closed => None,
        };
        tokio::select! {
            biased;
            // Its sender is here.
            _ = changed.changed() => continue,
            () = sleep(close.unwrap_or_default()), if close.is_some() => {}
        }
        let mut grace = None;
        course.send_if_modified(|course| match *course {
            Course::Closing(stop) => {
                (grace, *course) = (Some(stop.grace), Course::Closed);
                true
            }
            Course::Serving | Course::Closed => false,
        });
        if let Some(grace) = grace {
            return grace;
        }
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

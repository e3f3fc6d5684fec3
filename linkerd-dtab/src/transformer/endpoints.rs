//! Transformers of addresses: each bound name keeps its place, its replicas change.

#[cfg(feature = "interfaces")]
use std::io;
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

use super::{Transformer, id_prefix};
use crate::{Activity, Addr, Bound, Endpoint, NameTree, Path};

/// Replaces the port of every replica (`io.l5d.port`): a proxy that runs beside each of them is reached instead.
///
/// Ids begin with `/%/io.l5d.port/PORT`.
#[derive(Clone, Debug)]
pub struct Port {
    port: NonZeroU16,
    prefix: Path,
}

/// Keeps the replicas on one host (`io.l5d.specificHost`), [`Addr::Neg`] if there is none.
///
/// Ids begin with `/%/io.l5d.specificHost/IP`.
#[derive(Clone, Debug)]
pub struct SpecificHost {
    hosts: Arc<HashSet<IpAddr>>,
    prefix: Path,
}

/// Keeps the replicas on this host (`io.l5d.localhost`), [`Addr::Neg`] if there is none: those whose IP is an
/// interface's of this host, loopback or not.
///
/// Ids begin with `/%/io.l5d.localhost`.
#[cfg(feature = "interfaces")]
#[derive(Clone, Debug)]
pub struct Localhost {
    hosts: Arc<HashSet<IpAddr>>,
    prefix: Path,
}

impl Port {
    /// Replaces ports by `port`.
    #[must_use]
    pub fn new(port: NonZeroU16) -> Self {
        Self { port, prefix: id_prefix([&b"io.l5d.port"[..], port.to_string().as_bytes()]) }
    }

    /// Puts `/%` and `prefix` before ids.
    #[must_use]
    pub fn with_prefix(self, prefix: &Path) -> Self {
        Self { prefix: id_prefix(prefix), ..self }
    }
}

impl SpecificHost {
    /// Keeps what is at `host`.
    #[must_use]
    pub fn new(host: IpAddr) -> Self {
        let prefix = id_prefix([&b"io.l5d.specificHost"[..], host.to_string().as_bytes()]);
        Self { hosts: Arc::new([host].into()), prefix }
    }

    /// Puts `/%` and `prefix` before ids.
    #[must_use]
    pub fn with_prefix(self, prefix: &Path) -> Self {
        Self { prefix: id_prefix(prefix), ..self }
    }
}

#[cfg(feature = "interfaces")]
impl Localhost {
    /// Keeps what is at an address that an interface of this host has now; later changes are not noticed.
    ///
    /// # Errors
    ///
    /// The operating system does not tell its interfaces.
    pub fn new() -> io::Result<Self> {
        let hosts = if_addrs::get_if_addrs()?.into_iter().map(|interface| interface.ip()).collect();
        Ok(Self { hosts: Arc::new(hosts), prefix: id_prefix([&b"io.l5d.localhost"[..]]) })
    }

    /// Puts `/%` and `prefix` before ids.
    #[must_use]
    pub fn with_prefix(self, prefix: &Path) -> Self {
        Self { prefix: id_prefix(prefix), ..self }
    }
}

impl Transformer for Port {
    fn transform(&self, tree: NameTree<Bound>) -> Activity<NameTree<Bound>> {
        let port = self.port.get();
        map_addrs(tree, &self.prefix, move |addr| {
            let Addr::Bound(endpoints) = addr else { return addr };
            let moved = |endpoint: &Endpoint| {
                let mut moved = endpoint.clone();
                moved.addr = SocketAddr::new(endpoint.addr.ip(), port);
                moved
            };
            Addr::Bound(unique(endpoints.iter().map(moved)))
        })
    }

    fn name(&self) -> &'static str {
        "io.l5d.port"
    }
}

impl Transformer for SpecificHost {
    fn transform(&self, tree: NameTree<Bound>) -> Activity<NameTree<Bound>> {
        keep_hosts(tree, &self.prefix, &self.hosts)
    }

    fn name(&self) -> &'static str {
        "io.l5d.specificHost"
    }
}

#[cfg(feature = "interfaces")]
impl Transformer for Localhost {
    fn transform(&self, tree: NameTree<Bound>) -> Activity<NameTree<Bound>> {
        keep_hosts(tree, &self.prefix, &self.hosts)
    }

    fn name(&self) -> &'static str {
        "io.l5d.localhost"
    }
}

/// Two replicas on one host, told apart by their ports, are one once these are the same.
fn unique(endpoints: impl Iterator<Item = Endpoint>) -> Arc<[Endpoint]> {
    let mut seen = HashSet::new();
    endpoints.filter(|endpoint| seen.insert(endpoint.addr)).collect()
}

/// None left is [`Addr::Neg`]: better no answer than that of a wrong host.
fn keep_hosts(tree: NameTree<Bound>, prefix: &Path, hosts: &Arc<HashSet<IpAddr>>) -> Activity<NameTree<Bound>> {
    let hosts = Arc::clone(hosts);
    map_addrs(tree, prefix, move |addr| {
        let kept = addr.endpoints().iter().filter(|endpoint| hosts.contains(&endpoint.addr.ip()));
        let kept: Arc<[_]> = kept.cloned().collect();
        if kept.is_empty() { Addr::Neg } else { Addr::Bound(kept) }
    })
}

fn map_addrs(
    tree: NameTree<Bound>,
    prefix: &Path,
    f: impl Fn(Addr) -> Addr + Clone + Send + 'static,
) -> Activity<NameTree<Bound>> {
    Activity::value(tree.map(&mut |bound| Bound {
        id: prefix.concat(&bound.id),
        addr: bound.addr.map(f.clone()),
        residual: bound.residual,
        weight: bound.weight,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(addr: Activity<Addr>) -> NameTree<Bound> {
        NameTree::Leaf(Bound::new("/#/web".parse().unwrap(), "/rest".parse().unwrap(), addr))
    }

    fn leaf(transformer: &impl Transformer, addr: Activity<Addr>) -> Bound {
        let Some(NameTree::Leaf(bound)) = transformer.transform(bound(addr)).sample().ok() else { panic!("no leaf") };
        bound
    }

    fn addr(text: &[&str]) -> Addr {
        Addr::of(text.iter().map(|addr| addr.parse().unwrap()))
    }

    #[tokio::test]
    async fn ports_are_replaced_live_and_all_else_stays() {
        let (publisher, activity) = Activity::channel();
        let port = Port::new(NonZeroU16::new(4140).unwrap());
        let mut bound = leaf(&port, activity);
        assert_eq!(bound.id.to_string(), "/%/io.l5d.port/4140/#/web");
        assert_eq!(bound.residual.to_string(), "/rest");
        let endpoint = Endpoint::new("10.0.0.1:80".parse().unwrap()).with_weight(2.0).with_zone("a");
        let other = Endpoint::new("10.0.0.1:81".parse().unwrap());
        publisher.ok(Addr::Bound([endpoint.clone(), other].into()));
        let expected = Endpoint { addr: "10.0.0.1:4140".parse().unwrap(), ..endpoint };
        assert_eq!(bound.addr.ready().await.unwrap(), Addr::Bound([expected].into()));
        bound.addr.sample_and_update();
        publisher.ok(Addr::Neg);
        bound.addr.changed().await;
        assert_eq!(bound.addr.sample().ok(), Some(Addr::Neg));
        drop(bound);
        publisher.closed().await;
    }

    #[tokio::test]
    async fn only_the_host_is_kept_and_nothing_left_is_negative() {
        let host = SpecificHost::new("10.0.0.2".parse().unwrap());
        let bound = leaf(&host, Activity::value(addr(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:2"])));
        assert_eq!(bound.id.to_string(), "/%/io.l5d.specificHost/10.0.0.2/#/web");
        assert_eq!(bound.addr.sample().ok(), Some(addr(&["10.0.0.2:1", "10.0.0.2:2"])));
        for none in [addr(&["10.0.0.1:1"]), addr(&[]), Addr::Neg] {
            assert_eq!(leaf(&host, Activity::value(none)).addr.sample().ok(), Some(Addr::Neg));
        }
    }

    #[cfg(feature = "interfaces")]
    #[tokio::test]
    async fn an_interface_of_this_host_is_local() {
        let local = Localhost::new().unwrap();
        let ip = *local.hosts.iter().next().unwrap();
        let there = Addr::of([(ip, 1).into(), "203.0.113.9:1".parse().unwrap()]);
        let bound = leaf(&local, Activity::value(there));
        assert_eq!(bound.id.to_string(), "/%/io.l5d.localhost/#/web");
        assert_eq!(bound.addr.sample().ok(), Some(Addr::of([(ip, 1).into()])));
    }

    #[tokio::test]
    async fn a_prefix_of_ones_own_comes_after_the_percent_sign() {
        let port = Port::new(NonZeroU16::MIN).with_prefix(&"/mine/too".parse().unwrap());
        assert_eq!(leaf(&port, Activity::value(Addr::Neg)).id.to_string(), "/%/mine/too/#/web");
    }
}

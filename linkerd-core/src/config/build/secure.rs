//! What makes connections secure, and what of it goes on when another configuration comes.
//!
//! What is the same in both goes on as it is, with the roots that its peers need. What takes the place of something else
//! is held to what is used there, and shows nothing until its plan [begins](Secured::begin).

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use super::{Before, Builder};
use crate::{
    config::{Client, ClientTls, ProtocolKind, Scoped, Server, ServerTls, tls::Connectors},
    http::{ServerConfig, Wire},
    tls::{Acceptor, Alpn, BadTls, Beginning, Connector, Metrics},
};

/// The TLS of a plan.
#[derive(Default)]
pub(super) struct Secured {
    clients: Vec<Reached>,
    begins: Mutex<Vec<Beginning>>,
}

/// Somewhere that is reached through TLS.
#[derive(Clone)]
struct Reached {
    label: String,
    /// Where in the router of that label.
    place: String,
    tls: ClientTls,
    alpn: Vec<Alpn>,
    connector: Connector,
}

/// A server of the plan that was there before.
struct Served<'a> {
    label: &'a str,
    number: usize,
    protocol: ProtocolKind,
    section: &'a Server,
    tls: &'a ServerTls,
    addr: SocketAddr,
    acceptor: &'a Acceptor,
}

impl Secured {
    /// Follows files and shows metrics, from now on. In a tokio runtime.
    pub(super) fn begin(&self) {
        let begins = std::mem::take(&mut *self.begins.lock().unwrap_or_else(PoisonError::into_inner));
        begins.into_iter().for_each(Beginning::begin);
    }

    fn begins(&mut self, beginning: Beginning) {
        self.begins.get_mut().unwrap_or_else(PoisonError::into_inner).push(beginning);
    }
}

impl<'a> Before<'a> {
    fn reached(self) -> &'a [Reached] {
        &self.plan.secured.clients
    }

    /// The servers that are reached through TLS.
    fn served(self) -> impl Iterator<Item = Served<'a>> {
        let routers = self.plan.config.routers.iter().zip(&self.plan.routers);
        routers.flat_map(|(router, built)| {
            let servers = router.servers.iter().zip(&built.servers).enumerate();
            servers.filter_map(|(number, (section, config))| {
                let (tls, acceptor) = (section.tls.as_ref()?, config.tls.as_ref()?);
                let (label, protocol) = (router.label.as_str(), router.protocol.kind());
                Some(Served { label, number, protocol, section, tls, addr: config.addr, acceptor })
            })
        })
    }
}

impl Builder<'_> {
    /// What makes the connections of a router's clients secure.
    pub(super) fn connectors(&mut self, i: usize, client: &Scoped<Client>, protocol: ProtocolKind) -> Connectors {
        let alpn: &[_] = match protocol {
            ProtocolKind::H2 if client.iter().any(|(_, client)| client.http1 == Some(true)) => &[],
            ProtocolKind::H2 => &[Alpn::H2],
            _ => &[Alpn::Http1],
        };
        let label = &self.config.routers[i].label;
        let mut problems = Vec::new();
        let connectors = Connectors::build(
            client,
            |place, tls| self.connector(label, place, tls, alpn),
            |key, message| problems.push((format!("routers[{i}].client.{key}"), message)),
        );
        for (key, message) in problems {
            self.problem(&key, message);
        }
        connectors
    }

    /// What makes connections from a place in a router secure.
    pub(super) fn connector(
        &self,
        label: &str,
        place: String,
        tls: &ClientTls,
        alpn: &[Alpn],
    ) -> Result<Connector, BadTls> {
        let tls = tls.nameless();
        let mut secured = self.secured.borrow_mut();
        let before = self.before.map_or(&[][..], Before::reached);
        let is_same = |old: &&Reached| old.tls == tls && old.alpn == alpn;
        let here = before.iter().find(|old| old.label == label && old.place == place);
        // Files are followed once, however many names they are used for.
        let own = secured.clients.iter().filter(|new| new.label == label).find(is_same);
        let same = here.filter(is_same).or(own).or_else(|| before.iter().find(is_same));
        let connector = if let Some(same) = same {
            let connector = same.connector.clone();
            if let Some(other) = here.filter(|here| !is_same(here)) {
                secured.begins(connector.replace(&other.connector)?);
            }
            connector
        } else {
            let used = here.or_else(|| before.iter().find(|old| old.tls.reads_what(&tls)));
            let used = used.map(|old| &old.connector);
            let (connector, beginning) = Connector::prepare(tls.settings(alpn), &Metrics::new(self.registry), used)?;
            secured.begins(beginning);
            connector
        };
        let (label, alpn) = (label.to_owned(), alpn.to_vec());
        secured.clients.push(Reached { label, place, tls, alpn, connector: connector.clone() });
        Ok(connector)
    }

    /// The clients of a router that is kept are secured as they were.
    pub(super) fn keep_secured(&mut self, label: &str) {
        let before = self.before.map_or(&[][..], Before::reached);
        let kept = before.iter().filter(|old| old.label == label).cloned();
        self.secured.get_mut().clients.extend(kept);
    }

    /// Puts what makes connections secure into the servers that ask for it.
    pub(super) fn secure(&mut self, i: usize, servers: &[Server], configs: &mut [ServerConfig]) {
        for (j, (server, config)) in servers.iter().zip(configs).enumerate() {
            let Some(tls) = &server.tls else { continue };
            match self.acceptor(i, j, server, tls, config) {
                Ok(acceptor) => config.tls = Some(acceptor),
                Err(error) => self.problem(&format!("routers[{i}].servers[{j}].tls"), error.to_string()),
            }
        }
    }

    fn acceptor(
        &self,
        i: usize,
        j: usize,
        server: &Server,
        tls: &ServerTls,
        config: &ServerConfig,
    ) -> Result<Acceptor, BadTls> {
        let router = &self.config.routers[i];
        let before: Vec<_> = self.before.into_iter().flat_map(Before::served).collect();
        // Sessions go on.
        let is_same = |old: &&Served<'_>| {
            old.protocol == router.protocol.kind() && old.tls == tls && old.section.http1 == server.http1
        };
        let here = before.iter().find(|old| {
            // Which free port it was is not in the file.
            old.addr == config.addr
                && (config.addr.port() != 0 || (old.label, old.number) == (router.label.as_str(), j))
        });
        let mut secured = self.secured.borrow_mut();
        if let Some(same) = here.filter(is_same).or_else(|| before.iter().find(is_same)) {
            if let Some(other) = here.filter(|here| !is_same(here)) {
                secured.begins(same.acceptor.replace(other.acceptor)?);
            }
            return Ok(same.acceptor.clone());
        }
        let alpn: &[_] = match config.wire {
            Wire::Http1 => &[Alpn::Http1],
            Wire::H2(_) => &[Alpn::H2],
            Wire::Either(_) => &[Alpn::H2, Alpn::Http1],
        };
        let used = here.or_else(|| before.iter().find(|old| old.tls.shows_what(tls)));
        let used = used.map(|old| old.acceptor);
        let (acceptor, beginning) = Acceptor::prepare(tls.settings(alpn), &Metrics::new(self.registry), used)?;
        secured.begins(beginning);
        Ok(acceptor)
    }
}

/// Filled by those who build at the same time.
pub(super) type Securing = RefCell<Secured>;

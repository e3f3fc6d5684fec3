//! Which of the certificates that are trusted vouch for peers, so that none is taken away that is needed.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
    server::{ParsedCertificate, WebPkiClientVerifier},
    time_provider::TimeProvider,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Metrics,
    handshake::{now, unix},
    metrics::RootGauges,
    x509,
};
use crate::http::io::forward;

/// Whom files, or the system, say to trust. The default: anybody, for nobody is asked for a certificate.
#[derive(Default)]
pub(super) struct Roots {
    /// Those of files, each with when it was needed. The system's do not change.
    all: Vec<Arc<Root>>,
    vouches: Option<Vouches>,
    trusted: Option<Arc<RootCertStore>>,
}

/// Whether these roots are good for this chain at a time.
pub(super) type Vouches = fn(&Arc<RootCertStore>, &[CertificateDer<'_>], UnixTime, &Arc<CryptoProvider>) -> bool;

struct Root {
    anchor: TrustAnchor<'static>,
    /// Open connections of peers that it vouches for.
    connections: AtomicUsize,
    /// When it was last needed, in seconds from 1970. Zero: never.
    last: AtomicU64,
    clock: Arc<dyn TimeProvider>,
    metrics: Metrics,
    gauges: OnceLock<Option<RootGauges>>,
}

/// A root that vouches for a connection that is open.
pub(super) struct Lease(Arc<Root>);

/// A root that is needed.
#[derive(Debug)]
pub(super) struct Needed {
    /// Whose it is.
    pub(super) name: String,
    pub(super) connections: usize,
    /// How long ago it vouched for somebody.
    pub(super) idle: Duration,
}

impl Roots {
    pub(super) fn of(
        store: &Arc<RootCertStore>,
        vouches: Vouches,
        clock: &Arc<dyn TimeProvider>,
        metrics: &Metrics,
    ) -> Self {
        let root = |anchor: &TrustAnchor<'static>| Root {
            anchor: anchor.clone(),
            connections: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            clock: Arc::clone(clock),
            metrics: metrics.clone(),
            gauges: OnceLock::new(),
        };
        let all = store.roots.iter().map(|anchor| Arc::new(root(anchor))).collect();
        Self { all, vouches: Some(vouches), ..Self::system(store) }
    }

    /// Those of the system.
    pub(super) fn system(store: &Arc<RootCertStore>) -> Self {
        Self { all: Vec::new(), vouches: None, trusted: Some(Arc::clone(store)) }
    }

    /// Knows of each root what these know of it.
    pub(super) fn inherit(&mut self, before: &Self) {
        for root in &mut self.all {
            if let Some(same) = before.all.iter().find(|old| old.anchor == root.anchor) {
                *root = Arc::clone(same);
            }
        }
    }

    /// Those of these that others do not trust, and that vouch for a connection or did so within this time.
    pub(super) fn missed<'a>(
        &'a self,
        among: &'a Self,
        within: Duration,
        now: SystemTime,
    ) -> impl Iterator<Item = Needed> + 'a {
        let is_gone = |root: &&Arc<Root>| among.trusted.as_ref().is_some_and(|new| !new.roots.contains(&root.anchor));
        let gone = self.all.iter().filter(is_gone);
        gone.filter_map(move |root| root.needed(within, now))
    }

    /// Holds on to the root that vouches for a peer, whose certificates were verified by these.
    pub(super) fn lease(
        &self,
        chain: Option<&[CertificateDer<'static>]>,
        provider: &Arc<CryptoProvider>,
    ) -> Option<Lease> {
        self.root_of(chain?, provider).map(Lease::new)
    }

    /// The only root that vouches for a chain. With two of them neither is needed.
    fn root_of(&self, chain: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<Arc<Root>> {
        let vouches = self.vouches?;
        let issuers: Vec<_> = chain.iter().filter_map(|cert| x509::issuer(cert)).collect();
        let named = |root: &&Arc<Root>| issuers.contains(&root.anchor.subject.as_ref());
        let mut candidates: Vec<_> = self.all.iter().filter(named).collect();
        if candidates.len() > 1 {
            // An authority with a new key, or one that another one signed: the names do not tell.
            let now = self.all.first()?.clock.current_time()?;
            candidates.retain(|root| {
                let alone = Arc::new(RootCertStore { roots: vec![root.anchor.clone()] });
                vouches(&alone, chain, now, provider)
            });
        }
        let [root] = candidates[..] else { return None };
        Some(Arc::clone(root))
    }
}

impl Root {
    // Relaxed, here and below: numbers that order nothing else.
    fn needed(&self, within: Duration, now: SystemTime) -> Option<Needed> {
        let connections = self.connections.load(Ordering::Relaxed);
        let last = self.last.load(Ordering::Relaxed);
        let idle = now.duration_since(UNIX_EPOCH + Duration::from_secs(last)).unwrap_or_default();
        let is_needed = connections > 0 || last > 0 && idle < within;
        is_needed.then(|| Needed { name: self.name(), connections, idle })
    }

    fn name(&self) -> String {
        x509::shown(&self.anchor.subject)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "a nameless root".to_owned())
    }

    fn seen(&self) {
        let now = unix(now(&*self.clock));
        self.last.store(now.try_into().unwrap_or(0), Ordering::Relaxed);
        if let Some(gauges) = self.gauges() {
            gauges.last_seen.set(now);
        }
    }

    fn gauges(&self) -> Option<&RootGauges> {
        self.gauges.get_or_init(|| self.metrics.root(&self.name())).as_ref()
    }
}

impl Lease {
    fn new(root: Arc<Root>) -> Self {
        root.connections.fetch_add(1, Ordering::Relaxed);
        root.seen();
        if let Some(gauges) = root.gauges() {
            gauges.connections.incr();
        }
        Self(root)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.seen();
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(gauges) = self.0.gauges() {
            gauges.connections.decr();
        }
    }
}

/// As a server looks at its clients.
pub(super) fn for_client(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    provider: &Arc<CryptoProvider>,
) -> bool {
    let Some((leaf, rest)) = chain.split_first() else { return false };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider)).build();
    verifier.is_ok_and(|verifier| verifier.verify_client_cert(leaf, rest, now).is_ok())
}

/// As a client looks at a server, whatever it is called.
pub(super) fn for_server(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    provider: &Arc<CryptoProvider>,
) -> bool {
    let Some((leaf, rest)) = chain.split_first() else { return false };
    let Ok(leaf) = ParsedCertificate::try_from(leaf) else { return false };
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, rest, now, algorithms).is_ok()
}

/// A stream, and what vouches for its peer.
pub(super) struct Held<S> {
    stream: S,
    _lease: Option<Lease>,
}

impl<S> Held<S> {
    pub(super) const fn new(stream: S, lease: Option<Lease>) -> Self {
        Self { stream, _lease: lease }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    forward!(stream: poll_read);
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    forward!(stream: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}

//! Hosts and ports to live addresses: literals at once, names by DNS.

#[cfg(feature = "hickory")]
mod hickory;
pub(crate) mod host;
mod lookup;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{Activity, Addr, Endpoint, Failure, Publisher, State, namer::Resolve};

#[cfg(feature = "hickory")]
pub use hickory::{BadConfiguration, Hickory};
use host::Host;
pub use lookup::{Answer, Lookup, LookupFuture, System};

/// How often a name is asked for again where nothing says how long an answer is good, and after a failure.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// An answer is good for at least this long, whatever its time to live.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// An answer is good for at most this long, whatever its time to live.
pub const MAX_TTL: Duration = Duration::from_mins(5);

/// How many hosts with a port are watched at once.
pub const MAX_WATCHES: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// How long one lookup may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How many lookups run at once: the system's resolver takes a thread for each.
const MAX_LOOKUPS: usize = 32;

/// Resolves hosts for `/$/inet`, `/$/fixedinet` and whoever else has a host and a port.
///
/// | host and port | address |
/// |---|---|
/// | a literal address, IPv4 possibly short (`127.1`) | that one, at once |
/// | a name | all its addresses, asked for again while they are watched: after their time to live, within [`MIN_TTL`] and [`MAX_TTL`], or else every [`INTERVAL`] |
/// | a name that does not exist, as everything below `.invalid` | [`Addr::Neg`], or the last answer if there was one |
/// | a name, and DNS fails | the last answer, marked as stale; a failure if there was none |
/// | what is no host, or a port not from 1 to 65535 | a failure that says so |
///
/// Equal hosts and ports share one watch, which ends when nobody reads it. At [`MAX_WATCHES`] a further lookup fails.
///
/// A clone shares the watches.
#[derive(Clone)]
pub struct Inet {
    inner: Arc<Inner>,
}

/// Why a host and a port have no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InetError {
    /// Neither an address nor a name.
    #[error("{host:?} is not a host name or an IP address")]
    Host {
        /// What there is instead.
        host: String,
    },
    /// Not a number from 1 to 65535.
    #[error("{port:?} is not a port from 1 to 65535, for host {host}")]
    Port {
        /// The host.
        host: String,
        /// What there is instead.
        port: String,
    },
    /// DNS did not answer in 10 s.
    #[error("no answer for host {host} within {TIMEOUT:?}")]
    Timeout {
        /// The host.
        host: String,
    },
    /// As many hosts are watched as may be.
    #[error("cannot resolve {host}: {limit} hosts are watched already")]
    TooMany {
        /// The host.
        host: String,
        /// How many hosts may be watched.
        limit: usize,
    },
}

/// DNS could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot resolve host {host}")]
pub struct LookupFailed {
    /// The host.
    pub host: String,
    /// What the resolver says.
    pub source: Failure,
}

struct Inner {
    lookup: Arc<dyn Lookup>,
    lookups: Semaphore,
    max_watches: usize,
    watches: Mutex<HashMap<Key, Arc<Watch>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    port: u16,
    once: bool,
}

type Watch = Publisher<Addr>;

impl Inet {
    /// Asks for names by `lookup`.
    pub fn new(lookup: impl Lookup) -> Self {
        Self::build(Arc::new(lookup), MAX_WATCHES)
    }

    /// Watches at most this many hosts at once; [`MAX_WATCHES`] by default.
    #[must_use]
    pub fn with_max_watches(self, max_watches: NonZeroUsize) -> Self {
        Self::build(self.inner.lookup.clone(), max_watches)
    }

    fn build(lookup: Arc<dyn Lookup>, max_watches: NonZeroUsize) -> Self {
        let lookups = Semaphore::new(MAX_LOOKUPS);
        let inner = Inner { lookup, lookups, max_watches: max_watches.get(), watches: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    fn watch(&self, host: &str, port: &str, once: bool) -> Activity<Addr> {
        match self.try_watch(host, port, once) {
            Ok(activity) => activity,
            Err(error) => Activity::failed(Arc::new(error)),
        }
    }

    fn try_watch(&self, text: &str, port: &str, once: bool) -> Result<Activity<Addr>, InetError> {
        let host = host::parse(text).ok_or_else(|| InetError::Host { host: text.to_owned() })?;
        let port = host::parse_port(port.strip_prefix('+').unwrap_or(port))
            .ok_or_else(|| InetError::Port { host: text.to_owned(), port: port.to_owned() })?;
        let name = match host {
            Host::Ip(ip) => return Ok(Activity::value(Addr::of([(ip, port).into()]))),
            Host::Name(name) => name.to_ascii_lowercase(),
        };
        let mut watches = self.inner.watches();
        let key = Key { host: name, port, once };
        if let Some(known) = watches.get(&key) {
            return Ok(known.subscribe());
        }
        let limit = self.inner.max_watches;
        if watches.len() >= limit {
            // Answers that were to stand for ever, but that nobody reads.
            watches.retain(|_, watch| !watch.is_closed());
        }
        if watches.len() >= limit {
            return Err(InetError::TooMany { host: text.to_owned(), limit });
        }
        let (publisher, activity) = Activity::channel();
        let publisher = Arc::new(publisher);
        watches.insert(key.clone(), publisher.clone());
        drop(watches);
        tokio::spawn(keep(Asking { inner: self.inner.clone(), key, publisher }));
        Ok(activity)
    }
}

impl Default for Inet {
    /// Asks the system's resolver, every [`INTERVAL`].
    fn default() -> Self {
        Self::new(System)
    }
}

impl Resolve for Inet {
    fn resolve(&self, host: &str, port: &str) -> Activity<Addr> {
        self.watch(host, port, false)
    }

    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr> {
        self.watch(host, port, true)
    }
}

impl Inner {
    fn watches(&self) -> MutexGuard<'_, HashMap<Key, Arc<Watch>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One host that is being asked for. However that ends, the next reader starts afresh, unless once was enough.
struct Asking {
    inner: Arc<Inner>,
    key: Key,
    publisher: Arc<Watch>,
}

/// A name does not exist any more, though it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such host")]
struct NotFound;

/// Asks for a host until nobody reads it, or until an answer came if once is enough.
async fn keep(asking: Asking) {
    loop {
        tokio::select! {
            () = asking.publisher.closed() => {}
            pause = asking.ask() => {
                if asking.stands() {
                    return;
                }
                tokio::select! {
                    () = asking.publisher.closed() => {}
                    () = sleep(pause) => continue,
                }
            }
        }
        if asking.is_over() {
            return;
        }
    }
}

impl Asking {
    /// Asks once, publishes the answer, and says when to ask again.
    async fn ask(&self) -> Duration {
        let host = &self.key.host;
        let _permit = self.inner.lookups.acquire().await;
        match timeout(TIMEOUT, self.inner.lookup.lookup(host)).await {
            Ok(Ok(Answer::Found { ips, ttl })) => {
                self.found(ips);
                return ttl.map_or(INTERVAL, |ttl| ttl.clamp(MIN_TTL, MAX_TTL));
            }
            Ok(Ok(Answer::NotFound)) if !matches!(self.publisher.sample(), State::Ok(Addr::Bound(_))) => {
                self.publisher.ok_if_changed(Addr::Neg, PartialEq::eq);
            }
            Ok(Ok(Answer::NotFound)) => self.failed(Arc::new(NotFound)),
            Ok(Err(source)) => self.failed(source),
            Err(_) => self.publisher.failed(Arc::new(InetError::Timeout { host: host.clone() })),
        }
        INTERVAL
    }

    /// Whether the answer stands for good.
    fn stands(&self) -> bool {
        self.key.once && matches!(self.publisher.sample(), State::Ok(Addr::Bound(_)))
    }

    fn found(&self, mut ips: Vec<std::net::IpAddr>) {
        // In one order, so that a rotated answer is not another one.
        ips.sort_unstable();
        ips.dedup();
        let endpoints = ips.into_iter().map(|ip| Endpoint::new((ip, self.key.port).into()));
        self.publisher.ok_if_changed(Addr::Bound(endpoints.collect()), PartialEq::eq);
    }

    fn failed(&self, source: Failure) {
        self.publisher.failed(Arc::new(LookupFailed { host: self.key.host.clone(), source }));
    }

    /// Whether nobody reads it any more. If so no new reader finds it.
    fn is_over(&self) -> bool {
        let mut watches = self.inner.watches();
        // Under the lock, so that no lookup finds it in between.
        let is_over = self.publisher.is_closed();
        if is_over {
            self.remove(&mut watches);
        }
        is_over
    }

    fn remove(&self, watches: &mut HashMap<Key, Arc<Watch>>) {
        if watches.get(&self.key).is_some_and(|known| Arc::ptr_eq(known, &self.publisher)) {
            watches.remove(&self.key);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.stands() {
            self.remove(&mut self.inner.watches());
        }
    }
}

impl fmt::Debug for Inet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inet").field("watches", &self.inner.watches().len()).finish_non_exhaustive()
    }
}

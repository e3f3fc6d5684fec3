//! What is configured per name: how long, how often, how balanced.
//!
//! A policy is folded once, when the stack of a name is built; no request looks anything up.

mod hedge;
mod limit;

use std::{fmt, hash::Hasher, num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, Request, header};
use linkerd_balance::{
    Accrual, Breaker, BreakerCounters, Health, ProbeSettings,
    accrual::{Backoff, ConsecutiveFailures},
};
use linkerd_dtab::Path;

use linkerd_retry::{Budget, replay::ReplayMemory};

pub(crate) use self::limit::Door;
pub use self::{hedge::HedgePolicy, limit::LimitPolicy};
use crate::{
    Body,
    classify::{HttpClassifier, HttpClassify},
    http::{Connect, context::RequestContext},
};

/// How a logical name's requests are treated.
#[derive(Clone)]
pub struct ServicePolicy {
    /// How long a request may take in all: naming, connecting, retries and backoff. `None`: for ever.
    pub total_timeout: Option<Duration>,
    /// How many retries there may be. Each logical name has a fresh budget like this one.
    pub retry_budget: Budget,
    /// How long to wait before each.
    pub backoff: linkerd_retry::Backoff,
    /// How often a request is sent, the first time included. `None` leaves that to the budget.
    pub max_attempts: Option<NonZeroU32>,
    /// When an attempt that takes long is made a second time, elsewhere. `None`: never.
    pub hedge: Option<HedgePolicy>,
    /// How many requests are let in; the others are shed unsent. Each logical name has a limit like this one. `None`: all.
    pub limit: Option<LimitPolicy>,
    /// What a failure is, and which ones are retried.
    pub classifier: Arc<dyn HttpClassify>,
    /// Whether a deadline that came with the request is kept: once it has passed, no attempt begins.
    pub enforce_deadline: bool,
    /// How many bytes of a body that streams are kept, so that it can be sent again. One that is longer streams on, and
    /// is sent once. Zero keeps none of them; a body that is here whole is kept anyway.
    pub retry_buffer_bytes: usize,
    /// What all bodies that are kept take together: make one for a process.
    pub replay_memory: ReplayMemory,
    /// How long the body of a response may be silent while somebody waits for more of it. Then it fails, and its
    /// connection ends. `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// Whether hops tell each other of retries, so that they do not multiply: requests say which attempt they are
    /// (`l5d-ctx-attempt`), failures that were retried here that they should not be again (`l5d-retryable: false`), and
    /// both are obeyed. Off by default.
    pub retry_hints: bool,
    /// How long an answer is held back for its end, where that may [ask for another
    /// attempt](HttpClassify::may_retry_end) of a request that is kept. Then it is passed on, whatever its end says.
    pub classification_timeout: Duration,
    /// How many bytes of an answer are held back for its end. One that is longer is passed on.
    pub response_buffer_bytes: usize,
}

/// How a bound name's endpoints are balanced, and what becomes of the ones that fail.
#[derive(Clone)]
pub struct ClientPolicy {
    /// How an endpoint is picked.
    pub balancer: linkerd_balance::Policy,
    /// When an endpoint is taken out for a while.
    pub accrual: AccrualPolicy,
    /// How many requests of which nothing was sent may be sent elsewhere. Each client has a fresh
    /// budget like this one.
    pub requeue_budget: Budget,
    /// How long one attempt may take. `None`: for ever.
    pub attempt_timeout: Option<Duration>,
    /// How endpoints are reached. `None`: as the mesh reaches them.
    pub connect: Option<Arc<dyn Connect>>,
    /// What requests have in common that should meet the same endpoint, where the balancer hashes. `None`: nothing.
    pub hash_on: Option<HashOn>,
    /// Whether an endpoint that a request could not connect to is left alone until a connection of a task of its own, after
    /// 1 s, 2 s, and so on up to 32 s, has succeeded: Linkerd's `failFast`. The only endpoint of a set is not. Off by
    /// default: what could not be connected to is avoided for its load anyway, by a balancer with a failure penalty, and
    /// one refusal in passing should not cost a second. Where connections are
    /// [kept](crate::http::PoolConfig::min_size) it is always so of those.
    pub fail_fast: bool,
    /// Whether the load of an endpoint heeds what it says of itself: `Retry-After` and `grpc-retry-pushback-ms` with an
    /// answer that is a failure or 429, and `endpoint-load-metrics` (an ORCA report as text or JSON) with any.
    pub hints: bool,
    /// The settings that it was made from, as JSON, for people. `None`: it was made in code.
    pub settings: Option<Arc<str>>,
}

/// What a request's key is made of, for balancers that hash. Requests without it are sent anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The first value of a header.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// The path of the URI, without its query.
    Path,
    /// The client's IP address.
    SourceIp,
}

/// When an endpoint is taken out, and for how long.
#[derive(Clone)]
pub struct AccrualPolicy {
    /// Makes what decides, for each endpoint. `None`: never, unless `probe` finds it so.
    pub accrual: Option<NewAccrual>,
    /// How long until it is probed.
    pub backoff: Backoff,
    /// Asks endpoints whether they are well, so that no request has to find out.
    pub probe: Option<ProbePolicy>,
}

/// Makes the accrual of an endpoint.
pub type NewAccrual = Arc<dyn Fn() -> Box<dyn Accrual> + Send + Sync>;

/// An active probe: what is asked, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePolicy {
    /// How often, how long, and how many count.
    pub settings: ProbeSettings,
    /// What is asked, and which answer is well.
    pub question: ProbeQuestion,
    /// The `Host`. `None`: the endpoint's address.
    pub host: Option<String>,
}

/// What an active probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeQuestion {
    /// `GET` of a path, with its query; an answer of 2xx is well.
    Http {
        /// The path.
        path: String,
    },
    /// gRPC's health check, `grpc.health.v1.Health/Check`; `SERVING` is well. For endpoints that speak HTTP/2.
    Grpc {
        /// The service that is asked for. Empty: the server as a whole.
        service: String,
    },
}

/// The policy of each name, as somebody configured it.
pub trait Policies: Send + Sync + 'static {
    /// The policy of a logical name.
    fn service(&self, path: &Path) -> ServicePolicy;
    /// The policy of a bound name.
    fn client(&self, id: &Path) -> ClientPolicy;
}

/// The same policies for every name.
#[derive(Clone, Debug, Default)]
pub struct Uniform {
    /// For every logical name.
    pub service: ServicePolicy,
    /// For every bound name.
    pub client: ClientPolicy,
}

impl Policies for Uniform {
    fn service(&self, _path: &Path) -> ServicePolicy {
        self.service.clone()
    }

    fn client(&self, _id: &Path) -> ClientPolicy {
        self.client.clone()
    }
}

impl ServicePolicy {
    /// Linkerd's: 100 ms.
    pub const CLASSIFICATION_TIMEOUT: Duration = Duration::from_millis(100);

    /// Linkerd's for requests and answers of h2: 16383.
    pub const BUFFER_BYTES: usize = 16383;
}

impl AccrualPolicy {
    /// Never.
    #[must_use]
    pub fn off() -> Self {
        Self { accrual: None, backoff: Backoff::default(), probe: None }
    }

    /// As `accrual` decides, of which each endpoint has a clone.
    #[must_use]
    pub fn new(accrual: impl Accrual + Clone + Sync) -> Self {
        Self { accrual: Some(Arc::new(move || Box::new(accrual.clone()))), ..Self::off() }
    }

    /// The breaker of one endpoint, if it is ever taken out.
    pub(crate) fn breaker(&self, id: String, health: &Health, counters: &BreakerCounters) -> Option<Breaker> {
        let accrual = if let Some(accrual) = &self.accrual {
            accrual()
        } else {
            self.probe.as_ref()?;
            Box::new(linkerd_balance::accrual::Never)
        };
        let breaker = Breaker::builder(accrual).backoff(self.backoff).health(health.clone()).id(id);
        Some(breaker.counters(counters.clone()).seed(crate::random::next()).build())
    }
}

impl HashOn {
    /// The key of a request, if it has one. The same in every process.
    pub(crate) fn key(&self, req: &Request<Body>, cx: Option<&RequestContext>) -> Option<u64> {
        let mut hash = Fnv::new();
        match self {
            Self::Header(name) => hash.write(req.headers().get(name)?.as_bytes()),
            Self::Cookie(name) => hash.write(cookie(req, name)?),
            Self::Path => hash.write(req.uri().path().as_bytes()),
            Self::SourceIp => match cx?.remote_addr()?.ip().to_canonical() {
                std::net::IpAddr::V4(ip) => hash.write(&ip.octets()),
                std::net::IpAddr::V6(ip) => hash.write(&ip.octets()),
            },
        }
        Some(hash.finish())
    }
}

fn cookie<'a>(req: &'a Request<Body>, name: &str) -> Option<&'a [u8]> {
    let pairs = req.headers().get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    pairs.into_iter().find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// A number for some bytes: the same in every process.
#[cfg(feature = "config")]
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = Fnv::new();
    hash.write(bytes);
    hash.finish()
}

/// FNV-1a: what is hashed must be the same in every process.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        // Its high bits are weak for short keys.
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        mixed ^ (mixed >> 33)
    }
}

/// Retries within Linkerd's budget, at once; no hedges; no limit on requests and time; deadlines kept; 5xx a failure that
/// is not retried; no streams kept, which may be silent for ever; 16 KiB of an answer held back for 100 ms, where its end
/// may matter.
impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            total_timeout: None,
            retry_budget: default_budget(),
            backoff: linkerd_retry::Backoff::none(),
            max_attempts: None,
            hedge: None,
            limit: None,
            classifier: Arc::new(HttpClassifier::default()),
            enforce_deadline: true,
            retry_buffer_bytes: 0,
            replay_memory: ReplayMemory::default(),
            idle_timeout: None,
            retry_hints: false,
            classification_timeout: Self::CLASSIFICATION_TIMEOUT,
            response_buffer_bytes: Self::BUFFER_BYTES,
        }
    }
}

/// P2C over peak EWMA with its failure penalty, five failures in a row, Linkerd's budget of requeues.
impl Default for ClientPolicy {
    fn default() -> Self {
        Self {
            balancer: linkerd_balance::Policy::default(),
            accrual: AccrualPolicy::default(),
            requeue_budget: default_budget(),
            attempt_timeout: None,
            connect: None,
            hash_on: None,
            fail_fast: false,
            hints: true,
            settings: None,
        }
    }
}

/// Five failures in a row, then 5 s to 300 s, jittered.
impl Default for AccrualPolicy {
    fn default() -> Self {
        Self::new(ConsecutiveFailures::new(ConsecutiveFailures::DEFAULT))
    }
}

fn default_budget() -> Budget {
    Budget::new(linkerd_retry::BudgetSettings::default()).unwrap_or_else(|_| Budget::off())
}

impl fmt::Debug for AccrualPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccrualPolicy")
            .field("accrual", &self.accrual.as_ref().map(|accrual| accrual()))
            .field("backoff", &self.backoff)
            .field("probe", &self.probe)
            .finish()
    }
}

impl fmt::Debug for ServicePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServicePolicy")
            .field("total_timeout", &self.total_timeout)
            .field("retry_budget", &self.retry_budget)
            .field("backoff", &self.backoff)
            .field("max_attempts", &self.max_attempts)
            .field("hedge", &self.hedge)
            .field("limit", &self.limit)
            .field("enforce_deadline", &self.enforce_deadline)
            .field("retry_buffer_bytes", &self.retry_buffer_bytes)
            .field("replay_memory", &self.replay_memory)
            .field("idle_timeout", &self.idle_timeout)
            .field("retry_hints", &self.retry_hints)
            .field("classification_timeout", &self.classification_timeout)
            .field("response_buffer_bytes", &self.response_buffer_bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPolicy")
            .field("balancer", &self.balancer)
            .field("accrual", &self.accrual)
            .field("requeue_budget", &self.requeue_budget)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("hash_on", &self.hash_on)
            .field("fail_fast", &self.fail_fast)
            .field("hints", &self.hints)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(on: &HashOn, req: http::request::Builder) -> Option<u64> {
        on.key(&req.body(Body::empty()).unwrap(), None)
    }

    #[test]
    fn requests_are_alike_by_what_is_hashed_and_only_that() {
        let header = HashOn::Header(HeaderName::from_static("x-user"));
        let with = |user: &str| Request::get(format!("/{user}")).header("x-user", user);
        assert_eq!(key(&header, with("a")), key(&header, with("a").uri("/other")));
        assert_ne!(key(&header, with("a")), key(&header, with("b")));
        assert_eq!(key(&header, Request::get("/")), None);

        let cookie = HashOn::Cookie("sid".to_owned());
        let with = |text: &str| Request::get("/").header("cookie", text);
        let expected = key(&cookie, with("sid=7"));
        assert!(expected.is_some());
        assert_eq!(key(&cookie, with("a=b; sid=7; c=d")), expected);
        assert_eq!(key(&cookie, with("a=b").header("cookie", "sid=7")), expected);
        assert_eq!(key(&cookie, with("xsid=7; sidx=7")), None);

        let on_path = |uri: &str| key(&HashOn::Path, Request::get(uri));
        assert_eq!(on_path("/a?x=1"), on_path("/a?x=2"));
        assert_ne!(on_path("/a"), on_path("/b"));
        assert_eq!(key(&HashOn::SourceIp, Request::get("/")), None);
    }

    #[test]
    fn the_source_is_an_address_without_its_port() {
        let key = |addr: &str| {
            let cx = RequestContext { remote: Some(addr.parse().unwrap()), ..RequestContext::default() };
            HashOn::SourceIp.key(&Request::new(Body::empty()), Some(&cx))
        };
        assert_eq!(key("10.0.0.1:1"), key("10.0.0.1:2"));
        assert_eq!(key("10.0.0.1:1"), key("[::ffff:10.0.0.1]:2"));
        assert_ne!(key("10.0.0.1:1"), key("10.0.0.2:1"));
    }
}

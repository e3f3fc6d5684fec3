//! Everything that limits or paces something by time: what a file sets, and what is there without it.

use std::time::Duration;

use linkerd_dtab::{interpreter::remote, namer::inet};

use super::{
    Config, InterpreterKind, ProtocolKind,
    decode::whole,
    error::Position,
    node::{Node, Value},
};
use crate::{Timer, http::h2, stack};

/// One timer of a proxy, and where its value comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct TimerSetting {
    /// What sets it: the section and key (`service.totalTimeoutMs`), or the header.
    pub timer: String,
    /// The router that it is of; `None` for the process.
    pub router: Option<String>,
    /// What of the router: a prefix of names, `*` for all; a server's address.
    pub scope: Option<String>,
    /// Its value. `None`: unlimited, or whatever a request says.
    pub value: Option<Duration>,
    /// Where the value was set.
    pub source: TimerSource,
    /// What an error says of it when it is over, if it ends requests.
    pub ends: Option<Timer>,
}

/// Where the value of a timer was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerSource {
    /// Nowhere: it is what it is without being set.
    Default,
    /// Nowhere, and it cannot be.
    Fixed,
    /// By each request, in this header.
    Header,
    /// In the file, at this key and place.
    File {
        /// The key, dotted and indexed: `routers[0].bindingTimeoutMs`.
        key: String,
        /// The place of its value.
        position: Position,
    },
}

/// A key, what it is without being set, and what it ends.
struct Known {
    key: &'static str,
    default: Preset,
    ends: Option<Timer>,
}

#[derive(Clone, Copy)]
enum Preset {
    Ms(u64),
    Unlimited,
    /// This, if the map that it stands in is there.
    Within(u64),
    /// This, if this key stands beside it.
    Beside(&'static str, u64),
    /// The default of failure accrual: this, if neither the map that it stands in is there nor a `kind` that never leaves
    /// an endpoint alone.
    OfAccrual(u64),
    /// It is not there without its key.
    Absent,
    /// It cannot be set.
    Fixed(u64),
}

use Preset::{Absent, Beside, Fixed, Ms, OfAccrual, Unlimited, Within};

const fn known(key: &'static str, default: Preset) -> Known {
    Known { key, default, ends: None }
}

const fn ending(key: &'static str, default: Preset, ends: Timer) -> Known {
    Known { key, default, ends: Some(ends) }
}

const PROCESS: &[Known] = &[
    known("shutdown.lameDuckMs", Ms(0)),
    known("shutdown.closeMs", Ms(0)),
    known("admin.shutdownGraceMs", Ms(10_000)),
    // The head of a request for an admin page, and the silence before it.
    known("admin.requestHead", Fixed(60_000)),
    known("admin.socketOptions.readTimeoutMs", Unlimited),
    known("admin.socketOptions.writeTimeoutMs", Unlimited),
    known("admin.socketOptions.userTimeoutMs", Ms(30_000)),
    known("reload.intervalMs", Ms(1000)),
    known("reload.bindMs", Ms(1000)),
    // Until a server that has no file descriptor left looks again, the first time.
    known("servers.acceptRetry", Fixed(50)),
];

const ROUTER: &[Known] = &[
    ending("bindingTimeoutMs", Ms(10_000), Timer::Binding),
    known("switchTimeoutMs", Ms(2_000)),
    known("bindingCache.idleTtlSecs", Ms(600_000)),
    known("interpreter.snapshot.maxAgeSeconds", Within(86_400_000)),
    // One look-up of a host of `/$/inet`, and the time to the next one where an answer does not say.
    known("dns.lookup", Fixed(millis(inet::TIMEOUT))),
    known("dns.refresh", Fixed(millis(inet::INTERVAL))),
    // The explanation that is added to the answer of a `TRACE`.
    known("trace.explanation", Fixed(millis(stack::PATIENCE))),
];

const SERVER: &[Known] = &[
    ending("timeoutMs", Unlimited, Timer::Server),
    known("serverSession.idleTimeMs", Unlimited),
    known("serverSession.lifeTimeMs", Unlimited),
    known("socketOptions.readTimeoutMs", Unlimited),
    known("socketOptions.writeTimeoutMs", Unlimited),
    known("socketOptions.userTimeoutMs", Ms(30_000)),
    known("perRequestPolicy.maxTimeoutMs", Within(60_000)),
    known("tls.handshakeTimeoutMs", Within(10_000)),
];

/// Of an http or h2 router.
const HTTP_SERVER: &[Known] = &[known("headerReadTimeoutMs", Ms(millis(super::Server::HEADER_READ_TIMEOUT)))];

/// Of an h2 router.
const H2_SERVICE: &[Known] =
    &[known("classificationTimeoutMs", Ms(millis(crate::ServicePolicy::CLASSIFICATION_TIMEOUT)))];

/// Of an h2 router: a connection on which nothing comes while a response is waited for is asked whether it lives, and
/// closed if it does not say so.
const H2_CLIENT: &[Known] = &[
    known("keepAlive.periodMs", Within(5_000)),
    known("keepAlive.timeoutMs", Within(4_000)),
    known("h2.pingAfter", Fixed(millis(h2::PING_AFTER))),
    ending("h2.silence", Fixed(millis(h2::SILENCE)), Timer::Silence),
];

const SERVICE: &[Known] = &[
    ending("totalTimeoutMs", Unlimited, Timer::Total),
    known("idleTimeoutMs", Unlimited),
    known("retries.budget.ttlSecs", Ms(10_000)),
    known("retries.backoff.ms", Absent),
    known("retries.backoff.minMs", Absent),
    known("retries.backoff.maxMs", Absent),
    known("hedge.delayMs", Absent),
    known("hedge.minDelayMs", Beside("percentile", 1)),
    known("hedge.maxDelayMs", Beside("percentile", 1000)),
    ending("limit.queueWaitMs", Absent, Timer::Queue),
    // What a retry may wait because its peer asks for it, and how long an answer is read that nobody will see.
    known("retries.maxPushback", Fixed(300_000)),
    known("retries.drain", Fixed(20)),
];

const CLIENT: &[Known] = &[
    ending("requestAttemptTimeoutMs", Unlimited, Timer::Attempt),
    ending("connectTimeout", Fixed(1000), Timer::Connect),
    known("tls.handshakeTimeoutMs", Within(10_000)),
    known("hostConnectionPool.idleTimeMs", Unlimited),
    known("clientSession.idleTimeMs", Unlimited),
    known("clientSession.lifeTimeMs", Unlimited),
    known("socketOptions.readTimeoutMs", Unlimited),
    known("socketOptions.writeTimeoutMs", Unlimited),
    known("socketOptions.userTimeoutMs", Ms(30_000)),
    known("requeueBudget.ttlSecs", Ms(10_000)),
    known("failureAccrual.backoff.ms", Absent),
    known("failureAccrual.backoff.minMs", OfAccrual(5000)),
    known("failureAccrual.backoff.maxMs", OfAccrual(300_000)),
    known("failureAccrual.window", Absent),
    known("failureAccrual.probe.intervalMs", Within(5000)),
    known("failureAccrual.probe.timeoutMs", Within(1000)),
    // Until the first try to connect after a connection could not be made, twice as long after each one more up to 32 s;
    // and between two times that connections which are kept are made again.
    known("failFast.firstTry", Fixed(1000)),
    known("hostConnectionPool.rest", Fixed(millis(stack::REST))),
    known("loadBalancer.overlapMs", Ms(0)),
    known("loadBalancer.returnAfterMs", Absent),
    known("loadBalancer.smoothWindowMs", Absent),
    known("loadBalancer.longStreamMs", Absent),
    known("loadBalancer.slowStart.windowMs", Absent),
];

const fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// Headers by which a request says how long it may take; the first two from anybody, the others where a server has a
/// `perRequestPolicy`.
const HEADERS: [(&str, Timer); 6] = [
    ("l5d-ctx-deadline", Timer::Deadline),
    ("grpc-timeout", Timer::GrpcTimeout),
    ("l5d-timeout", Timer::Total),
    ("l5d-request-timeout", Timer::Total),
    ("l5d-retry-timeout", Timer::Attempt),
    ("l5d-response-timeout", Timer::Attempt),
];

impl Config {
    /// Every timer of the proxy that this file describes, with its value and where that was set.
    ///
    /// Of a `service` or `client` section with prefixes: for each prefix what it sets, and first, for `*`, what there is
    /// without any.
    pub fn timers(&self) -> Vec<TimerSetting> {
        let mut list = List { config: self, timers: Vec::new(), router: None };
        list.add(PROCESS, "", "", None, true);
        for (i, router) in self.routers.iter().enumerate() {
            list.router = Some(router.label.clone());
            let base = format!("routers[{i}]");
            let is_h2 = router.protocol.kind() == ProtocolKind::H2;
            let is_http = is_h2 || router.protocol.kind() == ProtocolKind::Http;
            let of_h2 = |known: &'static [Known]| if is_h2 { known } else { &[] };
            list.add(ROUTER, "", &base, None, true);
            list.remote(&router.interpreter.kind, &base);
            for (j, server) in router.servers.iter().enumerate() {
                let scope = format!("{}/{}", server.ip, server.port);
                let base = format!("{base}.servers[{j}]");
                list.add(SERVER, "servers.", &base, Some(&scope), true);
                if is_http {
                    list.add(HTTP_SERVER, "servers.", &base, Some(&scope), true);
                }
                if server.per_request.is_some() {
                    list.headers(&HEADERS[2..], Some(&scope));
                }
            }
            list.scoped(&[SERVICE, of_h2(H2_SERVICE)], "service", &base);
            list.headers(&HEADERS[..2], None);
            list.scoped(&[CLIENT, of_h2(H2_CLIENT)], "client", &base);
        }
        list.timers
    }

    /// The value at a key, if it is in the file.
    fn find(&self, key: &str) -> Option<&Node> {
        let mut node = &self.tree;
        for step in key.split(['.', '[']) {
            let index = step.strip_suffix(']').and_then(|i| i.parse::<usize>().ok());
            node = match (index, &node.value) {
                (Some(i), Value::List(items)) => items.get(i)?,
                _ => node.get(step)?,
            };
        }
        (!node.is_null()).then_some(node)
    }
}

struct List<'a> {
    config: &'a Config,
    timers: Vec<TimerSetting>,
    router: Option<String>,
}

impl List<'_> {
    /// How a namerd is asked, if one is.
    fn remote(&mut self, kind: &InterpreterKind, base: &str) {
        let Some(remote) = kind.remote() else { return };
        // What it has without the key is what it has: that depends on the kind, and on the other keys.
        let preset = |key, value| known(key, Ms(millis(value)));
        let keys = [
            preset("interpreter.retry.baseSeconds", remote.retry_base),
            preset("interpreter.retry.maxSeconds", remote.retry_max),
            preset("interpreter.failureThreshold.minPeriodMs", remote.check_period),
            preset("interpreter.failureThreshold.closeTimeoutMs", remote.check_timeout),
        ];
        self.add(&keys, "", base, None, true);
        if let InterpreterKind::NamerdHttp { .. } = kind {
            self.add(&[known("interpreter.quiet", Fixed(millis(remote::http::QUIET)))], "", base, None, true);
        }
    }

    /// A section for all names, or one for each prefix.
    fn scoped(&mut self, lists: &[&[Known]], section: &str, base: &str) {
        let (prefix, base) = (format!("{section}."), format!("{base}.{section}"));
        for known in lists {
            self.add(known, &prefix, &base, Some("*"), true);
        }
        let configs = self.config.find(&format!("{base}.configs"));
        let Some(Value::List(configs)) = configs.map(|node| &node.value) else { return };
        for (i, config) in configs.iter().enumerate() {
            let scope = match config.get("prefix").map(|prefix| &prefix.value) {
                Some(Value::Scalar(prefix)) => prefix.text.clone(),
                _ => continue,
            };
            for known in lists {
                self.add(known, &prefix, &format!("{base}.configs[{i}]"), Some(&scope), false);
            }
        }
    }

    /// What stands below `base`, and, `with_presets`, what is there without standing anywhere.
    fn add(&mut self, known: &[Known], section: &str, base: &str, scope: Option<&str>, with_presets: bool) {
        let config = self.config;
        let has_map = |full: &str| full.rsplit_once('.').is_some_and(|(map, _)| config.find(map).is_some());
        let has_beside = |full: &str, key: &str| {
            full.rsplit_once('.').is_some_and(|(map, _)| config.find(&format!("{map}.{key}")).is_some())
        };
        let never_leaves_alone = || {
            let accrual = config.find(&format!("{base}.failureAccrual"));
            accrual.is_some_and(|accrual| {
                let kind = accrual.get("kind").map(|kind| &kind.value);
                matches!(kind, Some(Value::Scalar(kind)) if kind.text == "none") && accrual.get("probe").is_none()
            })
        };
        for Known { key, default, ends } in known {
            let full = if base.is_empty() { (*key).to_owned() } else { format!("{base}.{key}") };
            let node = self.config.find(&full);
            let (value, source) = match (node, default) {
                (Some(node), _) => (duration(key, node), TimerSource::File { key: full, position: node.at }),
                (None, Within(ms)) if has_map(&full) => (Some(Duration::from_millis(*ms)), TimerSource::Default),
                (None, Beside(key, ms)) if has_beside(&full, key) => {
                    (Some(Duration::from_millis(*ms)), TimerSource::Default)
                }
                (None, OfAccrual(_)) if has_map(&full) || never_leaves_alone() => continue,
                (None, Absent | Within(_) | Beside(..)) => continue,
                (None, _) if !with_presets => continue,
                (None, Ms(ms) | OfAccrual(ms)) => (Some(Duration::from_millis(*ms)), TimerSource::Default),
                (None, Fixed(ms)) => (Some(Duration::from_millis(*ms)), TimerSource::Fixed),
                (None, Unlimited) => (None, TimerSource::Default),
            };
            self.push(format!("{section}{key}"), scope, value, source, *ends);
        }
    }

    fn headers(&mut self, headers: &[(&str, Timer)], scope: Option<&str>) {
        for (header, timer) in headers {
            self.push((*header).to_owned(), scope, None, TimerSource::Header, Some(*timer));
        }
    }

    fn push(
        &mut self,
        timer: String,
        scope: Option<&str>,
        value: Option<Duration>,
        source: TimerSource,
        ends: Option<Timer>,
    ) {
        let (router, scope) = (self.router.clone(), scope.map(str::to_owned));
        self.timers.push(TimerSetting { timer, router, scope, value, source, ends });
    }
}

/// The value of a key that was checked; its unit is in its name. A total timeout of zero is none.
fn duration(key: &str, node: &Node) -> Option<Duration> {
    let Value::Scalar(scalar) = &node.value else { return None };
    let number = u64::try_from(whole(scalar)?).ok();
    let is_seconds = key.ends_with("Secs") || key.ends_with("Seconds") || key.ends_with("window");
    match number {
        None | Some(0) if key == "totalTimeoutMs" => None,
        Some(0) if key.ends_with("socketOptions.userTimeoutMs") || key == "headerReadTimeoutMs" => None,
        Some(number) if is_seconds => Some(Duration::from_secs(number)),
        number => number.map(Duration::from_millis),
    }
}

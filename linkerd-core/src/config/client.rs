//! The `client` section of a router: how bound names are talked to.

use std::time::Duration;

use linkerd_dtab::Captures;

use super::{
    accrual::FailureAccrual,
    balancer::LoadBalancer,
    decode::{At, Decode, MAX_INT, Section},
    retries::Budget,
    router::ProtocolKind,
    scoped::Scope,
    server::SocketOptions,
    tls::ClientTls,
};
use crate::http::KeepAlive;

/// The settings of a client, all optional: of a static client's matching prefixes, later ones override earlier ones
/// setting by setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Client {
    /// `tls`. Default: none, clear text.
    pub tls: Option<ClientTls>,
    /// `loadBalancer`. Default: `p2c`.
    pub load_balancer: Option<LoadBalancer>,
    /// `failureAccrual`. Default: 5 consecutive failures.
    pub failure_accrual: Option<FailureAccrual>,
    /// `failFast`: mark an endpoint down once connecting failed. Default: false.
    pub fail_fast: Option<bool>,
    /// `requeueBudget`: how many requests that were never sent may be tried again.
    pub requeue_budget: Option<Budget>,
    /// `requestAttemptTimeoutMs`: how long one attempt may take. Default: unlimited.
    pub request_attempt_timeout: Option<Duration>,
    /// `hostConnectionPool`: connections to one endpoint. Accepted and ignored by h2.
    pub host_connection_pool: Option<HostConnectionPool>,
    /// `clientSession`: how long connections live.
    pub session: Option<Session>,
    /// `socketOptions` of connections.
    pub socket_options: Option<SocketOptions>,
    /// `requestAuthorizers` (http, h2). Default: none.
    pub request_authorizers: Option<Vec<RequestAuthorizer>>,
    /// `forwardClientCert` (http, h2): tell the server about the client's certificate. Default: false.
    pub forward_client_cert: Option<bool>,
    /// Window, frame and header sizes (h2).
    pub h2: H2Settings,
    /// `http1` (h2): endpoints speak HTTP/1.1. Default: false.
    ///
    /// Not a key of Linkerd 1.x.
    pub http1: Option<bool>,
    /// `thriftFramed` (thrift). Default: true.
    pub thrift_framed: Option<bool>,
    /// `attemptTTwitterUpgrade` (thrift). Default: false.
    pub attempt_ttwitter_upgrade: Option<bool>,
}

/// The `hostConnectionPool` map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConnectionPool {
    /// `minSize`: connections that are kept, whether somebody asks or not. Default: 0.
    pub min_size: usize,
    /// `maxSize`: connections at most, at least 1 and not less than `minSize`. Default: unlimited.
    pub max_size: Option<usize>,
    /// `idleTimeMs`: how long a connection above `minSize` may be idle. Default: forever.
    pub idle_time: Option<Duration>,
    /// `maxWaiters`: requests that may wait for a connection. Default: unlimited.
    pub max_waiters: Option<usize>,
}

/// The `clientSession` and `serverSession` maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// `lifeTimeMs`: how old a connection may get. Default: unlimited.
    pub life_time: Option<Duration>,
    /// `idleTimeMs`: how long it may be idle. Default: unlimited.
    pub idle_time: Option<Duration>,
}

/// An entry of `requestAuthorizers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestAuthorizer {
    /// `io.l5d.k8s.istio`: asks the mixer of Istio 0.x.
    Istio {
        /// `mixerHost`. Default: `istio-mixer`.
        mixer_host: String,
        /// `mixerPort`. Default: 9091.
        mixer_port: u16,
    },
}

/// What h2 servers and clients have in common. Unset values are those of RFC 9113.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct H2Settings {
    /// `initialStreamWindowBytes`, from 0 to 2^31-1. Default: 65535.
    pub initial_stream_window_bytes: Option<u32>,
    /// `headerTableBytes`. Default: 4096.
    pub header_table_bytes: Option<u32>,
    /// `maxFrameBytes`, from 16384 to 16777215. Default: 16384.
    pub max_frame_bytes: Option<u32>,
    /// `maxHeaderListBytes`, at least 1. Default: 8192.
    pub max_header_list_bytes: Option<u32>,
    /// `keepAlive` (clients): pings to endpoints from which nothing comes. Default: none, but to those that are waited for.
    ///
    /// Not a key of Linkerd 1.x.
    pub keep_alive: Option<KeepAlive>,
    /// `windowUpdateRatio`, between 0 and 1, both excluded. Default: 0.99. Has no effect: windows are updated at half.
    pub window_update_ratio: Option<f64>,
}

impl Client {
    /// The load balancer, by default `p2c`.
    pub fn load_balancer(&self) -> LoadBalancer {
        self.load_balancer.clone().unwrap_or_default()
    }

    /// When to stop using an endpoint, by default after 5 failures in a row.
    pub fn failure_accrual(&self) -> FailureAccrual {
        self.failure_accrual.clone().unwrap_or_default()
    }

    /// The requeue budget, by default that of [`Budget::default`].
    pub fn requeue_budget(&self) -> Budget {
        self.requeue_budget.clone().unwrap_or_default()
    }

    /// The connection pool, by default unlimited.
    pub fn host_connection_pool(&self) -> HostConnectionPool {
        self.host_connection_pool.clone().unwrap_or_default()
    }

    /// The options of sockets, by default those of [`SocketOptions::default`].
    pub fn socket_options(&self) -> SocketOptions {
        self.socket_options.clone().unwrap_or_default()
    }

    /// TLS, if it is on.
    pub fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref().filter(|tls| tls.enabled)
    }
}

impl Scope for Client {
    const SECTION: &'static str = "client";

    fn decode(s: &mut Section<'_>, protocol: ProtocolKind) -> Self {
        let mut client = Self {
            tls: s.get("tls"),
            load_balancer: s.with("loadBalancer", |at| LoadBalancer::decode(at, protocol)),
            failure_accrual: s.with("failureAccrual", |at| FailureAccrual::decode(at, protocol)),
            fail_fast: s.get("failFast"),
            requeue_budget: s.get("requeueBudget"),
            request_attempt_timeout: s.millis("requestAttemptTimeoutMs", 1),
            host_connection_pool: s.get("hostConnectionPool"),
            session: s.get("clientSession"),
            socket_options: s.get("socketOptions"),
            ..Self::default()
        };
        match protocol {
            ProtocolKind::Http | ProtocolKind::H2 => {
                client.request_authorizers = s.get("requestAuthorizers");
                client.forward_client_cert = s.get("forwardClientCert");
                if protocol == ProtocolKind::H2 {
                    client.h2 = H2Settings { keep_alive: s.get("keepAlive"), ..H2Settings::decode(s) };
                    client.http1 = s.get("http1");
                }
            }
            ProtocolKind::Thrift | ProtocolKind::ThriftMux => {
                client.thrift_framed = s.get("thriftFramed");
                client.attempt_ttwitter_upgrade = s.get("attemptTTwitterUpgrade");
            }
            ProtocolKind::Mux => {}
        }
        client
    }

    fn override_with(&mut self, later: &Self, captures: &Captures) {
        let Self {
            tls,
            load_balancer,
            failure_accrual,
            fail_fast,
            requeue_budget,
            request_attempt_timeout,
            host_connection_pool,
            session,
            socket_options,
            request_authorizers,
            forward_client_cert,
            h2,
            http1,
            thrift_framed,
            attempt_ttwitter_upgrade,
        } = later.clone();
        if let Some(mut later) = tls {
            later.common_name = later.common_name.map(|name| captures.substitute(&name));
            self.tls = Some(later);
        }
        set(&mut self.load_balancer, load_balancer);
        set(&mut self.failure_accrual, failure_accrual);
        set(&mut self.fail_fast, fail_fast);
        set(&mut self.requeue_budget, requeue_budget);
        set(&mut self.request_attempt_timeout, request_attempt_timeout);
        set(&mut self.host_connection_pool, host_connection_pool);
        set(&mut self.session, session);
        set(&mut self.socket_options, socket_options);
        set(&mut self.request_authorizers, request_authorizers);
        set(&mut self.forward_client_cert, forward_client_cert);
        set(&mut self.h2.initial_stream_window_bytes, h2.initial_stream_window_bytes);
        set(&mut self.h2.header_table_bytes, h2.header_table_bytes);
        set(&mut self.h2.max_frame_bytes, h2.max_frame_bytes);
        set(&mut self.h2.max_header_list_bytes, h2.max_header_list_bytes);
        set(&mut self.h2.keep_alive, h2.keep_alive);
        set(&mut self.h2.window_update_ratio, h2.window_update_ratio);
        set(&mut self.http1, http1);
        set(&mut self.thrift_framed, thrift_framed);
        set(&mut self.attempt_ttwitter_upgrade, attempt_ttwitter_upgrade);
    }
}

/// Lets a later setting, if there is one, take the place of an earlier one.
pub(super) fn set<T>(setting: &mut Option<T>, later: Option<T>) {
    if later.is_some() {
        *setting = later;
    }
}

impl H2Settings {
    pub(super) fn decode(s: &mut Section<'_>) -> Self {
        Self {
            initial_stream_window_bytes: s.count("initialStreamWindowBytes", 0),
            header_table_bytes: s.count("headerTableBytes", 0),
            max_frame_bytes: s.int("maxFrameBytes", 16384..=16_777_215).map(|n| n as u32),
            max_header_list_bytes: s.int("maxHeaderListBytes", 1..=MAX_INT).map(|n| n as u32),
            keep_alive: None,
            window_update_ratio: s
                .number("windowUpdateRatio", "between 0 and 1, both excluded", |x| x > 0.0 && x < 1.0),
        }
    }
}

/// `periodMs` (default: 5 s) and `timeoutMs` (default: 4 s), each at least 1 ms.
impl Decode for KeepAlive {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "keepAlive")?;
        let keep_alive = Self {
            period: s.millis("periodMs", 1).unwrap_or(Duration::from_secs(5)),
            timeout: s.millis("timeoutMs", 1).unwrap_or(Duration::from_secs(4)),
        };
        s.finish();
        Some(keep_alive)
    }
}

impl Decode for HostConnectionPool {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "hostConnectionPool")?;
        let pool = Self {
            min_size: s.size("minSize", 0).unwrap_or(0),
            max_size: s.size("maxSize", 1),
            idle_time: s.millis("idleTimeMs", 1),
            max_waiters: s.size("maxWaiters", 0),
        };
        if let Some(max) = pool.max_size.filter(|max| *max < pool.min_size) {
            s.problem("maxSize", format!("must not be less than minSize {}, got {max}", pool.min_size));
        }
        s.finish();
        Some(pool)
    }
}

impl Decode for Session {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "session")?;
        let session = Self { life_time: s.millis("lifeTimeMs", 1), idle_time: s.millis("idleTimeMs", 1) };
        s.finish();
        Some(session)
    }
}

impl Decode for RequestAuthorizer {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "requestAuthorizer")?;
        s.kind("kind", &["io.l5d.k8s.istio"], None)?;
        let authorizer = Self::Istio {
            mixer_host: s.or("mixerHost", "istio-mixer".to_owned()),
            mixer_port: s.or("mixerPort", 9091),
        };
        s.finish();
        Some(authorizer)
    }
}

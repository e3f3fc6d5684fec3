//! The `service` section of a router: how logical names are served.

use std::time::Duration;

use linkerd_dtab::Captures;

use super::{
    classifier::Classifier,
    client::set,
    decode::{At, Decode, Section},
    retries::{Budget, Retries},
    router::ProtocolKind,
    scoped::Scope,
};
use crate::{HedgePolicy, LimitPolicy, ServicePolicy};

/// The settings of a service, all optional: of a static service's matching prefixes, later ones override earlier ones
/// setting by setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// `totalTimeoutMs`: how long naming, connecting and all attempts may take together, until 503. Zero turns
    /// off what an earlier prefix set. Default: unlimited.
    pub total_timeout: Option<TotalTimeout>,
    /// `retries`.
    pub retries: Retries,
    /// `responseClassifier`. Default: the one where 5xx is a failure that is not retried.
    pub response_classifier: Option<Classifier>,
    /// `enforceDeadline` (http, h2): a request whose deadline has passed is answered by 503 and goes nowhere.
    /// Default: true; false is Linkerd 1.7.5's way, which only passes deadlines on.
    pub enforce_deadline: Option<bool>,
    /// `idleTimeoutMs` (http, h2): how long the body of a response may be silent while it is waited for, until it fails.
    /// Default: unlimited.
    ///
    /// Not a key of Linkerd 1.x.
    pub idle_timeout: Option<Duration>,
    /// `hedge` (http, h2): when an attempt that takes long is made at a second endpoint too. Default: never.
    ///
    /// Not a key of Linkerd 1.x.
    pub hedge: Option<HedgePolicy>,
    /// `limit` (http, h2): how many requests are let in; the others are answered by 503. Default: all.
    ///
    /// Not a key of Linkerd 1.x.
    pub limit: Option<LimitPolicy>,
    /// `classificationTimeoutMs` (h2): how long to wait for the end of a response to classify it. Default: 100 ms.
    pub classification_timeout: Option<Duration>,
    /// `retryBufferSize` (h2).
    pub retry_buffer_size: Option<RetryBufferSize>,
}

/// The value of `totalTimeoutMs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TotalTimeout {
    /// Zero in the file.
    Unlimited,
    /// At least 1 ms.
    After(Duration),
}

/// The `retryBufferSize` map of an h2 service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBufferSize {
    /// `requestBytes` kept to send them again. Default: 16383.
    pub request_bytes: usize,
    /// `responseBytes` held back until the response is classified. Default: 16383.
    pub response_bytes: usize,
}

impl Default for RetryBufferSize {
    fn default() -> Self {
        Self { request_bytes: ServicePolicy::BUFFER_BYTES, response_bytes: ServicePolicy::BUFFER_BYTES }
    }
}

impl Service {
    /// How long a request may take in all, if that is limited.
    pub fn total_timeout(&self) -> Option<Duration> {
        match self.total_timeout? {
            TotalTimeout::Unlimited => None,
            TotalTimeout::After(timeout) => Some(timeout),
        }
    }

    /// The retry budget, by default that of [`Budget::default`].
    pub fn budget(&self) -> Budget {
        self.retries.budget.clone().unwrap_or_default()
    }

    /// How many bytes of a request that streams are kept, if `retries.bufferBytes` does not say: none, but for h2.
    pub(super) fn request_buffer_bytes(&self, protocol: ProtocolKind) -> usize {
        let size = || self.retry_buffer_size.clone().unwrap_or_default();
        if protocol == ProtocolKind::H2 { size().request_bytes } else { 0 }
    }

    /// How many bytes of a response are held back until it is classified.
    pub(super) fn response_buffer_bytes(&self) -> usize {
        self.retry_buffer_size.clone().unwrap_or_default().response_bytes
    }

    /// Whether deadlines that have passed end a request, by default yes.
    pub fn enforces_deadline(&self) -> bool {
        self.enforce_deadline.unwrap_or(true)
    }
}

impl Scope for Service {
    const SECTION: &'static str = "service";

    fn decode(s: &mut Section<'_>, protocol: ProtocolKind) -> Self {
        let total_timeout = s.int("totalTimeoutMs", 0..=super::decode::MAX_INT);
        let total_timeout = total_timeout.map(|n| match u64::try_from(n) {
            Ok(n @ 1..) => TotalTimeout::After(Duration::from_millis(n)),
            _ => TotalTimeout::Unlimited,
        });
        let mut service = Self {
            total_timeout,
            retries: s.or("retries", Retries::default()),
            response_classifier: s.with("responseClassifier", |at| Classifier::decode(at, protocol)),
            ..Self::default()
        };
        if let ProtocolKind::Http | ProtocolKind::H2 = protocol {
            service.enforce_deadline = s.get("enforceDeadline");
            service.idle_timeout = s.millis("idleTimeoutMs", 1);
            service.hedge = s.get("hedge");
            service.limit = s.get("limit");
        }
        if protocol == ProtocolKind::H2 {
            service.classification_timeout = s.millis("classificationTimeoutMs", 0);
            service.retry_buffer_size = s.get("retryBufferSize");
        }
        service
    }

    fn override_with(&mut self, later: &Self, _: &Captures) {
        let Self {
            total_timeout,
            retries,
            response_classifier,
            enforce_deadline,
            idle_timeout,
            hedge,
            limit,
            classification_timeout,
            retry_buffer_size,
        } = later.clone();
        set(&mut self.total_timeout, total_timeout);
        set(&mut self.retries.budget, retries.budget);
        set(&mut self.retries.backoff, retries.backoff);
        set(&mut self.retries.max_attempts, retries.max_attempts);
        set(&mut self.retries.hints, retries.hints);
        set(&mut self.retries.buffer_bytes, retries.buffer_bytes);
        set(&mut self.response_classifier, response_classifier);
        set(&mut self.enforce_deadline, enforce_deadline);
        set(&mut self.idle_timeout, idle_timeout);
        set(&mut self.hedge, hedge);
        set(&mut self.limit, limit);
        set(&mut self.classification_timeout, classification_timeout);
        set(&mut self.retry_buffer_size, retry_buffer_size);
    }
}

impl Decode for RetryBufferSize {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "retryBufferSize")?;
        let default = Self::default();
        let size = Self {
            request_bytes: s.size("requestBytes", 0).unwrap_or(default.request_bytes),
            response_bytes: s.size("responseBytes", 0).unwrap_or(default.response_bytes),
        };
        s.finish();
        Some(size)
    }
}

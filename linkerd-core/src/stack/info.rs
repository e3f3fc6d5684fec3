//! What a logical name is, and what its errors say.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request};
use linkerd_dtab::{Dtab, Interpreter, Path};

use super::{route::Unbound, time::Limit};
#[cfg(feature = "server")]
use crate::access_log::AccessLog;
use crate::{
    Body, Error, ErrorKind, TimedOut, Timer,
    error::{SharedFailure, twitter_duration},
    http::{context::RequestContext, headers, max_forwards::Trace},
    policy::ServicePolicy,
};

/// What all stacks of a mesh have in common.
pub(crate) struct Shared {
    /// The table that every name is bound under, before the request's own.
    pub(crate) base: Dtab,
    /// How long a request waits for the first binding of its name.
    pub(crate) binding_timeout: Duration,
    /// Whether requests and responses get what a Linkerd proxy writes on them.
    pub(crate) proxy: bool,
    /// The router's label.
    pub(crate) label: Arc<str>,
    /// Where attempts are logged, if they are; or who wants to know where requests went.
    #[cfg(feature = "server")]
    pub(crate) access_log: Option<AccessLog>,
    /// Explains names.
    pub(crate) interpreter: Arc<dyn Interpreter>,
}

/// What one logical name is, under one local dtab.
#[derive(Debug)]
pub(crate) struct PathInfo {
    pub(crate) path: Path,
    pub(crate) local: Dtab,
    pub(crate) shared: Arc<Shared>,
    pub(crate) policy: ServicePolicy,
    dst_service: Option<HeaderValue>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("label", &self.label).field("base", &self.base).finish_non_exhaustive()
    }
}

impl PathInfo {
    pub(crate) fn new(path: Path, local: Dtab, shared: Arc<Shared>, policy: ServicePolicy) -> Self {
        // A printed path is visible ASCII, so this always makes a value.
        let dst_service = HeaderValue::try_from(path.to_string()).ok();
        Self { path, local, shared, policy, dst_service }
    }

    /// How long all of a request may take.
    pub(super) fn total(&self, cx: Option<&RequestContext>) -> Option<TimedOut> {
        let said = cx.and_then(|cx| cx.overrides.as_ref()?.total());
        said.or_else(|| self.policy.total_timeout.map(|timeout| Timer::Total.after(timeout)))
    }

    /// The time of the whole request was over.
    pub(super) fn late(&self, limit: Limit, arrived: Instant, cx: Option<&RequestContext>) -> Error {
        let (until, timer) = limit;
        if let Some(total) = self.total(cx).filter(|_| timer == Timer::Total) {
            return Error::new(ErrorKind::TotalTimeout).with_timer(total);
        }
        let limit = until.saturating_duration_since(arrived);
        Error::new(ErrorKind::Deadline).with_timer(timer.after(limit))
    }

    pub(super) fn write_request(&self, req: &mut Request<Body>) {
        if let Some(dst) = &self.dst_service {
            req.headers_mut().insert(headers::L5D_DST_SERVICE, dst.clone());
        }
        if let Some(trace) = Trace::of(req) {
            req.extensions_mut().insert(trace);
        }
    }

    pub(super) fn unbound(&self, unbound: Unbound) -> Error {
        let error = Error::new(ErrorKind::Binding);
        match unbound {
            Unbound::Timeout => {
                let limit = self.shared.binding_timeout;
                let (timeout, error) = (twitter_duration(limit), error.with_timer(Timer::Binding.after(limit)));
                error.with_text(format!("Exceeded {timeout} binding timeout while resolving name: {}", self.path))
            }
            Unbound::Failed(failure) => error.with_text(failure.to_string()).with_source(SharedFailure(failure)),
        }
    }

    /// Completes an error with what only the path knows, and what the caller of a proxy reads.
    pub(super) fn explain(&self, error: Error) -> Error {
        let error = error.with_dst(&self.path);
        match error.kind() {
            ErrorKind::NoSuchName | ErrorKind::NoEndpoints => error.or_text(|| self.no_brokers()),
            ErrorKind::TotalTimeout => {
                let timeout = twitter_duration(error.timer().map(|timer| timer.limit).unwrap_or_default());
                error.or_text(|| {
                    format!(
                        "exceeded {timeout} to unspecified while waiting for a response for the request, including \
                         retries (if applicable). Remote Info: Not Available"
                    )
                })
            }
            ErrorKind::Deadline => {
                let Some(TimedOut { limit, set_by, .. }) = error.timer() else { return error };
                let limit = Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
                let (limit, path) = (twitter_duration(limit), &self.path);
                error.or_text(|| {
                    format!("the deadline of the request to {path} has passed: {set_by} left it {limit} when it came")
                })
            }
            _ => error,
        }
    }

    /// The text that Linkerd 1.x has for a name without endpoints; dashboards look for its first line.
    fn no_brokers(&self) -> String {
        let Self { path, local, shared, .. } = self;
        let lines = |dtab: &Dtab| format!("{}\n", dtab.lines());
        let (base, local) = (lines(&shared.base), lines(local));
        format!("Unable to route request!\n\nservice name: {path}\ndtab:\n\nbase dtab:\n{base}override dtab:\n{local}")
    }
}

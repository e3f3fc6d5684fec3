//! What a request carries from hop to hop: local dtab, deadline, trace.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use linkerd_dtab::Dtab;

use super::{
    case::Spelling,
    deadline::{self, Deadline},
    flavour::{Flavour, Lost},
    headers,
    headers::Scan,
    overrides::Overrides,
    trace::{Propagation, TraceId},
};
use crate::{Error, ErrorKind, Timer, span::Recording};

/// What is known of a request beside the request: where it came from, and what it carries from hop to hop.
///
/// A server puts one into the extensions of each request; an endpoint's stack writes it onto each attempt.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RequestContext {
    /// Rules for this request only: those of `l5d-ctx-dtab`, then those of `l5d-dtab`, which win.
    pub dtab: Dtab,
    /// Its flavour, whose rules come before those of `dtab`, which so override them.
    pub flavour: Option<Arc<Flavour>>,
    /// When its answer is no longer wanted.
    pub deadline: Option<Deadline>,
    /// The span that it is served in; `None` starts a new trace at each attempt.
    pub trace: Option<TraceId>,
    /// How its trace goes on. As `l5d-ctx-trace`.
    pub propagation: Propagation,
    /// The client's address.
    pub remote: Option<SocketAddr>,
    /// The address that it was accepted at.
    pub local: Option<SocketAddr>,
    /// How it came.
    pub scheme: Scheme,
    /// The version that the client speaks.
    pub version: Version,
    /// What it said of a flavour that does not hold.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "servers count it"))]
    pub(crate) lost_flavour: Option<Lost>,
    /// When the server that it came to gives up on it, whatever is enforced of the deadline.
    pub(crate) until: Option<Instant>,
    /// What `deadline` was set to, by a timer that is kept by a clock of its own too.
    pub(crate) kept_by: Option<(Deadline, Timer)>,
    /// The span that it is served in, if it is recorded.
    pub(crate) recording: Option<Recording>,
    /// How its headers are spelled, if that is kept.
    pub(crate) spelling: Option<Spelling>,
    /// What its sender, who is trusted, says of its timeouts and retries.
    pub(crate) overrides: Option<Arc<Overrides>>,
}

/// How a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    #[default]
    Http,
    /// Through TLS.
    Https,
}

impl RequestContext {
    /// Reads the context that a request carries, and removes its headers: the dtabs and the trace (as `l5d-ctx-trace`)
    /// always, the deadline if any of its values is one. The `grpc-timeout` of a gRPC call is a deadline too, and stays; the earliest counts.
    ///
    /// Without such headers a new trace begins, and nothing is allocated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BadHeader`] if a dtab does not parse, with the parser's text. Other headers that do not parse count
    /// as absent.
    pub fn read(headers: &mut HeaderMap) -> Result<Self, Error> {
        let scan = Scan::of(headers);
        Self::read_seen(headers, scan, Propagation::DEFAULT)
    }

    pub(crate) fn read_seen(headers: &mut HeaderMap, scan: Scan, propagation: Propagation) -> Result<Self, Error> {
        let trace = if scan.saw(Scan::L5D | Scan::TRACE) { propagation.read(headers) } else { TraceId::root() };
        let mut cx = if scan.saw(Scan::L5D) { Self::read_l5d(headers)? } else { Self::default() };
        (cx.trace, cx.propagation) = (Some(trace), propagation);
        if scan.saw(Scan::GRPC_TIMEOUT)
            && deadline::is_grpc(headers)
            && let Some(timeout) = deadline::grpc_timeout(headers)
        {
            cx.keep_within(timeout, Timer::GrpcTimeout);
        }
        Ok(cx)
    }

    fn read_l5d(headers: &mut HeaderMap) -> Result<Self, Error> {
        let deadlines = headers.get_all(&headers::L5D_CTX_DEADLINE).iter().filter_map(Deadline::decode);
        let deadline = deadlines.reduce(Deadline::combined);
        if deadline.is_some() {
            headers.remove(&headers::L5D_CTX_DEADLINE);
        }
        // A residual is ours to say: the client's would pass for one where there is none.
        headers.remove(&headers::L5D_DST_RESIDUAL);
        let context = dtab(headers, &headers::L5D_CTX_DTAB);
        let user = dtab(headers, &headers::L5D_DTAB);
        let dtab = match (context?, user?) {
            (context, user) if user.is_empty() => context,
            (context, user) if context.is_empty() => user,
            (context, user) => context.concat(&user),
        };
        let (flavour, lost) = match Flavour::take(headers, SystemTime::now()) {
            Some(Ok(flavour)) => (Some(flavour), None),
            Some(Err(lost)) => (None, Some(lost)),
            None => (None, None),
        };
        Ok(Self { dtab, deadline, flavour, lost_flavour: lost, ..Self::default() })
    }

    /// Rules for this request only, but for those of its flavour.
    #[must_use]
    pub fn local_dtab(&self) -> &Dtab {
        &self.dtab
    }

    /// The rules that its name is bound by beside everybody's, if there are any: its flavour's, then its own.
    pub(crate) fn rules(&self) -> Option<Dtab> {
        let flavour = self.flavour.as_ref().map(|flavour| flavour.dtab()).filter(|dtab| !dtab.is_empty());
        match flavour {
            None => (!self.dtab.is_empty()).then(|| self.dtab.clone()),
            Some(flavour) => Some(flavour.concat(&self.dtab)),
        }
    }

    /// The client's address, if it came over a network.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// When its answer is no longer wanted, by this process's clock; in the past if it has not been wanted for a while.
    #[must_use]
    pub fn deadline_at(&self) -> Option<Instant> {
        let deadline = self.deadline?.at();
        let now = tokio::time::Instant::now().into_std();
        match deadline.duration_since(SystemTime::now()) {
            Ok(left) => now.checked_add(left),
            Err(passed) => Some(now.checked_sub(passed.duration()).unwrap_or(now)),
        }
    }

    /// Says that the answer is wanted within `timeout` from now, unless the deadline that there is comes first.
    pub(crate) fn expire_after(&mut self, timeout: Duration) {
        let ours = Deadline::after(SystemTime::now(), timeout);
        self.deadline = Some(self.deadline.map_or(ours, |theirs| theirs.combined(ours)));
    }

    /// As [`expire_after`](Self::expire_after), where `timer` ends it at that time anyway. Says whether it comes first.
    pub(crate) fn keep_within(&mut self, timeout: Duration, timer: Timer) -> bool {
        let before = self.deadline;
        self.expire_after(timeout);
        let is_first = before.map(Deadline::at) != self.deadline.map(Deadline::at);
        let kept_by = match self.kept_by {
            Some((deadline, timer)) if before == Some(deadline) => Some(timer),
            _ => None,
        };
        let timer = if is_first { Some(timer) } else { kept_by };
        self.kept_by = self.deadline.zip(timer);
        is_first
    }

    /// The deadline, unless it is that of a timer which `keeps` it.
    pub(crate) fn deadline_unless(&self, keeps: impl FnOnce(Timer) -> bool) -> Option<Deadline> {
        let timer = self.kept_by.filter(|(kept, _)| self.deadline == Some(*kept)).map(|(_, timer)| timer);
        self.deadline.filter(|_| !timer.is_some_and(keeps))
    }

    /// Writes the context onto one attempt: `l5d-ctx-dtab` and `l5d-ctx-deadline` if there are any, and a span of its own,
    /// which is returned, by its [propagation](Self::propagation).
    pub fn write(&self, headers: &mut HeaderMap) -> TraceId {
        let span = self.next_span();
        self.write_span(span, headers);
        span
    }

    /// A span for one attempt.
    pub(crate) fn next_span(&self) -> TraceId {
        self.trace.map_or_else(TraceId::root, TraceId::child)
    }

    /// Writes the context onto one attempt, which is this span.
    pub(crate) fn write_span(&self, span: TraceId, headers: &mut HeaderMap) {
        self.propagation.write(span, headers);
        if let Some(deadline) = self.deadline.and_then(Deadline::encode) {
            headers.insert(headers::L5D_CTX_DEADLINE, deadline);
        }
        if let Some(flavour) = self.flavour.as_ref().and_then(|flavour| flavour.encode()) {
            headers.insert(headers::L5D_CTX_FLAVOUR, flavour);
        }
        // A dtab prints in ASCII.
        if !self.dtab.is_empty()
            && let Ok(dtab) = HeaderValue::try_from(format!("{:#}", self.dtab))
        {
            headers.insert(headers::L5D_CTX_DTAB, dtab);
        }
    }
}

/// All lines of a header, each a table of its own; the header is gone after that, even if it does not parse.
fn dtab(headers: &mut HeaderMap, name: &HeaderName) -> Result<Dtab, Error> {
    let http::header::Entry::Occupied(entry) = headers.entry(name) else { return Ok(Dtab::default()) };
    let mut all = Dtab::default();
    for value in entry.remove_entry_mult().1 {
        let bad = |error: linkerd_dtab::ParseError| {
            Error::new(ErrorKind::BadHeader).with_text(error.to_string()).with_source(error)
        };
        // Bytes that are no text cannot be part of a dtab, and the parser says where it met one.
        let table: Dtab = String::from_utf8_lossy(value.as_bytes()).parse().map_err(bad)?;
        all = if all.is_empty() { table } else { all.concat(&table) };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn written(cx: &RequestContext) -> HeaderMap {
        let mut headers = HeaderMap::new();
        cx.write(&mut headers);
        headers
    }

    fn span(headers: &HeaderMap) -> TraceId {
        TraceId::decode(&headers[headers::L5D_CTX_TRACE]).unwrap()
    }

    #[test]
    fn a_request_without_context_begins_a_trace_whose_attempts_are_its_children() {
        let mut headers = map(&[("host", "web")]);
        let cx = RequestContext::read(&mut headers).unwrap();
        let (first, second) = (written(&cx), written(&cx));
        for sent in [&first, &second] {
            assert_eq!(sent.len(), 2);
            let id = span(sent);
            assert_eq!((id.parent(), id.flags()), (id.trace(), 0));
            assert_ne!(id.span(), id.trace());
            assert_eq!(sent[headers::L5D_REQID], format!("{:016x}", id.trace()));
        }
        assert_eq!(span(&first).trace(), span(&second).trace());
        assert_ne!(span(&first), span(&second));
        let id = span(&written(&RequestContext::default()));
        assert_eq!((id.span(), id.parent()), (id.trace(), id.trace()));
    }

    #[test]
    fn user_entries_come_last_wherever_they_stand() {
        let mut headers = map(&[
            ("l5d-dtab", "/u=>/1"),
            ("l5d-ctx-dtab", "/c=>/2"),
            ("l5d-dtab", "/u=>/3 ; "),
            ("l5d-ctx-dtab", ""),
            ("dtab-local", "/x=>/y"),
        ]);
        let cx = RequestContext::read(&mut headers).unwrap();
        assert_eq!(cx.dtab.to_string(), "/c=>/2;/u=>/1;/u=>/3");
        assert_eq!(headers, map(&[("dtab-local", "/x=>/y")]));
        assert_eq!(written(&cx)[headers::L5D_CTX_DTAB], "/c=>/2;/u=>/1;/u=>/3");
    }

    #[test]
    fn a_bad_table_is_an_error_and_the_contexts_comes_first() {
        for (given, text) in [
            (&[("l5d-dtab", "user"), ("l5d-ctx-dtab", "context")][..], "'/' expected but 'c' found at '[c]ontext'"),
            (&[("l5d-dtab", "/a=>/b, /c=>/d")], "end of input expected but ',' found at '/a=>/b[,] /c=>/d'"),
        ] {
            let error = RequestContext::read(&mut map(given)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadHeader);
            assert_eq!(error.text(), text);
        }
    }

    #[test]
    fn deadlines_fold_into_the_strictest_and_others_pass() {
        let mut headers = map(&[
            ("l5d-ctx-deadline", "1500000000000000000 4000000000000000000"),
            ("l5d-ctx-deadline", "soon"),
            ("l5d-ctx-deadline", "1600000000000000000 3900000000000000000"),
        ]);
        let cx = RequestContext::read(&mut headers).unwrap();
        assert!(headers.is_empty());
        assert_eq!(written(&cx)[headers::L5D_CTX_DEADLINE], "1600000000000000000 3900000000000000000");
        for value in ["soon", "1500000000000000000", "1 2 3", " 1 2"] {
            let mut headers = map(&[("l5d-ctx-deadline", value)]);
            let cx = RequestContext::read(&mut headers).unwrap();
            assert_eq!((cx.deadline, headers), (None, map(&[("l5d-ctx-deadline", value)])));
        }
    }

    #[test]
    fn a_deadline_in_the_past_is_an_instant_in_the_past() {
        let deadline = Deadline::after(UNIX_EPOCH, Duration::from_secs(105));
        let cx = RequestContext { deadline: Some(deadline), ..RequestContext::default() };
        assert!(cx.deadline_at().unwrap() < tokio::time::Instant::now().into_std());
    }

    #[test]
    fn a_timeout_of_grpc_is_a_deadline_and_the_stricter_one_counts() {
        let read = |headers: &[_]| {
            let mut headers = map(headers);
            let cx = RequestContext::read(&mut headers).unwrap();
            (cx.deadline.map(|deadline| deadline.remaining(SystemTime::now()).as_secs_f64().round()), headers)
        };
        let (grpc, timeout) = (("content-type", "application/grpc"), ("grpc-timeout", "30S"));
        assert_eq!(read(&[grpc, timeout]), (Some(30.0), map(&[grpc, timeout])), "it is rewritten when it is sent");
        let late = ("l5d-ctx-deadline", "1500000000000000000 9000000000000000000");
        assert_eq!(read(&[grpc, timeout, late]).0, Some(30.0));
        let passed = ("l5d-ctx-deadline", "1500000000000000000 1500000000000000001");
        assert_eq!(read(&[grpc, timeout, passed]).0, Some(0.0));
        assert_eq!(read(&[grpc, ("grpc-timeout", "soon")]).0, None);
        let json = ("content-type", "application/json");
        assert_eq!(read(&[json, timeout]), (None, map(&[json, timeout])));
    }

    #[test]
    fn a_trace_goes_on_and_a_sample_decides_what_is_open() {
        let trace = ("l5d-ctx-trace", "AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=");
        let cx = RequestContext::read(&mut map(&[trace, ("l5d-sample", "0")])).unwrap();
        let served = cx.trace.unwrap();
        assert_eq!((served.parent(), served.trace()), (1, 3));
        let sent = written(&cx);
        assert_eq!((span(&sent).parent(), span(&sent).trace(), span(&sent).flags()), (served.span(), 3, 6));
        assert_eq!(sent[headers::L5D_REQID], "0000000000000003");
        for (rate, flags) in [("0", 2), ("7", 6), ("many", 0), ("NaN", 0)] {
            let mut headers = map(&[("l5d-sample", rate), ("l5d-ctx-trace", "AAAA"), ("l5d-dst-residual", "/x")]);
            let cx = RequestContext::read(&mut headers).unwrap();
            assert_eq!(span(&written(&cx)).flags(), flags, "{rate}");
            assert!(headers.is_empty());
        }
    }
}

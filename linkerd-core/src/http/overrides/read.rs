//! Linkerd2's headers, read within bounds.

use std::{num::NonZeroU32, ops::RangeInclusive, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName};

use super::Overrides;
use crate::{GrpcCode, TimedOut, Timer};

/// How long the whole request may take.
const L5D_TIMEOUT: HeaderName = HeaderName::from_static("l5d-timeout");
/// The same; it wins.
const L5D_REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("l5d-request-timeout");
/// How long one attempt may take, not to be retried then.
const L5D_RESPONSE_TIMEOUT: HeaderName = HeaderName::from_static("l5d-response-timeout");
/// How long one attempt may take, to be retried then.
const L5D_RETRY_TIMEOUT: HeaderName = HeaderName::from_static("l5d-retry-timeout");
/// Which statuses are retried.
const L5D_RETRY_HTTP: HeaderName = HeaderName::from_static("l5d-retry-http");
/// Which gRPC statuses are retried.
const L5D_RETRY_GRPC: HeaderName = HeaderName::from_static("l5d-retry-grpc");
/// How often.
const L5D_RETRY_LIMIT: HeaderName = HeaderName::from_static("l5d-retry-limit");
/// Whether a failure should come with all that is known of it.
pub(in crate::http) const L5D_ERR_DETAIL: HeaderName = HeaderName::from_static("l5d-err-detail");

/// How far callers of a server may say how long their requests may take and how often they are retried.
///
/// `l5d-timeout` (or `l5d-request-timeout`) takes the place of the total timeout of the request's name,
/// `l5d-retry-timeout` and `l5d-response-timeout` that of the attempt timeout; after the former the request is retried,
/// after the latter it is not. `l5d-retry-http` (`5xx`, `gateway-error`, `503`, `500-504`, separated by commas) and
/// `l5d-retry-grpc` (`cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable`) say which
/// answers are retried, whatever the method, in place of the classifier. `l5d-retry-limit` is how often; 1 where another
/// header asks for retries and this one is not there. The budget pays all the same.
///
/// Durations are whole numbers with a unit: `100ms`, `5s`, `1m`, `1h`, `1d`. What does not parse counts as absent, and what
/// is over a bound as the bound. The headers go no further.
///
/// And they may say that a request matters more than others, by `l5d-ctx-criticality: critical_plus`. From callers who are
/// not trusted that header is taken off; the other classes are no more than what a request is that says nothing, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerRequest {
    /// The longest timeout. 60 s by default.
    pub max_timeout: Duration,
    /// The most retries. 10 by default.
    pub max_retries: u32,
    /// Whether they may say that a request is `critical_plus`. Yes by default.
    pub criticality: bool,
}

impl Default for PerRequest {
    fn default() -> Self {
        Self { max_timeout: Duration::from_mins(1), max_retries: 10, criticality: true }
    }
}

/// Takes the headers off that only a trusted caller may send.
pub(in crate::http) fn strip(headers: &mut HeaderMap) {
    for name in [
        L5D_TIMEOUT,
        L5D_REQUEST_TIMEOUT,
        L5D_RESPONSE_TIMEOUT,
        L5D_RETRY_TIMEOUT,
        L5D_RETRY_HTTP,
        L5D_RETRY_GRPC,
        L5D_RETRY_LIMIT,
        L5D_ERR_DETAIL,
    ] {
        headers.remove(name);
    }
}

impl Overrides {
    /// Reads what the headers say.
    pub(in crate::http) fn read(headers: &HeaderMap, bounds: PerRequest) -> Option<Arc<Self>> {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok();
        let timer = |timer: Timer, name: HeaderName, set_by| {
            let limit = text(name).and_then(duration)?.min(bounds.max_timeout);
            Some(TimedOut { set_by, ..timer.after(limit) })
        };
        let total = timer(Timer::Total, L5D_REQUEST_TIMEOUT, "l5d-request-timeout");
        let retry = timer(Timer::Attempt, L5D_RETRY_TIMEOUT, "l5d-retry-timeout");
        let response = timer(Timer::Attempt, L5D_RESPONSE_TIMEOUT, "l5d-response-timeout");
        let statuses = text(L5D_RETRY_HTTP).map(|text| text.split(',').filter_map(statuses).collect());
        let codes = text(L5D_RETRY_GRPC).map(|text| text.split(',').filter_map(code).collect());
        let limit = text(L5D_RETRY_LIMIT).and_then(|text| text.trim().parse().ok());
        let asks = retry.is_some() || statuses.is_some() || codes.is_some();
        let limit: Option<u32> = limit.or_else(|| asks.then_some(1));
        let overrides = Self {
            total: total.or_else(|| timer(Timer::Total, L5D_TIMEOUT, "l5d-timeout")),
            // Of two that are as long, the one that is retried.
            attempt: [retry, response].into_iter().flatten().min_by_key(|timer| timer.limit),
            statuses,
            codes,
            max_attempts: limit.map(|limit| NonZeroU32::MIN.saturating_add(limit.min(bounds.max_retries))),
        };
        (overrides != Self::default()).then(|| Arc::new(overrides))
    }
}

/// A whole number and its unit, more than nothing.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let millis = number.parse::<u64>().ok()?.checked_mul(millis)?;
    (millis > 0).then(|| Duration::from_millis(millis))
}

fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let text = text.trim();
    let status = |text: &str| text.parse().ok().filter(|status| (100..600).contains(status));
    if text.eq_ignore_ascii_case("5xx") {
        return Some(500..=599);
    }
    if text.eq_ignore_ascii_case("gateway-error") {
        return Some(502..=504);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some(first..=last)
}

fn code(text: &str) -> Option<GrpcCode> {
    const CODES: [(&str, GrpcCode); 5] = [
        ("cancelled", GrpcCode::CANCELLED),
        ("deadline-exceeded", GrpcCode::DEADLINE_EXCEEDED),
        ("resource-exhausted", GrpcCode::RESOURCE_EXHAUSTED),
        ("internal", GrpcCode::INTERNAL),
        ("unavailable", GrpcCode::UNAVAILABLE),
    ];
    let text = text.trim();
    CODES.into_iter().find_map(|(name, code)| name.eq_ignore_ascii_case(text).then_some(code))
}

#[cfg(test)]
mod tests {
    use http::Response;
    use linkerd_retry::ResponseClass;

    use super::*;
    use crate::Body;

    fn read(headers: &[(&'static str, &str)]) -> Option<Overrides> {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        Overrides::read(&headers, PerRequest::default()).map(|overrides| (*overrides).clone())
    }

    fn limit(timer: Option<TimedOut>) -> Option<(u128, &'static str)> {
        timer.map(|timer| (timer.limit.as_millis(), timer.set_by))
    }

    #[test]
    fn durations_have_units_and_bounds_and_what_is_none_is_ignored() {
        for (text, millis) in
            [("250ms", 250), (" 5s ", 5000), ("1m", 60_000), ("1h", 60_000), ("2d", 60_000), ("90000ms", 60_000)]
        {
            let overrides = read(&[("l5d-timeout", text)]).unwrap();
            assert_eq!(limit(overrides.total()), Some((millis, "l5d-timeout")), "{text}");
        }
        for text in ["", "5", "0", "0ms", "-1s", "1.5s", "s", "5 s", "99999999999999999999ms", "9999999999999999d"] {
            assert_eq!(read(&[("l5d-timeout", text)]), None, "{text}");
        }
    }

    #[test]
    fn of_two_that_say_the_same_one_wins() {
        let both = read(&[("l5d-timeout", "1s"), ("l5d-request-timeout", "2s")]).unwrap();
        assert_eq!(limit(both.total()), Some((2000, "l5d-request-timeout")));
        for (retry, response, wins) in
            [("1s", "2s", (1000, "l5d-retry-timeout")), ("2s", "1s", (1000, "l5d-response-timeout"))]
        {
            let both = read(&[("l5d-retry-timeout", retry), ("l5d-response-timeout", response)]).unwrap();
            assert_eq!(limit(both.attempt()), Some(wins));
        }
    }

    #[test]
    fn retries_are_as_many_as_is_said_one_if_only_which_is_and_bounded() {
        let attempts =
            |headers: &[_]| read(headers).and_then(|overrides| overrides.max_attempts()).map(NonZeroU32::get);
        assert_eq!(attempts(&[("l5d-retry-limit", "0")]), Some(1));
        assert_eq!(attempts(&[("l5d-retry-limit", "3"), ("l5d-retry-http", "5xx")]), Some(4));
        assert_eq!(attempts(&[("l5d-retry-limit", "4294967295")]), Some(11));
        assert_eq!(attempts(&[("l5d-retry-http", "5xx")]), Some(2));
        assert_eq!(attempts(&[("l5d-retry-limit", "many"), ("l5d-retry-timeout", "1s")]), Some(2));
        assert_eq!(attempts(&[("l5d-timeout", "1s")]), None);
    }

    #[test]
    fn what_is_retried_is_what_is_listed() {
        const FAILED: ResponseClass = ResponseClass::RETRYABLE;
        let verdict = |overrides: &Overrides, status: u16, grpc: Option<&'static str>, class: ResponseClass| {
            let mut rsp = Response::builder().status(status);
            if let Some(grpc) = grpc {
                rsp = rsp.header("grpc-status", grpc);
            }
            overrides.verdict(class.into(), Ok(&rsp.body(Body::empty()).unwrap())).class()
        };
        let http = read(&[("l5d-retry-http", "gateway-error, 429,x,600, 510-505,590-599")]).unwrap();
        for (status, class, expected) in [
            (502, ResponseClass::NON_RETRYABLE, FAILED),
            (504, ResponseClass::NON_RETRYABLE, FAILED),
            (505, FAILED, ResponseClass::NON_RETRYABLE),
            (595, ResponseClass::NON_RETRYABLE, FAILED),
            (429, ResponseClass::Success, FAILED),
            (200, ResponseClass::Success, ResponseClass::Success),
        ] {
            assert_eq!(verdict(&http, status, None, class), expected, "{status}");
        }
        let all = read(&[("l5d-retry-http", "5XX")]).unwrap();
        assert_eq!(verdict(&all, 599, None, ResponseClass::NON_RETRYABLE), FAILED);
        let grpc = read(&[("l5d-retry-grpc", "Unavailable,internal,nothing")]).unwrap();
        for (code, expected) in [("14", FAILED), ("13", FAILED), ("4", ResponseClass::Success)] {
            assert_eq!(verdict(&grpc, 200, Some(code), ResponseClass::Success), expected, "{code}");
        }
        // A list of nothing that is known retries nothing.
        let none = read(&[("l5d-retry-http", "soon")]).unwrap();
        assert_eq!(verdict(&none, 503, None, FAILED), ResponseClass::NON_RETRYABLE);
        let limit = read(&[("l5d-retry-limit", "2")]).unwrap();
        assert_eq!(verdict(&limit, 503, None, FAILED), FAILED);
    }
}

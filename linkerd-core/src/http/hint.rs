//! What an answer says of the endpoint that gave it: when to come back, and how busy it is.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use linkerd_balance::Hint;
use linkerd_retry::Pushback;

use crate::GrpcCode;

const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// ORCA's name for a report in the head of an answer.
const LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// When to come back, if the answer says so: `Retry-After` as seconds or as a date, `grpc-retry-pushback-ms`. The longer
/// of the two; what cannot be read says nothing.
pub(crate) fn push_back(headers: &HeaderMap) -> Option<Hint> {
    wait(headers).map(Hint::Backoff)
}

fn wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(header::RETRY_AFTER).and_then(retry_after);
    // A negative one says that a retry is not wanted, which is another matter.
    let pushback = text(GRPC_PUSHBACK).and_then(|text| text.parse().ok()).map(Duration::from_millis);
    after.max(pushback).filter(|wait| !wait.is_zero())
}

/// What the answer says about another attempt, by the same headers: the longer wait of the two. A
/// `grpc-retry-pushback-ms` that is negative, or no number, asks for none.
pub(crate) fn retry(headers: &HeaderMap) -> Option<Pushback> {
    let pushback = headers.get(GRPC_PUSHBACK);
    let millis = |value: &HeaderValue| value.to_str().ok()?.trim().parse::<u64>().ok();
    if pushback.is_some_and(|value| millis(value).is_none()) {
        return Some(Pushback::Never);
    }
    wait(headers).map(Pushback::After)
}

fn retry_after(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than can be counted is for ever, about.
        return Some(Duration::from_secs(text.parse().unwrap_or(u32::MAX).into()));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    at.duration_since(SystemTime::now()).ok()
}

/// How busy the endpoint says that it is: `application_utilization` of an ORCA report as text or JSON, else its
/// `cpu_utilization`.
pub(crate) fn utilization(headers: &HeaderMap) -> Option<Hint> {
    headers.get(LOAD_METRICS).and_then(report).map(Hint::Utilization)
}

fn report(value: &HeaderValue) -> Option<f64> {
    let (format, report) = value.to_str().ok()?.trim().split_once(' ')?;
    let metric: fn(&str, &str) -> Option<f64> = match format {
        "TEXT" => in_text,
        "JSON" => in_json,
        _ => return None,
    };
    let known = |name| metric(report, name).filter(|utilization| utilization.is_finite() && *utilization > 0.0);
    known("application_utilization").or_else(|| known("cpu_utilization"))
}

fn in_text(report: &str, name: &str) -> Option<f64> {
    let mut pairs = report.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == name)?.1.trim().parse().ok()
}

/// The first number of this name, at whatever depth: reports are flat but for maps of an application's own names. Called
/// as protobuf's JSON has it, or as its field is.
fn in_json(report: &str, name: &str) -> Option<f64> {
    let camel = name.replace("_u", "U");
    let value = [name, &camel].into_iter().find_map(|name| report.split_once(&format!("\"{name}\"")))?.1;
    let value = value.trim_start().strip_prefix(':')?.trim_start();
    let end = value.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+' | 'e' | 'E')).unwrap_or(value.len());
    value[..end].parse().ok()
}

/// Whether the head, or the trailers, of a gRPC answer say that this endpoint cannot serve, so that another one should be
/// asked next.
pub(crate) fn grpc_failure(headers: &HeaderMap) -> bool {
    GrpcCode::of_endpoint(headers).is_some_and(GrpcCode::is_endpoints_fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    fn asked(name: &'static str, value: &str) -> Option<Duration> {
        match push_back(&headers(name, value)) {
            Some(Hint::Backoff(wait)) => Some(wait),
            _ => None,
        }
    }

    #[test]
    fn every_form_of_push_back_is_read() {
        assert_eq!(asked("retry-after", "120"), Some(Duration::from_mins(2)));
        assert_eq!(asked("retry-after", " 5 "), Some(Duration::from_secs(5)));
        assert_eq!(asked("retry-after", "99999999999999999999"), Some(Duration::from_secs(u32::MAX.into())));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!((98..=100).contains(&asked("retry-after", &date).unwrap().as_secs()));
        assert_eq!(asked("grpc-retry-pushback-ms", "1500"), Some(Duration::from_millis(1500)));
        let mut both = headers("retry-after", "1");
        both.extend(headers("grpc-retry-pushback-ms", "2500"));
        assert_eq!(push_back(&both), Some(Hint::Backoff(Duration::from_millis(2500))));
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for text in ["", "soon", "-1", "1.5", "0", "+5", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(asked("retry-after", text), None, "{text:?}");
        }
        assert_eq!(asked("grpc-retry-pushback-ms", "-1"), None);
    }

    #[test]
    fn a_head_that_says_so_is_a_reason_to_go_elsewhere() {
        let said = |text| grpc_failure(&headers("grpc-status", text));
        assert_eq!(["0", "5", "14", "fourteen"].map(said), [false, false, true, false]);
        assert!(!grpc_failure(&HeaderMap::new()));
    }

    #[test]
    fn what_is_said_about_another_attempt_is_a_wait_or_a_no() {
        let said = |name, value| retry(&headers(name, value));
        assert_eq!(said("retry-after", "3"), Some(Pushback::After(Duration::from_secs(3))));
        assert_eq!(said("grpc-retry-pushback-ms", "250"), Some(Pushback::After(Duration::from_millis(250))));
        for text in ["-1", "soon", ""] {
            assert_eq!(said("grpc-retry-pushback-ms", text), Some(Pushback::Never), "{text:?}");
        }
        assert_eq!((said("grpc-retry-pushback-ms", "0"), said("retry-after", "soon")), (None, None));
    }

    #[test]
    fn a_load_report_is_read_as_text_and_json() {
        for (text, expected) in [
            ("TEXT cpu_utilization=0.3,mem_utilization=0.8", Some(0.3)),
            ("TEXT cpu_utilization=0.3, application_utilization = 0.9", Some(0.9)),
            (r#"JSON {"cpu_utilization": 0.3}"#, Some(0.3)),
            (r#"JSON {"applicationUtilization": 1.2, "cpuUtilization": 0.1}"#, Some(1.2)),
            ("TEXT cpu_utilization=NaN", None),
            ("TEXT cpu_utilization=-1", None),
            ("BIN CgA=", None),
            ("JSON {", None),
            ("TEXT", None),
        ] {
            let report = utilization(&headers("endpoint-load-metrics", text));
            assert_eq!(report, expected.map(Hint::Utilization), "{text}");
        }
    }
}

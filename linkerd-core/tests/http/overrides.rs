//! What a trusted caller says of the timeouts and retries of one request.

use std::time::Duration;

use linkerd_core::{
    ClientPolicy, ServicePolicy,
    http::{PerRequest, ServerConfig},
    testing::Reply,
};

use super::{
    expiry::{Hop, detail, ep},
    peers::Message,
};

const HEADERS: [&str; 8] = [
    "l5d-timeout",
    "l5d-request-timeout",
    "l5d-response-timeout",
    "l5d-retry-timeout",
    "l5d-retry-http",
    "l5d-retry-grpc",
    "l5d-retry-limit",
    "l5d-err-detail",
];

fn hop(per_request: Option<PerRequest>, service: ServicePolicy) -> Hop {
    let server = ServerConfig { per_request, ..ServerConfig::default() };
    let steady = ClientPolicy { accrual: linkerd_core::AccrualPolicy::off(), ..ClientPolicy::default() };
    Hop::new(server, service, steady, |builder| builder)
}

fn trusting() -> Hop {
    hop(Some(PerRequest::default()), ServicePolicy::default())
}

async fn ask(hop: &Hop, method: &str, headers: &[&str]) -> Message {
    let mut lines = vec!["Content-Length: 0"];
    lines.extend(headers);
    hop.ask(&format!("{method} / HTTP/1.1\r\nHost: web\r\n{}\r\n\r\n", lines.join("\r\n"))).await
}

#[tokio::test]
async fn a_server_that_trusts_nobody_drops_the_headers_and_one_that_does_takes_them() {
    let all = ["50s", "50s", "50s", "50s", "5xx", "internal", "3", "true"];
    let all: Vec<_> = HEADERS.iter().zip(all).map(|(name, value)| format!("{name}: {value}")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    for (policy, sent) in [(None, 1), (Some(PerRequest::default()), 4)] {
        let hop = hop(policy, ServicePolicy::default());
        hop.endpoints.script(ep(), [Reply::status(503)]);
        let rsp = ask(&hop, "GET", &all).await;
        assert_eq!((rsp.status(), hop.endpoints.count(ep())), (503, sent), "{policy:?}");
        for seen in hop.endpoints.seen(ep()) {
            assert!(HEADERS.iter().all(|name| !seen.headers.contains_key(*name)), "{:?}", seen.headers);
        }
    }
}

#[tokio::test]
async fn only_a_trusted_caller_says_that_a_request_matters_more_than_others() {
    let but_in_this = PerRequest { criticality: false, ..PerRequest::default() };
    for (policy, is_trusted) in [(None, false), (Some(but_in_this), false), (Some(PerRequest::default()), true)] {
        let hop = hop(policy, ServicePolicy::default());
        for (class, is_more) in [
            (&["sheddable"][..], false),
            (&["1"], false),
            (&["critical"], false),
            (&["whatever"], false),
            (&["critical_plus"], true),
            (&[" Critical-Plus "], true),
            (&["3"], true),
            (&["sheddable", "critical_plus"], true),
        ] {
            let lines: Vec<_> = class.iter().map(|class| format!("l5d-ctx-criticality: {class}")).collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            assert_eq!(ask(&hop, "GET", &lines).await.status(), 200);
            let seen = hop.endpoints.seen(ep()).pop().unwrap();
            let passed = seen.headers.get_all("l5d-ctx-criticality").iter().count();
            let expected = if is_trusted || !is_more { class.len() } else { 0 };
            assert_eq!(passed, expected, "{class:?} {policy:?}");
        }
    }
}

#[tokio::test]
async fn a_timeout_takes_the_place_of_the_configured_one_up_to_the_bound() {
    let configured = |ms| ServicePolicy { total_timeout: Some(Duration::from_millis(ms)), ..ServicePolicy::default() };
    let bound = PerRequest { max_timeout: Duration::from_millis(60), ..PerRequest::default() };
    for (said, ms, set_by) in [
        ("l5d-timeout: 40ms", 40, "l5d-timeout"),
        ("l5d-timeout: 1h", 60, "l5d-timeout"),
        ("l5d-request-timeout: 50ms", 50, "l5d-request-timeout"),
        ("l5d-timeout: soon", 30, "service.totalTimeoutMs"),
    ] {
        let hop = hop(Some(bound), configured(30));
        hop.endpoints.script(ep(), [Reply::hang()]);
        let rsp = ask(&hop, "GET", &[said]).await;
        assert_eq!(rsp.status(), 503);
        let timer = &detail(&rsp)["timer"];
        assert_eq!(
            (&timer["name"], &timer["ms"], &timer["setBy"]),
            (&"total".into(), &ms.into(), &set_by.into()),
            "{said}"
        );
        assert!(rsp.text().starts_with(&format!("exceeded {ms}.milliseconds to ")), "{}", rsp.text());
        // The next hop is told of it.
        let seen = hop.endpoints.seen(ep());
        let deadline = seen[0].headers["l5d-ctx-deadline"].to_str().unwrap().split_once(' ').unwrap();
        let left = deadline.1.parse::<u64>().unwrap() - deadline.0.parse::<u64>().unwrap();
        assert_eq!(left / 1_000_000, ms);
    }
}

#[tokio::test]
async fn an_attempt_that_is_late_is_retried_after_one_timeout_and_not_after_the_other() {
    for (said, sent, set_by) in
        [("l5d-retry-timeout: 30ms", 3, "l5d-retry-timeout"), ("l5d-response-timeout: 30ms", 1, "l5d-response-timeout")]
    {
        let hop = trusting();
        hop.endpoints.script(ep(), [Reply::hang()]);
        let rsp = ask(&hop, "POST", &[said, "l5d-retry-limit: 2"]).await;
        assert_eq!((rsp.status(), hop.endpoints.count(ep())), (503, sent), "{said}");
        let timer = &detail(&rsp)["timer"];
        assert_eq!((&timer["name"], &timer["setBy"]), (&"attempt".into(), &set_by.into()));
        assert_eq!(hop.count("client/#/fake/users/timeouts/attempt"), sent as u64);
    }
}

#[tokio::test]
async fn retries_are_of_what_is_listed_as_often_as_is_said_and_the_budget_pays() {
    for (said, status, sent) in [
        (&["l5d-retry-http: 5xx"][..], 503, 2),
        (&["l5d-retry-http: gateway-error", "l5d-retry-limit: 3"], 503, 4),
        (&["l5d-retry-http: gateway-error", "l5d-retry-limit: 3"], 500, 1),
        (&["l5d-retry-http: 404,500-501", "l5d-retry-limit: 3"], 404, 4),
        (&["l5d-retry-http: 5xx", "l5d-retry-limit: 100"], 503, 11),
        (&["l5d-retry-http: 5xx", "l5d-retry-limit: 0"], 503, 1),
        (&["l5d-retry-limit: 3"], 503, 1),
    ] {
        let hop = trusting();
        hop.endpoints.script(ep(), [Reply::status(status)]);
        let rsp = ask(&hop, "POST", said).await;
        assert_eq!((rsp.status(), hop.endpoints.count(ep())), (status, sent), "{said:?}");
    }
    let off = ServicePolicy { retry_budget: linkerd_core::retry::Budget::off(), ..ServicePolicy::default() };
    let hop = hop(Some(PerRequest::default()), off);
    hop.endpoints.script(ep(), [Reply::status(503)]);
    ask(&hop, "GET", &["l5d-retry-http: 5xx"]).await;
    assert_eq!(hop.endpoints.count(ep()), 1);
}

#[tokio::test]
async fn a_grpc_status_in_the_head_is_retried_if_it_is_listed() {
    for (code, sent) in [("14", 2), ("13", 1)] {
        let hop = trusting();
        hop.endpoints.script(ep(), [Reply::status(200).header("grpc-status", code)]);
        ask(&hop, "POST", &["l5d-retry-grpc: unavailable,cancelled"]).await;
        assert_eq!(hop.endpoints.count(ep()), sent, "{code}");
    }
}

#[tokio::test]
async fn a_grpc_call_is_told_the_time_that_its_caller_gives_to_an_attempt() {
    let hop = trusting();
    hop.endpoints.script(ep(), [Reply::ok("")]);
    let call = ["Content-Type: application/grpc", "l5d-response-timeout: 2s"];
    assert_eq!(ask(&hop, "POST", &call).await.status(), 200);
    let seen = &hop.endpoints.seen(ep())[0].headers;
    assert_eq!(seen["grpc-timeout"], "2000000u");
}

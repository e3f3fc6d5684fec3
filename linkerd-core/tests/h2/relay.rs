//! What passes through.

use std::{future::poll_fn, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use linkerd_core::http::ServerConfig;
use tokio::time::Instant;

use super::peers::{Answer, Backend, Client, get, h2_client, h2_server, read, routed, serve, through, until, within};

/// A cancellation reaches the other side in less than this.
const SOON: Duration = Duration::from_millis(100);
/// In one of so many tries: the machine may be busy with something else for longer.
const TRIES: usize = 5;

fn post() -> Request<()> {
    Request::post("http://web/pkg.Svc/Method").header("te", "trailers").body(()).unwrap()
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    [(http::HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect()
}

#[tokio::test]
async fn a_head_arrives_with_these_headers_and_no_others() {
    let (mut backend, client) = through().await;
    let mut req = get("http://Web:80/a%2Fb;x?c=%20/d");
    req.headers_mut().append("x-one", HeaderValue::from_static("1"));
    req.headers_mut().append("x-one", HeaderValue::from_static("2"));
    let (response, _) = client.open(req, true).await;
    let seen = backend.accept().await;
    assert_eq!(seen.head.uri(), "http://Web:80/a%2Fb;x?c=%20/d");
    let mut names: Vec<_> = seen.head.headers().iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "l5d-ctx-trace",
            "l5d-dst-client",
            "l5d-dst-residual",
            "l5d-dst-service",
            "l5d-reqid",
            "via",
            "x-one",
            "x-one"
        ],
        "no length, and no host beside the authority"
    );
    assert_eq!(seen.head.headers()["via"], "h2 linkerd");
    seen.answer(404, "not here");
    let rsp = Answer::read(response).await.unwrap();
    assert_eq!((rsp.head.status().as_u16(), &rsp.body[..]), (404, &b"not here"[..]));
    assert_eq!(rsp.get("via"), Some("h2 linkerd"));
    assert_eq!(rsp.get("l5d-success-class"), Some("1.0"));
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways_while_both_are_open() {
    let (mut backend, client) = through().await;
    let (response, mut to) = client.open(post(), false).await;
    let mut seen = backend.accept().await;
    assert_eq!(seen.head.headers()["te"], "trailers");
    let mut back = seen.head();
    let (_, mut from) = within(response).await.unwrap().into_parts();
    for part in ["one", "two"] {
        to.send_data(part.into(), false).unwrap();
        assert_eq!(within(seen.body.data()).await.unwrap().unwrap(), part);
        back.send_data(part.into(), false).unwrap();
        assert_eq!(within(from.data()).await.unwrap().unwrap(), part);
    }
    to.send_trailers(trailers("x-up", "1")).unwrap();
    assert!(within(seen.body.data()).await.is_none());
    assert_eq!(within(seen.body.trailers()).await.unwrap().unwrap()["x-up"], "1");
    back.send_trailers(trailers("grpc-status", "0")).unwrap();
    assert!(within(from.data()).await.is_none());
    let end = within(from.trailers()).await.unwrap().unwrap();
    assert_eq!(end["grpc-status"], "0");
}

/// Sends until the peer takes no more: how much that was.
async fn fill(to: &mut SendStream<Bytes>) -> usize {
    let mut sent = 0;
    // Bounded: many times what all windows and buffers together may hold.
    for _ in 0..4096 {
        to.reserve_capacity(16 * 1024);
        let capacity = tokio::time::timeout(Duration::from_millis(300), poll_fn(|cx| to.poll_capacity(cx))).await;
        let Ok(Some(Ok(capacity))) = capacity else { return sent };
        to.send_data(vec![0; capacity].into(), false).unwrap();
        sent += capacity;
    }
    sent
}

#[tokio::test]
async fn who_reads_slowly_holds_the_sender_up() {
    let (mut backend, client) = through().await;
    let (response, mut to) = client.open(post(), false).await;
    let mut seen = backend.accept().await;
    let sent = fill(&mut to).await;
    assert!((64 * 1024..512 * 1024).contains(&sent), "{sent} of a request");
    let mut back = seen.head();
    let rsp = within(response).await.unwrap();
    let sent = fill(&mut back).await;
    assert!((64 * 1024..512 * 1024).contains(&sent), "{sent} of a response");
    // One that nobody reads holds up no other.
    let (other, _) = client.open(get("http://web/"), true).await;
    backend.accept().await.answer(200, "ok");
    assert_eq!(Answer::read(other).await.unwrap().body, b"ok");
    back.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read(&mut rsp.into_body()).await.unwrap().len(), sent);
}

#[tokio::test]
async fn a_cancellation_reaches_the_endpoint_before_a_head_came() {
    let (mut backend, client) = through().await;
    for has_body in [false, true] {
        let mut took = Vec::new();
        for _ in 0..TRIES {
            let (response, to) = client.open(post(), !has_body).await;
            let mut seen = backend.accept().await;
            let cancelled = Instant::now();
            drop((response, to));
            assert_eq!(within(poll_fn(|cx| seen.respond.poll_reset(cx))).await.unwrap(), Reason::CANCEL, "{has_body}");
            took.push(cancelled.elapsed());
        }
        assert!(took.iter().any(|took| *took < SOON), "{has_body}: {took:?}");
    }
}

#[tokio::test]
async fn a_cancellation_reaches_the_endpoint_in_the_middle_of_both_bodies() {
    let (mut backend, client) = through().await;
    for is_open in [false, true] {
        let mut took = Vec::new();
        for _ in 0..TRIES {
            let (response, to) = client.open(post(), !is_open).await;
            let mut seen = backend.accept().await;
            let mut back = seen.head();
            back.send_data("first".into(), false).unwrap();
            let mut from = within(response).await.unwrap().into_body();
            assert_eq!(within(from.data()).await.unwrap().unwrap(), "first");
            let cancelled = Instant::now();
            drop((from, to));
            assert_eq!(within(poll_fn(|cx| back.poll_reset(cx))).await.unwrap(), Reason::CANCEL, "{is_open}");
            took.push(cancelled.elapsed());
        }
        assert!(took.iter().any(|took| *took < SOON), "{is_open}: {took:?}");
    }
}

#[tokio::test]
async fn all_streams_of_a_client_share_one_connection_to_the_endpoint() {
    let (mut backend, client) = through().await;
    assert!(client.ask_ok(&mut backend).await);
    let mut asked = Vec::new();
    for _ in 0..50 {
        asked.push(client.open(get("http://web/"), true).await.0);
    }
    let mut seen = Vec::new();
    for _ in 0..50 {
        seen.push(backend.accept().await);
    }
    for stream in seen {
        stream.answer(200, "");
    }
    for response in asked {
        assert_eq!(Answer::read(response).await.unwrap().head.status(), 200);
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_class_is_in_the_trailers_that_there_are() {
    let (mut backend, client) = through().await;
    let (response, _) = client.open(post(), true).await;
    let mut seen = backend.accept().await;
    let rsp = Response::builder().status(503).body(()).unwrap();
    let mut back = seen.respond.send_response(rsp, false).unwrap();
    back.send_trailers(trailers("grpc-status", "14")).unwrap();
    let rsp = Answer::read(response).await.unwrap();
    assert_eq!(rsp.get("l5d-success-class"), Some("0.0"), "known at the head");
    assert_eq!(rsp.trailers.unwrap()["grpc-status"], "14");
}

#[cfg(feature = "config")]
#[tokio::test]
async fn a_class_that_the_end_says_is_in_trailers_and_none_are_made_up_for_it() {
    use super::peers::{Backend, Client, serve_file};

    // What a file gives a service unless it says otherwise: a response is what its end says.
    let mut backend = Backend::new().await;
    let port = backend.addr.port();
    let text = format!(
        "routers: [{{protocol: h2, dtab: '/svc => /$/inet/127.0.0.1/{port}', servers: [{{port: 0, ip: 127.0.0.1}}]}}]"
    );
    let proxy = serve_file(&text, &linkerd_core::telemetry::Registry::new());
    let client = Client::connect(proxy).await;
    for (asks, has_trailers) in [(true, true), (true, false), (false, true), (false, false)] {
        let case = format!("asked for: {asks}, there: {has_trailers}");
        let req = if asks { post() } else { get("http://web/") };
        let (response, _) = client.open(req, true).await;
        let mut back = backend.accept().await.head();
        back.send_data("data".into(), !has_trailers).unwrap();
        if has_trailers {
            back.send_trailers(trailers("x-end", "1")).unwrap();
        }
        let rsp = Answer::read(response).await.unwrap();
        assert_eq!(rsp.get("l5d-success-class"), None, "{case}");
        assert_eq!(rsp.get("te"), asks.then_some("trailers"), "{case}");
        let class = rsp.trailers.as_ref().map(|trailers| trailers["l5d-success-class"].to_str().unwrap());
        assert_eq!(class, has_trailers.then_some("1.0"), "{case}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_requests() {
    let (mut backend, client) = through().await;
    let (response, _) = client.open(get("http://web/"), true).await;
    let mut seen = backend.accept().await;
    drop((response, client));
    let mut is_over = false;
    until(|| {
        let waker = std::task::Waker::noop();
        is_over |= seen.respond.poll_reset(&mut std::task::Context::from_waker(waker)).is_ready();
        is_over
    })
    .await;
}

#[tokio::test]
async fn the_forwarded_header_names_the_authority() {
    use linkerd_core::http::{Forwarded, ForwardedLabel, ServerConfig};

    use super::peers::{Backend, Client, h2_client, h2_server, routed, serve};

    let mut backend = Backend::new().await;
    let forwarded = Forwarded { by: ForwardedLabel::Fixed("gw".to_owned()), for_: ForwardedLabel::Ip };
    let config = ServerConfig { forwarded: Some(forwarded), ..h2_server() };
    let client = Client::connect(serve(config, routed(backend.addr, h2_client()))).await;
    let (_response, _) = client.open(get("http://web/"), true).await;
    let seen = backend.accept().await;
    assert_eq!(seen.head.headers()["forwarded"], "by=_gw;for=127.0.0.1;authority=web;proto=http");
}

#[tokio::test]
async fn clearing_the_context_reaches_the_trailers_of_requests() {
    let mut backend = Backend::new().await;
    let config = ServerConfig { clear_context: true, ..h2_server() };
    let client = Client::connect(serve(config, routed(backend.addr, h2_client()))).await;
    let (_response, mut to) = client.open(post(), false).await;
    let mut seen = backend.accept().await;
    let mut both = trailers("x-up", "1");
    both.extend(trailers("l5d-ctx-a", "1"));
    to.send_trailers(both).unwrap();
    assert!(within(seen.body.data()).await.is_none());
    let end = within(seen.body.trailers()).await.unwrap().unwrap();
    assert_eq!(end.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-up"]);
}

#[cfg(feature = "config")]
#[tokio::test]
async fn a_reset_by_the_endpoint_of_a_file_reaches_the_client_soon() {
    // As the endpoint resets before a head, and in the middle of a body. A busy machine is late now and then.
    let mut backend = Backend::new().await;
    let port = backend.addr.port();
    let text = format!(
        "routers: [{{protocol: h2, dtab: '/svc => /$/inet/127.0.0.1/{port}', servers: [{{port: 0, ip: 127.0.0.1}}]}}]"
    );
    let client = Client::connect(super::peers::serve_file(&text, &linkerd_core::telemetry::Registry::new())).await;
    for has_begun in [false, true] {
        let mut took = Vec::new();
        for _ in 0..TRIES {
            let (response, _to) = client.open(post(), false).await;
            let mut seen = backend.accept().await;
            let (reset, reason) = if has_begun {
                let mut back = seen.head();
                back.send_data("first".into(), false).unwrap();
                let mut from = within(response).await.unwrap().into_body();
                assert_eq!(within(from.data()).await.unwrap().unwrap(), "first");
                let reset = Instant::now();
                back.send_reset(Reason::ENHANCE_YOUR_CALM);
                (reset, within(from.data()).await.unwrap().unwrap_err().reason())
            } else {
                let reset = Instant::now();
                seen.respond.send_reset(Reason::ENHANCE_YOUR_CALM);
                (reset, within(response).await.unwrap_err().reason())
            };
            took.push(reset.elapsed());
            assert_eq!(reason, Some(Reason::ENHANCE_YOUR_CALM));
        }
        assert!(took.iter().any(|took| *took < SOON), "{has_begun}: {took:?}");
    }
}

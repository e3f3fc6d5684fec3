//! The server: its limits, its errors, its end.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use linkerd_core::{
    Body, BoxError, Error, ErrorKind, Svc,
    http::{ClientConfig, RequestContext, ServerConfig},
    telemetry::{Registry, RouterStats},
};
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, Semaphore},
};
use tower::service_fn;

use super::peers::{Backend, Message, Proxy, Wire, endpoint, proxy};

fn answering(answer: impl Fn(Request<Body>) -> Result<Response<Body>, Error> + Clone + Send + Sync + 'static) -> Svc {
    Svc::new(service_fn(move |req| std::future::ready(answer(req))))
}

/// A service that answers everything with this.
pub(crate) fn saying(text: &'static str) -> Svc {
    answering(move |_| Ok(Response::new(Body::from(text))))
}

fn ok() -> Svc {
    saying("ok")
}

fn failing(error: impl Fn() -> Error + Clone + Send + Sync + 'static) -> Svc {
    answering(move |_| Err(error()))
}

/// A service that answers when it is let go.
pub(crate) fn gated() -> (Svc, Arc<Notify>, Arc<Semaphore>) {
    let (arrived, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (here, let_go) = (Arc::clone(&arrived), Arc::clone(&gate));
    let svc = service_fn(move |_req: Request<Body>| {
        let (here, let_go) = (Arc::clone(&here), Arc::clone(&let_go));
        async move {
            here.notify_one();
            let _permit = let_go.acquire().await;
            Ok::<_, BoxError>(Response::new(Body::from("late")))
        }
    });
    (Svc::new(svc), arrived, gate)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_connection_ends() {
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: web\r\n\r\n", "a".repeat(4200));
    let long_header = format!("GET / HTTP/1.1\r\nHost: web\r\nX-Big: {}\r\n\r\n", "b".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\nHost: web\r\n{}\r\n", "X-A: bbbbbbbbbbbbbbbbbbbbbbbb\r\n".repeat(400));
    let proxy = proxy(ServerConfig::default(), ok());
    for (req, status) in [
        (long_line.as_str(), 414),
        (&long_header, 431),
        (&many, 431),
        ("GARBAGE\r\n\r\n", 400),
        ("GET / HTTP/9.9\r\nHost: web\r\n\r\n", 400),
        ("G{T / HTTP/1.1\r\nHost: web\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: web\r\nnocolon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: web\r\nX-S : v\r\n\r\n", 400),
        ("GET /caf\u{e9} HTTP/1.1\r\nHost: web\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", 400),
        ("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: abc\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip\r\n\r\nabc", 400),
    ] {
        let mut client = Wire::connect(proxy.addr).await;
        let rsp = client.ask(req).await;
        assert_eq!(rsp.status(), status, "{req:.60}");
        assert_eq!((rsp.get("connection"), rsp.text(), rsp.get("via")), (Some("close"), "", None), "{req:.60}");
        assert_eq!(rsp.get("l5d-err"), None);
        assert!(client.is_closed().await, "{req:.60}");
    }
}

#[tokio::test]
async fn what_is_just_within_the_limits_passes() {
    let proxy = proxy(ServerConfig::default(), ok());
    let mut client = Wire::connect(proxy.addr).await;
    // `GET ` and ` HTTP/1.1` are part of the line.
    let target = format!("/{}", "a".repeat(4096 - 4 - 9 - 1));
    assert_eq!(client.ask(format!("GET {target} HTTP/1.1\r\nHost: web\r\n\r\n")).await.status(), 200);
    let value = "b".repeat(8192 - "host: web".len() - "x-big: ".len());
    assert_eq!(client.ask(format!("GET / HTTP/1.1\r\nHost: web\r\nX-Big: {value}\r\n\r\n")).await.status(), 200);
    assert_eq!(client.ask(format!("GET / HTTP/1.1\r\nHost: web\r\nX-Big: {value}b\r\n\r\n")).await.status(), 431);
    let mut client = Wire::connect(proxy.addr).await;
    assert_eq!(client.ask(format!("GET {target}a HTTP/1.1\r\nHost: web\r\n\r\n")).await.status(), 414);
    let mut client = Wire::connect(proxy.addr).await;
    assert_eq!(client.ask(format!("\r\n\r\n{GET}")).await.status(), 200);
}

#[tokio::test]
async fn a_loop_of_proxies_ends() {
    let proxy = proxy(ServerConfig { max_call_depth: 2, ..ServerConfig::default() }, ok());
    let mut client = Wire::connect(proxy.addr).await;
    let rsp = client.ask("GET / HTTP/1.1\r\nHost: web\r\nVia: 1.1 a, 1.1 b\r\n\r\n").await;
    assert_eq!(rsp.status(), 200);
    for via in ["Via: 1.1 a, 1.1 b, 1.1 c", "Via: 1.1 a\r\nVia: 1.1 b, 1.1 c"] {
        let rsp = client.ask(format!("GET / HTTP/1.1\r\nHost: web\r\n{via}\r\n\r\n")).await;
        let text = "Maximum number of calls (2) has been exceeded. Please check for proxy loops.";
        assert_eq!((rsp.status(), rsp.text(), rsp.get("content-type")), (400, text, Some("text/plain")));
        let err = "Maximum+number+of+calls+%282%29+has+been+exceeded.+Please+check+for+proxy+loops.";
        assert_eq!((rsp.get("l5d-err"), rsp.get("via")), (Some(err), None));
    }
}

#[tokio::test]
async fn errors_say_what_happened_and_who_may_try_again() {
    for (kind, status, retryable) in [
        (ErrorKind::Unidentified, 400, None),
        (ErrorKind::NoSuchName, 502, None),
        (ErrorKind::Connect, 502, None),
        (ErrorKind::Binding, 502, None),
        (ErrorKind::BadResponse, 502, None),
        (ErrorKind::Closed, 502, None),
        (ErrorKind::Refused, 502, None),
        (ErrorKind::AttemptTimeout, 503, None),
        (ErrorKind::TotalTimeout, 503, None),
        (ErrorKind::Deadline, 503, None),
        (ErrorKind::Overloaded, 503, Some("true")),
    ] {
        let proxy = proxy(ServerConfig::default(), failing(move || Error::new(kind).with_text("a/b: \u{fc}\nc")));
        let mut client = Wire::connect(proxy.addr).await;
        let rsp = client.ask(GET).await;
        assert_eq!((rsp.status(), rsp.text()), (status, "a/b: \u{fc}\nc"), "{kind:?}");
        assert_eq!(rsp.get("l5d-err"), Some("a%2Fb%3A+%FC%0Ac"));
        assert_eq!(rsp.get("l5d-retryable"), retryable, "{kind:?}");
        let rsp = client.ask("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n").await;
        assert_eq!((rsp.status(), rsp.get("content-length")), (status, Some("9")));
        assert_eq!(client.ask(GET).await.status(), status);
    }
    let closed = || Error::new(ErrorKind::Closed).with_never_sent(true);
    let mut client = Wire::connect(proxy(ServerConfig::default(), failing(closed)).addr).await;
    assert_eq!(client.ask(GET).await.get("l5d-retryable"), Some("true"));
}

#[tokio::test]
async fn long_errors_are_cut() {
    let mut config = ServerConfig::default();
    config.error_limits.max_header_bytes = 8;
    config.error_limits.max_body_bytes = 5;
    let proxy = proxy(config, failing(|| Error::new(ErrorKind::Layer).with_text("abcd\u{e9}fgh")));
    let rsp = Wire::connect(proxy.addr).await.ask(GET).await;
    assert_eq!((rsp.text(), rsp.get("l5d-err")), ("abcd", Some("abcd%E9f")));
}

#[tokio::test]
async fn a_dtab_that_does_not_parse_is_answered_with_the_parsers_text() {
    let proxy = proxy(ServerConfig::default(), ok());
    let mut client = Wire::connect(proxy.addr).await;
    let rsp = client.ask("GET / HTTP/1.1\r\nHost: web\r\nl5d-dtab: invalid\r\n\r\n").await;
    assert_eq!((rsp.status(), rsp.text()), (400, "'/' expected but 'i' found at '[i]nvalid'"));
}

#[tokio::test]
async fn the_service_gets_the_context_and_not_its_headers() {
    let svc = answering(|req| {
        let cx = req.extensions().get::<RequestContext>().unwrap();
        assert!(cx.remote.is_some() && cx.local.is_some());
        let left = req.headers().keys().filter(|name| name.as_str().starts_with("l5d-")).count();
        Ok(Response::new(Body::from(format!("{} {left}", cx.dtab))))
    });
    let req = "GET / HTTP/1.1\r\nHost: web\r\nl5d-dtab: /a=>/b\r\nl5d-ctx-dtab: /c=>/d\r\nl5d-sample: 1\r\n\r\n";
    let mut client = Wire::connect(proxy(ServerConfig::default(), svc.clone()).addr).await;
    assert_eq!(client.ask(req).await.text(), "/c=>/d;/a=>/b 0");
    // Cleared: not even read.
    let clear = ServerConfig { clear_context: true, ..ServerConfig::default() };
    let mut client = Wire::connect(proxy(clear, svc).addr).await;
    assert_eq!(client.ask(req).await.text(), " 0");
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: web\r\nl5d-dtab: garbage\r\n\r\n").await.status(), 200);
}

#[tokio::test]
async fn clearing_the_context_reaches_trailers_both_ways() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: l5d-b, x-b\r\n\r\n2\r\nok\r\n0\r\nl5d-b: 1\r\nx-b: 1\r\n\r\n";
    for (clear_context, expected) in [(true, &["x"][..]), (false, &["l5d", "x"])] {
        let (addr, seen) = Backend::answering([answer]).await;
        let config = ServerConfig { clear_context, ..ServerConfig::default() };
        let mut client = Wire::connect(proxy(config, endpoint(addr, ClientConfig::default())).addr).await;
        let head = "POST / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTrailer: l5d-ctx-a, x-a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let rsp = client.ask(format!("{head}2\r\nhi\r\n0\r\nl5d-ctx-a: 1\r\nx-a: 1\r\n\r\n")).await;
        let prefixes = |message: &Message| -> Vec<String> {
            let names = message.trailers.iter().map(|(name, _)| name.split('-').next().unwrap().to_owned());
            names.collect()
        };
        assert_eq!(prefixes(&rsp), expected);
        assert_eq!(prefixes(&seen.lock().unwrap()[0]), expected);
    }
}

#[tokio::test]
async fn clearing_the_context_keeps_the_text_of_errors_unless_told_otherwise() {
    let fail = || failing(|| Error::new(ErrorKind::NoSuchName).with_text("why"));
    let clear = ServerConfig { clear_context: true, ..ServerConfig::default() };
    let rsp = Wire::connect(proxy(clear.clone(), fail()).addr).await.ask(GET).await;
    assert_eq!((rsp.status(), rsp.text(), rsp.get("l5d-err")), (502, "why", None));
    let silent = ServerConfig { clear_error_bodies: true, ..clear.clone() };
    let rsp = Wire::connect(proxy(silent, fail()).addr).await.ask(GET).await;
    assert_eq!((rsp.status(), rsp.text(), rsp.get("content-length")), (502, "", Some("0")));
    let upstream = answering(|_| {
        let rsp = Response::builder().header("l5d-foo", "1").header("x-keep", "1").header("l5d-success-class", "0");
        Ok(rsp.body(Body::from("ok")).unwrap())
    });
    let rsp = Wire::connect(proxy(clear, upstream).addr).await.ask(GET).await;
    assert_eq!((rsp.get("l5d-foo"), rsp.get("l5d-success-class"), rsp.get("x-keep")), (None, None, Some("1")));
}

#[tokio::test]
async fn a_request_too_many_is_turned_away_unharmed() {
    let (svc, arrived, gate) = gated();
    let proxy = proxy(ServerConfig { max_concurrent_requests: Some(1), ..ServerConfig::default() }, svc);
    let mut busy = Wire::connect(proxy.addr).await;
    busy.write(GET).await;
    arrived.notified().await;
    let mut client = Wire::connect(proxy.addr).await;
    let rsp = client.ask(GET).await;
    let text = "Request was not processed by the server due to an error and is safe to retry";
    assert_eq!((rsp.status(), rsp.text()), (503, text));
    assert_eq!((rsp.get("finagle-http-nack"), rsp.get("retry-after")), (Some("true"), Some("0")));
    assert_eq!((rsp.get("l5d-err"), rsp.get("via"), rsp.get("content-type")), (None, None, None));
    let rsp = client.ask("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert_eq!((rsp.status(), rsp.get("connection"), rsp.get("content-length")), (503, Some("close"), None));
    gate.add_permits(1);
    assert_eq!(busy.message(false).await.unwrap().text(), "late");
    let mut client = Wire::connect(proxy.addr).await;
    assert_eq!(client.ask(GET).await.text(), "late");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_for() {
    let (slow, _arrived, _gate) = gated();
    // Who minds the deadline may be quicker than the server's own timer.
    let minding = answering(|req| {
        assert!(req.extensions().get::<RequestContext>().unwrap().deadline.is_some());
        Err(Error::new(ErrorKind::Deadline))
    });
    for svc in [slow, minding.clone()] {
        let proxy = proxy(ServerConfig { timeout: Some(Duration::from_millis(30)), ..ServerConfig::default() }, svc);
        let rsp = Wire::connect(proxy.addr).await.ask(GET).await;
        assert_eq!(rsp.status(), 503);
        let text = format!(
            "exceeded 30.milliseconds to 127.0.0.1/{} while waiting for a response for an individual request, excluding \
             retries. Remote Info: Not Available",
            proxy.addr.port()
        );
        assert_eq!(rsp.text(), text);
    }
    // The client's own deadline is not the server's doing.
    let proxy = proxy(ServerConfig { timeout: Some(Duration::from_secs(30)), ..ServerConfig::default() }, minding);
    let req = "GET / HTTP/1.1\r\nHost: web\r\nl5d-ctx-deadline: 1 2\r\n\r\n";
    assert_eq!(Wire::connect(proxy.addr).await.ask(req).await.text(), "the deadline has passed");
}

#[tokio::test]
async fn a_bad_chunk_is_a_bad_request() {
    let (addr, _seen) = Backend::answering(["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let proxy = proxy(ServerConfig::default(), endpoint(addr, ClientConfig::default()));
    let mut client = Wire::connect(proxy.addr).await;
    let rsp =
        client.ask("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(rsp.status(), 400);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn there_are_no_tunnels() {
    let proxy = proxy(ServerConfig::default(), ok());
    let rsp = Wire::connect(proxy.addr).await.ask("CONNECT web:443 HTTP/1.1\r\nHost: web:443\r\n\r\n").await;
    assert_eq!((rsp.status(), rsp.text()), (400, "CONNECT is not supported: there are no tunnels here"));
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_request() {
    let mut backend = Backend::new().await;
    let proxy = proxy(ServerConfig::default(), endpoint(backend.addr, ClientConfig::default()));
    let mut client = Wire::connect(proxy.addr).await;
    client.write(GET).await;
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    drop(client);
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn a_client_that_says_it_sends_no_more_is_gone() {
    let mut backend = Backend::new().await;
    let proxy = proxy(ServerConfig::default(), endpoint(backend.addr, ClientConfig::default()));
    let mut client = Wire::connect(proxy.addr).await;
    client.write(GET).await;
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    // As in Netty: half a close is a close.
    client.stream.shutdown().await.unwrap();
    assert!(conn.is_closed().await);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let proxy = proxy(ServerConfig::default(), answering(|req| Ok(Response::new(Body::from(req.uri().to_string())))));
    let mut client = Wire::connect(proxy.addr).await;
    client.write("GET /1 HTTP/1.1\r\nHost: web\r\n\r\nGET /2 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert_eq!(client.message(false).await.unwrap().text(), "/1");
    assert_eq!(client.message(false).await.unwrap().text(), "/2");
}

#[tokio::test]
async fn a_server_that_ends_lets_requests_finish_and_closes_what_is_idle() {
    let (svc, arrived, gate) = gated();
    let Proxy { addr, stop, ended } = proxy(ServerConfig::default(), svc);
    let mut idle = Wire::connect(addr).await;
    let mut busy = Wire::connect(addr).await;
    busy.write(GET).await;
    arrived.notified().await;
    stop.send(()).unwrap();
    assert!(idle.is_closed().await);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    assert!(!ended.is_finished());
    gate.add_permits(1);
    let rsp = busy.message(false).await.unwrap();
    assert_eq!((rsp.text(), rsp.get("connection")), ("late", Some("close")));
    assert!(busy.is_closed().await);
    assert_eq!(ended.await.unwrap().aborted, 0);
}

#[tokio::test]
async fn a_server_that_ends_cuts_off_what_takes_too_long() {
    let (svc, arrived, _gate) = gated();
    let config = ServerConfig { grace: Duration::from_millis(20), ..ServerConfig::default() };
    let Proxy { addr, stop, ended } = proxy(config, svc);
    let mut busy = Wire::connect(addr).await;
    busy.write(GET).await;
    arrived.notified().await;
    stop.send(()).unwrap();
    assert_eq!(ended.await.unwrap().aborted, 1);
    assert!(busy.is_closed().await);
}

#[tokio::test]
async fn idle_connections_close() {
    let config = ServerConfig { idle_time: Some(Duration::from_millis(40)), ..ServerConfig::default() };
    let proxy = proxy(config, ok());
    let mut client = Wire::connect(proxy.addr).await;
    assert_eq!(client.ask(GET).await.text(), "ok");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn requests_are_counted_by_how_they_ended() {
    let registry = Registry::new();
    let stats = Some(RouterStats::new(&registry, "http"));
    let svc = answering(|req| match req.uri().path() {
        "/fails" => Err(Error::new(ErrorKind::Connect)),
        "/500" => Ok(Response::builder().status(500).body(Body::empty()).unwrap()),
        "/good500" => {
            Ok(Response::builder().status(500).header("l5d-success-class", "1.0").body(Body::empty()).unwrap())
        }
        _ => Ok(Response::new(Body::from("ok"))),
    });
    let Proxy { addr, stop, ended } = proxy(ServerConfig { stats, ..ServerConfig::default() }, svc);
    let mut client = Wire::connect(addr).await;
    for path in ["/", "/fails", "/500", "/good500"] {
        client.ask(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
    }
    let server = registry.root().scope("rt").scope("http").scope("server").scope(&format!("127.0.0.1/{}", addr.port()));
    assert_eq!(server.counter("requests").get(), 4);
    assert_eq!(server.counter("success").get(), 2);
    assert_eq!(server.counter("failures").get(), 2);
    assert_eq!(server.gauge("pending").get(), 0);
    assert_eq!(server.scope("status").counter("502").get(), 1);
    assert_eq!(server.scope("status").counter("5XX").get(), 3);
    assert_eq!((server.counter("connects").get(), server.gauge("connections").get()), (1, 1));
    let (received, sent) = (server.counter("received_bytes"), server.counter("sent_bytes"));
    drop(client);
    stop.send(()).unwrap();
    ended.await.unwrap();
    assert!(received.get() > 100 && sent.get() > 100);
}

const HALVES: [&str; 3] = [
    "GET / HTTP/1.1\r\nHo",
    "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\n",
];

#[tokio::test]
async fn half_a_request_holds_up_nothing_when_the_server_ends() {
    for half in HALVES {
        for before in ["", GET] {
            let registry = Registry::new();
            let stats = RouterStats::new(&registry, "http");
            let config = ServerConfig { grace: Duration::from_mins(1), stats: Some(stats), ..ServerConfig::default() };
            let Proxy { addr, stop, ended } = proxy(config, ok());
            let mut client = Wire::connect(addr).await;
            if !before.is_empty() {
                assert_eq!(client.ask(before).await.text(), "ok");
            }
            client.write(half).await;
            let server = registry.root().scope("rt").scope("http").scope("server");
            let received = server.scope(&format!("{}/{}", addr.ip(), addr.port())).counter("received_bytes");
            while received.get() < (before.len() + half.len()) as u64 {
                tokio::task::yield_now().await;
            }
            stop.send(()).unwrap();
            let drained = tokio::time::timeout(Duration::from_secs(20), ended).await.expect(half).unwrap();
            assert_eq!(drained.aborted, 0);
            assert!(client.is_closed().await);
        }
    }
}

#[tokio::test]
async fn half_a_request_is_given_up_when_nothing_more_comes() {
    let idle = ServerConfig { idle_time: Some(Duration::from_millis(40)), ..ServerConfig::default() };
    let old = ServerConfig { life_time: Some(Duration::from_millis(40)), ..ServerConfig::default() };
    for config in [idle, old] {
        let proxy = proxy(config, ok());
        for half in HALVES {
            let mut client = Wire::connect(proxy.addr).await;
            client.write(half).await;
            let closed = tokio::time::timeout(Duration::from_secs(20), client.is_closed()).await;
            assert!(closed.expect(half), "{half}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_served_outlasts_the_limits_of_its_connection() {
    let (svc, arrived, gate) = gated();
    let config = ServerConfig { life_time: Some(Duration::from_millis(1)), ..ServerConfig::default() };
    let proxy = proxy(config, svc);
    let mut client = Wire::connect(proxy.addr).await;
    client.write("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc").await;
    arrived.notified().await;
    tokio::time::timeout(Duration::from_millis(20), client.head()).await.unwrap_err();
    gate.add_permits(1);
    assert_eq!(client.message(false).await.unwrap().text(), "late");
}

#[tokio::test]
async fn who_is_slow_to_send_takes_no_place_from_others() {
    let (svc, arrived, gate) = gated();
    let proxy = proxy(ServerConfig { max_concurrent_requests: Some(1), ..ServerConfig::default() }, svc);
    let mut slow = Wire::connect(proxy.addr).await;
    // Its body is being read when it is told to go on.
    slow.write("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    assert_eq!(slow.head().await.unwrap().status(), 100);
    let mut client = Wire::connect(proxy.addr).await;
    client.write(GET).await;
    arrived.notified().await;
    // What is full says so before it reads, and after.
    let mut other = Wire::connect(proxy.addr).await;
    other.write("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\n").await;
    assert_eq!(other.message(false).await.unwrap().get("finagle-http-nack"), Some("true"));
    slow.write("abc").await;
    assert_eq!(slow.message(false).await.unwrap().get("finagle-http-nack"), Some("true"));
    gate.add_permits(2);
    assert_eq!(client.message(false).await.unwrap().text(), "late");
    let mut slow = Wire::connect(proxy.addr).await;
    assert_eq!(slow.ask("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc").await.text(), "late");
}

#[tokio::test]
async fn the_time_of_a_request_begins_before_its_body_is_read() {
    let proxy = proxy(ServerConfig { timeout: Some(Duration::from_millis(30)), ..ServerConfig::default() }, ok());
    let mut client = Wire::connect(proxy.addr).await;
    client.write(HALVES[1]).await;
    let rsp = tokio::time::timeout(Duration::from_secs(20), client.message(false)).await.unwrap().unwrap();
    assert_eq!((rsp.status(), rsp.get("connection")), (503, Some("close")));
    assert!(rsp.text().starts_with("exceeded 30.milliseconds to 127.0.0.1/"), "{}", rsp.text());
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn higher_limits_take_longer_heads_and_more_headers_both_ways() {
    let many: String = (0..150).flat_map(|n| ["X-".to_owned(), n.to_string(), ": v\r\n".to_owned()]).collect();
    let long = format!("X-Long: {}\r\n", "v".repeat(600 * 1024));
    for (kb, headers, name) in [(16, many, "x-149"), (1000, long, "x-long")] {
        let rsp = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{headers}\r\nok");
        let req = format!("GET / HTTP/1.1\r\nHost: web\r\n{headers}\r\n");
        for (kb, passes) in [(kb, true), (8, false)] {
            let mut backend = Backend::new().await;
            let client = ClientConfig { max_header_bytes: kb * 1024, ..ClientConfig::default() };
            let server = ServerConfig { max_header_bytes: kb * 1024, ..ServerConfig::default() };
            let proxy = proxy(server, endpoint(backend.addr, client));
            let mut wire = Wire::connect(proxy.addr).await;
            if !passes {
                // It may be refused, and the connection reset, before all of it is written.
                let _ = wire.stream.write_all(req.as_bytes()).await;
                assert!(wire.message(false).await.is_none_or(|rsp| rsp.status() == 431), "{name}");
                wire = Wire::connect(proxy.addr).await;
            }
            wire.write(if passes { &req } else { GET }).await;
            let mut conn = backend.accept().await;
            let seen = conn.message(false).await.unwrap();
            assert_eq!(seen.get(name).is_some(), passes, "{name}");
            let _ = conn.stream.write_all(rsp.as_bytes()).await;
            let rsp = wire.message(false).await.unwrap();
            assert_eq!((rsp.status(), rsp.get(name).is_some()), (if passes { 200 } else { 502 }, passes), "{name}");
        }
    }
}

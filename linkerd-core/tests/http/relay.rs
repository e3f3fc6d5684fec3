//! What passes through the proxy, and what does not.

use std::sync::Arc;

use linkerd_core::{
    dtab::Endpoint,
    http::{ClientConfig, Connect, HttpConnect, ServerConfig},
    telemetry::{Registry, RouterStats},
};

use super::peers::{Backend, Message, Wire, endpoint, proxy, through};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn names(headers: &[(String, String)]) -> Vec<&str> {
    let mut names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).filter(|&name| name != "date").collect();
    names.sort_unstable();
    names
}

/// Sends one request through a proxy with all defaults; returns what the endpoint saw and what the client got.
async fn relay(req: &str, answer: &'static str) -> (Message, Message) {
    let (addr, seen) = Backend::answering([answer]).await;
    let (mut client, _proxy) = through(addr).await;
    let rsp = client.ask(req).await;
    let mut seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1, "{rsp:?}");
    (seen.remove(0), rsp)
}

#[tokio::test]
async fn a_get_arrives_with_these_headers_and_no_others() {
    let (seen, rsp) =
        relay("GET /a%2Fb?c=d HTTP/1.1\r\nHost: web\r\nX-One: 1\r\nX-One: 2\r\nX-L: caf\u{e9}\r\n\r\n", OK).await;
    assert_eq!(rsp.first, "HTTP/1.1 200 OK");
    assert_eq!(rsp.text(), "ok");
    assert_eq!(names(&rsp.headers), ["content-length", "via"]);
    assert_eq!(rsp.get("via"), Some("1.1 linkerd"));
    assert_eq!(seen.first, "GET /a%2Fb?c=d HTTP/1.1");
    assert_eq!(names(&seen.headers), ["content-length", "host", "via", "x-l", "x-one", "x-one"]);
    assert_eq!(seen.get("content-length"), Some("0"));
    assert_eq!(seen.all("x-one"), ["1", "2"]);
    assert_eq!(seen.get("x-l"), Some("caf\u{e9}"));
}

#[tokio::test]
async fn only_a_body_that_was_read_whole_is_marked_so() {
    let (seen, _) = relay("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello", OK).await;
    assert_eq!(seen.text(), "hello");
    assert_eq!(seen.all("finagle-http-retryable-request"), [""]);
    let long = "x".repeat(5 * 1024 + 1);
    let req = format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    let (seen, _) = relay(&req, OK).await;
    assert_eq!(seen.text(), long);
    assert_eq!(names(&seen.headers), ["content-length", "host", "via"]);
}

#[tokio::test]
async fn a_chunked_request_is_chunked_on_the_other_side_with_the_trailers_it_announced() {
    let req = "GET / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
               5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-T: v\r\nX-U: w\r\n\r\n";
    let (seen, _) = relay(req, OK).await;
    assert_eq!(seen.text(), "hello world");
    assert_eq!(seen.get("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.trailers, [("x-t".to_owned(), "v".to_owned())]);
    assert_eq!(names(&seen.headers), ["host", "trailer", "transfer-encoding", "via"]);
}

#[tokio::test]
async fn trailers_of_a_response_reach_a_client_that_takes_them() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
                  5\r\nhello\r\n0\r\nX-T: v\r\nX-U: w\r\n\r\n";
    let (seen, rsp) = relay("GET / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nConnection: TE\r\n\r\n", answer).await;
    assert_eq!(names(&seen.headers), ["content-length", "host", "via"]);
    assert_eq!((rsp.text(), rsp.get("trailer")), ("hello", Some("X-T")));
    assert_eq!(rsp.trailers, [("x-t".to_owned(), "v".to_owned())]);

    let (_, rsp) = relay("GET / HTTP/1.1\r\nHost: web\r\n\r\n", answer).await;
    assert_eq!((rsp.text(), rsp.get("trailer")), ("hello", None));
    assert!(rsp.trailers.is_empty() && rsp.is_whole);
}

#[tokio::test]
async fn what_ends_at_a_hop_ends_here() {
    let (seen, rsp) = relay(
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: X-Foo, keep-alive\r\nConnection: Host\r\nX-Foo: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authorization: x\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nTrailer: X-T\r\n\
         Upgrade: h2c\r\nX-Keep: yes\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: X-Bar\r\nX-Bar: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
         Trailer: X-T\r\nUpgrade: h2c\r\nX-Keep: yes\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(names(&seen.headers), ["content-length", "host", "proxy-connection", "via", "x-keep"]);
    assert_eq!(names(&rsp.headers), ["content-length", "keep-alive", "via", "x-keep"]);
}

#[tokio::test]
async fn via_grows_into_one_header() {
    let (seen, rsp) = relay(
        "GET / HTTP/1.1\r\nHost: web\r\nVia: 1.1 a\r\nVia: 1.1 b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nVia: 1.1 up\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(seen.all("via"), ["1.1 a, 1.1 b, 1.1 linkerd"]);
    assert_eq!(rsp.all("via"), ["1.1 up, 1.1 linkerd"]);
}

#[tokio::test]
async fn an_absolute_target_names_the_host_and_becomes_a_path() {
    for (target, host, path) in [
        ("http://web/p/q?r=s", "web", "/p/q?r=s"),
        ("http://web:80/x%2Fy", "web:80", "/x%2Fy"),
        ("http://web", "web", "/"),
        ("http://web?x=%2F", "web", "/?x=%2F"),
        ("https://u:pw@web/p", "web", "/p"),
    ] {
        let (seen, _) = relay(&format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n"), OK).await;
        assert_eq!(seen.first, format!("GET {path} HTTP/1.1"), "{target}");
        assert_eq!(seen.all("host"), [host], "{target}");
    }
    let (seen, _) = relay("GET /p?u=http://x/y HTTP/1.1\r\nHost: web\r\n\r\n", OK).await;
    assert_eq!(seen.first, "GET /p?u=http://x/y HTTP/1.1");
    let (seen, _) = relay("OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n", OK).await;
    assert_eq!(seen.first, "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn a_request_without_host_gets_an_empty_one_in_1_1_only() {
    let (seen, _) = relay("GET / HTTP/1.1\r\n\r\n", OK).await;
    assert_eq!(seen.all("host"), [""]);
    let (seen, _) = relay("GET / HTTP/1.0\r\n\r\n", OK).await;
    assert_eq!(seen.get("host"), None);
}

#[tokio::test]
async fn a_1_0_client_is_forwarded_in_1_0_and_gets_no_chunks() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (addr, seen) = Backend::answering([answer, OK]).await;
    let (mut client, proxy) = through(addr).await;
    let rsp = client.ask("GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!((rsp.text(), rsp.get("transfer-encoding"), rsp.get("connection")), ("hello", None, Some("close")));
    assert_eq!(rsp.first, "HTTP/1.0 200 OK");
    assert_eq!(seen.lock().unwrap()[0].first, "GET / HTTP/1.0");
    assert_eq!(seen.lock().unwrap()[0].get("via"), Some("1.0 linkerd"));
    assert_eq!(names(&seen.lock().unwrap()[0].headers), ["content-length", "host", "via"]);

    let mut client = Wire::connect(proxy.addr).await;
    for _ in 0..2 {
        let rsp = client.ask("GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!((rsp.text(), rsp.get("connection")), ("ok", Some("keep-alive")));
    }
    let rsp = client.ask("GET / HTTP/1.0\r\nHost: web\r\n\r\n").await;
    assert_eq!((rsp.text(), rsp.get("connection")), ("ok", Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_1_0_endpoint_answers_a_1_1_client_in_1_1_with_a_length() {
    for answer in ["HTTP/1.0 200 OK\r\n\r\nhello", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"] {
        let (addr, seen) = Backend::answering([answer]).await;
        let (mut client, _proxy) = through(addr).await;
        for _ in 0..2 {
            let rsp = client.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
            assert_eq!(rsp.first, "HTTP/1.1 200 OK");
            assert_eq!(
                (rsp.text(), rsp.get("content-length"), rsp.get("via")),
                ("hello", Some("5"), Some("1.0 linkerd"))
            );
            assert_eq!(rsp.get("connection"), None);
        }
        // The second request went out like the first.
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0], seen[1]);
    }
}

#[tokio::test]
async fn a_long_1_0_response_without_a_length_is_streamed() {
    let mut backend = Backend::new().await;
    let (mut client, _proxy) = through(backend.addr).await;
    client.write("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    conn.write("HTTP/1.0 200 OK\r\n\r\n").await;
    conn.write("x".repeat(10_000)).await;
    let head = client.head().await.unwrap();
    assert_eq!(head.get("transfer-encoding"), Some("chunked"));
    drop(conn);
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    for (req, answer, length) in [
        ("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n", head, Some("9")),
        ("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: web\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: web\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", None),
    ] {
        let (addr, seen) = Backend::answering([answer]).await;
        let (mut client, _proxy) = through(addr).await;
        for _ in 0..2 {
            let is_head = req.starts_with("HEAD");
            client.write(req).await;
            let rsp = client.message(is_head).await.unwrap();
            assert_eq!((rsp.get("content-length"), rsp.get("transfer-encoding")), (length, None), "{answer}");
        }
        assert_eq!(seen.lock().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn reasons_are_the_standard_ones() {
    for (answer, first) in [
        ("HTTP/1.1 200 Fine By Me\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 418 x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 418 Client Error (418)"),
        ("HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 599 Server Error (599)"),
        ("HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large"),
    ] {
        let (_, rsp) = relay("GET / HTTP/1.1\r\nHost: web\r\n\r\n", answer).await;
        assert_eq!(rsp.first, first);
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_dropped() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (_, rsp) = relay("GET / HTTP/1.1\r\nHost: web\r\n\r\n", answer).await;
    assert_eq!((rsp.text(), rsp.get("content-length")), ("hello", None));
    let req = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (seen, _) = relay(req, OK).await;
    assert_eq!((seen.text(), seen.get("content-length")), ("hello", None));
}

#[tokio::test]
async fn a_megabyte_passes_both_ways_and_back_pressure_too() {
    const LEN: usize = 1024 * 1024;
    let mut backend = Backend::new().await;
    let (mut client, _proxy) = through(backend.addr).await;
    let server = tokio::spawn(async move {
        let mut conn = backend.accept().await;
        let req = conn.message(false).await.unwrap();
        let body = req.body;
        conn.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        conn.write(&body).await;
    });
    let body: Vec<u8> = (0..LEN).map(|n| (n % 251) as u8).collect();
    client.write(format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {LEN}\r\n\r\n")).await;
    client.write(&body).await;
    let rsp = client.message(false).await.unwrap();
    assert!(rsp.body == body, "{} bytes of {LEN}", rsp.body.len());
    server.await.unwrap();

    // An endpoint that reads nothing stops the client: what is in between has bounds.
    let mut backend = Backend::new().await;
    let (mut client, _proxy) = through(backend.addr).await;
    client.write("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut conn = backend.accept().await;
    conn.head().await.unwrap();
    client.write(format!("{:x}\r\n", 64 * LEN)).await;
    let (mut written, mut blocked) = (0, 0);
    while blocked < 2000 && written < 64 * LEN {
        match client.stream.try_write(&body) {
            Ok(n) => (written, blocked) = (written + n, 0),
            Err(_) => blocked += 1,
        }
        tokio::task::yield_now().await;
    }
    assert!(written < 32 * LEN, "{written} bytes are on their way");
}

#[tokio::test]
async fn a_response_that_breaks_off_at_once_begins_all_the_same() {
    // What ends without a byte of an answer passes for a connection that was closed before the request came.
    for answer in
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nx"]
    {
        let mut backend = Backend::new().await;
        let (mut client, _proxy) = through(backend.addr).await;
        client.write("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
        let mut conn = backend.accept().await;
        conn.message(false).await.unwrap();
        conn.write(answer).await;
        drop(conn);
        let rsp = client.message(false).await.expect("the head of a response");
        assert_eq!((rsp.status(), rsp.is_whole), (200, false));
    }
}

#[tokio::test]
async fn chunks_are_passed_on_as_they_come() {
    let mut backend = Backend::new().await;
    let (mut client, _proxy) = through(backend.addr).await;
    client.write("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    let mut conn = backend.accept().await;
    assert!(conn.head().await.is_some());
    assert_eq!(conn.line().await.as_deref(), Some("5"));
    assert_eq!(conn.line().await.as_deref(), Some("first"));
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    // The response before the request's end.
    assert_eq!(client.head().await.unwrap().status(), 200);
    assert_eq!(client.line().await.as_deref(), Some("3"));
    assert_eq!(client.line().await.as_deref(), Some("one"));
    client.write("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(conn.line().await.as_deref(), Some("4"));
    assert_eq!(conn.line().await.as_deref(), Some("last"));
    assert_eq!(conn.line().await.as_deref(), Some("0"));
    conn.write("0\r\n\r\n").await;
    assert_eq!(client.line().await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_from_here() {
    for len in [9000, 5] {
        let (addr, seen) = Backend::answering([OK]).await;
        let (mut client, _proxy) = through(addr).await;
        client
            .write(format!("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: {len}\r\n\r\n"))
            .await;
        assert_eq!(client.message(false).await.unwrap().first, "HTTP/1.1 100 Continue");
        client.write("x".repeat(len)).await;
        assert_eq!(client.message(false).await.unwrap().text(), "ok");
        let seen = seen.lock().unwrap();
        assert_eq!((seen[0].body.len(), seen[0].get("expect")), (len, None));
    }
}

#[tokio::test]
async fn interim_responses_do_not_pass_for_the_answer() {
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (_, rsp) = relay("GET / HTTP/1.1\r\nHost: web\r\n\r\n", answer).await;
    assert_eq!((rsp.status(), rsp.text(), rsp.get("link")), (200, "ok", None));
}

#[tokio::test]
async fn without_streaming_everything_is_read_whole() {
    let (addr, seen) = Backend::answering([
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nchunky\r\n5\r\n resp\r\n0\r\n\r\n",
    ])
    .await;
    let proxy = proxy(
        ServerConfig { aggregate_up_to: usize::MAX, ..ServerConfig::default() },
        endpoint(addr, ClientConfig { aggregate_up_to: usize::MAX, ..ClientConfig::default() }),
    );
    let mut client = Wire::connect(proxy.addr).await;
    let req = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let rsp = client.ask(req).await;
    assert_eq!((rsp.text(), rsp.get("content-length")), ("chunky resp", Some("11")));
    assert_eq!(rsp.get("transfer-encoding"), None);
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].text(), seen[0].get("content-length")), ("hello", Some("5")));
    assert_eq!(seen[0].get("transfer-encoding"), None);
    assert_eq!(seen[0].get("finagle-http-retryable-request"), Some(""));
}

#[tokio::test]
async fn without_streaming_what_is_too_long_is_streamed_after_all() {
    let (addr, seen) = Backend::answering([
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nchunky\r\n5\r\n resp\r\n0\r\n\r\n",
    ])
    .await;
    for (limit, is_whole) in [(11, true), (10, false), (1, false)] {
        let proxy = proxy(
            ServerConfig { aggregate_up_to: limit, aggregate_unknown: true, ..ServerConfig::default() },
            endpoint(addr, ClientConfig { aggregate_up_to: limit, aggregate_unknown: true, ..ClientConfig::default() }),
        );
        let mut client = Wire::connect(proxy.addr).await;
        // In two parts, so that it is known to be too long before it ends.
        client.write("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        client.write("6\r\nworld!\r\n0\r\n\r\n").await;
        let rsp = client.message(false).await.unwrap();
        assert_eq!((rsp.text(), rsp.get("transfer-encoding").is_none()), ("chunky resp", is_whole), "{limit}");
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen[0].text(), "helloworld!", "{limit}");
        // What was read whole can be sent again.
        assert_eq!(seen[0].get("finagle-http-retryable-request").is_some(), is_whole, "{limit}");
    }
}

#[tokio::test]
async fn a_folded_header_of_a_response_is_one_line() {
    let answer = "HTTP/1.1 200 OK\r\nX-Folded: one\r\n  two\r\nContent-Length: 2\r\n\r\nok";
    let (_, rsp) = relay("GET / HTTP/1.1\r\nHost: web\r\n\r\n", answer).await;
    assert_eq!((rsp.status(), rsp.text()), (200, "ok"));
    let words: Vec<_> = rsp.get("x-folded").unwrap().split_whitespace().collect();
    assert_eq!(words, ["one", "two"]);
}

#[tokio::test]
async fn what_is_dropped_is_counted() {
    const TRAILERS: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: v\r\n\r\n";
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    const POST: &str =
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nX-T: v\r\n\r\n";
    // What is asked, what is answered, whether all is read whole, and the counters of server and client.
    for (req, answer, whole, expected) in [
        (GET, OK, false, [None, None, None]),
        (GET, HINTS, false, [None, None, Some(4)]),
        (GET, TRAILERS, false, [Some(2), None, None]),
        (GET, TRAILERS, true, [None, Some(2), None]),
        (POST, OK, true, [Some(2), None, None]),
    ] {
        let registry = Registry::new();
        let stats = RouterStats::new(&registry, "http");
        let aggregate_up_to = if whole { usize::MAX } else { 5 };
        let (addr, _seen) = Backend::answering([answer]).await;
        let connect = HttpConnect::new(ClientConfig { aggregate_up_to, ..ClientConfig::default() });
        let svc = connect.connect_counted(&Endpoint::new(addr), &Arc::new(stats.client(&"/web".parse().unwrap())));
        let proxy = proxy(ServerConfig { aggregate_up_to, stats: Some(stats), ..ServerConfig::default() }, svc);
        let mut client = Wire::connect(proxy.addr).await;
        for _ in 0..2 {
            assert_eq!(client.ask(req).await.text(), "ok");
        }
        let root = registry.root().scope("rt").scope("http");
        let server = root.scope("server").scope(&format!("127.0.0.1/{}", proxy.addr.port()));
        let to = root.scope("client").scope("web");
        let counted = [(server, "dropped_trailers"), (to.clone(), "dropped_trailers"), (to, "dropped_interim")];
        let counted = counted.map(|(scope, name)| Some(scope.counter(name).get()).filter(|&n| n > 0));
        assert_eq!(counted, expected, "{req}{answer}");
    }
}

#[tokio::test]
async fn trailers_say_nothing_that_a_head_may_not() {
    let req = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\
               Trailer: X-T, X-Forwarded-Client-Cert, L5d-Ctx-Dtab, L5d-Own\r\n\r\n2\r\nhi\r\n0\r\nX-T: v\r\n\
               X-Forwarded-Client-Cert: Hash=1\r\nL5d-Ctx-Dtab: /svc=>/other\r\nL5d-Own: 1\r\n\r\n";
    for (clear_context, expected) in [(false, &["l5d-own", "x-t"][..]), (true, &["x-t"])] {
        let (addr, seen) = Backend::answering([OK]).await;
        let config = ServerConfig { clear_context, ..ServerConfig::default() };
        let proxy = proxy(config, endpoint(addr, ClientConfig::default()));
        assert_eq!(Wire::connect(proxy.addr).await.ask(req).await.status(), 200);
        let seen = seen.lock().unwrap();
        assert_eq!((seen[0].text(), names(&seen[0].trailers)), ("hi", expected.to_vec()), "{clear_context}");
    }
}

#[tokio::test]
async fn a_host_that_is_said_twice_is_one() {
    for (req, host) in [
        ("GET / HTTP/1.1\r\nHost: web\r\nX-A: 1\r\nHost: web\r\n\r\n", "web"),
        ("GET http://web/ HTTP/1.1\r\nHost: other\r\nHost: other\r\n\r\n", "web"),
    ] {
        let (seen, _) = relay(req, OK).await;
        assert_eq!(seen.all("host"), [host], "{req}");
    }
}

/// The lines of a head as they came, in lines of their own.
async fn lines(wire: &mut Wire) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(line) = wire.line().await.filter(|line| !line.is_empty()) {
        lines.push(line);
    }
    lines
}

#[tokio::test]
async fn names_of_headers_keep_their_case_where_that_is_wanted() {
    for preserve_header_case in [false, true] {
        let mut backend = Backend::new().await;
        let client = ClientConfig { preserve_header_case, ..ClientConfig::default() };
        let server = ServerConfig { preserve_header_case, ..ServerConfig::default() };
        let proxy = proxy(server, endpoint(backend.addr, client));
        let mut client = Wire::connect(proxy.addr).await;
        let mut conn = None;
        // The second one on a connection that was used, of which a copy is kept.
        for _ in 0..2 {
            client.write("GET / HTTP/1.1\r\nHOST: web\r\nX-One: 1\r\nx-oNE: 2\r\nVIA: 1.1 a\r\nConnection: X-Gone\r\nX-Gone: 1\r\n\r\n").await;
            let conn = match &mut conn {
                Some(conn) => conn,
                None => conn.insert(backend.accept().await),
            };
            let mut sent =
                ["GET / HTTP/1.1", "HOST: web", "VIA: 1.1 a, 1.1 linkerd", "X-One: 1", "content-length: 0", "x-oNE: 2"];
            let mut seen = lines(conn).await;
            seen.sort_unstable();
            conn.write("HTTP/1.1 200 OK\r\nContent-LENGTH: 0\r\nETag: a\r\n\r\n").await;
            let mut answered = lines(&mut client).await;
            answered.retain(|line| !line.to_ascii_lowercase().starts_with("date:"));
            answered.sort_unstable();
            let mut answer = ["Content-LENGTH: 0", "ETag: a", "HTTP/1.1 200 OK", "via: 1.1 linkerd"];
            if !preserve_header_case {
                sent = [
                    "GET / HTTP/1.1",
                    "content-length: 0",
                    "host: web",
                    "via: 1.1 a, 1.1 linkerd",
                    "x-one: 1",
                    "x-one: 2",
                ];
                answer = ["HTTP/1.1 200 OK", "content-length: 0", "etag: a", "via: 1.1 linkerd"];
            }
            assert_eq!((seen, answered), (sent.map(str::to_owned).to_vec(), answer.map(str::to_owned).to_vec()));
        }
    }
}

#[tokio::test]
async fn names_keep_their_case_with_bodies_interim_answers_and_one_behind_the_other() {
    let mut backend = Backend::new().await;
    let client = ClientConfig { preserve_header_case: true, ..ClientConfig::default() };
    let server = ServerConfig { preserve_header_case: true, ..ServerConfig::default() };
    let proxy = proxy(server, endpoint(backend.addr, client));
    let mut client = Wire::connect(proxy.addr).await;
    client.write("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 12\r\n\r\nx-a: b\r\n\r\nab").await;
    let mut conn = backend.accept().await;
    let seen = lines(&mut conn).await;
    assert!(seen.contains(&"Host: web".to_owned()) && seen.contains(&"Content-Length: 12".to_owned()), "{seen:?}");
    assert_eq!(lines(&mut conn).await, ["x-a: b"]);
    assert_eq!(conn.rest(2).await, "ab");
    conn.write("HTTP/1.1 103 Early\r\nLINK: a\r\n\r\nHTTP/1.1 200 OK\r\nETag: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    conn.write("8\r\nx-c: d\r\n\r\n0\r\n\r\n").await;
    let answer = lines(&mut client).await;
    assert!(answer.contains(&"ETag: a".to_owned()), "{answer:?}");
    assert_eq!(client.rest(18).await, "8\r\nx-c: d\r\n\r\n0\r\n\r\n");
    // The second one comes before the first is answered.
    client.write("GET /1 HTTP/1.1\r\nHOST: web\r\n\r\nGET /2 HTTP/1.1\r\nhosT: web\r\nX-Bb: c\r\n\r\n").await;
    for (host, own) in [("HOST: web", None), ("hosT: web", Some("X-Bb: c"))] {
        let seen = lines(&mut conn).await;
        assert!(seen.contains(&host.to_owned()), "{seen:?}");
        assert!(own.is_none_or(|own| seen.contains(&own.to_owned())), "{seen:?}");
        conn.write(format!("HTTP/1.1 204 No\r\nX-Echo: {host}\r\n\r\n")).await;
        let answer = lines(&mut client).await;
        assert!(answer.contains(&format!("X-Echo: {host}")), "{answer:?}");
    }
}

//! The limits of a server: what is too much, what came too late, and that each is counted.

use std::time::Duration;

use futures::future::join_all;
use http::Response;
use http_body_util::BodyExt;
use linkerd_core::{
    Body, BoxError, Svc,
    http::{Server, ServerConfig},
    telemetry::{Registry, RouterStats},
};
use tower::service_fn;

use super::{
    counted::Counted,
    peers::Wire,
    server::{gated, saying},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
/// What a test sets where it waits for the time to be over, and what it allows where it must not be.
const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);
/// What parts of a head come within, however busy the machine is.
const WHILE: Duration = Duration::from_secs(5);
const LONGER: Duration = Duration::from_secs(6);

impl Counted {
    fn http(config: ServerConfig, svc: Svc) -> Self {
        Self::new("http", config, svc)
    }

    fn late(limit: Duration, svc: Svc) -> Self {
        Self::http(ServerConfig { header_read_timeout: Some(limit), ..ServerConfig::default() }, svc)
    }

    async fn client(&self) -> Wire {
        Wire::connect(self.addr).await
    }
}

/// One that answers with what it was sent.
fn echo() -> Svc {
    Svc::new(service_fn(async |req: http::Request<Body>| Ok::<_, BoxError>(Response::new(req.into_body()))))
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, wait).await.expect("it takes too long")
}

/// It is answered by a 408, and that is all.
async fn is_told_that_it_is_late(client: &mut Wire) {
    let rsp = within(client.message(false)).await.expect("an answer");
    assert_eq!((rsp.status(), rsp.get("connection"), rsp.text()), (408, Some("close"), ""));
    assert!(within(client.is_closed()).await);
}

#[tokio::test]
async fn a_head_that_does_not_end_in_time_is_answered_with_408() {
    let server = Counted::late(SOON, saying("ok"));
    for (i, half) in ["G", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost: web\r\n"].into_iter().enumerate() {
        // The first request of a connection, and a later one.
        for (j, before) in ["", GET].into_iter().enumerate() {
            let mut client = server.client().await;
            if !before.is_empty() {
                assert_eq!(client.ask(before).await.text(), "ok");
            }
            client.write(half).await;
            is_told_that_it_is_late(&mut client).await;
            assert_eq!(server.refused("late_head"), (2 * i + j + 1) as u64, "{half}");
        }
    }
    assert_eq!(server.count("requests"), 3);
}

#[tokio::test]
async fn a_byte_now_and_then_makes_no_head_of_any_length() {
    let server = Counted::late(4 * SOON, saying("ok"));
    let mut client = server.client().await;
    client.write("GET / HTTP/1.1\r\nHost: web\r\nX: ").await;
    let mut answer = None;
    for _ in 0..2000 {
        // It may be closed by now.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"x").await;
        if let Ok(rsp) = tokio::time::timeout(SOON / 10, client.message(false)).await {
            answer = rsp;
            break;
        }
    }
    // What it wrote after the answer may have cut that off.
    assert!(answer.is_none_or(|rsp| rsp.status() == 408));
    assert_eq!(server.refused("late_head"), 1);
}

#[tokio::test]
async fn who_is_idle_or_waits_or_sends_a_body_is_not_late() {
    let (slow, arrived, gate) = gated();
    let server = Counted::late(SOON, slow);
    let mut idle = server.client().await;
    let mut client = server.client().await;
    client.write(GET).await;
    arrived.notified().await;
    // It waits for its answer.
    tokio::time::timeout(3 * SOON, client.head()).await.unwrap_err();
    gate.add_permits(10);
    assert_eq!(within(client.message(false)).await.unwrap().text(), "late");
    // It is idle after one, and the other one before any.
    tokio::time::timeout(3 * SOON, client.head()).await.unwrap_err();
    assert_eq!(client.ask(GET).await.text(), "late");
    assert_eq!(idle.ask(GET).await.text(), "late");
    // Of a body that is read whole first, and one that passes as it comes, something is missing.
    let server = Counted::late(SOON, echo());
    for framing in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        let (first, rest) = if framing.starts_with('C') { ("ab", "cd") } else { ("4\r\nab", "cd\r\n0\r\n\r\n") };
        let mut client = server.client().await;
        client.write(format!("POST / HTTP/1.1\r\nHost: web\r\n{framing}\r\n\r\n{first}")).await;
        let _ = tokio::time::timeout(3 * SOON, std::future::pending::<()>()).await;
        client.write(rest).await;
        assert_eq!(within(client.message(false)).await.unwrap().text(), "abcd", "{framing}");
    }
    assert_eq!(server.refused("late_head"), 0);
}

#[tokio::test]
async fn a_head_in_pieces_is_one_within_the_time_and_any_time_without_a_limit() {
    let wait = async || drop(tokio::time::timeout(3 * SOON, std::future::pending::<()>()).await);
    let none = ServerConfig { header_read_timeout: None, ..ServerConfig::default() };
    for config in [ServerConfig::default(), none] {
        let server = Counted::http(config, saying("ok"));
        let mut client = server.client().await;
        for (first, rest) in [("GET / HT", "TP/1.1\r\nHost: web\r\n\r\n"), (GET.trim_end_matches('\n'), "\n")] {
            client.write(first).await;
            wait().await;
            assert_eq!(within(client.ask(rest)).await.text(), "ok");
        }
    }
}

/// One that reads all that it is sent.
fn reading() -> Svc {
    Svc::new(service_fn(async |req: http::Request<Body>| {
        req.into_body().collect().await?;
        Ok::<_, BoxError>(Response::new(Body::from("ok")))
    }))
}

/// Requests with a body and without, each in its parts.
const REQUESTS: [&[&str]; 11] = [
    &[GET],
    &["GET / HTTP/1.1\r\n", "Host: web\r\n\r", "\n"],
    &["POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody"],
    &["POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r", "\nbo", "\n\n"],
    &["POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"],
    // What ends lines may be less, and stand before a message.
    &["POST / HTTP/1.1\nHost: web\nContent-Length: 4\n\nbody"],
    &["POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\nbody\r\n"],
    &["\r\n", "\r\nPOST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody"],
    &["GET / HTTP/1.1\nHost: web\n", "\n\r\n"],
    // A body that ends as a head does.
    &["POST / HTTP/1.1\nHost: web\nContent-Length: 20\n\n123456789-1234567\n\r\n"],
    &["POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\nbody\r\n0\r\na: b\r\n\r", "\n"],
];

async fn send(client: &mut Wire, parts: &[&str]) {
    for part in parts {
        client.write(*part).await;
        // Mostly they are read one by one then; what is tested holds in any case.
        tokio::time::sleep(SOON / 20).await;
    }
}

#[tokio::test]
async fn the_time_of_what_came_with_the_request_before_begins_after_its_answer() {
    let server = Counted::late(WHILE, reading());
    let all = REQUESTS.iter().flat_map(|parts| [(*parts, ""), (*parts, GET)]).map(async |(parts, before)| {
        let (last, first) = parts.split_last().unwrap();
        let mut client = server.client().await;
        client.write(before).await;
        send(&mut client, first).await;
        client.write(format!("{last}GET / HT")).await;
        for _ in 0..=before.len().min(1) {
            assert_eq!(within(client.message(false)).await.unwrap().text(), "ok", "{before}{parts:?}");
        }
        is_told_that_it_is_late(&mut client).await;
    });
    join_all(all).await;
    assert_eq!(server.refused("late_head"), 2 * REQUESTS.len() as u64);
}

#[tokio::test]
async fn who_sent_whole_requests_may_be_idle() {
    let server = Counted::late(WHILE, reading());
    join_all(REQUESTS.iter().map(async |parts| {
        let mut client = server.client().await;
        for wait in [SOON, LONGER] {
            send(&mut client, parts).await;
            assert_eq!(within(client.message(false)).await.unwrap().text(), "ok", "{parts:?}");
            tokio::time::timeout(wait, client.head()).await.unwrap_err();
        }
        // Several at once.
        client.write(parts.concat() + GET + GET).await;
        for _ in 0..3 {
            assert_eq!(within(client.message(false)).await.unwrap().text(), "ok", "{parts:?}");
        }
        tokio::time::timeout(LONGER, client.head()).await.unwrap_err();
    }))
    .await;
    assert_eq!(server.refused("late_head"), 0);
}

#[tokio::test]
async fn an_answer_on_its_way_out_is_not_mixed_with_a_408() {
    let size = 32 * 1024 * 1024;
    let server = Counted::late(
        SOON,
        Svc::new(service_fn(move |_| async move {
            Ok::<_, BoxError>(Response::new(Body::from(bytes::Bytes::from(vec![b'a'; size]))))
        })),
    );
    let mut client = server.client().await;
    for part in [GET, "GET / HT"] {
        client.write(part).await;
        tokio::time::timeout(3 * SOON, std::future::pending::<()>()).await.unwrap_err();
    }
    let rsp = within(client.message(false)).await.unwrap();
    assert_eq!((rsp.status(), rsp.body.len(), rsp.is_whole), (200, size, true));
    assert!(rsp.body.iter().all(|byte| *byte == b'a'));
    is_told_that_it_is_late(&mut client).await;
    assert_eq!(server.refused("late_head"), 1);
}

#[tokio::test]
async fn more_headers_than_may_be_are_431() {
    let asking = |count: usize| format!("GET / HTTP/1.1\r\nHost: web\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    for (max, most) in [(Some(3), 3), (None, 100), (Some(200), 200)] {
        let server = Counted::http(ServerConfig { max_headers: max, ..ServerConfig::default() }, saying("ok"));
        assert_eq!(server.client().await.ask(asking(most)).await.status(), 200, "{max:?}");
        let mut client = server.client().await;
        assert_eq!(client.ask(asking(most + 1)).await.status(), 431, "{max:?}");
        assert!(client.is_closed().await);
        assert_eq!((server.refused("headers_too_large"), server.count("requests")), (1, 1), "{max:?}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_counted_by_what_is_wrong_with_it() {
    let of_ours = format!("GET /{} HTTP/1.1\r\nHost: web\r\n\r\n", "a".repeat(4200));
    let of_hyper = format!("GET /{} HTTP/1.1\r\nHost: web\r\n\r\n", "a".repeat(66_000));
    // hyper looks at the line when the head is whole, and takes no more than some 400 KiB of one.
    let of_any_length = format!("GET /{} HTTP/1.1\r\nHost: web\r\n\r\n", "a".repeat(2 << 20));
    let large = format!("GET / HTTP/1.1\r\nHost: web\r\nX-Big: {}\r\n\r\n", "b".repeat(9000));
    for (req, status, name) in [
        (of_ours.as_str(), 414, "line_too_long"),
        (&of_hyper, 414, "line_too_long"),
        (&of_any_length, 431, "headers_too_large"),
        (&large, 431, "headers_too_large"),
        ("GARBAGE\r\n\r\n", 400, "bad_request"),
        ("GET /caf\u{e9} HTTP/1.1\r\nHost: web\r\n\r\n", 400, "bad_request"),
        ("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nzz", 400, "bad_request"),
    ] {
        let config = ServerConfig { aggregate_unknown: true, ..ServerConfig::default() };
        let server = Counted::http(config, saying("ok"));
        let mut client = server.client().await;
        assert_eq!(client.ask(req).await.status(), status, "{req:.60}");
        assert!(client.is_closed().await, "{req:.60}");
        server.has_refused(&[(name, 1)]).await;
    }
}

/// Whether nobody answers for now.
async fn waits(client: &mut Wire) -> bool {
    tokio::time::timeout(SOON, client.head()).await.is_err()
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_ends_or_the_limit_is_raised() {
    let registry = Registry::new();
    let config = |max| ServerConfig {
        addr: ([127, 0, 0, 1], 0).into(),
        max_connections: Some(max),
        stats: Some(RouterStats::new(&registry, "http")),
        ..ServerConfig::default()
    };
    let live = Server::bind(config(2)).unwrap().live(saying("ok"));
    let control = live.control();
    let addr = control.local_addr();
    tokio::spawn(live.serve_until(std::future::pending()));
    let server = Counted::at(addr, "http", registry.clone());
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Wire::connect(addr).await);
    }
    // They wait in the backlog, in order.
    let [first, second, third, fourth] = &mut clients[..] else { unreachable!() };
    for client in [first, second] {
        assert_eq!(within(client.ask(GET)).await.text(), "ok");
    }
    third.write(GET).await;
    fourth.write(GET).await;
    assert!(waits(third).await && waits(fourth).await);
    assert_eq!((server.count("full_pauses"), server.count("connects"), server.count("accept_pauses")), (1, 2, 0));

    drop(clients.remove(0));
    assert_eq!(within(clients[1].message(false)).await.unwrap().text(), "ok");
    assert!(waits(&mut clients[2]).await);
    assert_eq!(server.count("full_pauses"), 2);

    control.replace(saying("ok"), config(3));
    assert_eq!(within(clients[2].message(false)).await.unwrap().text(), "ok");
    for client in &mut clients {
        assert_eq!(within(client.ask(GET)).await.text(), "ok");
    }
}

#[tokio::test]
async fn connections_that_were_idle_or_old_are_counted_as_that() {
    let idle = ServerConfig { idle_time: Some(SOON), ..ServerConfig::default() };
    let old = ServerConfig { life_time: Some(SOON), ..ServerConfig::default() };
    for (config, counts) in [(idle, (1, 0)), (old, (0, 1))] {
        let server = Counted::http(config, saying("ok"));
        let mut client = server.client().await;
        assert!(within(client.is_closed()).await);
        assert_eq!((server.count("idle_time"), server.count("life_time")), counts);
    }
}

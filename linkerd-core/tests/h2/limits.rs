//! The limits of a server of HTTP/2, frame by frame: what is too much, what came too late, and that each is counted.

use std::time::Duration;

use http_body_util::BodyExt;
use linkerd_core::{
    Svc,
    http::{H2Config, ServerConfig, Wire},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    counted::Counted,
    framing::{Answer, START, answer, field, frame},
    peers::{h2_server, within},
};

const SOON: Duration = Duration::from_millis(50);
const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;
const PROTOCOL_ERROR: u32 = 1;
const INTERNAL_ERROR: u32 = 2;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
/// Of no frame that there is.
const UNKNOWN: u8 = 0x21;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Counted {
    fn h2(config: ServerConfig, svc: Svc) -> Self {
        Self::new("h2", config, svc)
    }

    fn with(h2: H2Config, svc: Svc) -> Self {
        Self::h2(ServerConfig { wire: Wire::H2(h2), ..h2_server() }, svc)
    }

    fn late(h2: Wire, svc: Svc) -> Self {
        Self::h2(ServerConfig { wire: h2, header_read_timeout: Some(SOON), ..h2_server() }, svc)
    }

    /// A connection that has begun.
    async fn begin(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        send(&mut stream, &[PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])]).await;
        stream
    }

    /// It ends a connection on which something did not come in time, and says so.
    async fn ends_what_is_late(&self, stream: &mut TcpStream) {
        assert_eq!(within(answer(stream)).await, Answer::GoAway(ENHANCE_YOUR_CALM));
        assert_eq!(within(answer(stream)).await, Answer::Closed);
        self.has_refused(&[("late_head", 1)]).await;
    }
}

async fn send(stream: &mut TcpStream, frames: &[Vec<u8>]) {
    stream.write_all(&frames.concat()).await.unwrap();
}

/// The fields of a request, and more of them.
fn fields(more: &[(&[u8], &[u8])]) -> Vec<u8> {
    START.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

/// All of a request.
fn request(stream: u8, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(more))
}

/// Whether a response comes, whatever becomes of the rest of its request.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let mut said = within(answer(stream)).await;
    if said == Answer::Reset(0) {
        // Of the stream before: its body is not wanted.
        said = within(answer(stream)).await;
    }
    matches!(said, Answer::Head(_))
}

fn answering() -> Svc {
    Svc::new(tower::service_fn(async |_| Ok::<_, linkerd_core::BoxError>(http::Response::new("ok".into()))))
}

/// One that answers when it has read all.
fn reading() -> Svc {
    Svc::new(tower::service_fn(async |req: http::Request<linkerd_core::Body>| {
        let body = req.into_body().collect().await?.to_bytes();
        Ok::<_, linkerd_core::BoxError>(http::Response::new(body.into()))
    }))
}

fn hanging() -> Svc {
    Svc::new(tower::service_fn(|_| std::future::pending::<Result<_, linkerd_core::BoxError>>()))
}

#[tokio::test]
async fn a_block_of_headers_that_does_not_end_in_time_ends_its_connection() {
    let begun = frame(HEADERS, END_STREAM, 1, &fields(&[]));
    let went_on = [begun.clone(), frame(CONTINUATION, 0, 1, &field(b"x", b"y"))].concat();
    let cut = begun[..20].to_vec();
    let trailers = [frame(HEADERS, END_HEADERS, 1, &fields(&[])), frame(HEADERS, END_STREAM, 1, &field(b"x", b"y"))];
    for frames in [begun, went_on, cut, trailers.concat()] {
        for wire in [Wire::H2(H2Config::default()), Wire::Either(H2Config::default())] {
            let server = Counted::late(wire, hanging());
            let mut stream = server.begin().await;
            send(&mut stream, std::slice::from_ref(&frames)).await;
            server.ends_what_is_late(&mut stream).await;
        }
    }
}

#[tokio::test]
async fn what_a_connection_begins_with_has_its_time() {
    let no_settings = PREFACE.to_vec();
    let half_settings = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])[..12]].concat();
    let half_a_head = [PREFACE, &frame(SETTINGS, 0, 0, &[])[..5]].concat();
    for begun in [&b""[..], b"PR", &PREFACE[..10], &no_settings, &half_settings, &half_a_head] {
        for wire in [Wire::H2(H2Config::default()), Wire::Either(H2Config::default())] {
            if begun.is_empty() && matches!(wire, Wire::Either(_)) {
                // It may be one of HTTP/1, which has no reason to begin.
                continue;
            }
            let server = Counted::late(wire, hanging());
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            send(&mut stream, &[begun.to_vec()]).await;
            if begun.len() < 4 {
                // Nobody knows yet what it speaks.
                assert_eq!(within(answer(&mut stream)).await, Answer::Closed);
                server.has_refused(&[("late_head", 1)]).await;
            } else {
                server.ends_what_is_late(&mut stream).await;
            }
        }
    }
}

#[tokio::test]
async fn half_a_frame_has_its_time() {
    let request_of_a_body = frame(HEADERS, END_HEADERS, 1, &fields(&[]));
    let whole = request(1, &[]);
    for (before, half) in [
        (None, &frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])[..12]),
        (None, &frame(PING, 0, 0, &[0; 8])[..3]),
        (Some(&whole), &frame(PING, 0, 0, &[0; 8])[..9]),
        (Some(&whole), &frame(UNKNOWN, 0, 0, &[0; 100])[..50]),
        // Of a request that has had its answer.
        (Some(&request_of_a_body), &frame(DATA, END_STREAM, 1, &[0; 100])[..50]),
    ] {
        let server = Counted::late(Wire::H2(H2Config::default()), answering());
        let mut stream = server.begin().await;
        if let Some(before) = before {
            send(&mut stream, std::slice::from_ref(before)).await;
            assert!(is_answered(&mut stream).await);
        }
        send(&mut stream, &[half.to_vec()]).await;
        let mut said = within(answer(&mut stream)).await;
        if said == Answer::Reset(0) {
            // The body is not wanted.
            said = within(answer(&mut stream)).await;
        }
        assert_eq!(said, Answer::GoAway(ENHANCE_YOUR_CALM), "{half:?}");
        assert_eq!(within(answer(&mut stream)).await, Answer::Closed);
        server.has_refused(&[("late_head", 1)]).await;
    }
}

#[tokio::test]
async fn half_a_frame_of_data_may_take_any_time_while_its_request_is_served() {
    let wait = async || drop(tokio::time::timeout(4 * SOON, std::future::pending::<()>()).await);
    let server = Counted::late(Wire::H2(H2Config::default()), reading());
    let mut stream = server.begin().await;
    let body = frame(DATA, END_STREAM, 1, b"body");
    send(&mut stream, &[frame(HEADERS, END_HEADERS, 1, &fields(&[])), body[..9].to_vec()]).await;
    for byte in &body[9..] {
        wait().await;
        send(&mut stream, &[vec![*byte]]).await;
    }
    assert!(is_answered(&mut stream).await);
    server.has_refused(&[]).await;
    // When the time of its request is over, so is its own.
    let (wire, timeout) = (Wire::H2(H2Config::default()), Some(4 * SOON));
    let config = ServerConfig { wire, timeout, header_read_timeout: Some(SOON), ..h2_server() };
    let server = Counted::h2(config, hanging());
    let mut stream = server.begin().await;
    send(&mut stream, &[frame(HEADERS, END_HEADERS, 1, &fields(&[])), body[..11].to_vec()]).await;
    assert_eq!(within(answer(&mut stream)).await, Answer::Reset(INTERNAL_ERROR));
    server.ends_what_is_late(&mut stream).await;
}

#[tokio::test]
async fn a_byte_now_and_then_makes_no_block_of_any_length() {
    let server = Counted::h2(ServerConfig { header_read_timeout: Some(4 * SOON), ..h2_server() }, answering());
    let mut stream = server.begin().await;
    let most = frame(CONTINUATION, END_HEADERS, 1, &[0; 8000]);
    send(&mut stream, &[frame(HEADERS, END_STREAM, 1, &fields(&[]))]).await;
    for byte in most {
        // It may be closed by now.
        let _ = stream.write_all(&[byte]).await;
        if server.refused("late_head") == 1 {
            break;
        }
        let _ = tokio::time::timeout(SOON / 10, std::future::pending::<()>()).await;
    }
    server.has_refused(&[("late_head", 1)]).await;
}

#[tokio::test]
async fn who_is_idle_or_sends_a_body_is_not_late_and_blocks_in_pieces_are_whole_in_time() {
    for limit in [Some(SOON), None, Some(Duration::from_secs(30))] {
        let server = Counted::h2(ServerConfig { header_read_timeout: limit, ..h2_server() }, answering());
        let mut stream = server.begin().await;
        let wait = async || drop(tokio::time::timeout(3 * SOON, std::future::pending::<()>()).await);
        wait().await;
        send(&mut stream, &[frame(HEADERS, END_HEADERS, 1, &fields(&[]))]).await;
        assert!(is_answered(&mut stream).await);
        wait().await;
        send(&mut stream, &[frame(0, END_STREAM, 1, b"body")]).await;
        if limit != Some(SOON) {
            send(&mut stream, &[frame(HEADERS, END_STREAM, 3, &fields(&[]))]).await;
            wait().await;
            send(&mut stream, &[frame(CONTINUATION, END_HEADERS, 3, &field(b"x", b"y"))]).await;
            assert!(is_answered(&mut stream).await);
        }
        // Each has its own time.
        for id in [5, 7, 9] {
            wait().await;
            send(&mut stream, &[request(id, &[])]).await;
            assert!(is_answered(&mut stream).await);
        }
        server.has_refused(&[]).await;
    }
}

#[tokio::test]
async fn streams_above_the_limit_are_refused_and_counted() {
    let server = Counted::with(H2Config { max_concurrent_streams: 1, ..H2Config::default() }, hanging());
    let mut stream = server.begin().await;
    send(&mut stream, &[request(1, &[]), request(3, &[]), request(5, &[])]).await;
    for _ in 0..2 {
        assert_eq!(within(answer(&mut stream)).await, Answer::Reset(REFUSED_STREAM));
    }
    server.has_refused(&[("too_many_streams", 2)]).await;
    // What the proxy itself has no room for is counted as that.
    let server = Counted::h2(ServerConfig { max_concurrent_requests: Some(1), ..h2_server() }, hanging());
    let mut stream = server.begin().await;
    send(&mut stream, &[request(1, &[]), request(3, &[])]).await;
    assert_eq!(within(answer(&mut stream)).await, Answer::Reset(REFUSED_STREAM));
    server.has_refused(&[]).await;
}

#[tokio::test]
async fn headers_that_are_too_many_or_too_large_are_431_and_malformed_ones_a_reset() {
    let h2 = H2Config { max_header_list_bytes: 1000, ..H2Config::default() };
    let config = ServerConfig { wire: Wire::H2(h2), max_headers: Some(2), ..h2_server() };
    let server = Counted::h2(config, answering());
    let mut stream = server.begin().await;
    let long = [b'x'; 100];
    let large: Vec<(&[u8], &[u8])> = vec![(b"x", &long); 10];
    let pair = |name: &'static str, value: &'static str| (name.as_bytes(), value.as_bytes());
    let (x, misplaced) = (pair("x", "y"), pair("connection", "close"));
    let mut counted = [0, 0];
    for (i, (more, expected)) in
        [(vec![x; 2], 200), (large, 431), (vec![x; 3], 431), (vec![misplaced], 0)].into_iter().enumerate()
    {
        send(&mut stream, &[request(2 * u8::try_from(i).unwrap() + 1, &more)]).await;
        match within(answer(&mut stream)).await {
            Answer::Head(head) if expected == 200 => assert_eq!(head[0], 0x88),
            Answer::Head(head) if expected == 431 => assert_ne!(head[0], 0x88),
            Answer::Reset(PROTOCOL_ERROR) if expected == 0 => counted[0] += 1,
            other => panic!("{other:?}"),
        }
        counted[1] += u64::from(expected == 431);
        server.has_refused(&[("bad_request", counted[0]), ("headers_too_large", counted[1])]).await;
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection() {
    let burst = |count: u8| -> Vec<Vec<u8>> {
        let pairs = (0..count).map(|i| 2 * i + 1);
        pairs.flat_map(|id| [request(id, &[]), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())]).collect()
    };
    // By default 20 of them; some are taken before the others come.
    for (max, count, ends) in [(20, 100, true), (3, 20, true), (200, 100, false)] {
        let server = Counted::with(H2Config { max_pending_resets: max, ..H2Config::default() }, answering());
        let mut stream = server.begin().await;
        send(&mut stream, &burst(count)).await;
        if ends {
            let mut said = within(answer(&mut stream)).await;
            for _ in 0..count {
                if matches!(said, Answer::GoAway(_) | Answer::Closed) {
                    break;
                }
                said = within(answer(&mut stream)).await;
            }
            assert_eq!(said, Answer::GoAway(ENHANCE_YOUR_CALM), "{max}");
            server.has_refused(&[("flood", 1)]).await;
        } else {
            send(&mut stream, &[request(2 * count + 1, &[])]).await;
            assert!(is_answered(&mut stream).await);
            server.has_refused(&[]).await;
        }
    }
}

#[tokio::test]
async fn who_does_too_much_wrong_loses_the_connection() {
    let server = Counted::with(H2Config { max_error_resets: 2, ..H2Config::default() }, answering());
    let mut stream = server.begin().await;
    for id in [1, 3] {
        send(&mut stream, &[request(id, &[(b"connection", b"close")])]).await;
        assert_eq!(within(answer(&mut stream)).await, Answer::Reset(PROTOCOL_ERROR));
    }
    send(&mut stream, &[request(5, &[(b"connection", b"close")])]).await;
    assert_eq!(within(answer(&mut stream)).await, Answer::GoAway(ENHANCE_YOUR_CALM));
    server.has_refused(&[("bad_request", 2), ("flood", 1)]).await;
}

#[cfg(feature = "config")]
#[tokio::test]
async fn the_first_line_has_a_limit_of_its_own_whatever_is_spoken() {
    use super::{
        http1,
        peers::{Client, get, serve_file},
    };
    use linkerd_core::telemetry::Registry;

    // By default what the head may have.
    for (key, most) in [("", 8000), ("  maxInitialLineKB: 2\n", 2000), ("  maxInitialLineKB: 16\n", 16_000)] {
        let registry = Registry::new();
        let servers = "  servers: [{port: 0, http1: true, maxHeaderListBytes: 8192}]\n";
        let addr = serve_file(&format!("routers:\n- protocol: h2\n{key}{servers}"), &registry);
        let server = Counted::at(addr, "h2", registry);
        for (len, is_refused) in [(most, false), (most + 500, true)] {
            let mut client = http1::Wire::connect(addr).await;
            let path = "a".repeat(len);
            let rsp = client.ask(format!("GET /{path} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
            assert_eq!(rsp.status() == 414, is_refused, "{key}{len}: {}", rsp.first);
        }
        server.has_refused(&[("line_too_long", 1)]).await;
        // What a line is over HTTP/2 is in the list of headers too, which has its own limit.
        let client = Client::connect(addr).await;
        let rsp = client.ask(get(&format!("http://web/{}", "a".repeat(2500)))).await.unwrap();
        let is_refused = most < 2500;
        assert_eq!(rsp.head.status() == 414, is_refused, "{key}{}", rsp.head.status());
        server.has_refused(&[("line_too_long", 1 + u64::from(is_refused))]).await;
    }
}

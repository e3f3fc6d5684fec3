//! What HTTP/2 forbids in a message, frame by frame, before an endpoint of HTTP/1.1 that could be made to read it otherwise.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use linkerd_core::http::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    http1::{Backend, Message},
    peers::{h2_server, routed, serve, within},
};

/// A frame on the first stream.
pub(super) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A field that is in no table, as it is.
pub(super) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let len = |bytes: &[u8]| vec![u8::try_from(bytes.len()).unwrap()];
    [vec![0], len(name), name.to_vec(), len(value), value.to_vec()].concat()
}

/// What is sent back about the first stream.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The head of a response, as it is coded.
    Head(Vec<u8>),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// `:status: 200` and `:status: 400` of the table that everybody has.
const OK: u8 = 0x88;
const BAD_REQUEST: u8 = 0x8c;
const PROTOCOL_ERROR: u32 = 1;

type Fields = Vec<(&'static [u8], &'static [u8])>;

/// An endpoint of HTTP/1.1, and a proxy of HTTP/2.
struct Between {
    proxy: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Between {
    async fn new() -> Self {
        let (addr, seen) = Backend::answering(["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
        Self { proxy: serve(h2_server(), routed(addr, ClientConfig::default())), seen }
    }

    /// Sends a head and, if there is one, a body. What comes back.
    async fn send(&self, fields: &Fields, body: Option<&[u8]>) -> Answer {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        let head: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
        let end = u8::from(body.is_none());
        let body = body.map(|body| frame(0, 1, 1, body)).unwrap_or_default();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let bytes = [preface, frame(4, 0, 0, &[]), frame(1, 4 | end, 1, &head), body];
        stream.write_all(&bytes.concat()).await.unwrap();
        within(answer(&mut stream)).await
    }

    /// It is malformed: nothing of it arrives.
    async fn refuses(&self, fields: &Fields, body: Option<&[u8]>) {
        let answer = self.send(fields, body).await;
        let shown =
            || fields.iter().map(|(name, value)| (name.escape_ascii(), value.escape_ascii())).collect::<Vec<_>>();
        let is_refused = match &answer {
            Answer::Reset(code) | Answer::GoAway(code) => *code == PROTOCOL_ERROR,
            Answer::Head(head) => head[0] == BAD_REQUEST,
            Answer::Closed => false,
        };
        assert!(is_refused, "{answer:?}: {:?}", shown());
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert!(seen.iter().all(|message| !message.is_whole), "{seen:?}: {:?}", shown());
    }

    /// It is answered. What arrived.
    async fn passes(&self, fields: &Fields, body: Option<&[u8]>) -> Message {
        let answer = self.send(fields, body).await;
        assert!(matches!(&answer, Answer::Head(head) if head[0] == OK), "{answer:?}: {fields:?}");
        self.seen.lock().unwrap().pop().unwrap()
    }
}

pub(super) async fn answer(stream: &mut TcpStream) -> Answer {
    for _ in 0..100 {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            break;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            1 => return Answer::Head(payload),
            3 => return Answer::Reset(code(0)),
            7 => return Answer::GoAway(code(4)),
            _ => {}
        }
    }
    Answer::Closed
}

pub(super) const START: [(&[u8], &[u8]); 4] =
    [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"web")];

fn with(name: &'static [u8], value: &'static [u8]) -> Fields {
    [&START[..], &[(name, value)]].concat()
}

/// One of the four that a request begins with, in place of the usual one.
fn instead(name: &[u8], value: &'static [u8]) -> Fields {
    START.iter().map(|field| if field.0 == name { (field.0, value) } else { *field }).collect()
}

#[tokio::test]
async fn a_field_that_has_no_place_in_a_request_ends_it() {
    let between = Between::new().await;
    let fields: [(&[u8], &[u8]); 19] = [
        (b"X-Up", b"a"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b":x", b"a"),
        (b":path", b"/other"),
        (b":status", b"200"),
        (b"x", b"a\r\ny: z"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"x\0", b"a"),
        (b"x\r\ny", b"a"),
        (b"", b"a"),
    ];
    for (name, value) in fields {
        between.refuses(&with(name, value), None).await;
    }
    // After others, and not there at all.
    between.refuses(&[&[START[0], (&b"a"[..], &b"b"[..])], &START[1..]].concat(), None).await;
    for missing in 0..3 {
        let left = START.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, field)| *field);
        between.refuses(&left.collect(), None).await;
    }
}

#[tokio::test]
async fn a_target_that_would_be_more_than_one_line_ends_its_request() {
    let between = Between::new().await;
    for path in [&b""[..], b"/a b", b"/a HTTP/1.1\r\nX: y", b"/a\0", b"web", b"http://other/x", b"/caf\xc3\xa9"] {
        between.refuses(&instead(b":path", path), None).await;
    }
    for method in [&b"GET / HTTP/1.1\r\nX: y"[..], b"", b"G T", b"G\0T"] {
        between.refuses(&instead(b":method", method), None).await;
    }
    for authority in [&b"web\r\nX: y"[..], b"", b"web x", b"web/a", b"web\0"] {
        between.refuses(&instead(b":authority", authority), None).await;
    }
    for scheme in [&b"htt p"[..], b"http\r\n"] {
        between.refuses(&instead(b":scheme", scheme), None).await;
    }
    assert_eq!(between.passes(&instead(b":path", b"//x"), None).await.first, "POST //x HTTP/1.1");
    // The authority decides, as it did where the request was sent.
    assert_eq!(between.passes(&with(b"host", b"other"), None).await.all("host"), ["web"]);
}

#[tokio::test]
async fn a_length_that_is_not_the_bodys_ends_its_request() {
    let between = Between::new().await;
    let lies: [(&[u8], &[u8]); 7] = [
        (b"5", b"abc"),
        (b"2", b"hello"),
        (b"+3", b"abc"),
        (b"3, 3", b"abc"),
        (b"x", b"abc"),
        (b"", b"abc"),
        (b"99999999999999999999999", b"abc"),
    ];
    for (len, body) in lies {
        between.refuses(&with(b"content-length", len), Some(body)).await;
    }
    between.refuses(&with(b"content-length", b"5"), None).await;
    let mut two = with(b"content-length", b"3");
    two.push((b"content-length", b"5"));
    between.refuses(&two, Some(b"abc")).await;
    let seen = between.passes(&with(b"content-length", b"3"), Some(b"abc")).await;
    assert_eq!((seen.text(), seen.all("content-length")), ("abc", vec!["3"]));
}

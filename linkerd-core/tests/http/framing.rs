//! Messages whose end can be read in more than one way: the proxy and an endpoint must not read them differently.

use linkerd_core::http::{ClientConfig, ServerConfig};

use super::peers::{Backend, Message, Proxy, Wire, endpoint, proxy};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// What an attacker would have somebody take for a request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: web\r\n\r\n";
const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";

/// A proxy, and what its endpoint is sent.
struct Between {
    proxy: Proxy,
    seen: std::sync::Arc<std::sync::Mutex<Vec<Message>>>,
}

impl Between {
    async fn new() -> Self {
        let (addr, seen) = Backend::answering([OK]).await;
        Self { proxy: proxy(ServerConfig::default(), endpoint(addr, ClientConfig::default())), seen }
    }

    /// Sends a request with these lines in its head and this body, and something behind it.
    async fn post(&self, lines: &str, body: &str) -> Wire {
        self.send(&format!("POST / HTTP/1.1\r\nHost: web\r\n{lines}\r\n\r\n{body}{HIDDEN}")).await
    }

    async fn send(&self, bytes: &str) -> Wire {
        let mut wire = Wire::connect(self.proxy.addr).await;
        wire.write(bytes).await;
        wire
    }

    /// The whole messages that the endpoint was sent since the last time: first line and body.
    fn take(&self) -> Vec<(String, String)> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let whole = seen.into_iter().filter(|message| message.is_whole);
        whole.map(|message| (message.first.clone(), message.text().to_owned())).collect()
    }

    /// Nothing of it arrives anywhere, and nothing behind it is served.
    async fn refuses(&self, mut wire: Wire, what: &str) {
        let rsp = wire.message(false).await.unwrap_or_else(|| panic!("no answer to {what:?}"));
        assert_eq!((rsp.status(), rsp.get("connection"), rsp.text()), (400, Some("close"), ""), "{what:?}");
        assert!(wire.is_closed().await, "{what:?}");
        assert_eq!(self.take(), [], "{what:?}");
    }
}

#[tokio::test]
async fn a_length_that_is_not_one_number_is_refused() {
    let between = Between::new().await;
    let not_one = ["3\r\nContent-Length: 5", "5, 5", "5,6", "+5", "-5", "0x5", "5 5", "", "5;", "5\x0b", "\u{665}"];
    for len in not_one.into_iter().chain(["99999999999999999999999"]) {
        let wire = between.post(&format!("Content-Length: {len}"), "hello").await;
        between.refuses(wire, len).await;
    }
    // The same one twice becomes one.
    let mut wire = between.post("Content-Length: 5\r\nContent-Length: 5", "hello").await;
    assert_eq!(wire.message(false).await.unwrap().status(), 200);
    assert_eq!(wire.message(false).await.unwrap().status(), 200);
    let [first, second] = &between.take()[..] else { panic!("two requests") };
    assert_eq!((first.1.as_str(), second.0.as_str()), ("hello", "GET /hidden HTTP/1.1"));
}

#[tokio::test]
async fn a_transfer_coding_other_than_chunked_is_refused() {
    let between = Between::new().await;
    for coding in [
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "\x0bchunked",
        "chunked\x0b",
        "chunked\0",
        "",
        "chunked\r\nTransfer-Encoding: chunked",
        "gzip\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
    ] {
        let wire = between.post(&format!("Transfer-Encoding: {coding}"), CHUNKS).await;
        between.refuses(wire, coding).await;
    }
    let old = format!("POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}");
    between.refuses(between.send(&old).await, "HTTP/1.0").await;
    for coding in ["CHUNKED", ",chunked", " chunked "] {
        let mut wire = between.post(&format!("Transfer-Encoding: {coding}"), CHUNKS).await;
        assert_eq!(wire.message(false).await.unwrap().status(), 200, "{coding}");
        assert_eq!(wire.message(false).await.unwrap().status(), 200, "{coding}");
        assert_eq!(between.take()[0].1, "hello", "{coding}");
    }
}

#[tokio::test]
async fn what_follows_a_length_beside_chunks_is_not_served() {
    let between = Between::new().await;
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\nContent-Length: 5",
    ] {
        let mut wire = between.post(lines, "0\r\n\r\n").await;
        assert_eq!(wire.message(false).await.unwrap().status(), 200, "{lines:?}");
        assert!(wire.is_closed().await, "{lines:?}");
        assert_eq!(between.take(), [("POST / HTTP/1.1".to_owned(), String::new())], "{lines:?}");
    }
    let lens = "Content-Length: 4\r\nContent-Length: 5\r\nTransfer-Encoding: chunked";
    between.refuses(between.post(lens, "0\r\n\r\n").await, lens).await;
}

#[tokio::test]
async fn a_line_of_a_head_that_could_be_two_is_refused() {
    let between = Between::new().await;
    for line in [
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        "Content-Length:\r\n 5",
        "X: a\r\n b",
        "X: a\r\n\tb",
        " X: a",
        "\x0bX: a",
        "X: a\0b",
        "X\0: a",
        "X: a\rb",
        "X: a\x01",
        "X: a\x7fb",
        "X\tY: a",
        "X(: a",
        ": a",
        "nothing",
    ] {
        let lines = if line.contains("Length") { line.to_owned() } else { format!("{line}\r\nContent-Length: 5") };
        between.refuses(between.post(&lines, "hello").await, line).await;
    }
    for line in [
        "GET  / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\r",
        "GET / http/1.1",
        "GET / HTTP/01.1",
        "GET / HTTP/2.0",
        "GET /",
        "GET web HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a\0 HTTP/1.1",
        "G\0T / HTTP/1.1",
    ] {
        between.refuses(between.send(&format!("{line}\r\nHost: web\r\n\r\n{HIDDEN}")).await, line).await;
    }
}

#[tokio::test]
async fn a_bad_chunk_ends_the_connection_before_what_is_behind_it() {
    let between = Between::new().await;
    for chunks in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : a\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n",
    ] {
        let mut wire = between.post("Transfer-Encoding: chunked", chunks).await;
        let rsp = wire.message(false).await.unwrap_or_else(|| panic!("no answer to {chunks:?}"));
        assert_eq!(rsp.status(), 400, "{chunks:?}");
        assert!(wire.is_closed().await, "{chunks:?}");
        assert_eq!(between.take(), [], "{chunks:?}");
    }
    // Extensions mean nothing and end here; so do trailers that would frame.
    for chunks in
        ["5;a=b\r\nhello\r\n0;c\r\n\r\n", "05\r\nhello\r\n00\r\n\r\n", "5\r\nhello\r\n0\r\nContent-Length: 7\r\n\r\n"]
    {
        let mut wire = between.post("Transfer-Encoding: chunked", chunks).await;
        assert_eq!(wire.message(false).await.unwrap().status(), 200, "{chunks:?}");
        assert_eq!(wire.message(false).await.unwrap().status(), 200, "{chunks:?}");
        let seen = between.take();
        assert_eq!((seen[0].1.as_str(), seen[1].0.as_str()), ("hello", "GET /hidden HTTP/1.1"), "{chunks:?}");
    }
}

#[tokio::test]
async fn an_answer_that_could_be_two_is_none() {
    for lines in [
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 30",
        "Content-Length: 2, 2",
        "Content-Length: +2",
        "Content-Length: x",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "X: a\0b\r\nContent-Length: 2",
        ": a\r\nContent-Length: 2",
        "nothing\r\nContent-Length: 2",
    ] {
        let mut backend = Backend::new().await;
        let proxy = proxy(ServerConfig::default(), endpoint(backend.addr, ClientConfig::default()));
        let mut wire = Wire::connect(proxy.addr).await;
        wire.write("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
        let mut conn = backend.accept().await;
        conn.message(false).await.unwrap();
        conn.write(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nok{OK}")).await;
        let rsp = wire.message(false).await.unwrap();
        assert_eq!((rsp.status(), rsp.get("l5d-err").is_some()), (502, true), "{lines:?}: {rsp:?}");
        // What is left on the connection is nobody's answer.
        assert!(conn.is_closed().await, "{lines:?}");
    }
}

/// Nobody further on can go by another one than the request has its name by.
#[tokio::test]
async fn of_two_hosts_only_the_first_goes_on() {
    let between = Between::new().await;
    for (head, first) in [
        ("GET / HTTP/1.1\r\nHost: one\r\nHost: two", "one"),
        ("GET / HTTP/1.1\r\nHost: one\r\nX-A: 1\r\nhost: one\r\nHOST: two", "one"),
        ("GET / HTTP/1.1\r\nHost: two\r\nHost: ", "two"),
        ("GET / HTTP/1.0\r\nHost: one\r\nHost: two", "one"),
        // The target says which one it is for.
        ("GET http://one/ HTTP/1.1\r\nHost: two\r\nHost: three", "one"),
    ] {
        let mut wire = between.send(&format!("{head}\r\n\r\n")).await;
        assert_eq!(wire.message(false).await.unwrap().status(), 200, "{head}");
        let seen = std::mem::take(&mut *between.seen.lock().unwrap());
        assert_eq!(seen[0].all("host"), [first], "{head}");
    }
}

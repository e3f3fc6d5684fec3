//! An origin that does to every connection what a script says.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet, yield_now},
};

/// An origin, and what a client may make of what it does.
pub(crate) struct Fault<O: 'static> {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    /// Asked through a router that does not wait for long.
    pub(crate) is_hasty: bool,
    pub(crate) allowed: &'static [O],
}

impl<O> Fault<O> {
    pub(crate) fn at(name: impl Into<String>, origin: Origin, allowed: &'static [O]) -> Self {
        Self { name: name.into(), origin, is_hasty: false, allowed }
    }

    pub(crate) async fn new(name: &str, script: Script, allowed: &'static [O]) -> Self {
        Self::at(name, Origin::new(script).await, allowed)
    }

    /// One that would take too long.
    pub(crate) async fn slow(name: &str, script: Script, allowed: &'static [O]) -> Self {
        Self { is_hasty: true, ..Self::new(name, script, allowed).await }
    }
}

/// Which protocol requests come in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// What an origin does with a connection.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    protocol: Protocol,
    /// Written before a request is read.
    greeting: Vec<u8>,
    answer: Vec<u8>,
    pace: Pace,
    then: Then,
    /// It ends before a request.
    is_early: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pace {
    AtOnce,
    ByByte,
    /// The last byte over and over, after this time each.
    Endlessly(Duration),
}

/// What comes after the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Then {
    /// The next request; of HTTP/1 only.
    Next,
    Close,
    Reset,
    /// Nothing more, for as long as the other side stays.
    Hang,
}

/// Serves on a port of its own until it is dropped.
pub(crate) struct Origin {
    pub(crate) port: u16,
    serving: Option<JoinHandle<()>>,
    /// Bound, so that nobody else gets the port, and not listened on.
    _socket: Option<TcpSocket>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Script {
    /// Answers a request with these bytes.
    pub(crate) fn h1(answer: impl AsRef<[u8]>, then: Then) -> Self {
        let answer = answer.as_ref().to_vec();
        Self { protocol: Protocol::Http1, greeting: Vec::new(), answer, pace: Pace::AtOnce, then, is_early: false }
    }

    /// Greets with these bytes, and answers a request with those.
    pub(crate) fn h2(greeting: &[u8], answer: &[u8], then: Then) -> Self {
        let (greeting, answer) = (greeting.to_vec(), answer.to_vec());
        Self { protocol: Protocol::Http2, greeting, answer, pace: Pace::AtOnce, then, is_early: false }
    }

    /// One byte at a time.
    pub(crate) fn by_byte(self) -> Self {
        Self { pace: Pace::ByByte, ..self }
    }

    /// The last byte over and over.
    pub(crate) fn endlessly(self, each: Duration) -> Self {
        Self { pace: Pace::Endlessly(each), ..self }
    }

    /// Only so many bytes of what it would write.
    pub(crate) fn cut(mut self, at: usize) -> Self {
        let greeting = at.min(self.greeting.len());
        self.is_early = at < self.greeting.len();
        self.answer.truncate(at - greeting);
        self.greeting.truncate(greeting);
        self
    }

    /// How many bytes it writes.
    pub(crate) fn len(&self) -> usize {
        self.greeting.len() + self.answer.len()
    }

    async fn play(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        if stream.write_all(&self.greeting).await.is_err() {
            return;
        }
        while self.is_early || read_request(self.protocol, &mut stream).await && self.write(&mut stream).await {
            match self.then {
                Then::Next => {}
                Then::Close => return,
                Then::Reset => return stream.set_zero_linger().unwrap(),
                Then::Hang => {
                    // Until the other side closes it.
                    while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                    return;
                }
            }
        }
    }

    /// False if nobody reads it.
    async fn write(&self, stream: &mut TcpStream) -> bool {
        match self.pace {
            Pace::AtOnce => stream.write_all(&self.answer).await.is_ok(),
            Pace::ByByte => {
                for byte in &self.answer {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return false;
                    }
                    yield_now().await;
                }
                true
            }
            Pace::Endlessly(each) => {
                let last = self.answer.len() - 1;
                let mut written = stream.write_all(&self.answer).await;
                while written.is_ok() {
                    tokio::time::sleep(each).await;
                    written = stream.write_all(&self.answer[last..]).await;
                }
                false
            }
        }
    }
}

impl Origin {
    pub(crate) async fn new(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let script = Arc::new(script);
            // They end with this task.
            let mut conns = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&script);
                conns.spawn(async move { script.play(stream).await });
                while conns.try_join_next().is_some() {}
            }
        });
        Self { port, serving: Some(serving), _socket: None }
    }

    /// One that resets connections as soon as they are accepted.
    pub(crate) async fn slamming() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_zero_linger().unwrap();
            }
        });
        Self { port, serving: Some(serving), _socket: None }
    }

    /// One that nobody can connect to.
    pub(crate) fn refusing() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = socket.local_addr().unwrap().port();
        Self { port, serving: None, _socket: Some(socket) }
    }
}

/// Reads a request to its end. False if the connection ends before.
async fn read_request(protocol: Protocol, stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    let is_whole = match protocol {
        Protocol::Http1 => |bytes: &[u8]| bytes.ends_with(b"\r\n\r\n") || bytes.ends_with(b"\r\n\r\nhello"),
        Protocol::Http2 => has_end_of_stream,
    };
    loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return false;
        }
        // The head of a request with a body ends likewise: it may come alone.
        let waits = protocol == Protocol::Http1 && has_body(&bytes) && !bytes.ends_with(b"hello");
        if is_whole(&bytes) && !waits {
            return true;
        }
    }
}

fn has_body(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).to_ascii_lowercase().contains("content-length: 5")
}

/// Whether a stream has ended in what came of a connection since its preface.
fn has_end_of_stream(bytes: &[u8]) -> bool {
    const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
    let mut rest = bytes.get(PREFACE..).unwrap_or_default();
    while let [a, b, c, kind, flags, ..] = *rest {
        let len = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if rest.len() < len {
            return false;
        }
        // DATA and HEADERS.
        if kind <= 1 && flags & 1 == 1 {
            return true;
        }
        rest = &rest[len..];
    }
    false
}

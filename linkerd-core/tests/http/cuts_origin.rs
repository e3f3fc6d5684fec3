//! An origin that counts what it reads, and cuts a connection at the byte that it is told.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// Answers that are cut: one short enough to be read whole by a proxy, and a stream. No other request may follow.
pub(crate) const ANSWERS: [&str; 2] = [
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nworld",
    "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n",
];

/// The answer after which it keeps the connection.
const KEPT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nworld";

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cut {
    /// So many bytes of the request are read.
    Request(usize),
    /// The request is read whole, and so many bytes of this one of [`ANSWERS`] are written.
    Response(usize, usize),
}

/// How it is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Closed,
    Reset,
}

/// What it read of one request on one connection.
#[derive(Clone, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_cut: bool,
    /// The connection had served before.
    pub(crate) was_reused: bool,
}

/// Serves on a port of its own until it is dropped.
pub(crate) struct Origin {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    keeps_alive: bool,
    cut: Mutex<Option<(Cut, End)>>,
    attempts: Mutex<Vec<Attempt>>,
}

impl Cut {
    pub(crate) fn at(self) -> usize {
        match self {
            Self::Request(n) | Self::Response(_, n) => n,
        }
    }
}

impl Attempt {
    /// The number in its target, if that much of it came.
    pub(crate) fn id(&self) -> Option<usize> {
        let line = String::from_utf8_lossy(&self.bytes);
        line.split_once(" /")?.1.split_once(' ')?.0.parse().ok()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, is_cut, was_reused } = self;
        write!(f, "cut: {is_cut}, reused: {was_reused}, {} bytes: {:?}", bytes.len(), String::from_utf8_lossy(bytes))
    }
}

impl Origin {
    /// One that keeps its connections, or closes them after each response.
    pub(crate) async fn new(keeps_alive: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { keeps_alive, cut: Mutex::default(), attempts: Mutex::default() });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { port, shared, serving }
    }

    /// Cuts the connection of the next request.
    pub(crate) fn cut_next(&self, cut: Cut, end: End) {
        let before = self.shared.cut.lock().unwrap().replace((cut, end));
        assert_eq!(before, None, "nothing came since");
    }

    /// What came since the last time.
    pub(crate) fn take_attempts(&self) -> Vec<Attempt> {
        std::mem::take(&mut self.shared.attempts.lock().unwrap())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // They end with this task.
    let mut conns = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        conns.spawn(conn(stream, Arc::clone(&shared)));
        while conns.try_join_next().is_some() {}
    }
}

async fn conn(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut was_reused = false;
    loop {
        // An idle connection is cut when the request is there, a fresh one may be before that.
        let at_once = !was_reused && matches!(*shared.cut.lock().unwrap(), Some((Cut::Request(0), _)));
        if !at_once && stream.peek(&mut [0]).await.unwrap_or(0) == 0 {
            return;
        }
        let cut = shared.cut.lock().unwrap().take();
        let most = match cut {
            Some((Cut::Request(n), _)) => n,
            _ => usize::MAX,
        };
        let bytes = read(&mut stream, most).await;
        shared.attempts.lock().unwrap().push(Attempt { bytes, is_cut: cut.is_some(), was_reused });
        if let Some((cut, end)) = cut {
            if let Cut::Response(i, n) = cut {
                let _ = stream.write_all(&ANSWERS[i].as_bytes()[..n]).await;
            }
            if end == End::Reset {
                stream.set_zero_linger().unwrap();
            }
            return;
        }
        let answer = if shared.keeps_alive { KEPT } else { ANSWERS[0] };
        if stream.write_all(answer.as_bytes()).await.is_err() || !shared.keeps_alive {
            return;
        }
        was_reused = true;
    }
}

/// Reads so many bytes, or a whole request: whichever is shorter.
async fn read(stream: &mut TcpStream, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < most && body_of(&bytes).is_none() {
        let left = (most - bytes.len()).min(4096) as u64;
        if (&mut *stream).take(left).read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            break;
        }
    }
    bytes
}

/// The body of a request that is here whole.
pub(crate) fn body_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, mut rest) = text.split_once("\r\n\r\n")?;
    let head = head.to_ascii_lowercase();
    if !head.contains("\r\ntransfer-encoding: chunked") {
        let (_, len) = head.split_once("\r\ncontent-length: ")?;
        let len: usize = len.lines().next()?.parse().ok()?;
        return (rest.len() >= len).then(|| rest.as_bytes()[..len].to_vec());
    }
    let mut body = Vec::new();
    loop {
        let (size, more) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let chunk = more.get(..size)?;
        rest = more.get(size..)?.strip_prefix("\r\n")?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk.as_bytes());
    }
}

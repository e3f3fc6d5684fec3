//! The load: so many requests, one after the other on each connection, or when each is due.
//!
//! A request that is due counts from that moment, whether a connection was free or not: what makes others wait is seen.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::{BoxError, Protocol, tls};

/// So many that nobody has them: each request asks for another one, and is refused.
pub(super) const NAMES_NOBODY_HAS: u64 = u64::MAX;

/// What is to be asked for, of whom, and how.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) to: SocketAddr,
    pub(super) protocol: Protocol,
    /// Bytes of each answer.
    pub(super) size: usize,
    /// Requests that are counted.
    pub(super) requests: u64,
    /// In a second; 0 for as many as there are answers.
    pub(super) rate: u64,
    pub(super) connections: usize,
    /// At a time on each connection of HTTP/2.
    pub(super) streams: usize,
    /// How many names are asked for by turns, `w0` and so on; 0 for the one that is there.
    pub(super) names: u64,
    /// Requests so far.
    pub(super) asked: Arc<AtomicU64>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) failed: u64,
    pub(super) micros: Vec<u32>,
}

enum Conn {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// Says on standard output what is done, and goes on at each line of standard input: who measures does so in between.
async fn turn(said: &str) -> Result<(), BoxError> {
    println!("{said}");
    io::stdout().flush()?;
    let mut line = String::new();
    BufReader::new(tokio::io::stdin()).read_line(&mut line).await?;
    Ok(())
}

impl Load {
    /// Opens the connections, each with a request, then says `begin`, sends its requests, and says `end FAILED P50 P99 P99.9`.
    pub(super) async fn run(self) -> Result<(), BoxError> {
        let connector = if self.protocol == Protocol::Tls { Some(tls::connector()?) } else { None };
        let mut conns = Vec::new();
        for _ in 0..self.connections {
            let mut conn = self.connect(connector.as_ref()).await?;
            self.ask(&mut conn).await?;
            conns.extend(conn.streams(self.streams));
        }
        turn("begin").await?;
        let Outcome { failed, mut micros } = match self.rate {
            0 => self.closed(conns).await?,
            _ => self.open(conns).await?,
        };
        micros.sort_unstable();
        let at = |share: f64| micros.get((micros.len() as f64 * share) as usize).copied().unwrap_or_default();
        turn(&format!("end {failed} {} {} {}", at(0.5), at(0.99), at(0.999))).await
    }

    async fn closed(self, conns: Vec<Conn>) -> Result<Outcome, BoxError> {
        let begun = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for mut conn in conns {
            let (load, begun) = (self.clone(), Arc::clone(&begun));
            tasks.spawn(async move {
                let mut outcome = Outcome::default();
                while begun.fetch_add(1, Ordering::Relaxed) < load.requests {
                    let sent = Instant::now();
                    outcome.note(sent, load.ask(&mut conn).await.is_ok());
                }
                outcome
            });
        }
        Outcome::of(tasks).await
    }

    async fn open(self, conns: Vec<Conn>) -> Result<Outcome, BoxError> {
        // As long as all that comes: nobody who is late is let off.
        let (due, queue) = mpsc::channel(self.requests as usize);
        let queue = Arc::new(Mutex::new(queue));
        let mut tasks = JoinSet::new();
        for mut conn in conns {
            let (load, queue) = (self.clone(), Arc::clone(&queue));
            tasks.spawn(async move {
                let mut outcome = Outcome::default();
                loop {
                    let Some(at) = queue.lock().await.recv().await else { return outcome };
                    outcome.note(at, load.ask(&mut conn).await.is_ok());
                }
            });
        }
        // tokio's timers are a millisecond apart, which is two requests.
        let pace = thread::spawn(move || {
            let start = Instant::now();
            for n in 0..self.requests {
                let at = start + Duration::from_nanos(n * 1_000_000_000 / self.rate);
                thread::sleep(at.saturating_duration_since(Instant::now()));
                if due.blocking_send(at).is_err() {
                    return;
                }
            }
        });
        let outcome = Outcome::of(tasks).await;
        pace.join().map_err(|_| "the pace broke off")?;
        outcome
    }

    async fn connect(&self, connector: Option<&TlsConnector>) -> Result<Conn, BoxError> {
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        if let Some(connector) = connector {
            let stream = connector.connect(tls::NAME.try_into()?, stream).await?;
            let (sender, conn) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(conn);
            return Ok(Conn::Http1(sender));
        }
        if self.protocol == Protocol::H2c {
            let (sender, conn) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(conn);
            return Ok(Conn::Http2(sender));
        }
        let (sender, conn) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(conn);
        Ok(Conn::Http1(sender))
    }

    fn host(&self) -> String {
        match self.names {
            0 => tls::NAME.to_owned(),
            NAMES_NOBODY_HAS => format!("nobody{}", self.asked.fetch_add(1, Ordering::Relaxed)),
            names => format!("w{}", self.asked.fetch_add(1, Ordering::Relaxed) % names),
        }
    }

    /// One request, whose answer must be whole.
    async fn ask(&self, conn: &mut Conn) -> Result<(), BoxError> {
        let rsp = match conn {
            Conn::Http1(conn) => {
                let req = Request::get(format!("/{}", self.size)).header("host", self.host()).body(Empty::new())?;
                conn.ready().await?;
                conn.send_request(req).await?
            }
            Conn::Http2(conn) => {
                let req = Request::get(format!("http://{}/{}", tls::NAME, self.size));
                let req = req.version(Version::HTTP_2).body(Empty::new())?;
                conn.ready().await?;
                conn.send_request(req).await?
            }
        };
        let is_success = rsp.status().is_success();
        let (mut body, mut read) = (rsp.into_body(), 0);
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, Bytes::len);
        }
        let is_whole = if is_success { read == self.size } else { self.names == NAMES_NOBODY_HAS };
        if is_whole { Ok(()) } else { Err(format!("{read} bytes in place of {}", self.size).into()) }
    }
}

impl Conn {
    /// What can be asked on it at a time.
    fn streams(self, streams: usize) -> Vec<Self> {
        match self {
            Self::Http1(_) => vec![self],
            Self::Http2(sender) => (0..streams).map(|_| Self::Http2(sender.clone())).collect(),
        }
    }
}

impl Outcome {
    fn note(&mut self, since: Instant, is_well: bool) {
        if is_well {
            self.micros.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
        } else {
            self.failed += 1;
        }
    }

    async fn of(mut tasks: JoinSet<Self>) -> Result<Self, BoxError> {
        let mut all = Self::default();
        while let Some(one) = tasks.join_next().await {
            let Self { failed, micros } = one?;
            all.failed += failed;
            all.micros.extend(micros);
        }
        Ok(all)
    }
}

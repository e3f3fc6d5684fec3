//! The server: an accept loop, and an orderly end.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use http::{HeaderName, Request, Response};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use pin_project::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, Sleep, sleep_until},
};

#[cfg(feature = "compression")]
use super::compress::Compression;
use super::{
    FlavourRule, Forwarded, PerRequest, Propagation, Scheme,
    accept::Accepting,
    case::Spelled,
    connect::SocketOptions,
    drain::{Drain, Stage, Watch},
    h2::{self, H2Config, Wire},
    headers::Room,
    io::{Counted, Traffic},
    live::{Live, ServerControl},
    respond::ErrorLimits,
    serve::{Ends, HeadTimed, Late, Next, Peer, Shared, serve},
};
use crate::{
    Body, Svc,
    access_log::AccessLog,
    telemetry::{Refused, RouterStats, ServerStats, process::open_file_limit},
};

/// How many connections are accepted, of those that wait for it, when a server ends.
const LAST_ACCEPTED: usize = 1024;

/// An HTTP server that is bound to its address.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    config: ServerConfig,
}

/// A [`Server`] of a service, which can be [changed](ServerControl) while it serves.
#[derive(Debug)]
pub struct LiveServer {
    listener: TcpListener,
    control: ServerControl,
}

/// How a server treats its clients.
///
/// # Defaults
///
/// Linkerd 1's.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct ServerConfig {
    /// Where it listens. `127.0.0.1:4140`; port 0 takes a free one.
    pub addr: SocketAddr,
    /// How sockets are set up.
    pub socket: SocketOptions,
    /// What clients speak. HTTP/1.1.
    pub wire: Wire,
    /// The longest first line of a request; above it 414. 4 KiB; hyper's own limit for a target is 64 KiB.
    pub max_initial_line_bytes: usize,
    /// The most bytes of headers; above it 431. 8 KiB.
    pub max_header_bytes: usize,
    /// The most headers, from 1 to 16384; above it 431. Over HTTP/1.1 by default 100, and with more than 8 KiB of
    /// `max_header_bytes` one for each 32 bytes of it, at most 16384; if it is more than 100, room is allocated with each
    /// request. Over HTTP/2 by default as many as fit.
    pub max_headers: Option<usize>,
    /// How long the rest of a head may take, once some of it has come; after it 408. The time before counts for
    /// `idle_time`. Over HTTP/2 it is for every block of headers, for the preface with the first frame, and for the rest of
    /// every frame, of one of data only while nothing is served on the connection; after it the connection ends. 30 seconds;
    /// `None` is no limit.
    pub header_read_timeout: Option<Duration>,
    /// How many connections there are at a time, at least 1, those in a TLS handshake and tunnels included. At so many
    /// none is accepted until one ends: who comes waits in the listener's backlog. No limit.
    pub max_connections: Option<usize>,
    /// How much of an error its answer says.
    pub error_limits: ErrorLimits,
    /// A request with a `Content-Length` up to this is read whole before it is passed on, so that it can be sent again.
    /// 5 KiB; `usize::MAX` reads every request whole, whatever its length.
    pub aggregate_up_to: usize,
    /// Read requests whose length is not known whole too, up to as much; a longer one is passed on as it comes. Off.
    pub aggregate_unknown: bool,
    /// Keep the case of letters in names of headers of HTTP/1 requests, for clients of endpoints that [do](super::ClientConfig::preserve_header_case)
    /// too. Off: all names are in lower case.
    pub preserve_header_case: bool,
    /// How many proxies a request may have passed, by its `Via`; above it 400. 1000.
    pub max_call_depth: usize,
    /// How many requests are served at a time; a further one is answered with a 503 that says that it may be sent again.
    /// One that is read whole first counts once it is read. No limit.
    pub max_concurrent_requests: Option<usize>,
    /// How long a request may take from when its head is here, the reading of a short body included; after it 503. No
    /// limit.
    pub timeout: Option<Duration>,
    /// Callers are trusted to say for each request how long it may take and how often it is retried, within these bounds,
    /// and to ask for the details of its failure by `l5d-err-detail: true`. Off: the headers that say so are dropped.
    pub per_request: Option<PerRequest>,
    /// Drop all `l5d-*` headers: of requests, so that outsiders steer nothing, and of responses. Off.
    pub clear_context: bool,
    /// With `clear_context`, also leave out the bodies of errors. Off.
    pub clear_error_bodies: bool,
    /// Which requests get a flavour here, the first rule that is for them: those that come without one that holds. None.
    pub flavours: Vec<FlavourRule>,
    /// Which headers carry traces, in and out. `l5d-ctx-trace`.
    pub propagation: Propagation,
    /// Add the time of arrival, in milliseconds since 1970, to requests in this header. Off.
    pub timestamp_header: Option<HeaderName>,
    /// Write on requests who passed them on and for whom, in `Forwarded`. Off.
    pub forwarded: Option<Forwarded>,
    /// For how long a connection may be idle before it is closed; up to a quarter longer. A request that is not
    /// all here yet is given up, unless its body is passed on as it comes. No limit.
    pub idle_time: Option<Duration>,
    /// How long a connection may live; the request that it is busy with is still answered, if it was all here. No limit.
    pub life_time: Option<Duration>,
    /// How long connections may take to finish their requests when the server ends. 10 seconds.
    pub grace: Duration,
    /// Write on requests and responses that they came by here, in `Via`. On; off for what answers itself.
    pub via: bool,
    /// Takes connections through TLS alone. Off.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub tls: Option<crate::tls::Acceptor>,
    /// Which responses are compressed for clients that take gzip. None; `compressionLevel` of a Linkerd 1 file is -1 by
    /// default, which is [`Compression::Text`].
    #[cfg(feature = "compression")]
    #[cfg_attr(docsrs, doc(cfg(feature = "compression")))]
    pub compression: Compression,
    /// Pass on that a client asks for another protocol by `Upgrade`, as WebSocket does, and its bytes both ways once the
    /// endpoint has switched. `h2c` is never passed on. A tunnel is a request that is served and a connection of the server
    /// for as long as it lasts: the idle time, the life time and the grace period end it. On.
    pub upgrades: bool,
    /// Where requests are logged, if the log is one of requests and not of attempts. Nowhere.
    pub access_log: Option<AccessLog>,
    /// Where its metrics go. Nowhere.
    pub stats: Option<RouterStats>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How many connections were cut off in the middle of a request, because the grace period was over.
    pub aborted: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 4140)),
            socket: SocketOptions::default(),
            wire: Wire::default(),
            max_initial_line_bytes: 4 * 1024,
            max_header_bytes: 8 * 1024,
            max_headers: None,
            header_read_timeout: Some(Duration::from_secs(30)),
            max_connections: None,
            error_limits: ErrorLimits::default(),
            aggregate_up_to: 5 * 1024,
            aggregate_unknown: false,
            preserve_header_case: false,
            max_call_depth: 1000,
            max_concurrent_requests: None,
            timeout: None,
            per_request: None,
            clear_context: false,
            clear_error_bodies: false,
            flavours: Vec::new(),
            propagation: Propagation::DEFAULT,
            timestamp_header: None,
            forwarded: None,
            idle_time: None,
            life_time: None,
            grace: Duration::from_secs(10),
            via: true,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "compression")]
            compression: Compression::Off,
            upgrades: true,
            access_log: None,
            stats: None,
        }
    }
}

impl Server {
    /// Binds the address: from now on connections wait in the listener's backlog.
    ///
    /// Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// The address is taken, or not this host's.
    pub fn bind(config: ServerConfig) -> io::Result<Self> {
        let listener = config.socket.listen(config.addr)?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local, config })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves connections until `shutdown` is ready; then accepts no more, lets requests that have begun finish within
    /// the grace period, and cuts off the rest.
    ///
    /// Idle connections close at once at that point, also those on which only a part of a request has come, and busy ones
    /// after the response that they are busy with.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts off every connection.
    pub async fn serve(self, svc: Svc, shutdown: impl Future<Output = ()>) -> Drained {
        let grace = self.config.grace;
        let shutdown = async move {
            shutdown.await;
            grace
        };
        self.serve_until(svc, shutdown).await
    }

    /// As [`serve`](Self::serve), with the grace period that `shutdown` returns in place of the configured one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts off every connection.
    pub async fn serve_until(self, svc: Svc, shutdown: impl Future<Output = Duration>) -> Drained {
        self.live(svc).serve_until(shutdown).await
    }

    /// A server of `svc` that can be changed while it serves.
    #[must_use]
    pub fn live(self, svc: Svc) -> LiveServer {
        let Self { listener, local, config } = self;
        LiveServer {
            listener,
            control: ServerControl { live: Arc::new(Live::new(local, svc, config)), drain: Drain::default() },
        }
    }
}

impl LiveServer {
    /// What changes it.
    #[must_use]
    pub fn control(&self) -> ServerControl {
        self.control.clone()
    }

    /// As [`Server::serve_until`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts off every connection.
    pub async fn serve_until(self, shutdown: impl Future<Output = Duration>) -> Drained {
        let Self { listener, control: ServerControl { live, drain } } = self;
        let local = live.local();
        let mut accepting = Accepting::new(listener, local, open_file_limit());
        let mut conns = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        let paused = || {
            if let Some(stats) = live.now().stats() {
                stats.accept_paused();
            }
        };
        let full = || {
            if let Some(stats) = live.now().stats() {
                stats.accept_full();
            }
        };
        let grace = loop {
            let is_full = accepting.is_full(conns.len(), live.max_connections(), full);
            tokio::select! {
                (stream, remote) = accepting.next(paused), if !is_full => {
                    conns.spawn(connection(live.now(), stream, remote, local, drain.watch()));
                }
                // Results are of no interest, only that they do not pile up.
                Some(_) = conns.join_next() => accepting.freed(),
                // There may be more now.
                () = live.changed(), if is_full => {}
                grace = &mut shutdown => break grace,
            }
        };
        // Who is connected already may have asked for something.
        for _ in 0..LAST_ACCEPTED {
            if accepting.is_full(conns.len(), live.max_connections(), full) {
                break;
            }
            let Some((stream, remote)) = accepting.next(paused).now_or_never() else { break };
            conns.spawn(connection(live.now(), stream, remote, local, drain.watch()));
        }
        drop(accepting);
        drain.set(Stage::Ending);
        let all = async { while conns.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_ok() {
            return Drained { aborted: 0 };
        }
        let aborted = conns.len();
        tracing::warn!(aborted, %local, "connections did not finish in time");
        conns.shutdown().await;
        Drained { aborted }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, remote: SocketAddr, local: SocketAddr, watch: Watch) {
    if let Err(error) = stream.set_nodelay(shared.config.socket.no_delay) {
        tracing::debug!(%error, %remote, "a connection's options could not be set");
    }
    // Behind a wildcard address each connection has one of its own.
    let local = stream.local_addr().unwrap_or(local);
    let ends = Ends::clear(remote, local);
    #[cfg(feature = "tls")]
    if shared.config.tls.is_some() {
        // Boxed: a connection in the clear has no room for it.
        return Box::pin(secure(shared, stream, ends, watch)).await;
    }
    serve_stream(shared, stream, ends, watch).await;
}

/// Serves one connection through TLS. A handshake that is not over when the server ends is given up.
#[cfg(feature = "tls")]
async fn secure(shared: Arc<Shared>, stream: TcpStream, ends: Ends, mut watch: Watch) {
    let Some(tls) = shared.config.tls.clone() else { return };
    let mut handshake = pin!(tls.accept(stream));
    let ended = std::future::poll_fn(|cx| if watch.is_ending(cx) { Poll::Ready(()) } else { Poll::Pending });
    let accepted = tokio::select! {
        biased;
        accepted = &mut handshake => accepted,
        () = ended => return,
    };
    match accepted {
        Ok((stream, negotiated)) => {
            let ends = Ends { scheme: Scheme::Https, identity: negotiated.peer, ..ends };
            serve_stream(shared, stream, ends, watch).await;
        }
        Err(error) => {
            if let Some(stats) = shared.stats() {
                stats.handshake_failed(error.reason());
            }
            let (why, remote) = (error.whole(), ends.remote);
            if error.is_hang_up() {
                tracing::debug!(why, %remote, "a client went away instead of a TLS handshake");
            } else {
                tracing::info!(why, %remote, "a client's connection could not be made secure");
            }
        }
    }
}

/// Serves the requests of one connection until it ends.
pub(crate) async fn serve_stream<I>(shared: Arc<Shared>, stream: I, ends: Ends, watch: Watch)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = shared.open.connection();
    let (stream, traffic) = Counted::of(stream, &shared.config.socket, shared.place.stats().map(|_| &shared.place));
    let peer = Arc::new(Peer::new(Arc::clone(&shared), ends));
    let limits = Limits::new(&shared, traffic);
    match &shared.config.wire {
        Wire::Http1 => serve_http1(stream, peer, watch, limits).await,
        Wire::H2(config) if peer.ends.scheme == Scheme::Https => {
            let late = Late::of(&peer);
            h2::serve(stream, peer, config, watch, limits, late).await;
        }
        // It may begin with an upgrade.
        Wire::H2(config) | Wire::Either(config) => serve_either(stream, peer, config, watch, limits).await,
    }
    drop(open);
}

/// Serves a client by what it begins with.
async fn serve_either<I>(
    stream: I,
    peer: Arc<Peer>,
    config: &H2Config,
    mut watch: Watch,
    mut limits: Option<Pin<Box<Limits>>>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut late = Late::of(&peer);
    let has_http1 = matches!(peer.shared.config.wire, Wire::Either(_));
    let is_over = |cx: &mut Context<'_>, has_begun: bool| {
        watch.is_ending(cx)
            || limits.as_mut().is_some_and(|limits| limits.as_mut().poll(cx).is_ready())
            // HTTP/1.1 has no first bytes that it could not wait with.
            || (has_begun || !has_http1) && late.poll(cx).is_ready()
    };
    match h2::sniff(stream, is_over).await {
        // What is neither hears of it in what is meant to be spoken.
        Ok(Some((stream, start))) if start == h2::Start::H2 || start == h2::Start::Other && !has_http1 => {
            h2::serve(stream, peer, config, watch, limits, late).await;
        }
        Ok(Some((stream, _))) => serve_http1(stream, peer, watch, limits).await,
        // Nothing is lost with a connection on which nothing came.
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, remote = %peer.ends.remote, "a client's connection failed"),
    }
}

async fn serve_http1<I>(stream: I, peer: Arc<Peer>, watch: Watch, limits: Option<Pin<Box<Limits>>>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(&peer.shared);
    let (config, remote) = (&shared.config, peer.ends().remote);
    let served = Arc::clone(&peer);
    let service = service_fn(move |req: Request<Incoming>| serve(&served, req));
    let room = Room::of(config.max_header_bytes, config.max_initial_line_bytes).with_headers(config.max_headers);
    let mut builder = http1::Builder::new();
    if let Some(headers) = room.headers {
        builder.max_headers(headers);
    }
    if let Some(buf) = room.buf {
        builder.max_buf_size(buf);
    }
    let stream = HeadTimed::of(Spelled::of(stream, peer.spellings.clone()), &peer, &mut builder);
    let conn = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut conn = pin!(Connection { conn, peer: Arc::clone(&peer), watch, limits, is_ending: false });
    if let Err(error) = conn.as_mut().await {
        if let Some(why) = refused(&error) {
            shared.refused(why);
        }
        tracing::debug!(%error, %remote, "a client's connection failed");
    } else if let Some(next) = peer.next() {
        let conn = conn.project();
        let (limits, watch) = (conn.limits.take(), conn.watch.another());
        // Seldom, and large: not part of every connection's future.
        match next {
            Next::Tunnel(tunnel) => {
                let open = shared.open.tunnel();
                Box::pin(tunnel.run(limits)).await;
                drop(open);
            }
            Next::H2(upgrade) => Box::pin(go_on_in_h2(*upgrade, peer, watch, limits)).await,
        }
    }
}

/// Why hyper answered a client by itself, if it did.
fn refused(error: &hyper::Error) -> Option<Refused> {
    if error.is_parse_too_large() {
        // hyper has one question for both, and two texts.
        let is_line = error.to_string().contains("URI");
        return Some(if is_line { Refused::LineTooLong } else { Refused::HeadersTooLarge });
    }
    error.is_parse().then_some(Refused::BadRequest)
}

/// Serves the rest of a connection that was upgraded to HTTP/2.
async fn go_on_in_h2(upgrade: h2::Upgrade, peer: Arc<Peer>, watch: Watch, limits: Option<Pin<Box<Limits>>>) {
    let shared = Arc::clone(&peer.shared);
    let (Wire::H2(config) | Wire::Either(config)) = &shared.config.wire else { return };
    match upgrade.begin().await {
        Ok(stream) => {
            let late = Late::of(&peer);
            h2::serve(stream, peer, config, watch, limits, late).await;
        }
        Err(error) => tracing::debug!(%error, remote = %peer.ends.remote, "a client's connection failed"),
    }
}

/// A connection that is told how far the server is.
#[pin_project]
struct Connection<I, S>
where
    S: HttpService<Incoming>,
{
    #[pin]
    conn: http1::UpgradeableConnection<I, S>,
    peer: Arc<Peer>,
    watch: Watch,
    limits: Option<Pin<Box<Limits>>>,
    is_ending: bool,
}

impl<I, S> Future for Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = Body, Error = std::convert::Infallible>,
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>>,
{
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if !*this.is_ending {
            let is_over = this.limits.as_mut().is_some_and(|limits| limits.as_mut().poll(cx).is_ready());
            let stage = this.watch.poll(cx);
            this.peer.set_leaving(stage > Stage::Serving);
            if stage == Stage::Ending || is_over {
                // What came by now is answered: hyper reads no more once it is told.
                if let Poll::Ready(ended) = this.conn.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
                *this.is_ending = true;
                this.conn.as_mut().graceful_shutdown();
            }
        }
        let polled = this.conn.poll(cx);
        if polled.is_pending() && *this.is_ending && this.peer.has_nothing() {
            // hyper would wait for the rest of a request.
            return Poll::Ready(Ok(()));
        }
        polled
    }
}

/// When a connection has been idle, or alive, for long enough.
#[pin_project]
pub(super) struct Limits {
    #[pin]
    sleep: Sleep,
    tick: Option<Duration>,
    dies: Option<Instant>,
    shared: Arc<Shared>,
    is_over: bool,
    traffic: Arc<Traffic>,
    seen: (u64, u64),
    quiet_ticks: u32,
}

/// A connection is idle when nothing was read or written for this many ticks.
const IDLE_TICKS: u32 = 4;

impl Limits {
    fn new(shared: &Arc<Shared>, traffic: Arc<Traffic>) -> Option<Pin<Box<Self>>> {
        let tick = shared.config.idle_time.map(|idle| idle / IDLE_TICKS);
        let dies = shared.config.life_time.map(|life| Instant::now() + life);
        let sleep = sleep_until(wake_at(tick, dies)?);
        let shared = Arc::clone(shared);
        Some(Box::pin(Self { sleep, tick, dies, shared, is_over: false, traffic, seen: (0, 0), quiet_ticks: 0 }))
    }
}

fn wake_at(tick: Option<Duration>, dies: Option<Instant>) -> Option<Instant> {
    let tick = tick.map(|tick| Instant::now() + tick);
    tick.into_iter().chain(dies).min()
}

/// Counts, once, why a connection ends.
fn over(shared: &Shared, is_over: &mut bool, count: impl FnOnce(&ServerStats)) {
    if !std::mem::replace(is_over, true)
        && let Some(stats) = shared.stats()
    {
        count(stats);
    }
}

impl Future for Limits {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while this.sleep.as_mut().poll(cx).is_ready() {
            if this.dies.is_some_and(|dies| Instant::now() >= dies) {
                over(this.shared, this.is_over, ServerStats::grew_old);
                return Poll::Ready(());
            }
            let now = (this.traffic.read(), this.traffic.written());
            *this.quiet_ticks = if now == *this.seen { *this.quiet_ticks + 1 } else { 0 };
            *this.seen = now;
            if this.tick.is_some() && *this.quiet_ticks >= IDLE_TICKS {
                over(this.shared, this.is_over, ServerStats::was_idle);
                return Poll::Ready(());
            }
            let Some(next) = wake_at(*this.tick, *this.dies) else { break };
            this.sleep.as_mut().reset(next);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::ClientStats;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::advance,
    };
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn shared(idle_time: Option<Duration>, life_time: Option<Duration>) -> Arc<Shared> {
        serving(ServerConfig { idle_time, life_time, ..ServerConfig::default() })
    }

    fn serving(config: ServerConfig) -> Arc<Shared> {
        let svc = Svc::new(tower::service_fn(async |_| Ok::<_, crate::BoxError>(Response::new(Body::from("answer")))));
        Live::new(config.addr, svc, config).now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_lives_as_long_as_it_may_and_not_longer() {
        let limits = Limits::new(&shared(None, Some(100 * MS)), Arc::default()).unwrap();
        let mut limits = task::spawn(limits);
        assert_pending!(limits.poll());
        advance(99 * MS).await;
        assert_pending!(limits.poll());
        advance(2 * MS).await;
        assert_ready!(limits.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_no_byte_passes() {
        let (mut stream, traffic) = Counted::of(tokio::io::empty(), &SocketOptions::default(), None::<&ClientStats>);
        let limits = Limits::new(&shared(Some(100 * MS), Some(10_000 * MS)), traffic).unwrap();
        let mut limits = task::spawn(limits);
        for _ in 0..20 {
            assert_pending!(limits.poll());
            advance(50 * MS).await;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await.unwrap();
        }
        let mut quiet = Duration::ZERO;
        while limits.poll().is_pending() {
            assert!(quiet <= 125 * MS);
            advance(5 * MS).await;
            quiet += 5 * MS;
        }
        assert!(quiet >= 100 * MS, "{quiet:?}");
    }

    /// What a server that ends says to a client whose first bytes are there.
    async fn last_answer(wire: Wire, asks: &[u8]) -> String {
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        let shared = serving(ServerConfig { wire, ..ServerConfig::default() });
        let drain = Drain::default();
        drain.set(Stage::Ending);
        let (mut client, io) = tokio::io::duplex(4096);
        client.write_all(asks).await.unwrap();
        tokio::spawn(serve_stream(shared, io, Ends::clear(local, local), drain.watch()));
        let mut said = Vec::new();
        while client.read_buf(&mut said).await.unwrap() > 0 && !said.ends_with(b"answer") {}
        String::from_utf8_lossy(&said).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_before_the_end_is_answered() {
        let h1 = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        // GET http / of web, on stream 1.
        let h2 =
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x01\x05\0\0\0\x01\x82\x86\x84\x41\x03web";
        let settings = H2Config::default;
        for (wire, asks) in [
            (Wire::Http1, &h1[..]),
            (Wire::H2(settings()), h2),
            (Wire::Either(settings()), h1),
            (Wire::Either(settings()), h2),
        ] {
            let said = last_answer(wire.clone(), asks).await;
            assert!(said.ends_with("answer"), "{wire:?}: {said}");
        }
        // And who has said nothing is not waited for.
        for wire in [Wire::Http1, Wire::H2(settings()), Wire::Either(settings())] {
            assert!(!last_answer(wire, b"").await.contains("answer"));
        }
    }

    #[test]
    fn without_limits_nothing_is_timed() {
        assert!(Limits::new(&shared(None, None), Arc::default()).is_none());
    }
}

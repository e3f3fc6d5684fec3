//! The sockets of a server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::{Options, ServeError, app::App};

/// Time for a request's head, and for the next request on a connection.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at once. More wait in the system's backlog.
const MAX_CONNECTIONS: usize = 4096;

/// How long to wait when a connection cannot be accepted, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that accepts requests until it is shut down or dropped.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    app: Arc<App>,
    stop: watch::Sender<bool>,
    accept: JoinHandle<()>,
}

/// Starts a server in a task of the current tokio runtime.
///
/// # Errors
///
/// Options that do not make a server, or an address that cannot be listened on.
///
/// # Cancel safety
///
/// A future that is dropped leaves nothing behind.
pub async fn serve(options: Options) -> Result<Running, ServeError> {
    let app = Arc::new(App::new(&options)?);
    let listener = listen(&options.addr).await?;
    let addr = listener.local_addr().map_err(|source| ServeError::Listen { addr: options.addr, source })?;
    let (stop, stopped) = watch::channel(false);
    let accept = tokio::spawn(accept(listener, app.clone(), stopped));
    Ok(Running { addr, app, stop, accept })
}

impl Running {
    /// Where it listens, with the port that was taken for port 0.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests that it was sent so far, whatever came of them.
    pub fn requests(&self) -> u64 {
        self.app.requests()
    }

    /// Waits so long before each answer from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.app.set_latency(latency);
    }

    /// Fails this share of requests from now on.
    ///
    /// # Errors
    ///
    /// A share that is not between 0 and 1; the one before stays.
    pub fn set_failure_rate(&self, rate: f64) -> Result<(), ServeError> {
        self.app.set_failure_rate(rate)
    }

    /// Accepts nothing more, lets the requests that are under way end, and closes.
    ///
    /// A request takes 10 s at most, and this with it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the server at once, as dropping [`Running`] does.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // The task does not panic, and nothing else aborts it.
        let _ = (&mut self.accept).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The connections go with the set that the task holds.
        self.accept.abort();
    }
}

async fn listen(addr: &str) -> Result<TcpListener, ServeError> {
    let Some((host, port)) = addr.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
    else {
        return Err(ServeError::Address { addr: addr.to_owned() });
    };
    let bound = if host.is_empty() {
        // The IPv6 wildcard takes IPv4 too, where there is IPv6.
        match TcpListener::bind(("::", port)).await {
            Err(err) if err.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(("0.0.0.0", port)).await,
            bound => bound,
        }
    } else {
        TcpListener::bind(addr).await
    };
    bound.map_err(|source| ServeError::Listen { addr: addr.to_owned(), source })
}

async fn accept(listener: TcpListener, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, app.clone(), stopped.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true); // A slower answer is better than none.
    let service = service_fn(|req| app.answer(req));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .half_close(true) // Go answers a client that has closed its sending side.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What goes wrong on a connection is its client's to see.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            let _: Result<(), _> = connection.await;
        }
    }
}

//! The admin pages on a socket.

use std::{convert::Infallible, fs::File, future::Future, pin::pin, sync::Arc, time::Duration};

use http::{Request, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    select,
    sync::{Semaphore, watch},
    time,
};

use super::{reply, target::AnyTarget};
use crate::{
    Body, Svc,
    http::{SocketOptions, graceful, io::Counted},
    telemetry::Scope,
};

/// Connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take for a request's head, or be idle before one.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long answers may take that are not out when the server ends.
const GRACE: Duration = Duration::from_secs(2);
/// What is waited when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How many file descriptors are held ready for connections that come when the process has no other left.
const SPARE: usize = 4;

/// Serves the pages to whoever connects, over HTTP/1.1, until `shutdown`.
///
/// Up to 256 connections are served at a time, each of which may be idle for a minute. After `shutdown` no further
/// one is accepted, and what is being answered has two seconds. A process that has no file descriptor left still serves
/// four connections at a time: theirs are held ready.
///
/// # Cancel safety
///
/// Dropping the future stops accepting and lets open connections finish what they are at.
pub async fn serve(listener: TcpListener, svc: Svc, shutdown: impl Future<Output = ()>) {
    let way = Way { through: Through::Clear, socket: SocketOptions::default(), scope: None };
    serve_through(listener, way, svc, shutdown).await;
}

/// How connections come to the pages.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) through: Through,
    /// For how long nothing may move on them.
    pub(crate) socket: SocketOptions,
    /// Where those are counted that end for it: `read_timeout`, `write_timeout`, if there is such a time.
    pub(crate) scope: Option<Scope>,
}

/// What connections go through.
#[derive(Clone, Debug)]
pub(crate) enum Through {
    /// Nothing.
    Clear,
    /// TLS alone.
    #[cfg(feature = "tls")]
    Tls(crate::tls::Acceptor),
}

/// As [`serve`], for connections that come in this way.
pub(crate) async fn serve_through(listener: TcpListener, way: Way, svc: Svc, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Its receivers are the connections: they see it dropped.
    let (closing, open) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    let mut spare = Spare::default();
    spare.fill();
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = select! {
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                // Not after one was given: it would be taken back before anybody could be accepted with it.
                spare.fill();
                let (way, svc, open) = (way.clone(), svc.clone(), open.clone());
                tokio::spawn(async move {
                    accepted_on(stream, way, svc, open).await;
                    drop(place);
                });
            }
            Err(error) if spare.give() => {
                tracing::debug!(%error, "the admin server takes a file descriptor that it held");
            }
            Err(error) => {
                tracing::warn!(%error, "the admin server could not accept a connection");
                time::sleep(PAUSE).await;
            }
        }
    }
    drop((listener, open, closing));
    // All places are free when all connections have ended.
    let all = places.acquire_many(MAX_CONNECTIONS as u32);
    if time::timeout(GRACE, all).await.is_err() {
        tracing::warn!("the admin server ended before it had answered everything");
    }
}

/// File descriptors that are taken before they are needed.
#[derive(Debug, Default)]
struct Spare(Vec<File>);

impl Spare {
    /// Takes what is missing, if there are any.
    fn fill(&mut self) {
        while self.0.len() < SPARE {
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }

    /// Lets go of one, for what is accepted next. False if there is none.
    fn give(&mut self) -> bool {
        self.0.pop().is_some()
    }
}

async fn accepted_on(stream: TcpStream, way: Way, svc: Svc, open: watch::Receiver<()>) {
    let Way { through, socket, scope } = way;
    let stream = Counted::silent(stream, &socket, scope.as_ref());
    match through {
        Through::Clear => connection(stream, svc, open).await,
        #[cfg(feature = "tls")]
        Through::Tls(tls) => {
            let mut ended = open.clone();
            let accepted = select! {
                accepted = tls.accept(stream) => accepted,
                // As in `connection`.
                _ = ended.changed() => return,
            };
            match accepted {
                Ok((stream, _)) => connection(stream, svc, open).await,
                Err(error) => tracing::info!(error = error.whole(), "an admin connection could not be made secure"),
            }
        }
    }
}

async fn connection<T>(stream: T, svc: Svc, open: watch::Receiver<()>)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let service = service_fn(move |req: Request<Incoming>| {
        let rsp = svc.send(req.map(Body::new));
        async move {
            let failed = |error: crate::Error| reply::error(StatusCode::INTERNAL_SERVER_ERROR, error.text());
            Ok::<_, Infallible>(rsp.await.unwrap_or_else(failed))
        }
    });
    let mut http = http1::Builder::new();
    let io = TokioIo::new(Box::pin(AnyTarget::new(stream)));
    let conn = http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).serve_connection(io, service);
    if let Err(error) = graceful::serve(Box::pin(conn), open).await {
        tracing::debug!(%error, "an admin connection failed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
    };

    use super::{super::Admin, *};
    use crate::telemetry::Registry;

    #[tokio::test]
    async fn pages_are_served_until_shutdown() {
        let (stop, stopped) = oneshot::channel::<()>();
        let stop = std::sync::Mutex::new(Some(stop));
        let admin =
            Admin::builder(Registry::new()).shutdown(move |_| drop(stop.lock().unwrap().take())).build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = async {
            let _ = stopped.await;
        };
        let server = tokio::spawn(serve(listener, admin.into_svc(), shutdown));

        let idle = TcpStream::connect(addr).await.unwrap();
        let mut client = TcpStream::connect(addr).await.unwrap();
        let bad = b"GET /delegator.json?dtab=/a=>&path=/x HTTP/1.1\r\nhost: x\r\n\r\n";
        client.write_all(bad).await.unwrap();
        let mut buf = vec![0; 1024];
        let len = client.read(&mut buf).await.unwrap();
        let rsp = String::from_utf8_lossy(&buf[..len]);
        assert!(rsp.starts_with("HTTP/1.1 400 Bad Request\r\n") && rsp.contains("Invalid dtab: "), "{rsp}");

        client.write_all(b"POST /admin/shutdown HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut rsp = String::new();
        client.read_to_string(&mut rsp).await.unwrap();
        assert!(rsp.ends_with("quitting\n"), "{rsp}");
        server.await.unwrap();
        drop(idle);
        assert!(TcpStream::connect(addr).await.is_err());
    }
}

//! namerd's gRPC interface, `io.l5d.mesh`, as a service over HTTP/2 requests.
//!
//! [`Mesh`] is the service, [`Io`] goes around each connection before it is served: a Linkerd's requests have an empty
//! `:authority`, which strict implementations of HTTP/2 refuse.
//!
//! A stream answers with what is so now and then with each change, one message for a change at most. Nothing waits in
//! line for a slow reader: what it gets next is what is so then.
//!
//! A client has a stream for each name and each set of replicas that it follows, hundreds of them on one connection, and
//! may wait for ever for the first one over a server's limit on streams. So there should be none: the session bounds what
//! is watched, and says so.
//!
//! ```no_run
//! # use hyper::{server::conn::http2, service::service_fn};
//! # use hyper_util::rt::{TokioExecutor, TokioIo};
//! # use linkerd_dtab::namerd::{Namerd, Peer, mesh::{Io, Mesh}};
//! # use tokio::net::TcpListener;
//! # use tower::Service;
//! async fn serve(listener: TcpListener, namerd: Namerd) -> std::io::Result<()> {
//!     let mesh = Mesh::new(namerd.clone());
//!     loop {
//!         let (stream, addr) = listener.accept().await?;
//!         let session = namerd.session(Peer { addr: Some(addr), ..Peer::default() });
//!         let mesh = mesh.clone();
//!         let service = service_fn(move |mut request| {
//!             request.extensions_mut().insert(session.clone());
//!             mesh.clone().call(request)
//!         });
//!         let mut server = http2::Builder::new(TokioExecutor::new());
//!         server.max_concurrent_streams(None);
//!         tokio::spawn(server.serve_connection(TokioIo::new(Io::new(stream)), service));
//!     }
//! }
//! ```

mod answer;
mod codec;
mod delegator;
mod follow;
mod interpreter;
mod io;
mod method;
mod read;
mod resolver;
mod status;

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::Body as HttpBody;
use tonic::Status;
use tower_service::Service as _;

pub use io::Io;
use method::{ENCODING, Method, Service};
use read::{Whole, whole};

use super::{Namerd, Peer, Session};
use crate::{
    mesh::proto::{
        codec_server::CodecServer, delegator_server::DelegatorServer, interpreter_server::InterpreterServer,
        resolver_server::ResolverServer,
    },
    transport::Body,
};

/// The longest request about a name, in bytes: 256 KiB. It has a small table, if any.
pub const MAX_QUESTION: usize = 256 << 10;

/// The longest request of the service `Codec`, in bytes: 1 MiB, as over HTTP.
pub const MAX_TABLE: usize = super::http::MAX_BODY;

/// The gRPC interface of a [`Namerd`]. A clone is the same interface.
///
/// Whoever serves a connection puts its [`Session`] into the extensions of its requests, so that it counts as one client,
/// or else the [`Peer`] that each gets a session for. A request with a bearer token in its `authorization` header has a
/// session of its own.
///
/// A request is refused before it is read if its peer may not read anything. It may have [`MAX_QUESTION`], or to be
/// encoded [`MAX_TABLE`], and ten seconds to come in; all that are being read have what [`Limits`](super::Limits) says.
#[derive(Clone, Debug)]
pub struct Mesh {
    api: Arc<Api>,
}

/// What [`Mesh`] answers with.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The services.
#[derive(Debug)]
struct Api {
    namerd: Namerd,
}

impl Mesh {
    /// The interface of `namerd`.
    #[must_use]
    pub fn new(namerd: Namerd) -> Self {
        Self { api: Arc::new(Api { namerd }) }
    }
}

impl Api {
    /// What the peer of a request may see.
    fn session<T>(&self, request: &tonic::Request<T>) -> Session {
        // Each has one before it is read.
        request.extensions().get().cloned().unwrap_or_else(|| self.namerd.session(Peer::default()))
    }

    /// Gives a request its session. One with a bearer token has its own peer's, not the connection's.
    fn with_session<B>(&self, request: &mut Request<B>) -> Session {
        let token = bearer(request.headers());
        let extensions = request.extensions_mut();
        let connection: Option<Session> = extensions.remove();
        let session = match (connection, token) {
            (Some(session), None) => session,
            (Some(session), Some(token)) => {
                let peer = Peer { token: Some(token), ..session.peer().clone() };
                self.namerd.session(peer).metered(session.meter())
            }
            (None, token) => {
                let peer: Peer = extensions.remove().unwrap_or_default();
                self.namerd.session(Peer { token: token.or(peer.token.clone()), ..peer })
            }
        };
        extensions.insert(session.clone());
        session
    }
}

impl<B> tower_service::Service<Request<B>> for Mesh
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Answering {
        if request.method() != http::Method::POST {
            return Box::pin(async { Ok(answer::not_a_call()) });
        }
        let session = self.api.with_session(&mut request);
        session.meter().request();
        let method = Method::of(request.uri().path());
        let encoding = request.headers_mut().remove(ENCODING);
        let (api, body) = (Arc::clone(&self.api), request.into_body());
        // Nothing else of the request is kept while its body is waited for.
        Box::pin(async move {
            let answer = match api.read(method, body, &session).await {
                Ok((method, body)) => {
                    let request = method.request(body, encoding, session.clone());
                    // Boxed: it is as large as it is only now.
                    Box::pin(api.called(method, request)).await?
                }
                Err(status) => status.into_http(),
            };
            let is_stream = method.is_some_and(Method::is_stream);
            Ok(answer::finish(answer, session.meter(), is_stream))
        })
    }
}

impl Api {
    /// Reads what a method is asked, if there is one and its caller may ask anything.
    async fn read<B>(&self, method: Option<Method>, body: B, session: &Session) -> Result<(Method, Whole), Status>
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        session.may_do_something()?;
        let method = method.ok_or_else(status::unknown_method)?;
        Ok((method, whole(body, method.limit(), session.reading()).await?))
    }

    async fn called(
        self: Arc<Self>,
        method: Method,
        request: Request<Whole>,
    ) -> Result<Response<tonic::body::Body>, Infallible> {
        let limit = method.limit();
        match method.service {
            Service::Interpreter => {
                InterpreterServer::from_arc(self).max_decoding_message_size(limit).call(request).await
            }
            Service::Resolver => ResolverServer::from_arc(self).max_decoding_message_size(limit).call(request).await,
            Service::Delegator => DelegatorServer::from_arc(self).max_decoding_message_size(limit).call(request).await,
            Service::Codec => CodecServer::from_arc(self).max_decoding_message_size(limit).call(request).await,
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<Arc<str>> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    fn peer_of(api: &Api, mut request: Request<()>) -> Peer {
        api.with_session(&mut request);
        api.session(&tonic::Request::from_http(request)).peer().clone()
    }

    #[test]
    fn the_connections_session_asks_and_a_token_has_one_of_its_own() {
        let api = Api { namerd: Namerd::builder(Memory::default()).build() };
        let named = Peer { name: Some("linkerd-1".into()), is_read_only: true, ..Peer::default() };
        assert_eq!(peer_of(&api, Request::new(())), Peer::default());

        let with = |token: Option<&str>| {
            let mut request = Request::new(());
            request.extensions_mut().insert(api.namerd.session(named.clone()));
            if let Some(token) = token {
                request.headers_mut().insert(header::AUTHORIZATION, token.parse().unwrap());
            }
            request
        };
        assert_eq!(peer_of(&api, with(None)), named);
        assert_eq!(peer_of(&api, with(Some("Basic abc"))), named);
        let with_secret = Peer { token: Some("secret".into()), ..named.clone() };
        assert_eq!(peer_of(&api, with(Some("bearer secret"))), with_secret);
    }
}

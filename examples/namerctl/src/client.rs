//! HTTP/1.1, a connection for each request.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1, ext::ReasonPhrase};
use hyper_util::rt::TokioIo;
use linkerd_core::{
    BoxError,
    tls::{ClientSettings, Connector, IdentityFiles, Metrics},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{
    base::Base,
    error::{Error, plain},
};

/// How long a connection, and then the head of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// When a silent peer is asked whether it is there: gone after 30 seconds.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);

/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 64 << 20;

/// Which certificates to trust, and which to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// Asks one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    base: Base,
    tls: Option<Connector>,
    bearer: Option<HeaderValue>,
}

/// What a request consists of, but for the server.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Begins with a slash, and is encoded.
    pub(crate) path: String,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) body: Bytes,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Bytes,
}

impl Client {
    /// Asks the server at `base`; reads the files of `tls` if that is over https.
    pub(crate) fn new(base: Base, tls: &Tls, token: Option<&str>) -> Result<Self, Error> {
        let connector = if base.secure { Some(connector(&base, tls)?) } else { None };
        let bearer = match token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| Error::Other("the token has characters that no header may have".into()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { base, tls: connector, bearer })
    }

    /// The URL of a path, for messages.
    pub(crate) fn url(&self, path: &str) -> String {
        self.base.url(path)
    }

    /// The answer, with its body.
    pub(crate) async fn ask(&self, call: Call) -> Result<Answer, Error> {
        let (method, path) = (call.method.clone(), call.path.clone());
        let rsp = self.open(call).await?;
        self.read(method, &path, rsp).await
    }

    /// Reads the body of an answer that is to come to an end.
    pub(crate) async fn read(&self, method: Method, path: &str, rsp: Response<Incoming>) -> Result<Answer, Error> {
        let (action, url) = (action(&method), self.base.url(path));
        let (head, body) = rsp.into_parts();
        let failed = |reason: String| Error::NoAnswer { action, url: url.clone(), reason };
        let collected = timeout(PATIENCE, Limited::new(body, MAX_BYTES).collect()).await;
        let body = collected.map_err(|_| failed("the answer does not end".into()))?;
        let broken = |error: &BoxError| {
            if error.is::<LengthLimitError>() {
                format!("an answer of more than {MAX_BYTES} bytes")
            } else {
                told(&**error)
            }
        };
        let body = body.map_err(|error| failed(broken(&error)))?.to_bytes();
        Ok(Answer { head, body })
    }

    /// The answer, whose body is still to come.
    pub(crate) async fn open(&self, call: Call) -> Result<Response<Incoming>, Error> {
        let (action, url) = (action(&call.method), self.base.url(&call.path));
        let failed = |reason| Error::NoAnswer { action, url: url.clone(), reason };
        let req = self.request(call)?;
        let stream = self.connect().await.map_err(failed)?;
        let sent = async {
            match &self.tls {
                None => exchange(stream, req).await,
                Some(tls) => {
                    let addr = stream.peer_addr().map_err(|error| plain(&error))?.ip();
                    let (stream, _) = tls.connect(addr, stream).await.map_err(|error| told(&error))?;
                    exchange(stream, req).await
                }
            }
        };
        timeout(PATIENCE, sent).await.map_err(|_| failed("no answer in time".into()))?.map_err(failed)
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, Error> {
        let path = format!("{}{}", self.base.prefix, call.path);
        let mut req = Request::builder()
            .method(call.method)
            .uri(path)
            .header(header::HOST, &self.base.authority)
            .header(header::USER_AGENT, concat!("namerctl/", env!("CARGO_PKG_VERSION")));
        if let Some(bearer) = &self.bearer {
            req = req.header(header::AUTHORIZATION, bearer);
        }
        for (name, value) in call.headers {
            req = req.header(name, value);
        }
        req.body(Full::new(call.body)).map_err(|error| Error::Other(error.to_string()))
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let (host, port) = self.base.host_and_port();
        let connected = timeout(PATIENCE, TcpStream::connect((host, port))).await;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match connected {
            Ok(Ok(stream)) => {
                // A watch says nothing for hours: without this a peer that vanished would be waited for without end.
                SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE).map_err(|error| plain(&error))?;
                Ok(stream)
            }
            // As the original tells it, which names the call that failed.
            Ok(Err(error)) if error.raw_os_error().is_some() => {
                Err(format!("dial tcp {address}: connect: {}", plain(&error)))
            }
            Ok(Err(error)) => Err(format!("dial tcp: lookup {host}: {}", plain(&error))),
            Err(_) => Err(format!("dial tcp {address}: {}", io::ErrorKind::TimedOut)),
        }
    }
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(crate) fn with_body(mut self, kind: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.with_header(header::CONTENT_TYPE, kind)
    }
}

impl Answer {
    /// The code and the reason, as the server worded it: `412 Precondition Failed`.
    pub(crate) fn status(&self) -> String {
        let status = self.head.status;
        let said = self.head.extensions.get::<ReasonPhrase>();
        let said = said.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
        let reason = said.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_owned());
        format!("{} {reason}", status.as_u16()).trim_end().to_owned()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: header::HeaderName) -> Option<String> {
        self.head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::BadAnswer(format!("an answer that is not as expected: {error}")))
    }
}

fn connector(base: &Base, tls: &Tls) -> Result<Connector, Error> {
    let identity = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Some(IdentityFiles::new(cert, key)),
        (None, None) => None,
        _ => return Err(Error::Other("--cert and --key go together".into())),
    };
    let settings = ClientSettings { roots: tls.ca.iter().cloned().collect(), identity, ..ClientSettings::default() };
    Ok(Connector::load(settings, &Metrics::default())?.named(base.host_and_port().0))
}

async fn exchange<I>(io: I, req: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| told(&error))?;
    // Ends with the answer's body, or with the process.
    tokio::spawn(connection);
    sender.send_request(req).await.map_err(|error| told(&error))
}

/// An error and what it comes from, in one line.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.extend([": ", &cause.to_string()]);
        source = cause.source();
    }
    text
}

/// The method as the original's errors have it: `Get`.
fn action(method: &Method) -> &'static str {
    match *method {
        Method::POST => "Post",
        Method::PUT => "Put",
        Method::DELETE => "Delete",
        _ => "Get",
    }
}

//! The call that a server makes before it answers.

use std::{io, net::SocketAddr, sync::Mutex};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{HOST, USER_AGENT},
    uri::{PathAndQuery, Uri},
};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};

use crate::{Options, ServeError, proxy};

/// An answer of more bytes is an error: a stand-in holds it whole.
const MAX_BODY: usize = 1 << 20;

/// Connections that wait for the next call; one more is closed.
const MAX_IDLE: usize = 64;

/// A service to call, directly or through a proxy.
#[derive(Debug)]
pub(crate) struct Target {
    // `http://` and the target, as the messages have it.
    url: String,
    // What stands in the request line: the whole URL for a proxy, else the path.
    uri: Uri,
    host: HeaderValue,
    connect_to: String,
    via_proxy: bool,
    // The one used last is used next.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

/// Why a call brought no text. The text of an error is an answer's body, so it holds its cause: it is worded as by Go's client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("invalid response {}", .0.as_u16())]
    Status(StatusCode),
    #[error("Get \"{url}\": {problem}")]
    Get { url: String, problem: String },
    #[error("{0}")]
    Body(String),
}

impl Target {
    /// The target and proxy of `options`; `None` without a target.
    ///
    /// # Errors
    ///
    /// A target or proxy that makes no URL.
    pub(crate) fn new(options: &Options) -> Result<Option<Self>, ServeError> {
        let Some(target) = &options.target else { return Ok(None) };
        let invalid = |problem| ServeError::Target { target: target.clone(), problem };

        let url = format!("http://{target}");
        let parts = url.parse::<Uri>().map_err(|_| invalid("does not make a URL"))?.into_parts();
        let authority = parts.authority.ok_or_else(|| invalid("has no host"))?;
        let direct = proxy::host_port(&authority).map_err(invalid)?;
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| invalid("does not make a Host header"))?;
        let port = authority.port_u16().unwrap_or(80);
        let proxy = proxy::choose(options.http_proxy.as_deref(), options.no_proxy.as_deref(), authority.host(), port)?;

        let via_proxy = proxy.is_some();
        let mut uri = Uri::builder().path_and_query(path);
        if via_proxy {
            uri = uri.scheme("http").authority(authority);
        }
        let uri = uri.build().map_err(|_| invalid("does not make a URL"))?;
        Ok(Some(Self { url, uri, host, connect_to: proxy.unwrap_or(direct), via_proxy, idle: Mutex::default() }))
    }

    /// Gets the target's text, sending the headers of `context` and no others of the request that asked for it.
    ///
    /// # Errors
    ///
    /// Any status but 200, and whatever kept an answer from coming. A redirect is not followed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the call and its connection up.
    pub(crate) async fn call(&self, context: &HeaderMap) -> Result<Bytes, CallError> {
        let (rsp, sender) =
            self.send(context).await.map_err(|problem| CallError::Get { url: self.url.clone(), problem })?;
        let status = rsp.status();
        let body = Limited::new(rsp.into_body(), MAX_BODY).collect().await.map_err(|err| {
            if err.is::<LengthLimitError>() {
                CallError::Body(format!("response body is over {MAX_BODY} bytes"))
            } else {
                CallError::Body("unexpected EOF".into())
            }
        });
        if body.is_ok() {
            let mut idle = self.idle.lock().expect("nothing panics while it is held");
            if idle.len() < MAX_IDLE {
                idle.push(sender);
            }
        }
        if status != StatusCode::OK {
            return Err(CallError::Status(status));
        }
        Ok(body?.to_bytes())
    }

    async fn send(&self, context: &HeaderMap) -> Result<(Response<Incoming>, SendRequest<Empty<Bytes>>), String> {
        // A connection that waited may have been closed meanwhile, and a GET may be sent again.
        while let Some(mut sender) = self.reuse() {
            if sender.ready().await.is_ok()
                && let Ok(rsp) = sender.send_request(self.request(context)).await
            {
                return Ok((rsp, sender));
            }
        }
        let mut sender = self.connect().await?;
        let rsp = sender.send_request(self.request(context)).await.map_err(|err| {
            if err.is_incomplete_message() || err.is_canceled() { "EOF".to_owned() } else { chain(&err) }
        })?;
        Ok((rsp, sender))
    }

    fn reuse(&self) -> Option<SendRequest<Empty<Bytes>>> {
        self.idle.lock().expect("nothing panics while it is held").pop()
    }

    fn request(&self, context: &HeaderMap) -> Request<Empty<Bytes>> {
        let mut req = Request::new(Empty::new());
        *req.uri_mut() = self.uri.clone();
        let headers = req.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("helloworld/", env!("CARGO_PKG_VERSION"))));
        headers.extend(context.clone());
        req
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = self
            .dial()
            .await
            .map_err(|problem| if self.via_proxy { format!("proxyconnect tcp: {problem}") } else { problem })?;
        let (sender, conn) = http1::handshake(TokioIo::new(stream)).await.map_err(|err| chain(&err))?;
        // Ends when the sender is dropped or the peer closes. What fails is told to the sender.
        tokio::spawn(conn);
        Ok(sender)
    }

    async fn dial(&self) -> Result<TcpStream, String> {
        let address = &self.connect_to;
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let resolved = lookup_host(address).await.map_err(|_| format!("dial tcp: lookup {host}: no such host"))?;
        let mut first = None;
        for addr in resolved {
            match TcpStream::connect(addr).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true); // A slower call is better than none.
                    return Ok(stream);
                }
                Err(err) => first.get_or_insert_with(|| refusal(addr, &err)),
            };
        }
        Err(first.unwrap_or_else(|| format!("dial tcp: lookup {host}: no such host")))
    }
}

fn refusal(addr: SocketAddr, err: &io::Error) -> String {
    let why = match err.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => err.to_string(),
    };
    format!("dial tcp {addr}: connect: {why}")
}

fn chain(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |&cause| cause.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(target: &str, http_proxy: Option<&str>) -> Result<Target, ServeError> {
        let http_proxy = http_proxy.map(str::to_owned);
        let options = Options { target: Some(target.to_owned()), http_proxy, ..Options::default() };
        Target::new(&options).map(|target| target.expect("has one"))
    }

    #[test]
    fn a_direct_call_has_the_path_and_a_proxied_one_the_whole_url() {
        let direct = target("world", None).unwrap();
        assert_eq!((direct.uri.to_string().as_str(), direct.connect_to.as_str()), ("/", "world:80"));
        let proxied = target("world:7778/a?b=c", Some("l5d:4140")).unwrap();
        assert_eq!(proxied.uri.to_string(), "http://world:7778/a?b=c");
        assert_eq!((proxied.connect_to.as_str(), proxied.host.to_str().unwrap()), ("l5d:4140", "world:7778"));
    }

    #[test]
    fn a_bad_target_is_named() {
        for (bad, text) in [
            ("wor ld", "target \"wor ld\" does not make a URL"),
            ("world:99999", "target \"world:99999\" has a bad port"),
            ("me@world", "target \"me@world\" has a user name, which is not supported"),
            ("/world", "target \"/world\" does not make a URL"),
        ] {
            assert_eq!(target(bad, None).unwrap_err().to_string(), text);
        }
    }
}

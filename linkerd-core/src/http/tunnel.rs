//! What becomes of a connection whose protocol was switched: its bytes go both ways, and nobody looks at them.

use std::pin::Pin;

use http::{HeaderMap, HeaderName, HeaderValue, Response, Version, header::UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::headers;
use crate::Body;

/// Two connections that are to become one. What rides on the endpoint's answer (the endpoint's lease, its connection, a
/// line of an access log) ends with it, and so does the request's place among those that are served.
pub(crate) struct Tunnel<V> {
    client: OnUpgrade,
    endpoint: OnUpgrade,
    _answer: Body,
    _visit: V,
}

impl<V> Tunnel<V> {
    /// Takes apart the answer of an endpoint that switched; what is left of it goes to the client. `None` if the answer
    /// does not come from a connection.
    pub(crate) fn open(client: OnUpgrade, rsp: &mut Response<Body>, visit: V) -> Option<Self> {
        let endpoint = rsp.extensions_mut().remove::<OnUpgrade>()?;
        Some(Self { client, endpoint, _answer: std::mem::take(rsp.body_mut()), _visit: visit })
    }

    /// Passes bytes until both sides have closed, one has failed, or `limit` is ready.
    pub(crate) async fn run(self, limit: Option<Pin<Box<impl Future<Output = ()>>>>) {
        let passing = async {
            let (client, endpoint) = futures::future::try_join(self.client, self.endpoint).await?;
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            copy_bidirectional(&mut client, &mut endpoint).await?;
            Ok::<_, crate::BoxError>(())
        };
        let over = async {
            match limit {
                Some(limit) => limit.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            passed = passing => {
                if let Err(error) = passed {
                    tracing::debug!(error, "a tunnel failed");
                }
            }
            () = over => {}
        }
    }
}

/// The protocol that a request asks to go on with, if it may be passed on: one, of a client that speaks 1.1, named by
/// `Connection`. HTTP/2 is for each hop to speak or not, wherever it stands among others: an endpoint that takes it would
/// be spoken to past all that is done with requests here.
pub(crate) fn asked(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let mut values = headers.get_all(UPGRADE).iter();
    let (Some(protocol), None) = (values.next(), values.next()) else { return None };
    // `h2c;x` and `h2c/1` are read as h2c by some.
    let is_h2 = protocol
        .as_bytes()
        .split(|byte| b",;/ \t".contains(byte))
        .any(|name| [&b"h2c"[..], b"h2"].iter().any(|h2| name.eq_ignore_ascii_case(h2)));
    let is_asked =
        version == Version::HTTP_11 && !is_h2 && headers::names(headers, &http::header::CONNECTION, "upgrade");
    is_asked.then(|| protocol.clone())
}

/// Writes what `Connection` and `Upgrade` say on a message, where what ends at this hop was taken out.
pub(crate) fn write(headers: &mut HeaderMap, protocol: HeaderValue) {
    const CONNECTION: HeaderName = http::header::CONNECTION;
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_passed_on_is() {
        let asked = |headers: &[(&'static str, &'static str)], version| {
            let headers = headers.iter();
            let map = headers.map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            super::asked(&map.collect(), version).map(|protocol| protocol.to_str().unwrap().to_owned())
        };
        let (connection, websocket) = (("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"));
        assert_eq!(asked(&[connection, websocket], Version::HTTP_11).as_deref(), Some("websocket"));
        assert_eq!(asked(&[connection, websocket], Version::HTTP_10), None);
        assert_eq!(asked(&[websocket], Version::HTTP_11), None);
        assert_eq!(asked(&[connection], Version::HTTP_11), None);
        for h2 in ["h2c", "H2C", "h2c, websocket", "websocket,h2c", ",h2c", "h2c;x", "h2c/1", "h2", "foo,\th2c "] {
            assert_eq!(asked(&[connection, ("upgrade", h2)], Version::HTTP_11), None, "{h2}");
        }
        assert!(asked(&[connection, ("upgrade", "h2cx, websocket")], Version::HTTP_11).is_some());
    }
}

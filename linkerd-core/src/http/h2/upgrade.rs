//! `Upgrade: h2c`: a connection that begins with a request of HTTP/1.1 and goes on in HTTP/2, where the answer is on stream 1.
//!
//! No server of `h2` begins with a stream that is open already. So what it reads is what the client sends, and behind the
//! client's settings the request, as the frame that it would have been.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, Method, Uri, Version,
    header::{CONNECTION, EXPECT, HOST, UPGRADE},
    request,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::headers;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// What every peer takes.
const MAX_FRAME: usize = 16 * 1024;

/// A connection that goes on in HTTP/2.
pub(crate) struct Upgrade {
    client: OnUpgrade,
    request: Bytes,
}

impl Upgrade {
    /// The request as a frame, if it asks to go on in HTTP/2 and can: it is well-formed, and all of it is here.
    pub(crate) fn asked(parts: &mut request::Parts, has_body: bool) -> Option<Box<Self>> {
        let asks = |name, word| headers::names(&parts.headers, name, word);
        let is_asked = parts.version == Version::HTTP_11
            && asks(&UPGRADE, "h2c")
            && asks(&CONNECTION, "upgrade")
            && asks(&CONNECTION, HTTP2_SETTINGS.as_str());
        if !is_asked || has_body || parts.method == Method::CONNECT || !has_settings(&parts.headers) {
            return None;
        }
        let request = frame(&parts.method, &parts.uri, &parts.headers)?;
        Some(Box::new(Self { client: parts.extensions.remove()?, request }))
    }

    /// The connection, once the client was told.
    pub(crate) async fn begin(self) -> hyper::Result<Upgraded<TokioIo<hyper::upgrade::Upgraded>>> {
        let inner = TokioIo::new(self.client.await?);
        Ok(Upgraded { inner, request: self.request, at: At::Preface { left: PREFACE_LEN } })
    }
}

/// Whether there is one `HTTP2-Settings`, and it holds settings. They come again in the first frame.
fn has_settings(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&HTTP2_SETTINGS).iter();
    let (Some(settings), None) = (values.next(), values.next()) else { return false };
    URL_SAFE_NO_PAD.decode(settings.as_bytes()).is_ok_and(|settings| settings.len() % 6 == 0)
}

/// A request without a body as the frame that opens stream 1 and ends its half. `None` if it is too long for one.
fn frame(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Bytes> {
    const HEADERS: u8 = 1;
    const END_STREAM_AND_HEADERS: u8 = 5;
    let authority = match uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => headers.get(HOST)?.as_bytes(),
    };
    let mut headers = headers.clone();
    let authority = authority.to_vec();
    headers::strip_hop_by_hop(&mut headers);
    for name in [HOST, EXPECT, HTTP2_SETTINGS, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
    headers.remove("proxy-connection");
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut fields = BytesMut::with_capacity(512);
    for (name, value) in [
        (":method", method.as_str().as_bytes()),
        (":scheme", b"http"),
        (":authority", &authority),
        (":path", path.as_bytes()),
    ] {
        field(&mut fields, name, value);
    }
    for (name, value) in &headers {
        field(&mut fields, name.as_str(), value.as_bytes());
    }
    let len = fields.len();
    (len <= MAX_FRAME).then(|| {
        let mut frame = BytesMut::with_capacity(9 + len);
        frame.extend_from_slice(&[0, (len >> 8) as u8, len as u8, HEADERS, END_STREAM_AND_HEADERS, 0, 0, 0, 1]);
        frame.extend_from_slice(&fields);
        frame.freeze()
    })
}

/// A field that nobody remembers, in its own words: RFC 7541, section 6.2.2.
fn field(to: &mut BytesMut, name: &str, value: &[u8]) {
    to.extend_from_slice(&[0]);
    for text in [name.as_bytes(), value] {
        const FULL: usize = 127;
        let mut len = text.len();
        if len < FULL {
            to.extend_from_slice(&[len as u8]);
        } else {
            to.extend_from_slice(&[FULL as u8]);
            len -= FULL;
            while len >= 128 {
                to.extend_from_slice(&[(len % 128) as u8 | 128]);
                len /= 128;
            }
            to.extend_from_slice(&[len as u8]);
        }
        to.extend_from_slice(text);
    }
}

const PREFACE_LEN: usize = 24;
const HEAD_LEN: usize = 9;

/// What a client sends, with its request behind its first frame.
pub(crate) struct Upgraded<I> {
    inner: I,
    request: Bytes,
    at: At,
}

/// Where in what the client sends.
enum At {
    Preface {
        left: usize,
    },
    /// The first nine bytes of the first frame: so many were seen, and its length so far.
    Head {
        seen: usize,
        len: usize,
    },
    Frame {
        left: usize,
    },
    Request,
    Rest,
}

impl At {
    /// How many bytes may be read before something else is to be done. `None`: any number.
    fn most(&self) -> Option<usize> {
        match self {
            Self::Preface { left } | Self::Frame { left } => Some(*left),
            Self::Head { seen, .. } => Some(HEAD_LEN - seen),
            Self::Request | Self::Rest => None,
        }
    }

    /// Goes past these, of which there are no more than that.
    fn pass(&mut self, bytes: &[u8]) {
        match self {
            Self::Preface { left } | Self::Frame { left } => *left -= bytes.len(),
            Self::Head { seen, len } => {
                for byte in bytes {
                    if *seen < 3 {
                        *len = *len << 8 | usize::from(*byte);
                    }
                    *seen += 1;
                }
            }
            Self::Request | Self::Rest => {}
        }
        *self = match std::mem::replace(self, Self::Rest) {
            Self::Preface { left: 0 } => Self::Head { seen: 0, len: 0 },
            Self::Head { seen: HEAD_LEN, len: 0 } | Self::Frame { left: 0 } => Self::Request,
            Self::Head { seen: HEAD_LEN, len } => Self::Frame { left: len },
            at => at,
        };
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Upgraded<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if matches!(this.at, At::Request) {
            let len = this.request.len().min(buf.remaining());
            buf.put_slice(&this.request[..len]);
            this.request.advance(len);
            if this.request.is_empty() {
                this.at = At::Rest;
            }
            return Poll::Ready(Ok(()));
        }
        let Some(most) = this.at.most() else { return Pin::new(&mut this.inner).poll_read(cx, buf) };
        // Once for each of two short pieces.
        let mut bytes = [0; 256];
        let most = most.min(bytes.len()).min(buf.remaining());
        let mut part = ReadBuf::new(&mut bytes[..most]);
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
        this.at.pass(part.filled());
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Upgraded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn parts(req: http::request::Builder) -> request::Parts {
        let req = req.header("connection", "Upgrade, HTTP2-Settings").header("upgrade", "h2c");
        req.body(()).unwrap().into_parts().0
    }

    fn framed(req: http::request::Builder) -> Option<Bytes> {
        let parts = parts(req);
        frame(&parts.method, &parts.uri, &parts.headers)
    }

    #[test]
    fn a_request_is_a_frame_without_what_belongs_to_the_connection() {
        let req = Request::get("/a?b").header("host", "web").header("x-one", "1").header("http2-settings", "");
        let expected: [&[u8]; 6] = [
            b"\0\0\x40\x01\x05\0\0\0\x01",
            b"\0\x07:method\x03GET",
            b"\0\x07:scheme\x04http",
            b"\0\x0a:authority\x03web",
            b"\0\x05:path\x04/a?b",
            b"\0\x05x-one\x011",
        ];
        assert_eq!(framed(req).unwrap(), expected.concat());
        assert_eq!(framed(Request::get("/")), None, "nobody's");
        assert_eq!(framed(Request::get("/").header("host", "web").header("x", "x".repeat(MAX_FRAME))), None);
    }

    #[test]
    fn lengths_are_those_of_hpack() {
        for (len, expected) in [(126, &[126][..]), (127, &[127, 0]), (254, &[127, 127]), (255, &[127, 128, 1])] {
            let mut to = BytesMut::new();
            field(&mut to, "n", "v".repeat(len).as_bytes());
            assert_eq!(&to[..3 + expected.len()], [&[0, 1, b'n'], expected].concat());
            assert_eq!(to.len(), 3 + expected.len() + len);
        }
    }

    #[test]
    fn settings_are_one_and_well_formed() {
        for (settings, expected) in [
            (&["AAMAAABkAARAAAAAAAIAAAAA"][..], true),
            (&[""], true),
            (&["AAMAAABk"], true),
            (&["AAMAAAB"], false),
            (&["AAM="], false),
            (&["", ""], false),
            (&[], false),
        ] {
            let headers = settings.iter().map(|text| (HTTP2_SETTINGS, http::HeaderValue::from_static(text)));
            assert_eq!(has_settings(&headers.collect()), expected, "{settings:?}");
        }
    }

    #[tokio::test]
    async fn the_request_comes_behind_the_first_frame() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for settings in [&b"\0\0\0\x04\0\0\0\0\0"[..], b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"] {
            // Byte by byte, as it may come, and all at once.
            for piece in [1, 1024] {
                let (mut to, from) = tokio::io::duplex(piece);
                let sent = [&preface[..], settings, b"rest"].concat();
                let write = async move { to.write_all(&sent).await.unwrap() };
                let request = Bytes::from_static(b"request");
                let mut upgraded = Upgraded { inner: from, request, at: At::Preface { left: PREFACE_LEN } };
                let mut read = Vec::new();
                let ((), whole) = tokio::join!(write, upgraded.read_to_end(&mut read));
                whole.unwrap();
                assert_eq!(read, [&preface[..], settings, b"requestrest"].concat());
            }
        }
    }
}

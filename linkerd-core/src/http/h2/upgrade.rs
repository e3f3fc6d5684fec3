//! `Upgrade: h2c`: a connection that begins with a request of HTTP/1.1 and goes on in HTTP/2, where the answer is on stream 1.
//!
//! No server of `h2` begins with a stream that is open already, or with settings that it heard of elsewhere. So what it
//! reads is what the client sends, the settings of the request's header in the first frame of settings, and behind that
//! the request, as the frame that it would have been.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, Method, Uri, Version,
    header::{CONNECTION, EXPECT, HOST, UPGRADE},
    request,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::{headers, io::forward};

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// What every peer takes.
const MAX_FRAME: usize = 16 * 1024;

/// A connection that goes on in HTTP/2.
pub(crate) struct Upgrade {
    client: OnUpgrade,
    settings: Bytes,
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
        if !is_asked || has_body || parts.method == Method::CONNECT {
            return None;
        }
        let settings = settings(&parts.headers)?;
        let request = frame(&parts.method, &parts.uri, &parts.headers)?;
        Some(Box::new(Self { client: parts.extensions.remove()?, settings, request }))
    }

    /// The connection, once the client was told.
    pub(crate) async fn begin(self) -> hyper::Result<Upgraded<TokioIo<hyper::upgrade::Upgraded>>> {
        let inner = TokioIo::new(self.client.await?);
        Ok(Upgraded::new(inner, self.settings, self.request))
    }
}

/// What the one `HTTP2-Settings` says, as in a frame: of each setting the last value. `None` if it says nothing that can
/// be understood.
fn settings(headers: &HeaderMap) -> Option<Bytes> {
    /// Those that there are: further ones mean nothing here.
    const LAST: u16 = 6;
    let mut values = headers.get_all(&HTTP2_SETTINGS).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let said = URL_SAFE_NO_PAD.decode(value.as_bytes()).ok().filter(|said| said.len() % 6 == 0)?;
    let last = |id: u16| said.chunks_exact(6).rfind(|setting| setting[..2] == id.to_be_bytes());
    Some((1..=LAST).filter_map(last).flatten().copied().collect())
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

/// What a client sends, with the settings of its header in its first frame, and its request behind that.
pub(crate) struct Upgraded<I> {
    inner: I,
    settings: Bytes,
    request: Bytes,
    at: At,
    /// What is given before anything else is read.
    held: Bytes,
}

/// Where in what the client sends.
enum At {
    Preface { left: usize },
    Head { head: [u8; HEAD_LEN], seen: usize },
    Frame { left: usize },
    Rest,
}

impl<I> Upgraded<I> {
    fn new(inner: I, settings: Bytes, request: Bytes) -> Self {
        Self { inner, settings, request, at: At::Preface { left: PREFACE_LEN }, held: Bytes::new() }
    }

    /// How many bytes may be read before something else is to be done. `None`: any number.
    fn most(&self) -> Option<usize> {
        match &self.at {
            At::Preface { left } | At::Frame { left } => Some(*left),
            At::Head { seen, .. } => Some(HEAD_LEN - seen),
            At::Rest => None,
        }
    }

    /// Goes past these, of which there are no more than that. Whether they are to be given as they are.
    fn pass(&mut self, bytes: &[u8]) -> bool {
        match &mut self.at {
            At::Preface { left } => {
                *left -= bytes.len();
                if *left == 0 {
                    self.at = At::Head { head: [0; HEAD_LEN], seen: 0 };
                }
            }
            At::Head { head, seen } => {
                head[*seen..*seen + bytes.len()].copy_from_slice(bytes);
                *seen += bytes.len();
                if *seen == HEAD_LEN {
                    let head = *head;
                    self.begin_frame(head);
                }
                return false;
            }
            At::Frame { left } => {
                *left -= bytes.len();
                if *left == 0 {
                    self.held = std::mem::take(&mut self.request);
                    self.at = At::Rest;
                }
            }
            At::Rest => {}
        }
        true
    }

    /// Puts the settings of the header before those of the frame, which hold where both say something. Not as a frame
    /// of their own: that would be acknowledged, and the client has sent one alone.
    fn begin_frame(&mut self, mut head: [u8; HEAD_LEN]) {
        const SETTINGS: u8 = 4;
        let left = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut held = BytesMut::new();
        let whole = left + self.settings.len();
        // What else it may be h2 refuses.
        if head[3..] == [SETTINGS, 0, 0, 0, 0, 0] && whole <= MAX_FRAME {
            head[1..3].copy_from_slice(&[(whole >> 8) as u8, whole as u8]);
            held.extend_from_slice(&head);
            held.extend_from_slice(&self.settings);
        } else {
            held.extend_from_slice(&head);
        }
        self.at = At::Frame { left };
        if left == 0 {
            held.extend_from_slice(&self.request);
            self.at = At::Rest;
        }
        self.held = held.freeze();
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Upgraded<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.held.is_empty() {
                let len = this.held.len().min(buf.remaining());
                buf.put_slice(&this.held.split_to(len));
                return Poll::Ready(Ok(()));
            }
            let Some(most) = this.most() else { return Pin::new(&mut this.inner).poll_read(cx, buf) };
            // Once for each of some short pieces.
            let mut bytes = [0; 256];
            let most = most.min(bytes.len()).min(buf.remaining());
            let mut part = ReadBuf::new(&mut bytes[..most]);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
            if this.pass(part.filled()) || part.filled().is_empty() {
                buf.put_slice(part.filled());
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Upgraded<I> {
    forward!(inner: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
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
    fn settings_are_one_header_and_well_formed() {
        for (said, expected) in [
            (&["AAMAAABkAARAAAAAAAIAAAAA"][..], Some(&b"\0\x02\0\0\0\0\0\x03\0\0\0\x64\0\x04\x40\0\0\0"[..])),
            // Twice the same, and one that there is not.
            (&["AAMAAABkAAMAAAAB_wAAAAAA"], Some(b"\0\x03\0\0\0\x01")),
            (&[""], Some(b"")),
            (&["AAMAAAB"], None),
            (&["AAM="], None),
            (&["", ""], None),
            (&[], None),
        ] {
            let headers = said.iter().map(|text| (HTTP2_SETTINGS, http::HeaderValue::from_static(text)));
            assert_eq!(settings(&headers.collect()).as_deref(), expected, "{said:?}");
        }
    }

    #[tokio::test]
    async fn the_settings_of_the_header_come_in_the_first_frame_and_the_request_behind_it() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let (mine, ack) = (b"\0\x04\0\0\0\x05", b"\0\0\0\x04\x01\0\0\0\0");
        let none = b"\0\0\0\x04\0\0\0\0\0";
        let one = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        for (frame, mine, expected) in [
            (&none[..], &mine[..], &b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\x05"[..]),
            (one, mine, b"\0\0\x0c\x04\0\0\0\0\0\0\x04\0\0\0\x05\0\x03\0\0\0\x64"),
            (none, b"", none),
            (one, b"", one),
            // It is not for us to mend.
            (ack, mine, ack),
        ] {
            // Byte by byte, as it may come, and all at once.
            for piece in [1, 1024] {
                let (mut to, from) = tokio::io::duplex(piece);
                let sent = [&preface[..], frame, b"rest"].concat();
                let write = async move { to.write_all(&sent).await.unwrap() };
                let (mine, request) = (Bytes::copy_from_slice(mine), Bytes::from_static(b"request"));
                let mut upgraded = Upgraded::new(from, mine, request);
                let mut read = Vec::new();
                let ((), whole) = tokio::join!(write, upgraded.read_to_end(&mut read));
                whole.unwrap();
                assert_eq!(read, [&preface[..], expected, b"requestrest"].concat());
            }
        }
    }
}

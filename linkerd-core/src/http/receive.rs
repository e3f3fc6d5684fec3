//! What an endpoint answered, on its way up.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{
    Extensions, HeaderMap, HeaderValue, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    response,
};
use http_body::{Body as _, Frame};
use hyper::{body::Incoming, ext::ReasonPhrase};

use super::{ClientConfig, headers::has_other_codings, pool::Live};
use crate::{Body, BoxError, Error, ErrorKind, body::Rider};

/// A response.
pub(crate) enum Received {
    /// It goes up as it is.
    Now(Response<Body>),
    /// Its body is read whole first.
    Later(Reading),
}

/// Reads a response whole.
pub(crate) struct Reading {
    // All there until the response is.
    rest: Option<Rest>,
    start: Bytes,
    more: BytesMut,
    limit: usize,
}

/// The body of an answer after which there are no messages: it has no end of its own, so that what rides on it stays.
struct Endless;

struct Rest {
    parts: response::Parts,
    has_coding: bool,
    incoming: Incoming,
    live: Live,
}

/// What a response depends on of its request.
pub(crate) struct Asked {
    pub(crate) version: Version,
    /// The protocols that it offers to go on with. In a box, for it is seldom.
    pub(crate) offered: Option<Box<HeaderValue>>,
}

/// Checks a response, and tells whether it is read whole. `extensions` are those of its request.
pub(crate) fn receive(
    rsp: Response<Incoming>,
    asked: &Asked,
    mut extensions: Extensions,
    mut live: Live,
    config: &ClientConfig,
) -> Result<Received, Error> {
    let limit = config.aggregate_up_to;
    let interim = live.conn.traffic.take_interim();
    if interim > 0
        && let Some(stats) = live.stats()
    {
        stats.interim_dropped(interim);
    }
    let (mut parts, incoming) = rsp.into_parts();
    if parts.extensions.is_empty() {
        // What was beside the request is over, but for its room.
        extensions.clear();
        parts.extensions = extensions;
    }
    if let Some(spelling) = live.conn.spellings.as_ref().and_then(|spellings| spellings.heard()) {
        parts.extensions.insert(spelling);
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        check_switch(&parts.headers, asked.offered.as_deref())?;
        live.conn.is_reusable = false;
        let mut body = Body::new(Endless);
        body.ride(Rider::Conn(live));
        return Ok(Received::Now(Response::from_parts(parts, body)));
    }
    let has_coding = check(&mut parts)?;
    // An endpoint that speaks 1.0, or was asked in 1.0, closes as a rule, and hyper would go on in 1.0.
    if parts.version == Version::HTTP_10 || asked.version == Version::HTTP_10 {
        live.conn.is_reusable = false;
    }
    if incoming.is_end_stream() {
        live.give_back();
        return Ok(Received::Now(Response::from_parts(parts, Body::empty())));
    }
    let is_short = match incoming.size_hint().exact() {
        Some(len) => len <= limit as u64,
        // Of 1.0 and without a length: with one, the connection to the client may stay open.
        None => config.aggregate_unknown || limit == usize::MAX || parts.version == Version::HTTP_10,
    };
    if !is_short {
        let mut body = Body::answer(incoming);
        body.ride(Rider::Conn(live));
        return Ok(Received::Now(Response::from_parts(parts, body)));
    }
    let rest = Some(Rest { parts, has_coding, incoming, live });
    Ok(Received::Later(Reading { rest, start: Bytes::new(), more: BytesMut::new(), limit }))
}

impl Future for Reading {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let rest = this.rest.as_mut().expect("taken when the response is ready");
        while let Some(frame) = ready!(Pin::new(&mut rest.incoming).poll_frame(cx)) {
            // Trailers have no place in a body read whole.
            let Ok(data) = frame.map_err(failure)?.into_data() else {
                if let Some(stats) = rest.live.stats() {
                    stats.trailers_dropped();
                }
                continue;
            };
            if this.start.is_empty() {
                this.start = data;
            } else {
                if this.more.is_empty() {
                    this.more.extend_from_slice(&this.start);
                }
                this.more.extend_from_slice(&data);
            }
            if this.start.len().max(this.more.len()) > this.limit {
                return Poll::Ready(Ok(this.give_up()));
            }
            if rest.incoming.is_end_stream() {
                break;
            }
        }
        Poll::Ready(Ok(this.finish()))
    }
}

impl Reading {
    fn take(&mut self) -> (Rest, Bytes) {
        let rest = self.rest.take().expect("taken when the response is ready");
        let start = std::mem::take(&mut self.start);
        let more = std::mem::take(&mut self.more);
        (rest, if more.is_empty() { start } else { more.freeze() })
    }

    fn finish(&mut self) -> Response<Body> {
        let (Rest { mut parts, has_coding, live, .. }, bytes) = self.take();
        live.give_back();
        // Its length is known now.
        if has_coding {
            parts.headers.remove(TRANSFER_ENCODING);
        }
        Response::from_parts(parts, bytes.into())
    }

    /// It has no length, and turned out to be long: what is here goes up, and the rest follows.
    fn give_up(&mut self) -> Response<Body> {
        let (Rest { parts, incoming, live, .. }, start) = self.take();
        let mut body = Body::prefixed(start, incoming);
        body.ride(Rider::Conn(live));
        Response::from_parts(parts, body)
    }
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Pending
    }
}

/// What a failed exchange says of the endpoint.
pub(crate) fn failure(error: hyper::Error) -> Error {
    let kind = if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        ErrorKind::BadResponse
    } else if error.is_user() && !error.is_incomplete_message() {
        ErrorKind::RequestBody
    } else {
        ErrorKind::Closed
    };
    Error::new(kind).with_never_sent(false).with_source(error)
}

/// Refuses a 101 to anything but what was offered: nobody who asked for one protocol is made to speak another one.
fn check_switch(headers: &HeaderMap, offered: Option<&HeaderValue>) -> Result<(), Error> {
    let bad = |text: String| Err(Error::new(ErrorKind::BadResponse).with_text(text));
    let Some(offered) = offered else {
        return bad("the endpoint switched protocols, which nobody asked for".to_owned());
    };
    let mut values = headers.get_all(UPGRADE).iter();
    let (Some(chosen), None) = (values.next(), values.next()) else {
        return bad("the endpoint switched protocols, and does not say to which one".to_owned());
    };
    let is_offered = |chosen: &[u8]| protocols(offered).any(|offered| offered.eq_ignore_ascii_case(chosen));
    if protocols(chosen).next().is_some() && protocols(chosen).all(is_offered) {
        return Ok(());
    }
    let show = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    bad(format!("the endpoint switched to '{}', and '{}' was asked for", show(chosen), show(offered)))
}

fn protocols(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|protocol| !protocol.is_empty())
}

/// Refuses responses that HTTP forbids, and takes out what means nothing to the next hop. Says whether it has a coding.
fn check(parts: &mut response::Parts) -> Result<bool, Error> {
    let headers = &mut parts.headers;
    let is_list = headers.get(CONTENT_LENGTH).is_some_and(|len| len.as_bytes().contains(&b','));
    if is_list || headers.len() != headers.keys_len() && headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        let text = format!("Multiple Content-Length values found: [{}]", lengths(headers));
        return Err(Error::new(ErrorKind::BadResponse).with_text(text));
    }
    let coding = headers.get(TRANSFER_ENCODING);
    let has_coding = coding.is_some();
    if let Some(coding) = coding {
        // Servers of old say identity where there is none.
        if has_other_codings(headers) && coding != "identity" {
            let text = "the endpoint's response has a transfer coding other than chunked";
            return Err(Error::new(ErrorKind::BadResponse).with_text(text));
        }
        headers.remove(CONTENT_LENGTH);
    }
    if !parts.extensions.is_empty() {
        parts.extensions.remove::<ReasonPhrase>();
    }
    Ok(has_coding)
}

fn lengths(headers: &HeaderMap) -> String {
    let values = headers.get_all(CONTENT_LENGTH).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
}

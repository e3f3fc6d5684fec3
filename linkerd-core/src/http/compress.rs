//! Compression of responses, as Finagle's server does it.

use std::{convert::Infallible, future::ready};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};
use tower_http::{CompressionLevel, compression::CompressionLayer};
use tower_layer::Layer;

use crate::Body;

/// Which responses a server compresses, if the client takes gzip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// None.
    #[default]
    Off,
    /// Text, as its `Content-Type` tells: `text/*`, JSON, XML, JavaScript, SVG.
    Text,
    /// All that have a body, with this effort, from 1 to 9.
    All(u8),
}

/// Beside `text/*`.
const TEXT: [&str; 8] = [
    "image/svg+xml",
    "application/atom+xml",
    "application/javascript",
    "application/json",
    "application/rss+xml",
    "application/x-javascript",
    "application/xhtml+xml",
    "application/xml",
];

impl Compression {
    /// What Linkerd's `compressionLevel` means: -1 text, 0 nothing, 1 to 9 everything with that effort. What is outside
    /// of that is taken for the nearest.
    #[must_use]
    pub fn from_level(level: i8) -> Self {
        match level {
            ..=-1 => Self::Text,
            0 => Self::Off,
            level => Self::All(level.unsigned_abs().min(9)),
        }
    }

    /// Compresses a response, if that is wanted.
    pub(crate) async fn apply(self, rsp: Response<Body>) -> Response<Body> {
        let quality = match self {
            Self::Text if is_text(rsp.headers()) => CompressionLevel::Default,
            Self::All(level) => CompressionLevel::Precise(level.into()),
            _ => return rsp,
        };
        let has_body = !rsp.body().is_end_stream();
        let is_plain = !rsp.headers().contains_key(CONTENT_ENCODING);
        if !has_body || !is_plain || matches!(rsp.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return rsp;
        }
        let is_whole = rsp.body().as_bytes().is_some();
        // With a `Vary`, which Linkerd has not: caches would hand it to who cannot read it.
        let rsp = compressed(rsp, quality).await;
        if !is_whole {
            return rsp;
        }
        // All of it is here, so its length can be told.
        let (parts, body) = rsp.into_parts();
        let bytes = body.collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
        Response::from_parts(parts, bytes.into())
    }
}

async fn compressed(rsp: Response<Body>, quality: CompressionLevel) -> Response<Body> {
    // What decides is decided: the layer gets a request that takes gzip and a predicate that is always true.
    let everything = |_: StatusCode, _: Version, _: &HeaderMap, _: &http::Extensions| true;
    let layer = CompressionLayer::new().quality(quality).compress_when(everything);
    let mut rsp = Some(rsp);
    let svc = layer.layer(service_fn(move |_: Request<()>| ready(Ok::<_, Infallible>(rsp.take().unwrap_or_default()))));
    let mut req = Request::new(());
    req.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let Ok(rsp) = svc.oneshot(req).map(|rsp| rsp.map(|rsp| rsp.map(Body::new))).await;
    rsp
}

fn is_text(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_text = content_type.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
    is_text || TEXT.iter().any(|text| content_type.eq_ignore_ascii_case(text))
}

/// Whether a client of 1.1 takes gzip in answer to this request, by name or by `*`.
pub(crate) fn takes_gzip(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    if *method == Method::HEAD || version == Version::HTTP_10 {
        return false;
    }
    let mut by_name = None;
    let mut by_star = None;
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for coding in values.flat_map(|value| value.split(',')) {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.trim().parse::<f32>().ok());
        let place = match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => &mut by_name,
            "*" => &mut by_star,
            _ => continue,
        };
        *place = Some(weight.unwrap_or(0.0));
    }
    by_name.or(by_star).is_some_and(|weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use http::header::VARY;

    use super::*;

    fn takes(codings: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(codings));
        takes_gzip(&Method::GET, Version::HTTP_11, &headers)
    }

    #[test]
    fn gzip_is_taken_by_name_or_by_star_but_for_a_weight_of_nothing() {
        for codings in ["gzip", "deflate, GZIP", "*", "gzip;q=0.5", "x-gzip", "*;q=0, gzip"] {
            assert!(takes(codings), "{codings}");
        }
        for codings in ["", "deflate", "gzip;q=0", "gzip; q=0.0, *", "*;q=0", "gzip;q=x"] {
            assert!(!takes(codings), "{codings}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(!takes_gzip(&Method::HEAD, Version::HTTP_11, &headers));
        assert!(!takes_gzip(&Method::GET, Version::HTTP_10, &headers));
    }

    #[test]
    fn text_is_known_by_its_type() {
        for (content_type, text) in [
            ("text/plain", true),
            ("Text/HTML; charset=utf-8", true),
            ("application/json;x", true),
            ("image/svg+xml", true),
            ("image/png", false),
            ("application/octet-stream", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_text(&headers), text, "{content_type}");
        }
        assert!(!is_text(&HeaderMap::new()));
    }

    #[test]
    fn levels_are_linkerds() {
        let levels = [-1, 0, 1, 9, 10, -7].map(Compression::from_level);
        let (text, all) = (Compression::Text, Compression::All);
        assert_eq!(levels, [text, Compression::Off, all(1), all(9), all(9), text]);
    }

    #[tokio::test]
    async fn what_is_whole_stays_whole_and_what_streams_streams() {
        let text = "compress me ".repeat(100);
        let response = |body: Body| {
            let builder = Response::builder().header(CONTENT_TYPE, "text/plain").header(VARY, "accept");
            builder.body(body).unwrap()
        };
        let rsp = Compression::Text.apply(response(text.clone().into())).await;
        assert_eq!(rsp.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(rsp.headers().get_all(VARY).iter().collect::<Vec<_>>(), ["accept", "accept-encoding"]);
        let bytes = rsp.body().as_bytes().unwrap();
        assert_eq!((&bytes[..2], bytes.len() < 100), (&[0x1f, 0x8b][..], true));

        let stream = Body::new(http_body_util::Full::new(Bytes::from(text)).map_frame(|frame| frame));
        let rsp = Compression::Text.apply(response(stream)).await;
        assert!(rsp.body().as_bytes().is_none());
        assert_eq!(rsp.into_body().collect().await.unwrap().to_bytes()[..2], [0x1f, 0x8b]);
    }

    #[tokio::test]
    async fn what_needs_no_compression_gets_none() {
        let rsp = || Response::builder().header(CONTENT_TYPE, "image/png");
        for (compression, rsp) in [
            (Compression::Text, rsp().body("png".into()).unwrap()),
            (Compression::Off, rsp().body("png".into()).unwrap()),
            (Compression::All(9), rsp().body(Body::empty()).unwrap()),
            (Compression::All(9), rsp().header(CONTENT_ENCODING, "gzip").body("zip".into()).unwrap()),
        ] {
            let (before, body) = (rsp.headers().clone(), rsp.body().as_bytes());
            let rsp = compression.apply(rsp).await;
            assert_eq!((rsp.headers(), rsp.body().as_bytes()), (&before, body), "{compression:?}");
        }
        let rsp = Compression::All(9).apply(rsp().body("png".into()).unwrap()).await;
        assert_eq!(rsp.headers()[CONTENT_ENCODING], "gzip");
    }
}

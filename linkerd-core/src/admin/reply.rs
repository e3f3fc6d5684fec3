//! Answers of the admin pages.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use crate::{Body, IntoBody};

/// A content type, as Linkerd 1.x writes it on the page in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Css,
    Html,
    HtmlPlain,
    Icon,
    JavaScript,
    Json,
    JsonUtf8,
    Text,
    TextUtf8,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Css => "text/css;charset=UTF-8",
            Self::Html => "text/html;charset=UTF-8",
            Self::HtmlPlain => "text/html",
            Self::Icon => "application/octet-stream;charset=UTF-8",
            Self::JavaScript => "application/javascript;charset=UTF-8",
            Self::Json => "application/json",
            Self::JsonUtf8 => "application/json;charset=UTF-8",
            Self::Text => "text/plain",
            Self::TextUtf8 => "text/plain;charset=UTF-8",
        }
    }
}

pub(super) fn page(kind: Kind, body: impl IntoBody) -> Response<Body> {
    with_status(StatusCode::OK, kind, body)
}

pub(super) fn with_status(status: StatusCode, kind: Kind, body: impl IntoBody) -> Response<Body> {
    let mut rsp = empty(status);
    rsp.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind.name()));
    *rsp.body_mut() = body.into_body();
    rsp
}

pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut rsp = Response::new(Body::empty());
    *rsp.status_mut() = status;
    rsp
}

pub(super) fn error(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    with_status(status, Kind::TextUtf8, text.into())
}

pub(super) fn json(kind: Kind, value: &Value) -> Response<Body> {
    page(kind, value.to_string())
}

pub(super) fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut rsp = empty(StatusCode::METHOD_NOT_ALLOWED);
    rsp.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    rsp
}

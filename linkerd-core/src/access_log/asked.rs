//! What is logged of a request itself.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{HOST, REFERER, USER_AGENT},
};

/// What a line says of a request.
pub(crate) struct Asked {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) host: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
    pub(super) agent: Option<HeaderValue>,
    pub(super) remote: Option<SocketAddr>,
}

impl Asked {
    pub(super) fn of(
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
        remote: Option<SocketAddr>,
    ) -> Self {
        let header = |name: HeaderName| headers.get(name).cloned();
        Self {
            method: method.clone(),
            uri: uri.clone(),
            version,
            host: header(HOST),
            referer: header(REFERER),
            agent: header(USER_AGENT),
            remote,
        }
    }
}

//! What may be called.

use http::{HeaderName, HeaderValue, Request, Uri};

use super::{MAX_QUESTION, MAX_TABLE, read::Whole};
use crate::namerd::Session;

/// How a message is compressed: refused, unless it is not.
pub(super) const ENCODING: &str = "grpc-encoding";

/// A method, by its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) service: Service,
    path: &'static str,
}

/// The services.
#[derive(Clone, Copy, Debug)]
pub(super) enum Service {
    Interpreter,
    Resolver,
    Delegator,
    Codec,
}

impl Method {
    pub(super) fn of(path: &str) -> Option<Self> {
        use Service::{Codec, Delegator, Interpreter, Resolver};
        let all = [
            (Interpreter, "/io.linkerd.mesh.Interpreter/GetBoundTree"),
            (Interpreter, "/io.linkerd.mesh.Interpreter/StreamBoundTree"),
            (Resolver, "/io.linkerd.mesh.Resolver/GetReplicas"),
            (Resolver, "/io.linkerd.mesh.Resolver/StreamReplicas"),
            (Delegator, "/io.linkerd.mesh.Delegator/GetDtab"),
            (Delegator, "/io.linkerd.mesh.Delegator/StreamDtab"),
            (Delegator, "/io.linkerd.mesh.Delegator/GetDelegateTree"),
            (Delegator, "/io.linkerd.mesh.Delegator/StreamDelegateTree"),
            (Codec, "/io.linkerd.mesh.Codec/ReadDtab"),
            (Codec, "/io.linkerd.mesh.Codec/ShowDtab"),
            (Codec, "/io.linkerd.mesh.Codec/ReadPath"),
            (Codec, "/io.linkerd.mesh.Codec/ShowPath"),
        ];
        all.into_iter().find(|(_, known)| *known == path).map(|(service, path)| Self { service, path })
    }

    pub(super) fn is_stream(self) -> bool {
        self.path.contains("/Stream")
    }

    /// How long its requests may be.
    pub(super) fn limit(self) -> usize {
        if matches!(self.service, Service::Codec) { MAX_TABLE } else { MAX_QUESTION }
    }

    /// A call of it.
    pub(super) fn request(self, body: Whole, encoding: Option<HeaderValue>, session: Session) -> Request<Whole> {
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from_static(self.path);
        request.headers_mut().extend(encoding.map(|encoding| (HeaderName::from_static(ENCODING), encoding)));
        request.extensions_mut().insert(session);
        request
    }
}

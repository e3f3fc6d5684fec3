//! What names requests.

use std::sync::Arc;

use linkerd_dtab::Path;

use super::Builder;
use crate::{
    config::{H2Identifier, HttpIdentifier, InterpreterKind, Protocol},
    identify::{self, Identifier},
};

/// What one entry of `identifier` is built to, or what is wrong with it.
type Built = Result<Box<dyn Identifier>, String>;

impl Builder<'_> {
    /// The identifiers of a router, each by `build`.
    pub(super) fn identifiers<K>(
        &mut self,
        i: usize,
        kinds: &[K],
        build: impl Fn(&K) -> Built,
    ) -> Option<Vec<Box<dyn Identifier>>> {
        let built: Result<_, String> = kinds.iter().map(build).collect();
        built.map_err(|problem| self.problem(&format!("routers[{i}].identifier"), problem)).ok()
    }
}

/// One of HTTP/1.
pub(super) fn of_http(identifier: &HttpIdentifier, prefix: &Path) -> Built {
    let prefix = || prefix.clone();
    match identifier {
        HttpIdentifier::HeaderToken { header } => named(identify::HeaderToken::new(prefix(), &header.0), &header.0),
        HttpIdentifier::Header { header } => named(identify::HeaderPath::new(prefix(), &header.0), &header.0),
        HttpIdentifier::MethodAndHost { http_uri_in_dst } => {
            Ok(Box::new(identify::MethodAndHost::new(prefix(), *http_uri_in_dst)))
        }
        HttpIdentifier::Path { segments, consume } => {
            Ok(Box::new(identify::PathSegments::new(prefix(), *segments, *consume)))
        }
        HttpIdentifier::Static { path } => Ok(Box::new(identify::Fixed::new(&prefix(), path))),
        HttpIdentifier::Ingress(_) | HttpIdentifier::Istio(_) | HttpIdentifier::IstioIngress(..) => unsupported(),
    }
}

/// One of HTTP/2.
pub(super) fn of_h2(identifier: &H2Identifier, prefix: &Path) -> Built {
    let prefix = prefix.clone();
    match identifier {
        H2Identifier::HeaderToken { header } => named(identify::H2Token::new(prefix, &header.0), &header.0),
        H2Identifier::HeaderPath { header, segments } => {
            named(identify::H2Path::new(prefix, &header.0, *segments), &header.0)
        }
        H2Identifier::Ingress(_) | H2Identifier::Istio(_) | H2Identifier::IstioIngress(..) => unsupported(),
    }
}

/// Names say the namespaces that requests may choose.
pub(super) fn in_namespaces(kind: &InterpreterKind, identifier: Arc<dyn Identifier>) -> Arc<dyn Identifier> {
    let Some(given) = kind.remote().and_then(|remote| remote.per_request_namespace.as_ref()) else { return identifier };
    // It was checked when the file was read.
    let Ok(header) = given.header.0.parse() else { return identifier };
    let default = kind.namespace().unwrap_or_default();
    Arc::new(identify::NamespaceHeader::new(identifier, header, given.allow.iter().cloned(), default))
}

/// Names that are given whatever a request says.
pub(super) fn fixed_names(protocol: &Protocol, prefix: &Path) -> Vec<Path> {
    let Protocol::Http(http) = protocol else { return Vec::new() };
    let fixed = http.identifiers.iter().filter_map(|identifier| match identifier {
        HttpIdentifier::Static { path } => Some(prefix.concat(path)),
        _ => None,
    });
    fixed.collect()
}

/// One that looks at a header.
fn named<E>(built: Result<impl Identifier, E>, header: &str) -> Built {
    match built {
        Ok(identifier) => Ok(Box::new(identifier)),
        Err(_) => Err(format!("'{header}' cannot be the name of a header")),
    }
}

fn unsupported() -> Built {
    Err("is not supported yet".to_owned())
}

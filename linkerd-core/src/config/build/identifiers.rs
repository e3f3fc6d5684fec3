//! What names requests.

use linkerd_dtab::Path;

use super::Builder;
use crate::{
    config::{H2Identifier, HttpIdentifier, Protocol},
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

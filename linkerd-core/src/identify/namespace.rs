//! Namespaces that requests choose.

use std::{collections::BTreeSet, sync::Arc};

use http::{HeaderName, request::Parts};
use linkerd_dtab::interpreter::ByNamespace;

use super::{Identified, Identifier, Unidentified};

/// How much of a value that is not allowed is shown to whoever sent it, in characters.
const SHOWN: usize = 64;

/// Puts the namespace that a header says before the name that another identifier gives, for [`ByNamespace`].
///
/// A request without the header keeps its name. One whose header says what is not allowed, or more than one thing, has no
/// name: somebody who asks for `canary` and gets production by a slip of the pen would not notice.
#[derive(Clone)]
pub struct NamespaceHeader {
    identifier: Arc<dyn Identifier>,
    header: HeaderName,
    allow: BTreeSet<String>,
    default: String,
}

impl NamespaceHeader {
    /// `default` is the namespace of names that say none: the header may say it as well.
    pub fn new(
        identifier: Arc<dyn Identifier>,
        header: HeaderName,
        allow: impl IntoIterator<Item = String>,
        default: impl Into<String>,
    ) -> Self {
        Self { identifier, header, allow: allow.into_iter().collect(), default: default.into() }
    }

    fn namespace(&self, req: &Parts) -> Result<Option<&str>, Unidentified> {
        let mut values = req.headers.get_all(&self.header).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let header = &self.header;
        if values.any(|other| other != value) {
            return Err(Unidentified::malformed(format!("{header} says more than one namespace")));
        }
        let said = value.to_str().ok();
        if said == Some(&self.default) {
            return Ok(None);
        }
        if let Some(namespace) = said.and_then(|said| self.allow.get(said)) {
            return Ok(Some(namespace));
        }
        let shown = String::from_utf8_lossy(value.as_bytes());
        let shown: String = shown.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        Err(Unidentified::malformed(format!("{header} may not say namespace '{shown}'")))
    }
}

impl Identifier for NamespaceHeader {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let namespace = self.namespace(req)?;
        let Identified { path, target } = self.identifier.identify(req)?;
        let path = namespace.map_or_else(|| path.clone(), |namespace| ByNamespace::mark(namespace, &path));
        Ok(Identified { path, target })
    }
}

impl std::fmt::Debug for NamespaceHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut named = f.debug_struct("NamespaceHeader");
        named.field("header", &self.header).field("allow", &self.allow).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::Fixed;

    fn name(values: &[&[u8]]) -> Result<String, String> {
        let fixed = Fixed::new(&"/svc".parse().unwrap(), &"/web".parse().unwrap());
        let header = HeaderName::from_static("l5d-namespace");
        let allow = ["canary", "staging"].map(str::to_owned);
        let identifier = NamespaceHeader::new(Arc::new(fixed), header, allow, "prod");
        let mut req = http::Request::builder();
        for value in values {
            req = req.header("L5d-Namespace", *value);
        }
        let identified = identifier.identify(&req.body(()).unwrap().into_parts().0);
        identified.map(|identified| identified.path.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_allowed_comes_before_the_name_and_all_else_is_refused() {
        assert_eq!(name(&[]).unwrap(), "/svc/web");
        assert_eq!(name(&[b"prod"]).unwrap(), "/svc/web");
        assert_eq!(name(&[b"canary"]).unwrap(), "/per-request-namespace/canary/svc/web");
        assert_eq!(name(&[b"staging", b"staging"]).unwrap(), "/per-request-namespace/staging/svc/web");
        assert_eq!(name(&[b"canary", b"staging"]).unwrap_err(), "l5d-namespace says more than one namespace");
        for (value, shown) in [(&b"Canary"[..], "Canary"), (b"", ""), (b"canary,staging", "canary,staging")] {
            assert_eq!(name(&[value]).unwrap_err(), format!("l5d-namespace may not say namespace '{shown}'"));
        }
        let long = name(&[&[b'a'; 5000]]).unwrap_err();
        assert!(long.len() < 200, "{long}");
        assert!(name(&[b"\xff\xfe"]).is_err());
    }
}

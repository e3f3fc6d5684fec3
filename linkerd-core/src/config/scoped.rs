//! Settings for all names, or by prefix of the name: `kind: io.l5d.global` and `kind: io.l5d.static`.

use linkerd_dtab::{Captures, Path, PathMatcher};

use super::{
    decode::{At, Section},
    router::ProtocolKind,
};

/// A `service` or `client` section.
#[derive(Clone, Debug, PartialEq)]
pub enum Scoped<T> {
    /// `io.l5d.global`, the default: one for all names.
    Global(T),
    /// `io.l5d.static`: `configs`, each with a `prefix`.
    Static(Vec<(PathMatcher, T)>),
}

/// What a section holds, once or for each prefix. Implemented by [`Service`](super::Service) and
/// [`Client`](super::Client).
pub(crate) trait Scope: Clone + Default {
    const SECTION: &'static str;

    fn decode(s: &mut Section<'_>, protocol: ProtocolKind) -> Self;

    /// Takes over what `later` sets.
    fn override_with(&mut self, later: &Self, captures: &Captures);
}

impl<T: Default> Default for Scoped<T> {
    fn default() -> Self {
        Self::Global(T::default())
    }
}

impl<T> Scoped<T> {
    /// All settings with the prefix they are for, in order; no prefix means all names.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&PathMatcher>, &T)> {
        let (global, by_prefix) = match self {
            Self::Global(settings) => (Some((None, settings)), &[][..]),
            Self::Static(configs) => (None, &configs[..]),
        };
        global.into_iter().chain(by_prefix.iter().map(|(prefix, settings)| (Some(prefix), settings)))
    }
}

#[allow(private_bounds, reason = "the trait is about reading the file; what it is implemented by is public")]
impl<T: Scope> Scoped<T> {
    /// The settings for a name: all that match, later ones over earlier ones, captures filled in.
    ///
    /// A service's name is the logical one (`/svc/web`), a client's the bound one (`/#/io.l5d.fs/web`).
    pub fn for_path(&self, path: &Path) -> T {
        let configs = match self {
            Self::Global(settings) => return settings.clone(),
            Self::Static(configs) => configs,
        };
        let mut merged = T::default();
        for (prefix, settings) in configs {
            if let Some(captures) = prefix.captures(path) {
                merged.override_with(settings, &captures);
            }
        }
        merged
    }

    pub(super) fn decode(at: &At<'_>, protocol: ProtocolKind) -> Option<Self> {
        let mut s = Section::open(at, T::SECTION)?;
        let kind = s.kind("kind", &["io.l5d.global", "io.l5d.static"], Some("io.l5d.global"))?;
        let scoped = if kind == "io.l5d.global" {
            Self::Global(T::decode(&mut s, protocol))
        } else {
            let read = |at: &At<'_>| at.list(|at| Self::decode_config(at, protocol));
            Self::Static(s.require_with("configs", read).unwrap_or_default())
        };
        s.finish();
        Some(scoped)
    }

    fn decode_config(at: &At<'_>, protocol: ProtocolKind) -> Option<(PathMatcher, T)> {
        let mut s = Section::open(at, T::SECTION)?;
        let prefix = s.require("prefix");
        let settings = T::decode(&mut s, protocol);
        s.finish();
        Some((prefix?, settings))
    }
}

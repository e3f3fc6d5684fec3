//! `protect` and `compose`: what changes of namespaces have to keep to. Not sections of Linkerd 1.x.

use linkerd_dtab::{
    namerd::{Composition, Owned, Part, Pattern, Protection},
    store::Namespace,
};

use super::{
    super::{
        decode::{At, Decode, Section},
        node::Value,
    },
    access::{parsed, patterns},
};

/// An entry of `protect`: what guards some namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Four guards that do not depend on each other.
pub struct Protect {
    /// `namespaces`: patterns such as `prod` and `prod/*`. Required.
    pub namespaces: Vec<Pattern>,
    /// `adminOnly`: only who has the role `admin` may change them. Default: false.
    pub admin_only: bool,
    /// `noDelete`: they may not be deleted. Default: false.
    pub no_delete: bool,
    /// `needsVersion`: a change has to say which version it is based on. Default: false.
    pub needs_version: bool,
    /// `strict`: tables in which names go round, or that lead to a namer that is not configured, are refused. Default:
    /// false, they are written with a warning.
    pub strict: bool,
}

/// An entry of `compose`: a namespace that is made of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compose {
    /// `namespace`. Required; each once.
    pub namespace: Namespace,
    /// `parts`, at least one, later ones before earlier ones. Required.
    pub parts: Vec<ComposedPart>,
}

/// An entry of `parts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposedPart {
    /// `fragments`: a pattern of namespaces. Required.
    pub fragments: Pattern,
    /// `owns`: what each may define, such as `/svc/{}`, in which `{}` is what the pattern's star stands for. Default:
    /// everything.
    pub owns: Vec<Owned>,
}

impl Protect {
    pub(crate) fn protections(&self) -> impl Iterator<Item = Protection> {
        let Self { namespaces, admin_only, no_delete, needs_version, strict } = self;
        namespaces.iter().map(|namespaces| Protection {
            namespaces: namespaces.clone(),
            admin_only: *admin_only,
            no_delete: *no_delete,
            needs_version: *needs_version,
            strict: *strict,
        })
    }
}

impl Compose {
    pub(crate) fn composition(&self) -> Composition {
        let Self { namespace, parts } = self.clone();
        let part = |ComposedPart { fragments, owns }| Part { fragments, owns };
        Composition { namespace, parts: parts.into_iter().map(part).collect() }
    }

    /// What is odd about it: the key, below this one, and what.
    pub(super) fn oddities(&self) -> impl Iterator<Item = (String, String)> {
        self.parts.iter().enumerate().flat_map(|(part, of)| {
            of.oddities().map(move |(owned, oddity)| (format!("parts[{part}].owns[{owned}]"), oddity))
        })
    }
}

impl ComposedPart {
    /// What is odd about `owns`: each with its index.
    fn oddities(&self) -> impl Iterator<Item = (usize, String)> {
        let Self { fragments, owns } = self;
        owns.iter().enumerate().filter_map(move |(index, owned)| {
            let other = |(other, wide): &(usize, &Owned)| {
                *other != index && wide.covers(owned) && !(owned.covers(wide) && *other > index)
            };
            let oddity = if let Some((_, wide)) = owns.iter().enumerate().find(other) {
                format!("has no effect: {wide} owns that already")
            } else if fragments.is_exact() {
                return None;
            } else if !owned.is_own() {
                format!("has no {{}}: all namespaces that are {fragments} own the same")
            } else if fragments.stars() > 1 {
                format!("{{}} is the last star of {fragments}: namespaces that differ in another one own the same")
            } else {
                return None;
            };
            Some((index, oddity))
        })
    }
}

impl Decode for Protect {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "protect")?;
        let namespaces = s.require_with("namespaces", patterns);
        let (admin_only, no_delete) = (s.or("adminOnly", false), s.or("noDelete", false));
        let (needs_version, strict) = (s.or("needsVersion", false), s.or("strict", false));
        s.finish();
        Some(Self { namespaces: namespaces?, admin_only, no_delete, needs_version, strict })
    }
}

/// All compositions: a namespace can only be made in one way, and only of such as are written.
pub(super) fn compositions(at: &At<'_>) -> Option<Vec<Compose>> {
    // Those below an entry, too. What is no name is told of when it is decoded.
    let name = |at: &At<'_>| match &at.node.get("namespace")?.value {
        Value::Scalar(name) => name.text.parse().ok(),
        _ => None,
    };
    let composed: Vec<Namespace> = at.list(name)?;
    let mut before = Vec::new();
    at.list(|at| {
        let compose = Compose::decode(at, &composed)?;
        if before.contains(&compose.namespace) {
            at.problem(format!("namespace {} is made of others above already", compose.namespace));
            return None;
        }
        before.push(compose.namespace.clone());
        Some(compose)
    })
}

impl Compose {
    fn decode(at: &At<'_>, composed: &[Namespace]) -> Option<Self> {
        let mut s = Section::open(at, "compose")?;
        let namespace = s.require_with("namespace", parsed);
        let parts = s.require_with("parts", |at| {
            if matches!(&at.node.value, Value::List(items) if items.is_empty()) {
                return at.expected("at least one part");
            }
            let mut before = Vec::new();
            at.list(|at| {
                let part = ComposedPart::decode(at, namespace.as_ref(), composed, &before)?;
                before.push(part.fragments.clone());
                Some(part)
            })
        });
        s.finish();
        Some(Self { namespace: namespace?, parts: parts? })
    }
}

impl ComposedPart {
    /// `before`: what the parts above have.
    fn decode(at: &At<'_>, whole: Option<&Namespace>, composed: &[Namespace], before: &[Pattern]) -> Option<Self> {
        let mut s = Section::open(at, "part")?;
        let fragments = s.require_with("fragments", |at| {
            let fragments: Pattern = parsed(at)?;
            // A star passes over these; a name that is one of them has nothing, ever.
            if fragments.is_exact()
                && let Some(same) = composed.iter().find(|composed| fragments.matches(composed))
            {
                at.problem(if whole == Some(same) {
                    format!("namespace {same} cannot be made of itself")
                } else {
                    format!("namespace {same} is composed itself, and a part has to be a namespace that is written")
                });
                return None;
            }
            // A namespace belongs to the first part that has it, so that it would not be where this one is.
            if let Some(taken) = before.iter().find(|before| before.covers(&fragments)) {
                at.problem(if *taken == fragments {
                    format!("{fragments} is a part above already")
                } else {
                    format!(
                        "{fragments} belongs to the part {taken} above already, so that nothing is left for this one"
                    )
                });
                return None;
            }
            Some(fragments)
        });
        let owns = s.with("owns", |at| {
            if matches!(&at.node.value, Value::List(items) if items.is_empty()) {
                return at.expected("at least one prefix; without the key a fragment may define everything");
            }
            at.list(parsed)
        });
        let owns = owns.unwrap_or_default();
        s.finish();
        Some(Self { fragments: fragments?, owns })
    }
}

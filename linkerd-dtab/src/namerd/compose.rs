//! Namespaces that are made of others: `base + team/* + env`.

use std::{collections::BTreeSet, sync::Arc};

use super::{Pattern, writes::Fragment};
use crate::{
    Activity, Dentry, Dtab, Element, Prefix,
    store::{Namespace, Stored, Version, VersionedDtab},
};

/// A namespace whose table is that of other namespaces, its fragments, one after another.
///
/// Parts come in the order in which they are listed, and the fragments of one part in the order of their names; later
/// ones take precedence. Names are bound under it as under any other; it cannot be changed itself. It is there as soon as
/// one of its fragments is, and has another version whenever one of them has.
#[derive(Clone, Debug)]
pub struct Composition {
    /// The namespace.
    pub namespace: Namespace,
    /// What it is made of.
    pub parts: Vec<Part>,
}

/// The fragments of a [`Composition`] that stand at one place in it.
///
/// Two fragments of one part have no order that anybody chose, so entries for the same names in both are refused.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which namespaces: of those that are written, as nothing is ever found under the composition's own name or, unless it
    /// was written before, that of another one.
    pub fragments: Pattern,
    /// What each may define: entries whose prefix begins with one of these. Empty: everything.
    pub owns: Vec<Owned>,
}

/// A prefix that belongs to a fragment: `/svc/{}`, where `{}` is what the star of the part's pattern stands for.
///
/// It owns `/svc/web` and `/svc/web/x`; an element that ends in a star, as in `/svc/{}*`, is each that begins so, and owns
/// `/svc/web-v2`, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    elements: Vec<String>,
}

/// Why a text is no owned prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid owned prefix '{0}': it has to be a path such as /svc/{{}}")]
pub struct BadOwned(String);

impl std::str::FromStr for Owned {
    type Err = BadOwned;

    fn from_str(text: &str) -> Result<Self, BadOwned> {
        let bad = || BadOwned(text.chars().take(100).collect());
        let elements: Vec<_> = text.strip_prefix('/').ok_or_else(bad)?.split('/').map(ToOwned::to_owned).collect();
        let is_bad = |element: &String| element.is_empty() || element.trim_end_matches('*').contains('*');
        if elements.iter().any(is_bad) { Err(bad()) } else { Ok(Self { elements }) }
    }
}

impl Owned {
    /// Whether `prefix` begins with this one, for a fragment whose star stands for `captured`.
    fn has(&self, prefix: &Prefix, captured: &str) -> bool {
        // What a star stands for may have several segments.
        let expected = self.elements.iter().flat_map(|element| {
            let element = element.replace("{}", captured);
            element.split('/').map(ToOwned::to_owned).collect::<Vec<_>>()
        });
        let mut elements = prefix.elements().iter();
        expected.into_iter().all(|expected| match elements.next() {
            Some(Element::Label(label)) => match expected.strip_suffix('*') {
                Some(begin) => label.starts_with(begin.as_bytes()),
                None => **label == *expected.as_bytes(),
            },
            // A wildcard is for names of others, too.
            Some(Element::Any) | None => false,
        })
    }
}

impl Composition {
    /// The place of `namespace` in it, if it is a fragment.
    pub(super) fn part(&self, namespace: &Namespace) -> Option<usize> {
        if *namespace == self.namespace {
            return None;
        }
        self.parts.iter().position(|part| part.fragments.matches(namespace))
    }

    /// The fragments that there are, in order.
    pub(super) fn fragments(&self, all: &BTreeSet<Namespace>) -> Vec<(usize, Namespace)> {
        // A namespace belongs to the first part that it matches; without one of its own it comes once all the same.
        let mut fragments: Vec<_> = all.iter().filter_map(|name| Some((self.part(name)?, name.clone()))).collect();
        fragments.sort();
        fragments
    }

    /// Refuses a table of a fragment that has what belongs to others, or what another fragment of its part has.
    ///
    /// `others` are the fragments of the composition as they are, this one may be among them.
    pub(super) fn allow(&self, namespace: &Namespace, dtab: &Dtab, others: &[Fragment]) -> Result<(), Conflict> {
        let Some(index) = self.part(namespace) else { return Ok(()) };
        let part = &self.parts[index];
        let captured = part.fragments.captures(namespace).unwrap_or_default();
        for (n, Dentry { prefix, .. }) in dtab.entries().iter().enumerate() {
            let at = n + 1;
            if !part.owns.is_empty() && !part.owns.iter().any(|owned| owned.has(prefix, captured)) {
                let owned: Vec<_> = part.owns.iter().map(|owned| owned.shown(captured)).collect();
                let owned = owned.join(", ");
                let text = format!("entry {at} defines {prefix}, but {namespace} may only define {owned} and below");
                return Err(Conflict { text, with: None });
            }
            for (_, other, table) in others.iter().filter(|(place, other, _)| *place == index && other != namespace) {
                let mut entries = table.iter().flat_map(|table| table.dtab.entries());
                if let Some(entry) = entries.find(|entry| is_for_the_same(&entry.prefix, prefix)) {
                    let text = format!("entry {at} defines {prefix}, which conflicts with");
                    return Err(Conflict { text, with: Some((entry.prefix.clone(), other.clone())) });
                }
            }
        }
        Ok(())
    }
}

/// Why the table of a fragment does not fit, perhaps for what another one has.
#[derive(Debug)]
pub(super) struct Conflict {
    text: String,
    with: Option<(Prefix, Namespace)>,
}

impl Conflict {
    /// For somebody who may read these.
    pub(super) fn told(self, may_read: impl Fn(&Namespace) -> bool) -> String {
        let Self { text, with } = self;
        match with {
            None => text,
            Some((theirs, other)) if may_read(&other) => format!("{text} {theirs} in {other}"),
            Some(_) => format!("{text} what another fragment has"),
        }
    }
}

impl Owned {
    fn shown(&self, captured: &str) -> String {
        let elements: Vec<_> = self.elements.iter().map(|element| element.replace("{}", captured)).collect();
        format!("/{}", elements.join("/"))
    }
}

/// Whether there are names that both prefixes are for.
fn is_for_the_same(a: &Prefix, b: &Prefix) -> bool {
    let mut pairs = a.elements().iter().zip(b.elements());
    pairs.all(|(a, b)| *a == Element::Any || *b == Element::Any || a == b)
}

/// The table of a composed namespace: the given tables, in the given order.
pub(super) fn composed(fragments: &[(Namespace, Stored)]) -> Stored {
    let version = version(fragments)?;
    let tables = fragments.iter().filter_map(|(_, stored)| stored.as_ref());
    let dtab = tables.fold(Dtab::empty(), |dtab, stored| dtab.concat(&stored.dtab));
    Some(Arc::new(VersionedDtab { version, dtab }))
}

/// The version of a composed namespace, if it is there.
pub(super) fn version(fragments: &[(Namespace, Stored)]) -> Option<Version> {
    let (mut version, mut is_there) = (Fnv::new(), false);
    for (namespace, stored) in fragments {
        let Some(stored) = stored else { continue };
        is_there = true;
        version.add(namespace.as_str().as_bytes());
        version.add(stored.version.as_bytes());
    }
    is_there.then(|| Version::new(version.0.to_be_bytes()))
}

/// Follows the table of a composed namespace: `list` is all namespaces, `watch` the table of one.
pub(super) fn follow(
    composition: &Arc<Composition>,
    list: Activity<Arc<BTreeSet<Namespace>>>,
    watch: impl Fn(&Namespace) -> Activity<Stored> + Send + 'static,
) -> Activity<Stored> {
    let composition = Arc::clone(composition);
    list.flat_map(move |all| {
        let names: Vec<_> = composition.fragments(&all).into_iter().map(|(_, name)| name).collect();
        let tables = Activity::all(names.iter().map(&watch).collect());
        tables.map(move |tables| composed(&names.iter().cloned().zip(tables).collect::<Vec<_>>()))
    })
}

/// FNV-1a of 64 bits: the same in each process, so that several namerds show one version.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in (bytes.len() as u64).to_be_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

//! Namespaces that are made of others: `base + team/* + env`.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{Pattern, check::Short, writes::Fragment};
use crate::{
    Activity, Dentry, Dtab, Element, Path, Prefix,
    parse::Place,
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
#[error("invalid owned prefix '{0}': it has to be a path such as /svc/{{}}, in which an element may end in a star")]
pub struct BadOwned(String);

impl std::str::FromStr for Owned {
    type Err = BadOwned;

    fn from_str(text: &str) -> Result<Self, BadOwned> {
        let bad = || BadOwned(text.chars().take(100).collect());
        let elements: Vec<_> = text.strip_prefix('/').ok_or_else(bad)?.split('/').map(ToOwned::to_owned).collect();
        // What no label can be would own nothing, whoever it is for.
        let is_label = |element: &String| {
            let label = element.strip_suffix('*').unwrap_or(element).replace("{}", "x");
            let is_any = label.is_empty() && element == "*";
            is_any
                || (!label.contains(['\\', '*'])
                    && format!("/{label}").parse::<Path>().is_ok_and(|path| path.size() == 1))
        };
        if elements.iter().all(is_label) { Ok(Self { elements }) } else { Err(bad()) }
    }
}

impl Owned {
    /// Whether it is another one for each fragment: it has a `{}`.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.elements.iter().any(|element| element.contains("{}"))
    }

    /// Whether it owns all that `other` does, whoever they are for.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let covers = |(wide, narrow): (&String, &String)| match wide.strip_suffix('*') {
            Some(begin) => narrow.starts_with(begin),
            None => wide == narrow,
        };
        self.elements.len() <= other.elements.len() && self.elements.iter().zip(&other.elements).all(covers)
    }

    /// What it is for a fragment whose star stands for `captured`, which may have several segments.
    fn of(&self, captured: &str) -> Self {
        let elements = self.elements.iter().map(|element| element.replace("{}", captured));
        Self {
            elements: elements.flat_map(|element| element.split('/').map(str::to_owned).collect::<Vec<_>>()).collect(),
        }
    }

    /// Whether it is the beginning of `name`: of one that is [no longer for several](Composition), as plans have it.
    #[must_use]
    pub fn begins(&self, name: &Path) -> bool {
        self.has(name.iter().map(Some))
    }

    /// Whether it is the beginning of what has these labels; one that is a wildcard is for names of others, too.
    fn has<'l>(&self, mut labels: impl Iterator<Item = Option<&'l [u8]>>) -> bool {
        self.elements.iter().all(|expected| match (labels.next().flatten(), expected.strip_suffix('*')) {
            (Some(label), Some(begin)) => label.starts_with(begin.as_bytes()),
            (Some(label), None) => *label == *expected.as_bytes(),
            (None, _) => false,
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

    /// What a fragment may define. Empty: everything.
    pub(super) fn owned(&self, namespace: &Namespace) -> Vec<Owned> {
        let Some(part) = self.part(namespace).map(|index| &self.parts[index]) else { return Vec::new() };
        let captured = part.fragments.captures(namespace).unwrap_or_default();
        part.owns.iter().map(|owned| owned.of(captured)).collect()
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
    /// `place` says where an entry of the table is in the text that it was read from.
    pub(super) fn allow(
        &self,
        namespace: &Namespace,
        dtab: &Dtab,
        others: &[Fragment],
        place: impl Fn(usize) -> Option<Place>,
    ) -> Result<(), Conflict> {
        let Some(index) = self.part(namespace) else { return Ok(()) };
        let owns = self.owned(namespace);
        for (n, Dentry { prefix, .. }) in dtab.entries().iter().enumerate() {
            let entry = n + 1;
            let at = || {
                let place = place(entry).map(|place| format!(" at {place}")).unwrap_or_default();
                format!("entry {entry} of {namespace}{place} defines {prefix}")
            };
            let labels = prefix.elements().iter().map(|element| match element {
                Element::Label(label) => Some(&**label),
                Element::Any => None,
            });
            if !owns.is_empty() && !owns.iter().any(|owned| owned.has(labels.clone())) {
                let owned = owns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let text = format!("{}, but it may only define {owned} and below", at());
                return Err(Conflict { text, with: None });
            }
            for (_, other, table) in others.iter().filter(|(place, other, _)| *place == index && other != namespace) {
                let mut entries = table.iter().flat_map(|table| table.dtab.entries()).enumerate();
                if let Some((n, theirs)) = entries.find(|(_, theirs)| is_for_the_same(&theirs.prefix, prefix)) {
                    let text = format!("{}, which conflicts with", at());
                    return Err(Conflict { text, with: Some((n + 1, theirs.clone(), other.clone())) });
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
    // The entry, which that is, and whose.
    with: Option<(usize, Dentry, Namespace)>,
}

impl Conflict {
    /// For somebody who may read these.
    pub(super) fn told(self, may_read: impl Fn(&Namespace) -> bool) -> String {
        let Self { text, with } = self;
        match with {
            None => text,
            Some((n, theirs, other)) if may_read(&other) => format!("{text} entry {n} of {other} ({})", Short(&theirs)),
            Some(_) => format!("{text} what another fragment has"),
        }
    }
}

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.elements.iter().try_for_each(|element| write!(f, "/{element}"))
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

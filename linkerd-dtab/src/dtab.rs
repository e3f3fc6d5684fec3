//! Delegation tables.

use std::{fmt, sync::Arc};

use smallvec::SmallVec;

use crate::{NameTree, Path, Weighted, path::show_element};

/// A delegation table: rewriting rules for names, later ones first.
///
/// A clone shares the entries. Displays its canonical form, which is one line: `/a=>/b;/c=>/d`. With `{:#}` weights have
/// all their decimals, so that nothing is lost.
///
/// ```
/// # use linkerd_dtab::{Dtab, Path};
/// let dtab: Dtab = "/svc => /#/io.l5d.fs; /svc/users => /svc/users-v2".parse()?;
/// let path: Path = "/svc/users/7".parse()?;
/// assert_eq!(dtab.lookup(&path).to_string(), "/svc/users-v2/7 | /#/io.l5d.fs/users/7");
/// # Ok::<(), linkerd_dtab::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Dtab {
    entries: Arc<[Dentry]>,
}

/// One rule: names that start with the prefix stand for the tree.
///
/// Displays its canonical form: `/a=>/b`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dentry {
    /// Which names it is for.
    pub prefix: Prefix,
    /// What they stand for. What follows the prefix is appended to each leaf.
    pub dst: NameTree<Path>,
}

/// The left side of a rule: a path whose elements may be wildcards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Prefix {
    elements: Arc<[Element]>,
}

/// An element of a [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Matches any one element. Written `*`.
    Any,
    /// Matches this element. Never empty.
    Label(Arc<[u8]>),
}

/// Displays a table as Finagle lists it: `Dtab(N)`, then each entry on a line of its own, after a tab.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a>(&'a Dtab);

/// Displays a table as Linkerd's routing errors do: each entry on a line of its own, after two spaces.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a>(&'a Dtab);

impl Dtab {
    /// A table of these entries; the last has the highest precedence.
    #[must_use]
    pub fn new(entries: impl Into<Arc<[Dentry]>>) -> Self {
        Self { entries: entries.into() }
    }

    /// The table without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The table by which every name fails: `/=>!`.
    #[must_use]
    pub fn fail() -> Self {
        Self::new([Dentry { prefix: Prefix::default(), dst: NameTree::Fail }])
    }

    /// The entries in the order in which they were written.
    #[must_use]
    pub fn entries(&self) -> &[Dentry] {
        &self.entries
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries of this table, then those of `other`, which so take precedence.
    #[must_use]
    pub fn concat(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        self.entries.iter().chain(&*other.entries).cloned().collect()
    }

    /// What `path` stands for: the trees of all entries that match, last entry first.
    ///
    /// The answer is [`NameTree::Neg`] if nothing matched, or if the only match is a bare `~`.
    #[must_use]
    pub fn lookup(&self, path: &Path) -> NameTree<Path> {
        let mut matches: Vec<_> = self.matches(path).map(|(entry, suffix)| entry.dst.append(&suffix)).collect();
        match matches.len() {
            0 => NameTree::Neg,
            1 => matches.remove(0),
            _ => NameTree::Alt(matches),
        }
    }

    /// The entries that match `path`, last first, each with what follows its prefix.
    pub fn matches(&self, path: &Path) -> impl Iterator<Item = (&Dentry, Path)> {
        self.entries.iter().rev().filter_map(|entry| Some((entry, entry.prefix.strip_from(path)?)))
    }

    /// The indices of the entries that match `path`, last first, and what it took to find them: 1 for each entry and
    /// each element that was compared, and 1 for each 16 bytes of a label.
    pub(crate) fn matching(&self, path: &Path) -> (SmallVec<[usize; 8]>, usize) {
        let mut rest = path.iter();
        let mut elements = SmallVec::<[&[u8]; 16]>::new();
        let (mut found, mut cost) = (SmallVec::new(), self.len());
        for (index, Dentry { prefix, .. }) in self.entries.iter().enumerate().rev() {
            while elements.len() < prefix.size()
                && let Some(element) = rest.next()
            {
                elements.push(element);
                cost += 1;
            }
            // From the end, where a prefix says most.
            let matches = prefix.size() <= elements.len()
                && prefix.elements.iter().zip(&elements).rev().all(|(expected, element)| {
                    cost += 1;
                    let Element::Label(label) = expected else { return true };
                    if label.len() != element.len() {
                        return false;
                    }
                    cost += label.len() / 16;
                    **label == **element
                });
            if matches {
                found.push(index);
            }
        }
        (found, cost)
    }

    /// What follows `prefix` if this table begins with exactly its entries, else the whole table.
    #[must_use]
    pub fn strip_prefix(&self, prefix: &Self) -> Self {
        if prefix.is_empty() {
            return self.clone();
        }
        self.entries.strip_prefix(&*prefix.entries).map_or_else(|| self.clone(), Self::new)
    }

    /// The same table with each tree simplified, and without those that are negative then.
    #[must_use]
    pub fn simplified(&self) -> Self {
        let simple =
            self.entries.iter().map(|entry| Dentry { prefix: entry.prefix.clone(), dst: entry.dst.clone().simplify() });
        simple.filter(|entry| entry.dst != NameTree::Neg).collect()
    }

    /// Whether both tables have the same prefixes in the same order, with equivalent trees.
    #[must_use]
    pub fn is_equivalent(&self, other: &Self) -> bool {
        let same = |(a, b): (&Dentry, &Dentry)| a.prefix == b.prefix && a.dst.is_equivalent(&b.dst);
        self.len() == other.len() && self.entries.iter().zip(&*other.entries).all(same)
    }

    /// Displays the table as Finagle lists it: `Dtab(2)`, then an entry a line.
    #[must_use]
    pub fn listing(&self) -> Listing<'_> {
        Listing(self)
    }

    /// Displays the table as in a routing error: an entry a line, two spaces before it.
    #[must_use]
    pub fn lines(&self) -> Lines<'_> {
        Lines(self)
    }
}

impl FromIterator<Dentry> for Dtab {
    fn from_iter<I: IntoIterator<Item = Dentry>>(entries: I) -> Self {
        Self { entries: entries.into_iter().collect() }
    }
}

impl Prefix {
    /// A prefix of these elements.
    #[must_use]
    pub fn new(elements: impl Into<Arc<[Element]>>) -> Self {
        Self { elements: elements.into() }
    }

    /// The elements in order.
    #[must_use]
    pub fn elements(&self) -> &[Element] {
        &self.elements
    }

    /// How many elements there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.elements.len()
    }

    /// Whether `path` starts with this prefix.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        let mut rest = path.iter();
        self.elements.iter().all(|element| match (element, rest.next()) {
            (_, None) => false,
            (Element::Any, Some(_)) => true,
            (Element::Label(label), Some(element)) => **label == *element,
        })
    }

    /// What follows this prefix in `path`, if it matches. Elements matched by a wildcard are gone, too.
    #[must_use]
    pub fn strip_from(&self, path: &Path) -> Option<Path> {
        self.matches(path).then(|| path.drop_first(self.size()))
    }
}

impl From<&Path> for Prefix {
    fn from(path: &Path) -> Self {
        Self { elements: path.iter().map(|element| Element::Label(element.into())).collect() }
    }
}

impl NameTree<Path> {
    /// The same tree with `suffix` appended to each leaf.
    #[must_use]
    pub fn append(&self, suffix: &Path) -> Self {
        match self {
            Self::Alt(trees) => Self::Alt(trees.iter().map(|tree| tree.append(suffix)).collect()),
            Self::Union(branches) => {
                Self::Union(branches.iter().map(|b| Weighted::new(b.weight, b.tree.append(suffix))).collect())
            }
            Self::Leaf(path) => Self::Leaf(path.concat(suffix)),
            Self::Neg => Self::Neg,
            Self::Fail => Self::Fail,
            Self::Empty => Self::Empty,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.elements.is_empty() {
            return f.write_str("/");
        }
        self.elements.iter().try_for_each(|element| {
            f.write_str("/")?;
            match element {
                Element::Any => f.write_str("*"),
                Element::Label(label) => show_element(label, f),
            }
        })
    }
}

impl fmt::Display for Dentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=>", self.prefix)?;
        self.dst.fmt(f)
    }
}

impl fmt::Display for Dtab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().enumerate().try_for_each(|(i, entry)| {
            f.write_str(if i == 0 { "" } else { ";" })?;
            entry.fmt(f)
        })
    }
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Dtab({})", self.0.len())?;
        self.0.entries.iter().try_for_each(|Dentry { prefix, dst }| writeln!(f, "\t{prefix} => {dst}"))
    }
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.entries.iter().enumerate().try_for_each(|(i, Dentry { prefix, dst })| {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}  {prefix} => {dst}")
        })
    }
}

//! What is wrong with a table, before it is written.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use crate::{
    BindError, Dentry, Dtab, Element, NameTree, Path, PathBuilder, Prefix,
    interpreter::{MAX_DEPTH, MAX_LOOKUPS},
    namer::global::{Step, step},
    parse::Place,
};

// Bounds on one check.
const MAX_ISSUES: usize = 100;
// In units of about a nanosecond or two.
const MAX_WORK: usize = 16 << 20;
const WORK_PER_PAIR: usize = 4;
const MAX_SHOWN: usize = 120;

/// What tables are checked against.
///
/// A check is by sample: a cycle is looked for from a name like each entry's prefix, which finds those that a table has
/// as it is written, and not those that need a certain longer name. Whatever is missed ends at run time, at a hundred
/// lookups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Where the configured namers are mounted.
    pub namers: Vec<Path>,
    /// How the names begin that clients ask for, `/svc` for instance: an entry that neither they nor other entries lead
    /// to is reported. Empty by default: nothing is known of that.
    pub roots: Vec<Path>,
}

/// Something that is wrong with a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Issue {
    /// The entry, counted from 1.
    pub entry: usize,
    /// What.
    pub fault: Fault,
}

/// What may be wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Names go round: these, and again from the first.
    Cycle(Vec<Path>),
    /// Each lookup makes the name longer.
    Growth(Path),
    /// So many names follow from this one that it may take more lookups than a binding may have.
    Lookups(Path),
    /// No namer is configured for this name.
    UnknownNamer(Path),
    /// For all of its names a later entry, counted from 1, decides.
    Shadowed(usize),
    /// No entry leads to this prefix, and no name that clients ask for begins so.
    Unreachable(Prefix),
    /// The table is too large for the rest of it to be checked.
    TooLarge,
}

impl Issue {
    /// Whether names are lost by it, which a strict namespace refuses. The others are about entries without effect.
    #[must_use]
    pub fn is_grave(&self) -> bool {
        matches!(self.fault, Fault::Cycle(_) | Fault::Growth(_) | Fault::UnknownNamer(_))
    }
}

/// An issue, and which entries make it, counted from 1.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) issue: Issue,
    /// All that names go round by; else the entry of the issue alone.
    pub(super) by: Vec<usize>,
    /// Those that lead there, from the first on.
    pub(super) via: Vec<usize>,
}

/// What is wrong with `dtab`, in the order of its entries; at most a hundred issues.
///
/// An issue is about the entry at whose end the fault is, whatever leads there; of those by which names go round about the
/// first.
#[must_use]
pub fn check(dtab: &Dtab, checks: &Checks) -> Vec<Issue> {
    find(dtab, checks).into_iter().map(|found| found.issue).collect()
}

/// The same, with all entries that have to do with each.
pub(super) fn find(dtab: &Dtab, checks: &Checks) -> Vec<Found> {
    let mut walk = Walk {
        dtab,
        checks,
        entry: 0,
        found: Vec::new(),
        followed: HashMap::new(),
        unknown: HashMap::new(),
        stack: Vec::new(),
        work_left: MAX_WORK,
    };
    for (index, entry) in dtab.entries().iter().enumerate() {
        walk.entry = index + 1;
        let name = sample(&entry.prefix);
        let found = walk.found.len();
        if walk.follow(&name) > MAX_LOOKUPS && !walk.found[found..].iter().any(|found| found.issue.is_grave()) {
            walk.report(Fault::Lookups(name));
        }
    }
    walk.shadowed();
    walk.unreachable();
    if walk.work_left == 0 {
        walk.entry = dtab.len();
        walk.report(Fault::TooLarge);
    }
    walk.found.sort_by_key(|found| found.issue.entry);
    walk.found
}

struct Walk<'a> {
    dtab: &'a Dtab,
    checks: &'a Checks,
    // That is being followed.
    entry: usize,
    found: Vec<Found>,
    // How many lookups each takes, if whoever is asked knows nothing.
    followed: HashMap<Path, usize>,
    // Of those the ones that no namer is configured for, or that stand for one such: which that is.
    unknown: HashMap<Path, Path>,
    // Each with the entry that it is followed by; 0: by none.
    stack: Vec<(Path, usize)>,
    work_left: usize,
}

impl Walk<'_> {
    fn report(&mut self, fault: Fault) {
        self.report_by(fault, vec![self.entry]);
    }

    fn report_by(&mut self, fault: Fault, by: Vec<usize>) {
        let issue = Issue { entry: by[0], fault };
        if self.found.len() < MAX_ISSUES && !self.found.iter().any(|found| found.issue == issue) {
            let via = self.stack.iter().map(|(_, entry)| *entry).filter(|entry| *entry > 0).collect();
            self.found.push(Found { issue, by, via });
        }
    }

    // Names go round by the last of the stack, from this one on: told from the first entry on, wherever one came from.
    fn report_round(&mut self, begin: usize) {
        let mut round: Vec<_> = self.stack[begin..].iter().collect();
        let first = (0..round.len()).filter(|&at| round[at].1 > 0).min_by_key(|&at| (round[at].1, &round[at].0));
        round.rotate_left(first.unwrap_or_default());
        let names = round.iter().map(|(name, _)| name.clone()).collect();
        let by: Vec<_> = round.iter().map(|(_, entry)| *entry).filter(|entry| *entry > 0).collect();
        self.report_by(Fault::Cycle(names), if by.is_empty() { vec![self.entry] } else { by });
    }

    // Told from where the entry that made the name longer last did so first.
    fn report_growth(&mut self) {
        let last = self.stack.iter().rev().map(|(_, entry)| *entry).find(|entry| *entry > 0);
        let times = self.stack.iter().filter(|(_, entry)| Some(*entry) == last).count();
        let first = self.stack.iter().position(|(_, entry)| times > 1 && Some(*entry) == last).unwrap_or_default();
        let name = self.stack[first].0.clone();
        let mut by: Vec<_> = self.stack[first..].iter().map(|(_, entry)| *entry).filter(|entry| *entry > 0).collect();
        let mut seen = HashSet::new();
        by.retain(|entry| seen.insert(*entry));
        self.report_by(Fault::Growth(name), if by.is_empty() { vec![self.entry] } else { by });
    }

    // About the entry that led there.
    fn report_unknown(&mut self, name: Path) {
        let led = self.stack.iter().rev().map(|(_, entry)| *entry).find(|entry| *entry > 0);
        self.report_by(Fault::UnknownNamer(name), vec![led.unwrap_or(self.entry)]);
    }

    fn spend(&mut self, work: usize) -> bool {
        self.work_left = self.work_left.saturating_sub(work);
        self.work_left > 0
    }

    // Every name that `name` may stand for, whichever alternative decides: each once. How many lookups that is in all, a name
    // that comes twice counted twice.
    fn follow(&mut self, name: &Path) -> usize {
        if let Some(begin) = self.stack.iter().position(|(before, _)| before == name) {
            self.report_round(begin);
            return 1;
        }
        if self.stack.len() == MAX_DEPTH {
            self.report_growth();
            return 1;
        }
        if let Some(unknown) = self.unknown.get(name) {
            self.report_unknown(unknown.clone());
        }
        if let Some(&lookups) = self.followed.get(name) {
            return lookups;
        }
        if self.work_left == 0 {
            return 1;
        }
        // What goes round comes here again before it is known.
        self.followed.insert(name.clone(), 1);
        let mut lookups: usize = 1;
        let (matches, cost) = self.dtab.matching(name);
        self.spend(cost + name.byte_len());
        let depth = self.stack.len();
        self.stack.push((name.clone(), 0));
        for &index in &matches {
            let Dentry { prefix, dst } = &self.dtab.entries()[index];
            self.stack[depth].1 = index + 1;
            let rest = name.drop_first(prefix.size());
            for leaf in dst.leaves() {
                lookups = lookups.saturating_add(self.follow(&leaf.concat(&rest)));
            }
        }
        if matches.is_empty() {
            lookups += self.ask(name);
        }
        self.stack.pop();
        self.followed.insert(name.clone(), lookups);
        lookups
    }

    // What is left to the namers: how many lookups follow. More may follow on the name than the sample has.
    fn ask(&mut self, name: &Path) -> usize {
        match name.get(0) {
            Some(b"#") => {
                let serves = |namer: &Path| name.starts_with(namer) || namer.starts_with(name);
                if !self.checks.namers.iter().any(serves) {
                    self.add_unknown(name);
                }
            }
            Some(b"$") => match step(name) {
                Ok(Step::Path(path)) => {
                    let lookups = self.follow(&path);
                    if let Some(unknown) = self.unknown.get(&path).cloned() {
                        self.unknown.insert(name.clone(), unknown);
                    }
                    return lookups;
                }
                Err(BindError::UnknownNamer { kind, .. }) if !matches!(&*kind, "inet" | "fixedinet") => {
                    self.add_unknown(name);
                }
                _ => {}
            },
            _ => {}
        }
        0
    }

    fn add_unknown(&mut self, name: &Path) {
        self.unknown.insert(name.clone(), name.clone());
        self.report_unknown(name.clone());
    }

    fn shadowed(&mut self) {
        let entries = self.dtab.entries();
        let mut last: HashMap<_, _> = HashMap::new();
        let mut deciding: Vec<usize> = Vec::new();
        for (index, entry) in entries.iter().enumerate().rev() {
            if !self.spend(deciding.len() * WORK_PER_PAIR) {
                return;
            }
            let same = last.insert((&entry.prefix, &entry.dst), index);
            let by = deciding.iter().find(|&&later| covers(&entries[later].prefix, &entry.prefix)).copied();
            if let Some(later) = by.or(same) {
                self.entry = index + 1;
                self.report(Fault::Shadowed(later + 1));
            }
            if decides(&entry.dst) {
                deciding.push(index);
            }
        }
    }

    fn unreachable(&mut self) {
        if self.checks.roots.is_empty() {
            return;
        }
        let mut left: Vec<usize> = (0..self.dtab.len()).collect();
        let mut led_to: Vec<Path> = self.checks.roots.clone();
        while let Some(name) = led_to.pop() {
            if !self.spend(left.len() * WORK_PER_PAIR) {
                return;
            }
            left.retain(|&index| {
                let Dentry { prefix, dst } = &self.dtab.entries()[index];
                let is_reached = overlaps(prefix, &name);
                if is_reached {
                    led_to.extend(dst.leaves().into_iter().cloned());
                }
                !is_reached
            });
        }
        for index in left {
            self.entry = index + 1;
            self.report(Fault::Unreachable(self.dtab.entries()[index].prefix.clone()));
        }
    }
}

/// A name like those that a prefix is for.
fn sample(prefix: &Prefix) -> Path {
    let mut path = PathBuilder::default();
    for element in prefix.elements() {
        let bytes = match element {
            Element::Any => b"any",
            Element::Label(label) => &**label,
        };
        path.push(bytes).expect("a label is never empty");
    }
    path.build()
}

/// Whether the tree is never negative, whatever namers say: then no earlier entry is looked at.
fn decides(tree: &NameTree<Path>) -> bool {
    match tree {
        NameTree::Fail | NameTree::Empty => true,
        NameTree::Neg => false,
        NameTree::Leaf(path) => matches!(step(path), Ok(Step::Fail | Step::Empty | Step::Inet(_))),
        NameTree::Alt(trees) => trees.iter().any(decides),
        // A branch that fails counts for nothing.
        NameTree::Union(branches) => {
            let has_replicas = |tree: &NameTree<Path>| *tree != NameTree::Fail && decides(tree);
            branches
                .iter()
                .any(|branch| matches!(branch.tree, NameTree::Leaf(_) | NameTree::Empty) && has_replicas(&branch.tree))
        }
    }
}

/// Whether all names that `narrow` is for are names that `wide` is for.
fn covers(wide: &Prefix, narrow: &Prefix) -> bool {
    let mut pairs = wide.elements().iter().zip(narrow.elements());
    wide.size() <= narrow.size() && pairs.all(|(wide, narrow)| *wide == Element::Any || wide == narrow)
}

/// Whether some name that begins with `name` begins with `prefix`, too.
fn overlaps(prefix: &Prefix, name: &Path) -> bool {
    let is_same = |(element, label): (&Element, &[u8])| match element {
        Element::Any => true,
        Element::Label(expected) => **expected == *label,
    };
    prefix.elements().iter().zip(name).all(is_same)
}

impl Issue {
    /// What is wrong, with the entry of `dtab` that it is about, and with the place where that begins, if it was read from a
    /// text.
    #[must_use]
    pub fn describe(&self, dtab: &Dtab, place: Option<Place>) -> String {
        self.say(dtab, place, &self.fault.to_string(), numbered)
    }

    /// The same, where entries are called by `name`.
    #[must_use]
    pub(super) fn describe_as(&self, dtab: &Dtab, place: Option<Place>, name: impl Fn(usize) -> String) -> String {
        let text = match &self.fault {
            Fault::Shadowed(by) => shadowed(&name(*by)),
            fault => fault.to_string(),
        };
        self.say(dtab, place, &text, name)
    }

    /// The same with nothing in it but `dtab`, where other tables that go before and after it are not to be seen.
    #[must_use]
    pub(super) fn describe_alone(&self, dtab: &Dtab, place: Option<Place>) -> String {
        let fault = &self.fault;
        let text = match fault {
            Fault::Cycle(_) => "names go round together with what others define".to_owned(),
            Fault::Growth(_) => format!("a name takes more than {MAX_DEPTH} lookups"),
            Fault::UnknownNamer(_) => "it leads to where no namer is configured".to_owned(),
            Fault::Shadowed(_) => "it has no effect, as a later entry decides for all of its names".to_owned(),
            Fault::Lookups(_) => format!("a name may take more than {MAX_LOOKUPS} lookups, and is not bound then"),
            Fault::Unreachable(_) | Fault::TooLarge => fault.to_string(),
        };
        self.say(dtab, place, &text, numbered)
    }

    fn say(&self, dtab: &Dtab, place: Option<Place>, text: &str, name: impl Fn(usize) -> String) -> String {
        let Some(dentry) = dtab.entries().get(self.entry.wrapping_sub(1)) else { return text.to_owned() };
        let at = place.map(|place| format!(" at {place}")).unwrap_or_default();
        format!("{}{at} ({}): {text}", name(self.entry), Short(dentry))
    }
}

fn numbered(entry: usize) -> String {
    format!("entry {entry}")
}

fn shadowed(by: &str) -> String {
    format!("it has no effect, as {by} decides for all of its names")
}

/// An entry, cut to a length that fits a line.
pub(super) struct Short<'a>(pub(super) &'a Dentry);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => write!(f, "{}...", &text[..end]),
            None => f.write_str(&text),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cycle(names) => {
                f.write_str("names go round: ")?;
                names.iter().take(8).try_for_each(|name| write!(f, "{name} -> "))?;
                if names.len() > 8 { f.write_str("...") } else { names[0].fmt(f) }
            }
            Self::Growth(name) => write!(f, "{name} takes more than {MAX_DEPTH} lookups"),
            Self::Lookups(name) => {
                write!(f, "{name} may take more than {MAX_LOOKUPS} lookups, and is not bound then")
            }
            Self::UnknownNamer(name) => write!(f, "no namer is configured for {name}"),
            Self::Shadowed(by) => f.write_str(&shadowed(&numbered(*by))),
            Self::Unreachable(prefix) => write!(f, "it has no effect, as nothing leads to {prefix}"),
            Self::TooLarge => f.write_str("the table is too large to be checked further"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issues(dtab: &str, roots: &[&str]) -> Vec<String> {
        let dtab: Dtab = dtab.parse().unwrap();
        let namers = vec!["/#/io.l5d.fs".parse().unwrap()];
        let checks = Checks { namers, roots: roots.iter().map(|root| root.parse().unwrap()).collect() };
        check(&dtab, &checks).iter().map(|issue| issue.describe(&dtab, None)).collect()
    }

    #[test]
    fn a_table_without_fault_has_no_issue() {
        let dtab = "/srv => /#/io.l5d.fs; /host => /srv; /tmp => /srv; /svc => /host; /host/world => /srv/world-v1";
        assert_eq!(issues(dtab, &["/svc"]), ["entry 3 (/tmp=>/srv): it has no effect, as nothing leads to /tmp"]);
        assert_eq!(issues(dtab, &["/svc", "/tmp"]), [""; 0]);
        let dtab = "/a => /$/inet/1; /a => /$/inet/127.1/1 | /b; /c => /$/io.buoyant.hostportPfx/d";
        assert_eq!(
            issues(dtab, &[]),
            ["entry 1 (/a=>/$/inet/1): it has no effect, as entry 2 decides for all of its names"]
        );
        assert_eq!(issues("", &["/svc"]), [""; 0]);
    }

    #[test]
    fn names_that_go_round_are_found_behind_any_alternative() {
        assert_eq!(issues("/loop=>/loop", &[]), ["entry 1 (/loop=>/loop): names go round: /loop -> /loop"]);
        let found = issues("/a => /#/io.l5d.fs/x | 3 * /b & /c ; /b => ! | /a", &[]);
        assert_eq!(found, ["entry 1 (/a=>/#/io.l5d.fs/x | 3.00*/b & /c): names go round: /a -> /b -> /a"]);
        let found = issues("/a/*/c => /a/x/c", &[]);
        assert_eq!(found, ["entry 1 (/a/*/c=>/a/x/c): names go round: /a/x/c -> /a/x/c"]);
        let found = issues("/$/x => /y; /y => /$/com.twitter.finagle.namer.global/$/x", &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(issues("/a => /a/b", &[])[0].ends_with("/a takes more than 100 lookups"));
        assert!(issues("/a => /a/b & /a/c", &[]).len() <= 2);
    }

    #[test]
    fn a_fault_is_told_of_the_entry_at_whose_end_it_is() {
        let unknown = |entry| format!("{entry}: no namer is configured for /#/nope");
        let found = issues("/svc/db => /svc/web;\n/svc/web => /#/nope", &[]);
        assert_eq!(found, [unknown("entry 2 (/svc/web=>/#/nope)")]);
        let found = issues("/x => /y; /y => /#/nope; /z => /y | /#/nope; /z2 => /z", &[]);
        assert_eq!(found, [unknown("entry 2 (/y=>/#/nope)"), unknown("entry 3 (/z=>/y | /#/nope)")]);
        let found = issues("/svc/db => /c; /b => /c; /c => /b", &[]);
        assert_eq!(found, ["entry 2 (/b=>/c): names go round: /b -> /c -> /b"]);
        let found = issues("/a => /b; /b => /b/c", &[]);
        assert_eq!(found, ["entry 2 (/b=>/b/c): /b takes more than 100 lookups"]);
    }

    #[test]
    fn namers_that_are_not_configured_are_named() {
        let found = issues("/svc => /#/io.l5d.consul/dc1; /x => /#/io.l5d.fs; /y => /#; /z => /$/nope/a", &[]);
        assert_eq!(
            found,
            [
                "entry 1 (/svc=>/#/io.l5d.consul/dc1): no namer is configured for /#/io.l5d.consul/dc1",
                "entry 4 (/z=>/$/nope/a): no namer is configured for /$/nope/a",
            ]
        );
        assert_eq!(issues("/#/io.l5d.k8s => /#/io.l5d.fs; /svc => /#/io.l5d.k8s/a", &[]), [""; 0]);
    }

    #[test]
    fn entries_that_later_ones_decide_for_are_found() {
        let found = issues("/a/b => /x; /a/* => /y; /a/* => $; /a => /z", &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("as entry 3 decides for all of its names"), "{found:?}");
        assert_eq!(issues("/a => /x; /a => /x", &[]).len(), 1);
        assert_eq!(issues("/a => /x; /a => ! & ~; /a => ! & !", &[]), [""; 0], "a union that fails is negative");
    }

    #[test]
    fn no_table_takes_long_to_check() {
        let many: Vec<_> = (0..30_000).map(|n| format!("/a{n} => /b{n} | !")).collect();
        let found = issues(&many.join(";"), &["/svc"]);
        assert!(found.last().unwrap().ends_with("too large to be checked further"), "{:?}", found.last());
    }
}

//! Binding as a pure function of a table and what the namers say now.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;

use crate::{BindError, Bound, Dentry, Dtab, Failure, Name, NameTree, Path, State, Weighted, error::Steps};

/// How many lookups in a row a name may take.
pub const MAX_DEPTH: usize = 100;

// Bounds on one evaluation. A table in which a union refers to itself doubles the work with each lookup, so a limit on
// depth alone bounds nothing. Stack: each level is some frames of a few hundred bytes.
pub(crate) const MAX_LOOKUPS: usize = 10_000;
const MAX_LEVELS: usize = 500;
// In units of about a nanosecond or two.
const MAX_WORK: usize = 16 << 20;
// What is as dear as comparing this many elements: a node of a tree, of which an explanation keeps a copy.
const NODE: usize = 128;
// Answers that took more lookups are not remembered: they are not asked for often before there are too many lookups.
const MAX_REMEMBERED: usize = 128;

type Tree = NameTree<Bound>;
/// Name, depth and weight: all that an answer depends on.
type Key = (Path, usize, Option<u64>);
/// What becomes of a leaf, given the weight of the branch that it is on.
type Leaf<'f, 'e, T> = &'f dyn Fn(&mut Evaluation<'e>, &T, Option<f64>) -> State<Tree>;

/// Binds `path` under `dtab`; `namers` answers for names that no entry of the table matches.
///
/// No name may take more than `max_depth` lookups in a row, nor all together more than 10,000. A name that is looked up
/// more than once counts each time, though its answer is remembered.
///
/// The answer has no [`NameTree::Alt`]: it is negative, fails, is empty, is one bound name, or is a union of those that
/// can take traffic.
pub fn evaluate(
    dtab: &Dtab,
    path: &Path,
    max_depth: usize,
    namers: &mut dyn FnMut(&Path) -> State<NameTree<Name>>,
) -> State<Tree> {
    evaluate_within(Work::default(), dtab, path, max_depth, namers).0
}

fn evaluate_within(
    work: Work,
    dtab: &Dtab,
    path: &Path,
    max_depth: usize,
    namers: &mut dyn FnMut(&Path) -> State<NameTree<Name>>,
) -> (State<Tree>, Work) {
    let mut evaluation =
        Evaluation { dtab, max_depth, namers, steps: Vec::new(), work, remembered: HashMap::new(), saved: 0 };
    let mut found = evaluation.lookup(path.clone(), 0, None);
    if evaluation.work.exhausted() {
        found = failed(BindError::TooMuch { path: path.clone() });
    }
    evaluation.work.units -= evaluation.saved;
    (found, evaluation.work)
}

struct Evaluation<'a> {
    dtab: &'a Dtab,
    max_depth: usize,
    namers: &'a mut dyn FnMut(&Path) -> State<NameTree<Name>>,
    steps: Vec<Path>,
    work: Work,
    remembered: HashMap<Key, (State<Tree>, Spent)>,
    // What was counted for remembered answers.
    saved: usize,
}

/// What has been done so far, so that it can be bounded.
///
/// An explanation counts the same for the branches that a binding follows, so that both reach the limits together.
#[derive(Debug)]
pub(crate) struct Work {
    lookups_left: usize,
    levels_left: usize,
    // The least that was left since this was last set.
    least_levels_left: usize,
    units: usize,
    max_units: usize,
    over: bool,
}

/// What one lookup and all that follow from it took.
#[derive(Clone, Copy, Debug)]
struct Spent {
    lookups: usize,
    levels: usize,
    units: usize,
}

impl Default for Work {
    /// What a binding may take.
    fn default() -> Self {
        Self::new(MAX_LOOKUPS, MAX_WORK)
    }
}

impl Work {
    fn new(max_lookups: usize, max_units: usize) -> Self {
        Self {
            lookups_left: max_lookups,
            levels_left: MAX_LEVELS,
            least_levels_left: MAX_LEVELS,
            units: 0,
            max_units,
            over: false,
        }
    }

    /// What an explanation may take for branches that a binding does not follow.
    pub(crate) fn aside() -> Self {
        Self::new(MAX_LOOKUPS / 5, MAX_WORK / 8)
    }

    /// Goes on from the level that `other` is at.
    pub(crate) fn start_below(&mut self, other: &Self) {
        self.levels_left = other.levels_left;
    }

    /// The entries of `dtab` that match `path`, last first. `None`: too much.
    pub(crate) fn lookup(&mut self, dtab: &Dtab, path: &Path) -> Option<SmallVec<[usize; 8]>> {
        self.spend(Spent { lookups: 1, levels: 0, units: path.byte_len() }).then_some(())?;
        let (found, cost) = dtab.matching(path);
        self.spend(Spent { lookups: 0, levels: 0, units: cost + found.len() }).then_some(found)
    }

    /// Counts the bytes of a path that is made. False: too much.
    pub(crate) fn bytes(&mut self, bytes: usize) -> bool {
        self.spend(Spent { lookups: 0, levels: 0, units: bytes })
    }

    /// Counts a node of a tree and goes one level down; [`leave`](Self::leave) goes up again. False: too deep.
    pub(crate) fn enter(&mut self) -> bool {
        let may = self.spend(Spent { lookups: 0, levels: 1, units: NODE });
        self.levels_left = self.levels_left.saturating_sub(1);
        self.least_levels_left = self.least_levels_left.min(self.levels_left);
        may
    }

    pub(crate) fn leave(&mut self) {
        self.levels_left += 1;
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.over
    }

    fn spend(&mut self, Spent { lookups, levels, units }: Spent) -> bool {
        self.units += units;
        self.over |= lookups > self.lookups_left || levels > self.levels_left || self.units > self.max_units;
        self.lookups_left = self.lookups_left.saturating_sub(lookups);
        self.least_levels_left = self.least_levels_left.min(self.levels_left.saturating_sub(levels));
        !self.over
    }
}

impl<'e> Evaluation<'e> {
    // `depth` lookups have led to `path`; `weight` is that of the innermost union branch on the way.
    fn lookup(&mut self, path: Path, depth: usize, weight: Option<f64>) -> State<Tree> {
        let key = (path, depth, weight.map(f64::to_bits));
        if let Some((found, spent)) = self.remembered.get(&key) {
            self.saved += spent.units;
            return if self.work.spend(*spent) { found.clone() } else { self.too_much() };
        }
        let path = key.0.clone();
        let Work { lookups_left, levels_left, least_levels_left, units, .. } = self.work;
        self.work.least_levels_left = levels_left;
        let Some(matches) = self.work.lookup(self.dtab, &path) else { return self.too_much() };
        self.steps.push(path);
        let found = self.answer(&matches, depth + 1, weight);
        self.steps.pop();
        let spent = Spent {
            lookups: lookups_left - self.work.lookups_left,
            levels: levels_left - self.work.least_levels_left,
            units: self.work.units - units,
        };
        self.work.least_levels_left = self.work.least_levels_left.min(least_levels_left);
        if spent.lookups <= MAX_REMEMBERED && !self.work.exhausted() {
            self.remembered.insert(key, (found.clone(), spent));
        }
        found
    }

    fn answer(&mut self, matches: &[usize], depth: usize, weight: Option<f64>) -> State<Tree> {
        let path = self.steps.last().cloned().unwrap_or_default();
        let entries = self.dtab.entries();
        if matches.iter().all(|&index| matches.len() == 1 && entries[index].dst == NameTree::Neg) {
            return self.ask(&path, depth, weight);
        }
        // Whatever the answer is: a lookup too many is rejected even if it would have been the last.
        if depth > self.max_depth {
            return self.too_deep();
        }
        for &index in matches {
            let Dentry { prefix, dst } = &entries[index];
            let found = self.node(dst, weight, depth, &path.drop_first(prefix.size()));
            if decides(&found) {
                return found;
            }
        }
        State::Ok(NameTree::Neg)
    }

    fn ask(&mut self, path: &Path, depth: usize, weight: Option<f64>) -> State<Tree> {
        match (self.namers)(path) {
            State::Pending => State::Pending,
            State::Failed(error) => State::Failed(error),
            State::Ok(_) if depth > self.max_depth => self.too_deep(),
            State::Ok(tree) => self.tree(&tree, weight, &|this, name, weight| match name {
                Name::Path(path) => this.lookup(path.clone(), depth, weight),
                Name::Bound(bound) => State::Ok(NameTree::Leaf(Bound { weight, ..bound.clone() })),
            }),
        }
    }

    // A tree of the table, with what follows the prefix appended to each leaf.
    fn node(&mut self, tree: &NameTree<Path>, weight: Option<f64>, depth: usize, suffix: &Path) -> State<Tree> {
        self.tree(tree, weight, &|this, path, weight| {
            let path = path.concat(suffix);
            if !this.work.bytes(path.byte_len()) {
                return this.too_much();
            }
            this.lookup(path, depth, weight)
        })
    }

    fn tree<T>(&mut self, tree: &NameTree<T>, weight: Option<f64>, leaf: Leaf<'_, 'e, T>) -> State<Tree> {
        if !self.work.enter() {
            return self.too_much();
        }
        let found = match tree {
            NameTree::Leaf(name) => leaf(self, name, weight),
            NameTree::Neg => State::Ok(NameTree::Neg),
            NameTree::Fail => State::Ok(NameTree::Fail),
            NameTree::Empty => State::Ok(NameTree::Empty),
            NameTree::Union(branches) => {
                let mut union = Union::default();
                for branch in branches {
                    union.add(branch.weight, self.tree(&branch.tree, Some(branch.weight), leaf));
                }
                union.outcome()
            }
            NameTree::Alt(trees) => {
                let mut found = State::Ok(NameTree::Neg);
                for tree in trees {
                    found = self.tree(tree, weight, leaf);
                    if decides(&found) {
                        break;
                    }
                }
                found
            }
        };
        self.work.leave();
        found
    }

    fn too_deep(&self) -> State<Tree> {
        failed(BindError::TooDeep { limit: self.max_depth, steps: Steps::new(&self.steps) })
    }

    fn too_much(&self) -> State<Tree> {
        failed(BindError::TooMuch { path: self.steps.first().cloned().unwrap_or_default() })
    }
}

/// Whether this alternative decides: it is not negative. A pending or failed one is not.
pub(crate) fn decides(found: &State<Tree>) -> bool {
    !matches!(found, State::Ok(NameTree::Neg))
}

/// What becomes of a union: the branches that have an answer, simplified. If none has: the first failure, else pending.
#[derive(Default)]
pub(crate) struct Union {
    known: Vec<Weighted<Bound>>,
    failure: Option<Failure>,
    pending: bool,
}

impl Union {
    pub(crate) fn add(&mut self, weight: f64, found: State<Tree>) {
        match found {
            State::Ok(tree) => self.known.push(Weighted::new(weight, tree)),
            State::Failed(error) => self.failure = self.failure.take().or(Some(error)),
            State::Pending => self.pending = true,
        }
    }

    pub(crate) fn outcome(self) -> State<Tree> {
        let Self { mut known, failure, pending } = self;
        // A union of which one branch is known is that branch, be it a fail. The children are simplified already.
        if known.len() > 1 {
            known.retain(|branch| !matches!(branch.tree, NameTree::Neg | NameTree::Fail));
            return State::Ok(match known.len() {
                0 | 1 => known.pop().map_or(NameTree::Neg, |branch| branch.tree),
                _ => NameTree::Union(known),
            });
        }
        match (known.pop(), failure) {
            (Some(branch), _) => State::Ok(branch.tree),
            (None, Some(error)) => State::Failed(error),
            (None, None) if pending => State::Pending,
            (None, None) => State::Ok(NameTree::Neg),
        }
    }
}

fn failed<T>(error: BindError) -> State<T> {
    State::Failed(Arc::new(error) as Failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activity, Addr};

    // What a binding counts, and how much of that it does.
    fn work(dtab: &str) -> (State<Tree>, usize) {
        let bound = |path: &Path| Bound::new(path.clone(), Path::empty(), Activity::value(Addr::Neg));
        let mut namers = |path: &Path| {
            State::Ok(if path.get(0) == Some(b"n") { NameTree::Leaf(Name::Bound(bound(path))) } else { NameTree::Neg })
        };
        let (dtab, path) = (dtab.parse().unwrap(), "/svc".parse().unwrap());
        let (found, work) = evaluate_within(Work::default(), &dtab, &path, MAX_DEPTH, &mut namers);
        (found, work.units)
    }

    fn union(names: impl IntoIterator<Item = String>) -> String {
        names.into_iter().collect::<Vec<_>>().join("&")
    }

    fn same(name: &str) -> String {
        union(vec![name.to_owned(); 90])
    }

    #[test]
    fn a_name_that_is_wanted_often_is_looked_up_once() {
        let wildcards = ";/*/*/*/x=>/a".repeat(350);
        let (found, work) = work(&format!("/svc=>/b;/b=>{};/c=>{}{wildcards}", same("/c"), same("/n")));
        assert_eq!(found.ok().unwrap().leaves().len(), 8100);
        assert!(work < 100_000, "{work}");
    }

    #[test]
    fn wildcards_are_not_compared_with_names_that_are_too_short() {
        let wildcards = ";/*/*/*/x=>/a".repeat(1000);
        let (found, work) = work(&format!("/svc=>/n{wildcards}"));
        assert!(matches!(found, State::Ok(_)));
        assert!(work < 3_000, "{work}");
    }

    #[test]
    fn no_small_table_takes_more_work_than_is_allowed() {
        // Names that are all different, each compared with much of the table.
        let names = |from: &str| union((0..90).map(|n| format!("{from}/{n}")));
        let head = format!("/svc=>{};/b=>{}", names("/b"), names("/c/x"));
        let tails = [
            ";/*/*/*/x=>/a".repeat(400),
            ";/*=>~".repeat(1000),
            format!(";/c=>{}~", "~&".repeat(3000)),
            format!(";/c{}/x=>/a", "/*".repeat(3000)),
            format!(";/c=>/n{}", "/y".repeat(3000)),
        ];
        for tail in tails {
            let dtab = head.clone() + &tail;
            assert!(dtab.len() < 8 << 10, "{}", dtab.len());
            let (_, work) = work(&dtab);
            // What takes it over the limit is itself no more than a table's length.
            assert!(work <= MAX_WORK + dtab.len() * NODE, "{work}: {tail}");
        }
        let (found, _) = work(&(head + &";/*=>~".repeat(1000)));
        assert!(matches!(found, State::Failed(_)), "each lookup matches a thousand entries");
    }
}

//! Name trees: alternatives and weighted unions of names.

use std::{
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
};

/// A tree of names: what a name stands for.
///
/// ```text
/// /a | /b        the first that is not negative
/// 3*/a & 7*/b    three parts of the traffic to one, seven to the other
/// ```
///
/// Displays its canonical form, weights with two decimals as Linkerd prints them; with `{:#}` with as many as they have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NameTree<T> {
    /// Ordered fallback: the first child that is not negative.
    Alt(Vec<NameTree<T>>),
    /// Load distribution by weight.
    Union(Vec<Weighted<T>>),
    /// A name.
    Leaf(T),
    /// Nothing here; look elsewhere. Written `~`.
    Neg,
    /// Nothing here, and stop looking. Written `!`.
    Fail,
    /// The name exists and has no replicas; stop looking. Written `$`.
    Empty,
}

/// A branch of a union.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted<T> {
    /// Its share relative to its siblings' weights: not negative, possibly infinite.
    pub weight: f64,
    /// What gets that share.
    pub tree: NameTree<T>,
}

impl<T> Weighted<T> {
    /// A branch of this weight.
    pub const fn new(weight: f64, tree: NameTree<T>) -> Self {
        Self { weight, tree }
    }
}

impl<T: Eq> Eq for Weighted<T> {}

impl<T: Hash> Hash for Weighted<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Zero and minus zero are equal, so they hash alike.
        (self.weight + 0.0).to_bits().hash(state);
        self.tree.hash(state);
    }
}

impl<T> NameTree<T> {
    /// The same tree with other leaves.
    pub fn map<U>(self, f: &mut impl FnMut(T) -> U) -> NameTree<U> {
        match self {
            Self::Alt(trees) => NameTree::Alt(trees.into_iter().map(|tree| tree.map(f)).collect()),
            Self::Union(branches) => NameTree::Union(
                branches.into_iter().map(|Weighted { weight, tree }| Weighted::new(weight, tree.map(f))).collect(),
            ),
            Self::Leaf(value) => NameTree::Leaf(f(value)),
            Self::Neg => NameTree::Neg,
            Self::Fail => NameTree::Fail,
            Self::Empty => NameTree::Empty,
        }
    }

    /// A tree of references to the leaves of this one.
    pub fn as_ref(&self) -> NameTree<&T> {
        match self {
            Self::Alt(trees) => NameTree::Alt(trees.iter().map(Self::as_ref).collect()),
            Self::Union(branches) => {
                NameTree::Union(branches.iter().map(|b| Weighted::new(b.weight, b.tree.as_ref())).collect())
            }
            Self::Leaf(value) => NameTree::Leaf(value),
            Self::Neg => NameTree::Neg,
            Self::Fail => NameTree::Fail,
            Self::Empty => NameTree::Empty,
        }
    }

    /// All leaves, from left to right.
    pub fn leaves(&self) -> Vec<&T> {
        let (mut leaves, mut todo) = (Vec::new(), vec![self]);
        while let Some(tree) = todo.pop() {
            match tree {
                Self::Alt(trees) => todo.extend(trees.iter().rev()),
                Self::Union(branches) => todo.extend(branches.iter().rev().map(|branch| &branch.tree)),
                Self::Leaf(value) => leaves.push(value),
                Self::Neg | Self::Fail | Self::Empty => {}
            }
        }
        leaves
    }

    /// The same meaning with fewer nodes: negative branches are left out, what can never be reached too, and nodes with
    /// one child become the child.
    ///
    /// Nothing is flattened, reordered or merged. A union that loses all but one branch loses its weights.
    #[must_use]
    pub fn simplify(self) -> Self {
        match self {
            Self::Alt(trees) => {
                let only = trees.len() == 1;
                let mut kept = Vec::new();
                for tree in trees {
                    match tree.simplify() {
                        Self::Neg => {}
                        Self::Fail if !only => {
                            kept.push(Self::Fail);
                            break;
                        }
                        tree => kept.push(tree),
                    }
                }
                one_or(kept, Self::Alt, |tree| tree)
            }
            Self::Union(mut branches) if branches.len() == 1 => {
                branches.pop().map_or(Self::Neg, |branch| branch.tree.simplify())
            }
            Self::Union(branches) => {
                let simple = branches.into_iter().map(|branch| Weighted::new(branch.weight, branch.tree.simplify()));
                let kept = simple.filter(|branch| !matches!(branch.tree, Self::Fail | Self::Neg)).collect();
                one_or(kept, Self::Union, |branch| branch.tree)
            }
            tree => tree,
        }
    }

    // The node that stands for this one: the child of an only child's parent.
    fn collapsed(&self) -> &Self {
        let mut tree = self;
        loop {
            tree = match tree {
                Self::Alt(trees) if trees.len() == 1 => &trees[0],
                Self::Union(branches) if branches.len() == 1 => &branches[0].tree,
                _ => return tree,
            };
        }
    }
}

impl<T: Eq + Hash> NameTree<T> {
    /// The leaves that this tree means if its leaves are taken as they are; `None` if it means nothing (it is negative,
    /// or fails).
    ///
    /// Each leaf comes once. Weights do not matter.
    pub fn eval(&self) -> Option<Vec<&T>> {
        match self.eval_node() {
            Eval::Set(values) => Some(values),
            Eval::Neg | Eval::Fail => None,
        }
    }

    fn eval_node(&self) -> Eval<'_, T> {
        match self {
            Self::Neg => Eval::Neg,
            Self::Fail => Eval::Fail,
            Self::Empty => Eval::Set(Vec::new()),
            Self::Leaf(value) => Eval::Set(vec![value]),
            Self::Alt(trees) => {
                trees.iter().map(Self::eval_node).find(|eval| !matches!(eval, Eval::Neg)).unwrap_or(Eval::Neg)
            }
            Self::Union(branches) if branches.len() == 1 => branches[0].tree.eval_node(),
            Self::Union(branches) => {
                let (mut seen, mut values, mut any) = (HashSet::new(), Vec::new(), false);
                for branch in branches {
                    if let Eval::Set(more) = branch.tree.eval_node() {
                        any = true;
                        values.extend(more.into_iter().filter(|&value| seen.insert(value)));
                    }
                }
                if any { Eval::Set(values) } else { Eval::Neg }
            }
        }
    }
}

impl<T: Clone + PartialEq> NameTree<T> {
    /// Whether both trees are the same once simplified.
    #[must_use]
    pub fn is_equivalent(&self, other: &Self) -> bool {
        self.clone().simplify() == other.clone().simplify()
    }
}

enum Eval<'a, T> {
    Neg,
    Fail,
    Set(Vec<&'a T>),
}

fn one_or<T, N>(
    mut kept: Vec<N>,
    node: impl FnOnce(Vec<N>) -> NameTree<T>,
    child: impl FnOnce(N) -> NameTree<T>,
) -> NameTree<T> {
    if kept.len() > 1 {
        return node(kept);
    }
    kept.pop().map_or(NameTree::Neg, child)
}

impl<T: fmt::Display> fmt::Display for NameTree<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.collapsed() {
            Self::Alt(trees) => join(f, " | ", trees, |tree, f| show_union(tree.collapsed(), f)),
            tree => show_union(tree, f),
        }
    }
}

fn show_union<T: fmt::Display>(tree: &NameTree<T>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let NameTree::Union(branches) = tree else { return show_simple(tree, f) };
    join(f, " & ", branches, |branch, f| {
        if branch.weight != 1.0 {
            fmt::Display::fmt(&ShownWeight(branch.weight), f)?;
            f.write_str("*")?;
        }
        show_simple(branch.tree.collapsed(), f)
    })
}

fn show_simple<T: fmt::Display>(tree: &NameTree<T>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match tree {
        NameTree::Alt(_) | NameTree::Union(_) => {
            f.write_str("(")?;
            fmt::Display::fmt(tree, f)?;
            f.write_str(")")
        }
        NameTree::Leaf(name) => name.fmt(f),
        NameTree::Neg => f.write_str("~"),
        NameTree::Fail => f.write_str("!"),
        NameTree::Empty => f.write_str("$"),
    }
}

fn join<N>(
    f: &mut fmt::Formatter<'_>,
    separator: &str,
    nodes: &[N],
    mut show: impl FnMut(&N, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    for (i, node) in nodes.iter().enumerate() {
        if i > 0 {
            f.write_str(separator)?;
        }
        show(node, f)?;
    }
    Ok(())
}

// A weight with two decimals, rounded half up on the shortest decimal spelling of the number, as Java's `%.2f` does;
// Rust's own rounds the exact binary value, half to even.
struct ShownWeight(f64);

impl fmt::Display for ShownWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            return f.write_str("NaN");
        }
        if self.0.is_infinite() {
            return f.write_str(if self.0 > 0.0 { "Infinity" } else { "-Infinity" });
        }
        let shortest = self.0.to_string();
        let (whole, decimals) = shortest.split_once('.').unwrap_or((&shortest, ""));
        if f.alternate() && decimals.len() > 2 {
            return f.write_str(&shortest);
        }
        let decimal = |i: usize| decimals.as_bytes().get(i).copied().unwrap_or(b'0');
        if decimal(2) < b'5' {
            return write!(f, "{whole}.{}{}", char::from(decimal(0)), char::from(decimal(1)));
        }
        let mut digits = whole.as_bytes().to_vec();
        digits.extend([decimal(0), decimal(1)]);
        let mut at = digits.len();
        loop {
            if at == 0 || !digits[at - 1].is_ascii_digit() {
                digits.insert(at, b'1');
                break;
            }
            at -= 1;
            if digits[at] != b'9' {
                digits[at] += 1;
                break;
            }
            digits[at] = b'0';
        }
        let (whole, decimals) = digits.split_at(digits.len() - 2);
        write!(f, "{}.{}", String::from_utf8_lossy(whole), String::from_utf8_lossy(decimals))
    }
}

//! Name trees: alternatives and weighted unions of names.

/// A tree of names: what a name stands for.
///
/// ```text
/// /a | /b        the first that is not negative
/// 3*/a & 7*/b    three parts of the traffic to one, seven to the other
/// ```
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
impl<T: Eq> Eq for Weighted<T> {}

impl<T: std::hash::Hash> std::hash::Hash for Weighted<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.weight.to_bits().hash(state);
        self.tree.hash(state);
    }
}

//! Transformers that put another name in the place of those that were bound.

use std::{fmt, sync::Arc};

use super::{Transformer, id_prefix};
use crate::{Activity, Bound, Dtab, Interpreter, NameTree, Path, Weighted};

/// Binds one name whatever was asked for (`io.l5d.const`): all traffic goes there.
///
/// Not even a negative tree is looked at. Ids begin with `/%/io.l5d.const` and the name.
#[derive(Clone)]
pub struct Const(Substitute);

/// Binds one name in the place of every bound one (`io.l5d.replace`): whatever has replicas goes there.
///
/// The shape of a tree, its negative, failing and empty branches stay. Ids begin with `/%/io.l5d.replace` and the name.
#[derive(Clone)]
pub struct Replace(Substitute);

#[derive(Clone)]
struct Substitute {
    interpreter: Arc<dyn Interpreter>,
    path: Path,
    prefix: Path,
}

impl Const {
    /// Binds `path` by `interpreter`, with an empty table.
    pub fn new(path: Path, interpreter: Arc<dyn Interpreter>) -> Self {
        Self(Substitute::new(path, interpreter, b"io.l5d.const"))
    }

    /// Puts `/%` and `prefix` before ids.
    #[must_use]
    pub fn with_prefix(self, prefix: &Path) -> Self {
        Self(Substitute { prefix: id_prefix(prefix), ..self.0 })
    }
}

impl Replace {
    /// Binds `path` by `interpreter`, with an empty table.
    pub fn new(path: Path, interpreter: Arc<dyn Interpreter>) -> Self {
        Self(Substitute::new(path, interpreter, b"io.l5d.replace"))
    }

    /// Puts `/%` and `prefix` before ids.
    #[must_use]
    pub fn with_prefix(self, prefix: &Path) -> Self {
        Self(Substitute { prefix: id_prefix(prefix), ..self.0 })
    }
}

impl Substitute {
    fn new(path: Path, interpreter: Arc<dyn Interpreter>, kind: &[u8]) -> Self {
        let prefix = id_prefix(std::iter::once(kind).chain(&path));
        Self { interpreter, path, prefix }
    }

    /// The name's own tree, in the place that `put` has for it.
    fn bind(&self, put: impl Fn(NameTree<Bound>) -> NameTree<Bound> + Send + 'static) -> Activity<NameTree<Bound>> {
        let prefix = self.prefix.clone();
        self.interpreter
            .bind(&Dtab::empty(), &self.path)
            .map(move |tree| put(tree.map(&mut |bound| Bound { id: prefix.concat(&bound.id), ..bound })))
    }
}

impl Transformer for Const {
    fn transform(&self, _: NameTree<Bound>) -> Activity<NameTree<Bound>> {
        self.0.bind(|bound| bound)
    }

    fn name(&self) -> &'static str {
        "io.l5d.const"
    }
}

impl Transformer for Replace {
    fn transform(&self, tree: NameTree<Bound>) -> Activity<NameTree<Bound>> {
        // Without a leaf there is nothing to wait for.
        if tree.leaves().is_empty() {
            return Activity::value(tree);
        }
        self.0.bind(move |bound| replace(&tree, &bound))
    }

    fn name(&self) -> &'static str {
        "io.l5d.replace"
    }
}

fn replace(tree: &NameTree<Bound>, by: &NameTree<Bound>) -> NameTree<Bound> {
    match tree {
        NameTree::Leaf(_) => by.clone(),
        NameTree::Alt(trees) => NameTree::Alt(trees.iter().map(|tree| replace(tree, by)).collect()),
        NameTree::Union(branches) => {
            let branches = branches.iter().map(|branch| Weighted::new(branch.weight, replace(&branch.tree, by)));
            NameTree::Union(branches.collect())
        }
        NameTree::Neg => NameTree::Neg,
        NameTree::Fail => NameTree::Fail,
        NameTree::Empty => NameTree::Empty,
    }
}

impl fmt::Debug for Const {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Const").field(&self.0.path).finish()
    }
}

impl fmt::Debug for Replace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replace").field(&self.0.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr, interpreter::Local, namer::Inet};

    fn interpreter() -> Arc<dyn Interpreter> {
        Arc::new(Local::new(Vec::new(), Arc::new(Inet::default())))
    }

    fn leaf(id: &str) -> NameTree<Bound> {
        NameTree::Leaf(Bound::new(id.parse().unwrap(), "/rest".parse().unwrap(), Activity::value(Addr::Neg)))
    }

    async fn ids(activity: &mut Activity<NameTree<Bound>>) -> String {
        activity.ready().await.unwrap().map(&mut |bound| bound.id).to_string()
    }

    #[tokio::test]
    async fn a_constant_stands_even_where_nothing_was() {
        let constant = Const::new("/$/inet/127.1/8080".parse().unwrap(), interpreter());
        for tree in [leaf("/a"), NameTree::Neg, NameTree::Fail] {
            let mut bound = constant.transform(tree);
            assert_eq!(ids(&mut bound).await, "/%/io.l5d.const/$/inet/127.1/8080/$/inet/127.1/8080");
        }
    }

    #[tokio::test]
    async fn a_replacement_stands_for_each_leaf_and_keeps_the_shape() {
        let replace = Replace::new("/$/inet/127.1/80".parse().unwrap(), interpreter());
        let tree = NameTree::Alt(vec![
            NameTree::Neg,
            NameTree::Union(vec![Weighted::new(1.0, leaf("/a")), Weighted::new(2.0, NameTree::Empty)]),
            leaf("/b"),
        ]);
        let new = "/%/io.l5d.replace/$/inet/127.1/80/$/inet/127.1/80";
        assert_eq!(ids(&mut replace.transform(tree)).await, format!("~ | {new} & 2.00*$ | {new}"));
        assert_eq!(ids(&mut replace.transform(NameTree::Neg)).await, "~");
    }
}

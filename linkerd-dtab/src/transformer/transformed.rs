//! Interpreters and namers with transformers behind them.

use std::{fmt, sync::Arc};

use super::Transformer;
use crate::{
    Activity, Bound, Dtab, Interpreter, Name, NameTree, Namer, Path,
    delegate::{Delegation, Node, Step},
};

type Transformers = Arc<[Arc<dyn Transformer>]>;

/// An interpreter whose bound trees go through transformers.
#[derive(Clone)]
pub struct TransformedInterpreter {
    inner: Arc<dyn Interpreter>,
    transformers: Transformers,
}

/// A namer whose answers go through transformers if they are bound: a tree with a path left in it is not theirs yet.
#[derive(Clone)]
pub struct TransformedNamer {
    mount: Path,
    inner: Arc<dyn Namer>,
    transformers: Transformers,
}

impl TransformedInterpreter {
    /// Transforms what `inner` binds by each of `transformers`, the first one first.
    pub fn new(inner: Arc<dyn Interpreter>, transformers: impl Into<Arc<[Arc<dyn Transformer>]>>) -> Self {
        Self { inner, transformers: transformers.into() }
    }
}

impl TransformedNamer {
    /// Transforms what `inner` answers by each of `transformers`, the first one first.
    ///
    /// `mount` is the prefix that this namer will be mounted at: it belongs behind the transformers' own.
    pub fn new(mount: Path, inner: Arc<dyn Namer>, transformers: impl Into<Arc<[Arc<dyn Transformer>]>>) -> Self {
        Self { mount, inner, transformers: transformers.into() }
    }
}

impl Interpreter for TransformedInterpreter {
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        self.transformers.iter().fold(self.inner.bind(dtab, path), |tree, transformer| {
            let transformer = Arc::clone(transformer);
            tree.flat_map(move |tree| transformer.transform(tree))
        })
    }

    /// Each bound leaf is followed by what each transformer made of it.
    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        let transformers = Arc::clone(&self.transformers);
        self.inner.delegate(dtab, path).flat_map(move |delegation| {
            let (leaves, bound): (Vec<_>, Vec<_>) = delegation.leaves().into_iter().unzip();
            let nodes =
                leaves.iter().zip(bound).map(|([path, ..], bound)| explain(path, bound, &transformers)).collect();
            Activity::all(nodes).map(move |nodes| {
                let steps = nodes.into_iter().map(|node| node.step);
                delegation.with_leaves(&leaves.iter().cloned().zip(steps).collect())
            })
        })
    }
}

impl Namer for TransformedNamer {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let mount = if self.inner.has_whole_ids() { Path::empty() } else { self.mount.clone() };
        let transformers = Arc::clone(&self.transformers);
        self.inner.lookup(path).flat_map(move |tree| {
            let whole = tree.map(&mut |name| match name {
                Name::Bound(bound) => Name::Bound(Bound { id: mount.concat(&bound.id), ..bound }),
                Name::Path(path) => Name::Path(path),
            });
            let Some(bound) = all_bound(&whole) else { return Activity::value(whole) };
            let transformed = transformers.iter().fold(Activity::value(bound), |tree, transformer| {
                let transformer = Arc::clone(transformer);
                tree.flat_map(move |tree| transformer.transform(tree))
            });
            transformed.map(|tree| tree.map(&mut Name::Bound))
        })
    }

    fn has_whole_ids(&self) -> bool {
        true
    }
}

/// The tree of bound names that this is, if it is one.
fn all_bound(tree: &NameTree<Name>) -> Option<NameTree<Bound>> {
    tree.leaves().iter().all(|name| matches!(name, Name::Bound(_))).then(|| {
        tree.clone().map(&mut |name| match name {
            Name::Bound(bound) => bound,
            Name::Path(_) => unreachable!("all leaves are bound"),
        })
    })
}

/// The node of a leaf that `path` led to, and of what the transformers make of it one after the other.
fn explain(path: &Path, bound: Bound, transformers: &[Arc<dyn Transformer>]) -> Activity<Node> {
    let node = Node { path: path.clone(), dentry: None, step: Step::Leaf(bound.clone()) };
    let Some((first, rest)) = transformers.split_first() else { return Activity::value(node) };
    let (name, rest, path) = (first.name().to_owned(), Arc::<[_]>::from(rest), path.clone());
    first.transform(NameTree::Leaf(bound.clone())).flat_map(move |tree| {
        let (name, path, bound) = (name.clone(), path.clone(), bound.clone());
        explain_tree(&path.clone(), tree, &rest).map(move |to| Node {
            path: path.clone(),
            dentry: None,
            step: Step::Transformed { name: name.clone(), bound: bound.clone(), to: Box::new(to) },
        })
    })
}

fn explain_tree(path: &Path, tree: NameTree<Bound>, transformers: &Arc<[Arc<dyn Transformer>]>) -> Activity<Node> {
    let node = {
        let path = path.clone();
        move |step| Node { path: path.clone(), dentry: None, step }
    };
    match tree {
        NameTree::Leaf(bound) => explain(path, bound, transformers),
        NameTree::Neg => Activity::value(node(Step::Neg)),
        NameTree::Fail => Activity::value(node(Step::Fail)),
        NameTree::Empty => Activity::value(node(Step::Empty)),
        NameTree::Alt(trees) => {
            let nodes = trees.into_iter().map(|tree| explain_tree(path, tree, transformers)).collect();
            Activity::all(nodes).map(move |nodes| node(Step::Alt(nodes)))
        }
        NameTree::Union(branches) => {
            let weights: Vec<_> = branches.iter().map(|branch| branch.weight).collect();
            let nodes = branches.into_iter().map(|branch| explain_tree(path, branch.tree, transformers)).collect();
            Activity::all(nodes).map(move |nodes| node(Step::Union(weights.iter().copied().zip(nodes).collect())))
        }
    }
}

fn names(transformers: &Transformers) -> Vec<&str> {
    transformers.iter().map(|transformer| transformer.name()).collect()
}

impl fmt::Debug for TransformedInterpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = names(&self.transformers);
        f.debug_struct("TransformedInterpreter").field("transformers", &names).finish_non_exhaustive()
    }
}

impl fmt::Debug for TransformedNamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = names(&self.transformers);
        f.debug_struct("TransformedNamer")
            .field("mount", &self.mount)
            .field("transformers", &names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::{
        Addr, Publisher,
        interpreter::Local,
        namer::Inet,
        transformer::{Const, Port, SpecificHost},
    };

    /// Answers every name with what it was told to.
    struct Told(Activity<NameTree<Name>>);

    impl Namer for Told {
        fn lookup(&self, _: &Path) -> Activity<NameTree<Name>> {
            self.0.clone()
        }
    }

    fn told() -> (Publisher<NameTree<Name>>, Arc<dyn Namer>) {
        let (publisher, activity) = Activity::channel();
        (publisher, Arc::new(Told(activity)))
    }

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn leaf(id: &str, addr: &[&str]) -> NameTree<Name> {
        let addr = Addr::of(addr.iter().map(|addr| addr.parse().unwrap()));
        NameTree::Leaf(Name::Bound(Bound::new(path(id), Path::empty(), Activity::value(addr))))
    }

    fn interpreter(namers: Vec<(Path, Arc<dyn Namer>)>) -> Arc<dyn Interpreter> {
        Arc::new(Local::new(namers, Arc::new(Inet::default())))
    }

    fn list() -> Vec<Arc<dyn Transformer>> {
        vec![
            Arc::new(SpecificHost::new("10.0.0.1".parse().unwrap())),
            Arc::new(Port::new(NonZeroU16::new(4140).unwrap())),
        ]
    }

    const BOTH: &str = "/%/io.l5d.port/4140/%/io.l5d.specificHost/10.0.0.1";

    #[tokio::test]
    async fn an_interpreters_trees_go_through_each_transformer_in_order() {
        let (publisher, namer) = told();
        let transformed = TransformedInterpreter::new(interpreter(vec![(path("/#/x"), namer)]), list());
        let mut tree = transformed.bind(&"/svc => /#/x".parse().unwrap(), &path("/svc/web"));
        publisher.ok(leaf("/web", &["10.0.0.1:80", "10.0.0.2:80"]));
        let bound = tree.ready().await.unwrap();
        let NameTree::Leaf(bound) = bound else { panic!("{bound}") };
        assert_eq!(bound.id.to_string(), format!("{BOTH}/#/x/web"));
        assert_eq!(bound.addr.sample().ok(), Some(Addr::of(["10.0.0.1:4140".parse().unwrap()])));
        // Live, and let go in the end.
        tree.sample_and_update();
        publisher.ok(NameTree::Neg);
        while tree.sample_and_update().ok() != Some(NameTree::Neg) {
            tree.changed().await;
        }
        drop((tree, transformed));
        publisher.closed().await;
    }

    #[tokio::test]
    async fn a_namers_own_transformers_come_before_its_prefix() {
        let (publisher, namer) = told();
        publisher.ok(leaf("/web", &["10.0.0.1:80"]));
        let mount = path("/#/x");
        let namer: Arc<dyn Namer> = Arc::new(TransformedNamer::new(mount.clone(), namer, list()));
        let mut tree = interpreter(vec![(mount, namer)]).bind(&Dtab::empty(), &path("/#/x/web"));
        assert_eq!(tree.ready().await.unwrap().to_string(), format!("{BOTH}/#/x/web"));
    }

    #[tokio::test]
    async fn an_answer_with_a_path_in_it_is_not_a_namers_to_transform() {
        let (publisher, namer) = told();
        publisher.ok(NameTree::Alt(vec![leaf("/web", &[]), NameTree::Leaf(Name::Path(path("/other")))]));
        let mut tree = TransformedNamer::new(path("/#/x"), namer, list()).lookup(&path("/web"));
        assert_eq!(tree.ready().await.unwrap().to_string(), "/#/x/web | /other");
    }

    #[tokio::test]
    async fn an_explanation_shows_each_transformer() {
        let (publisher, namer) = told();
        publisher.ok(leaf("/web", &["10.0.0.1:80"]));
        let inner = interpreter(vec![(path("/#/x"), namer)]);
        let dtab: Dtab = "/svc => /#/x/web | /#/x/web".parse().unwrap();
        let mut list = list();
        list.push(Arc::new(Const::new(path("/$/inet/127.1/80"), Arc::clone(&inner))));
        let transformed = TransformedInterpreter::new(inner, list);
        let mut explained = transformed.delegate(&dtab, &path("/svc"));
        let delegation = explained.ready().await.unwrap();
        let names = delegation.nodes().filter_map(|node| match &node.step {
            Step::Transformed { name, .. } => Some(name.as_str()),
            _ => None,
        });
        let names: Vec<_> = names.collect();
        let each = ["io.l5d.specificHost", "io.l5d.port", "io.l5d.const"];
        assert_eq!(names, [each, each].concat());
        let outcome = delegation.outcome().ok().unwrap().to_string();
        assert_eq!(outcome, transformed.bind(&dtab, &path("/svc")).ready().await.unwrap().to_string());
    }
}

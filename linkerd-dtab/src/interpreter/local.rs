//! The interpreter that asks namers in this process.

use std::{fmt, sync::Arc};

use super::{binding::Binding, table::Table};
use crate::{
    Activity, Bound, Dtab, Interpreter, NameTree, Namer, Path,
    delegate::Delegation,
    interpreter::{MAX_DEPTH, Namers},
    namer::{Global, Resolve},
};

/// Binds names under a table with the namers that it was given, then the system namers.
///
/// Each binding is one task that evaluates its tree again when an answer that it read has changed, publishes it if it is
/// another one, and ends when nobody watches it any more. Bindings that only the interpreter's own table can change have
/// one task together. A binding of which nothing can change has none.
///
/// ```
/// # use std::sync::Arc;
/// # use linkerd_dtab::{Dtab, Interpreter, interpreter::Local, namer::Inet};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let interpreter = Local::new(Vec::new(), Arc::new(Inet::default()));
/// let dtab: Dtab = "/svc/users => 9 * /$/inet/8081 & /$/inet/8082".parse()?;
/// let tree = interpreter.bind(&dtab, &"/svc/users".parse()?).ready().await?;
/// assert_eq!(tree.to_string(), "9.00*/$/inet/8081 & /$/inet/8082");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Local {
    binder: Arc<Namers>,
    // Explanations always name the whole path of an unknown system namer.
    explainer: Arc<Namers>,
    table: Option<Arc<Table>>,
    max_depth: usize,
    resolve: Arc<dyn Resolve>,
}

impl Local {
    /// An interpreter with these namers, the first asked first, each with the prefix that it is mounted at
    /// (`/#/io.l5d.fs`); `resolve` answers for the hosts of system names such as `/$/inet/HOST/PORT`.
    #[must_use]
    pub fn new(namers: Vec<(Path, Arc<dyn Namer>)>, resolve: Arc<dyn Resolve>) -> Self {
        let system = Arc::new(Global::new(Arc::clone(&resolve)));
        let binder = Arc::new(Namers { mounted: namers, system });
        Self { explainer: Arc::clone(&binder), binder, table: None, max_depth: MAX_DEPTH, resolve }
    }

    /// Adds a table below the one that each name is bound under, which so takes precedence. Names are pending until it is
    /// known.
    ///
    /// An unknown kind of system namer then fails with Finagle's text, as it does in Linkerd.
    #[must_use]
    pub fn with_dtab(mut self, dtab: Activity<Dtab>) -> Self {
        self.table = Some(Table::new(dtab, false));
        self.with_plain_errors()
    }

    /// As [`with_dtab`](Self::with_dtab); watchers of a bound name then see a change ([`Activity::changed`]) after each change
    /// of the table, also when it leaves the tree what it was. How old the tree is stays as it is.
    #[cfg(feature = "namerd")]
    #[must_use]
    pub(crate) fn with_dtab_retold(mut self, dtab: Activity<Dtab>) -> Self {
        self.table = Some(Table::new(dtab, true));
        self.with_plain_errors()
    }

    /// An unknown kind of system namer fails with Finagle's text ([`BindError::ClassNotFound`](crate::BindError::ClassNotFound)) when bound.
    #[must_use]
    pub fn with_plain_errors(mut self) -> Self {
        let system = Arc::new(Global::new(Arc::clone(&self.resolve)).with_plain_errors());
        self.binder = Arc::new(Namers { mounted: self.explainer.mounted.clone(), system });
        self
    }

    /// Lets a name take `max_depth` lookups in a row when it is bound or explained. Default: [`MAX_DEPTH`].
    #[must_use]
    pub fn with_max_depth(mut self, max_depth: usize) -> Self {
        self.max_depth = max_depth;
        self
    }

    /// Where the replicas of a bound name are, by its id.
    #[cfg(feature = "namerd")]
    pub(crate) fn replicas(&self, id: &Path) -> Activity<crate::Addr> {
        use crate::{Addr, Name};

        let bound = {
            let id = id.clone();
            move |tree| match tree {
                NameTree::Leaf(Bound { addr, .. }) => addr,
                NameTree::Empty => Activity::value(Addr::of([])),
                NameTree::Neg => Activity::value(Addr::Neg),
                NameTree::Fail | NameTree::Alt(_) | NameTree::Union(_) => {
                    Activity::failed(Arc::new(NotConcrete { id: id.clone() }))
                }
            }
        };
        // Of most ids this is all that there is to do: a binding would cost as much again.
        let Some(tree) = self.binder.ask_only(id) else { return self.bind(&Dtab::empty(), id).flat_map(bound) };
        let (local, id) = (self.clone(), id.clone());
        tree.flat_map(move |tree| match tree {
            NameTree::Leaf(Name::Bound(bound)) => bound.addr,
            NameTree::Neg => Activity::value(Addr::Neg),
            _ => local.bind(&Dtab::empty(), &id).flat_map(bound.clone()),
        })
    }

    /// Binds a name once: waits until everybody who is asked has answered and the addresses of its leaves are known, or
    /// until the deadline. What is not known then is left out, as it is by [`bind`](Interpreter::bind).
    #[cfg(feature = "namerd")]
    pub(crate) async fn settled(
        &self,
        dtab: &Dtab,
        path: &Path,
        deadline: tokio::time::Instant,
    ) -> crate::State<NameTree<Bound>> {
        use tokio::time::timeout_at;

        // Kept until the end: namers go on looking for those who ask.
        let mut binding = self.binding(&self.binder, dtab, path);
        let found = loop {
            let found = binding.bind();
            if !binding.waits() || timeout_at(deadline, binding.changed()).await.is_err() {
                break found;
            }
        };
        if let crate::State::Ok(tree) = &found {
            for bound in tree.leaves() {
                let _ = timeout_at(deadline, bound.addr.clone().ready()).await;
            }
        }
        found
    }

    /// The table below the one that each name is bound under, if there is one.
    #[cfg(feature = "namerd")]
    pub(crate) fn table(&self) -> Option<Activity<Dtab>> {
        self.table.as_ref().map(|table| table.dtab())
    }

    fn binding(&self, namers: &Arc<Namers>, dtab: &Dtab, path: &Path) -> Binding {
        Binding::new(Arc::clone(namers), self.table.as_deref(), dtab.clone(), path.clone(), self.max_depth)
    }
}

/// A path that was taken for the id of a bound name leads to several, or fails. The text is Linkerd's.
#[cfg(feature = "namerd")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id} is not a concrete bound id")]
struct NotConcrete {
    id: Path,
}

impl Interpreter for Local {
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        self.binding(&self.binder, dtab, path).watch(self.table.as_ref(), Binding::bind, same_tree)
    }

    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        self.binding(&self.explainer, dtab, path).watch(self.table.as_ref(), Binding::delegate, |_, _| false)
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<_> = self.binder.mounted.iter().map(|(prefix, _)| prefix).collect();
        f.debug_struct("Local").field("namers", &prefixes).field("table", &self.table).finish_non_exhaustive()
    }
}

pub(super) fn same_tree(a: &NameTree<Bound>, b: &NameTree<Bound>) -> bool {
    // Compared by id and residual, to which the trees' shape and weights are added here, and what a watcher of the tree
    // would miss: another watch of the addresses.
    let same_watch = |(a, b): (&Bound, &Bound)| a.weight == b.weight && a.addr.same_source(&b.addr);
    a == b && a.leaves().into_iter().zip(b.leaves()).all(same_watch)
}

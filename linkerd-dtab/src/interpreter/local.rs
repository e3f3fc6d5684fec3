//! The interpreter that asks namers in this process.

use std::{fmt, sync::Arc};

use tokio::select;

use crate::{
    Activity, BindError, Bound, Dtab, Failure, Interpreter, NameTree, Namer, Path, Publisher, State,
    delegate::{Delegation, explain},
    interpreter::{Asked, MAX_DEPTH, Namers, evaluate},
    namer::{Global, Resolve},
};

/// Binds names under a table with the namers that it was given, then the system namers.
///
/// Each binding is one task that evaluates its tree again when an answer that it read has changed, publishes it if it is
/// another one, and ends when nobody watches it any more. A binding of which nothing can change has no task.
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
    dtab: Option<Activity<Dtab>>,
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
        Self { explainer: Arc::clone(&binder), binder, dtab: None, max_depth: MAX_DEPTH, resolve }
    }

    /// Adds a table below the one that each name is bound under, which so takes precedence. Names are pending until it is
    /// known.
    ///
    /// An unknown kind of system namer then fails with Finagle's text, as it does in Linkerd.
    #[must_use]
    pub fn with_dtab(mut self, dtab: Activity<Dtab>) -> Self {
        self.dtab = Some(dtab);
        self.with_plain_errors()
    }

    /// An unknown kind of system namer fails with Finagle's text ([`BindError::ClassNotFound`]) when bound.
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

    fn binding(&self, namers: &Arc<Namers>, dtab: &Dtab, path: &Path) -> Binding {
        Binding {
            namers: Arc::clone(namers),
            asked: Asked::default(),
            below: self.dtab.clone().map(|dtab| Below { dtab, is_final: false }),
            dtab: dtab.clone(),
            path: path.clone(),
            max_depth: self.max_depth,
        }
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
        self.binding(&self.binder, dtab, path).watch(Binding::bind, same_tree)
    }

    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        self.binding(&self.explainer, dtab, path).watch(Binding::delegate, |_, _| false)
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<_> = self.binder.mounted.iter().map(|(prefix, _)| prefix).collect();
        f.debug_struct("Local").field("namers", &prefixes).field("dtab", &self.dtab).finish_non_exhaustive()
    }
}

/// A name under a table, and what it depends on.
struct Binding {
    namers: Arc<Namers>,
    asked: Asked,
    below: Option<Below>,
    dtab: Dtab,
    path: Path,
    max_depth: usize,
}

/// The interpreter's own table.
struct Below {
    dtab: Activity<Dtab>,
    is_final: bool,
}

impl Binding {
    fn watch<T: Clone + Send + Sync + 'static>(
        mut self,
        compute: fn(&mut Self) -> State<T>,
        same: fn(&T, &T) -> bool,
    ) -> Activity<T> {
        let (publisher, activity) = Activity::channel();
        // The first answer at once: most names are known, and a caller should not wait for a task to be scheduled.
        self.publish(&publisher, compute, same);
        if !self.is_final() {
            // Boxed: the future would have room for it twice.
            tokio::spawn(Box::new(self).run(publisher, compute, same));
        }
        activity
    }

    async fn run<T: Clone + Send + Sync + 'static>(
        mut self: Box<Self>,
        publisher: Publisher<T>,
        compute: fn(&mut Self) -> State<T>,
        same: fn(&T, &T) -> bool,
    ) {
        loop {
            select! {
                biased;
                () = publisher.closed() => return,
                () = self.changed() => self.publish(&publisher, compute, same),
            }
        }
    }

    fn publish<T: Clone + Send + Sync + 'static>(
        &mut self,
        publisher: &Publisher<T>,
        compute: fn(&mut Self) -> State<T>,
        same: fn(&T, &T) -> bool,
    ) {
        match compute(self) {
            // Of a name that was known, it only means that something is being asked again.
            State::Pending => {}
            State::Ok(value) => publisher.ok_if_changed(value, same),
            State::Failed(error) => {
                self.log(&error);
                let last = publisher.sample();
                if !matches!(last, State::Failed(last) if last.to_string() == error.to_string()) {
                    publisher.failed(error);
                }
            }
        }
    }

    fn log(&self, error: &Failure) {
        if let Some(BindError::TooDeep { steps, .. }) = error.downcast_ref() {
            tracing::warn!(path = %self.path, %steps, "{error}");
        } else {
            tracing::debug!(path = %self.path, "not bound: {error}");
        }
    }

    fn bind(&mut self) -> State<NameTree<Bound>> {
        let Self { namers, asked, path, max_depth, .. } = self;
        match Self::table(&mut self.below, &self.dtab) {
            State::Pending => State::Pending,
            State::Failed(error) => State::Failed(error),
            State::Ok(dtab) => {
                asked.begin();
                let tree = evaluate(&dtab, path, *max_depth, &mut |path| namers.ask(path, asked));
                asked.end();
                tree
            }
        }
    }

    fn delegate(&mut self) -> State<Delegation> {
        let Self { namers, asked, path, max_depth, .. } = self;
        Self::table(&mut self.below, &self.dtab).map(|dtab| {
            asked.begin();
            let delegation = explain(&dtab, path, *max_depth, &mut |path| namers.ask(path, asked));
            asked.end();
            delegation
        })
    }

    fn table(below: &mut Option<Below>, dtab: &Dtab) -> State<Dtab> {
        let Some(below) = below else { return State::Ok(dtab.clone()) };
        below.is_final = below.dtab.is_final();
        below.dtab.sample_and_update().map(|below| below.concat(dtab))
    }

    fn is_final(&self) -> bool {
        self.asked.is_final() && self.below.as_ref().is_none_or(|below| below.is_final)
    }

    async fn changed(&mut self) {
        match &mut self.below {
            Some(below) => select! {
                () = below.dtab.changed() => {}
                () = self.asked.changed() => {}
            },
            None => self.asked.changed().await,
        }
    }
}

pub(super) fn same_tree(a: &NameTree<Bound>, b: &NameTree<Bound>) -> bool {
    // Compared by id and residual, to which the trees' shape and weights are added here, and what a watcher of the tree
    // would miss: another watch of the addresses.
    let same_watch = |(a, b): (&Bound, &Bound)| a.weight == b.weight && a.addr.same_source(&b.addr);
    a == b && a.leaves().into_iter().zip(b.leaves()).all(same_watch)
}

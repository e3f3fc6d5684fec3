//! The tree itself: scopes, what is in them, and no rule about who may change it.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{
    super::{
        metric::{Counter, Gauge},
        stat::Stat,
    },
    Reading, lock,
};

/// A scope.
#[derive(Default)]
pub(super) struct Node {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) metric: Option<Metric>,
    // Shared with readers while they walk it: copied on a write only if one does right then.
    pub(super) children: Arc<Children>,
    pub(super) holds: usize,
}

/// What is in a scope, in the order of names. A row and no map: there are many, with a few names or some tens.
#[derive(Clone, Default)]
pub(super) struct Children(pub(super) Vec<(Arc<str>, Child)>);

#[derive(Clone)]
pub(super) enum Child {
    /// Most, and so without a node.
    Metric(Metric),
    /// What has something below it, or is held; it may be a metric too.
    Scope(Arc<Node>),
}

#[derive(Clone)]
pub(super) enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    GaugeFn(Function),
    Stat(Stat),
}

pub(super) type Function = Arc<Mutex<Arc<dyn Fn() -> f64 + Send + Sync>>>;

impl Node {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn metric(&self) -> Option<Metric> {
        self.lock().metric.clone()
    }

    /// Puts a metric into this scope.
    pub(super) fn set(&self, name: Arc<str>, metric: Metric) {
        let mut inner = self.lock();
        match inner.children.find(&name) {
            Ok(at) => match &inner.children.0[at].1 {
                Child::Scope(node) => node.lock().metric = Some(metric),
                Child::Metric(_) => Arc::make_mut(&mut inner.children).0[at].1 = Child::Metric(metric),
            },
            Err(at) => Arc::make_mut(&mut inner.children).insert(at, name, Child::Metric(metric)),
        }
    }

    pub(super) fn find<'a>(self: &Arc<Self>, path: impl Iterator<Item = &'a str>) -> Option<Child> {
        let mut at = Child::Scope(Arc::clone(self));
        for segment in path {
            let Child::Scope(node) = at else { return None };
            let inner = node.lock();
            at = inner.children.0[inner.children.find(segment).ok()?].1.clone();
        }
        Some(at)
    }

    /// The scope at this path, with all that are on the way there.
    pub(super) fn find_or_add(self: &Arc<Self>, path: &[Arc<str>]) -> Arc<Self> {
        let mut node = Arc::clone(self);
        for segment in path {
            let next = node.child(segment);
            node = next;
        }
        node
    }

    /// The scope of this name in this one.
    pub(super) fn child(&self, name: &Arc<str>) -> Arc<Self> {
        let mut inner = self.lock();
        let at = inner.children.find(name);
        let metric = match at.map(|at| &inner.children.0[at].1) {
            Ok(Child::Scope(node)) => return Arc::clone(node),
            Ok(Child::Metric(metric)) => Some(metric.clone()),
            Err(_) => None,
        };
        let node = Arc::new(Self { inner: Mutex::new(Inner { metric, ..Inner::default() }) });
        let children = Arc::make_mut(&mut inner.children);
        match at {
            Ok(at) => children.0[at].1 = Child::Scope(Arc::clone(&node)),
            Err(at) => children.insert(at, Arc::clone(name), Child::Scope(Arc::clone(&node))),
        }
        node
    }

    /// Takes what has this name out of this scope, if it is `node` where one is given.
    pub(super) fn take(&self, name: &str, node: Option<&Arc<Self>>) -> Option<Child> {
        let mut inner = self.lock();
        let at = inner.children.find(name).ok()?;
        if let Some(node) = node
            && !matches!(&inner.children.0[at].1, Child::Scope(child) if Arc::ptr_eq(child, node))
        {
            return None;
        }
        Some(Arc::make_mut(&mut inner.children).0.remove(at).1)
    }

    /// Takes the metric of this name out of this scope if nobody has a handle or a hold of it.
    #[cfg(feature = "config")]
    pub(super) fn take_unused(&self, name: &str) -> Option<Child> {
        let mut inner = self.lock();
        let at = inner.children.find(name).ok()?;
        match &inner.children.0[at].1 {
            Child::Metric(metric) if metric.is_unused() => Some(Arc::make_mut(&mut inner.children).0.remove(at).1),
            Child::Metric(_) => None,
            Child::Scope(node) => {
                let mut own = node.lock();
                if own.holds > 0 || !own.metric.as_ref().is_some_and(Metric::is_unused) {
                    return None;
                }
                let metric = own.metric.take().map(Child::Metric);
                let is_empty = own.children.0.is_empty();
                drop(own);
                if is_empty {
                    Arc::make_mut(&mut inner.children).0.remove(at);
                }
                metric
            }
        }
    }

    /// Its own metric, and what is in it.
    pub(super) fn read(&self) -> (Option<Metric>, Arc<Children>) {
        let inner = self.lock();
        (inner.metric.clone(), Arc::clone(&inner.children))
    }
}

impl Child {
    pub(super) fn metric(&self) -> Option<Metric> {
        match self {
            Self::Metric(metric) => Some(metric.clone()),
            Self::Scope(node) => node.metric(),
        }
    }
}

impl Children {
    /// Where the name is, or where it belongs.
    pub(super) fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(name))
    }

    pub(super) fn insert(&mut self, at: usize, name: Arc<str>, child: Child) {
        if self.0.len() == self.0.capacity() {
            // Not twice what there is: most scopes grow once, and stay, and there are many.
            self.0.reserve_exact(1 + self.0.len() / 8);
        }
        self.0.insert(at, (name, child));
    }
}

impl Metric {
    /// Whether the tree alone has it.
    #[cfg(feature = "config")]
    pub(super) fn is_unused(&self) -> bool {
        match self {
            Self::Counter(counter) => counter.is_free(),
            Self::Gauge(gauge) => gauge.is_free(),
            Self::GaugeFn(function) => Arc::strong_count(function) == 1,
            Self::Stat(stat) => stat.is_free(),
        }
    }

    pub(super) fn read(&self) -> Reading {
        match self {
            Self::Counter(counter) => Reading::Counter(counter.get()),
            Self::Gauge(gauge) => Reading::Gauge(gauge.get() as f64),
            Self::GaugeFn(function) => {
                let function = Arc::clone(&lock(function));
                Reading::Gauge(function())
            }
            Self::Stat(stat) => Reading::Stat(stat.summary()),
        }
    }
}

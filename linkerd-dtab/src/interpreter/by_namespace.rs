//! Names that say which namespace they are of.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{Activity, Bound, Delegation, Dtab, Failure, Interpreter, NameTree, Path, PathBuilder};

/// The first element of a name that says its namespace in the second.
const MARK: &[u8] = b"per-request-namespace";

/// An interpreter for each of several namespaces, and one for names that say none.
///
/// A name such as `/per-request-namespace/canary/svc/web` is bound as `/svc/web` by the interpreter of `canary`. One of a
/// namespace that has no interpreter fails with [`UnknownNamespace`]: nothing else binds it. What tables lead to is not
/// looked at, so that no table can send a name into another namespace.
#[derive(Clone)]
pub struct ByNamespace {
    others: Arc<dyn Interpreter>,
    by_namespace: BTreeMap<Box<[u8]>, Arc<dyn Interpreter>>,
}

/// A name says a namespace that no interpreter is there for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no interpreter binds names of namespace {namespace}")]
pub struct UnknownNamespace {
    /// Which.
    pub namespace: String,
}

impl ByNamespace {
    /// Names that say no namespace are bound by `others`.
    pub fn new(others: impl Interpreter) -> Self {
        Self { others: Arc::new(others), by_namespace: BTreeMap::new() }
    }

    /// Names of `namespace` are bound by `interpreter`. The last of two for one namespace counts.
    #[must_use]
    pub fn namespace(mut self, namespace: &str, interpreter: impl Interpreter) -> Self {
        self.by_namespace.insert(namespace.as_bytes().into(), Arc::new(interpreter));
        self
    }

    /// The name with a namespace before it; as it is if the namespace is empty.
    #[must_use]
    pub fn mark(namespace: &str, name: &Path) -> Path {
        let mut builder = PathBuilder::default();
        if builder.push(MARK).and_then(|()| builder.push(namespace.as_bytes())).is_err() {
            return name.clone();
        }
        builder.extend(name);
        builder.build()
    }

    /// The namespace before a name, and the name.
    #[must_use]
    pub fn split(name: &Path) -> Option<(&[u8], Path)> {
        if name.get(0) != Some(MARK) {
            return None;
        }
        Some((name.get(1)?, name.drop_first(2)))
    }

    fn ask<T>(&self, name: &Path, ask: impl FnOnce(&dyn Interpreter, &Path) -> Activity<T>) -> Activity<T>
    where
        T: Clone + Send + Sync + 'static,
    {
        let Some((namespace, name)) = Self::split(name) else { return ask(&self.others, name) };
        if let Some(interpreter) = self.by_namespace.get(namespace) {
            return ask(interpreter, &name);
        }
        let namespace = String::from_utf8_lossy(namespace).into_owned();
        Activity::failed(Arc::new(UnknownNamespace { namespace }) as Failure)
    }
}

impl Interpreter for ByNamespace {
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        self.ask(path, |interpreter, name| interpreter.bind(dtab, name))
    }

    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        self.ask(path, |interpreter, name| interpreter.delegate(dtab, name))
    }
}

impl fmt::Debug for ByNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces = self.by_namespace.keys().map(|namespace| String::from_utf8_lossy(namespace));
        f.debug_set().entries(namespaces).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{interpreter::Local, namer::Inet};

    fn interpreter() -> ByNamespace {
        let to = |port: &str| {
            let dtab: Dtab = format!("/svc => /$/inet/127.1/{port}").parse().unwrap();
            Local::new(Vec::new(), Arc::new(Inet::default())).with_dtab(Activity::value(dtab))
        };
        ByNamespace::new(to("1")).namespace("canary", to("2"))
    }

    async fn bound(name: &str) -> String {
        match interpreter().bind(&Dtab::empty(), &name.parse().unwrap()).ready().await {
            Ok(tree) => tree.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn each_namespace_has_names_of_its_own() {
        assert_eq!(bound("/svc").await, "/$/inet/127.1/1");
        assert_eq!(bound("/per-request-namespace/canary/svc").await, "/$/inet/127.1/2");
        let unknown = bound("/per-request-namespace/prod/svc").await;
        assert_eq!(unknown, "no interpreter binds names of namespace prod");
        // No table gets there.
        let dtab: Dtab = "/svc => /per-request-namespace/canary/svc".parse().unwrap();
        let tree = interpreter().bind(&dtab, &"/svc".parse().unwrap()).ready().await.unwrap();
        assert!(tree.to_string() != "/$/inet/127.1/2", "{tree}");
    }

    #[tokio::test]
    async fn an_explanation_is_of_the_namespace_too() {
        let name = "/per-request-namespace/canary/svc".parse().unwrap();
        let explained = interpreter().delegate(&Dtab::empty(), &name).ready().await.unwrap();
        assert!(explained.to_string().contains("/$/inet/127.1/2"), "{explained}");
    }

    #[test]
    fn a_mark_is_taken_off_again() {
        let name: Path = "/svc/web".parse().unwrap();
        let marked = ByNamespace::mark("a/b", &name);
        assert_eq!(ByNamespace::split(&marked), Some((&b"a/b"[..], name.clone())));
        assert_eq!(ByNamespace::mark("", &name), name);
        assert_eq!(ByNamespace::split(&name), None);
        assert_eq!(ByNamespace::split(&"/per-request-namespace".parse().unwrap()), None);
    }
}

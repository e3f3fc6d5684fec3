//! `io.l5d.rewrite`: names that match a pattern stand for another name.

use std::sync::Arc;

use crate::{Activity, BindError, Failure, Name, NameTree, Path, PathMatcher};

/// Rewrites names that match a pattern, and has no answer for others.
///
/// Elements after those that the pattern matches are dropped. If what a match is rewritten to is no path, the lookup fails
/// with [`BindError::NotAPath`].
///
/// ```
/// # use linkerd_dtab::{Namer as _, namer::rewrite};
/// let namer = rewrite::Namer::new("/{service}/api", "/prod/{service}");
/// let tree = namer.lookup(&"/users/api".parse()?).sample().ok().unwrap();
/// assert_eq!(tree.to_string(), "/prod/users");
/// # Ok::<(), linkerd_dtab::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Namer {
    pattern: PathMatcher,
    name: String,
}

impl Namer {
    /// A namer that rewrites what matches `pattern` (a [`PathMatcher`]) to `name`, in which captures are replaced.
    #[must_use]
    pub fn new(pattern: &str, name: &str) -> Self {
        Self { pattern: PathMatcher::new(pattern), name: name.to_owned() }
    }

    /// What `path` is rewritten to; `None` if it does not match.
    ///
    /// # Errors
    ///
    /// [`BindError::NotAPath`] if that is no path.
    pub fn rewrite(&self, path: &Path) -> Result<Option<Path>, BindError> {
        let Some(captures) = self.pattern.captures(path) else { return Ok(None) };
        let text = captures.substitute(&self.name);
        match text.parse() {
            Ok(path) => Ok(Some(path)),
            Err(source) => Err(BindError::NotAPath { path: path.clone(), text, source }),
        }
    }
}

impl crate::Namer for Namer {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        match self.rewrite(path) {
            Ok(Some(path)) => Activity::value(NameTree::Leaf(Name::Path(path))),
            Ok(None) => Activity::value(NameTree::Neg),
            Err(error) => Activity::failed(Arc::new(error) as Failure),
        }
    }
}

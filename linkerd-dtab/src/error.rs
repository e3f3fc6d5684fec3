//! Why a name could not be bound.

use std::{fmt, sync::Arc};

use crate::{ParseError, Path, path::EmptyElement};

/// Why a name could not be bound.
///
/// Found inside a [`Failure`](crate::Failure) by `failure.downcast_ref::<BindError>()`; a namer's own failure is passed
/// on as it is.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Delegation took more lookups than allowed, as a table with a cycle always does. The text is Linkerd's.
    #[error("Max recursion level: {limit} reached in Namer lookup")]
    TooDeep {
        /// How many lookups in a row were allowed.
        limit: usize,
        /// The names that were looked up one after another.
        steps: Steps,
    },
    /// Delegation branches without end, as a table does in which a union refers to itself twice.
    #[error("{path} delegates to too many names")]
    TooMuch {
        /// The name that was being bound.
        path: Path,
    },
    /// There is no system namer of this kind. The text is Linkerd's.
    #[error("Unknown namer: {kind} for path: {path}")]
    UnknownNamer {
        /// The element after `/$/`.
        kind: String,
        /// The whole name.
        path: Path,
    },
    /// There is no system namer of this kind. The text is Finagle's, which Linkerd shows where an interpreter has a
    /// table of its own.
    #[error("{kind}")]
    ClassNotFound {
        /// The element after `/$/`.
        kind: String,
        /// The whole name.
        path: Path,
    },
    /// A rewriting namer made a path with an empty element.
    #[error("{path} cannot be rewritten")]
    Rewrite {
        /// What was to be rewritten.
        path: Path,
        /// What is wrong with the result.
        source: EmptyElement,
    },
    /// A namer made a text that is no path.
    #[error("{path} is rewritten to {text:?}, which is no path")]
    NotAPath {
        /// What was to be rewritten.
        path: Path,
        /// What it became.
        text: String,
        /// What is wrong with that.
        source: ParseError,
    },
}

/// The names that were looked up one after another, from the requested one on.
///
/// Displays them joined by arrows, cut to the cycle where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps(Arc<[Path]>);

impl Steps {
    pub(crate) fn new(steps: &[Path]) -> Self {
        Self(steps.into())
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Path] {
        &self.0
    }

    /// The part that repeats: from a name to the next time that the same name is looked up. `None` if no name comes
    /// twice, as when each lookup makes the name longer.
    #[must_use]
    pub fn cycle(&self) -> Option<&[Path]> {
        let (last, before) = self.0.split_last()?;
        let start = before.iter().rposition(|step| step == last)?;
        Some(&self.0[start..])
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let steps = self.cycle().unwrap_or(&self.0);
        for (i, step) in steps.iter().take(SHOWN).enumerate() {
            let arrow = if i == 0 { "" } else { " -> " };
            write!(f, "{arrow}{step}")?;
        }
        if steps.len() > SHOWN { write!(f, " -> ...") } else { Ok(()) }
    }
}

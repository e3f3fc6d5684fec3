//! Names on their way from a path to endpoints.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use crate::{Activity, Addr, Path};

/// A leaf of a namer's answer: a path that is looked up again, or a bound name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Goes back through the delegation table.
    Path(Path),
    /// Is final.
    Bound(Bound),
}

/// A concrete name: a set of replicas that changes, and what its namer left of the path.
///
/// Two bound names are equal if their id and residual are; the weight and the watch are not compared.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Names the set of replicas; resolves to the same name again.
    pub id: Path,
    /// What the namer did not consume.
    pub residual: Path,
    /// Where the replicas are.
    pub addr: Activity<Addr>,
    /// The weight of the innermost union branch that led here. Informational: traffic follows the tree.
    pub weight: Option<f64>,
}

impl Bound {
    /// A bound name that consumed the whole path.
    #[must_use]
    pub fn new(id: Path, residual: Path, addr: Activity<Addr>) -> Self {
        Self { id, residual, addr, weight: None }
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.residual == other.residual
    }
}

impl Eq for Bound {}

impl Hash for Bound {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        self.residual.hash(state);
    }
}

impl fmt::Display for Bound {
    /// The id, and the residual in brackets if there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if self.residual.is_empty() { Ok(()) } else { write!(f, "[{}]", self.residual) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Bound(bound) => bound.fmt(f),
        }
    }
}

//! Where the delegation tables of namespaces are kept.
//!
//! A [`DtabStore`] holds one table for each [`Namespace`], with a [`Version`] that its next change can be made to depend
//! on. Stores differ in where the tables are; what they promise is the same, and one suite of tests holds each to it:
//!
//! - **Stale beats absent.** What was read once stays known while the store is away, and is marked as stale. Only the store
//!   itself can say that a namespace is gone; what would take all away at once, or is older than what is known, it has to say
//!   for a while.
//! - **Read your writes.** When a change has been answered, every watch of this store value shows it or something newer.
//! - **Nothing is lost.** Of two writers that have read one version only one succeeds; the other gets
//!   [`StoreError::Mismatch`].
//! - **Watches come back** by themselves, for ever, at jittered intervals, also if the store was away at the start.
//! - What does not parse (someone wrote past namerd) leaves the last good table in place, marked as stale.

#[cfg(any(feature = "etcd", feature = "consul", feature = "zookeeper", feature = "k8s"))]
mod backoff;
#[cfg(feature = "consul")]
pub mod consul;
#[cfg(any(feature = "etcd", feature = "consul"))]
mod decimal;
#[cfg(any(feature = "files", feature = "etcd", feature = "consul", feature = "zookeeper", feature = "k8s"))]
mod doubt;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "files")]
pub mod files;
#[cfg(any(feature = "files", feature = "etcd", feature = "zookeeper"))]
mod flat;
#[cfg(any(feature = "etcd", feature = "consul", feature = "zookeeper", feature = "k8s"))]
mod follow;
#[cfg(any(feature = "etcd", feature = "consul"))]
mod http;
#[cfg(feature = "k8s")]
pub mod k8s;
mod memory;
#[cfg_attr(
    not(any(feature = "files", feature = "etcd", feature = "consul", feature = "zookeeper", feature = "k8s")),
    allow(dead_code, reason = "the store in memory never fails")
)]
mod mirror;
#[cfg(any(feature = "etcd", feature = "consul", feature = "zookeeper"))]
mod prefix;
#[cfg(any(feature = "etcd", feature = "consul", feature = "zookeeper"))]
mod text;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

use std::{collections::BTreeSet, fmt, future::Future, pin::Pin, str::FromStr, sync::Arc};

#[cfg(any(feature = "etcd", feature = "consul", feature = "zookeeper", feature = "k8s"))]
pub use backoff::Backoff;
#[cfg(feature = "consul")]
pub use consul::Consul;
#[cfg(feature = "etcd")]
pub use etcd::Etcd;
#[cfg(feature = "files")]
pub use files::Files;
#[cfg(feature = "k8s")]
pub use k8s::Kubernetes;
pub use memory::Memory;
#[cfg(any(feature = "etcd", feature = "consul", feature = "zookeeper"))]
pub use prefix::{BadKeyPrefix, KeyPrefix};
#[cfg(feature = "zookeeper")]
pub use zookeeper::ZooKeeper;

use crate::{Activity, Dtab, Failure};

/// The longest name of a namespace, in bytes.
pub const MAX_NAMESPACE: usize = 253;

/// What a change of a store answers with.
pub type Change<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a watch of one namespace shows: its table, or that there is no such namespace.
pub type Stored = Option<Arc<VersionedDtab>>;

/// Delegation tables by namespace.
pub trait DtabStore: Send + Sync + 'static {
    /// The namespaces that there are. Live until the last clone of the activity is dropped.
    ///
    /// Called inside a tokio runtime, as all of these.
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>>;

    /// The table of `namespace`. Live until the last clone of the activity is dropped.
    fn watch(&self, namespace: &Namespace) -> Activity<Stored>;

    /// Writes the table of `namespace` if what is there is as expected, and says which version it has now.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. After [`StoreError::Unavailable`] it is not known whether the table was written.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the table has been written or not; it is never half written.
    fn put<'a>(&'a self, namespace: &'a Namespace, dtab: &'a Dtab, expect: &'a Expect) -> Change<'a, Version>;

    /// Deletes `namespace` if what is there is as expected. Errors and cancel safety are those of [`put`](Self::put).
    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Change<'a, ()>;

    /// How many answers of the store have not been believed, or not whole, because they would have taken too much away.
    /// None, unless a store says otherwise.
    fn doubts(&self) -> u64 {
        0
    }
}

impl<S: DtabStore + ?Sized> DtabStore for Arc<S> {
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        (**self).list()
    }

    fn watch(&self, namespace: &Namespace) -> Activity<Stored> {
        (**self).watch(namespace)
    }

    fn put<'a>(&'a self, namespace: &'a Namespace, dtab: &'a Dtab, expect: &'a Expect) -> Change<'a, Version> {
        (**self).put(namespace, dtab, expect)
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Change<'a, ()> {
        (**self).delete(namespace, expect)
    }

    fn doubts(&self) -> u64 {
        (**self).doubts()
    }
}

/// The name of a namespace: `default`, `team/web`.
///
/// One to 253 bytes; segments of letters, digits, `-`, `_` and `.`, separated by `/`, none empty and none of dots alone, so
/// that each store can make a key or a file name of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

/// Why a text is no name of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid namespace '{text}': {reason}")]
pub struct BadNamespace {
    text: String,
    reason: &'static str,
}

impl Namespace {
    /// What stands for all of them where one has to be named: no namespace has this name.
    pub(crate) fn any() -> Self {
        Self("*".into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = BadNamespace;

    fn from_str(text: &str) -> Result<Self, BadNamespace> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let bad = |reason| {
            let text = text.chars().take(MAX_NAMESPACE).flat_map(char::escape_debug).collect();
            Err(BadNamespace { text, reason })
        };
        if text.is_empty() {
            return bad("it is empty");
        }
        if text.len() > MAX_NAMESPACE {
            return bad("it is longer than 253 bytes");
        }
        for segment in text.split('/') {
            if segment.is_empty() {
                return bad("a segment between slashes is empty");
            }
            if !segment.bytes().all(allowed) {
                return bad("only letters, digits, '-', '_', '.' and '/' are allowed");
            }
            if segment.bytes().all(|byte| byte == b'.') {
                return bad("a segment has dots alone");
            }
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which state of a namespace's table: bytes that mean something to its store alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Arc<[u8]>);

impl Version {
    /// The version with these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes. The HTTP API shows them in base64.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A table and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedDtab {
    /// Its version.
    pub version: Version,
    /// The table.
    pub dtab: Dtab,
}

/// What has to be so for a change to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no such namespace.
    Absent,
    /// Its table has this version.
    Version(Version),
}

impl Expect {
    /// Compares with what is there: a version, or nothing.
    fn check(&self, namespace: &Namespace, stored: Option<&Version>) -> Result<(), StoreError> {
        match (self, stored) {
            (Self::Any, _) | (Self::Absent, None) => Ok(()),
            (Self::Absent, Some(_)) => Err(StoreError::Exists(namespace.clone())),
            (Self::Version(_), None) => Err(StoreError::Missing(namespace.clone())),
            (Self::Version(version), Some(stored)) if version == stored => Ok(()),
            (Self::Version(_), Some(_)) => Err(StoreError::Mismatch(namespace.clone())),
        }
    }
}

#[cfg(any(feature = "etcd", feature = "consul"))]
impl Expect {
    /// What it means that something else is there.
    fn unmet(&self, namespace: &Namespace, is_there: bool) -> StoreError {
        match self {
            Self::Absent => StoreError::Exists(namespace.clone()),
            _ if is_there => StoreError::Mismatch(namespace.clone()),
            _ => StoreError::Missing(namespace.clone()),
        }
    }
}

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is such a namespace, where none was expected.
    #[error("namespace {0} exists already")]
    Exists(Namespace),
    /// There is no such namespace.
    #[error("there is no namespace {0}")]
    Missing(Namespace),
    /// Its table has another version than expected.
    #[error("namespace {0} has been changed since it was read")]
    Mismatch(Namespace),
    /// The store does not allow it.
    #[error("the store does not allow to change namespace {0}")]
    Forbidden(Namespace),
    /// The store cannot hold it: too large, or a name that it has no key for.
    #[error("the store cannot hold namespace {namespace}: {reason}")]
    Unfit {
        /// Which.
        namespace: Namespace,
        /// Why.
        reason: String,
    },
    /// The store was not reached, or answered with something else than expected.
    #[error("the store is not available")]
    Unavailable(#[source] Failure),
}

//! What a session may see of the past of a namespace, and going back to it.

use std::sync::Arc;

use super::{Record, Refused, Role, Session, WriteError, Written, history::diff};
use crate::{
    Dtab,
    store::{Expect, Namespace},
};

/// Why the past of a namespace is not shown.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PastError {
    /// The peer may not see it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There is no such record, or no more.
    #[error("the history of namespace {namespace} has no record {seq}")]
    Missing {
        /// Whose.
        namespace: Namespace,
        /// Which.
        seq: u64,
    },
}

impl Session {
    /// The last changes of a namespace, newest first, at most `limit`: also of one that has been deleted.
    pub fn history(&self, namespace: &Namespace, limit: usize) -> Result<Vec<Arc<Record>>, Refused> {
        self.may(namespace, Role::Read)?;
        Ok(self.namerd.inner.history.records(namespace, limit))
    }

    /// What is different between two records, an entry a line as [`diff`](super::diff) has it. A deleted namespace counts
    /// as an empty table, and so does what was before the first record, by the number 0.
    pub fn diff(&self, namespace: &Namespace, from: u64, to: u64) -> Result<String, PastError> {
        let table = |seq| Ok::<_, PastError>(self.table_at(namespace, seq)?.unwrap_or_default());
        Ok(diff(&table(from)?, &table(to)?))
    }

    /// Goes back to what a namespace was after the change `seq`, be it that it was not there, as before the first (0). The
    /// history goes on: this is
    /// one more change, which a later one can go back behind.
    ///
    /// What the table has is not checked again, only warned of, but for what belongs to others by now.
    ///
    /// # Cancel safety
    ///
    /// That of [`put`](Self::put).
    pub async fn rollback(&self, namespace: &Namespace, seq: u64, expect: &Expect) -> Result<Written, WriteError> {
        let dtab = match self.table_at(namespace, seq) {
            Ok(dtab) => dtab,
            Err(PastError::Refused(refused)) => return Err(refused.into()),
            Err(missing) => return Err(WriteError::Rejected(missing.to_string())),
        };
        self.change(namespace, dtab, expect, Some(seq)).await
    }

    fn table_at(&self, namespace: &Namespace, seq: u64) -> Result<Option<Dtab>, PastError> {
        self.may(namespace, Role::Read)?;
        if seq == 0 {
            return Ok(None);
        }
        let missing = || PastError::Missing { namespace: namespace.clone(), seq };
        let record = self.namerd.inner.history.record(namespace, seq).ok_or_else(missing)?;
        Ok(record.table.as_ref().map(|table| table.dtab.clone()))
    }
}

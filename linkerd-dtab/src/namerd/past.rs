//! What a session may see of the past of a namespace, and going back to it.

use std::{sync::Arc, time::SystemTime};

use super::{Composition, Part, Record, Refused, Role, Session, WriteError, Written, history::diff};
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
    #[error("the history of namespace {namespace} has no record {seq}: {}", shown(*.there_are))]
    Missing {
        /// Whose.
        namespace: Namespace,
        /// Which.
        seq: u64,
        /// The first and the last record that it has.
        there_are: Option<(u64, u64)>,
    },
    /// It is composed: what changes are its fragments.
    #[error("{0}, and has no changes of its own: ask for those of one of these")]
    Composed(String),
}

/// The past of a composed namespace: that of its fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComposedPast {
    /// What it is made of, and whether something is left out, in a sentence.
    pub note: String,
    /// The last changes of the fragments that the peer may read, newest first; also of those that have been deleted, and
    /// of the namespace itself from before it was composed.
    pub changes: Vec<(Namespace, Arc<Record>)>,
}

impl Session {
    /// The last changes of a namespace, newest first, at most `limit`: also of one that has been deleted.
    ///
    /// One that is composed has none; [`composed_history`](Self::composed_history) has those of its fragments.
    pub fn history(&self, namespace: &Namespace, limit: usize) -> Result<Vec<Arc<Record>>, Refused> {
        self.may(namespace, Role::Read)?;
        Ok(self.namerd.inner.history.records(namespace, limit))
    }

    /// The last changes of the fragments of a composed namespace, at most `limit`; `None` if it is not composed.
    ///
    /// They are in the order of their times. Those of one fragment keep their own order whatever the clock did.
    pub fn composed_history(&self, namespace: &Namespace, limit: usize) -> Result<Option<ComposedPast>, Refused> {
        self.may(namespace, Role::Read)?;
        let Some(composition) = self.namerd.composition(namespace) else { return Ok(None) };
        let is_part = |name: &Namespace| name == namespace || composition.part(name).is_some();
        let mut logs = self.namerd.inner.history.records_of(is_part, limit);
        let found = logs.len();
        logs.retain(|(name, _)| self.may(name, Role::Read).is_ok());
        let left_out = if logs.len() < found { ", but for those that you may not read" } else { "" };
        let note = format!("{}: these are the changes of its parts{left_out}", composition.made_of(self));
        Ok(Some(ComposedPast { note, changes: merged(logs, limit) }))
    }

    /// What is different between two records, an entry a line as [`diff`](super::diff) has it. A deleted namespace counts
    /// as an empty table, and so does what was before the first record, by the number 0. Without `to` it is the newest.
    pub fn diff(&self, namespace: &Namespace, from: u64, to: Option<u64>) -> Result<String, PastError> {
        let table = |seq| Ok::<_, PastError>(self.table_at(namespace, seq)?.unwrap_or_default());
        let from = table(from)?;
        let to = match to {
            Some(to) => to,
            None => self.namerd.inner.history.known(namespace).ok_or_else(|| self.missing(namespace, 1))?.1,
        };
        Ok(diff(&from, &table(to)?))
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
            Ok(_) if self.namerd.composition(namespace).is_some() => {
                return Err(WriteError::Past(self.missing(namespace, seq)));
            }
            Ok(dtab) => dtab,
            Err(PastError::Refused(refused)) => return Err(refused.into()),
            Err(missing) => return Err(WriteError::Past(missing)),
        };
        self.change(namespace, dtab, expect, Some(seq)).await
    }

    fn table_at(&self, namespace: &Namespace, seq: u64) -> Result<Option<Dtab>, PastError> {
        self.may(namespace, Role::Read)?;
        if seq == 0 && self.namerd.inner.history.known(namespace).is_some() {
            return Ok(None);
        }
        let record = self.namerd.inner.history.record(namespace, seq).ok_or_else(|| self.missing(namespace, seq))?;
        Ok(record.table.as_ref().map(|table| table.dtab.clone()))
    }

    fn missing(&self, namespace: &Namespace, seq: u64) -> PastError {
        if let Some(composition) = self.namerd.composition(namespace) {
            return PastError::Composed(composition.made_of(self));
        }
        let there_are = self.namerd.inner.history.known(namespace);
        PastError::Missing { namespace: namespace.clone(), seq, there_are }
    }
}

impl Composition {
    /// What it is made of, with the parts that the peer may read.
    pub(super) fn made_of(&self, session: &Session) -> String {
        let part = |part: &Part| if session.reads(&part.fragments) { part.fragments.to_string() } else { "...".into() };
        let parts: Vec<_> = self.parts.iter().map(part).collect();
        format!("namespace {} is made of {}", self.namespace, parts.join(" + "))
    }
}

fn shown(records: Option<(u64, u64)>) -> String {
    match records {
        None => "there are none".into(),
        Some((first, last)) if first == last => format!("there is {first} only"),
        Some((first, last)) => format!("there are {first} to {last}"),
    }
}

/// The newest of several histories, each of which has its newest first.
fn merged(logs: Vec<(Namespace, Vec<Arc<Record>>)>, limit: usize) -> Vec<(Namespace, Arc<Record>)> {
    let mut all: Vec<(SystemTime, Namespace, Arc<Record>)> = Vec::new();
    for (namespace, records) in logs {
        // A clock that went back does not put a change before one that it came after.
        let mut at = None;
        for record in records {
            let time = at.map_or(record.at, |newer: SystemTime| newer.min(record.at));
            at = Some(time);
            all.push((time, namespace.clone(), record));
        }
    }
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    all.truncate(limit);
    all.into_iter().map(|(_, namespace, record)| (namespace, record)).collect()
}

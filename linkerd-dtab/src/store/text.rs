//! Tables as namerd writes them into keys and nodes.

use std::sync::Arc;

use super::{Namespace, Version, VersionedDtab, mirror::Reading};
use crate::{Dtab, Failure, ParseError};

/// Why what is stored is no table.
#[derive(Clone, Debug, thiserror::Error)]
enum BadTable {
    #[error("namespace {namespace}, line {line}, column {column}: not a dtab", line = source.line(), column = source.column())]
    Malformed { namespace: Namespace, source: ParseError },
    #[error("namespace {0} is stored as something that is no text")]
    NotText(Namespace),
}

/// A table as namerd writes it, but with all decimals of its weights: to two, a share of 0.004 is none.
pub(super) fn show(dtab: &Dtab) -> String {
    format!("{dtab:#}")
}

/// Reads a table.
pub(super) fn read(namespace: &Namespace, version: Version, bytes: &[u8]) -> Reading {
    let bad = |bad: BadTable| Reading::Bad(Arc::new(bad) as Failure);
    let Ok(text) = std::str::from_utf8(bytes) else { return bad(BadTable::NotText(namespace.clone())) };
    match text.parse::<Dtab>() {
        Ok(dtab) => Reading::Table(VersionedDtab { version, dtab }),
        Err(source) => bad(BadTable::Malformed { namespace: namespace.clone(), source }),
    }
}

//! One change of a table.

use std::{sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    Dtab, Prefix,
    store::{Stored, Version, VersionedDtab},
};

/// What became of a namespace by one change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Which change of this namespace, counted from 1.
    pub seq: u64,
    /// When.
    pub at: SystemTime,
    /// Who made it; `outside` if it was not made through this namerd.
    pub who: String,
    /// The reason that was given.
    pub why: Option<String>,
    /// The table from then on; `None` if it was deleted.
    pub table: Stored,
}

impl Record {
    /// Roughly what its table takes, in bytes: by the text of its entries.
    pub(super) fn size(&self) -> usize {
        let of_prefix = |prefix: &Prefix| prefix.size() * 24;
        let entries = self.table.iter().flat_map(|table| table.dtab.entries());
        let of_tables = entries.map(|entry| 64 + of_prefix(&entry.prefix) + 48 * entry.dst.leaves().len());
        200 + of_tables.sum::<usize>()
    }

    /// The record as the HTTP API shows it: with the table as a list of entries, or `null`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let entries = |table: &Arc<VersionedDtab>| {
            let entry =
                |entry: &crate::Dentry| json!({"prefix": entry.prefix.to_string(), "dst": format!("{:#}", entry.dst)});
            table.dtab.entries().iter().map(entry).collect::<Vec<_>>()
        };
        self.json(&self.table.as_ref().map(entries).into())
    }

    /// The record as a line of a file, with the table as text.
    pub(super) fn to_line(&self) -> String {
        format!("{}\n", self.json(&self.table.as_ref().map(|table| format!("{:#}", table.dtab)).into()))
    }

    fn json(&self, dtab: &Value) -> Value {
        let Self { seq, at, who, why, table } = self;
        let at = jiff::Timestamp::try_from(*at).unwrap_or_default();
        let version = table.as_ref().map(|table| STANDARD.encode(table.version.as_bytes()));
        json!({"seq": seq, "version": version, "at": format!("{at:.3}"), "who": who, "why": why, "dtab": dtab})
    }

    /// The record of a line; `None` if it is none.
    pub(super) fn of_line(line: &str) -> Option<Self> {
        let members: Map<String, Value> = serde_json::from_str(line).ok()?;
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let at: jiff::Timestamp = text("at")?.parse().ok()?;
        let table = match (text("version"), text("dtab")) {
            (Some(version), Some(dtab)) => {
                let version = Version::new(STANDARD.decode(version).ok()?);
                Some(Arc::new(VersionedDtab { version, dtab: dtab.parse::<Dtab>().ok()? }))
            }
            (None, None) => None,
            _ => return None,
        };
        let why = text("why").map(ToOwned::to_owned);
        Some(Self { seq: members.get("seq")?.as_u64()?, at: at.into(), who: text("who")?.to_owned(), why, table })
    }
}

//! `history`, `diff` and `rollback`: what a table was, and how to get that back.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    cli::{DiffArgs, HistoryArgs, RollbackArgs},
    diff::{Mark, diff, text},
    error::{Error, Outcome},
    namerd::{Changed, Namerd},
    table::{Entry, Source, canonical, json as go_json},
    text::{Align, columns},
};

/// One change of a table.
#[derive(Debug, Deserialize)]
pub(super) struct Change {
    pub(super) seq: u64,
    /// Whose, where it is not that of the table which was asked for: a part of it.
    namespace: Option<String>,
    pub(super) version: Option<String>,
    #[serde(default)]
    at: Value,
    who: Option<String>,
    why: Option<String>,
    /// What it was after; `None` if it was deleted.
    pub(super) dtab: Option<Vec<Entry>>,
}

/// The changes of a table, the newest first.
pub(super) async fn history(namerd: &Namerd, name: &str, limit: Option<u64>) -> Result<Vec<Change>, Error> {
    namerd.read("history", name, &query(limit)).await?.json()
}

fn query(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |limit| format!("?limit={limit}"))
}

pub(super) async fn show(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &HistoryArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    let name = args.of.one("history requires a name argument")?;
    let namerd = connect()?;
    if as_json {
        let all: Value = namerd.read("history", name, &query(args.limit)).await?.json()?;
        return Ok(Outcome::ok(go_json(&all) + "\n"));
    }
    let changes = history(&namerd, name, args.limit).await?;
    let mut rows = vec![["SEQ", "VERSION", "AT", "WHO", "WHY", "ENTRIES"].map(String::from).to_vec()];
    let mut align = vec![Align::Right, Align::Left, Align::Left, Align::Left, Align::Left, Align::Right];
    let is_composed = changes.iter().any(|change| change.namespace.is_some());
    if is_composed {
        rows[0].insert(0, "NAMESPACE".into());
        align.insert(0, Align::Left);
    }
    rows.extend(changes.into_iter().map(|change| {
        let at = change.at.as_str().map_or_else(|| change.at.to_string(), str::to_owned);
        let entries = change.dtab.map_or_else(|| "deleted".into(), |table| table.len().to_string());
        let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
        let [version, who, why] = [change.version, change.who, change.why].map(or_dash);
        let mut row = vec![change.seq.to_string(), version, at, who, why, entries];
        if is_composed {
            row.insert(0, change.namespace.unwrap_or_else(|| name.to_owned()));
        }
        row
    }));
    Ok(Outcome::ok(columns(&rows, &align)))
}

pub(super) async fn compare(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &DiffArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    if args.from.is_some() || args.to.is_some() {
        return compare_versions(connect, args, as_json).await;
    }
    let (name, file) = args.of.both("diff requires a name and file path, or a name and --from")?;
    let namerd = connect()?;
    let mine = Source::read(file)?;
    let theirs = match namerd.get(name).await {
        Err(Error::NotFound) => Vec::new(),
        other => canonical(&other?.dtab.unwrap_or_default())?,
    };
    let marks = diff(&theirs, &mine.entries);
    let is_same = marks.iter().all(|(mark, _)| *mark == Mark::Same);
    let shown = if as_json {
        let of = |wanted: Mark| -> Vec<_> {
            marks.iter().filter(|(mark, _)| *mark == wanted).map(|(_, entry)| entry).collect()
        };
        go_json(&json!({ "namespace": name, "removed": of(Mark::Old), "added": of(Mark::New) })) + "\n"
    } else if is_same {
        String::new()
    } else {
        text(&marks)
    };
    Ok(Outcome::answer(shown, is_same))
}

/// Two tables of the history, as namerd compares them.
async fn compare_versions(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &DiffArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    let (Some(name), None, Some(from)) = (&args.of.name, &args.of.file, args.from) else {
        return Err(Error::Words("diff requires a name and file path, or a name and --from"));
    };
    let to = args.to.map_or_else(String::new, |to| format!("&to={to}"));
    let answer = connect()?.read("diff", name, &format!("?from={from}{to}")).await?;
    let shown = String::from_utf8_lossy(&answer.body).into_owned();
    // What stays is shown, too, after a space.
    let is_same = !shown.lines().any(|line| line.starts_with(['-', '+']));
    let shown = if as_json {
        go_json(&json!({ "namespace": name, "from": from, "to": args.to, "diff": shown })) + "\n"
    } else if is_same {
        String::new()
    } else {
        shown
    };
    Ok(Outcome::answer(shown, is_same))
}

pub(super) async fn rollback(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &RollbackArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    let (Some(name), Some(seq), true) = (&args.name, args.seq, args.rest.is_empty()) else {
        return Err(Error::Words("rollback requires a name and a number of its history"));
    };
    let namerd = connect()?;
    let version = match &args.version {
        Some(version) => Some(version.clone()),
        None => match namerd.get(name).await {
            Err(Error::NotFound) => None,
            other => Some(other?.version),
        },
    };
    match namerd.rollback(name, seq, version.as_deref()).await? {
        Changed::Done(_) if as_json => {
            Ok(Outcome::ok(go_json(&json!({ "namespace": name, "result": "rolled back", "to": seq })) + "\n"))
        }
        Changed::Done(_) => Ok(Outcome::ok(format!("Rolled back {name} to {seq}\n"))),
        Changed::Conflict => Err(Error::Other(match version {
            Some(version) => format!("{name} was changed by others: it is not at version {version}"),
            None => format!("{name} was changed by others: it was deleted, and is there again"),
        })),
    }
}

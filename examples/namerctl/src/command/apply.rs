//! `apply`: a file becomes what namerd has, and what others changed meanwhile stays.

use std::path::Path;

use serde::Serialize;

use super::history::{Change, history};
use crate::{
    cli::ApplyArgs,
    diff::{Mark, diff, text},
    error::{Error, Outcome},
    merge::{Clash, merge},
    namerd::{Body, Changed, Namerd},
    table::{Entry, Source, canonical, json},
};

/// How often a table is read again because another wrote first.
const MAX_TRIES: usize = 8;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    namespace: &'a str,
    result: &'static str,
    version: &'a str,
    /// Whether what was written has changes of others that the file does not.
    merged: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    conflicts: &'a [Clash],
}

/// What namerd has.
struct Theirs {
    version: String,
    entries: Vec<Entry>,
}

/// What the file was made from.
enum Base {
    /// Nobody says: what namerd had at the start.
    First,
    Table(Vec<Entry>),
    /// This version, which is looked up once it is not the newest.
    Version(String),
}

pub(super) async fn apply(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &ApplyArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    let (name, file) = args.of.both("apply requires a name and file path")?;
    let namerd = connect()?;
    let mine = Source::read(file)?;
    let base = base(&namerd, name, args.base.as_deref(), &mine).await?;
    let apply = Apply { namerd, name, file, mine, as_json };
    apply.run(base).await
}

struct Apply<'a> {
    namerd: Namerd,
    name: &'a str,
    file: &'a str,
    mine: Source,
    as_json: bool,
}

impl Apply<'_> {
    async fn run(&self, mut base: Base) -> Result<Outcome, Error> {
        for _ in 0..MAX_TRIES {
            let Some(theirs) = self.theirs().await? else {
                if let Some(outcome) = self.create(&base).await? {
                    return Ok(outcome);
                }
                // Another made it at the same time: neither had anything before.
                base = Base::Table(Vec::new());
                continue;
            };
            let mine = &self.mine.entries;
            if *mine == theirs.entries {
                self.mine.record(&theirs.version)?;
                return Ok(self.unchanged(&theirs));
            }
            let table = self.base_table(&mut base, &theirs).await?;
            let merged = match merge(&table, mine, &theirs.entries) {
                Ok(merged) => merged,
                Err(clashes) => return Ok(self.conflict(&theirs, &clashes)),
            };
            if merged == theirs.entries {
                return Ok(self.unchanged(&theirs));
            }
            let body = Body::json(Some(&merged));
            if let Changed::Done(version) = self.namerd.try_update(self.name, body, &theirs.version).await? {
                return self.applied(&theirs, &merged, version).await;
            }
        }
        let name = self.name;
        Err(Error::Other(format!(
            "{name} is being changed by others: {MAX_TRIES} times it was not what it had just been"
        )))
    }

    async fn theirs(&self) -> Result<Option<Theirs>, Error> {
        match self.namerd.get(self.name).await {
            Ok(table) => {
                let entries = canonical(&table.dtab.unwrap_or_default())?;
                Ok(Some(Theirs { version: table.version, entries }))
            }
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None` if another made it first.
    async fn create(&self, base: &Base) -> Result<Option<Outcome>, Error> {
        let Self { name, file, .. } = self;
        if !matches!(base, Base::First) {
            let reason = format!("{name} is not there, though {file} was made from one of its versions");
            return Err(Error::Other(format!("{reason}: if that is right, `namerctl dtab create`")));
        }
        let created = self.namerd.try_create(name, Body::json(Some(&self.mine.entries))).await?;
        Ok((created != Changed::Conflict)
            .then(|| self.outcome("created", "", false, &[], &format!("Created {name}\n"))))
    }

    async fn base_table(&self, base: &mut Base, theirs: &Theirs) -> Result<Vec<Entry>, Error> {
        let table = match base {
            Base::Table(table) => return Ok(table.clone()),
            Base::First => theirs.entries.clone(),
            Base::Version(version) if *version == theirs.version => theirs.entries.clone(),
            Base::Version(version) => {
                let missing = || {
                    let (file, name) = (self.file, self.name);
                    let reason =
                        format!("version {version}, which {file} was made from, is not in the history of {name}");
                    Error::Other(format!("{reason}: say by --base what it was made from"))
                };
                let changes = match history(&self.namerd, self.name, None).await {
                    Err(Error::Missing { .. }) => Vec::new(),
                    other => other?,
                };
                let change = changes.into_iter().find(|change| change.version.as_deref() == Some(version));
                change.and_then(|change| change.dtab).map(|table| canonical(&table)).ok_or_else(missing)??
            }
        };
        *base = Base::Table(table.clone());
        Ok(table)
    }

    async fn applied(&self, theirs: &Theirs, merged: &[Entry], version: Option<String>) -> Result<Outcome, Error> {
        let is_merged = *merged != *self.mine.entries;
        // What resulted has a version that namerd need not have told, and another may have written since.
        let version = match version {
            Some(version) => version,
            None => match self.theirs().await {
                Ok(Some(now)) if now.entries == *merged => now.version,
                _ => String::new(),
            },
        };
        // A file without the others' changes is still made from what it was made from.
        if !is_merged && !version.is_empty() {
            self.mine.record(&version)?;
        }
        let changes: Vec<_> =
            diff(&theirs.entries, merged).into_iter().filter(|(mark, _)| *mark != Mark::Same).collect();
        let with = if is_merged { ", with what others changed" } else { "" };
        let shown = format!("{}Applied {}{with}\n", text(&changes), self.name);
        Ok(self.outcome("applied", &version, is_merged, &[], &shown))
    }

    fn unchanged(&self, theirs: &Theirs) -> Outcome {
        let version = if theirs.version.is_empty() { String::new() } else { format!(" (version {})", theirs.version) };
        let merged = self.mine.entries != theirs.entries;
        let shown = format!("No change: {} has it already{version}\n", self.name);
        self.outcome("unchanged", &theirs.version, merged, &[], &shown)
    }

    fn conflict(&self, theirs: &Theirs, clashes: &[Clash]) -> Outcome {
        let none = |dst: &Option<String>| dst.clone().unwrap_or_else(|| "(not there)".into());
        let clash = |Clash { prefix, base, mine, theirs }: &Clash| {
            let [base, mine, theirs] = [base, mine, theirs].map(none);
            format!("{prefix}\n  base    {base}\n  mine    {mine}\n  theirs  {theirs}\n")
        };
        let clashes_text: String = clashes.iter().map(clash).collect();
        let shown = format!("{clashes_text}Conflict: {} was changed by others; nothing was written\n", self.name);
        let outcome = self.outcome("conflict", &theirs.version, false, clashes, &shown);
        Outcome::answer(outcome.text, false)
    }

    fn outcome(&self, result: &'static str, version: &str, merged: bool, conflicts: &[Clash], text: &str) -> Outcome {
        let report = Report { namespace: self.name, result, version, merged, conflicts };
        Outcome::ok(if self.as_json { json(&report) + "\n" } else { text.into() })
    }
}

/// What the flag says: a number of the history, a file, or a version; else what the file says.
async fn base(namerd: &Namerd, name: &str, flag: Option<&str>, mine: &Source) -> Result<Base, Error> {
    let Some(flag) = flag else {
        return Ok(mine.version.clone().map_or(Base::First, Base::Version));
    };
    if let Ok(seq) = flag.parse::<u64>() {
        let changes = history(namerd, name, None).await?;
        let change = changes.into_iter().find(|change| change.seq == seq);
        let Some(Change { dtab: Some(table), .. }) = change else {
            return Err(Error::Other(format!("no table number {seq} in the history of {name}")));
        };
        return Ok(Base::Table(canonical(&table)?));
    }
    if Path::new(flag).exists() {
        return Ok(Base::Table(Source::read(flag)?.entries));
    }
    Ok(Base::Version(flag.into()))
}

//! `apply`: a file becomes what namerd has, and what others changed meanwhile stays.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::{
    guard::{Guard, Outlook, Seen, Watch},
    history::{Change, history},
};
use crate::{
    cli::ApplyArgs,
    client::Tls,
    diff::{Mark, diff, text},
    error::{Error, NO, Outcome},
    merge::{Clash, merge},
    namerd::{Body, Changed, Namerd},
    note, say,
    table::{Entry, Source, canonical, json},
};

/// How often a table is read again because another wrote first.
const MAX_TRIES: usize = 8;

/// How often it is tried again to take a change back, and how long after.
const REVERT_TRIES: usize = 10;
const REVERT_PAUSE: Duration = Duration::from_secs(1);

/// What `--json` prints.
#[derive(Clone, Copy, Debug, Serialize)]
struct Report<'a> {
    namespace: &'a str,
    result: &'static str,
    version: &'a str,
    /// Whether what was written has changes of others that the file does not.
    merged: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    conflicts: &'a [Clash],
    /// What came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    watched: Option<&'a Seen>,
}

/// What namerd has.
struct Theirs {
    version: String,
    entries: Vec<Entry>,
}

/// What has been written.
struct Written<'a> {
    result: &'static str,
    version: &'a str,
    merged: bool,
    /// What was there before; `None` if nothing was.
    before: Option<&'a Theirs>,
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
    tls: &Tls,
    as_json: bool,
) -> Result<Outcome, Error> {
    let (name, file) = args.of.both("apply requires a name and file path")?;
    let guard = Guard::new(args, tls)?;
    let namerd = connect()?;
    let mine = Source::read(file)?;
    let base = base(&namerd, name, args.base.as_deref(), &mine).await?;
    let apply = Apply { namerd, name, file, mine, guard, as_json };
    apply.run(base).await
}

struct Apply<'a> {
    namerd: Namerd,
    name: &'a str,
    file: &'a str,
    mine: Source,
    guard: Option<Guard<'a>>,
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
            let watch = match self.look(&merged).await? {
                Outlook::Refused => return Ok(self.refused(&theirs.version)),
                Outlook::Fits => None,
                Outlook::Watch(watch) => Some(watch),
            };
            let body = Body::json(Some(&merged));
            if let Changed::Done(version) = self.namerd.try_update(self.name, body, &theirs.version).await? {
                return self.applied(&theirs, &merged, version, watch).await;
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
        let watch = match self.look(&self.mine.entries).await? {
            Outlook::Refused => return Ok(Some(self.refused(""))),
            Outlook::Fits => None,
            Outlook::Watch(watch) => Some(watch),
        };
        let body = Body::json(Some(&self.mine.entries));
        let Changed::Done(version) = self.namerd.try_create(name, body).await? else { return Ok(None) };
        let version = version.unwrap_or_default();
        let written = Written { result: "created", version: &version, merged: false, before: None };
        self.watched(written, watch, format!("Created {name}\n")).await.map(Some)
    }

    /// What a table would do that is about to be written.
    async fn look(&self, entries: &[Entry]) -> Result<Outlook, Error> {
        match &self.guard {
            None => Ok(Outlook::Fits),
            Some(guard) => guard.look(&self.namerd, self.name, Body::json(Some(entries))).await,
        }
    }

    fn refused(&self, version: &str) -> Outcome {
        let shown = format!("Refused: names in use would have no endpoints; {} was not written\n", self.name);
        Outcome { code: NO, ..self.outcome(Report { version, ..self.report("refused") }, &shown) }
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
                let table = of_version(&changes, version).and_then(|change| change.dtab.as_ref());
                table.map(|table| canonical(table)).ok_or_else(missing)??
            }
        };
        *base = Base::Table(table.clone());
        Ok(table)
    }

    async fn applied(
        &self,
        theirs: &Theirs,
        merged: &[Entry],
        version: Option<String>,
        watch: Option<Box<Watch>>,
    ) -> Result<Outcome, Error> {
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
        let written = Written { result: "applied", version: &version, merged: is_merged, before: Some(theirs) };
        self.watched(written, watch, shown).await
    }

    /// Watches what was written, if that is wanted, and takes it back if too much fails.
    async fn watched(&self, written: Written<'_>, watch: Option<Box<Watch>>, shown: String) -> Result<Outcome, Error> {
        let Written { result, version, merged, .. } = written;
        let report = Report { version, merged, ..self.report(result) };
        let Some(watch) = watch else { return Ok(self.outcome(report, &shown)) };
        // Watching takes its time: what is written is told at once.
        if !self.as_json {
            say(&shown);
        }
        let seen = watch.run().await;
        let (name, how) = (self.name, seen.shown());
        if seen.too_low.is_none() {
            let report = Report { watched: Some(&seen), ..report };
            return Ok(self.outcome(report, &format!("Kept {name}: {how}\n")));
        }
        let (result, text) = match self.take_back(&written, &how).await {
            Ok(true) => ("reverted", format!("Reverted {name}: {how}\n")),
            Ok(false) => ("failing", format!("Failing {name}: {how}; others have changed it since, so it stays\n")),
            Err(error) => {
                note(&format!("Error: {error}"));
                ("failing", format!("Failing {name}: {how}; it could not be taken back\n"))
            }
        };
        let report = Report { result, watched: Some(&seen), ..report };
        Ok(Outcome { code: NO, ..self.outcome(report, &text) })
    }

    /// Restores what was there before, if nobody has written since. Whether it is there now.
    async fn take_back(&self, written: &Written<'_>, how: &str) -> Result<bool, Error> {
        let namerd = self.namerd.because(format!("auto-revert: {how}"));
        let mut tries = 1..=REVERT_TRIES;
        loop {
            let tried = match self.seq_before(written).await {
                Ok(to) => namerd.auto_revert(self.name, to, written.version).await,
                Err(error) => Err(error),
            };
            match tried {
                Ok(Changed::Done(_)) => return Ok(true),
                // An earlier try may have done it, though it was not answered.
                Ok(Changed::Conflict) => {
                    let now = self.theirs().await?.map(|theirs| theirs.entries);
                    return Ok(now.as_ref() == written.before.map(|before| &before.entries));
                }
                Err(error) if tries.next().is_none() => return Err(error),
                Err(error) => note(&format!("warning: not taken back yet: {error}")),
            }
            tokio::time::sleep(REVERT_PAUSE).await;
        }
    }

    /// The number in the history of what was there before.
    async fn seq_before(&self, written: &Written<'_>) -> Result<u64, Error> {
        // Without it nothing would tell what others write from what this command wrote.
        if written.version.is_empty() {
            return Err(Error::Other(format!("namerd does not say which version of {} was written", self.name)));
        }
        let changes = history(&self.namerd, self.name, None).await?;
        let seq =
            |version: &str| changes.iter().find(|change| change.version.as_deref() == Some(version)).map(|c| c.seq);
        let before = match written.before {
            Some(before) => seq(&before.version),
            // There was none: what was recorded before the first table, or a deletion.
            None => seq(written.version).map(|seq| seq.saturating_sub(1)),
        };
        before.ok_or_else(|| Error::Other(format!("what was there before is not in the history of {}", self.name)))
    }

    fn unchanged(&self, theirs: &Theirs) -> Outcome {
        let version = if theirs.version.is_empty() { String::new() } else { format!(" (version {})", theirs.version) };
        let merged = self.mine.entries != theirs.entries;
        let shown = format!("No change: {} has it already{version}\n", self.name);
        self.outcome(Report { version: &theirs.version, merged, ..self.report("unchanged") }, &shown)
    }

    fn conflict(&self, theirs: &Theirs, clashes: &[Clash]) -> Outcome {
        let none = |dst: &Option<String>| dst.clone().unwrap_or_else(|| "(not there)".into());
        let clash = |Clash { prefix, base, mine, theirs }: &Clash| {
            let [base, mine, theirs] = [base, mine, theirs].map(none);
            format!("{prefix}\n  base    {base}\n  mine    {mine}\n  theirs  {theirs}\n")
        };
        let clashes_text: String = clashes.iter().map(clash).collect();
        let shown = format!("{clashes_text}Conflict: {} was changed by others; nothing was written\n", self.name);
        let report = Report { version: &theirs.version, conflicts: clashes, ..self.report("conflict") };
        Outcome { code: NO, ..self.outcome(report, &shown) }
    }

    fn report(&self, result: &'static str) -> Report<'_> {
        Report { namespace: self.name, result, version: "", merged: false, conflicts: &[], watched: None }
    }

    fn outcome(&self, report: Report<'_>, text: &str) -> Outcome {
        Outcome::ok(if self.as_json { json(&report) + "\n" } else { text.into() })
    }
}

/// The change that a version came of.
fn of_version<'a>(changes: &'a [Change], version: &str) -> Option<&'a Change> {
    changes.iter().find(|change| change.version.as_deref() == Some(version))
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

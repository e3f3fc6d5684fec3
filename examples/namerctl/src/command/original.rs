//! The commands that the original has: its words, its requests and its output.

use crate::{
    cli::{DeleteArgs, FileArgs, GetArgs, ListArgs, NameArgs, UpdateArgs},
    error::{Error, Outcome},
    namerd::{Body, Namerd},
    table::{Versioned, compact, is_json, json, listing, read_text},
};

pub(super) async fn list(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &ListArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    if !args.rest.is_empty() {
        return Err(Error::Words("list does not take arguments"));
    }
    let names = connect()?.list().await?;
    Ok(Outcome::ok(if as_json { json(&names) } else { names.join("\n") } + "\n"))
}

pub(super) async fn get(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &GetArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    let name = args.of.one("get requires a name argument")?;
    let table = connect()?.get(name).await?;
    let entries = table.dtab.as_deref().unwrap_or_default();
    Ok(Outcome::ok(match (as_json, args.pretty) {
        (true, _) => json(&table) + "\n",
        (false, true) => listing(&table.version, entries),
        (false, false) => compact(entries) + "\n",
    }))
}

pub(super) async fn create(connect: impl Fn() -> Result<Namerd, Error>, args: &FileArgs) -> Result<Outcome, Error> {
    let (name, file) = args.both("create requires a name and file path")?;
    let namerd = connect()?;
    let (body, _) = body(file)?;
    namerd.create(name, body).await?;
    Ok(Outcome::ok(format!("Created {name}\n")))
}

pub(super) async fn update(connect: impl Fn() -> Result<Namerd, Error>, args: &UpdateArgs) -> Result<Outcome, Error> {
    let (name, file) = args.of.both("update requires a name and file path")?;
    let namerd = connect()?;
    let (body, version) = body(file)?;
    // That of the file goes before that of the flag.
    let version = version.unwrap_or_else(|| args.version.clone());
    namerd.update(name, body, (!version.is_empty()).then_some(&version)).await?;
    Ok(Outcome::ok(format!("Updated {name}\n")))
}

pub(super) async fn delete(connect: impl Fn() -> Result<Namerd, Error>, args: &DeleteArgs) -> Result<Outcome, Error> {
    let name = args.of.one("delete requires one argument")?;
    connect()?.delete(name, (!args.version.is_empty()).then_some(&args.version)).await?;
    Ok(Outcome::ok(format!("Deleted {name}\n")))
}

/// What a file is sent as: its text as it is, or the table in its JSON; and the version in that.
fn body(file: &str) -> Result<(Body, Option<String>), Error> {
    let text = read_text(file)?;
    if !is_json(&text) {
        return Ok((Body::dtab(text), None));
    }
    if text.starts_with('[') {
        return Err(Error::BadTable("json: cannot unmarshal array into Go value of type namer.VersionedDtab".into()));
    }
    let table: Versioned = serde_json::from_str(&text).map_err(|error| Error::BadTable(error.to_string()))?;
    let version = (!table.version.is_empty()).then_some(table.version);
    Ok((Body::json(table.dtab.as_deref()), version))
}

impl NameArgs {
    /// The name, if there is no other word.
    pub(super) fn one(&self, mistake: &'static str) -> Result<&str, Error> {
        match &self.name {
            Some(name) if self.rest.is_empty() => Ok(name),
            _ => Err(Error::Words(mistake)),
        }
    }
}

impl FileArgs {
    /// The name and the file, if there is no other word.
    pub(super) fn both(&self, mistake: &'static str) -> Result<(&str, &str), Error> {
        match (&self.name, &self.file) {
            (Some(name), Some(file)) if self.rest.is_empty() => Ok((name, file)),
            _ => Err(Error::Words(mistake)),
        }
    }
}

//! `check`: what namerd would say to a file.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    cli::FileArgs,
    error::{Error, Outcome},
    namerd::Namerd,
    table::{Source, json as go_json},
};

#[derive(Debug, Default, Deserialize)]
struct Verdict {
    #[serde(default)]
    errors: Vec<Value>,
    #[serde(default)]
    warnings: Vec<Value>,
}

pub(super) async fn check(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &FileArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    let (name, file) = args.both("check requires a name and file path")?;
    let namerd = connect()?;
    let verdict = match Source::read(file) {
        Ok(source) => namerd.try_out("check", name, source.body()).await?.json()?,
        // Namerd need not be asked whether it takes what is no table.
        Err(Error::BadTable(reason)) => Verdict { errors: vec![reason.into()], ..Verdict::default() },
        Err(error) => return Err(error),
    };
    let Verdict { errors, warnings } = &verdict;
    let shown = if as_json {
        go_json(&json!({ "namespace": name, "errors": errors, "warnings": warnings })) + "\n"
    } else {
        let errors = errors.iter().map(|error| format!("error: {}\n", said(error)));
        let warnings = warnings.iter().map(|warning| format!("warning: {}\n", said(warning)));
        errors.chain(warnings).collect()
    };
    Ok(Outcome::answer(shown, errors.is_empty()))
}

/// What it says for people: its text, if it is one or has one.
pub(super) fn said(value: &Value) -> String {
    let text = value.as_str().or_else(|| value.get("message").and_then(Value::as_str));
    text.map_or_else(|| value.to_string(), str::to_owned)
}

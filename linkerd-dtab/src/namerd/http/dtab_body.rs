//! Tables as bodies: JSON and text, both ways.

use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use super::reply::{Problem, fitting, shown};
use crate::{Dentry, Dtab, ParseError, namerd::Session};

/// In which form a table travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `[{"prefix": "/svc", "dst": "/host"}]`
    Json,
    /// `/svc=>/host`
    Dtab,
    /// The same text.
    Text,
}

impl Form {
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Dtab => "application/dtab",
            Self::Text => "text/plain",
        }
    }

    fn of(media_type: &str) -> Option<Self> {
        let kind = media_type.split(';').next().unwrap_or("").trim();
        [Self::Json, Self::Dtab, Self::Text].into_iter().find(|form| kind.eq_ignore_ascii_case(form.kind()))
    }

    /// The first form in `Accept` that is known, whatever its quality; JSON if there is none.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).find_map(Self::of).unwrap_or(Self::Json)
    }

    /// The form of the body, by `Content-Type`.
    pub(super) fn given(headers: &HeaderMap) -> Result<Self, Problem> {
        let given = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let given = String::from_utf8_lossy(given);
        // With the space at the end that namerd 1.7.5 has.
        Self::of(&given).ok_or_else(|| Problem::bad(format!("Invalid Content-Type \"{given}\". ")))
    }

    pub(super) fn show(self, dtab: &Dtab) -> String {
        match self {
            Self::Json => {
                let entry = |Dentry { prefix, dst }: &Dentry| {
                    let text = |text: String| Value::String(text);
                    let members = [("prefix", text(prefix.to_string())), ("dst", text(format!("{dst:#}")))];
                    Value::Object(members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
                };
                format!("{}\n", Value::Array(dtab.entries().iter().map(entry).collect()))
            }
            Self::Dtab | Self::Text => format!("{dtab:#}\n"),
        }
    }

    pub(super) fn read(self, body: &[u8]) -> Result<Dtab, Problem> {
        if self == Self::Json {
            return from_json(body);
        }
        let text = std::str::from_utf8(body).map_err(|error| Problem::bad(format!("The dtab is no text: {error}")))?;
        text.parse().map_err(|error: ParseError| Problem::bad(fitting(error.located().to_string(), &error)))
    }

    /// The session for a table that was read from this body: what is wrong with an entry is told with its place there.
    pub(super) fn placed(self, session: &Session, body: &[u8]) -> Session {
        match std::str::from_utf8(body) {
            Ok(text) if self != Self::Json => session.of_text(text),
            _ => session.clone(),
        }
    }
}

fn from_json(body: &[u8]) -> Result<Dtab, Problem> {
    let bad = |reason: String| Problem::bad(format!("The dtab is not valid JSON: {reason}"));
    let json: Value = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
    let Value::Array(entries) = json else { return Err(bad("it is not a list of dentries".to_owned())) };
    if entries.iter().any(Value::is_null) {
        let shown = shown(&String::from_utf8_lossy(body));
        return Err(Problem::bad(format!("The dtab contains invalid dentries: {shown}")));
    }
    let dentries = entries.into_iter().enumerate().map(|(index, entry)| {
        let invalid = |reason: String| {
            Problem::bad(format!("The dtab contains invalid dentries: dentry {}: {reason}", index + 1))
        };
        let Value::Object(entry) = entry else { return Err(invalid("it is no object".to_owned())) };
        if let Some(unknown) = entry.keys().find(|name| !["prefix", "dst"].contains(&name.as_str())) {
            let reason = format!("dentry {} has an unknown member {unknown}", index + 1);
            return Err(Problem::hinted(StatusCode::BAD_REQUEST, reason));
        }
        dentry(&entry).map_err(invalid)
    });
    dentries.collect()
}

fn dentry(members: &Map<String, Value>) -> Result<Dentry, String> {
    let text = |name: &str| match members.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Null) | None => Err(format!("it has no {name}")),
        Some(_) => Err(format!("its {name} is no text")),
    };
    let bad = |name: &str, error: ParseError| format!("{name}: {}", fitting(error.located().to_string(), &error));
    let prefix = text("prefix")?.parse().map_err(|error| bad("prefix", error))?;
    let dst = text("dst")?.parse().map_err(|error| bad("dst", error))?;
    Ok(Dentry { prefix, dst })
}

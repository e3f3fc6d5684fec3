//! The parameters of a query.

use http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;

use super::reply::{Problem, shown};
use crate::{Dtab, Path};

/// The parameter that all have who ask for a name.
const PATH: &str = "parameter path";

/// Parameters in their order.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Parses the query of a URL: `a=1&b=2`, where `+` is a space. As in namerd 1.7.5 `;` separates too, so that in a dtab
    /// it has to be `%3B`. A `%` that begins no code stands for itself.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let decode = |name: &str, raw: &str| {
            let text = raw.replace('+', " ");
            let decoded = percent_decode_str(&text).decode_utf8().map(String::from);
            decoded.map_err(|_| Problem::bad(format!("invalid parameter {name}: '{}' is not UTF-8", shown(raw))))
        };
        let pairs = uri.query().unwrap_or("").split(['&', ';']).filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let shown = shown(name);
            Ok((decode(&shown, name)?, decode(&shown, value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Whether the answer is to be followed. What is neither `true`, `1` nor `t` says no, as in namerd 1.7.5.
    pub(super) fn watch(&self) -> bool {
        let yes = |value: &str| ["true", "1", "t"].iter().any(|yes| value.eq_ignore_ascii_case(yes));
        self.get("watch").is_some_and(yes)
    }

    pub(super) fn path(&self) -> Result<Path, Problem> {
        path(PATH, self.get("path"))
    }

    /// The table on top of the namespace's; an empty one if there is none.
    pub(super) fn dtab(&self) -> Result<Dtab, Problem> {
        dtab("parameter dtab", self.get("dtab").unwrap_or(""))
    }
}

/// The name in what `of` names, a parameter or a member of the body.
pub(super) fn path(of: &str, text: Option<&str>) -> Result<Path, Problem> {
    let text = text.ok_or_else(|| Problem::bad(format!("Invalid path: the {of} is missing")))?;
    text.parse().map_err(|error| Problem::unparsable(of, &format!("Invalid path: {} / ", shown(text)), &error))
}

/// The table in what `of` names.
pub(super) fn dtab(of: &str, text: &str) -> Result<Dtab, Problem> {
    text.parse().map_err(|error| Problem::unparsable(of, "Invalid dtab: ", &error))
}

/// Why there is no such namespace, and never will be.
pub(super) fn namespace(text: &str) -> Result<crate::store::Namespace, Problem> {
    text.parse().map_err(|error: crate::store::BadNamespace| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
}

//! Paths and dtabs inside the file.

use std::str::FromStr;

use linkerd_dtab::{Dtab, ParseError, Path};

use super::{decode::At, node::shorten};

/// Reads a path such as `/svc/web`.
pub(crate) fn path(at: &At<'_>) -> Option<Path> {
    parse(at)
}

/// Reads a delegation table.
pub(crate) fn dtab(at: &At<'_>) -> Option<Dtab> {
    parse(at)
}

fn parse<T: FromStr<Err = ParseError>>(at: &At<'_>) -> Option<T> {
    let text = at.text()?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            let place = at.scalar().and_then(|scalar| scalar.place(error.offset()));
            at.cx.record(place.unwrap_or(at.node.at), at.key(), message(text, &error));
            None
        }
    }
}

/// Linkerd's own message, with only the line that it is about.
fn message(text: &str, error: &ParseError) -> String {
    let Some(expected) = error.expected() else {
        return error.to_string();
    };
    let found = error.found().map_or_else(|| "end of input".to_owned(), |c| format!("{c:?}"));
    let offset = error.offset();
    let start = text[..offset].rfind('\n').map_or(0, |i| i + 1);
    let found_len = error.found().filter(|c| *c != '\n').map_or(0, char::len_utf8);
    let rest = &text[offset + found_len..];
    let rest = &rest[..rest.find('\n').unwrap_or(rest.len())];
    let (before, marked) = (&text[start..offset], &text[offset..offset + found_len]);
    // A dtab may be one line of a megabyte.
    let tail: String = before.chars().rev().take(200).collect();
    let before: String = tail.chars().rev().collect();
    format!("{expected} expected but {found} found at '{before}[{marked}]{}'", shorten(rest))
}

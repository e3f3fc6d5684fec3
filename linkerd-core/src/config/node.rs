//! The file as a tree whose every node knows its place.

use super::error::Position;

/// Files larger than this are refused. A dtab alone may take 1 MiB.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Maps and lists nest at most this deep.
pub(crate) const MAX_DEPTH: usize = 64;
/// Keys of one map.
pub(crate) const MAX_KEYS: usize = 1000;
/// How many values a file may hold once its aliases are expanded.
pub(crate) const MAX_NODES: usize = 100_000;
/// How much text the expanded values may hold together.
pub(crate) const MAX_TEXT: usize = 4 * MAX_BYTES;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Neither quoted nor a block: may be read as a number, a boolean or nothing.
    pub(crate) plain: bool,
    /// Where pieces of the text stand in the file: the byte at which each begins, in order. What is before the first
    /// or cannot be told apart has no place of its own.
    pub(crate) pieces: Vec<(usize, Position)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) value: Node,
}

/// What a plain scalar stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text,
}

/// Why a file has no tree.
#[derive(Debug, PartialEq)]
pub(crate) struct Malformed {
    pub(crate) at: Position,
    pub(crate) message: String,
}

impl Node {
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.resolve() == Plain::Null)
    }

    /// The value under `key`, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        entries.iter().find(|e| e.key == key).map(|e| &e.value)
    }

    /// How an error calls the value: text in short form, `a list`, `a map`.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar(s) => match (s.resolve(), s.plain) {
                (Plain::Null, _) => "nothing".to_owned(),
                (Plain::Text, _) | (_, false) => format!("'{}'", shorten(&s.text)),
                _ => shorten(&s.text),
            },
        }
    }

    /// Nodes and bytes of text in this tree.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (mut nodes, mut text) = (1, 0);
        let mut add = |node: &Node| {
            let (n, t) = node.size();
            nodes += n;
            text += t;
        };
        match &self.value {
            Value::Scalar(s) => return (1, s.text.len()),
            Value::List(items) => items.iter().for_each(add),
            Value::Map(entries) => {
                for entry in entries {
                    add(&entry.value);
                }
                text += entries.iter().map(|e| e.key.len()).sum::<usize>();
            }
        }
        (nodes, text)
    }
}

impl Scalar {
    /// The place in the file of a byte of the text, if it is known.
    pub(crate) fn place(&self, offset: usize) -> Option<Position> {
        let (start, at) = self.pieces.iter().rev().find(|(start, _)| *start <= offset)?;
        let columns = self.text.get(*start..offset)?.chars().count();
        Some(Position { column: at.column.saturating_add(u32::try_from(columns).ok()?), ..*at })
    }

    /// YAML 1.1's reading of a plain scalar, as far as Linkerd 1.x gave it a meaning.
    ///
    /// A number with leading zeros stays text: YAML 1.1 reads it as octal, people do not.
    pub(crate) fn resolve(&self) -> Plain {
        if !self.plain {
            return Plain::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
            _ => {}
        }
        if let Some(b) = boolean(&self.text) {
            return Plain::Bool(b);
        }
        if let Some(n) = integer(&self.text) {
            return Plain::Int(n);
        }
        float(&self.text).map_or(Plain::Text, Plain::Float)
    }
}

/// YAML 1.1's words for true and false.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// A decimal or `0x` integer, with an optional sign and underscores between digits.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('_') {
        return None;
    }
    let digits = digits.replace('_', "");
    let magnitude = if let Some(hex) = digits.strip_prefix("0x") {
        if hex.starts_with(['+', '-']) {
            return None;
        }
        i64::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        return None;
    } else {
        digits.parse().ok()?
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// A decimal number with a fraction or an exponent; `.inf` and `.nan` are not numbers to us.
pub(crate) fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut bytes = unsigned.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_digit() || b == b'.');
    let numeric = unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'));
    let has_digit = unsigned.bytes().any(|b| b.is_ascii_digit());
    let octal = unsigned.len() > 1 && unsigned.starts_with('0') && unsigned.bytes().all(|b| b.is_ascii_digit());
    if !starts || !numeric || !has_digit || octal {
        return None;
    }
    text.parse().ok().filter(|x: &f64| x.is_finite())
}

/// At most 60 characters of `text` on one line.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.replace(['\n', '\r', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Plain {
        let scalar = Scalar { text: text.to_owned(), plain: true, pieces: Vec::new() };
        scalar.resolve()
    }

    #[test]
    fn plain_scalars_are_read_as_yaml_1_1_does() {
        assert_eq!(plain("4140"), Plain::Int(4140));
        assert_eq!(plain("-1"), Plain::Int(-1));
        assert_eq!(plain("+1"), Plain::Int(1));
        assert_eq!(plain("1_000"), Plain::Int(1000));
        assert_eq!(plain("0x1F"), Plain::Int(31));
        assert_eq!(plain("0"), Plain::Int(0));
        assert_eq!(plain("010"), Plain::Text);
        assert_eq!(plain("0x-1"), Plain::Text);
        assert_eq!(plain("1_"), Plain::Text);
        assert_eq!(plain("0.5"), Plain::Float(0.5));
        assert_eq!(plain(".5"), Plain::Float(0.5));
        assert_eq!(plain("1e3"), Plain::Float(1000.0));
        assert_eq!(plain("."), Plain::Text);
        assert_eq!(plain("-"), Plain::Text);
        assert_eq!(plain(".inf"), Plain::Text);
        assert_eq!(plain("1.2.3.4"), Plain::Text);
        assert_eq!(plain("yes"), Plain::Bool(true));
        assert_eq!(plain("Off"), Plain::Bool(false));
        assert_eq!(plain("y"), Plain::Text);
        assert_eq!(plain("~"), Plain::Null);
        assert_eq!(plain("99999999999999999999"), Plain::Float(1e20));
    }
}

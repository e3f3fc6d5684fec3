//! JSON text to a tree, strictly as RFC 8259 has it.

use super::{
    error::Position,
    node::{Entry, MAX_DEPTH, MAX_KEYS, MAX_NODES, Malformed, Node, Scalar, Value},
    yaml::twice,
};

/// Reads the one value of `text`; repeated keys as in [`super::yaml::parse`].
pub(crate) fn parse(text: &str, repeated: &mut Vec<Malformed>) -> Result<Node, Malformed> {
    let mut reader = Reader { rest: text, at: Position { line: 1, column: 1 }, nodes: 0, repeated };
    reader.skip_space();
    let node = reader.value(0)?;
    reader.skip_space();
    if let Some(c) = reader.peek() {
        return Err(reader.unexpected(c, "the end of the file"));
    }
    Ok(node)
}

struct Reader<'a> {
    rest: &'a str,
    at: Position,
    nodes: usize,
    repeated: &'a mut Vec<Malformed>,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Node, Malformed> {
        let at = self.at;
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error(format!("the file holds more than {MAX_NODES} values")));
        }
        if depth > MAX_DEPTH {
            return Err(self.error(format!("values nest more than {MAX_DEPTH} deep")));
        }
        let value = match self.peek() {
            Some('{') => self.map(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => {
                let (text, place) = self.string()?;
                let pieces = place.map(|at| (0, at)).into_iter().collect();
                Value::Scalar(Scalar { text, plain: false, pieces })
            }
            Some(c) if c == '-' || c.is_ascii_alphanumeric() => self.word()?,
            Some(c) => return Err(self.unexpected(c, "a value")),
            None => return Err(self.error("the file ends where a value is expected".to_owned())),
        };
        Ok(Node { at, value })
    }

    fn map(&mut self, depth: usize) -> Result<Value, Malformed> {
        let mut entries: Vec<Entry> = Vec::new();
        self.next();
        self.skip_space();
        if self.take('}') {
            return Ok(Value::Map(entries));
        }
        loop {
            self.skip_space();
            let at = self.at;
            if self.peek() != Some('"') {
                return Err(self.missing("a key in double quotes"));
            }
            let (key, _) = self.string()?;
            self.skip_space();
            if !self.take(':') {
                return Err(self.missing("':'"));
            }
            self.skip_space();
            let value = self.value(depth + 1)?;
            if entries.len() >= MAX_KEYS {
                return Err(Malformed { at, message: format!("a map with more than {MAX_KEYS} keys") });
            }
            match entries.iter().find(|e| e.key == key) {
                Some(first) => self.repeated.push(twice(&key, at, first.at)),
                None => entries.push(Entry { key, at, value }),
            }
            self.skip_space();
            if self.take('}') {
                return Ok(Value::Map(entries));
            }
            if !self.take(',') {
                return Err(self.missing("',' or '}'"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Malformed> {
        let mut items = Vec::new();
        self.next();
        self.skip_space();
        if self.take(']') {
            return Ok(Value::List(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take(']') {
                return Ok(Value::List(items));
            }
            if !self.take(',') {
                return Err(self.missing("',' or ']'"));
            }
        }
    }

    /// A string and, if it is written without escapes, where its first character stands.
    fn string(&mut self) -> Result<(String, Option<Position>), Malformed> {
        self.next();
        let mut place = Some(self.at);
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok((text, place)),
                Some('\\') => {
                    place = None;
                    text.push(self.escape()?);
                }
                Some(c) if c >= ' ' => text.push(c),
                Some(_) => return Err(self.error("a control character in a string must be escaped".to_owned())),
                None => return Err(self.error("the file ends inside a string".to_owned())),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        Ok(match self.next() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let mut unit = self.hex4()?;
                if (0xd800..0xdc00).contains(&unit) && self.rest.starts_with("\\u") {
                    self.next();
                    self.next();
                    let low = self.hex4()?;
                    if (0xdc00..0xe000).contains(&low) {
                        unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    }
                }
                char::from_u32(unit).ok_or_else(|| self.error("half of a surrogate pair".to_owned()))?
            }
            _ => return Err(self.error("an unknown escape in a string".to_owned())),
        })
    }

    fn hex4(&mut self) -> Result<u32, Malformed> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.next().and_then(|c| c.to_digit(16)) else {
                return Err(self.error("\\u must be followed by four hex digits".to_owned()));
            };
            unit = unit << 4 | digit;
        }
        Ok(unit)
    }

    fn word(&mut self) -> Result<Value, Malformed> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')));
        let word = &self.rest[..end.unwrap_or(self.rest.len())];
        if !matches!(word, "true" | "false" | "null") && !is_number(word) {
            return Err(self.error(format!("'{}' is not a value", super::node::shorten(word))));
        }
        let text = word.to_owned();
        for _ in 0..text.len() {
            self.next();
        }
        Ok(Value::Scalar(Scalar { text, plain: true, pieces: Vec::new() }))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.at = Position { line: self.at.line + 1, column: 1 };
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.next();
        }
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn missing(&self, expected: &str) -> Malformed {
        match self.peek() {
            Some(c) => self.unexpected(c, expected),
            None => self.error(format!("the file ends where {expected} is expected")),
        }
    }

    fn unexpected(&self, found: char, expected: &str) -> Malformed {
        self.error(format!("{found:?} where {expected} is expected"))
    }

    fn error(&self, message: String) -> Malformed {
        Malformed { at: self.at, message }
    }
}

/// `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`
fn is_number(word: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).unwrap_or(e))),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((w, f)) => (w, Some(f)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

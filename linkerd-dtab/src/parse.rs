//! The text form of paths, trees and tables.
//!
//! One pass, one character of lookahead, linear time. What can be nested or repeated without end is bounded, so that no
//! text a user sends exhausts the stack or the memory.

use std::{fmt, str::FromStr};

use crate::{Dentry, Dtab, Element, NameTree, Path, PathBuilder, Prefix, Weighted, path::is_showable};

/// The longest text that is parsed, in bytes: 1 MiB.
pub const MAX_LEN: usize = 1 << 20;

/// How deep parentheses may nest.
pub const MAX_NESTING: usize = 200;

/// How many operands (paths, `!`, `~` and `$`) a text may have.
pub const MAX_OPERANDS: usize = 100_000;

/// Why a text is not a path, prefix, tree or table.
///
/// Displays Linkerd's own message, `EXPECTED expected but FOUND found at 'CONTEXT'`, where the context is the whole text
/// with the offending character in brackets. [`summary`](Self::summary) is shorter and says line and column.
///
/// ```
/// # use linkerd_dtab::Dtab;
/// let error = "/a => /b;\n/c -> /d".parse::<Dtab>().unwrap_err();
/// assert_eq!(error.to_string(), "'=' expected but '-' found at '/a => /b;\n/c [-]> /d'");
/// assert_eq!(error.summary().to_string(), "line 2, column 4: '=' expected but '-' found");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ParseError(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    // Empty if the text is too long to keep.
    text: Box<str>,
    len: usize,
    fault: Fault,
}

/// What the parser was looking for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected {
    /// This character.
    Char(char),
    /// A character of a path element, or a `\xNN` escape.
    Label,
    /// A hexadecimal digit.
    Hex,
    /// A digit.
    Number,
    /// A number.
    Weight,
    /// A path, `!`, `~`, `$` or a parenthesis.
    Simple,
    /// Nothing more.
    End,
}

/// Which limit a text exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// [`MAX_LEN`].
    Length,
    /// [`MAX_NESTING`].
    Nesting,
    /// [`MAX_OPERANDS`].
    Operands,
}

/// A place in a text. Displays as `line 2, column 4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

/// Displays where and why a text does not parse, without the text.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(&'a ParseError);

/// Displays Linkerd's message, and line and column after it.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a>(&'a ParseError);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Fault {
    offset: usize,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Found(Expected, Option<char>),
    Over(Limit),
}

impl ParseError {
    /// Where the parser stopped, in bytes from the start of the text.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.0.fault.offset
    }

    /// The line of that place, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        1 + self.before().bytes().filter(|&byte| byte == b'\n').count()
    }

    /// The column of that place in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        let line = self.before().rsplit('\n').next().unwrap_or_default();
        1 + line.chars().count()
    }

    /// What was expected there; `None` if the text exceeds a limit.
    #[must_use]
    pub fn expected(&self) -> Option<Expected> {
        match self.0.fault.what {
            What::Found(expected, _) => Some(expected),
            What::Over(_) => None,
        }
    }

    /// What was found instead; `None` at the end of the text.
    #[must_use]
    pub fn found(&self) -> Option<char> {
        match self.0.fault.what {
            What::Found(_, found) => found,
            What::Over(_) => None,
        }
    }

    /// The limit that the text exceeds, if that is what is wrong.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        match self.0.fault.what {
            What::Over(limit) => Some(limit),
            What::Found(..) => None,
        }
    }

    /// The place and the reason without the text: `line 2, column 4: '=' expected but '-' found`.
    #[must_use]
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }

    /// Linkerd's own message with the place at its end, which marks are no help with where a text is long.
    #[must_use]
    pub fn located(&self) -> Located<'_> {
        Located(self)
    }

    fn before(&self) -> &str {
        self.0.text.get(..self.0.fault.offset).unwrap_or_default()
    }

    fn new(text: &str, fault: Fault) -> Self {
        let kept = if text.len() > MAX_LEN { "" } else { text };
        Self(Box::new(Inner { text: kept.into(), len: text.len(), fault }))
    }

    fn reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.fault.what {
            What::Found(expected, None) => write!(f, "{expected} expected but end of input found"),
            What::Found(expected, Some(found)) => write!(f, "{expected} expected but '{found}' found"),
            What::Over(Limit::Length) => write!(f, "a text of {} bytes, of at most {MAX_LEN}", self.0.len),
            What::Over(Limit::Nesting) => write!(f, "parentheses more than {MAX_NESTING} deep"),
            What::Over(Limit::Operands) => write!(f, "more than {MAX_OPERANDS} names"),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason(f)?;
        match self.0.fault.what {
            What::Over(Limit::Length) => Ok(()),
            What::Over(_) => write!(f, " at line {}, column {}", self.line(), self.column()),
            What::Found(..) => {
                let (before, rest) = self.0.text.split_at(self.0.fault.offset);
                let mut after = rest.chars();
                let marked = after.next();
                write!(f, " at '{before}[")?;
                marked.map_or(Ok(()), |marked| write!(f, "{marked}"))?;
                write!(f, "]{}'", after.as_str())
            }
        }
    }
}

impl fmt::Debug for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParseError({})", self.summary())
    }
}

impl std::error::Error for ParseError {}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.limit() != Some(Limit::Length) {
            write!(f, "line {}, column {}: ", self.0.line(), self.0.column())?;
        }
        self.0.reason(f)
    }
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0;
        error.fmt(f)?;
        // The messages of limits have it already.
        if error.limit().is_some() { Ok(()) } else { write!(f, " (line {}, column {})", error.line(), error.column()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Char(c) => write!(f, "'{c}'"),
            Self::Label => f.write_str("label char"),
            Self::Hex => f.write_str("hex char"),
            Self::Number => f.write_str("number char"),
            Self::Weight => f.write_str("weight"),
            Self::Simple => f.write_str("simple"),
            Self::End => f.write_str("end of input"),
        }
    }
}

impl FromStr for Path {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, Parser::path)
    }
}

impl FromStr for Prefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, Parser::prefix)
    }
}

impl FromStr for NameTree<Path> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, |parser| parser.tree(0))
    }
}

impl FromStr for Dentry {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, Parser::dentry)
    }
}

impl FromStr for Dtab {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text, Parser::dtab)
    }
}

fn parse<'a, T>(text: &'a str, rule: impl FnOnce(&mut Parser<'a>) -> Result<T, Fault>) -> Result<T, ParseError> {
    if text.len() > MAX_LEN {
        return Err(ParseError::new(text, Fault { offset: 0, what: What::Over(Limit::Length) }));
    }
    Parser::new(text).run(rule).map_err(|fault| ParseError::new(text, fault))
}

/// Where the entries of a table begin in the text that it is parsed from, in its order; nothing if it does not parse.
///
/// ```
/// # use linkerd_dtab::parse::places;
/// let places: Vec<_> = places("/a => /b;\n  /c => /d").iter().map(ToString::to_string).collect();
/// assert_eq!(places, ["line 1, column 1", "line 2, column 3"]);
/// ```
#[must_use]
pub fn places(dtab: &str) -> Vec<Place> {
    let mut offsets = Vec::new();
    if dtab.len() > MAX_LEN || Parser::new(dtab).run(|parser| parser.entries(|at| offsets.push(at))).is_err() {
        return Vec::new();
    }
    let (mut at, mut place) = (0, Place { line: 1, column: 1 });
    let begins = offsets.into_iter().map(|offset| {
        for c in dtab[at..offset].chars() {
            place = if c == '\n' {
                Place { line: place.line + 1, column: 1 }
            } else {
                Place { column: place.column + 1, ..place }
            };
        }
        at = offset;
        place
    });
    begins.collect()
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    operands: usize,
    // The element that is being read; kept between elements for its capacity.
    label: Vec<u8>,
    #[cfg(test)]
    looks: std::cell::Cell<usize>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            operands: 0,
            label: Vec::new(),
            #[cfg(test)]
            looks: std::cell::Cell::default(),
        }
    }

    fn run<T>(&mut self, rule: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let value = rule(self)?;
        self.skip_space();
        if self.at < self.text.len() { Err(self.fault(Expected::End)) } else { Ok(value) }
    }

    fn dtab(&mut self) -> Result<Dtab, Fault> {
        self.entries(|_| ()).map(Dtab::new)
    }

    // Tells `begins` where each one does.
    fn entries(&mut self, mut begins: impl FnMut(usize)) -> Result<Vec<Dentry>, Fault> {
        let mut entries = Vec::new();
        loop {
            self.skip_space();
            if self.peek().is_none() {
                break;
            }
            begins(self.at);
            entries.push(self.dentry()?);
            self.skip_space();
            if !self.take(b';') {
                break;
            }
        }
        Ok(entries)
    }

    fn dentry(&mut self) -> Result<Dentry, Fault> {
        let prefix = self.prefix()?;
        self.skip_space();
        self.eat(b'=')?;
        self.eat(b'>')?;
        Ok(Dentry { prefix, dst: self.tree(0)? })
    }

    fn prefix(&mut self) -> Result<Prefix, Fault> {
        self.skip_space();
        self.eat(b'/')?;
        let mut elements = Vec::new();
        if !(self.at_label() || self.peek() == Some(b'*')) {
            return Ok(Prefix::new(elements));
        }
        loop {
            if self.take(b'*') {
                elements.push(Element::Any);
            } else {
                self.label()?;
                elements.push(Element::Label(self.label.as_slice().into()));
            }
            if !self.take(b'/') {
                return Ok(Prefix::new(elements));
            }
        }
    }

    fn tree(&mut self, depth: usize) -> Result<NameTree<Path>, Fault> {
        let first = self.union(depth)?;
        self.skip_space();
        if self.peek() != Some(b'|') {
            return Ok(first);
        }
        let mut trees = vec![first];
        while self.take(b'|') {
            trees.push(self.union(depth)?);
            self.skip_space();
        }
        Ok(NameTree::Alt(trees))
    }

    fn union(&mut self, depth: usize) -> Result<NameTree<Path>, Fault> {
        let first = self.operand(depth)?;
        self.skip_space();
        if self.peek() != Some(b'&') {
            // A weight says how siblings share; alone it means nothing.
            return Ok(first.tree);
        }
        let mut branches = vec![first];
        while self.take(b'&') {
            branches.push(self.operand(depth)?);
            self.skip_space();
        }
        Ok(NameTree::Union(branches))
    }

    fn operand(&mut self, depth: usize) -> Result<Weighted<Path>, Fault> {
        self.skip_space();
        let mut weight = 1.0;
        if matches!(self.peek(), Some(b'0'..=b'9' | b'.')) {
            weight = self.number()?;
            self.skip_space();
            self.eat(b'*')?;
            self.skip_space();
        }
        Ok(Weighted { weight, tree: self.simple(depth)? })
    }

    fn number(&mut self) -> Result<f64, Fault> {
        let start = self.at;
        let mut dot = false;
        while let Some(byte @ (b'0'..=b'9' | b'.')) = self.peek() {
            if byte == b'.' {
                if dot {
                    return Err(self.fault(Expected::Number));
                }
                dot = true;
            }
            self.at += 1;
        }
        // A lone dot: Linkerd names the dot and marks what comes after it.
        let fault = Fault { offset: self.at, what: What::Found(Expected::Weight, Some('.')) };
        self.text[start..self.at].parse().map_err(|_| fault)
    }

    fn simple(&mut self, depth: usize) -> Result<NameTree<Path>, Fault> {
        let Some(byte @ (b'(' | b'/' | b'!' | b'~' | b'$')) = self.peek() else {
            return Err(self.fault(Expected::Simple));
        };
        if byte == b'(' {
            if depth == MAX_NESTING {
                return Err(self.over(Limit::Nesting));
            }
            self.at += 1;
            let tree = self.tree(depth + 1)?;
            self.eat(b')')?;
            return Ok(tree);
        }
        if self.operands == MAX_OPERANDS {
            return Err(self.over(Limit::Operands));
        }
        self.operands += 1;
        if byte == b'/' {
            return Ok(NameTree::Leaf(self.path()?));
        }
        self.at += 1;
        Ok(match byte {
            b'!' => NameTree::Fail,
            b'~' => NameTree::Neg,
            _ => NameTree::Empty,
        })
    }

    fn path(&mut self) -> Result<Path, Fault> {
        self.skip_space();
        self.eat(b'/')?;
        if !self.at_label() {
            return Ok(Path::empty());
        }
        let mut path = PathBuilder::default();
        loop {
            self.label()?;
            path.push(&self.label).expect("a label has at least one byte");
            if !self.take(b'/') {
                return Ok(path.build());
            }
        }
    }

    // Reads one element into `self.label`.
    fn label(&mut self) -> Result<(), Fault> {
        self.label.clear();
        if !self.at_label() {
            return Err(self.fault(Expected::Label));
        }
        while let Some(byte) = self.peek() {
            if is_showable(byte) {
                self.label.push(byte);
                self.at += 1;
            } else if byte == b'\\' {
                self.at += 1;
                self.eat(b'x')?;
                let escaped = self.hex_digit()? << 4 | self.hex_digit()?;
                self.label.push(escaped);
            } else {
                break;
            }
        }
        Ok(())
    }

    fn hex_digit(&mut self) -> Result<u8, Fault> {
        let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
        let digit = digit.ok_or_else(|| self.fault(Expected::Hex))?;
        self.at += 1;
        Ok(digit as u8)
    }

    fn at_label(&self) -> bool {
        self.peek().is_some_and(|byte| is_showable(byte) || byte == b'\\')
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'\t'..=b'\r' | 0x1c..=b' ' => self.at += 1,
                b'#' => {
                    let rest = &self.text.as_bytes()[self.at..];
                    self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                }
                0x80.. => match self.next_char() {
                    Some(c) if is_java_space(c) => self.at += c.len_utf8(),
                    _ => return,
                },
                _ => return,
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn eat(&mut self, byte: u8) -> Result<(), Fault> {
        if self.take(byte) { Ok(()) } else { Err(self.fault(Expected::Char(char::from(byte)))) }
    }

    fn next_char(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn fault(&self, expected: Expected) -> Fault {
        Fault { offset: self.at, what: What::Found(expected, self.next_char()) }
    }

    fn over(&self, limit: Limit) -> Fault {
        Fault { offset: self.at, what: What::Over(limit) }
    }
}

// Beyond ASCII, what `Character.isWhitespace` says: no no-break spaces.
const fn is_java_space(c: char) -> bool {
    matches!(c, '\u{1680}' | '\u{2000}'..='\u{2006}' | '\u{2008}'..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{205f}' | '\u{3000}')
}

#[cfg(test)]
mod tests;

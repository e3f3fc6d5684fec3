//! From the tree to typed values, with every problem recorded at its place.
//!
//! A [`Section`] is one map of the file. Each key is asked for once, by name; what was not asked for when the section is
//! [finished](Section::finish) is an unknown key. Nothing stops at the first problem: an accessor records what is wrong
//! and answers as if the key were absent.

use std::{cell::RefCell, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{
    error::{Position, Problem},
    hint,
    node::{Entry, Node, Plain, Scalar, Value, boolean, float, integer, shorten},
};

/// What is gathered while a file is read.
#[derive(Debug)]
pub(crate) struct Cx {
    file: Arc<str>,
    problems: RefCell<Vec<Problem>>,
}

/// A node and the way to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) cx: &'a Cx,
    pub(crate) node: &'a Node,
    up: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

/// One map of the file, being read.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    at: &'a At<'a>,
    /// What this kind of map is called where historic keys are looked up.
    name: &'static str,
    known: Vec<&'static str>,
}

/// A value that can be read from a node. `None` means that the problem was recorded.
pub(crate) trait Decode: Sized {
    fn decode(at: &At<'_>) -> Option<Self>;
}

/// What a key held.
pub(crate) enum Field<T> {
    Absent,
    Invalid,
    Value(T),
}

impl Cx {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.into(), problems: RefCell::default() }
    }

    pub(crate) fn record(&self, position: Position, key: String, message: impl Into<String>) {
        let message = message.into();
        let problem = Problem { file: Arc::clone(&self.file), position: Some(position), key, message };
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

impl<'a> At<'a> {
    pub(crate) fn root(cx: &'a Cx, node: &'a Node) -> Self {
        Self { cx, node, up: None, step: Step::Root }
    }

    /// The dotted key of this node.
    pub(crate) fn key(&self) -> String {
        let above = self.up.map(At::key).unwrap_or_default();
        match self.step {
            Step::Root => above,
            Step::Key(name) if above.is_empty() => shorten(name),
            Step::Key(name) => format!("{above}.{}", shorten(name)),
            Step::Index(i) => format!("{above}[{i}]"),
        }
    }

    pub(crate) fn problem(&self, message: impl Into<String>) {
        self.cx.record(self.node.at, self.key(), message);
    }

    /// Records that something experimental is not enabled.
    pub(crate) fn experimental(&self, what: &str, place: &str) {
        self.problem(format!(
            "{what} is experimental and must be explicitly enabled by setting the `experimental' parameter to `true'{place}."
        ));
    }

    /// Records that the value is not what the key holds.
    pub(crate) fn expected<T>(&self, what: &str) -> Option<T> {
        self.problem(format!("must be {what}, got {}", self.node.describe()));
        None
    }

    /// The items of a list, each read by `read`; those with problems are left out.
    pub(crate) fn list<T>(&self, mut read: impl FnMut(&At<'_>) -> Option<T>) -> Option<Vec<T>> {
        let Value::List(items) = &self.node.value else {
            return self.expected("a list");
        };
        let item = |(i, node)| read(&At { cx: self.cx, node, up: Some(self), step: Step::Index(i) });
        Some(items.iter().enumerate().filter_map(item).collect())
    }

    /// The entries of a map whose keys are free, each read by `read`.
    pub(crate) fn entries<T>(&self, mut read: impl FnMut(&str, &At<'_>) -> Option<T>) -> Option<Vec<T>> {
        let Value::Map(entries) = &self.node.value else {
            return self.expected("a map");
        };
        let entry =
            |e: &Entry| read(&e.key, &At { cx: self.cx, node: &e.value, up: Some(self), step: Step::Key(&e.key) });
        Some(entries.iter().filter_map(entry).collect())
    }

    pub(crate) fn scalar(&self) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) if !self.node.is_null() => Some(scalar),
            _ => None,
        }
    }

    /// Text, also if it looks like a number or a boolean.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.scalar() {
            Some(scalar) => Some(&scalar.text),
            None => self.expected("text"),
        }
    }

    /// A whole number of this range. A quoted one will do, and so will `5.0`.
    pub(crate) fn int(&self, range: &RangeInclusive<i64>) -> Option<i64> {
        match self.whole() {
            Some(n) if range.contains(&n) => Some(n),
            Some(n) if n >= *range.start() || *range.end() < MAX_INT => {
                self.expected(&format!("{}..{}", range.start(), range.end()))
            }
            Some(_) => self.expected(&format!("at least {}", range.start())),
            None => self.expected("a whole number"),
        }
    }

    /// The value as a whole number, if it is one; records nothing.
    pub(crate) fn whole(&self) -> Option<i64> {
        self.scalar().and_then(whole)
    }

    /// A number, not necessarily whole, for which `valid` holds.
    pub(crate) fn number(&self, what: &str, valid: impl FnOnce(f64) -> bool) -> Option<f64> {
        let number = self.scalar().and_then(|s| match s.resolve() {
            Plain::Int(n) => Some(n as f64),
            Plain::Float(x) => Some(x),
            Plain::Text => integer(&s.text).map(|n| n as f64).or_else(|| float(&s.text)),
            Plain::Null | Plain::Bool(_) => None,
        });
        match number {
            Some(x) if valid(x) => Some(x),
            _ => self.expected(what),
        }
    }
}

/// Text as a whole number, if it is one.
pub(super) fn whole(scalar: &Scalar) -> Option<i64> {
    match scalar.resolve() {
        Plain::Int(n) => Some(n),
        Plain::Float(x) => (x.fract() == 0.0 && x.abs() < 1e15).then_some(x as i64),
        Plain::Text => integer(scalar.text.trim()),
        Plain::Null | Plain::Bool(_) => None,
    }
}

/// The largest number that Linkerd 1.x could read where it wanted a whole one.
pub(crate) const MAX_INT: i64 = i32::MAX as i64;

impl<T> Field<T> {
    pub(crate) fn value(self) -> Option<T> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }
}

impl<'a> Section<'a> {
    /// Opens a map, or records that it is none.
    pub(crate) fn open(at: &'a At<'a>, name: &'static str) -> Option<Self> {
        if !matches!(at.node.value, Value::Map(_)) {
            return at.expected("a map");
        }
        Some(Self { at, name, known: Vec::new() })
    }

    pub(crate) fn at(&self) -> &'a At<'a> {
        self.at
    }

    /// The value of a key as `read` reads it. A key without a value counts as absent.
    pub(crate) fn field<T>(&mut self, key: &'static str, read: impl FnOnce(&At<'_>) -> Option<T>) -> Field<T> {
        self.known.push(key);
        match self.at.node.get(key) {
            Some(node) if !node.is_null() => {
                let at = At { cx: self.at.cx, node, up: Some(self.at), step: Step::Key(key) };
                read(&at).map_or(Field::Invalid, Field::Value)
            }
            _ => Field::Absent,
        }
    }

    pub(crate) fn with<T>(&mut self, key: &'static str, read: impl FnOnce(&At<'_>) -> Option<T>) -> Option<T> {
        self.field(key, read).value()
    }

    pub(crate) fn get<T: Decode>(&mut self, key: &'static str) -> Option<T> {
        self.with(key, T::decode)
    }

    pub(crate) fn or<T: Decode>(&mut self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// The value of a key that has to be there.
    pub(crate) fn require<T: Decode>(&mut self, key: &'static str) -> Option<T> {
        self.require_with(key, T::decode)
    }

    pub(crate) fn require_with<T>(&mut self, key: &'static str, read: impl FnOnce(&At<'_>) -> Option<T>) -> Option<T> {
        match self.field(key, read) {
            Field::Value(value) => Some(value),
            Field::Invalid => None,
            Field::Absent => {
                self.missing(key);
                None
            }
        }
    }

    pub(crate) fn missing(&self, key: &'static str) {
        self.problem(key, "is required");
    }

    /// Whether the key is there with a value; does not count as asking for it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.at.node.get(key).is_some_and(|n| !n.is_null())
    }

    pub(crate) fn int(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        self.with(key, |at| at.int(&range))
    }

    pub(crate) fn size(&mut self, key: &'static str, min: i64) -> Option<usize> {
        self.int(key, min..=MAX_INT).map(|n| n as usize)
    }

    pub(crate) fn count(&mut self, key: &'static str, min: i64) -> Option<u32> {
        self.int(key, min..=MAX_INT).map(|n| n as u32)
    }

    pub(crate) fn millis(&mut self, key: &'static str, min: i64) -> Option<Duration> {
        self.int(key, min..=MAX_INT).map(|n| Duration::from_millis(n as u64))
    }

    pub(crate) fn seconds(&mut self, key: &'static str, min: i64) -> Option<Duration> {
        self.int(key, min..=MAX_INT).map(|n| Duration::from_secs(n as u64))
    }

    /// [`size`](Self::size), with a default.
    pub(crate) fn size_or(&mut self, key: &'static str, min: i64, default: usize) -> usize {
        self.size(key, min).unwrap_or(default)
    }

    /// [`seconds`](Self::seconds), with a default.
    pub(crate) fn seconds_or(&mut self, key: &'static str, min: i64, default: Duration) -> Duration {
        self.seconds(key, min).unwrap_or(default)
    }

    pub(crate) fn number(&mut self, key: &'static str, what: &str, valid: impl FnOnce(f64) -> bool) -> Option<f64> {
        self.with(key, |at| at.number(what, valid))
    }

    /// The value of `kind`, one of `kinds`; `default` if it is absent.
    pub(crate) fn kind(
        &mut self,
        key: &'static str,
        kinds: &[&'static str],
        default: Option<&'static str>,
    ) -> Option<&'static str> {
        let name = self.name;
        let read = |at: &At<'_>| {
            let found = at.text()?;
            let known = kinds.iter().copied().find(|k| *k == found);
            if known.is_none() {
                at.problem(hint::unknown_kind(name, key, found, kinds));
            }
            known
        };
        match (self.field(key, read), default) {
            (Field::Value(kind), _) => Some(kind),
            (Field::Absent, Some(default)) => Some(default),
            (Field::Absent, None) => {
                self.problem(key, format!("is required: one of {}", kinds.join(", ")));
                None
            }
            (Field::Invalid, _) => None,
        }
    }

    /// Records a problem of a key, at the key's value if it is there, else at the section.
    pub(crate) fn problem(&self, key: &str, message: impl Into<String>) {
        let node = self.at.node.get(key).unwrap_or(self.at.node);
        let at = At { cx: self.at.cx, node, up: Some(self.at), step: Step::Key(key) };
        at.problem(message);
    }

    /// Records that a key, if it is there, has no business here.
    pub(crate) fn refuse(&mut self, key: &'static str, why: &str) {
        if self.has(key) {
            self.known.push(key);
            self.problem(key, why);
        }
    }

    /// Records the keys that nobody asked for.
    pub(crate) fn finish(self) {
        let Value::Map(entries) = &self.at.node.value else {
            return;
        };
        for entry in entries.iter().filter(|e| !self.known.contains(&e.key.as_str())) {
            let at = At { cx: self.at.cx, node: &entry.value, up: Some(self.at), step: Step::Key(&entry.key) };
            let message = hint::unknown_key(self.name, &entry.key, &self.known);
            self.at.cx.record(entry.at, at.key(), message);
        }
    }
}

impl Decode for String {
    fn decode(at: &At<'_>) -> Option<Self> {
        at.text().map(str::to_owned)
    }
}

impl Decode for bool {
    fn decode(at: &At<'_>) -> Option<Self> {
        let found = at.scalar().and_then(|s| boolean(&s.text));
        if found.is_some() { found } else { at.expected("true or false") }
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(at: &At<'_>) -> Option<Self> {
        at.list(T::decode)
    }
}

//! YAML text to a tree, by the events of `saphyr-parser`.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::{
    error::Position,
    node::{Entry, MAX_DEPTH, MAX_KEYS, MAX_NODES, MAX_TEXT, Malformed, Node, Scalar, Value},
};

/// Reads the one document of `text`.
///
/// Repeated keys are recorded in `repeated` and the first value stays, so that the rest can still be checked.
pub(crate) fn parse(text: &str, repeated: &mut Vec<Malformed>) -> Result<Node, Malformed> {
    let mut builder = Builder {
        lines: text.lines().collect(),
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        nodes: 0,
        text: 0,
        repeated,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| malformed(position(*e.marker()), e.info()))?;
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                return Err(malformed(position(span.start), "the file holds more than one document"));
            }
        }
        builder.on(event, span)?;
    }
    let start = Position { line: 1, column: 1 };
    builder.root.ok_or_else(|| malformed(start, "the file is empty"))
}

struct Builder<'a> {
    lines: Vec<&'a str>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchor>,
    /// Nodes and bytes of text so far, aliases expanded.
    nodes: usize,
    text: usize,
    repeated: &'a mut Vec<Malformed>,
}

/// A list or map whose end has not come yet.
struct Open {
    at: Position,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Position)> },
}

struct Anchor {
    node: Node,
    nodes: usize,
    text: usize,
}

impl Builder<'_> {
    fn on(&mut self, event: Event<'_>, span: Span) -> Result<(), Malformed> {
        let at = position(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let mut plain = style == ScalarStyle::Plain;
                plain &= !check_tag(tag.as_deref(), at)?;
                let pieces = self.pieces(&text, style, at);
                let value = Value::Scalar(Scalar { text: text.into_owned(), plain, pieces });
                self.add(Node { at, value }, anchor)
            }
            Event::Alias(id) => {
                // An anchor that is still open is not there yet, so a value cannot hold itself.
                let Some(anchor) = self.anchors.get(&id) else {
                    return Err(malformed(at, "the alias refers to a value that contains it"));
                };
                let (nodes, text) = (anchor.nodes, anchor.text);
                self.count(nodes, text, at)?;
                let node = self.anchors[&id].node.clone();
                self.place(node)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(at, anchor, Items::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(at, anchor, Items::Map { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("an end follows its start");
                let value = match open.items {
                    Items::List(items) => Value::List(items),
                    Items::Map { entries, .. } => Value::Map(entries),
                };
                self.add(Node { at: open.at, value }, open.anchor)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: Position, anchor: usize, items: Items) -> Result<(), Malformed> {
        if self.open.len() >= MAX_DEPTH {
            return Err(malformed(at, &format!("values nest more than {MAX_DEPTH} deep")));
        }
        if let Some(Open { items: Items::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(malformed(at, "a key must be text, not a list or a map"));
        }
        self.open.push(Open { at, anchor, items });
        Ok(())
    }

    /// A value that was just read: counted, kept if it has an anchor, put in its place.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Malformed> {
        let own_text = if let Value::Scalar(s) = &node.value { s.text.len() } else { 0 };
        self.count(1, own_text, node.at)?;
        if anchor > 0 {
            let (nodes, text) = node.size();
            self.count(nodes, text, node.at)?;
            self.anchors.insert(anchor, Anchor { node: node.clone(), nodes, text });
        }
        self.place(node)
    }

    fn count(&mut self, nodes: usize, text: usize, at: Position) -> Result<(), Malformed> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.text = self.text.saturating_add(text);
        if self.nodes > MAX_NODES {
            return Err(malformed(at, &format!("the file holds more than {MAX_NODES} values, aliases expanded")));
        }
        if self.text > MAX_TEXT {
            return Err(malformed(at, &format!("the file holds more than {MAX_TEXT} bytes, aliases expanded")));
        }
        Ok(())
    }

    fn place(&mut self, node: Node) -> Result<(), Malformed> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.items {
            Items::List(items) => items.push(node),
            Items::Map { entries, key } => {
                let Some((name, at)) = key.take() else {
                    let Value::Scalar(scalar) = node.value else {
                        return Err(malformed(node.at, "a key must be text, not a list or a map"));
                    };
                    *key = Some((scalar.text, node.at));
                    return Ok(());
                };
                if entries.len() >= MAX_KEYS {
                    return Err(malformed(at, &format!("a map with more than {MAX_KEYS} keys")));
                }
                match entries.iter().find(|e| e.key == name) {
                    Some(first) => self.repeated.push(twice(&name, at, first.at)),
                    None => entries.push(Entry { key: name, at, value: node }),
                }
            }
        }
        Ok(())
    }

    /// Where the lines of a scalar stand, as far as they read in the file as they do in the text.
    fn pieces(&self, text: &str, style: ScalarStyle, at: Position) -> Vec<(usize, Position)> {
        let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
        let mut column = at.column + u32::from(quoted);
        let mut pieces = Vec::new();
        let mut offset = 0;
        for (line, source) in (at.line..).zip(self.lines.iter().skip(at.line as usize - 1)) {
            let start = byte_of(source, std::mem::replace(&mut column, 1));
            let content = source[start..].trim_start();
            let indent = source.len() - content.len();
            let content = content.trim_end();
            offset += text[offset..].len() - text[offset..].trim_start().len();
            let rest = &text[offset..];
            if rest.is_empty() {
                break;
            }
            if content.is_empty() {
                continue;
            }
            let column = 1 + u32::try_from(source[..indent].chars().count()).unwrap_or(u32::MAX - 1);
            let whole = rest.starts_with(content);
            // The last line may go on with a quote or a comment.
            if whole || content.starts_with(rest.trim_end()) {
                pieces.push((offset, Position { line, column }));
            }
            if !whole {
                break;
            }
            offset += content.len();
        }
        pieces
    }
}

/// Whether the tag makes the scalar a string. Tags of YAML itself are let through, others refused.
fn check_tag(tag: Option<&Tag>, at: Position) -> Result<bool, Malformed> {
    let Some(tag) = tag else {
        return Ok(false);
    };
    if tag.is_yaml_core_schema() {
        return Ok(tag.suffix == "str");
    }
    if tag.handle.is_empty() && tag.suffix == "!" {
        return Ok(true);
    }
    Err(malformed(at, &format!("the tag '{tag}' means nothing here")))
}

pub(crate) fn twice(key: &str, at: Position, first: Position) -> Malformed {
    let key = super::node::shorten(key);
    malformed(at, &format!("the key '{key}' is here twice, first on line {}", first.line))
}

fn malformed(at: Position, message: &str) -> Malformed {
    Malformed { at, message: message.to_owned() }
}

fn position(marker: Marker) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: number(marker.line().max(1)), column: number(marker.col() + 1) }
}

/// The byte at which the column of this line begins, or its length.
fn byte_of(line: &str, column: u32) -> usize {
    line.char_indices().nth(column as usize - 1).map_or(line.len(), |(i, _)| i)
}

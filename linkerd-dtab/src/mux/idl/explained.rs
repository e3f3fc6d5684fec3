//! Explanations of how a name is bound: as bound trees a root and a map of the other nodes by number, each with a name
//! and the entry of the table that led to it.

use std::collections::HashMap;

use super::{
    bound_name, numbers, numbers_from, path, read_bound_name, read_path, read_shares, shares, text,
    tree::{MAX_DEPTH, MAX_NODES, nothing},
};
use crate::{
    Path,
    mux::thrift::{Kind, Malformed, Reader, Writer},
};

/// What stands for no entry. It has to parse: its prefix is one element, a slash.
pub(crate) const NO_ENTRY: &str = r"/\x2f=>~";

/// A step, and those that it leads to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explained {
    pub(crate) path: Path,
    /// Its canonical text, or [`NO_ENTRY`].
    pub(crate) dentry: String,
    pub(crate) content: Box<Content<Explained>>,
}

/// What became of a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content<T> {
    Error(String),
    Empty,
    Fail,
    Neg,
    Delegate(T),
    Leaf {
        id: Path,
        residual: Path,
    },
    /// It has not been looked up: the question.
    Path(Path),
    Alt(Vec<T>),
    Union(Vec<(f64, T)>),
    Transformed {
        id: Path,
        residual: Path,
        to: T,
    },
}

/// A step whose children are numbers.
struct Flat {
    path: Path,
    dentry: String,
    content: Content<i32>,
}

impl Explained {
    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        // The nodes that have numbers, in the order of these.
        let mut nodes = Vec::new();
        writer.field(1, Kind::Struct);
        self.write_node(writer, &mut nodes);
        writer.field(2, Kind::Map);
        writer.numbered(|writer, number| {
            let Some(node) = nodes.get(number).copied() else { return false };
            Self::write_node(node, writer, &mut nodes);
            true
        });
        writer.end();
    }

    fn write_node<'a>(&'a self, writer: &mut Writer<'_>, nodes: &mut Vec<&'a Self>) {
        path(writer, 1, &self.path);
        text(writer, 2, self.dentry.as_bytes());
        writer.field(3, Kind::Struct);
        let own = numbers_from(nodes.len());
        match &*self.content {
            Content::Error(message) => text(writer, 1, message.as_bytes()),
            Content::Empty => nothing(writer, 2),
            Content::Fail => nothing(writer, 3),
            Content::Neg => nothing(writer, 4),
            Content::Delegate(to) => {
                nodes.push(to);
                writer.field(5, Kind::I32);
                writer.i32(own.start);
            }
            Content::Leaf { id, residual } => bound_name(writer, 6, (id, residual)),
            Content::Path(name) => path(writer, 7, name),
            Content::Alt(children) => {
                nodes.extend(children);
                let numbered: Vec<_> = children.iter().zip(own).map(|(_, number)| number).collect();
                numbers(writer, 8, numbered.into_iter());
            }
            Content::Union(branches) => {
                nodes.extend(branches.iter().map(|(_, node)| node));
                let numbered: Vec<_> = branches.iter().zip(own).map(|((weight, _), n)| (*weight, n)).collect();
                shares(writer, 9, numbered.into_iter());
            }
            Content::Transformed { id, residual, to } => {
                nodes.push(to);
                writer.field(10, Kind::Struct);
                bound_name(writer, 1, (id, residual));
                writer.field(2, Kind::I32);
                writer.i32(own.start);
                writer.end();
            }
        }
        writer.end();
        writer.end();
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mut root, mut nodes) = (None, HashMap::new());
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Struct) => root = Some(Flat::read(reader)?),
                (2, Kind::Map) => nodes = reader.numbered(Flat::read)?.into_iter().collect(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let mut left = MAX_NODES;
        root.ok_or(Malformed::Field("root"))?.unfold(&nodes, 0, &mut left)
    }
}

impl Flat {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mut path, mut dentry, mut content) = (Path::empty(), String::new(), None);
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::List) => path = read_path(reader)?,
                (2, Kind::Text) => reader.text()?.clone_into(&mut dentry),
                (3, Kind::Struct) => content = read_content(reader)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { path, dentry, content: content.ok_or(Malformed::Field("content"))? })
    }

    fn unfold(&self, nodes: &HashMap<i32, Self>, depth: usize, left: &mut usize) -> Result<Explained, Malformed> {
        if depth == MAX_DEPTH {
            return Err(Malformed::TooMuch("500 levels"));
        }
        *left = left.checked_sub(1).ok_or(Malformed::TooMuch("100,000 nodes"))?;
        let mut child = |number: &i32| {
            let node = nodes.get(number).ok_or(Malformed::NoNode(*number))?;
            node.unfold(nodes, depth + 1, left)
        };
        let content = match &self.content {
            Content::Error(message) => Content::Error(message.clone()),
            Content::Empty => Content::Empty,
            Content::Fail => Content::Fail,
            Content::Neg => Content::Neg,
            Content::Delegate(to) => Content::Delegate(child(to)?),
            Content::Leaf { id, residual } => Content::Leaf { id: id.clone(), residual: residual.clone() },
            Content::Path(name) => Content::Path(name.clone()),
            Content::Alt(numbers) => Content::Alt(numbers.iter().map(child).collect::<Result<_, _>>()?),
            Content::Union(shares) => Content::Union(
                shares.iter().map(|(weight, number)| Ok((*weight, child(number)?))).collect::<Result<_, _>>()?,
            ),
            Content::Transformed { id, residual, to } => {
                Content::Transformed { id: id.clone(), residual: residual.clone(), to: child(to)? }
            }
        };
        Ok(Explained { path: self.path.clone(), dentry: self.dentry.clone(), content: Box::new(content) })
    }
}

fn read_content(reader: &mut Reader<'_>) -> Result<Option<Content<i32>>, Malformed> {
    let mut content = None;
    reader.fields(|reader, id, kind| {
        let (read, is_read) = match (id, kind) {
            (1, Kind::Text) => (Content::Error(String::from_utf8_lossy(reader.bytes()?).into_owned()), true),
            (2, Kind::Struct) => (Content::Empty, false),
            (3, Kind::Struct) => (Content::Fail, false),
            (4, Kind::Struct) => (Content::Neg, false),
            (5, Kind::I32) => (Content::Delegate(reader.i32()?), true),
            (6, Kind::Struct) => {
                let (id, residual) = read_bound_name(reader)?;
                (Content::Leaf { id, residual }, true)
            }
            (7, Kind::List) => (Content::Path(read_path(reader)?), true),
            (8, Kind::List) => (Content::Alt(reader.list(Kind::I32, Reader::i32)?), true),
            (9, Kind::List) => (Content::Union(read_shares(reader)?), true),
            (10, Kind::Struct) => (read_transformed(reader)?, true),
            _ => return Ok(false),
        };
        content = Some(read);
        Ok(is_read)
    })?;
    Ok(content)
}

fn read_transformed(reader: &mut Reader<'_>) -> Result<Content<i32>, Malformed> {
    let (mut bound, mut to) = ((Path::empty(), Path::empty()), None);
    reader.fields(|reader, id, kind| {
        match (id, kind) {
            (1, Kind::Struct) => bound = read_bound_name(reader)?,
            (2, Kind::I32) => to = Some(reader.i32()?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (id, residual) = bound;
    Ok(Content::Transformed { id, residual, to: to.ok_or(Malformed::Field("node's number"))? })
}

/// What is to be explained: a tree whose root is a name that has not been looked up.
pub(super) fn write_question(writer: &mut Writer<'_>, name: &Path) {
    let content = Box::new(Content::Path(name.clone()));
    Explained { path: name.clone(), dentry: NO_ENTRY.to_owned(), content }.write(writer);
}

/// The name that is to be explained. The entries say nothing here and need not parse, unlike namerd's.
pub(super) fn read_question(reader: &mut Reader<'_>) -> Result<Option<Path>, Malformed> {
    let mut root = None;
    reader.fields(|reader, id, kind| {
        let is_root = (id, kind) == (1, Kind::Struct);
        if is_root {
            root = Some(Flat::read(reader)?);
        }
        Ok(is_root)
    })?;
    Ok(match root {
        Some(Flat { content: Content::Path(path), .. }) => Some(path),
        _ => None,
    })
}

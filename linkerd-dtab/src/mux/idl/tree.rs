//! Bound trees: the root, and a map of the other nodes by number.

use std::collections::HashMap;

use super::{bound_name, numbers, numbers_from, read_bound_name, read_shares, shares};
use crate::{
    NameTree, Path, Weighted,
    mux::thrift::{Kind, Malformed, Reader, Writer},
};

/// How deep a tree may nest, and how many nodes it may have once those that are shared are counted for each place.
pub(super) const MAX_DEPTH: usize = 500;
pub(super) const MAX_NODES: usize = 100_000;

/// A node whose children are numbers.
enum Flat<T> {
    Alt(Vec<i32>),
    Union(Vec<(f64, i32)>),
    Tree(NameTree<T>),
}

pub(super) fn write<'a, T>(
    writer: &mut Writer<'_>,
    tree: &'a NameTree<T>,
    leaf: impl Fn(&'a T) -> (&'a Path, &'a Path),
) {
    // The nodes that have numbers, in the order of these.
    let mut nodes = Vec::new();
    writer.field(1, Kind::Struct);
    write_node(writer, tree, &leaf, &mut nodes);
    writer.field(2, Kind::Map);
    writer.numbered(|writer, number| {
        let Some(node) = nodes.get(number).copied() else { return false };
        write_node(writer, node, &leaf, &mut nodes);
        true
    });
    writer.end();
}

fn write_node<'a, T>(
    writer: &mut Writer<'_>,
    tree: &'a NameTree<T>,
    leaf: &impl Fn(&'a T) -> (&'a Path, &'a Path),
    nodes: &mut Vec<&'a NameTree<T>>,
) {
    let own = numbers_from(nodes.len());
    match tree {
        NameTree::Neg => nothing(writer, 1),
        NameTree::Empty => nothing(writer, 2),
        NameTree::Fail => nothing(writer, 3),
        NameTree::Leaf(bound) => bound_name(writer, 4, leaf(bound)),
        NameTree::Alt(trees) => {
            nodes.extend(trees);
            numbers(writer, 5, trees.iter().zip(own).map(|(_, number)| number).collect::<Vec<_>>().into_iter());
        }
        NameTree::Union(branches) => {
            nodes.extend(branches.iter().map(|branch| &branch.tree));
            let of_number = branches.iter().zip(own).map(|(branch, number)| (branch.weight, number));
            shares(writer, 6, of_number.collect::<Vec<_>>().into_iter());
        }
    }
    writer.end();
}

pub(super) fn read<T: Clone>(
    reader: &mut Reader<'_>,
    leaf: &impl Fn(Path, Path) -> T,
) -> Result<NameTree<T>, Malformed> {
    let (mut root, mut nodes) = (None, HashMap::new());
    reader.fields(|reader, id, kind| {
        match (id, kind) {
            (1, Kind::Struct) => root = Some(read_node(reader, leaf)?),
            (2, Kind::Map) => nodes = reader.numbered(|reader| read_node(reader, leaf))?.into_iter().collect(),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let mut left = MAX_NODES;
    unfold(&root.ok_or(Malformed::Field("root"))?, &nodes, 0, &mut left)
}

fn read_node<T>(reader: &mut Reader<'_>, leaf: &impl Fn(Path, Path) -> T) -> Result<Flat<T>, Malformed> {
    let mut node = None;
    reader.fields(|reader, id, kind| {
        let read = match (id, kind) {
            (1, Kind::Struct) => Flat::Tree(NameTree::Neg),
            (2, Kind::Struct) => Flat::Tree(NameTree::Empty),
            (3, Kind::Struct) => Flat::Tree(NameTree::Fail),
            (4, Kind::Struct) => {
                let (id, residual) = read_bound_name(reader)?;
                node = Some(Flat::Tree(NameTree::Leaf(leaf(id, residual))));
                return Ok(true);
            }
            (5, Kind::List) => {
                node = Some(Flat::Alt(reader.list(Kind::I32, Reader::i32)?));
                return Ok(true);
            }
            (6, Kind::List) => {
                node = Some(Flat::Union(read_shares(reader)?));
                return Ok(true);
            }
            _ => return Ok(false),
        };
        // An empty struct, which is skipped.
        node = Some(read);
        Ok(false)
    })?;
    node.ok_or(Malformed::Field("node"))
}

fn unfold<T: Clone>(
    node: &Flat<T>,
    nodes: &HashMap<i32, Flat<T>>,
    depth: usize,
    left: &mut usize,
) -> Result<NameTree<T>, Malformed> {
    if depth == MAX_DEPTH {
        return Err(Malformed::TooMuch("500 levels"));
    }
    *left = left.checked_sub(1).ok_or(Malformed::TooMuch("100,000 nodes"))?;
    let mut child = |number: &i32| {
        let node = nodes.get(number).ok_or(Malformed::NoNode(*number))?;
        unfold(node, nodes, depth + 1, left)
    };
    Ok(match node {
        Flat::Tree(tree) => tree.clone(),
        Flat::Alt(numbers) => NameTree::Alt(numbers.iter().map(child).collect::<Result<_, _>>()?),
        Flat::Union(shares) => NameTree::Union(
            shares
                .iter()
                .map(|(weight, number)| Ok(Weighted::new(*weight, child(number)?)))
                .collect::<Result<_, _>>()?,
        ),
    })
}

/// A field that is an empty struct.
pub(super) fn nothing(writer: &mut Writer<'_>, id: i16) {
    writer.field(id, Kind::Struct);
    writer.end();
}

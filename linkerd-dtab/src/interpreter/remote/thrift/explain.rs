//! Explanations that came over thrift.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    Activity, Addr, Bound, Delegation, Dentry, Element, NameTree, Path,
    delegate::{Entry, Node, Step},
    mux::idl::{Content, Explained},
};

/// Why a step failed, in namerd's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

/// The bound names, each once.
pub(super) fn ids(explained: &Explained) -> HashSet<Path> {
    let (mut ids, mut todo) = (HashSet::new(), vec![explained]);
    while let Some(node) = todo.pop() {
        match &*node.content {
            Content::Delegate(to) | Content::Transformed { to, .. } => todo.push(to),
            Content::Alt(nodes) => todo.extend(nodes),
            Content::Union(branches) => todo.extend(branches.iter().map(|(_, node)| node)),
            Content::Leaf { id, .. } => _ = ids.insert(id.clone()),
            Content::Error(_) | Content::Empty | Content::Fail | Content::Neg | Content::Path(_) => {}
        }
    }
    ids
}

/// The explanation, with the addresses of its bound names.
pub(super) fn delegation(explained: Explained, addrs: &HashMap<Path, Activity<Addr>>) -> Delegation {
    Delegation::of_steps(node(explained, addrs))
}

fn node(Explained { path, dentry, content }: Explained, addrs: &HashMap<Path, Activity<Addr>>) -> Node {
    let step = match *content {
        Content::Error(text) => Step::Failed(Arc::new(Failed(text))),
        Content::Empty => Step::Empty,
        Content::Fail => Step::Fail,
        Content::Neg => Step::Neg,
        Content::Delegate(to) => Step::Delegate { to: Box::new(node(to, addrs)), namers: None },
        Content::Leaf { id, residual } => Step::Leaf(bound(id, residual, addrs)),
        Content::Path(_) => Step::Pending,
        Content::Alt(nodes) => Step::Alt(nodes.into_iter().map(|child| node(child, addrs)).collect()),
        Content::Union(branches) => {
            Step::Union(branches.into_iter().map(|(weight, child)| (weight, node(child, addrs))).collect())
        }
        Content::Transformed { id, residual, to } => {
            let name = "transformer".to_owned();
            Step::Transformed { name, bound: bound(id, residual, addrs), to: Box::new(node(to, addrs)) }
        }
    };
    Node { path, dentry: entry(&dentry), step }
}

fn bound(id: Path, residual: Path, addrs: &HashMap<Path, Activity<Addr>>) -> Bound {
    // What a transformer has replaced has no address of its own here.
    let addr = addrs.get(&id).cloned().unwrap_or_else(|| Activity::value(Addr::Neg));
    Bound::new(id, residual, addr)
}

// What does not parse is no entry; nor is what stands for none, whose prefix is a slash, or nothing.
fn entry(text: &str) -> Option<Entry> {
    let entry: Dentry = text.parse().ok()?;
    let is_slash = |element: &Element| matches!(element, Element::Label(label) if **label == *b"/");
    let is_none = entry.dst == NameTree::Neg && entry.prefix.elements().iter().all(is_slash);
    (!is_none).then(|| entry.into())
}

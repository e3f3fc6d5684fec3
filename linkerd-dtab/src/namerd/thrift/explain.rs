//! Explanations, as far as thrift can say them.

use crate::{
    Bound, Path,
    delegate::{Delegation, MAX_JSON, Node, Step},
    mux::idl::{Content, Explained, NO_ENTRY},
    namer::status_code,
};

/// The steps that Linkerd shows.
pub(super) fn explained(delegation: &Delegation) -> Result<Explained, String> {
    let root = delegation.linkerds().map_err(|error| error.to_string())?;
    let mut left = MAX_JSON;
    explain(&root, &mut left).ok_or_else(|| format!("the explanation takes more than {MAX_JSON} bytes"))
}

// `None` if there is more than may be left: each step repeats its name and its entry.
fn explain(node: &Node, left: &mut usize) -> Option<Explained> {
    let Node { path, dentry, step } = node;
    let dentry = dentry.as_ref().map_or_else(|| NO_ENTRY.to_owned(), |entry| format!("{:#}", **entry));
    let size = 32 + dentry.len() + path.iter().map(|element| element.len() + 4).sum::<usize>();
    *left = left.checked_sub(size)?;
    let mut child = |node: &Node| explain(node, left);
    let content = match step {
        Step::Rewritten(to) => return child(to),
        Step::Delegate { to, .. } => Content::Delegate(child(to)?),
        Step::Alt(nodes) => Content::Alt(nodes.iter().map(child).collect::<Option<_>>()?),
        Step::Union(branches) => {
            Content::Union(branches.iter().map(|(weight, node)| Some((*weight, child(node)?))).collect::<Option<_>>()?)
        }
        Step::Leaf(bound) => Content::Leaf { id: id(bound, path), residual: bound.residual.clone() },
        Step::Neg => Content::Neg,
        Step::Fail => Content::Fail,
        Step::Empty => Content::Empty,
        Step::Failed(error) => Content::Error(error.to_string()),
        Step::Pending => Content::Error("Request timed out.".to_owned()),
        Step::Transformed { bound, to, .. } => {
            Content::Transformed { id: bound.id.clone(), residual: bound.residual.clone(), to: child(to)? }
        }
    };
    Some(Explained { path: path.clone(), dentry, content: Box::new(content) })
}

// What has no address of its own has no id in Linkerd, which shows the name instead.
fn id(bound: &Bound, path: &Path) -> Path {
    if status_code(&bound.id).is_some() { path.clone() } else { bound.id.clone() }
}

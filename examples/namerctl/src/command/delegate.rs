//! `delegate`: how a name is resolved, as a tree.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    cli::DelegateArgs,
    error::{Error, Outcome},
    namerd::{Namerd, encoded},
    table::Entry,
};

/// How deep a tree is shown.
const MAX_DEPTH: usize = 500;

/// A node. Its children stay text until they are shown: a parser would give up on deep trees, which is what cycles make.
#[derive(Deserialize)]
struct Node<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
    dentry: Option<Entry>,
    message: Option<String>,
    name: Option<String>,
    #[serde(borrow)]
    bound: Option<&'a RawValue>,
    #[serde(borrow)]
    delegate: Option<&'a RawValue>,
    #[serde(borrow)]
    tree: Option<&'a RawValue>,
    #[serde(borrow)]
    alt: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    union: Option<Vec<Branch<'a>>>,
}

#[derive(Deserialize)]
struct Branch<'a> {
    weight: f64,
    #[serde(borrow)]
    tree: &'a RawValue,
}

#[derive(Deserialize)]
struct Bound {
    id: String,
    #[serde(default)]
    path: String,
    addr: Option<Addr>,
}

#[derive(Deserialize)]
struct Addr {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    addrs: Vec<Endpoint>,
    cause: Option<String>,
}

#[derive(Deserialize)]
struct Endpoint {
    ip: String,
    port: u16,
}

pub(super) async fn delegate(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &DelegateArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    let (Some(name), Some(path), true) = (&args.name, &args.path, args.rest.is_empty()) else {
        return Err(Error::Words("delegate requires a name and a path"));
    };
    let namerd = connect()?;
    let dtab = args.dtab.as_ref().map_or_else(String::new, |dtab| format!("&dtab={}", encoded(dtab)));
    // namerd answers for a table that is not there as for one that is empty.
    namerd.get(name).await?;
    let answer = namerd.read("delegate", name, &format!("?path={}{dtab}", encoded(path))).await?;
    if as_json {
        return Ok(Outcome::ok(String::from_utf8_lossy(&answer.body).trim_end().to_owned() + "\n"));
    }
    let tree: &RawValue = serde_json::from_slice(&answer.body).map_err(|error| bad(&error))?;
    Ok(Outcome::ok(show(tree)?))
}

fn bad(error: &serde_json::Error) -> Error {
    Error::BadAnswer(format!("a tree that is not as expected: {error}"))
}

/// A line for each node, below the one that it comes from. Deep trees are no reason for a deep stack.
fn show(tree: &RawValue) -> Result<String, Error> {
    let mut text = String::new();
    let mut nodes = vec![(tree, String::new(), 0)];
    while let Some((tree, weight, depth)) = nodes.pop() {
        let indent = "  ".repeat(depth);
        if depth > MAX_DEPTH {
            let _ = writeln!(text, "{indent}... more than {MAX_DEPTH} levels: --json has the whole");
            continue;
        }
        let node: Node<'_> = serde_json::from_str(tree.get()).map_err(|error| bad(&error))?;
        let _ = writeln!(text, "{indent}{weight}{}", line(&node)?);
        let children = node.delegate.into_iter().chain(node.tree).chain(node.alt.into_iter().flatten());
        let branches = node.union.into_iter().flatten();
        let below = children
            .map(|tree| (tree, String::new(), depth + 1))
            .chain(branches.map(|Branch { weight, tree }| (tree, format!("{weight:.2} * "), depth + 1)));
        let first = nodes.len();
        nodes.extend(below);
        nodes[first..].reverse();
    }
    Ok(text)
}

/// The name, by which rule it came, and what became of it.
fn line(node: &Node<'_>) -> Result<String, Error> {
    let by = node.dentry.as_ref().map_or_else(String::new, |Entry { prefix, dst }| format!("  ({prefix} => {dst})"));
    let outcome = match &*node.kind {
        "neg" => "  ~ nothing there".into(),
        "empty" => "  $ no endpoints".into(),
        "fail" => "  ! fails".into(),
        "exception" => format!("  failed: {}", node.message.as_deref().unwrap_or("unknown")),
        "transformation" => format!("  transformed by {}", node.name.as_deref().unwrap_or("?")),
        "leaf" => match node.bound {
            Some(bound) => leaf(&serde_json::from_str(bound.get()).map_err(|error| bad(&error))?),
            None => String::new(),
        },
        _ => String::new(),
    };
    Ok(format!("{}{by}{outcome}", node.path))
}

fn leaf(bound: &Bound) -> String {
    let residual =
        if bound.path == "/" || bound.path.is_empty() { String::new() } else { format!(", rest {}", bound.path) };
    let to = match &bound.addr {
        Some(Addr { kind, addrs, .. }) if kind == "bound" => {
            let endpoint = |Endpoint { ip, port }: &Endpoint| {
                if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
            };
            let addrs: Vec<_> = addrs.iter().map(endpoint).collect();
            if addrs.is_empty() { "no endpoints".into() } else { addrs.join(" ") }
        }
        Some(Addr { kind, cause: Some(cause), .. }) => format!("{kind}: {cause}"),
        Some(Addr { kind, .. }) => kind.clone(),
        None => "unknown".into(),
    };
    format!("  = {}{residual}: {to}", bound.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        show(serde_json::from_str(json).expect("JSON")).expect("a tree")
    }

    #[test]
    fn a_tree_is_indented_with_the_rule_of_each_step() {
        let tree = r#"{"type":"delegate","path":"/svc/w","delegate":
            {"type":"union","path":"/host/w","dentry":{"prefix":"/svc","dst":"/host"},"union":[
                {"weight":1.0,"tree":{"type":"leaf","path":"/#/fs/w1/a","dentry":{"prefix":"/host/w","dst":"/x"},
                    "bound":{"addr":{"type":"bound","addrs":[{"ip":"::1","port":8,"meta":{}},{"ip":"1.2.3.4","port":9,"meta":{}}],"meta":{}},"id":"/#/fs/w1","path":"/a"}}},
                {"weight":9.0,"tree":{"type":"alt","path":"/b","alt":[
                    {"type":"neg","path":"/c"},{"type":"exception","path":"/d","message":"too deep"}]}}]}}"#;
        let text = "\
/svc/w
  /host/w  (/svc => /host)
    1.00 * /#/fs/w1/a  (/host/w => /x)  = /#/fs/w1, rest /a: [::1]:8 1.2.3.4:9
    9.00 * /b
      /c  ~ nothing there
      /d  failed: too deep
";
        assert_eq!(shown(tree), text);
    }

    #[test]
    fn a_tree_as_deep_as_a_cycle_is_shown_to_its_limit() {
        let deep = |levels: usize| {
            let open = r#"{"type":"delegate","path":"/a","delegate":"#.repeat(levels);
            format!(r#"{open}{{"type":"neg","path":"/a"}}{}"#, "}".repeat(levels))
        };
        assert_eq!(shown(&deep(200)).lines().count(), 201);
        let text = shown(&deep(600));
        assert!(text.ends_with("... more than 500 levels: --json has the whole\n"), "{text}");
    }
}

//! Explanations and bound trees as the JSON that Linkerd's admin pages and namerd's HTTP API show.
//!
//! Written by hand, which is less than a dependency: the shapes are few and fixed.

use std::fmt::{self, Display, Write as _};

use super::{Delegation, Entry, Node, Step, view::TooDeep};
use crate::{Activity, Addr, Bound, Dentry, Endpoint, NameTree, Path, State, namer::status_code};

/// The longest JSON of an explanation, in bytes: 4 MiB. Each step repeats its name and its entry.
pub const MAX_JSON: usize = 4 << 20;

/// Why an explanation is not shown as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The name itself, not only a branch of it, delegates without end. The text is Linkerd's.
    #[error("{TooDeep}")]
    TooDeep,
    /// It takes more than [`MAX_JSON`] bytes.
    #[error("the explanation takes more than {MAX_JSON} bytes")]
    TooLong,
}

impl Delegation {
    /// The explanation as Linkerd's `/delegator.json` has it.
    ///
    /// Addresses are as they are now: [`settled`](super::settled) waits until they are known.
    ///
    /// # Errors
    ///
    /// [`JsonError`]. Linkerd answers 500 then, with an empty body.
    pub fn to_json(&self) -> Result<String, JsonError> {
        let node = self.linkerds().map_err(|TooDeep| JsonError::TooDeep)?;
        let mut json = Bounded(String::new());
        match write!(json, "{}", Shown(|f: &mut fmt::Formatter<'_>| write_node(f, &node))) {
            Ok(()) => Ok(json.0),
            Err(fmt::Error) => Err(JsonError::TooLong),
        }
    }
}

/// A bound tree as namerd's `/api/1/bind` has it, without the newline at the end.
///
/// Addresses are as they are now.
#[must_use]
pub fn bound_json(tree: &NameTree<Bound>) -> String {
    Shown(|f: &mut fmt::Formatter<'_>| write_tree(f, tree)).to_string()
}

/// The address of a bound name as namerd's `/api/1/addr` has it.
#[must_use]
pub fn addr_json(addr: &Activity<Addr>) -> String {
    Shown(|f: &mut fmt::Formatter<'_>| write_addr(f, &addr.sample(), None)).to_string()
}

fn write_node(f: &mut fmt::Formatter<'_>, node: &Node) -> fmt::Result {
    let Node { path, dentry, step } = node;
    let dentry = dentry.as_ref();
    match step {
        Step::Rewritten(to) => write_node(f, to),
        Step::Delegate { to, .. } => {
            head(f, "delegate", path, dentry)?;
            f.write_str(r#","delegate":"#)?;
            write_node(f, to)?;
            f.write_char('}')
        }
        Step::Alt(nodes) => {
            head(f, "alt", path, dentry)?;
            f.write_str(r#","alt":["#)?;
            list(f, nodes, write_node)?;
            f.write_str("]}")
        }
        Step::Union(branches) => {
            head(f, "union", path, dentry)?;
            f.write_str(r#","union":["#)?;
            list(f, branches, |f, (weight, node)| {
                write!(f, r#"{{"weight":{},"tree":"#, Number(*weight))?;
                write_node(f, node)?;
                f.write_char('}')
            })?;
            f.write_str("]}")
        }
        Step::Leaf(bound) => {
            head(f, "leaf", path, dentry)?;
            f.write_str(r#","bound":"#)?;
            // What has no address of its own has no id in Linkerd, which shows the name instead.
            let id = if status_code(&bound.id).is_some() { path } else { &bound.id };
            write_bound(f, bound, id, None)?;
            f.write_char('}')
        }
        Step::Neg if path.is_empty() => tail(f, "neg", &"~", dentry),
        Step::Neg => tail(f, "neg", path, dentry),
        Step::Fail if is_system_fail(path) => tail(f, "fail", path, dentry),
        Step::Fail => tail(f, "fail", &"!", dentry),
        Step::Empty => tail(f, "empty", path, dentry),
        Step::Failed(error) => exception(f, path, dentry, error),
        Step::Pending => exception(f, path, dentry, &"Request timed out."),
        Step::Transformed { name, bound, to } => {
            write!(f, r#"{{"type":"transformation","path":{},"name":{},"bound":"#, Text(path), Text(name))?;
            write_bound(f, bound, &bound.id, None)?;
            f.write_str(r#","tree":"#)?;
            write_node(f, to)?;
            f.write_char('}')
        }
    }
}

fn write_tree(f: &mut fmt::Formatter<'_>, tree: &NameTree<Bound>) -> fmt::Result {
    match tree {
        NameTree::Neg => f.write_str(r#"{"type":"neg"}"#),
        NameTree::Fail => f.write_str(r#"{"type":"fail"}"#),
        NameTree::Empty => f.write_str(r#"{"type":"empty"}"#),
        NameTree::Leaf(bound) => {
            f.write_str(r#"{"type":"leaf","bound":"#)?;
            write_bound(f, bound, &bound.id, bound.weight)?;
            f.write_char('}')
        }
        NameTree::Alt(trees) => {
            f.write_str(r#"{"type":"alt","alt":["#)?;
            list(f, trees, write_tree)?;
            f.write_str("]}")
        }
        NameTree::Union(branches) => {
            f.write_str(r#"{"type":"union","union":["#)?;
            list(f, branches, |f, branch| {
                write!(f, r#"{{"weight":{},"tree":"#, Number(branch.weight))?;
                write_tree(f, &branch.tree)?;
                f.write_char('}')
            })?;
            f.write_str("]}")
        }
    }
}

fn write_bound(f: &mut fmt::Formatter<'_>, bound: &Bound, id: &Path, weight: Option<f64>) -> fmt::Result {
    f.write_str(r#"{"addr":"#)?;
    write_addr(f, &bound.addr.sample(), weight)?;
    write!(f, r#","id":{},"path":{}}}"#, Text(id), Text(&bound.residual))
}

fn write_addr(f: &mut fmt::Formatter<'_>, addr: &State<Addr>, weight: Option<f64>) -> fmt::Result {
    match addr {
        State::Pending => f.write_str(r#"{"type":"pending"}"#),
        State::Failed(error) => write!(f, r#"{{"type":"failed","cause":{}}}"#, Text(error)),
        State::Ok(Addr::Neg) => f.write_str(r#"{"type":"neg"}"#),
        State::Ok(Addr::Bound(endpoints)) => {
            f.write_str(r#"{"type":"bound","addrs":["#)?;
            list(f, endpoints, write_endpoint)?;
            f.write_str(r#"],"meta":{"#)?;
            weight.map_or(Ok(()), |weight| write!(f, r#""namer_nametree_weight":{}"#, Number(weight)))?;
            f.write_str("}}")
        }
    }
}

fn write_endpoint(f: &mut fmt::Formatter<'_>, endpoint: &Endpoint) -> fmt::Result {
    let (ip, port) = (endpoint.addr.ip(), endpoint.addr.port());
    write!(f, r#"{{"ip":"{ip}","port":{port},"meta":{{"#)?;
    let mut separator = "";
    if let Some(authority) = &endpoint.authority {
        write!(f, r#""authority":{}"#, Text(authority))?;
        separator = ",";
    }
    if let Some(node) = &endpoint.node {
        write!(f, r#"{separator}"nodeName":{}"#, Text(node))?;
        separator = ",";
    }
    if endpoint.weight != 1.0 {
        write!(f, r#"{separator}"endpoint_addr_weight":{}"#, Number(endpoint.weight))?;
    }
    f.write_str("}}")
}

fn head(f: &mut fmt::Formatter<'_>, kind: &str, path: &dyn Display, dentry: Option<&Entry>) -> fmt::Result {
    write!(f, r#"{{"type":"{kind}","path":{}"#, Text(path))?;
    let Some(Dentry { prefix, dst }) = dentry.map(|entry| &**entry) else { return Ok(()) };
    write!(f, r#","dentry":{{"prefix":{},"dst":{}}}"#, Text(prefix), Text(dst))
}

fn tail(f: &mut fmt::Formatter<'_>, kind: &str, path: &dyn Display, dentry: Option<&Entry>) -> fmt::Result {
    head(f, kind, path, dentry)?;
    f.write_char('}')
}

fn exception(f: &mut fmt::Formatter<'_>, path: &Path, dentry: Option<&Entry>, message: &dyn Display) -> fmt::Result {
    head(f, "exception", path, dentry)?;
    write!(f, r#","message":{}}}"#, Text(message))
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    mut item: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(i, value)| {
        if i > 0 {
            f.write_char(',')?;
        }
        item(f, value)
    })
}

fn is_system_fail(path: &Path) -> bool {
    path.get(0) == Some(b"$") && path.get(1) == Some(b"fail")
}

/// A closure that can be formatted.
struct Shown<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> Display for Shown<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}

/// A text that refuses to grow beyond [`MAX_JSON`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_JSON {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Something printed as a JSON string.
struct Text<T>(T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write!(Escape(f), "{:#}", self.0)?;
        f.write_char('"')
    }
}

struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '"' => self.0.write_str("\\\""),
            '\\' => self.0.write_str("\\\\"),
            '\n' => self.0.write_str("\\n"),
            '\r' => self.0.write_str("\\r"),
            '\t' => self.0.write_str("\\t"),
            c if c < ' ' => write!(self.0, "\\u{:04x}", u32::from(c)),
            c => self.0.write_char(c),
        })
    }
}

/// A double: with a decimal point always, and as text where JSON has no number for it.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_finite() { write!(f, "{:?}", self.0) } else { f.write_str(r#""Infinity""#) }
    }
}

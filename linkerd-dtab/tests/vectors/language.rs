//! Paths, trees and tables as such.

use std::{collections::BTreeMap, fmt::Display, fmt::Write as _};

use linkerd_dtab::{Dentry, Distribution, Dtab, Element, NameTree, Path, Prefix, Weighted, header};
use serde_json::{Value, json};

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}"))
}

pub(crate) fn parsed<T: std::str::FromStr>(value: &Value) -> T
where
    T::Err: Display,
{
    text(value).parse().unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// A table: a text, or several that are concatenated.
pub(crate) fn dtab(value: &Value) -> Dtab {
    match value {
        Value::Null => Dtab::empty(),
        Value::Array(parts) => parts.iter().fold(Dtab::empty(), |dtab, part| dtab.concat(&parsed(part))),
        text => parsed(text),
    }
}

/// A tree in the shape of the vectors, its leaves made by `leaf`.
pub(crate) fn tree_of<T>(value: &Value, leaf: &dyn Fn(&Value) -> T) -> NameTree<T> {
    match value {
        Value::String(name) if name == "neg" => NameTree::Neg,
        Value::String(name) if name == "fail" => NameTree::Fail,
        Value::String(name) if name == "empty" => NameTree::Empty,
        value if value["alt"].is_array() => {
            NameTree::Alt(value["alt"].as_array().unwrap().iter().map(|tree| tree_of(tree, leaf)).collect())
        }
        value if value["union"].is_array() => {
            let branch = |branch: &Value| Weighted::new(branch["w"].as_f64().unwrap(), tree_of(&branch["tree"], leaf));
            NameTree::Union(value["union"].as_array().unwrap().iter().map(branch).collect())
        }
        value => NameTree::Leaf(leaf(value)),
    }
}

/// A tree in that shape, or as text.
pub(crate) fn tree(value: &Value) -> NameTree<Path> {
    match value.as_str() {
        Some(text) if !["neg", "fail", "empty"].contains(&text) => parsed(value),
        _ => tree_of(value, &|leaf| parsed(&leaf["leaf"])),
    }
}

pub(crate) fn ast<T>(tree: &NameTree<T>, leaf: &dyn Fn(&T) -> Value) -> Value {
    match tree {
        NameTree::Neg => json!("neg"),
        NameTree::Fail => json!("fail"),
        NameTree::Empty => json!("empty"),
        NameTree::Leaf(name) => leaf(name),
        NameTree::Alt(trees) => json!({ "alt": trees.iter().map(|tree| ast(tree, leaf)).collect::<Vec<_>>() }),
        NameTree::Union(branches) => {
            let branch = |branch: &Weighted<T>| json!({ "w": branch.weight, "tree": ast(&branch.tree, leaf) });
            json!({ "union": branches.iter().map(branch).collect::<Vec<_>>() })
        }
    }
}

pub(crate) fn path_ast(tree: &NameTree<Path>) -> Value {
    ast(tree, &|path| json!({ "leaf": path.to_string() }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn path_value(path: &Path) -> Value {
    let elements: Vec<_> = path.iter().map(hex).collect();
    json!({ "elems_hex": elements, "show": path.to_string(), "size": path.size() })
}

pub(crate) fn path(input: &Value) -> Value {
    let this = || parsed::<Path>(&input["path"]);
    let other = || parsed::<Path>(&input["other"]);
    let n = || usize::try_from(input["n"].as_i64().unwrap().max(0)).unwrap();
    let built = |elements: Vec<Vec<u8>>| match Path::from_elements(elements) {
        Ok(path) => path_value(&path),
        Err(_) => json!({ "error": "empty_element" }),
    };
    let elements = |key: &str, bytes: fn(&str) -> Vec<u8>| {
        input[key].as_array().unwrap().iter().map(|element| bytes(text(element))).collect()
    };
    let unhex = |hex: &str| {
        let digits: Vec<_> = hex.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    match text(&input["op"]) {
        "parse" => path_value(&parsed(&input["input"])),
        "from_bytes" => built(elements("elems_hex", unhex)),
        "from_utf8" => built(elements("elems", |element| element.as_bytes().to_vec())),
        "utf8" => json!({ "strings": this().to_utf8() }),
        "take" => json!({ "show": this().take_first(n()).to_string() }),
        "drop" => json!({ "show": this().drop_first(n()).to_string() }),
        "concat" => json!({ "show": this().concat(&other()).to_string() }),
        "starts_with" => json!({ "result": this().starts_with(&other()) }),
        "equals" => json!({ "result": this() == other() }),
        op => panic!("unknown operation {op}"),
    }
}

pub(crate) fn parse(input: &Value) -> Value {
    let text_in = text(&input["input"]);
    let shown = |show: &dyn Display, ast: Value| json!({ "show": show.to_string(), "ast": ast });
    let dentry_ast = |entry: &Dentry| json!({ "prefix": entry.prefix.to_string(), "dst": path_ast(&entry.dst) });
    let outcome = match text(&input["grammar"]) {
        "path" => text_in.parse::<Path>().map(|path| shown(&path, json!(path.iter().map(hex).collect::<Vec<_>>()))),
        "nametree" => text_in.parse::<NameTree<Path>>().map(|tree| shown(&tree, path_ast(&tree))),
        "prefix" => text_in.parse::<Prefix>().map(|prefix| {
            let element = |element: &Element| match element {
                Element::Any => "*".to_owned(),
                Element::Label(label) => format!("hex:{}", hex(label)),
            };
            shown(&prefix, json!(prefix.elements().iter().map(element).collect::<Vec<_>>()))
        }),
        "dentry" => text_in.parse::<Dentry>().map(|entry| shown(&entry, dentry_ast(&entry))),
        "dtab" => text_in
            .parse::<Dtab>()
            .map(|dtab| shown(&dtab, json!(dtab.entries().iter().map(dentry_ast).collect::<Vec<_>>()))),
        grammar => panic!("unknown grammar {grammar}"),
    };
    outcome.unwrap_or_else(|error| json!({ "error": "parse", "message": error.to_string() }))
}

pub(crate) fn prefix_match(input: &Value) -> Value {
    match parsed::<Prefix>(&input["prefix"]).strip_from(&parsed(&input["path"])) {
        Some(suffix) => json!({ "matches": true, "suffix": suffix.to_string() }),
        None => json!({ "matches": false }),
    }
}

pub(crate) fn lookup(input: &Value) -> Value {
    let found = dtab(&input["dtab"]).lookup(&parsed(&input["path"]));
    json!({ "show": found.to_string(), "ast": path_ast(&found), "falls_through": found == NameTree::Neg })
}

pub(crate) fn simplify(input: &Value) -> Value {
    let tree = tree(&input["tree"]);
    let eval = tree.eval().map(|leaves| {
        let mut leaves: Vec<_> = leaves.into_iter().map(ToString::to_string).collect();
        leaves.sort();
        leaves
    });
    let simplified = tree.clone().simplify();
    assert_eq!(simplified.clone().simplify(), simplified, "a fixed point");
    json!({ "simplified": path_ast(&simplified), "show": simplified.to_string(), "eval": eval })
}

pub(crate) fn show(input: &Value) -> Value {
    let shown = tree(&input["tree"]).to_string();
    let reparsed = shown.parse().ok().map(|tree| path_ast(&tree));
    json!({ "show": shown, "reparsed": reparsed })
}

pub(crate) fn dtab_ops(input: &Value) -> Value {
    let shown = |dtab: Dtab| json!({ "show": dtab.to_string(), "size": dtab.len() });
    let (a, b) = (dtab(&input["a"]), dtab(&input["b"]));
    match text(&input["op"]) {
        "concat" => shown(a.concat(&b)),
        "strip_prefix" => shown(dtab(&input["dtab"]).strip_prefix(&dtab(&input["prefix"]))),
        "simplified" => shown(dtab(&input["dtab"]).simplified()),
        "equiv" => json!({ "result": a.is_equivalent(&b) }),
        "equals" => json!({ "result": a == b }),
        op => panic!("unknown operation {op}"),
    }
}

/// The shares of a tree's leaves, those of equal ones added up, and the part that nobody gets.
pub(crate) fn shares<T: Clone>(tree: &NameTree<T>, key: &dyn Fn(&T) -> Value) -> (Vec<Value>, f64) {
    let distribution = Distribution::new(tree);
    let mut added = BTreeMap::new();
    for (leaf, share) in distribution.leaves() {
        let key = key(leaf);
        added.entry(key.to_string()).or_insert((key, 0.0)).1 += share;
    }
    let shares = added.into_values().map(|(mut key, share)| {
        key["share"] = json!(share);
        key
    });
    (shares.collect(), distribution.unavailable())
}

pub(crate) fn distribution(input: &Value) -> Value {
    let (shares, unavailable) = shares(&tree(&input["tree"]), &|path| json!({ "leaf": path.to_string() }));
    json!({ "shares": shares, "unavailable": unavailable })
}

pub(crate) fn header(input: &Value) -> Value {
    let lines: Vec<_> = input["headers"].as_array().unwrap().iter().map(|h| (text(&h[0]), text(&h[1]))).collect();
    let lines = lines.iter().copied();
    let outcome = match text(&input["profile"]) {
        "linkerd" => header::linkerd(lines).map_err(|error| error.to_string()),
        "finagle" => header::finagle(lines).map_err(|error| error.to_string()),
        profile => panic!("unknown profile {profile}"),
    };
    match outcome {
        Ok(dtab) => json!({ "dtab": dtab.to_string() }),
        Err(message) => {
            json!({ "error": "bad_request", "l5d_err": header::form_encode(&message), "message": message })
        }
    }
}

//! Names under a table, with namers that always give the same answer.

use std::{sync::Arc, time::Duration};

use linkerd_dtab::{
    Activity, Addr, BindError, Bound, Failure, Interpreter, Name, NameTree, Namer, Path, State,
    delegate::{self, bound_json},
    interpreter::Local,
    namer::{
        Resolve,
        global::{self, Step},
        rewrite,
    },
};
use serde_json::{Value, json};

use crate::language::{ast, dtab, parsed, shares, text, tree_of};

/// Every host has the same replica.
struct Resolved;

impl Resolve for Resolved {
    fn resolve(&self, _host: &str, _port: &str) -> Activity<Addr> {
        address(&Value::Null)
    }

    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr> {
        self.resolve(host, port)
    }
}

/// A namer that answers as its vector says.
struct Scripted {
    prefix: Path,
    entries: Vec<(Path, Value)>,
}

impl Namer for Scripted {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let matching = self.entries.iter().filter(|(prefix, _)| path.starts_with(prefix));
        let Some((matched, result)) = matching.max_by_key(|(prefix, _)| prefix.size()) else {
            return Activity::value(NameTree::Neg);
        };
        let rest = path.drop_first(matched.size());
        let bound =
            |spec: &Value, id: Path, residual: Path| Name::Bound(Bound::new(id, residual, address(&spec["addrs"])));
        let tree = if let Some(error) = result["failed"].as_str() {
            return Activity::failed(Failure::from(Box::<dyn std::error::Error + Send + Sync>::from(error)));
        } else if result == "pending" {
            return Activity::channel().1;
        } else if let Some(spec) = result.get("bound") {
            let id = spec.get("id").map_or_else(|| self.prefix.concat(matched), parsed);
            NameTree::Leaf(bound(spec, id, rest))
        } else if let Some(tree) = result.get("tree") {
            let tree: NameTree<Path> = parsed(tree);
            let append = result["append"] == true;
            tree.map(&mut |path| Name::Path(if append { path.concat(&rest) } else { path }))
        } else {
            tree_of(result.get("names").unwrap_or(result), &|leaf| match leaf.get("bound") {
                Some(spec) => bound(spec, parsed(&spec["id"]), parsed(&spec["residual"])),
                None => Name::Path(parsed(&leaf["leaf"])),
            })
        };
        Activity::value(tree)
    }

    fn has_whole_ids(&self) -> bool {
        true
    }
}

fn address(spec: &Value) -> Activity<Addr> {
    match spec {
        Value::Null => Activity::value(Addr::of(["127.0.0.1:8080".parse().unwrap()])),
        Value::Array(addrs) => Activity::value(Addr::of(addrs.iter().map(|addr| {
            (text(&addr[0]).parse::<std::net::IpAddr>().unwrap(), addr[1].as_u64().unwrap() as u16).into()
        }))),
        state if state == "neg" => Activity::value(Addr::Neg),
        state if state == "pending" => Activity::channel().1,
        _ => Activity::failed(Failure::from(Box::<dyn std::error::Error + Send + Sync>::from("unreachable"))),
    }
}

fn interpreter(input: &Value) -> Local {
    let namers = input["namers"].as_array().into_iter().flatten().map(|namer| {
        let prefix: Path = parsed(&namer["prefix"]);
        let entries = namer["entries"].as_array().unwrap();
        let entries = entries.iter().map(|entry| (parsed(&entry["match"]), entry["result"].clone())).collect();
        (prefix.clone(), Arc::new(Scripted { prefix, entries }) as Arc<dyn Namer>)
    });
    let local = Local::new(namers.collect(), Arc::new(Resolved));
    let local = match input["interpreter"].as_str() {
        Some("finagle-default") => local.with_plain_errors(),
        Some("l5d-configured-dtab") => local.with_dtab(Activity::value(dtab(&input["configured"]))),
        _ => local,
    };
    match input["max_depth"].as_u64() {
        Some(depth) => local.with_max_depth(depth as usize),
        None => local,
    }
}

fn bind(input: &Value) -> State<NameTree<Bound>> {
    let table = dtab(&input["base"]).concat(&dtab(&input["local"]));
    interpreter(input).bind(&table, &parsed(&input["path"])).sample()
}

fn error_code(error: Option<&BindError>) -> &'static str {
    match error {
        Some(BindError::TooDeep { .. }) => "max_depth",
        Some(BindError::UnknownNamer { .. }) => "unknown_namer",
        Some(BindError::ClassNotFound { .. }) => "class_not_found",
        Some(BindError::Rewrite { .. }) => "illegal_argument",
        Some(BindError::NotAPath { .. }) => "parse",
        Some(other) => panic!("no vector expects {other}"),
        None => "namer",
    }
}

fn bound_leaf(bound: &Bound) -> Value {
    let mut leaf = json!({ "id": bound.id.to_string(), "residual": bound.residual.to_string() });
    // It is recorded in the metadata of an address, which only a bound address has.
    if let (Some(weight), State::Ok(Addr::Bound(_))) = (bound.weight, bound.addr.sample()) {
        leaf["weight"] = json!(weight);
    }
    json!({ "bound": leaf })
}

pub(crate) fn delegate(input: &Value) -> Value {
    match with_runtime(|| bind(input)) {
        State::Pending => json!({ "state": "pending" }),
        State::Failed(error) => {
            let code = error_code(error.downcast_ref());
            json!({ "state": "failed", "error": code, "message": error.to_string() })
        }
        State::Ok(tree) => {
            let key = |bound: &Bound| json!({ "id": bound.id.to_string(), "residual": bound.residual.to_string() });
            let (shares, unavailable) = shares(&tree, &key);
            let tree = ast(&tree, &bound_leaf);
            json!({ "state": "ok", "tree": tree, "shares": shares, "unavailable": unavailable })
        }
    }
}

pub(crate) fn delegate_tree(input: &Value) -> Value {
    let table = dtab(&input["base"]).concat(&dtab(&input["local"]));
    let runtime = runtime();
    let explained = runtime.block_on(async {
        let explanation = interpreter(input).delegate(&table, &parsed(&input["path"]));
        delegate::settled(explanation, Duration::from_secs(2)).await
    });
    match explained.unwrap().to_json() {
        Ok(json) => json!({ "json": serde_json::from_str::<Value>(&json).unwrap() }),
        Err(error) => json!({ "error": "max_depth", "message": error.to_string() }),
    }
}

pub(crate) fn bind_json(input: &Value) -> Value {
    let State::Ok(tree) = with_runtime(|| bind(input)) else { panic!("not bound: {input}") };
    json!({ "json": serde_json::from_str::<Value>(&bound_json(&tree)).unwrap() })
}

pub(crate) fn utility(input: &Value) -> Value {
    let bound = |id: Path, residual: Path| json!({ "id": id.to_string(), "residual": residual.to_string() });
    match global::step(&parsed(&input["path"])) {
        Ok(Step::Neg) => json!({ "tree": "neg" }),
        Ok(Step::Fail) => json!({ "tree": "fail" }),
        Ok(Step::Empty) => json!({ "tree": "empty" }),
        Ok(Step::Path(path)) => json!({ "tree": { "leaf": path.to_string() } }),
        Ok(Step::Inet(inet)) => json!({ "tree": { "bound": bound(inet.id, inet.residual) } }),
        Ok(Step::Status { id, residual }) => json!({ "tree": { "bound": bound(id, residual) } }),
        Err(BindError::UnknownNamer { .. }) => json!({ "error": "class_not_found" }),
        Err(error) => json!({ "error": error_code(Some(&error)) }),
    }
}

pub(crate) fn rewrite(input: &Value) -> Value {
    let namer = rewrite::Namer::new(text(&input["pattern"]), text(&input["name"]));
    match namer.rewrite(&parsed(&input["path"])) {
        Ok(Some(path)) => json!({ "tree": { "leaf": path.to_string() } }),
        Ok(None) => json!({ "tree": "neg" }),
        Err(error) => json!({ "error": error_code(Some(&error)) }),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn with_runtime<T>(f: impl FnOnce() -> T) -> T {
    let runtime = runtime();
    let _guard = runtime.enter();
    f()
}

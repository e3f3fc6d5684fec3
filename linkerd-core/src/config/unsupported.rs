//! What a file may say although it is not built yet.

#[cfg(feature = "tls")]
use super::tls;
use super::{
    Config, Problem,
    node::{Node, Value, boolean},
};

/// Keys and kinds that are known but not built yet. What gets built is taken off here, one line each.
///
/// A line is a key, with list indices and `configs` left out, or a key and a value of it; `*.` at the beginning stands
/// for any place. A key counts as used unless its value is absent or an empty list.
pub const NOT_BUILT: &[&str] = &[
    #[cfg(not(feature = "tls"))]
    "admin.tls",
    "namers.kind=io.l5d.consul",
    "namers.kind=io.l5d.curator",
    "namers.kind=io.l5d.dnssrv",
    "namers.kind=io.l5d.k8s",
    "namers.kind=io.l5d.k8s.external",
    "namers.kind=io.l5d.k8s.ns",
    "namers.kind=io.l5d.marathon",
    "namers.kind=io.l5d.rancher",
    "namers.kind=io.l5d.serversets",
    "namers.kind=io.l5d.zkLeader",
    "routers.announcers",
    #[cfg(not(feature = "tls"))]
    "routers.client.forwardClientCert=true",
    "routers.client.requestAuthorizers",
    #[cfg(not(feature = "tls"))]
    "routers.client.tls",
    "routers.identifier.kind=io.l5d.ingress",
    "routers.identifier.kind=io.l5d.k8s.istio",
    "routers.identifier.kind=io.l5d.k8s.istio-ingress",
    "routers.interpreter.kind=io.l5d.consul.interpreter",
    "routers.interpreter.kind=io.l5d.k8s.configMap",
    "routers.protocol=mux",
    "routers.protocol=thrift",
    "routers.protocol=thriftmux",
    "routers.servers.announce",
    #[cfg(not(feature = "tls"))]
    "routers.servers.tls",
    "telemetry.kind=io.l5d.influxdb",
    "telemetry.kind=io.l5d.statsd",
    "telemetry.kind=io.l5d.zipkin",
    "*.transformers.kind=io.l5d.k8s.daemonset",
    "*.transformers.kind=io.l5d.k8s.localnode",
];

/// Keys that are accepted and do less than they say, with what to tell the user. Written as in [`NOT_BUILT`].
const NOTICES: &[(&str, &str)] = &[
    ("*.windowUpdateRatio", "has no effect: windows are updated when half of them is used"),
    ("*.trustCerts", "is deprecated: put the certificates into one file and name it by trustCertsBundle"),
    ("routers.client.socketOptions.backlog", "has no effect: a client does not listen"),
    ("routers.client.socketOptions.reuseAddr", "has no effect: a client does not choose its address"),
    ("routers.client.socketOptions.reusePort", "has no effect: a client does not choose its address"),
    ("routers.servers.label", "has no effect: a server is called by its address"),
    ("storage.failFast=true", "has no effect: an agent that is away is asked again after each `backoff`"),
    ("storage.writeConsistencyMode", "has no effect: changes are made by Consul's leader in any case"),
];

/// What a file uses of [`NOT_BUILT`], in the order of the file.
pub fn check_supported(config: &Config) -> Vec<Problem> {
    find(config, &|key, node| {
        let pattern = NOT_BUILT.iter().find(|pattern| matches(pattern, key, node))?;
        let value = pattern.split_once('=').map(|(_, value)| format!("'{value}' "));
        Some(format!("{}is not supported yet", value.unwrap_or_default()))
    })
}

/// What to warn of at start-up.
pub(super) fn notices(config: &Config) -> Vec<Problem> {
    find(config, &|key, node| {
        let notice = NOTICES.iter().find(|(pattern, _)| matches(pattern, key, node));
        notice.map(|(_, text)| (*text).to_owned()).or_else(|| passed_over(key, node))
    })
}

/// Of the names in a list those that nothing is made of.
#[cfg(feature = "tls")]
fn passed_over(key: &str, node: &Node) -> Option<String> {
    let Value::Scalar(name) = &node.value else { return None };
    tls::passed_over(key, &name.text).map(|text| format!("'{}' {text}", name.text))
}

#[cfg(not(feature = "tls"))]
fn passed_over(_: &str, _: &Node) -> Option<String> {
    None
}

fn find(config: &Config, message: &dyn Fn(&str, &Node) -> Option<String>) -> Vec<Problem> {
    let mut walk = Walk { config, message, found: Vec::new() };
    walk.node(&config.tree, "", "");
    walk.found.sort_by_key(|p| p.position);
    walk.found
}

struct Walk<'a> {
    config: &'a Config,
    /// What to say of a node of this key, as patterns have it.
    message: &'a dyn Fn(&str, &Node) -> Option<String>,
    found: Vec<Problem>,
}

impl Walk<'_> {
    /// `key` as patterns have it, `shown` with indices.
    fn node(&mut self, node: &Node, key: &str, shown: &str) {
        let used = !node.is_null() && !matches!(&node.value, Value::List(items) if items.is_empty());
        if used && let Some(message) = (self.message)(key, node) {
            self.found.push(Problem {
                file: self.config.file.clone(),
                position: Some(node.at),
                key: shown.to_owned(),
                message,
            });
        }
        match &node.value {
            Value::Scalar(_) => {}
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.node(item, key, &format!("{shown}[{i}]"));
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let dot = if shown.is_empty() { "" } else { "." };
                    let shown = format!("{shown}{dot}{}", entry.key);
                    match entry.key.as_str() {
                        "configs" => self.node(&entry.value, key, &shown),
                        name => self.node(&entry.value, &format!("{key}{dot}{name}"), &shown),
                    }
                }
            }
        }
    }
}

fn matches(pattern: &str, key: &str, node: &Node) -> bool {
    let (place, value) = match pattern.split_once('=') {
        Some((place, value)) => (place, Some(value)),
        None => (pattern, None),
    };
    let placed = match place.strip_prefix("*.") {
        Some(end) => key.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        None => key == place,
    };
    // The list itself and each of its items have the same key; the list is reported.
    placed
        && match (&node.value, value) {
            (Value::Scalar(s), Some("true")) => boolean(&s.text) == Some(true),
            (Value::Scalar(s), Some(value)) => s.text == value,
            (_, Some(_)) => false,
            (_, None) => true,
        }
}

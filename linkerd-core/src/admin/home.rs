//! The pages for people, made on the server.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
};

use serde_json::{Value, json};

use super::{Logging, Pages, Router};
use crate::telemetry::{Reading, Registry};

pub(super) const STYLE: &str = include_str!("files/dashboard.css");
pub(super) const FAVICON: &[u8] = include_bytes!("files/favicon.ico");

/// Keeps the numbers of the page up to date.
const SCRIPT: &str = include_str!("files/live.js");

/// Rows of a table; the rest is in JSON.
pub(super) const MAX_ROWS: usize = 200;

const LEVELS: [&str; 8] = ["ALL", "TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL", "OFF"];

/// Text in HTML.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

pub(super) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <link rel=\"stylesheet\" href=\"/files/css/dashboard.css\">\n</head>\n<body>\n{body}</body>\n</html>\n",
        Escaped(title)
    )
}

/// The first page: routers, their servers, tables, names and counters, and where the other pages are.
pub(super) fn home(pages: &Pages) -> String {
    let mut body = String::from("<h1>linkerd admin</h1>\n");
    nav(&mut body, pages);
    if pages.routers.is_empty() {
        body.push_str("<p>There are no routers.</p>\n");
    }
    for router in &pages.routers {
        section(&mut body, router, &pages.registry);
    }
    let _ = write!(body, "<script>\n{SCRIPT}</script>\n");
    document("linkerd admin", &body)
}

fn nav(body: &mut String, pages: &Pages) {
    body.push_str("<nav>\n");
    // Asked for by scripts, and posted to.
    let hidden = ["/", "/admin/index.txt", "/admin/shutdown", "/favicon.ico", "/files/css/dashboard.css"];
    for path in pages.paths() {
        let served = pages.security.as_ref().is_none_or(|security| security.allows(&path));
        if served && !hidden.contains(&&*path) {
            let path = Escaped(&path);
            let _ = writeln!(body, "<a href=\"{path}\">{path}</a>");
        }
    }
    body.push_str("</nav>\n");
}

fn section(body: &mut String, router: &Router, registry: &Registry) {
    let Router { label, protocol, servers, dtab, interpreter: _ } = router;
    let _ = writeln!(body, "<section>\n<h2>{} <small>{}</small></h2>", Escaped(label), Escaped(protocol));
    let columns = ["requests", "success", "failures", "pending", "connections"];
    table(body, registry, (label, "server"), servers, &columns);
    body.push_str("<h3>dtab</h3>\n<pre>");
    if dtab.is_empty() {
        body.push_str("(empty)");
    }
    for entry in dtab.entries() {
        let _ = writeln!(body, "{} =&gt; {}", Escaped(&entry.prefix), Escaped(&entry.dst));
    }
    body.push_str("</pre>\n");
    table(body, registry, (label, "service"), &[], &["requests", "success", "failures", "pending"]);
    let columns = ["requests", "success", "failures", "pending", "connections", "loadbalancer/size"];
    table(body, registry, (label, "client"), &[], &columns);
    body.push_str("</section>\n");
}

/// The scopes below `rt/<label>/<what>`, and those that have no metrics yet.
fn table(body: &mut String, registry: &Registry, (label, what): (&str, &str), known: &[String], columns: &[&str]) {
    let mut rows: BTreeMap<String, BTreeMap<String, String>> =
        known.iter().map(|name| (name.clone(), BTreeMap::new())).collect();
    registry.visit_in(&["rt", label, what], |path, reading| {
        let Some((name, metric)) = path.split_first() else { return };
        let metric = metric.join("/");
        let value = match reading {
            Reading::Counter(n) => n.to_string(),
            Reading::Gauge(value) => value.to_string(),
            Reading::Stat(_) => return,
        };
        if columns.contains(&&*metric) {
            rows.entry(name.to_string()).or_default().insert(metric, value);
        }
    });
    let _ = writeln!(body, "<h3>{what}s</h3>");
    if rows.is_empty() {
        body.push_str("<p>none yet</p>\n");
        return;
    }
    let _ = write!(body, "<table>\n<tr><th>{what}</th>");
    for column in columns {
        let _ = write!(body, "<th>{column}</th>");
    }
    body.push_str("</tr>\n");
    let more = rows.len().saturating_sub(MAX_ROWS);
    for (name, values) in rows.into_iter().take(MAX_ROWS) {
        let _ = write!(body, "<tr><td>{}</td>", Escaped(&name));
        for column in columns {
            let metric = format!("rt/{label}/{what}/{name}/{column}");
            let value = values.get(*column).map_or("0", String::as_str);
            let _ = write!(body, "<td data-metric=\"{}\">{value}</td>", Escaped(metric));
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n");
    if more > 0 {
        let _ = writeln!(body, "<p>and {more} more, see <a href=\"/admin/metrics.json\">/admin/metrics.json</a></p>");
    }
}

/// Each page and what it is for.
pub(super) fn help(pages: &Pages) -> String {
    let mut body = String::from("<h1>help</h1>\n<p><a href=\"/\">back</a></p>\n<table>\n");
    for path in pages.paths() {
        let text = match &*path {
            "/" => "routers, servers, dtabs, names and their counters",
            "/help" => "this page",
            "/logging" => "loggers and their levels",
            "/logging.json" => "GET shows the levels, POST logger=NAME&level=LEVEL sets one",
            "/config.json" => "the configuration",
            "/delegator" => "how a name is bound, for people: a dtab playground",
            "/delegator.json" => {
                "how a name is bound, step by step: GET ?namespace=ROUTER&dtab=DTAB&path=PATH, or POST the same as JSON"
            }
            "/bound-names.json" => "the names that namers can list",
            "/client_state.json" => "the addresses of each client",
            "/state.json" => "every watch: its value, source, age and error",
            "/admin" | "/admin/index.txt" => "the paths of all pages",
            "/admin/ping" => "answers pong",
            "/admin/server_info" => "the program, its version and its process",
            "/admin/metrics.json" => "all metrics; ?pretty=true, ?tree=true, ?q=SCOPE/SCOPE",
            "/requests" | "/requests.json" => "the last requests of those that are sampled",
            "/admin/shutdown" => "POST ends the process; ?grace=10.seconds",
            "/admin/drain" => "POST asks clients to leave and goes on serving; DELETE undoes it",
            "/admin/ready" => "whether requests should be sent here: 200 or 503",
            "/admin/live" => "whether the process works: 200 or 503",
            "/admin/reload" => "GET shows how reloads went, POST reads the configuration again",
            "/admin/process.json" => "how far the process is, its workers, and how reloads went",
            "/favicon.ico" | "/files/css/dashboard.css" => continue,
            _ => "",
        };
        let _ = writeln!(body, "<tr><td>{}</td><td>{}</td></tr>", Escaped(&path), Escaped(text));
    }
    body.push_str("</table>\n");
    document("linkerd admin: help", &body)
}

/// What runs here.
pub(super) fn server_info() -> Value {
    let program = std::env::current_exe().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    json!({"name": program, "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id()})
}

/// Loggers with a form each to set the level.
pub(super) fn logging(logging: &Logging) -> String {
    let mut body = String::from(
        "<h1>logging</h1>\n<p><a href=\"/\">back</a></p>\n<table>\n<tr><th>logger</th><th>level</th></tr>\n",
    );
    for (logger, level) in logging.levels() {
        let logger = Escaped(logger);
        let _ = write!(
            body,
            "<tr><td>{logger}</td><td><form method=\"post\" action=\"/logging.json\">\
             <input type=\"hidden\" name=\"logger\" value=\"{logger}\"><select name=\"level\">"
        );
        for name in LEVELS {
            let selected = if name == level { " selected" } else { "" };
            let _ = write!(body, "<option{selected}>{name}</option>");
        }
        body.push_str("</select> <button>set</button></form></td></tr>\n");
    }
    body.push_str("</table>\n");
    document("linkerd admin: logging", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(Escaped("<a href=\"x\">&'").to_string(), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}

//! The last requests: where each came from, what it was for, where it went, and how that ended.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::home::{Escaped, MAX_ROWS, document};
use crate::span::{Recent, Span};

const COLUMNS: [&str; 8] = ["time", "source", "path", "service", "client", "address", "status", "latency"];

/// One request, as both pages show it. What is not known is empty.
struct Row<'a> {
    span: &'a Span,
    time: String,
    source: String,
    address: String,
}

impl<'a> Row<'a> {
    fn new(span: &'a Span) -> Self {
        // A clock that stands outside of what can be written has no time.
        let time = Timestamp::try_from(span.begun).map_or_else(|_| String::new(), |time| format!("{time:.3}"));
        let text = |addr: Option<std::net::SocketAddr>| addr.map_or_else(String::new, |addr| addr.to_string());
        Self { span, time, source: text(span.peer), address: text(span.endpoint) }
    }

    fn tag(&self, name: &str) -> &'a str {
        self.span.last(name).unwrap_or("")
    }

    /// Its status, or why it has none.
    fn status(&self) -> &'a str {
        self.span.tag("http.status_code").unwrap_or_else(|| self.tag("error"))
    }

    fn cells(&self) -> [&str; 7] {
        let (path, service, client) = (self.tag("http.uri"), self.tag("service"), self.tag("client"));
        [&self.time, &self.source, path, service, client, &self.address, self.status()]
    }

    fn latency_ms(&self) -> f64 {
        self.span.took.as_secs_f64() * 1e3
    }
}

/// The newest first; of more than [`MAX_ROWS`] the rest is in `/requests.json`.
pub(super) fn html(recent: &Recent) -> String {
    let spans = recent.spans();
    let mut body = String::from("<h1>requests</h1>\n<p><a href=\"/\">back</a></p>\n");
    if spans.is_empty() {
        body.push_str("<p>none yet</p>\n");
        return document("linkerd admin: requests", &body);
    }
    body.push_str("<table class=\"requests\">\n<tr>");
    for column in COLUMNS {
        let _ = write!(body, "<th>{column}</th>");
    }
    body.push_str("</tr>\n");
    for span in spans.iter().rev().take(MAX_ROWS) {
        let row = Row::new(span);
        body.push_str("<tr>");
        for (cell, column) in row.cells().into_iter().zip(COLUMNS) {
            // What callers choose may be long: it is broken anywhere.
            let class = if matches!(column, "path" | "service" | "client") { " class=\"free\"" } else { "" };
            let _ = write!(body, "<td{class}>{}</td>", Escaped(cell));
        }
        let _ = writeln!(body, "<td>{:.3} ms</td></tr>", row.latency_ms());
    }
    body.push_str("</table>\n");
    if let more @ 1.. = spans.len().saturating_sub(MAX_ROWS) {
        let _ = writeln!(body, "<p>and {more} more, see <a href=\"/requests.json\">/requests.json</a></p>");
    }
    document("linkerd admin: requests", &body)
}

/// All of them, the newest first.
pub(super) fn json(recent: &Recent) -> Value {
    let spans = recent.spans();
    let rows = spans.iter().rev().map(|span| {
        let row = Row::new(span);
        let [time, source, path, service, client, address, status] = row.cells();
        json!({
            "time": time,
            "source": source,
            "method": row.tag("http.method"),
            "path": path,
            "service": service,
            "client": client,
            "address": address,
            "status": status,
            "error": row.tag("error"),
            "latencyMs": row.latency_ms(),
            "trace": format!("{:016x}", span.id.trace()),
        })
    });
    rows.collect()
}

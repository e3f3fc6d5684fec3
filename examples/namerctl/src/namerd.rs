//! What a namerd is asked over HTTP.

use http::{HeaderName, Method, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    client::{Answer, Call, Client},
    error::Error,
    table::{Entry, Versioned, json},
};

/// What a path need not encode.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// What the value of a query need not encode.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

const REASON: HeaderName = HeaderName::from_static("l5d-reason");

/// By `etag` a namerd of this project answers a write with the version that results, and by [`HEED`] it heeds the version
/// of a deletion.
const PREFER: HeaderName = HeaderName::from_static("prefer");
const HEED: &str = "handling=strict";

/// The longest reason that is sent, in bytes.
const MAX_REASON: usize = 4096;

/// The longest explanation that is shown, in bytes.
const MAX_EXPLANATION: usize = 8 << 10;

/// Asks one namerd.
#[derive(Clone, Debug)]
pub(crate) struct Namerd {
    client: Client,
    reason: Option<String>,
}

/// A table to write.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

impl Body {
    pub(crate) fn dtab(text: String) -> Self {
        Self { kind: "application/dtab", text }
    }

    pub(crate) fn json(entries: Option<&[Entry]>) -> Self {
        Self { kind: "application/json", text: json(&entries) }
    }
}

/// How a change that depends on a version ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It was made; the version that resulted, if namerd says it.
    Done(Option<String>),
    /// The table is not what it was made for.
    Conflict,
}

/// A value for a query.
pub(crate) fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, QUERY)
}

impl Namerd {
    /// With why changes are made, for the history.
    pub(crate) fn new(client: Client, reason: Option<String>) -> Result<Self, Error> {
        if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON || reason.contains(['\n', '\r', '\0'])) {
            return Err(Error::Other(format!("a reason is one line of at most {MAX_REASON} bytes")));
        }
        Ok(Self { client, reason })
    }

    /// The same namerd, asked for another reason.
    pub(crate) fn because(&self, reason: String) -> Self {
        Self { reason: Some(reason), ..self.clone() }
    }

    /// The names of all tables.
    pub(crate) async fn list(&self) -> Result<Vec<String>, Error> {
        let answer = self.get_json("/api/1/dtabs").await?;
        if answer.head.status != StatusCode::OK {
            return Err(unexpected(&answer));
        }
        answer.json()
    }

    /// A table.
    pub(crate) async fn get(&self, name: &str) -> Result<Versioned, Error> {
        let answer = self.get_json(&of("dtabs", name)).await?;
        match answer.head.status {
            StatusCode::OK => {
                let version = answer.header(header::ETAG).unwrap_or_default();
                Ok(Versioned { version, dtab: answer.json()? })
            }
            StatusCode::NOT_FOUND => Err(Error::NotFound),
            _ => Err(unexpected(&answer)),
        }
    }

    /// Makes a table that is not there.
    pub(crate) async fn create(&self, name: &str, body: Body) -> Result<(), Error> {
        let answer = self.write(Method::POST, name, body, None).await?;
        if is_done(&answer) { Ok(()) } else { Err(unexpected(&answer)) }
    }

    /// The same, where another may make it first.
    pub(crate) async fn try_create(&self, name: &str, body: Body) -> Result<Changed, Error> {
        let answer = self.ask(self.write_call(Method::POST, name, body, None).with_header(PREFER, "etag")).await?;
        changed(&answer, StatusCode::CONFLICT)
    }

    /// Replaces a table, whatever is in it, or if it has this version.
    pub(crate) async fn update(&self, name: &str, body: Body, version: Option<&str>) -> Result<(), Error> {
        let answer = self.write(Method::PUT, name, body, version).await?;
        match answer.head.status {
            _ if is_done(&answer) => Ok(()),
            StatusCode::NOT_FOUND => Err(Error::NotFound),
            StatusCode::PRECONDITION_REQUIRED => Err(match self.get(name).await {
                Err(Error::NotFound) => Error::NeedsCreation(name.into()),
                _ => Error::NeedsVersion(name.into()),
            }),
            _ => Err(unexpected(&answer)),
        }
    }

    /// The same, where another may write first.
    pub(crate) async fn try_update(&self, name: &str, body: Body, version: &str) -> Result<Changed, Error> {
        // Without a version nothing says what it replaces.
        let version = (!version.is_empty()).then_some(version);
        let answer = self.ask(self.write_call(Method::PUT, name, body, version).with_header(PREFER, "etag")).await?;
        // It was deleted meanwhile.
        if answer.head.status == StatusCode::NOT_FOUND {
            return Ok(Changed::Conflict);
        }
        changed(&answer, StatusCode::PRECONDITION_FAILED)
    }

    /// Takes a table away, whatever is in it, or if it has this version.
    pub(crate) async fn delete(&self, name: &str, version: Option<&str>) -> Result<(), Error> {
        let call = self.change(Method::DELETE, of("dtabs", name));
        let call = match version {
            // Without the preference a namerd takes no notice of the version, as namerd 1.x never does.
            Some(version) => call.with_header(header::IF_MATCH, version).with_header(PREFER, HEED),
            None => call,
        };
        let answer = self.ask(call).await?;
        match answer.head.status {
            _ if is_done(&answer) => Ok(()),
            StatusCode::NOT_FOUND => Err(Error::NotFound),
            StatusCode::PRECONDITION_REQUIRED => Err(match self.get(name).await {
                Err(Error::NotFound) => Error::NotFound,
                _ => Error::NeedsVersion(name.into()),
            }),
            _ => Err(unexpected(&answer)),
        }
    }

    /// Restores what a table was after this change, if it has this version now; without one, if it is not there.
    pub(crate) async fn rollback(&self, name: &str, to: u64, version: Option<&str>) -> Result<Changed, Error> {
        let expected = version.map_or((header::IF_NONE_MATCH, "*"), |version| (header::IF_MATCH, version));
        self.go_back(name, &format!("to={to}"), to, Some(expected)).await
    }

    /// The same, which the history tells as made by a program.
    pub(crate) async fn auto_revert(&self, name: &str, to: u64, version: &str) -> Result<Changed, Error> {
        let expected = (!version.is_empty()).then_some((header::IF_MATCH, version));
        self.go_back(name, &format!("to={to}&automatic=true"), to, expected).await
    }

    async fn go_back(
        &self,
        name: &str,
        query: &str,
        to: u64,
        expected: Option<(HeaderName, &str)>,
    ) -> Result<Changed, Error> {
        let call = self.change(Method::POST, format!("{}?{query}", of("rollback", name)));
        let call = match expected {
            Some((header, value)) => call.with_header(header, value),
            None => call,
        };
        let answer = self.ask(call).await?;
        if answer.head.status == StatusCode::NOT_FOUND {
            let said = explanation(&answer);
            return Err(Error::Other(if said.is_empty() {
                format!("no number {to} in a history of {name}")
            } else {
                said
            }));
        }
        changed(&answer, StatusCode::PRECONDITION_FAILED)
    }

    /// What a resource of a table's answers to GET.
    pub(crate) async fn read(&self, resource: &str, name: &str, query: &str) -> Result<Answer, Error> {
        found(resource, name, self.get_json(&format!("{}{query}", of(resource, name))).await?)
    }

    /// What a resource of a table's answers to a table that is not written.
    pub(crate) async fn try_out(&self, resource: &str, name: &str, body: Body) -> Result<Answer, Error> {
        let call = Call::new(Method::POST, of(resource, name)).with_header(header::ACCEPT, "application/json");
        found(resource, name, self.ask(call.with_body(body.kind, body.text)).await?)
    }

    /// One state after the other, each a line.
    pub(crate) async fn watch(&self, name: Option<&str>) -> Result<Incoming, Error> {
        let path = name.map_or_else(|| "/api/1/dtabs".into(), |name| of("dtabs", name)) + "?watch=true";
        let call = Call::new(Method::GET, &*path);
        let rsp = self.client.open(call.with_header(header::ACCEPT, "application/json")).await?;
        let kind = rsp.headers().get(header::CONTENT_TYPE).map(|kind| shown(kind.as_bytes()));
        match rsp.status() {
            StatusCode::OK => match kind.filter(|kind| !kind.starts_with("application/json")) {
                None => Ok(rsp.into_body()),
                Some(kind) => Err(Error::BadAnswer(format!("an answer that is not as expected: {kind}"))),
            },
            StatusCode::NOT_FOUND => Err(Error::NotFound),
            _ => Err(unexpected(&self.client.read(Method::GET, &path, rsp).await?)),
        }
    }

    async fn get_json(&self, path: &str) -> Result<Answer, Error> {
        self.ask(Call::new(Method::GET, path).with_header(header::ACCEPT, "application/json")).await
    }

    async fn write(&self, method: Method, name: &str, body: Body, version: Option<&str>) -> Result<Answer, Error> {
        self.ask(self.write_call(method, name, body, version)).await
    }

    fn write_call(&self, method: Method, name: &str, body: Body, version: Option<&str>) -> Call {
        let call = self.change(method, of("dtabs", name)).with_body(body.kind, body.text);
        match version {
            Some(version) => call.with_header(header::IF_MATCH, version),
            None => call,
        }
    }

    fn change(&self, method: Method, path: String) -> Call {
        let call = Call::new(method, path);
        match &self.reason {
            Some(reason) => call.with_header(REASON, reason),
            None => call,
        }
    }

    async fn ask(&self, call: Call) -> Result<Answer, Error> {
        let answer = self.client.ask(call).await?;
        for warning in answer.head.headers.get_all(header::WARNING) {
            crate::note(&format!("warning: {}", warning_text(&shown(warning.as_bytes()))));
        }
        Ok(answer)
    }
}

/// The path of a table's resource.
fn of(resource: &str, name: &str) -> String {
    format!("/api/1/{resource}/{}", utf8_percent_encode(name, PATH))
}

fn is_done(answer: &Answer) -> bool {
    matches!(answer.head.status, StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT)
}

fn changed(answer: &Answer, conflict: StatusCode) -> Result<Changed, Error> {
    match answer.head.status {
        _ if is_done(answer) => Ok(Changed::Done(answer.header(header::ETAG))),
        status if status == conflict => Ok(Changed::Conflict),
        _ => Err(unexpected(answer)),
    }
}

fn found(resource: &str, name: &str, answer: Answer) -> Result<Answer, Error> {
    match answer.head.status {
        StatusCode::OK => Ok(answer),
        StatusCode::NOT_FOUND => Err(match explanation(&answer) {
            said if said.is_empty() => Error::Missing { resource: resource.into(), name: name.into() },
            said => Error::Other(said),
        }),
        _ => Err(unexpected(&answer)),
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::Unexpected { status: answer.status(), explanation: explanation(answer) }
}

/// Why namerd does not do it, in its words: nothing if these are for a browser, or are none.
fn explanation(answer: &Answer) -> String {
    let is_page = answer.header(header::CONTENT_TYPE).is_some_and(|kind| kind.trim_start().starts_with("text/html"));
    if is_page { String::new() } else { shown(&answer.body) }
}

/// Text of who knows whom, for a terminal: bounded, and without characters that mean something to it.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    let end = text.floor_char_boundary(MAX_EXPLANATION);
    let more = if end < text.len() { "..." } else { "" };
    let plain = text[..end].chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c });
    plain.chain(more.chars()).collect()
}

/// The quoted text of `299 namerd "text"`; the whole where there is none.
fn warning_text(value: &str) -> String {
    let quoted = value.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"'));
    let Some((text, _)) = quoted else { return value.to_owned() };
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(of("dtabs", "a b/c?d#e%"), "/api/1/dtabs/a%20b/c%3Fd%23e%25");
        assert_eq!(encoded("/svc/a&b=c #").to_string(), "/svc/a%26b%3Dc%20%23");
    }

    #[test]
    fn the_text_of_a_warning() {
        assert_eq!(warning_text(r#"299 namerd "no \"x\" \\ here" "date""#), r#"no "x" \ here" "date"#);
        assert_eq!(warning_text(r#"299 namerd "nobody reaches /a""#), "nobody reaches /a");
        assert_eq!(warning_text("odd"), "odd");
    }
}

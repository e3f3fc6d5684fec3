//! A line of what is known of a request when its answer is over.

use std::{
    borrow::Cow,
    net::SocketAddr,
    str::FromStr,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, Response, StatusCode, Version, header::CONTENT_LENGTH, request};
use jiff::Timestamp;
use linkerd_dtab::Path;

use super::{AccessLog, Asked, escape::escape};
use crate::{
    AttemptLog, Body, Error, Left, TimedOut,
    body::{BodyEnd, Rider},
    http::{Deadline, RequestContext, TraceId, detail::Line, origin_form},
};

/// Where a request went, as the engine tells a server that asks: in the response's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    pub(crate) path: Option<Path>,
    pub(crate) client: Option<Path>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) attempts: u32,
    pub(crate) hedges: u32,
}

/// A request. Dropped, it is logged: whatever became of it, it is once.
pub(crate) struct Record {
    log: AccessLog,
    at: Timestamp,
    begun: Instant,
    asked: Asked,
    peer: Option<String>,
    trace: Option<TraceId>,
    deadline: Option<Deadline>,
    status: Option<StatusCode>,
    bytes: Option<HeaderValue>,
    served: Served,
    flag: Option<&'static str>,
    timer: Option<TimedOut>,
    left: Option<Left>,
    end: &'static str,
}

/// A form for the lines of an access log: text with fields in braces, `{{` and `}}` for braces.
///
/// | field | what it is |
/// |---|---|
/// | `time` | when the request came, RFC 3339, in UTC |
/// | `router` | the label of the router |
/// | `client` | the address of the client, with its port |
/// | `peer` | who the client is by its certificate: its first URI, else DNS name, else subject |
/// | `method`, `uri`, `version`, `host`, `referer`, `user_agent` | as the request has them |
/// | `status` | of the answer; none if it was a reset of a stream, or the client went away before there was one |
/// | `bytes` | the length of the answer, if it was known |
/// | `duration_ms` | until the answer was over, or the tunnel that it began |
/// | `end` | of the answer: `complete`, `failed` or `dropped` half way, or `none` |
/// | `flag` | why the proxy answered itself: the kind of the error, `refused`, or `upgraded` to HTTP/2 |
/// | `timer` | which timer ended it |
/// | `service` | the logical name |
/// | `bound` | the bound name |
/// | `endpoint` | where the answer came from, or the last attempt failed |
/// | `attempts`, `hedges` | how many there were |
/// | `retries_left`, `time_left_ms` | what a failed request had left |
/// | `deadline_left_ms` | how long the answer was still wanted |
/// | `trace_id`, `span_id` | of the span that the request was served in |
///
/// What is not known is a dash. Texts are escaped as Apache does it: `\"`, `\\`, `\t`, and `\xhh` for what is no printable
/// ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A template that cannot be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTemplate {
    /// It has a field that there is not.
    #[error("'{{{0}}}' is no field; there are {all}", all = Field::names())]
    Unknown(String),
    /// A brace has no counterpart.
    #[error("a '{{' or '}}' stands alone; twice it is text")]
    Brace,
    /// It has no fields at all.
    #[error("'{0}' has no fields; it is combined, json, or a text such as {{time}} {{method}} {{uri}}")]
    Constant(String),
}

macro_rules! fields {
    ($($name:ident = $text:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field { $($name),* }

        impl Field {
            const ALL: &[Self] = &[$(Self::$name),*];

            const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

fields! {
    Time = "time", Router = "router", Client = "client", Peer = "peer", Method = "method", Uri = "uri", Version = "version",
    Host = "host", Status = "status", Bytes = "bytes", Duration = "duration_ms", End = "end", Flag = "flag",
    Timer = "timer", Service = "service", Bound = "bound", Endpoint = "endpoint", Attempts = "attempts",
    Hedges = "hedges", RetriesLeft = "retries_left", TimeLeft = "time_left_ms", DeadlineLeft = "deadline_left_ms",
    Trace = "trace_id", Span = "span_id", Referer = "referer", UserAgent = "user_agent",
}

/// What a field is.
enum Value<'a> {
    Text(Cow<'a, str>),
    /// As a header had them.
    Bytes(&'a [u8]),
    Number(u128),
}

impl Field {
    fn names() -> String {
        Self::ALL.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ")
    }
}

impl AccessLog {
    /// Begins to note a request, if requests are logged.
    pub(crate) fn begin(
        &self,
        parts: &request::Parts,
        remote: SocketAddr,
        peer: impl FnOnce() -> Option<String>,
        begun: Instant,
    ) -> Option<Box<Record>> {
        if !self.is_by_request() {
            return None;
        }
        let mut asked = Asked::of(&parts.method, &parts.uri, parts.version, &parts.headers, Some(remote));
        // There it is in two parts, and the target has them together.
        if parts.version == Version::HTTP_2
            && let Some(authority) = asked.uri.authority()
        {
            asked.host = HeaderValue::from_str(authority.as_str()).ok();
            asked.uri = origin_form(&asked.uri);
        }
        Some(Box::new(Record {
            log: self.clone(),
            at: Timestamp::now(),
            begun,
            asked,
            peer: peer(),
            trace: None,
            deadline: None,
            status: None,
            bytes: None,
            served: Served::default(),
            flag: None,
            timer: None,
            left: None,
            end: "none",
        }))
    }
}

impl Record {
    /// Notes what the request carries.
    pub(crate) fn carries(&mut self, cx: &RequestContext) {
        self.trace = cx.trace;
        self.deadline = cx.deadline;
    }

    /// Notes that the request went no further, and that this is the answer.
    pub(crate) fn refused(&mut self, rsp: &Response<Body>) {
        self.flag = Some(if rsp.status() == StatusCode::SWITCHING_PROTOCOLS { "upgraded" } else { "refused" });
        self.answer(rsp);
    }

    /// Notes that the request is answered by a reset of its stream, and why.
    pub(crate) fn reset(&mut self, error: Option<&Error>) {
        match error {
            Some(error) => self.failed(error),
            None => self.flag = Some("refused"),
        }
    }

    /// Notes the answer, and why there is no other; it is logged when the answer's body is over.
    pub(crate) fn answered(mut self: Box<Self>, rsp: &mut Response<Body>, error: Option<&Error>) {
        self.answer(rsp);
        if let Some(error) = error {
            self.failed(error);
        } else {
            self.served = rsp.extensions_mut().remove().unwrap_or_default();
            self.left = rsp.extensions().get().copied();
            if let Some(log) = rsp.extensions().get() {
                self.tried(log);
            }
        }
        // A tunnel has no end of its own: it is over when it is.
        let is_tunnel = rsp.status() == StatusCode::SWITCHING_PROTOCOLS;
        rsp.body_mut().ride(Rider::Dyn(Box::new(move |end| {
            self.end = match end {
                BodyEnd::Dropped if is_tunnel => "complete",
                BodyEnd::Complete => "complete",
                BodyEnd::Failed => "failed",
                BodyEnd::Dropped => "dropped",
            };
        })));
    }

    fn failed(&mut self, error: &Error) {
        self.flag = Some(error.kind().name());
        (self.timer, self.left) = (error.timer(), error.left());
        self.served = Served { path: error.dst().cloned(), client: error.client().cloned(), ..Served::default() };
        if let Some(log) = error.attempts() {
            self.tried(log);
            self.served.endpoint = log.tried().iter().rev().find_map(|attempt| attempt.endpoint);
        }
    }

    fn tried(&mut self, log: &AttemptLog) {
        self.served.attempts = log.tried().len() as u32 + log.omitted();
        self.served.hedges = log.tried().iter().filter(|attempt| attempt.is_hedge).count() as u32;
    }

    fn answer(&mut self, rsp: &Response<Body>) {
        self.status = Some(rsp.status());
        self.bytes = rsp.headers().get(CONTENT_LENGTH).cloned().or_else(|| {
            let len = http_body::Body::size_hint(rsp.body()).exact()?;
            Some(len.into())
        });
    }

    /// One object, with what is known.
    pub(super) fn json(&self, router: &str) -> String {
        let mut line = Line::default();
        for field in Field::ALL {
            match self.value(*field, router) {
                Some(Value::Text(text)) => line.text(field.name(), text),
                Some(Value::Bytes(bytes)) => line.text(field.name(), String::from_utf8_lossy(bytes)),
                Some(Value::Number(number)) => line.raw(field.name(), number),
                None => {}
            }
        }
        line.end()
    }

    /// A line in a form of somebody's own.
    pub(super) fn fill(&self, template: &Template, router: &str) -> String {
        let mut line = String::with_capacity(256);
        for part in &template.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Field(field) => match self.value(*field, router) {
                    Some(Value::Text(text)) => escape(&mut line, text.as_bytes()),
                    Some(Value::Bytes(bytes)) => escape(&mut line, bytes),
                    Some(Value::Number(number)) => line.push_str(&number.to_string()),
                    None => line.push('-'),
                },
            }
        }
        line
    }

    fn value<'a>(&'a self, field: Field, router: &'a str) -> Option<Value<'a>> {
        let bytes = |value: &'a Option<HeaderValue>| value.as_ref().map(|value| Value::Bytes(value.as_bytes()));
        let millis = |time: Duration| Value::Number(time.as_millis());
        let shown = |value: &dyn ToString| Value::Text(value.to_string().into());
        let Self { asked, served, .. } = self;
        match field {
            Field::Time => Some(Value::Text(format!("{:.3}", self.at).into())),
            Field::Router => Some(Value::Text(router.into())),
            Field::Client => asked.remote.as_ref().map(|remote| shown(remote)),
            Field::Peer => self.peer.as_ref().map(|peer| Value::Text(peer.into())),
            Field::Method => Some(Value::Text(asked.method.as_str().into())),
            Field::Uri => Some(shown(&asked.uri)),
            Field::Version => Some(Value::Text(format!("{:?}", asked.version).into())),
            Field::Host => bytes(&asked.host),
            Field::Status => self.status.map(|status| Value::Number(status.as_u16().into())),
            Field::Bytes => self.bytes.as_ref()?.to_str().ok()?.parse().ok().map(Value::Number),
            Field::Duration => Some(millis(tokio::time::Instant::now().into_std() - self.begun)),
            Field::End => Some(Value::Text(self.end.into())),
            Field::Flag => self.flag.map(|flag| Value::Text(flag.into())),
            Field::Timer => self.timer.map(|timer| Value::Text(timer.timer.name().into())),
            Field::Service => served.path.as_ref().map(|path| shown(path)),
            Field::Bound => served.client.as_ref().map(|client| shown(client)),
            Field::Endpoint => served.endpoint.as_ref().map(|endpoint| shown(endpoint)),
            Field::Attempts => Some(Value::Number(served.attempts.into())),
            Field::Hedges => Some(Value::Number(served.hedges.into())),
            Field::RetriesLeft => self.left.map(|left| Value::Number(left.retries.into())),
            Field::TimeLeft => self.left?.time.map(millis),
            Field::DeadlineLeft => self.deadline.map(|deadline| millis(deadline.remaining(SystemTime::now()))),
            Field::Trace => self.trace.map(|trace| {
                let high = trace.trace_high().map(|high| format!("{high:016x}")).unwrap_or_default();
                Value::Text(format!("{high}{:016x}", trace.trace()).into())
            }),
            Field::Span => self.trace.map(|trace| Value::Text(format!("{:016x}", trace.span()).into())),
            Field::Referer => bytes(&asked.referer),
            Field::UserAgent => bytes(&asked.agent),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.log.clone().record(self);
    }
}

impl FromStr for Template {
    type Err = BadTemplate;

    fn from_str(text: &str) -> Result<Self, BadTemplate> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let (name, after) = rest.split_once('}').filter(|_| brace == "{").ok_or(BadTemplate::Brace)?;
            let field = Field::ALL.iter().find(|field| field.name() == name);
            let field = field.ok_or_else(|| BadTemplate::Unknown(name.to_owned()))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Field(*field));
            rest = after;
        }
        if parts.is_empty() {
            return Err(BadTemplate::Constant(text.to_owned()));
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_text_fields_and_braces() {
        let template: Template = "{{{method}}} {uri}!".parse().unwrap();
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(template.0, [text("{"), Part::Field(Field::Method), text("} "), Part::Field(Field::Uri), text("!")]);
    }

    #[test]
    fn a_bad_template_says_what_is_wrong() {
        for (text, says) in [
            ("{metod}", "'{metod}' is no field; there are time, router, client, "),
            ("{method", "a '{' or '}' stands alone; twice it is text"),
            ("method}", "a '{' or '}' stands alone; twice it is text"),
            ("jsn", "'jsn' has no fields; it is combined, json, or a text such as {time} {method} {uri}"),
        ] {
            let error = text.parse::<Template>().unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }

    #[test]
    fn every_field_is_documented() {
        let source = include_str!("record.rs");
        for field in Field::ALL {
            assert!(source.contains(&format!("`{}`", field.name())), "{field:?}");
        }
    }
}

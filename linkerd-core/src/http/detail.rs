//! All that is known of a failure, for programs: one line of JSON in `l5d-err-json`.

use std::fmt::{self, Write};

use http::{HeaderValue, Response};
use linkerd_retry::Delivery;

use super::headers::L5D_ERR_JSON;
use crate::{AttemptLog, Attempted, Body, Error, Left, TimedOut};

/// A failure: an error of ours, or an answer of which more than one attempt was made.
struct Detail<'a> {
    status: u16,
    error: Option<&'a Error>,
    log: Option<&'a AttemptLog>,
    left: Option<Left>,
}

/// How much of it is told: what does not fit is told with less.
#[derive(Clone, Copy)]
struct Extent {
    attempts: usize,
    reason_chars: usize,
}

const EXTENTS: [Extent; 4] = [
    Extent { attempts: usize::MAX, reason_chars: 2000 },
    Extent { attempts: 5, reason_chars: 500 },
    Extent { attempts: 1, reason_chars: 100 },
    Extent { attempts: 0, reason_chars: 0 },
];

/// Writes it on a response, beside that of a hop further on, if it fits into so many bytes. An answer as it came from an
/// endpoint has none.
pub(super) fn write(rsp: &mut Response<Body>, error: Option<&Error>, max_bytes: usize) {
    let (answered, left) = (rsp.extensions().get::<AttemptLog>(), rsp.extensions().get::<Left>());
    if error.is_none() && answered.is_none() {
        return;
    }
    let detail = Detail {
        status: rsp.status().as_u16(),
        error,
        log: error.map_or(answered, Error::attempts),
        left: error.map_or_else(|| left.copied(), Error::left),
    };
    let lines = EXTENTS.iter().map(|extent| detail.line(*extent));
    let fitting = lines.into_iter().find(|line| line.len() <= max_bytes);
    if let Some(value) = fitting.and_then(|line| HeaderValue::try_from(line).ok()) {
        rsp.headers_mut().append(L5D_ERR_JSON, value);
    }
}

impl Detail<'_> {
    fn line(&self, extent: Extent) -> String {
        let mut line = Line::default();
        line.text("kind", self.error.map_or("answered", |error| error.kind().name()));
        line.raw("status", self.status);
        if let Some(error) = self.error {
            if let Some(TimedOut { timer, limit, set_by }) = error.timer() {
                line.open("timer", '{');
                line.text("name", timer.name());
                line.raw("ms", limit.as_millis());
                line.text("setBy", set_by);
                line.close('}');
            }
            let texts = [("name", error.dst()), ("client", error.client())];
            for (key, path) in texts {
                if let Some(path) = path {
                    line.text(key, path);
                }
            }
        }
        if let Some(log) = self.log {
            line.attempts(log, extent.attempts);
        }
        if let Some(left) = self.left {
            line.raw("retriesLeft", left.retries);
            if let Some(time) = left.time {
                line.raw("timeLeftMs", time.as_millis());
            }
        }
        if let Some(error) = self.error {
            line.raw("mayHaveBeenProcessed", error.may_have_been_processed());
            if let Some(bytes) = error.bytes_written() {
                line.raw("bytesWritten", bytes);
            }
            line.raw("final", error.is_final());
            let reason: String = error.own_text().chars().take(extent.reason_chars).collect();
            if !reason.is_empty() {
                line.text("reason", reason);
            }
        }
        line.end()
    }
}

/// Members of an object, in ASCII.
pub(crate) struct Line(String);

impl Default for Line {
    fn default() -> Self {
        Self(String::with_capacity(512))
    }
}

impl Line {
    /// The object.
    pub(crate) fn end(mut self) -> String {
        self.0.insert(0, '{');
        self.0.push('}');
        self.0
    }

    fn key(&mut self, key: &str) {
        if !self.0.is_empty() && !self.0.ends_with(['{', '[']) {
            self.0.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(self.0, "\"{key}\":");
    }

    pub(crate) fn raw(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        let _ = write!(self.0, "{value}");
    }

    pub(crate) fn text(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        self.0.push('"');
        for unit in value.to_string().encode_utf16() {
            match char::from_u32(u32::from(unit)) {
                Some(c @ ('"' | '\\')) => self.0.extend(['\\', c]),
                Some(c @ ' '..='~') => self.0.push(c),
                Some('\n') => self.0.push_str("\\n"),
                _ => drop(write!(self.0, "\\u{unit:04x}")),
            }
        }
        self.0.push('"');
    }

    fn open(&mut self, key: &str, bracket: char) {
        self.key(key);
        self.0.push(bracket);
    }

    fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    fn attempts(&mut self, log: &AttemptLog, most: usize) {
        let tried = log.tried();
        let shown = &tried[tried.len().saturating_sub(most)..];
        self.raw("attemptsMade", tried.len() + log.omitted() as usize);
        self.open("attempts", '[');
        for Attempted { number, endpoint, is_hedge, outcome, took } in shown {
            if !self.0.ends_with('[') {
                self.0.push(',');
            }
            self.0.push('{');
            self.raw("n", number);
            if let Some(endpoint) = endpoint {
                self.text("endpoint", endpoint);
            }
            if *is_hedge {
                self.raw("hedge", true);
            }
            self.text("outcome", outcome);
            self.raw("ms", took.as_millis());
            self.0.push('}');
        }
        self.close(']');
        if let Some(stop) = log.stop() {
            self.text("stopped", stop);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::{AttemptOutcome, ErrorKind, Timer};

    fn failed(attempts: usize) -> Error {
        let mut log = AttemptLog::default();
        for _ in 0..attempts {
            let answered = AttemptOutcome::Answered(StatusCode::BAD_GATEWAY);
            log.push(Some(([10, 0, 0, 1], 80).into()), answered, Duration::from_millis(5));
        }
        log.end(linkerd_retry::Stop::BudgetExhausted);
        Error::new(ErrorKind::TotalTimeout)
            .with_dst(&"/svc/web".parse().unwrap())
            .with_timer(Timer::Total.after(Duration::from_millis(500)))
            .with_text("caf\u{e9} \"1\"\n\u{1f980}\\".repeat(if attempts > 5 { 100 } else { 1 }))
            .with_attempts(log)
    }

    fn told(error: Option<&Error>, mut rsp: Response<Body>, max_bytes: usize) -> Option<String> {
        write(&mut rsp, error, max_bytes);
        rsp.headers().get(L5D_ERR_JSON).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn it_is_one_line_of_ascii() {
        let line = told(Some(&failed(2)), Response::new(Body::empty()), 8192).unwrap();
        let expected = concat!(
            r#"{"kind":"total_timeout","status":200,"timer":{"name":"total","ms":500,"setBy":"service.totalTimeoutMs"},"#,
            r#""name":"/svc/web","attemptsMade":2,"attempts":[{"n":1,"endpoint":"10.0.0.1:80","outcome":"502","ms":5},"#,
            r#"{"n":2,"endpoint":"10.0.0.1:80","outcome":"502","ms":5}],"stopped":"retry budget exhausted","#,
            r#""mayHaveBeenProcessed":true,"final":false,"reason":"caf\u00e9 \"1\"\n\ud83e\udd80\\"}"#
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn what_does_not_fit_is_told_with_less_and_at_last_not_at_all() {
        let error = failed(100);
        let mut last = usize::MAX;
        for (max, attempts) in [(16 * 1024, 32), (2000, 5), (600, 1), (300, 0)] {
            let line = told(Some(&error), Response::new(Body::empty()), max).unwrap();
            assert!(line.len() <= max.min(last), "{line}");
            assert_eq!(line.matches("\"n\":").count(), attempts, "{line}");
            assert!(line.contains("\"attemptsMade\":100"));
            last = line.len();
        }
        assert_eq!(told(Some(&error), Response::new(Body::empty()), 100), None);
    }

    #[test]
    fn an_answer_has_one_if_there_is_more_to_tell_and_keeps_that_of_another_hop() {
        assert_eq!(told(None, Response::new(Body::empty()), 8192), None);
        let mut rsp = Response::new(Body::empty());
        rsp.headers_mut().insert(L5D_ERR_JSON, HeaderValue::from_static("{}"));
        rsp.extensions_mut().insert(failed(2).attempts().unwrap().clone());
        rsp.extensions_mut().insert(Left { retries: 3, time: Some(Duration::from_millis(20)) });
        write(&mut rsp, None, 8192);
        let lines: Vec<_> = rsp.headers().get_all(L5D_ERR_JSON).iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(lines[0], "{}");
        assert!(lines[1].starts_with(r#"{"kind":"answered","status":200,"attemptsMade":2,"#), "{}", lines[1]);
        assert!(lines[1].ends_with(r#""retriesLeft":3,"timeLeftMs":20}"#), "{}", lines[1]);
    }
}

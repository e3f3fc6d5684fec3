//! Pages about the life of the process: `/admin/shutdown`, `/admin/drain`, `/admin/reload`, `/admin/ready`, `/admin/live` and
//! `/logging.json`.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Show,
    params::{BadParams, Params},
    reply::{self, Kind},
};
use crate::{Body, BoxError};

/// Loggers and their levels, as `/logging.json` shows and sets them.
#[derive(Clone)]
pub struct Logging {
    levels: Show<Vec<(String, String)>>,
    set: Arc<Set>,
}

type Set = dyn Fn(&str, &str) -> Result<(), BoxError> + Send + Sync;

pub(super) type Shutdown = Arc<dyn Fn(Option<Duration>) + Send + Sync>;

/// What `/admin/drain` does with true for `POST` and false for `DELETE`.
pub(super) type Drain = Arc<dyn Fn(bool) + Send + Sync>;

/// What `/admin/ready` asks: why not, if it is not.
pub(super) type Ready = Show<Result<(), String>>;

/// What `/admin/live` asks.
pub(super) type Live = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// What `/admin/reload` does and shows.
#[derive(Clone)]
pub(super) struct Reload {
    pub(super) state: Show<Value>,
    pub(super) reload: Arc<dyn Fn() -> BoxFuture<'static, Result<Value, String>> + Send + Sync>,
}

impl Logging {
    /// Shows what `levels` returns, pairs of a logger and its level, the root logger being `root`; hands what is posted to
    /// `set`: logger, and level in upper case. An unknown logger is no error. A level that does not exist is one, and
    /// its text is part of the answer.
    pub fn new(
        levels: impl Fn() -> Vec<(String, String)> + Send + Sync + 'static,
        set: impl Fn(&str, &str) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self { levels: Arc::new(levels), set: Arc::new(set) }
    }

    pub(super) fn levels(&self) -> Vec<(String, String)> {
        (self.levels)()
    }

    pub(super) async fn serve(&self, req: Request<Body>) -> Response<Body> {
        if req.method() == Method::GET || req.method() == Method::HEAD {
            let levels = self.levels();
            let levels: Vec<_> =
                levels.iter().map(|(logger, level)| json!({"logger": logger, "level": level})).collect();
            return reply::json(Kind::Json, &levels.into());
        }
        if req.method() != Method::POST {
            return reply::not_allowed("GET, POST");
        }
        match self.post(req).await {
            Ok(()) => reply::empty(StatusCode::OK),
            Err(error) => error.answer(),
        }
    }

    async fn post(&self, req: Request<Body>) -> Result<(), BadParams> {
        let params = Params::of(req).await?;
        let logger = params.required("logger")?;
        let level = params.required("level")?;
        let value = level.to_owned();
        (self.set)(logger, &level.to_ascii_uppercase()).map_err(|reason| BadParams::Rejected {
            name: "level",
            value,
            reason,
        })
    }
}

/// `POST`: ends the process, after `grace` if it is given (`5.seconds`, or a number of milliseconds).
pub(super) async fn shut_down(shutdown: &Shutdown, req: Request<Body>) -> Response<Body> {
    if req.method() != Method::POST {
        let mut rsp = reply::with_status(StatusCode::METHOD_NOT_ALLOWED, Kind::TextUtf8, ());
        rsp.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return rsp;
    }
    let params = match Params::of(req).await {
        Ok(params) => params,
        Err(error) => return error.answer(),
    };
    let grace = match params.get("grace").map(|text| duration(text).ok_or(text)).transpose() {
        Ok(grace) => grace,
        Err(text) => {
            let expected = "a duration such as 5.seconds";
            return BadParams::Unexpected { name: "grace", expected, value: text.to_owned() }.answer();
        }
    };
    shutdown(grace);
    reply::page(Kind::TextUtf8, "quitting\n")
}

/// `POST` begins to drain, `DELETE` undoes it.
pub(super) fn drain(drain: &Drain, req: &Request<Body>) -> Response<Body> {
    let drains = match *req.method() {
        Method::POST => true,
        Method::DELETE => false,
        _ => return reply::not_allowed("POST, DELETE"),
    };
    drain(drains);
    reply::page(Kind::TextUtf8, if drains { "draining\n" } else { "no longer draining\n" })
}

/// 200, or 503 with why not.
pub(super) fn ready(ready: &Ready) -> Response<Body> {
    match ready() {
        Ok(()) => reply::page(Kind::TextUtf8, "ready\n"),
        Err(why) => reply::with_status(StatusCode::SERVICE_UNAVAILABLE, Kind::TextUtf8, format!("{why}\n")),
    }
}

/// 200, or 503.
pub(super) async fn live(live: &Live) -> Response<Body> {
    if live().await {
        return reply::page(Kind::TextUtf8, "live\n");
    }
    let text = "the threads that serve requests do not answer\n";
    reply::with_status(StatusCode::SERVICE_UNAVAILABLE, Kind::TextUtf8, text)
}

impl Reload {
    /// `GET` shows how it went so far; `POST` reloads, and answers when that is done: 422 with all problems if it cannot be.
    pub(super) async fn serve(&self, req: Request<Body>) -> Response<Body> {
        if req.method() == Method::GET || req.method() == Method::HEAD {
            return reply::json(Kind::Json, &(self.state)());
        }
        if req.method() != Method::POST {
            return reply::not_allowed("GET, POST");
        }
        match (self.reload)().await {
            Ok(done) => reply::json(Kind::Json, &done),
            Err(problems) => {
                reply::with_status(StatusCode::UNPROCESSABLE_ENTITY, Kind::TextUtf8, format!("{problems}\n"))
            }
        }
    }
}

/// A duration as Twitter's: `10.seconds`, `1.minute`; a bare number is milliseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_once('.').unwrap_or((text, "milliseconds"));
    let number: u64 = number.parse().ok()?;
    let nanos: u64 = match unit.strip_suffix('s').unwrap_or(unit) {
        "nanosecond" => 1,
        "microsecond" => 1000,
        "millisecond" => 1_000_000,
        "second" => 1_000_000_000,
        "minute" => 60_000_000_000,
        "hour" => 3_600_000_000_000,
        "day" => 86_400_000_000_000,
        _ => return None,
    };
    number.checked_mul(nanos).map(Duration::from_nanos)
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("levels", &self.levels()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_twitters() {
        for (text, value) in [
            ("10.seconds", Some(Duration::from_secs(10))),
            ("1.minute", Some(Duration::from_mins(1))),
            ("250", Some(Duration::from_millis(250))),
            ("5.parsecs", None),
            ("-1.seconds", None),
            ("", None),
            ("99999999999999999999.days", None),
            ("9999999999999.days", None),
        ] {
            assert_eq!(duration(text), value, "{text}");
        }
    }
}

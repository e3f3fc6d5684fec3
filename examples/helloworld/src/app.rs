//! What a server answers.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use tokio::time::{sleep, timeout};

use crate::{Options, ServeError, duration, target::Target};

/// An answer that takes longer is not sent: the connection is closed in its place.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// One server's text, target and faults.
#[derive(Debug)]
pub(crate) struct App {
    text: String,
    json: bool,
    target: Option<Target>,
    // Nanoseconds. Relaxed, as the other two: each stands for itself and orders nothing.
    latency: AtomicU64,
    // The bits of an `f64` from 0 to 1.
    failure_rate: AtomicU64,
    requests: AtomicU64,
}

/// The answer took longer than [`WRITE_TIMEOUT`].
#[derive(Debug, thiserror::Error)]
#[error("no answer within {WRITE_TIMEOUT:?}")]
pub(crate) struct TooLate;

impl App {
    pub(crate) fn new(options: &Options) -> Result<Self, ServeError> {
        let text = match &options.pod_ip {
            Some(ip) => format!("{} ({ip})", options.text),
            None => options.text.clone(),
        };
        let app = Self {
            text,
            json: options.json,
            target: Target::new(options)?,
            latency: AtomicU64::new(0),
            failure_rate: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        };
        app.set_latency(options.latency);
        app.set_failure_rate(options.failure_rate)?;
        Ok(app)
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.store(nanos, Ordering::Relaxed);
    }

    pub(crate) fn set_failure_rate(&self, rate: f64) -> Result<(), ServeError> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(ServeError::FailureRate(rate));
        }
        self.failure_rate.store(rate.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Requests so far, without those to `/setLatency` and `/setFailureRate`.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// An answer that would come too late to be sent.
    pub(crate) async fn answer<B>(&self, req: Request<B>) -> Result<Answer, TooLate> {
        match req.uri().path() {
            "/setLatency" => Ok(self.change(&req, "latency", |app, value| {
                app.set_latency(duration::parse(value).ok_or("latency is not a valid duration")?);
                Ok(())
            })),
            "/setFailureRate" => Ok(self.change(&req, "failureRate", |app, value| {
                let rate = value.parse().map_err(|_| "failureRate is not a valid float")?;
                app.set_failure_rate(rate).map_err(|_| "failureRate must be between 0.0 and 1.0")
            })),
            _ => timeout(WRITE_TIMEOUT, self.greet(req.headers())).await.map_err(|_| TooLate),
        }
    }

    async fn greet(&self, headers: &HeaderMap) -> Answer {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let latency = Duration::from_nanos(self.latency.load(Ordering::Relaxed));
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let rate = f64::from_bits(self.failure_rate.load(Ordering::Relaxed));
        if fails(rate, random()) {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "");
        }

        let mut text = self.text.clone().into_bytes();
        if let Some(target) = &self.target {
            match target.call(&context(headers)).await {
                Ok(answer) => {
                    text.push(b' ');
                    text.extend_from_slice(&answer);
                }
                Err(err) => return error(StatusCode::SERVICE_UNAVAILABLE, &err.to_string()),
            }
        }
        if self.json {
            return answer(StatusCode::OK, json(&text).into());
        }
        text.push(b'!');
        answer(StatusCode::OK, text.into())
    }

    fn change<B>(&self, req: &Request<B>, name: &str, set: impl Fn(&Self, &str) -> Result<(), &'static str>) -> Answer {
        if req.method() != Method::POST {
            return error(StatusCode::METHOD_NOT_ALLOWED, "POST required");
        }
        let value = parameter(req.uri().query().unwrap_or_default(), name);
        if value.is_empty() {
            return error(StatusCode::BAD_REQUEST, &format!("missing required parameter: {name}"));
        }
        match set(self, &value) {
            Ok(()) => answer(StatusCode::OK, Bytes::from_static(b"ok")),
            Err(problem) => error(StatusCode::BAD_REQUEST, problem),
        }
    }
}

fn answer(status: StatusCode, body: Bytes) -> Answer {
    let mut rsp = Response::new(Full::new(body));
    *rsp.status_mut() = status;
    // Go guesses the type from the text, and JSON is plain text to it.
    rsp.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    rsp
}

fn error(status: StatusCode, text: &str) -> Answer {
    let mut rsp = answer(status, format!("{text}\n").into());
    rsp.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    rsp
}

/// The headers that go along with a call: the first value of each whose name starts with `l5d-ctx`.
fn context(headers: &HeaderMap) -> HeaderMap {
    let names = headers.keys().filter(|name| name.as_str().starts_with("l5d-ctx"));
    names.map(|name| (name.clone(), headers[name].clone())).collect()
}

/// The object that Go's encoder makes: it escapes what HTML gives a meaning, and what ends a line in a script.
fn json(text: &[u8]) -> String {
    let text = serde_json::Value::from(String::from_utf8_lossy(text));
    let text = text
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029");
    format!("{{\"api_result\":{text}}}")
}

/// The first value of a query's parameter, decoded; empty if there is none.
fn parameter(query: &str, name: &str) -> String {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .map(|(key, value)| (decode(key), value))
        .find(|(key, _)| key == name)
        .map_or(String::new(), |(_, v)| decode(v))
}

/// Whether a request with these random bits is among the share that fails.
fn fails(rate: f64, random: u64) -> bool {
    // 53 bits are what an `f64` holds exactly, so this is below 1 always: a rate of 1 fails all, one of 0 none.
    ((random >> 11) as f64 / (1_u64 << 53) as f64) < rate
}

fn random() -> u64 {
    // Each state has keys of its own: good enough for a stand-in, and no dependency.
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn app(options: &Options) -> App {
        App::new(options).unwrap()
    }

    async fn body(rsp: Answer) -> String {
        use http_body_util::BodyExt;
        String::from_utf8(rsp.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    fn request(method: &str, uri: &str) -> Request<()> {
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    async fn send(app: &App, method: &str, uri: &str) -> (u16, String) {
        let rsp = app.answer(request(method, uri)).await.unwrap();
        assert_eq!(rsp.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(rsp.headers().contains_key(X_CONTENT_TYPE_OPTIONS), rsp.status() != 200);
        (rsp.status().as_u16(), body(rsp).await)
    }

    #[tokio::test]
    async fn any_path_and_method_gets_the_text() {
        let hello = app(&Options { pod_ip: Some("10.0.0.1".into()), ..Options::default() });
        for (method, uri) in [("GET", "/"), ("POST", "/a/b?c"), ("BREW", "*"), ("DELETE", "http://hello/")] {
            assert_eq!(send(&hello, method, uri).await, (200, "Hello (10.0.0.1)!".into()), "{method} {uri}");
        }
        assert_eq!(hello.requests(), 4);
    }

    #[tokio::test]
    async fn json_has_no_exclamation_mark_and_is_escaped_as_go_does() {
        let api = app(&Options { json: true, text: "a<b>&\"\u{2028}\n".into(), ..Options::default() });
        let expected = r#"{"api_result":"a\u003cb\u003e\u0026\"\u2028\n"}"#;
        assert_eq!(send(&api, "GET", "/").await, (200, expected.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn latency_can_be_changed_and_is_waited_for() {
        let world = app(&Options { latency: Duration::from_millis(200), ..Options::default() });
        let begun = Instant::now();
        send(&world, "GET", "/").await;
        assert_eq!(begun.elapsed().as_millis(), 200);

        assert_eq!(send(&world, "POST", "/setLatency?latency=1.5s").await, (200, "ok".into()));
        let begun = Instant::now();
        send(&world, "GET", "/").await;
        assert_eq!(begun.elapsed().as_millis(), 1500);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_after_ten_seconds_is_not_sent() {
        let world = app(&Options { latency: Duration::from_millis(9_998), ..Options::default() });
        assert!(world.answer(request("GET", "/")).await.is_ok());
        world.set_latency(Duration::from_millis(10_002));
        assert!(world.answer(request("GET", "/")).await.is_err());
    }

    #[tokio::test]
    async fn failures_are_a_newline_and_their_rate_can_be_changed() {
        let world = app(&Options { failure_rate: 1.0, ..Options::default() });
        assert_eq!(send(&world, "GET", "/").await, (500, "\n".into()));
        assert_eq!(send(&world, "POST", "/setFailureRate?failureRate=0").await, (200, "ok".into()));
        assert_eq!(send(&world, "GET", "/").await, (200, "Hello!".into()));
    }

    #[tokio::test]
    async fn a_bad_change_is_refused_and_changes_nothing() {
        let world = app(&Options { latency: Duration::from_secs(3), failure_rate: 0.25, ..Options::default() });
        for (method, uri, status, text) in [
            ("GET", "/setLatency?latency=1s", 405, "POST required\n"),
            ("POST", "/setLatency", 400, "missing required parameter: latency\n"),
            ("POST", "/setLatency?latency=", 400, "missing required parameter: latency\n"),
            ("POST", "/setLatency?latency=5", 400, "latency is not a valid duration\n"),
            ("PUT", "/setFailureRate?failureRate=1", 405, "POST required\n"),
            ("POST", "/setFailureRate?x=1", 400, "missing required parameter: failureRate\n"),
            ("POST", "/setFailureRate?failureRate=x", 400, "failureRate is not a valid float\n"),
            ("POST", "/setFailureRate?failureRate=1.5", 400, "failureRate must be between 0.0 and 1.0\n"),
            ("POST", "/setFailureRate?failureRate=NaN", 400, "failureRate must be between 0.0 and 1.0\n"),
        ] {
            assert_eq!(send(&world, method, uri).await, (status, text.into()), "{method} {uri}");
        }
        assert_eq!(world.latency.load(Ordering::Relaxed), 3_000_000_000);
        assert_eq!(world.failure_rate.load(Ordering::Relaxed), 0.25_f64.to_bits());
        assert_eq!(world.requests(), 0);
    }

    #[test]
    fn the_share_of_failures_is_the_rate() {
        let failed = (0..10_000).filter(|_| fails(0.3, random())).count();
        assert!((2_500..3_500).contains(&failed), "{failed}"); // Ten standard deviations.
        assert!(!fails(0.0, 0));
        assert!(fails(1.0, u64::MAX));
    }

    #[test]
    fn a_call_takes_the_first_value_of_context_headers_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("L5d-Ctx-Dtab", "/a=>/b"),
            ("l5d-ctx-trace", "1"),
            ("l5d-ctx-trace", "2"),
            ("l5d-dtab", "x"),
            ("l5d-reqid", "y"),
        ] {
            headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
        }
        let sent = context(&headers);
        assert_eq!(sent.len(), 2);
        assert_eq!(sent["l5d-ctx-dtab"], "/a=>/b");
        assert_eq!(sent["l5d-ctx-trace"], "1");
    }

    #[test]
    fn parameters_are_decoded_and_the_first_one_counts() {
        assert_eq!(parameter("a=1&latency=%31s&latency=2s", "latency"), "1s");
        assert_eq!(parameter("latency=1+s", "latency"), "1 s");
        assert_eq!(parameter("latency", "latency"), "");
    }

    #[test]
    fn a_bad_rate_does_not_start() {
        let err = App::new(&Options { failure_rate: f64::NAN, ..Options::default() }).unwrap_err();
        assert_eq!(err.to_string(), "failure rate NaN is not between 0.0 and 1.0");
    }
}

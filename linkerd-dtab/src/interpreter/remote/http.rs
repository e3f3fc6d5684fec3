//! The interpreter that asks a namerd by HTTP (`io.l5d.namerd.http`).

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    select,
    time::{sleep, timeout},
};

use super::{
    Explaining, Leaf, Source, Watching,
    lines::Lines,
    pauses::random_share,
    pulse::{Felt, Pulse},
};
use crate::{
    Addr, Delegation, Dtab, Failure, NameTree, Path, Publisher, State,
    delegate::parse,
    transport::{Body, Heartbeat, Transport, full},
};

/// The longest document that is read, in bytes: 16 MiB. A longer one ends its watch.
pub const MAX_DOCUMENT: usize = 16 << 20;

/// How much is shown of what a namerd says in place of a document.
const SHOWN: usize = 500;

/// For how long nothing comes of a watch before it is asked for anew: its connection may lead nowhere any more.
pub const QUIET: Duration = Duration::from_mins(2);

/// How long a namerd has to begin to answer then.
const AGAIN: Duration = Duration::from_secs(10);

/// What need not be encoded in a query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Nor in a path, of which a namespace may be several segments.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// A namespace of a namerd that is asked by HTTP, by endless responses.
///
/// What is behind the transport may be namerd 1.7.5 or [`namerd::http`](crate::namerd::http). Neither sends anything while
/// nothing changes. That a namerd is gone without a word is found out in three ways: the transport ends the body with an error (by
/// TCP keep-alive, say); while there are watches, a request of its own checks it every so often ([`heartbeat`](Self::heartbeat)), and all
/// watches end when two in a row get no answer; and a watch is asked for anew once nothing has come for [`QUIET`], a tenth more or
/// less.
#[derive(Clone)]
pub struct Http {
    transport: Arc<dyn Transport>,
    namespace: Arc<str>,
    pulse: Pulse,
}

/// Why a namerd does not answer by HTTP, or not any more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// It was not reached.
    #[error("namerd cannot be reached")]
    Unreachable(#[source] Failure),
    /// It answered with something else than 200.
    #[error("namerd answered {status}{colon}{text}", colon = if .text.is_empty() { "" } else { ": " })]
    Status {
        /// With what.
        status: StatusCode,
        /// And what it said, possibly shortened.
        text: String,
    },
    /// It said this in place of a document, possibly shortened: the name cannot be bound.
    #[error("namerd said: {0}")]
    Said(String),
    /// A document is none of the known shapes.
    #[error("namerd sent a document that is malformed")]
    Malformed(#[source] parse::Malformed),
    /// A document is longer than [`MAX_DOCUMENT`].
    #[error("namerd sent a document of more than {max} bytes")]
    TooLong {
        /// How long it may be.
        max: usize,
    },
    /// The connection broke.
    #[error("the watch was cut short")]
    CutShort(#[source] Failure),
    /// A watch was asked for anew, and nothing came of that for so long.
    #[error("namerd says nothing for {seconds} s")]
    Silent {
        /// How long, in seconds.
        seconds: u64,
    },
    /// It does not answer any more when it is checked.
    #[error("namerd does not answer when it is checked")]
    Gone,
    /// It ended the response.
    #[error("namerd ended the watch")]
    Ended,
}

impl Http {
    /// Asks about this namespace. It need not be there.
    #[must_use]
    pub fn new(transport: impl Transport, namespace: impl Into<Arc<str>>) -> Self {
        Self { transport: Arc::new(transport), namespace: namespace.into(), pulse: Pulse::default() }
    }

    /// By what a namerd that is gone is noticed: `failureThreshold`, every 5 s and 4 s by default. Any answer counts.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.pulse = Pulse::new(heartbeat);
        self
    }

    fn feel(&self) -> Felt {
        let transport = Arc::clone(&self.transport);
        let target = format!("/api/1/dtabs/{}", utf8_percent_encode(&self.namespace, ENCODED_PATH));
        self.pulse.feel(move || {
            let mut request = Request::new(full(Bytes::new()));
            *request.method_mut() = Method::HEAD;
            // Encoded, so that it is one.
            let target = target.parse().map(|target| *request.uri_mut() = target);
            let sending = transport.send(request);
            async move { target.is_ok() && sending.await.is_ok() }
        })
    }

    fn target(&self, endpoint: &str, path: &Path, dtab: &Dtab, is_watch: bool) -> String {
        let namespace = utf8_percent_encode(&self.namespace, ENCODED_PATH);
        let path = path.to_string();
        let mut target = format!("/api/1/{endpoint}/{namespace}?path={}", utf8_percent_encode(&path, ENCODED));
        if is_watch {
            target += "&watch=true";
        }
        if !dtab.is_empty() {
            let dtab = format!("{dtab:#}");
            target.extend(["&dtab=", &utf8_percent_encode(&dtab, ENCODED).to_string()]);
        }
        target
    }

    async fn get(&self, target: String) -> Result<Response<Body>, HttpError> {
        let mut request = Request::new(full(Bytes::new()));
        // Encoded, so that it is one.
        *request.uri_mut() = target.parse().map_err(|error| HttpError::Unreachable(Arc::new(error)))?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.transport.send(request).await.map_err(HttpError::Unreachable)?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        // What is said at length is of no more use than its beginning.
        let text = whole(response.into_body()).await.map(|text| excerpt(&text)).unwrap_or_default();
        Err(HttpError::Status { status, text })
    }

    async fn open(&self, target: String) -> Result<Lines, HttpError> {
        Ok(Lines::new(self.get(target).await?.into_body(), MAX_DOCUMENT))
    }

    /// The next line, of a watch that is asked for anew when it is quiet. What was known holds meanwhile.
    async fn next(&self, lines: &mut Lines, target: &str, felt: &mut Felt) -> Result<Bytes, HttpError> {
        loop {
            // Jittered: many watches begin at once.
            let quiet = QUIET.mul_f64(0.9 + 0.2 * random_share());
            select! {
                biased;
                line = lines.next() => return line,
                () = felt.gone() => return Err(HttpError::Gone),
                () = sleep(quiet) => {}
            }
            let opened = select! {
                biased;
                () = felt.gone() => return Err(HttpError::Gone),
                opened = timeout(AGAIN, self.open(target.to_owned())) => opened,
            };
            *lines = opened.map_err(|_| HttpError::Silent { seconds: AGAIN.as_secs() })??;
        }
    }

    async fn follow_tree(&self, target: String, tree: &Publisher<NameTree<Leaf>>) -> Result<Infallible, HttpError> {
        let mut lines = self.open(target.clone()).await?;
        let mut felt = self.feel();
        loop {
            let document = document(&self.next(&mut lines, &target, &mut felt).await?)?;
            tree.ok_if_changed(parse::tree(&document).map_err(HttpError::Malformed)?, PartialEq::eq);
        }
    }

    async fn follow_addr(&self, target: String, addr: &Publisher<Addr>) -> Result<Infallible, HttpError> {
        let mut lines = self.open(target.clone()).await?;
        let mut felt = self.feel();
        loop {
            let document = document(&self.next(&mut lines, &target, &mut felt).await?)?;
            match parse::addr(&document).map_err(HttpError::Malformed)? {
                State::Ok(value) => addr.ok_if_changed(value, PartialEq::eq),
                // Its own namer's, of this name: the watch goes on.
                State::Failed(error) => addr.failed(error),
                State::Pending => {}
            }
        }
    }

    async fn explain(&self, target: String) -> Result<Delegation, HttpError> {
        let response = self.get(target).await?;
        let json = whole(response.into_body()).await?;
        let json = String::from_utf8_lossy(&json);
        Delegation::from_json(&json).map_err(HttpError::Malformed)
    }
}

type Document = serde_json::Value;

async fn whole(mut body: Body) -> Result<BytesMut, HttpError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(HttpError::CutShort)?.into_data() {
            whole.extend_from_slice(&data);
        }
        if whole.len() > MAX_DOCUMENT {
            return Err(HttpError::TooLong { max: MAX_DOCUMENT });
        }
    }
    Ok(whole)
}

/// A line of a watch: a document, or why there is none.
fn document(line: &[u8]) -> Result<Document, HttpError> {
    if !line.starts_with(b"{") {
        return Err(HttpError::Said(excerpt(line)));
    }
    parse::value(line).map_err(HttpError::Malformed)
}

pub(super) fn excerpt(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().chars().take(SHOWN).collect()
}

impl Source for Http {
    fn bind<'a>(&'a self, dtab: &'a Dtab, name: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        let target = self.target("bind", name, dtab, true);
        Box::pin(async move {
            let Err(error) = self.follow_tree(target, tree).await;
            Arc::new(error) as Failure
        })
    }

    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        let target = self.target("addr", id, &Dtab::empty(), true);
        Box::pin(async move {
            let Err(error) = self.follow_addr(target, addr).await;
            Arc::new(error) as Failure
        })
    }

    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a> {
        let target = self.target("delegate", name, dtab, false);
        Box::pin(async move { self.explain(target).await.map_err(|error| Arc::new(error) as Failure) })
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

//! Requests, sent by the engine itself as a program would that has it linked in.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use http::{Request, request};
use http_body_util::BodyExt;
use linkerd_core::{BoxError, Client, Mesh};

/// What the text of an answer that is none begins with.
const FAILED: &str = "failed: ";

/// Sends requests to one address.
#[derive(Clone)]
pub struct Traffic {
    client: Client,
    host: String,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its `etag`: of a table, the version.
    pub version: Option<String>,
    /// Its body.
    pub body: String,
}

/// How often each answer came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, usize>);

impl Traffic {
    /// To `addr`, for `host`.
    ///
    /// # Errors
    ///
    /// The client cannot be built.
    pub fn to(addr: SocketAddr, host: &str) -> Result<Self, BoxError> {
        let client = Mesh::builder().build()?.client(&format!("/$/inet/{}/{}", addr.ip(), addr.port()))?;
        Ok(Self { client, host: host.to_owned() })
    }

    /// Sends one GET.
    ///
    /// # Errors
    ///
    /// There is no answer, or not all of it.
    pub async fn get(&self, path: &str, header: Option<(&str, &str)>) -> Result<Answer, BoxError> {
        let mut req = Request::get(path);
        if let Some((name, value)) = header {
            req = req.header(name, value);
        }
        self.send(req, String::new()).await
    }

    /// Sends a request with this body.
    ///
    /// # Errors
    ///
    /// There is no answer, or not all of it.
    pub async fn send(&self, req: request::Builder, body: String) -> Result<Answer, BoxError> {
        let rsp = self.client.send(req.header("host", &self.host).body(body)?).await?;
        let status = rsp.status().as_u16();
        let version = rsp.headers().get("etag").and_then(|version| version.to_str().ok()).map(str::to_owned);
        let body = rsp.into_body().collect().await?.to_bytes();
        Ok(Answer { status, version, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Sends so many, one after the other, and counts their answers.
    ///
    /// # Errors
    ///
    /// One has no answer, or not all of it.
    pub async fn count(&self, requests: usize, header: Option<(&str, &str)>) -> Result<Counts, BoxError> {
        let mut counts = Counts::default();
        for _ in 0..requests {
            counts.add(Ok(self.get("/", header).await?));
        }
        Ok(counts)
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Counts {
    /// One more.
    pub(crate) fn add(&mut self, answer: Result<Answer, BoxError>) {
        let shown = match answer {
            Ok(answer) if answer.status == 200 => answer.body,
            Ok(answer) => format!("{FAILED}{}: {}", answer.status, answer.body.trim_end()),
            Err(error) => format!("{FAILED}{error}"),
        };
        *self.0.entry(shown).or_default() += 1;
    }

    /// All of the other's.
    pub fn add_all(&mut self, other: Self) {
        for (answer, count) in other.0 {
            *self.0.entry(answer).or_default() += count;
        }
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.those(|answer| answer.starts_with(FAILED))
    }

    /// How many have this in their text.
    #[must_use]
    pub fn with(&self, text: &str) -> usize {
        self.those(|answer| !answer.starts_with(FAILED) && answer.contains(text))
    }

    fn those(&self, which: impl Fn(&str) -> bool) -> usize {
        self.0.iter().filter(|(answer, _)| which(answer)).map(|(_, count)| count).sum()
    }

    /// How often this answer came.
    #[must_use]
    pub fn of(&self, answer: &str) -> usize {
        self.0.get(answer).copied().unwrap_or(0)
    }

    /// How many there were.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (answer, count)) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{count} x {answer:?}")?;
        }
        Ok(())
    }
}

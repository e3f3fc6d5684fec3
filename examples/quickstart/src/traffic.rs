//! Requests, sent by the engine itself as a program would that has it linked in.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use http::Request;
use http_body_util::BodyExt;
use linkerd_core::{BoxError, Client, Mesh};

/// Sends requests to one address.
pub(crate) struct Traffic {
    client: Client,
    host: String,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// How often each answer came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<String, usize>);

impl Traffic {
    /// To `addr`, for `host`.
    pub(crate) fn to(addr: SocketAddr, host: &str) -> Result<Self, BoxError> {
        let client = Mesh::builder().build()?.client(&format!("/$/inet/{}/{}", addr.ip(), addr.port()))?;
        Ok(Self { client, host: host.to_owned() })
    }

    /// Sends one GET.
    pub(crate) async fn get(&self, path: &str, header: Option<(&str, &str)>) -> Result<Answer, BoxError> {
        let mut req = Request::get(path).header("host", &self.host);
        if let Some((name, value)) = header {
            req = req.header(name, value);
        }
        let rsp = self.client.send(req.body("")?).await?;
        let status = rsp.status().as_u16();
        let body = rsp.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Sends so many, one after the other, and counts their answers.
    pub(crate) async fn count(&self, requests: usize, header: Option<(&str, &str)>) -> Result<Counts, BoxError> {
        let mut counts = Counts::default();
        for _ in 0..requests {
            let answer = self.get("/", header).await?;
            counts.add(match answer.status {
                200 => answer.body,
                status => format!("{status}: {}", answer.body.trim_end()),
            });
        }
        Ok(counts)
    }
}

impl Counts {
    fn add(&mut self, answer: String) {
        *self.0.entry(answer).or_default() += 1;
    }

    /// How often this answer came.
    pub(crate) fn of(&self, answer: &str) -> usize {
        self.0.get(answer).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> usize {
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

//! Bodies that are read whole before a request is passed on, so that it can be sent again.

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::Shared;
use crate::{Body, telemetry::ServerStats};

/// Why a body was not read whole.
pub(super) enum Unread {
    /// It broke off, or is none.
    Broken,
    /// It took as long as the whole request may.
    TooLate,
}

impl Shared {
    /// Whether a body is short enough to be read whole, so that the request can be sent again.
    pub(super) fn reads_whole(&self, body: &Incoming, is_chunked: bool) -> bool {
        let limit = self.config.aggregate_up_to;
        let is_short = match body.size_hint().exact() {
            Some(len) if !is_chunked => len <= limit as u64,
            _ => self.config.aggregate_unknown || limit == usize::MAX,
        };
        is_short && !body.is_end_stream()
    }
}

/// Reads a body whole; if it turns out to be longer than `limit`, the rest of it is still to come.
pub(super) async fn read_whole(
    mut body: Incoming,
    limit: usize,
    stats: Option<&ServerStats>,
) -> Result<Body, hyper::Error> {
    let mut start = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            if let Some(stats) = stats {
                stats.trailers_dropped();
            }
            continue;
        };
        if start.is_empty() {
            start = data;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&start);
            }
            whole.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
        if start.len().max(whole.len()) > limit {
            let read = if whole.is_empty() { start } else { whole.freeze() };
            return Ok(Body::begun(read, body));
        }
    }
    Ok(if whole.is_empty() { start } else { whole.freeze() }.into())
}

//! The bodies of requests: which are read, how much of them, and for how long.

use std::{fmt, pin::pin};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{
    MAX_BODY, MAX_QUESTION, delegate,
    dtab_body::Form,
    params,
    reply::Problem,
    route::{Change, Route},
    tags,
};
use crate::{
    namerd::{
        Role, Session,
        limits::{READ_TIMEOUT, Reading},
    },
    store::Expect,
};

/// A body that was read. It counts as being read until it is dropped.
#[derive(Debug)]
pub(super) struct Read {
    bytes: Bytes,
    _reading: Reading,
}

impl Read {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// How much of the body is wanted; 0 where it has no meaning. What can be refused without it is refused here.
pub(super) fn wanted(session: &Session, head: &Parts, route: &Route<'_>) -> Result<usize, Problem> {
    match route {
        Route::Dtab(namespace) if matches!(head.method, Method::POST | Method::PUT) => {
            Form::given(&head.headers)?;
            let namespace = params::namespace(namespace)?;
            let expect = if head.method == Method::PUT { tags::expected(&head.headers)? } else { Expect::Absent };
            session.may_change(&namespace, &expect, false)?;
            Ok(MAX_BODY)
        }
        Route::Change(Change::Plan | Change::Check, namespace) if head.method == Method::POST => {
            Form::given(&head.headers)?;
            session.may(&params::namespace(namespace)?, Role::Read)?;
            Ok(MAX_BODY)
        }
        // As Linkerd: not even a charset beside it.
        Route::DelegateAny if head.method == Method::POST => {
            if head.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != delegate::JSON) {
                let text = format!("the Content-Type has to be {} and nothing else", delegate::JSON);
                return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
            }
            session.may_do_something()?;
            Ok(MAX_QUESTION)
        }
        _ => Ok(0),
    }
}

/// Reads a body of at most `limit` bytes; one of which nothing is wanted is left alone.
pub(super) async fn read<B>(body: B, limit: usize, mut reading: Reading) -> Result<Read, Problem>
where
    B: http_body::Body,
    B::Error: fmt::Display,
{
    if limit == 0 {
        return Ok(Read { bytes: Bytes::new(), _reading: reading });
    }
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut body = pin!(body);
    let mut whole = BytesMut::new();
    let all = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Problem::bad(format!("the body could not be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = whole.len() + bytes::Buf::remaining(&data);
            if length > limit {
                return Err(too_large());
            }
            reading.hold(length)?;
            whole.put(data);
        }
        Ok(())
    };
    let late = || Problem::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {READ_TIMEOUT:?}"));
    timeout(READ_TIMEOUT, all).await.unwrap_or_else(|_| Err(late()))?;
    Ok(Read { bytes: whole.freeze(), _reading: reading })
}

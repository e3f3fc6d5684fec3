//! Responses in the form that Linkerd has and reads.

use std::sync::Arc;

use futures::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tonic::{Code, Status};

use super::{follow, status};
use crate::{
    Failure,
    namerd::{Meter, Reason},
    transport::{Body, full},
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc+proto");

/// The response as it is sent, with what becomes of it counted.
///
/// A status without messages is sent in trailers: a Linkerd takes a response of headers alone for one that never ends. What
/// nobody answers is a bad request, as it is in namerd 1.7.5, with a gRPC status for all others.
pub(super) fn finish(response: Response<tonic::body::Body>, meter: &Meter, is_stream: bool) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    head.headers.insert(header::CONTENT_TYPE, GRPC);
    // Counts itself.
    if let Some(told) = follow::take(&mut head.extensions) {
        return Response::from_parts(head, told);
    }
    let code = head.headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    let body = match code {
        None => body.map_err(|status| Arc::new(status) as Failure).boxed_unsync(),
        Some(Code::Unimplemented) => {
            head.status = StatusCode::BAD_REQUEST;
            full("")
        }
        Some(_) => {
            let mut trailers = HeaderMap::new();
            for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE, Status::GRPC_STATUS_DETAILS] {
                if let Some(value) = head.headers.remove(&name) {
                    trailers.insert(name, value);
                }
            }
            StreamBody::new(stream::iter([Ok(Frame::trailers(trailers))])).boxed_unsync()
        }
    };
    counted(Response::from_parts(head, body), meter, is_stream && code.is_none())
}

/// The response, with what becomes of it counted.
fn counted(response: Response<Body>, meter: &Meter, is_stream: bool) -> Response<Body> {
    if response.status() != StatusCode::OK {
        meter.failed(Reason::BadRequest);
        return response;
    }
    let (meter, streaming) = (meter.clone(), is_stream.then(|| meter.stream()));
    response.map(|body| {
        let counted = body.map_frame(move |frame| {
            let _counted = &streaming;
            let code = frame.trailers_ref().and_then(|trailers| trailers.get(Status::GRPC_STATUS));
            if let Some(reason) = code.and_then(|code| status::reason(Code::from_bytes(code.as_bytes()))) {
                meter.failed(reason);
            }
            frame
        });
        counted.boxed_unsync()
    })
}

/// The answer to what is no call.
pub(super) fn not_a_call() -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

//! Calls, as bytes.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use linkerd_dtab::{
    namerd::mesh::Mesh,
    transport::{Body, full},
};
use tonic::Status;
use tower::ServiceExt;

/// A call that was answered: its messages, and then how it ended.
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    headers: HeaderMap,
    body: Body,
    read: BytesMut,
    trailers: Option<HeaderMap>,
}

pub(crate) fn request(path: &str, message: &[u8]) -> Request<Body> {
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    let request = Request::post(path).header("content-type", "application/grpc+proto");
    request.body(full(frame)).unwrap()
}

pub(crate) async fn call(mesh: &Mesh, path: &str, message: &[u8]) -> Answer {
    Answer::of(mesh.clone().oneshot(request(path, message)).await.unwrap())
}

impl Answer {
    pub(crate) fn of(response: http::Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        Self { http: head.status, headers: head.headers, body, read: BytesMut::new(), trailers: None }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next message; `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Bytes> {
        loop {
            if self.read.len() >= 5 {
                assert_eq!(self.read[0], 0, "compressed");
                let len = u32::from_be_bytes(self.read[1..5].try_into().unwrap()) as usize;
                if self.read.len() >= 5 + len {
                    return Some(self.read.split_to(5 + len).freeze().slice(5..));
                }
            }
            let frame = self.body.frame().await?.unwrap();
            match frame.into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }

    pub(crate) async fn messages(&mut self) -> Vec<Bytes> {
        let mut messages = Vec::new();
        while let Some(message) = self.message().await {
            messages.push(message);
        }
        messages
    }

    /// How the call ended. It has to have ended.
    pub(crate) fn status(&self) -> (i32, String) {
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        let status = Status::from_header_map(headers).expect("the call has not ended");
        (status.code() as i32, status.message().to_owned())
    }
}

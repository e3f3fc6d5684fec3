//! The two messages of gRPC's health check, `grpc.health.v1.Health`.
//!
//! By hand: each is one field, and protobuf's wire format is some forty lines.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::{Body, GrpcCode};

/// What is called.
pub(super) const METHOD: &str = "/grpc.health.v1.Health/Check";

/// The only status of a server that takes requests.
const SERVING: u64 = 1;

/// The longest answer that is read; one with a status alone has 7 bytes.
const MAX_ANSWER: usize = 4 * 1024;

/// Ahead of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

// The kinds of values, by which what is unknown is skipped.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// `HealthCheckRequest { service = 1 }`.
pub(super) fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    // The default of a field is not written.
    if !service.is_empty() {
        put_varint(&mut message, 1 << 3 | BYTES);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut call = BytesMut::with_capacity(PREFIX + message.len());
    call.put_u8(0);
    call.put_u32(message.len() as u32);
    call.put_slice(&message);
    call.freeze()
}

/// Whether an answer says `SERVING`; what it says if not.
pub(super) async fn answer(rsp: Response<Body>) -> Result<(), String> {
    if rsp.status() != StatusCode::OK {
        return Err(rsp.status().to_string());
    }
    let head = GrpcCode::of(rsp.headers());
    let body = Limited::new(rsp.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
    match body.trailers().and_then(GrpcCode::of).or(head) {
        Some(GrpcCode::OK) => {}
        Some(GrpcCode(code)) => return Err(format!("grpc-status {code}")),
        None => return Err("no grpc-status".to_owned()),
    }
    match status(body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(format!("the health status {other}")),
        None => Err("what is no HealthCheckResponse".to_owned()),
    }
}

/// `HealthCheckResponse { status = 1 }`, behind its prefix. `None`: it is none, or compressed, which nobody asked for.
fn status(mut call: Bytes) -> Option<u64> {
    let (compressed, len) = (call.try_get_u8().ok()?, call.try_get_u32().ok()?);
    if compressed != 0 || len as usize != call.len() {
        return None;
    }
    let mut status = 0;
    while call.has_remaining() {
        let tag = varint(&mut call)?;
        let skipped = match tag & 7 {
            VARINT if tag >> 3 == 1 => {
                status = varint(&mut call)?;
                continue;
            }
            VARINT => varint(&mut call).map(|_| 0),
            FIXED64 => Some(8),
            BYTES => varint(&mut call),
            FIXED32 => Some(4),
            _ => None,
        };
        let skipped = usize::try_from(skipped?).ok().filter(|skipped| *skipped <= call.len())?;
        call.advance(skipped);
    }
    Some(status)
}

fn put_varint(to: &mut BytesMut, mut n: u64) {
    while n >= 0x80 {
        to.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    to.put_u8(n as u8);
}

fn varint(from: &mut Bytes) -> Option<u64> {
    let mut n = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        n |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(message: &[u8]) -> Bytes {
        [&[0, 0, 0, 0, message.len() as u8], message].concat().into()
    }

    #[test]
    fn a_question_is_as_protobuf_has_it() {
        assert_eq!(question(""), &[0, 0, 0, 0, 0][..]);
        assert_eq!(question("ab"), &[0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b'][..]);
        let long = "x".repeat(300);
        assert_eq!(question(&long)[..8], [0, 0, 0, 1, 47, 0x0A, 0xAC, 0x02]);
        assert_eq!(&question(&long)[8..], long.as_bytes());
    }

    #[test]
    fn an_answer_is_read_whatever_else_is_in_it() {
        assert_eq!(status(call(&[0x08, 1])), Some(1));
        assert_eq!(status(call(&[0x08, 2])), Some(2));
        assert_eq!(status(call(&[])), Some(0), "UNKNOWN is the default, which is not written");
        // Fields of later versions, one of each kind; the last status counts.
        let more = [0x10, 0x96, 1, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x22, 1, b'x', 0x2D, 0, 0, 0, 0, 0x08, 2, 0x08, 1];
        assert_eq!(status(call(&more)), Some(1));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for bytes in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 1, 8, 1]] {
            assert_eq!(status(Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
        for message in [&[8][..], &[8, 0x80], &[8; 1][..], &[0x12, 5, 0], &[0x15, 0], &[0x0B], &[0x08, 0xFF, 0xFF]] {
            assert_eq!(status(call(message)), None, "{message:?}");
        }
        assert_eq!(status(call(&[&[8][..], &[0xFF; 11]].concat())), None, "more than 64 bits");
    }
}

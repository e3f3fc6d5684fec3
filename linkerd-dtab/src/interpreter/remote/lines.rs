//! Documents of one line each, from a body that comes in pieces.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::http::HttpError;
use crate::transport::Body;

/// Cuts a body into lines as it comes in.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    // Up to here there is no end of a line.
    searched: usize,
    max: usize,
}

impl Lines {
    pub(super) fn new(body: Body, max: usize) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, max }
    }

    /// The next line that is not empty, without its end.
    ///
    /// Cancel safe: what has come in is kept.
    pub(super) async fn next(&mut self) -> Result<Bytes, HttpError> {
        loop {
            while let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(self.searched + length + 1);
                self.searched = 0;
                line.truncate(line.trim_ascii_end().len());
                if !line.is_empty() {
                    return Ok(line.freeze());
                }
            }
            self.searched = self.buffer.len();
            if self.searched > self.max {
                return Err(HttpError::TooLong { max: self.max });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(HttpError::CutShort(error)),
                None => return Err(self.ended()),
            }
        }
    }

    fn ended(&self) -> HttpError {
        // A reason that was given at the end, without an end of its line.
        let rest = self.buffer.trim_ascii();
        if rest.is_empty() { HttpError::Ended } else { HttpError::Said(super::http::excerpt(rest)) }
    }
}

//! What a failed stream says of the request.

use h2::Reason;

use crate::{BoxError, Error, ErrorKind, Reset, telemetry::Side};

/// Why there is no response.
pub(super) fn failure(error: h2::Error) -> Error {
    // A stream above the last one that a GOAWAY names was not looked at either.
    if error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
        let refused = Error::new(ErrorKind::Refused).with_never_sent(true).with_source(Reset::REFUSED_STREAM);
        let is_goodbye = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        return if is_goodbye { refused.left_out() } else { refused };
    }
    let kind = if error.is_library() { ErrorKind::BadResponse } else { ErrorKind::Closed };
    Error::new(kind).with_never_sent(false).with_source(cause(error))
}

/// Why there is no more of a body.
pub(super) fn cause(error: h2::Error) -> BoxError {
    match error.reason() {
        Some(reason) if error.is_reset() => Reset(reason.into()).into(),
        _ => error.into(),
    }
}

/// Who reset the stream, if that is why it failed.
pub(super) fn reset_by(error: &h2::Error) -> Option<Side> {
    error.is_reset().then(|| if error.is_remote() { Side::Remote } else { Side::Local })
}

/// The code of the reset that passes an error on: as it came if everybody knows it and it is about the stream.
pub(super) fn reason(error: &(dyn std::error::Error + 'static), otherwise: Reason) -> Reason {
    const INADEQUATE_SECURITY: u32 = 12;
    match Reset::of(error) {
        // What comes later is about this side's connection, or unknown to clients.
        Some(Reset(code)) if code < INADEQUATE_SECURITY => code.into(),
        Some(_) => Reason::INTERNAL_ERROR,
        None => otherwise,
    }
}

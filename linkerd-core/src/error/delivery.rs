//! How far a failed request had got.

use linkerd_retry::{Delivery, Sent};

use crate::{Error, ErrorKind};

/// What the engine knows of it: that [nothing was written](Error::never_sent), that the peer did nothing with it, or how
/// many bytes its connection took.
impl Delivery for Error {
    /// Head and body as they were written, chunk framing included. `None` where several attempts or no connection were.
    fn bytes_written(&self) -> Option<u64> {
        if self.never_sent() && self.kind() != ErrorKind::Refused { Some(0) } else { self.0.bytes_written }
    }

    fn sent(&self) -> Sent {
        if self.never_sent() && self.kind() == ErrorKind::Refused {
            return Sent::Refused;
        }
        self.bytes_written().map_or(Sent::Possibly, Sent::of_bytes_written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_says_whether_it_may_have_been_processed() {
        let told = |error: &Error| (error.bytes_written(), error.sent(), error.may_have_been_processed());
        assert_eq!(told(&Error::new(ErrorKind::Connect)), (Some(0), Sent::Never, false));
        assert_eq!(told(&Error::new(ErrorKind::Overloaded)), (Some(0), Sent::Never, false));
        assert_eq!(told(&Error::new(ErrorKind::Refused).with_never_sent(true)), (None, Sent::Refused, false));
        assert_eq!(told(&Error::new(ErrorKind::Refused)), (None, Sent::Possibly, true));
        assert_eq!(told(&Error::new(ErrorKind::Closed)), (None, Sent::Possibly, true));
        assert_eq!(told(&Error::new(ErrorKind::Closed).with_bytes_written(12)), (Some(12), Sent::Possibly, true));
        assert_eq!(told(&Error::new(ErrorKind::Closed).with_bytes_written(0)), (Some(0), Sent::Never, false));
    }
}

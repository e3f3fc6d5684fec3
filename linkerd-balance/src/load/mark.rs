//! Points in the life of a request.

/// A point that a request reaches before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mark {
    /// The head of the response came.
    Headers,
    /// The first byte of the response's body, or its first message, came.
    FirstByte,
}

/// Up to which point of a request its latency is measured.
///
/// Whatever is chosen, the request counts as in flight until its end, and a failure costs its penalty whenever it shows.
/// The latency counts once: at the chosen [`Mark`], or at the end of a request that ends without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Measure {
    /// To the head of the response. For most: how long a body takes is as much its reader's doing.
    #[default]
    Headers,
    /// To the first byte of the body. For servers that send the head before they begin to work.
    FirstByte,
    /// To the end of the stream. For answers of similar size whose end is what callers wait for.
    EndOfStream,
    /// Not at all: only requests in flight and failures count. For streams that stay open as long as their caller likes.
    PendingOnly,
}

//! The ids of spans, and how they go from hop to hop.

mod b3;
mod l5d;
mod propagation;
mod w3c;

use bytes::Bytes;
use http::HeaderValue;

pub use self::propagation::{InvalidPropagation, Propagation, TraceFormat};
use crate::random;

/// A span: its own id, its parent's and its trace's, and whether it is recorded.
///
/// In `l5d-ctx-trace` it is 32 bytes in Base64: span, parent, trace and flags, 8 bytes each, big-endian; 40 bytes if the
/// trace's id has 128 bits, with the high ones at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId {
    span: u64,
    parent: u64,
    trace: u64,
    flags: u64,
    trace_high: Option<u64>,
}

const DEBUG: u64 = 1;
const KNOWN: u64 = 1 << 1;
const SAMPLED: u64 = 1 << 2;

impl TraceId {
    /// The first span of a new trace. Whether it is recorded is not decided yet.
    #[must_use]
    pub fn root() -> Self {
        let id = random::next();
        Self { span: id, parent: id, trace: id, flags: 0, trace_high: None }
    }

    /// A span of the same trace below this one.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: random::next(), parent: self.span, ..self }
    }

    /// The span's own id.
    #[must_use]
    pub fn span(self) -> u64 {
        self.span
    }

    /// The id of the span that caused it; for the first span of a trace its own.
    #[must_use]
    pub fn parent(self) -> u64 {
        self.parent
    }

    /// The trace's id: its lower 64 bits, if it has 128.
    #[must_use]
    pub fn trace(self) -> u64 {
        self.trace
    }

    /// The upper 64 bits of a trace's id of 128.
    #[must_use]
    pub fn trace_high(self) -> Option<u64> {
        self.trace_high
    }

    /// Bit 0: debug; bit 1: whether to record it is decided; bit 2: it is recorded.
    #[must_use]
    pub fn flags(self) -> u64 {
        self.flags
    }

    /// Whether the span is recorded; `None` if nobody decided.
    #[must_use]
    pub fn sampled(self) -> Option<bool> {
        if self.flags & DEBUG != 0 {
            return Some(true);
        }
        (self.flags & KNOWN != 0).then_some(self.flags & SAMPLED != 0)
    }

    /// Decides whether the span is recorded: yes for a share of `rate` of all traces, from 0 to 1.
    ///
    /// The decision depends on the trace alone, so every hop makes the same.
    #[must_use]
    pub fn with_sample_rate(self, rate: f64) -> Self {
        // Fibonacci hashing: ids of other tracers may be sequential.
        let place = self.trace.wrapping_mul(0x9E37_79B9_7F4A_7C15) as f64 / u64::MAX as f64;
        self.decided(rate >= 1.0 || place < rate)
    }

    /// Says that it is recorded, or that it is not.
    fn decided(self, sampled: bool) -> Self {
        let bit = if sampled { SAMPLED } else { 0 };
        Self { flags: self.flags & !(KNOWN | SAMPLED) | KNOWN | bit, ..self }
    }

    /// The flags but for what [`sampled`](Self::sampled) says.
    fn other_flags(self) -> u64 {
        self.flags & !(KNOWN | SAMPLED)
    }
}

/// What one format found on a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Found {
    /// The caller's span.
    id: Option<TraceId>,
    /// What it says of the trace without saying which, or beside it.
    sampling: Option<Sampling>,
}

/// Whether a trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sampling {
    Debug,
    Decided(bool),
    /// For so large a share of traces.
    Rate(f64),
}

impl Sampling {
    fn apply(self, id: TraceId) -> TraceId {
        match self {
            Self::Debug => TraceId { flags: id.flags | DEBUG, ..id },
            _ if id.sampled().is_some() => id,
            Self::Decided(sampled) => id.decided(sampled),
            Self::Rate(rate) => id.with_sample_rate(rate),
        }
    }
}

/// A share of traces: a number, which may be out of range.
fn rate(value: &HeaderValue) -> Option<f64> {
    value.to_str().ok()?.trim().parse().ok().filter(|rate: &f64| !rate.is_nan())
}

/// A word in hexadecimal digits, 1 to 16 of them.
fn word(digits: &[u8]) -> Option<u64> {
    let is_hex = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    if is_hex { u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok() } else { None }
}

/// A trace's id in up to 32 hexadecimal digits: its upper 64 bits, if any is set, and its lower ones.
fn trace_words(digits: &[u8]) -> Option<(Option<u64>, u64)> {
    let (high, low) = digits.split_at(digits.len().saturating_sub(16));
    let high = if high.is_empty() { 0 } else { word(high)? };
    Some(((high != 0).then_some(high), word(low)?))
}

/// Writes 16 hexadecimal digits.
fn write_hex(word: u64, text: &mut [u8]) {
    text[..8].copy_from_slice(&hex_digits(word >> 32));
    text[8..16].copy_from_slice(&hex_digits(word & u64::from(u32::MAX)));
}

/// Eight hexadecimal digits, all at once: 32 bits.
fn hex_digits(bits: u64) -> [u8; 8] {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    // Halved three times, each digit has its byte.
    let bits = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    let bits = (bits | bits << 8) & 0x00ff_00ff_00ff_00ff;
    let digits = (bits | bits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (digits + 6 * EACH) >> 4 & EACH;
    (digits + u64::from(b'0') * EACH + u64::from(b'a' - b'0' - 10) * letters).to_be_bytes()
}

/// A value of bytes that are always valid.
fn value(bytes: Bytes) -> HeaderValue {
    let mut value = HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static(""));
    // No two requests have the same one: in HTTP/2's table it would only take the place of what comes again, and make each
    // lookup longer.
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_written_in_hexadecimal_digits() {
        for word in [0, u64::MAX, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x9a9a_0f0f_a0a0_f9f9] {
            let mut text = [0; 16];
            write_hex(word, &mut text);
            assert_eq!(text[..], *format!("{word:016x}").as_bytes());
        }
    }

    const GIVEN: HeaderValue = HeaderValue::from_static("AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=");

    #[test]
    fn a_span_reads_as_it_was_written() {
        let id = TraceId::decode(&GIVEN).unwrap();
        assert_eq!((id.span(), id.parent(), id.trace(), id.flags(), id.trace_high()), (1, 2, 3, 6, None));
        assert_eq!(id.encode(), GIVEN);
        assert!(id.encode().is_sensitive() && id.request_id().is_sensitive(), "h2 keeps it in its table");
        assert_eq!(id.sampled(), Some(true));
        let wide = TraceId { trace_high: Some(9), ..id };
        assert_eq!(TraceId::decode(&wide.encode()), Some(wide));
        assert_eq!(TraceId::decode(&TraceId::root().encode()).unwrap().sampled(), None);
    }

    #[test]
    fn what_is_no_span_is_none() {
        for value in
            ["", "AAAA", "AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY", "\u{e9}", &"A".repeat(80), &"A".repeat(200)]
        {
            assert_eq!(TraceId::decode(&HeaderValue::from_bytes(value.as_bytes()).unwrap()), None, "{value}");
        }
    }

    #[test]
    fn a_child_stays_in_its_trace() {
        let id = TraceId::decode(&GIVEN).unwrap();
        let child = id.child();
        assert_eq!((child.parent(), child.trace(), child.flags()), (1, 3, 6));
        assert_ne!(child.span(), 1);
        assert_eq!(child.request_id(), "0000000000000003");
        let root = TraceId::root();
        assert_eq!((root.parent(), root.span()), (root.trace(), root.trace()));
        assert_ne!(root, TraceId::root());
        let id = TraceId { trace: 0x0123_4567_89ab_cdef, ..root };
        assert_eq!(id.request_id(), "0123456789abcdef");
    }

    #[test]
    fn a_rate_is_the_share_of_traces() {
        let sampled = (0..10_000).filter(|_| TraceId::root().with_sample_rate(0.25).sampled() == Some(true)).count();
        assert!((2200..2800).contains(&sampled), "{sampled}");
        for (rate, flags) in [(0.0, 2), (-1.0, 2), (1.0, 6), (7.0, 6)] {
            assert_eq!(TraceId::root().with_sample_rate(rate).flags(), flags);
        }
        let id = TraceId::root();
        assert_eq!(id.with_sample_rate(0.5).flags(), id.child().with_sample_rate(0.5).flags());
    }
}

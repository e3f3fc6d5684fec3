//! The span ids of Linkerd's default propagation, `l5d-ctx-trace`.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;

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
        if self.flags & 1 != 0 {
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
        let sampled = if rate >= 1.0 || place < rate { SAMPLED } else { 0 };
        Self { flags: self.flags & !(KNOWN | SAMPLED) | KNOWN | sampled, ..self }
    }

    /// Reads a value of `l5d-ctx-trace`; `None` if it is not one.
    #[must_use]
    pub fn decode(value: &HeaderValue) -> Option<Self> {
        let mut bytes = [0; 48];
        let len = STANDARD.decode_slice(value.as_bytes().trim_ascii(), &mut bytes).ok()?;
        if len != 32 && len != 40 {
            return None;
        }
        let word = |n: usize| bytes.get(n * 8..).and_then(<[u8]>::first_chunk).map(|word| u64::from_be_bytes(*word));
        Some(Self {
            span: word(0)?,
            parent: word(1)?,
            trace: word(2)?,
            flags: word(3)?,
            trace_high: if len == 40 { word(4) } else { None },
        })
    }

    /// The value of `l5d-ctx-trace` for this span.
    #[must_use]
    pub fn encode(self) -> HeaderValue {
        self.encode_both().0
    }

    /// The value of `l5d-reqid`: the trace's id in 16 hexadecimal digits.
    #[must_use]
    pub fn request_id(self) -> HeaderValue {
        self.encode_both().1
    }

    /// Both values in one buffer: they go out together, with each attempt, and are copied with it.
    pub(crate) fn encode_both(self) -> (HeaderValue, HeaderValue) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        const ID: usize = 16;
        let mut bytes = [0; 40];
        let words = [self.span, self.parent, self.trace, self.flags, self.trace_high.unwrap_or_default()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        let mut text = [0; ID + 56];
        let (id, trace) = text.split_at_mut(ID);
        for (place, digit) in id.iter_mut().rev().enumerate() {
            *digit = HEX[(self.trace >> (4 * place) & 15) as usize];
        }
        let bytes = if self.trace_high.is_some() { &bytes[..] } else { &bytes[..32] };
        let len = encode_base64(bytes, trace);
        // Owned as it is, unlike a `Vec`, a clone of it allocates nothing.
        let text = Bytes::from_owner(text);
        // Hexadecimal digits and Base64 are always a valid value.
        let value = |bytes| HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static(""));
        (value(text.slice(ID..ID + len)), value(text.slice(..ID)))
    }
}

/// Writes `bytes` in padded Base64, and says how long that is. For so few bytes the crate's engine takes twice as long.
fn encode_base64(bytes: &[u8], text: &mut [u8]) -> usize {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |a: u8, b: u8, c: u8| {
        let bits = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
        [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize])
    };
    let (groups, rest) = bytes.as_chunks::<3>();
    let (places, _) = text.as_chunks_mut::<4>();
    for (&[a, b, c], place) in groups.iter().zip(&mut *places) {
        *place = digits(a, b, c);
    }
    let len = groups.len();
    match (rest, places.get_mut(len)) {
        (&[a], Some(place)) => {
            let [first, second, ..] = digits(a, 0, 0);
            *place = [first, second, b'=', b'='];
        }
        (&[a, b], Some(place)) => {
            let [first, second, third, _] = digits(a, b, 0);
            *place = [first, second, third, b'='];
        }
        _ => return 4 * len,
    }
    4 * (len + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: HeaderValue = HeaderValue::from_static("AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=");

    #[test]
    fn a_span_reads_as_it_was_written() {
        let id = TraceId::decode(&GIVEN).unwrap();
        assert_eq!((id.span(), id.parent(), id.trace(), id.flags(), id.trace_high()), (1, 2, 3, 6, None));
        assert_eq!(id.encode(), GIVEN);
        assert_eq!(id.sampled(), Some(true));
        let wide = TraceId { trace_high: Some(9), ..id };
        assert_eq!(TraceId::decode(&wide.encode()), Some(wide));
        assert_eq!(TraceId::decode(&TraceId::root().encode()).unwrap().sampled(), None);
    }

    #[test]
    fn base64_is_that_of_others() {
        let bytes: Vec<u8> = (0..=255).rev().collect();
        for len in [0, 1, 2, 3, 32, 40, 256] {
            let mut text = [0; 400];
            let len_of_text = encode_base64(&bytes[..len], &mut text);
            assert_eq!(text[..len_of_text], *STANDARD.encode(&bytes[..len]).as_bytes(), "{len}");
        }
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

//! Linkerd's own: `l5d-ctx-trace` and `l5d-reqid`.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;

use super::{TraceId, value, write_hex};

impl TraceId {
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
        const ID: usize = 16;
        let mut bytes = [0; 40];
        let words = [self.span, self.parent, self.trace, self.flags, self.trace_high.unwrap_or_default()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        let mut text = [0; ID + 56];
        let (id, trace) = text.split_at_mut(ID);
        write_hex(self.trace, id);
        let bytes = if self.trace_high.is_some() { &bytes[..] } else { &bytes[..32] };
        let len = encode_base64(bytes, trace);
        // Owned as it is, unlike a `Vec`, a clone of it allocates nothing.
        let text = Bytes::from_owner(text);
        // Hexadecimal digits and Base64 are always a valid value.
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

    #[test]
    fn base64_is_that_of_others() {
        let bytes: Vec<u8> = (0..=255).rev().collect();
        for len in [0, 1, 2, 3, 32, 40, 256] {
            let mut text = [0; 400];
            let len_of_text = encode_base64(&bytes[..len], &mut text);
            assert_eq!(text[..len_of_text], *STANDARD.encode(&bytes[..len]).as_bytes(), "{len}");
        }
    }
}

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
        let words = [self.span, self.parent, self.trace, self.flags, self.trace_high.unwrap_or_default()];
        let mut trace = [0; 56];
        let len = write_base64(words, self.trace_high.is_some(), &mut trace);
        let mut text = [0; ID + 56];
        text[ID..].copy_from_slice(&trace);
        write_hex(self.trace, &mut text);
        // Owned as it is, unlike a `Vec`, a clone of it allocates nothing.
        let text = Bytes::from_owner(text);
        // Hexadecimal digits and Base64 are always a valid value.
        (value(text.slice(ID..ID + len)), value(text.slice(..ID)))
    }
}

/// Writes the bytes of four words, or of all five, in padded Base64, and says how long that is. For so few bytes the crate's
/// engine takes several times as long.
fn write_base64(words: [u64; 5], has_fifth: bool, text: &mut [u8; 56]) -> usize {
    const LOW: u64 = (1 << 48) - 1;
    let [first, second, third, fourth, fifth] = words;
    // Six bytes are eight digits.
    let groups = [
        first >> 16,
        first << 32 | second >> 32,
        second << 16 | third >> 48,
        third,
        fourth >> 16,
        fourth << 32 | fifth >> 32,
        fifth << 16,
    ];
    for (place, group) in text.as_chunks_mut().0.iter_mut().zip(groups) {
        *place = base64_digits(group & LOW);
    }
    // Without a table, so that many are done at once.
    for digit in &mut *text {
        let at_least = |least, more: u8| if *digit >= least { more } else { 0 };
        let (more, less) = (b'A' + at_least(26, 6) + at_least(63, 3), at_least(52, 75) + at_least(62, 15));
        *digit = *digit + more - less;
    }
    let (len, padding) = if has_fifth { (56, 2) } else { (44, 1) };
    text[len - padding..len].fill(b'=');
    len
}

/// Eight digits of six bits each.
fn base64_digits(bits: u64) -> [u8; 8] {
    // Halved three times, each has its byte.
    let bits = (bits & 0xff_ff_ff) | (bits & 0xff_ff_ff_00_00_00) << 8;
    let bits = (bits & 0x0fff_0000_0fff) | (bits & 0x00ff_f000_00ff_f000) << 4;
    let bits = (bits & 0x003f_003f_003f_003f) | (bits & 0x0fc0_0fc0_0fc0_0fc0) << 2;
    bits.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_others() {
        // Each of its digits comes in each of its eight places.
        for turn in 0..64 {
            let words = [0x0010_8310_5187_2092, 0x8b30_d38f_4116_9351, 0x5597_619a_5b4d_b6f8, 0xe82a_c9b8_6d77_c0e7, 3]
                .map(|word: u64| word.rotate_left(turn).wrapping_mul(u64::from(2 * turn + 1)));
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let mut text = [0; 56];
            assert_eq!(write_base64(words, true, &mut text), 56);
            assert_eq!(text[..], *STANDARD.encode(&bytes).as_bytes());
            let [a, b, c, d, _] = words;
            assert_eq!(write_base64([a, b, c, d, 0], false, &mut text), 44);
            assert_eq!(text[..44], *STANDARD.encode(&bytes[..32]).as_bytes());
        }
    }
}

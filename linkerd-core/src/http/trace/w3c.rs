//! W3C Trace Context: `traceparent` and `tracestate`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::{Found, Sampling, TraceId, trace_words, value, word, write_hex};

pub(super) const PARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const STATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` and 32 digits, `-` and 16, `-` and two.
const LEN: usize = 55;
/// A `tracestate` has at most so many members.
const MAX_MEMBERS: usize = 32;

/// Reads `traceparent`. A version that is not known yet is read as far as it is known.
pub(super) fn read(headers: &HeaderMap) -> Found {
    let mut values = headers.get_all(PARENT).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return Found::default() };
    parse(only.as_bytes().trim_ascii()).unwrap_or_default()
}

fn parse(text: &[u8]) -> Option<Found> {
    let (known, more) = text.split_at_checked(LEN)?;
    let is_known_version = known.starts_with(b"00-") && more.is_empty();
    let is_newer = !known.starts_with(b"00") && !known.starts_with(b"ff") && matches!(more, [] | [b'-', ..]);
    let is_lower = !known.iter().any(u8::is_ascii_uppercase);
    let [version, trace, span, flags]: [&[u8]; 4] =
        known.split(|&byte| byte == b'-').collect::<Vec<_>>().try_into().ok()?;
    let is_shaped = [version.len(), trace.len(), span.len(), flags.len()] == [2, 32, 16, 2] && word(version).is_some();
    if !(is_lower && is_shaped && (is_known_version || is_newer)) {
        return None;
    }
    let (trace_high, trace) = trace_words(trace)?;
    let (span, flags) = (word(span)?, word(flags)?);
    if span == 0 || (trace == 0 && trace_high.is_none()) {
        return None;
    }
    let id = TraceId { span, parent: trace, trace, flags: 0, trace_high };
    Some(Found { id: Some(id), sampling: Some(Sampling::Decided(flags & 1 != 0)) })
}

/// Whether a `tracestate` is there that goes on with its trace.
pub(super) fn keeps_state(headers: &HeaderMap) -> bool {
    let members = |value: &http::HeaderValue| value.as_bytes().split(|&byte| byte == b',').count();
    headers.get_all(STATE).iter().map(members).sum::<usize>() <= MAX_MEMBERS
}

/// Writes `traceparent`. A trace of which nobody decided goes as one that is not recorded: there is no third word.
pub(super) fn write(id: TraceId, headers: &mut HeaderMap) {
    let mut text = [b'-'; LEN];
    text[..2].copy_from_slice(b"00");
    write_hex(id.trace_high.unwrap_or_default(), &mut text[3..]);
    write_hex(id.trace, &mut text[19..]);
    write_hex(id.span, &mut text[36..]);
    text[53..].copy_from_slice(if id.sampled() == Some(true) { b"01" } else { b"00" });
    headers.insert(PARENT, value(Bytes::from_owner(text)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_reads_as_it_was_written() {
        let Found { id, sampling } = parse(GIVEN.as_bytes()).unwrap();
        let id = sampling.unwrap().apply(id.unwrap());
        assert_eq!((id.span(), id.trace()), (0x00f0_67aa_0ba9_02b7, 0xa3ce_929d_0e0e_4736));
        let mut headers = HeaderMap::new();
        write(id, &mut headers);
        assert_eq!(headers[PARENT], GIVEN);
        write(TraceId { trace_high: None, ..id }.decided(false), &mut headers);
        assert_eq!(headers[PARENT], "00-0000000000000000a3ce929d0e0e4736-00f067aa0ba902b7-00");
    }

    #[test]
    fn newer_versions_are_read_and_what_is_none_is_not() {
        for newer in [GIVEN.replacen("00", "01", 1), GIVEN.replacen("00", "cc", 1) + "-what-comes"] {
            assert!(parse(newer.as_bytes()).is_some(), "{newer}");
        }
        for bad in [
            "",
            &GIVEN[..54],
            &format!("{GIVEN}-more"),
            &format!("{GIVEN}0"),
            &GIVEN.replacen("00", "ff", 1),
            &GIVEN.replacen("00", "0g", 1),
            &GIVEN.to_uppercase(),
            &GIVEN.replace("00f067aa0ba902b7", "0000000000000000"),
            &GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            "00-4bf92f3577b34da6-a3ce929d0e0e4736-00f067aa0ba902b701",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::from_iter([(PARENT, GIVEN.parse().unwrap())]);
        assert!(read(&headers).id.is_some());
        headers.append(PARENT, GIVEN.parse().unwrap());
        assert_eq!(read(&headers), Found::default());
    }
}

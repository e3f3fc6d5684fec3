//! Zipkin's B3: five headers, or all in one.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{DEBUG, Found, Sampling, TraceId, rate, trace_words, value, word, write_hex};

pub(super) const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
pub(super) const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
pub(super) const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub(super) const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub(super) const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
pub(super) const SINGLE: HeaderName = HeaderName::from_static("b3");

/// Reads the five headers. Without an id of the span they only say whether to record.
pub(super) fn read_multi(headers: &HeaderMap) -> Found {
    let bytes = |name| headers.get(name).map(|value| value.as_bytes().trim_ascii());
    let flags = bytes(FLAGS).and_then(|text| str::from_utf8(text).ok()?.parse::<u64>().ok());
    let sampled = headers.get(SAMPLED).and_then(|value| match value.as_bytes().trim_ascii() {
        b"true" | b"True" | b"TRUE" => Some(Sampling::Decided(true)),
        b"false" | b"False" | b"FALSE" => Some(Sampling::Decided(false)),
        _ => rate(value).map(Sampling::Rate),
    });
    let is_debug = flags.is_some_and(|flags| flags & DEBUG != 0);
    let sampling = if is_debug { Some(Sampling::Debug) } else { sampled };
    let id = bytes(SPAN_ID).and_then(word).and_then(|span| {
        let parent = bytes(PARENT_ID).and_then(word);
        let (trace_high, trace) = match bytes(TRACE_ID) {
            None => (None, parent.unwrap_or(span)),
            Some(digits) => trace_words(digits)?,
        };
        let id = TraceId { span, parent: parent.unwrap_or(trace), trace, flags: flags.unwrap_or_default(), trace_high };
        Some(TraceId { flags: id.other_flags(), ..id })
    });
    Found { id, sampling }
}

/// Reads `b3`: `TRACE-SPAN-SAMPLED-PARENT` without the last or the last two, or whether to record alone.
pub(super) fn read_single(headers: &HeaderMap) -> Found {
    let Some(value) = headers.get(SINGLE) else { return Found::default() };
    let parts: Vec<_> = value.as_bytes().trim_ascii().splitn(5, |&byte| byte == b'-').collect();
    let sampling = |text: &[u8]| match text {
        b"1" | b"true" => Some(Sampling::Decided(true)),
        b"0" | b"false" => Some(Sampling::Decided(false)),
        b"d" => Some(Sampling::Debug),
        _ => None,
    };
    let (ids, sampled, parent) = match parts[..] {
        [sampled] => return Found { id: None, sampling: sampling(sampled) },
        [trace, span] => ((trace, span), None, None),
        [trace, span, sampled] => ((trace, span), Some(sampled), None),
        [trace, span, sampled, parent] => ((trace, span), Some(sampled), Some(parent)),
        _ => return Found::default(),
    };
    let id = trace_words(ids.0).zip(word(ids.1)).map(|((trace_high, trace), span)| {
        let parent = parent.and_then(word).unwrap_or(trace);
        TraceId { span, parent, trace, flags: 0, trace_high }
    });
    Found { id, sampling: sampled.and_then(sampling).filter(|_| id.is_some()) }
}

impl TraceId {
    /// The ids in one buffer: the trace's in 16 digits or 32, the span's, its parent's.
    fn hex(self) -> (Bytes, usize) {
        let mut text = [0; 64];
        write_hex(self.trace_high.unwrap_or_default(), &mut text[..16]);
        for (place, word) in text[16..].chunks_exact_mut(16).zip([self.trace, self.span, self.parent]) {
            write_hex(word, place);
        }
        (Bytes::from_owner(text), if self.trace_high.is_some() { 0 } else { 16 })
    }

    /// Whether it has no parent: it is the first of its trace.
    fn is_root(self) -> bool {
        self.span == self.parent
    }
}

/// Writes the five headers; those that say nothing only if it is `always`.
pub(super) fn write_multi(id: TraceId, always: bool, headers: &mut HeaderMap) {
    let (text, start) = id.hex();
    headers.insert(TRACE_ID, value(text.slice(start..32)));
    headers.insert(SPAN_ID, value(text.slice(32..48)));
    headers.remove(PARENT_ID);
    if always || !id.is_root() {
        headers.insert(PARENT_ID, value(text.slice(48..)));
    }
    let is_debug = id.flags & DEBUG != 0;
    match id.sampled() {
        // Debug says it already.
        Some(_) if is_debug && !always => drop(headers.remove(SAMPLED)),
        Some(true) => drop(headers.insert(SAMPLED, HeaderValue::from_static("1"))),
        None if !always => drop(headers.remove(SAMPLED)),
        Some(false) | None => drop(headers.insert(SAMPLED, HeaderValue::from_static("0"))),
    }
    if always || is_debug {
        let flags = match if always { id.other_flags() } else { DEBUG } {
            0 => HeaderValue::from_static("0"),
            1 => HeaderValue::from_static("1"),
            flags => HeaderValue::from(flags),
        };
        headers.insert(FLAGS, flags);
    } else {
        headers.remove(FLAGS);
    }
}

/// Writes `b3`.
pub(super) fn write_single(id: TraceId, headers: &mut HeaderMap) {
    const SHORT: usize = "-0123456789abcdef".len();
    let mut text = [b'-'; 32 + SHORT + "-d".len() + SHORT];
    write_hex(id.trace_high.unwrap_or_default(), &mut text);
    write_hex(id.trace, &mut text[16..]);
    write_hex(id.span, &mut text[33..]);
    let sampled = match id.sampled() {
        _ if id.flags & DEBUG != 0 => Some(b'd'),
        Some(true) => Some(b'1'),
        Some(false) => Some(b'0'),
        None => None,
    };
    let end = match sampled {
        // Its place says what it is, so a parent goes only with what stands before.
        None => 49,
        Some(sampled) => {
            text[50] = sampled;
            if id.is_root() {
                51
            } else {
                write_hex(id.parent, &mut text[52..]);
                text.len()
            }
        }
    };
    let start = if id.trace_high.is_some() { 0 } else { 16 };
    headers.insert(SINGLE, value(Bytes::from_owner(text).slice(start..end)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(text: &str) -> Found {
        read_single(&HeaderMap::from_iter([(SINGLE, HeaderValue::from_str(text).unwrap())]))
    }

    fn written(id: TraceId) -> String {
        let mut headers = HeaderMap::new();
        write_single(id, &mut headers);
        headers[SINGLE].to_str().unwrap().to_owned()
    }

    #[test]
    fn one_header_reads_as_it_was_written() {
        for text in [
            "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1-0020000000000001",
            "48485a3953bb6124-a2fb4a1d1a96d312-0-0020000000000001",
            "48485a3953bb6124-a2fb4a1d1a96d312-d-0020000000000001",
            "48485a3953bb6124-a2fb4a1d1a96d312",
        ] {
            let Found { id, sampling } = single(text);
            let id = sampling.map_or(id.unwrap(), |sampling| sampling.apply(id.unwrap()));
            assert_eq!(written(id), text);
        }
        let root = TraceId::root().decided(true);
        assert_eq!(written(root), format!("{0:016x}-{0:016x}-1", root.trace()));
    }

    #[test]
    fn one_header_may_only_say_whether_to_record() {
        assert_eq!(single("0"), Found { id: None, sampling: Some(Sampling::Decided(false)) });
        assert_eq!(single("d"), Found { id: None, sampling: Some(Sampling::Debug) });
    }

    #[test]
    fn what_is_no_b3_is_nothing() {
        for text in
            ["", "-", "1-", "xyz-1", "1-2-1-3-4", "2", "1-0123456789abcdef0", &format!("{}-1-1", "1".repeat(33))]
        {
            assert_eq!(single(text), Found::default(), "{text}");
        }
    }

    #[test]
    fn five_headers_need_a_span_and_fall_back_for_the_trace() {
        let read = |given: &[(HeaderName, &'static str)]| {
            read_multi(&given.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect())
        };
        assert_eq!(read(&[(TRACE_ID, "1"), (SAMPLED, "true")]).id, None);
        assert_eq!(read(&[(TRACE_ID, "1"), (SAMPLED, "true")]).sampling, Some(Sampling::Decided(true)));
        assert_eq!(read(&[(SPAN_ID, "2"), (PARENT_ID, "1")]).id.unwrap().trace(), 1);
        assert_eq!(read(&[(SPAN_ID, "2")]).id.unwrap().trace(), 2);
        assert_eq!(read(&[(SPAN_ID, "2"), (TRACE_ID, "g")]).id, None);
        assert_eq!(read(&[(SAMPLED, "0.5")]).sampling, Some(Sampling::Rate(0.5)));
        assert_eq!(read(&[(SAMPLED, "0"), (FLAGS, "1")]).sampling, Some(Sampling::Debug));
    }
}

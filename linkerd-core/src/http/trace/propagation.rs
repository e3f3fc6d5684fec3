//! Which headers carry a trace, in and out.

use http::{HeaderMap, HeaderName};

use super::{Found, Sampling, TraceId, b3, rate, w3c};
use crate::http::headers::{L5D_CTX_TRACE, L5D_REQID, L5D_SAMPLE};

/// A form in which a span's ids go from hop to hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TraceFormat {
    /// `l5d-ctx-trace`, with `l5d-reqid` for logs.
    L5d,
    /// `x-b3-traceid`, `x-b3-spanid`, `x-b3-parentspanid`, `x-b3-sampled` and `x-b3-flags`.
    B3,
    /// `b3`, which is all of these in one.
    B3Single,
    /// `traceparent`, with `tracestate` passed on as it came.
    W3c,
}

/// Which headers carry the trace of a request: the formats that are read, and those that are written.
///
/// What is read is taken off the request, and what is not read passes as any header does. Of several formats the first
/// that names a span wins. `l5d-sample` is heeded whatever the format.
///
/// # Defaults
///
/// [`Propagation::DEFAULT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Propagation {
    read: [Option<TraceFormat>; 4],
    write: [Option<TraceFormat>; 4],
    // Linkerd's own manner of B3.
    is_zipkin: bool,
}

/// A list of formats that says nothing, or something twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPropagation {
    /// No format is written, so that the trace would end here.
    #[error("at least one format must be written")]
    NothingWritten,
    /// A format stands in a list more than once.
    #[error("{} stands there twice", .0.name())]
    Twice(TraceFormat),
}

impl TraceFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::L5d, Self::B3, Self::B3Single, Self::W3c];

    /// Its name in configuration files: `l5d`, `b3`, `b3single`, `w3c`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L5d => "l5d",
            Self::B3 => "b3",
            Self::B3Single => "b3single",
            Self::W3c => "w3c",
        }
    }

    fn headers(self) -> &'static [HeaderName] {
        static L5D: [HeaderName; 1] = [L5D_CTX_TRACE];
        static B3: [HeaderName; 5] = [b3::TRACE_ID, b3::SPAN_ID, b3::PARENT_ID, b3::SAMPLED, b3::FLAGS];
        static B3_SINGLE: [HeaderName; 1] = [b3::SINGLE];
        static W3C: [HeaderName; 1] = [w3c::PARENT];
        match self {
            Self::L5d => &L5D,
            Self::B3 => &B3,
            Self::B3Single => &B3_SINGLE,
            Self::W3c => &W3C,
        }
    }

    fn read(self, headers: &HeaderMap) -> Found {
        match self {
            Self::L5d => Found { id: headers.get(L5D_CTX_TRACE).and_then(TraceId::decode), ..Found::default() },
            Self::B3 => b3::read_multi(headers),
            Self::B3Single => b3::read_single(headers),
            Self::W3c => w3c::read(headers),
        }
    }
}

impl Propagation {
    /// Linkerd's: `l5d-ctx-trace` in, `l5d-ctx-trace` and `l5d-reqid` out. In a file, `kind: io.l5d.default`.
    pub const DEFAULT: Self = Self::one(TraceFormat::L5d, false);
    /// B3 as Linkerd 1 has it, in a file `kind: io.l5d.zipkin`: traces have ids of 64 bits, of longer ones only the lower
    /// half counts; all five headers go out, with a trace of which nobody decided as one that is not recorded;
    /// `l5d-ctx-trace` and `l5d-sample` are taken off unread.
    pub const ZIPKIN: Self = Self::one(TraceFormat::B3, true);

    /// Leaves the headers as they are.
    pub(crate) const NOTHING: Self = Self { read: [None; 4], write: [None; 4], is_zipkin: false };

    const fn one(format: TraceFormat, is_zipkin: bool) -> Self {
        let formats = [Some(format), None, None, None];
        Self { read: formats, write: formats, is_zipkin }
    }

    /// Reads these formats, the first first, and writes those.
    ///
    /// # Errors
    ///
    /// Nothing is written, or a format stands in a list twice.
    pub fn new(read: &[TraceFormat], write: &[TraceFormat]) -> Result<Self, InvalidPropagation> {
        if write.is_empty() {
            return Err(InvalidPropagation::NothingWritten);
        }
        Ok(Self { read: slots(read)?, write: slots(write)?, is_zipkin: false })
    }

    /// Reads the span that a request is served in: one below its caller's, or the first of a new trace. Takes off what was
    /// read.
    pub(crate) fn read(self, headers: &mut HeaderMap) -> TraceId {
        let mut found = Found::default();
        let mut has_state = false;
        for format in self.read.into_iter().flatten() {
            let next = format.read(headers);
            if found.id.is_none() && next.id.is_some() {
                found = next;
                has_state = format == TraceFormat::W3c && w3c::keeps_state(headers);
            } else if found.id.is_none() {
                found.sampling = found.sampling.or(next.sampling);
            }
        }
        // Whose it is cannot be told of a trace that came otherwise.
        let keeps_state = has_state && self.write.contains(&Some(TraceFormat::W3c));
        self.clear(headers, keeps_state);
        let sample = headers.remove(L5D_SAMPLE).as_ref().and_then(rate).map(Sampling::Rate);
        let mut id = found.id.map_or_else(TraceId::root, TraceId::child);
        if self.is_zipkin {
            headers.remove(L5D_CTX_TRACE);
            id.trace_high = None;
        }
        let sample = sample.filter(|_| !self.is_zipkin);
        [found.sampling, sample].into_iter().flatten().fold(id, |id, sampling| sampling.apply(id))
    }

    /// Takes off what would be read.
    pub(crate) fn clear(self, headers: &mut HeaderMap, keeps_state: bool) {
        for format in self.read.into_iter().flatten() {
            for name in format.headers() {
                headers.remove(name);
            }
            if format == TraceFormat::W3c && !keeps_state {
                headers.remove(w3c::STATE);
            }
        }
    }

    /// Writes a span on a request.
    pub(crate) fn write(self, id: TraceId, headers: &mut HeaderMap) {
        for format in self.write.into_iter().flatten() {
            match format {
                TraceFormat::L5d => {
                    let (trace, request) = id.encode_both();
                    headers.insert(L5D_CTX_TRACE, trace);
                    headers.insert(L5D_REQID, request);
                }
                TraceFormat::B3 => b3::write_multi(id, self.is_zipkin, headers),
                TraceFormat::B3Single => b3::write_single(id, headers),
                TraceFormat::W3c => w3c::write(id, headers),
            }
        }
    }
}

fn slots(formats: &[TraceFormat]) -> Result<[Option<TraceFormat>; 4], InvalidPropagation> {
    let mut slots = [None; 4];
    for (place, format) in formats.iter().enumerate() {
        if formats[..place].contains(format) {
            return Err(InvalidPropagation::Twice(*format));
        }
        // There are as many slots as formats.
        slots[place] = Some(*format);
    }
    Ok(slots)
}

impl Default for Propagation {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use TraceFormat::{B3, B3Single, L5d, W3c};

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        headers.iter().map(|&(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    /// A caller's span, in each format: trace 463ac35c9f6413ad48485a3953bb6124, span a2fb4a1d1a96d312, recorded.
    fn given(format: TraceFormat) -> HeaderMap {
        match format {
            L5d => map(&[("l5d-ctx-trace", "ovtKHRqW0xIAAAAAAAAAAUhIWjlTu2EkAAAAAAAAAAZGOsNcn2QTrQ==")]),
            B3 => map(&[
                ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
                ("x-b3-spanid", "a2fb4a1d1a96d312"),
                ("x-b3-sampled", "1"),
            ]),
            B3Single => map(&[("b3", "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")]),
            W3c => map(&[
                ("traceparent", "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01"),
                ("tracestate", "vendor=1"),
            ]),
        }
    }

    /// What a hop hands on, and the spans of its server and its client.
    fn hop(propagation: Propagation, mut headers: HeaderMap) -> (TraceId, TraceId, HeaderMap) {
        let server = propagation.read(&mut headers);
        let client = server.child();
        propagation.write(client, &mut headers);
        (server, client, headers)
    }

    #[test]
    fn from_any_format_to_any_other_the_trace_is_one_chain() {
        for from in TraceFormat::ALL {
            for to in TraceFormat::ALL {
                let (server, client, sent) = hop(Propagation::new(&[from], &[to]).unwrap(), given(from));
                let what = format!("{from:?} to {to:?}: {sent:?}");
                assert_eq!((server.trace_high(), server.trace()), (Some(0x463a_c35c_9f64_13ad), 0x4848_5a39_53bb_6124));
                assert_eq!((server.parent(), client.parent()), (0xa2fb_4a1d_1a96_d312, server.span()), "{what}");
                assert_eq!(server.sampled(), Some(true), "{what}");
                // Nothing is left that would name another parent.
                let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
                names.sort_unstable();
                let expected: &[&str] = match to {
                    L5d => &["l5d-ctx-trace", "l5d-reqid"],
                    B3 => &["x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"],
                    B3Single => &["b3"],
                    W3c if from == W3c => &["traceparent", "tracestate"],
                    W3c => &["traceparent"],
                };
                assert_eq!(names, expected, "{what}");
                let (next, ..) = hop(Propagation::new(&[to], &[to]).unwrap(), sent);
                assert_eq!(
                    (next.parent(), next.trace(), next.trace_high()),
                    (client.span(), server.trace(), server.trace_high())
                );
                assert_eq!(next.sampled(), Some(true), "{what}");
            }
        }
    }

    #[test]
    fn the_first_format_that_names_a_span_wins_and_all_that_are_read_are_taken_off() {
        let mut headers = given(W3c);
        headers.extend(map(&[("b3", "1-2-0")]));
        let all = Propagation::new(&[B3Single, W3c, L5d], &[L5d]).unwrap();
        let (server, _, sent) = hop(all, headers.clone());
        assert_eq!((server.parent(), server.trace(), server.sampled()), (2, 1, Some(false)));
        assert_eq!(sent.len(), 2, "{sent:?}");
        let (server, _, sent) = hop(Propagation::new(&[W3c], &[W3c]).unwrap(), headers);
        assert_eq!(server.parent(), 0xa2fb_4a1d_1a96_d312);
        assert_eq!(sent["b3"], "1-2-0", "what is not read passes");
    }

    #[test]
    fn whether_to_record_may_come_without_a_span_and_by_itself() {
        let all = Propagation::new(&[W3c, B3Single], &[W3c]).unwrap();
        for (headers, sampled) in [
            (map(&[("b3", "0")]), Some(false)),
            (map(&[("l5d-sample", "1")]), Some(true)),
            (map(&[("b3", "0"), ("l5d-sample", "1")]), Some(false)),
            (map(&[("traceparent", "none"), ("tracestate", "vendor=1")]), None),
        ] {
            let (server, _, sent) = hop(all, headers);
            assert_eq!((server.sampled(), server.parent()), (sampled, server.span()));
            assert_eq!(sent.len(), 1, "{sent:?}");
        }
    }

    #[test]
    fn zipkins_manner_is_linkerds() {
        let (server, client, sent) = hop(Propagation::ZIPKIN, HeaderMap::new());
        assert_eq!(
            (sent["x-b3-sampled"].as_bytes(), sent["x-b3-flags"].as_bytes(), sent.len()),
            (&b"0"[..], &b"0"[..], 5)
        );
        assert_eq!(sent["x-b3-parentspanid"], format!("{:016x}", server.span()));
        assert_eq!(sent["x-b3-spanid"], format!("{:016x}", client.span()));
        let mut headers = given(B3);
        headers.extend(given(L5d));
        headers.insert(L5D_SAMPLE, HeaderValue::from_static("0"));
        let (server, _, sent) = hop(Propagation::ZIPKIN, headers);
        assert_eq!((server.trace_high(), server.sampled()), (None, Some(true)));
        assert_eq!(sent["x-b3-traceid"], "48485a3953bb6124");
        assert_eq!((sent["x-b3-sampled"].as_bytes(), sent.len()), (&b"1"[..], 5));
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        assert_eq!(Propagation::new(&[W3c], &[]), Err(InvalidPropagation::NothingWritten));
        assert_eq!(Propagation::new(&[B3, W3c, B3], &[B3]), Err(InvalidPropagation::Twice(B3)));
        assert!(Propagation::new(&[], &TraceFormat::ALL).is_ok());
    }
}

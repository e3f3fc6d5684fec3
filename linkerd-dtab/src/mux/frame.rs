//! The messages of a session, one a frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::MAX_TAG;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A request. Its contexts, its destination and its table say nothing to a namerd, and are left out.
    Tdispatch {
        tag: u32,
        payload: Bytes,
    },
    /// The answer to a request. Its contexts are left out.
    Rdispatch {
        tag: u32,
        status: Status,
        payload: Bytes,
    },
    /// The client begins a session.
    Tinit {
        tag: u32,
        init: Init,
    },
    /// The server accepts one.
    Rinit {
        tag: u32,
        init: Init,
    },
    Tping {
        tag: u32,
    },
    Rping {
        tag: u32,
    },
    /// The server wants no further requests on this connection.
    Tdrain {
        tag: u32,
    },
    Rdrain {
        tag: u32,
    },
    /// The client no longer wants the answer to a request.
    Tdiscarded {
        which: u32,
        reason: Bytes,
    },
    /// The request was given up; there is no other answer.
    Rdiscarded {
        tag: u32,
    },
    /// The server takes requests for so many milliseconds.
    Tlease {
        millis: u64,
    },
    /// An error about the message of this tag. `is_old` is the type that it has in the first version of the protocol.
    Rerr {
        tag: u32,
        text: Bytes,
        is_old: bool,
    },
    /// A message of a type that is not known here.
    Unknown {
        kind: i8,
        tag: u32,
    },
}

/// What both sides say of themselves at the begin of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) version: u16,
    pub(crate) headers: Vec<(Bytes, Bytes)>,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    Error,
    /// It was not handled, and may be sent elsewhere.
    Nack,
}

/// A frame that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a frame of {0} bytes, of at least 4 and at most 16777216")]
    Length(u32),
    #[error("{0} ends in the middle")]
    Short(&'static str),
    #[error("{0} has bytes after its end")]
    Long(&'static str),
    #[error("an answer with status {0}")]
    Status(u8),
    #[error("tag 0 is for messages without an answer")]
    Tag,
    #[error("a fragment of a message of type {0}, which is never cut")]
    Fragment(i8),
    #[error("fragments of more bytes than a message may have")]
    Fragments,
    #[error("frames of at most {0} bytes are asked for: fewer than 1024 are too small")]
    SmallFrames(u32),
}

/// The types on the wire. An answer's is that of its request, negated.
pub(super) mod kind {
    pub(in crate::mux) const DISPATCH: i8 = 2;
    pub(super) const DRAIN: i8 = 64;
    pub(super) const PING: i8 = 65;
    pub(super) const DISCARDED: i8 = 66;
    pub(super) const OLD_TDISCARDED: i8 = -62;
    pub(super) const LEASE: i8 = 67;
    pub(in crate::mux) const INIT: i8 = 68;
    pub(super) const RERR: i8 = -128;
    pub(super) const OLD_RERR: i8 = 127;
}

impl Message {
    /// The message in a frame of this type and tag.
    pub(super) fn decode(kind: i8, tag: u32, mut body: Bytes) -> Result<Self, Malformed> {
        match kind {
            kind::DISPATCH => {
                not_zero(tag)?;
                skip_dispatch_head(&mut body)?;
                Ok(Self::Tdispatch { tag, payload: body })
            }
            -2 => {
                let status = Status::decode(&mut body)?;
                skip_contexts(&mut body)?;
                Ok(Self::Rdispatch { tag, status, payload: body })
            }
            kind::INIT => Ok(Self::Tinit { tag, init: Init::decode(body)? }),
            -68 => Ok(Self::Rinit { tag, init: Init::decode(body)? }),
            kind::PING => empty(&body, "a ping", Self::Tping { tag }),
            -65 => empty(&body, "the answer to a ping", Self::Rping { tag }),
            kind::DRAIN => empty(&body, "a drain", Self::Tdrain { tag }),
            -64 => empty(&body, "the answer to a drain", Self::Rdrain { tag }),
            kind::DISCARDED | kind::OLD_TDISCARDED => {
                let which = body.try_get_uint(3).map_err(|_| Malformed::Short("a discard"))?;
                Ok(Self::Tdiscarded { which: which as u32, reason: body })
            }
            -66 => Ok(Self::Rdiscarded { tag }),
            kind::LEASE => {
                let short = |_| Malformed::Short("a lease");
                // The unit: milliseconds are the only one there is.
                body.try_get_u8().map_err(short)?;
                let millis = body.try_get_u64().map_err(short)?;
                empty(&body, "a lease", Self::Tlease { millis })
            }
            kind::RERR => Ok(Self::Rerr { tag, text: body, is_old: false }),
            kind::OLD_RERR => Ok(Self::Rerr { tag, text: body, is_old: true }),
            kind => Ok(Self::Unknown { kind, tag }),
        }
    }

    /// Appends the type, the tag and the body, without a length. [`Self::Unknown`] is never sent.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let mut head = |kind: i8, tag: u32| {
            out.put_i8(kind);
            out.put_uint(u64::from(tag & 0xff_ffff), 3);
        };
        match self {
            Self::Tdispatch { tag, payload } => {
                head(kind::DISPATCH, *tag);
                // No contexts, no destination, no table.
                out.put_slice(&[0; 6]);
                out.put_slice(payload);
            }
            Self::Rdispatch { tag, status, payload } => {
                head(-kind::DISPATCH, *tag);
                out.put_u8(*status as u8);
                out.put_u16(0);
                out.put_slice(payload);
            }
            Self::Tinit { tag, init } => {
                head(kind::INIT, *tag);
                init.encode(out);
            }
            Self::Rinit { tag, init } => {
                head(-kind::INIT, *tag);
                init.encode(out);
            }
            Self::Tping { tag } => head(kind::PING, *tag),
            Self::Rping { tag } => head(-kind::PING, *tag),
            Self::Tdrain { tag } => head(kind::DRAIN, *tag),
            Self::Rdrain { tag } => head(-kind::DRAIN, *tag),
            Self::Tdiscarded { which, reason } => {
                head(kind::OLD_TDISCARDED, 0);
                out.put_uint(u64::from(which & 0xff_ffff), 3);
                out.put_slice(reason);
            }
            Self::Rdiscarded { tag } => head(-kind::DISCARDED, *tag),
            Self::Tlease { millis } => {
                head(kind::LEASE, 0);
                out.put_u8(0);
                out.put_u64(*millis);
            }
            Self::Rerr { tag, text, is_old } => {
                head(if *is_old { kind::OLD_RERR } else { kind::RERR }, *tag);
                out.put_slice(text);
            }
            Self::Unknown { kind, tag } => head(*kind, *tag),
        }
    }

    /// The error that Finagle answers what it does not know with.
    pub(crate) fn unexpected(kind: i8, tag: u32) -> Self {
        Self::Rerr { tag, text: format!("Unexpected mux message type {kind}").into(), is_old: true }
    }
}

impl Status {
    fn decode(body: &mut Bytes) -> Result<Self, Malformed> {
        match body.try_get_u8() {
            Ok(0) => Ok(Self::Ok),
            Ok(1) => Ok(Self::Error),
            Ok(2) => Ok(Self::Nack),
            Ok(other) => Err(Malformed::Status(other)),
            Err(_) => Err(Malformed::Short("an answer")),
        }
    }
}

impl Init {
    const VERSION: u16 = 1;
    const FRAMER: &'static [u8] = b"mux-framer";
    const TLS: &'static [u8] = b"tls";

    /// What is said here: frames of any size, TLS not by this protocol.
    pub(crate) fn ours() -> Self {
        let framer = (Bytes::from_static(Self::FRAMER), Bytes::copy_from_slice(&i32::MAX.to_be_bytes()));
        let tls = (Bytes::from_static(Self::TLS), Bytes::from_static(b"off"));
        Self { version: Self::VERSION, headers: vec![framer, tls] }
    }

    /// Whether it is a version that is spoken here.
    pub(crate) fn is_known(&self) -> bool {
        self.version == Self::VERSION
    }

    /// The longest frame that the other side wants, without its length; `None` if it does not say.
    pub(crate) fn max_frame(&self) -> Result<Option<usize>, Malformed> {
        let Some((_, size)) = self.headers.iter().find(|(name, _)| name == Self::FRAMER) else { return Ok(None) };
        let size = (&**size).try_get_u32().map_err(|_| Malformed::Short("mux-framer"))?;
        if size < 1024 { Err(Malformed::SmallFrames(size)) } else { Ok(Some(size as usize)) }
    }

    fn decode(mut body: Bytes) -> Result<Self, Malformed> {
        let short = || Malformed::Short("a handshake");
        let version = body.try_get_u16().map_err(|_| short())?;
        let mut headers = Vec::new();
        while body.has_remaining() {
            let mut field = || {
                let length = body.try_get_u32().map_err(|_| short())? as usize;
                if length > body.len() { Err(short()) } else { Ok(body.split_to(length)) }
            };
            headers.push((field()?, field()?));
        }
        Ok(Self { version, headers })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.version);
        for field in self.headers.iter().flat_map(|(name, value)| [name, value]) {
            out.put_u32(field.len() as u32);
            out.put_slice(field);
        }
    }
}

fn not_zero(tag: u32) -> Result<(), Malformed> {
    if tag == 0 || tag > MAX_TAG { Err(Malformed::Tag) } else { Ok(()) }
}

fn empty(body: &Bytes, what: &'static str, message: Message) -> Result<Message, Malformed> {
    if body.is_empty() { Ok(message) } else { Err(Malformed::Long(what)) }
}

fn skip_dispatch_head(body: &mut Bytes) -> Result<(), Malformed> {
    skip_contexts(body)?;
    skip_field(body)?;
    // The table: pairs of texts, as contexts are.
    skip_contexts(body)
}

fn skip_contexts(body: &mut Bytes) -> Result<(), Malformed> {
    let count = body.try_get_u16().map_err(|_| Malformed::Short("a message"))?;
    (0..2 * u32::from(count)).try_for_each(|_| skip_field(body))
}

fn skip_field(body: &mut Bytes) -> Result<(), Malformed> {
    let short = Malformed::Short("a message");
    let length = usize::from(body.try_get_u16().map_err(|_| short)?);
    if length > body.len() {
        return Err(short);
    }
    body.advance(length);
    Ok(())
}

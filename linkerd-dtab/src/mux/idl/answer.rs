//! Answers to calls.

use bytes::BytesMut;

use super::{Call, Explained, NameRef, addr, text, tree};
use crate::{
    Addr, NameTree, Path,
    mux::thrift::{Fault, Head, Kind, Malformed, Purpose, Reader, Writer},
};

/// What a call is answered with, apart from its stamp: a value of its kind, or why there is none.
pub(crate) type Answered<T> = Result<Stamped<T>, String>;

/// A value, and the stamp that stands for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stamped<T> {
    pub(crate) stamp: Vec<u8>,
    pub(crate) value: T,
}

/// An answer that a client cannot use.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("namerd's answer is not understood: {0}")]
    Malformed(#[from] Malformed),
    #[error("namerd says: {0}")]
    Fault(#[from] Fault),
    #[error("namerd says: {0}")]
    Failure(String),
}

/// The bare value of an answer: what its stamp is made of.
pub(crate) fn bound_tree<'a, T>(tree: &'a NameTree<T>, leaf: impl Fn(&'a T) -> (&'a Path, &'a Path)) -> BytesMut {
    value(|writer| tree::write(writer, tree, leaf))
}

/// As [`bound_tree`].
pub(crate) fn address(addr: &Addr) -> BytesMut {
    value(|writer| super::addr::write(writer, addr))
}

/// As [`bound_tree`].
pub(crate) fn explanation(explained: &Explained) -> BytesMut {
    value(|writer| explained.write(writer))
}

/// As [`bound_tree`].
pub(crate) fn dtab(dtab: &str) -> BytesMut {
    value(|writer| writer.bytes(dtab.as_bytes()))
}

impl Call {
    /// The answer to this call, as a message, with a value that one of the functions above has made.
    pub(crate) fn answer(&self, sequence: i32, answer: &Answered<BytesMut>) -> BytesMut {
        let mut out = BytesMut::new();
        let writer = &mut Writer::new(&mut out);
        writer.head(&Head { purpose: Purpose::Reply, method: self.method(), sequence });
        match answer {
            Ok(Stamped { stamp, value }) => {
                writer.field(0, Kind::Struct);
                text(writer, 1, stamp);
                writer.field(2, if matches!(self, Self::Dtab { .. }) { Kind::Text } else { Kind::Struct });
                writer.raw(value);
                match self {
                    Self::Bind { name: NameRef { namespace, .. }, .. } | Self::Delegate { namespace, .. } => {
                        text(writer, 3, namespace.as_bytes());
                    }
                    Self::Addr { .. } | Self::Dtab { .. } => {}
                }
            }
            Err(reason) => {
                writer.field(1, Kind::Struct);
                text(writer, 1, reason.as_bytes());
                if let Self::Bind { name, .. } | Self::Addr { name, .. } = self {
                    // When to ask again; nobody heeds it.
                    writer.field(2, Kind::I32);
                    writer.i32(0);
                    writer.field(3, Kind::Struct);
                    name.write(writer);
                }
                if let Self::Bind { name, .. } = self {
                    text(writer, 4, name.namespace.as_bytes());
                }
            }
        }
        writer.end();
        writer.end();
        out
    }
}

/// The answer that there can be to anything.
pub(crate) fn fault(method: &str, sequence: i32, fault: &Fault) -> BytesMut {
    let mut out = BytesMut::new();
    let writer = &mut Writer::new(&mut out);
    writer.head(&Head { purpose: Purpose::Exception, method, sequence });
    writer.fault(fault);
    out
}

/// Reads the answer to a `bind`.
pub(crate) fn read_bound<T: Clone>(
    message: &[u8],
    leaf: &impl Fn(Path, Path) -> T,
) -> Result<Stamped<NameTree<T>>, BadAnswer> {
    read_answer(message, Kind::Struct, |reader| tree::read(reader, leaf))
}

/// Reads the answer to an `addr`.
pub(crate) fn read_addr(message: &[u8]) -> Result<Stamped<Addr>, BadAnswer> {
    read_answer(message, Kind::Struct, addr::read)
}

/// Reads the answer to a `delegate`.
pub(crate) fn read_explained(message: &[u8]) -> Result<Stamped<Explained>, BadAnswer> {
    read_answer(message, Kind::Struct, Explained::read)
}

fn read_answer<T>(
    message: &[u8],
    kind_of_value: Kind,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Stamped<T>, BadAnswer> {
    let mut reader = Reader::new(message);
    match reader.head()?.purpose {
        Purpose::Reply => {}
        Purpose::Exception => return Err(reader.fault()?.into()),
        other => return Err(Malformed::Purpose(other as u8).into()),
    }
    let (mut stamp, mut value, mut failure) = (None, None, None);
    reader.fields(|reader, id, kind| {
        match (id, kind) {
            (0, Kind::Struct) => reader.fields(|reader, id, kind| {
                match (id, kind) {
                    (1, Kind::Text) => stamp = Some(reader.bytes()?.to_vec()),
                    (2, kind) if kind == kind_of_value => value = Some(read(reader)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?,
            (1, Kind::Struct) => reader.fields(|reader, id, kind| {
                let is_reason = (id, kind) == (1, Kind::Text);
                if is_reason {
                    failure = Some(String::from_utf8_lossy(reader.bytes()?).into_owned());
                }
                Ok(is_reason)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    match (stamp, value, failure) {
        (Some(stamp), Some(value), _) => Ok(Stamped { stamp, value }),
        (.., Some(reason)) => Err(BadAnswer::Failure(reason)),
        _ => Err(Malformed::Field("answer").into()),
    }
}

fn value(write: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut Writer::new(&mut out));
    out
}

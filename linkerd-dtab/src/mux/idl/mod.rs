//! What is said over thrift between a namerd and those who ask it: calls, answers and the values in them.

mod addr;
mod explained;
#[cfg(test)]
mod tests;
mod tree;

use bytes::BytesMut;

pub(crate) use explained::{Content, Explained, NO_ENTRY};

use super::thrift::{Fault, Head, Kind, Malformed, Purpose, Reader, Writer};
use crate::{Addr, NameTree, Path};

/// A call. The stamp is the one of the answer that the caller has, empty if it has none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    /// What a name is bound to under the table of a namespace with `dtab` on top of it.
    Bind { dtab: String, name: NameRef, client: Path },
    /// Where the replicas of a bound name are.
    Addr { name: NameRef, client: Path },
    /// How `path` is bound; `None` if the tree that is to be explained has something else at its root.
    Delegate { dtab: String, stamp: Vec<u8>, path: Option<Path>, namespace: String, client: Path },
    /// The table of a namespace.
    Dtab { stamp: Vec<u8>, namespace: String, client: Path },
}

/// A name in a namespace, and the stamp of what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameRef {
    pub(crate) stamp: Vec<u8>,
    pub(crate) name: Path,
    pub(crate) namespace: String,
}

/// A message that is no call that could be answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum BadCall {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("no method is called {method}")]
    Method { method: String, sequence: i32 },
}

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

impl Call {
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Addr { .. } => "addr",
            Self::Delegate { .. } => "delegate",
            Self::Dtab { .. } => "dtab",
        }
    }

    /// Reads a message that is a call.
    pub(crate) fn decode(message: &[u8]) -> Result<(Self, i32), BadCall> {
        let mut reader = Reader::new(message);
        let Head { purpose, method, sequence } = reader.head()?;
        if purpose != Purpose::Call {
            return Err(Malformed::Purpose(purpose as u8).into());
        }
        let read: fn(&mut Reader<'_>) -> Result<Self, Malformed> = match method {
            "bind" => Self::read_bind,
            "addr" => Self::read_addr,
            "delegate" => Self::read_delegate,
            "dtab" => Self::read_dtab,
            _ => return Err(BadCall::Method { method: method.chars().take(100).collect(), sequence }),
        };
        let mut call = None;
        reader.fields(|reader, id, kind| {
            let is_request = (id, kind) == (1, Kind::Struct);
            if is_request {
                call = Some(read(reader)?);
            }
            Ok(is_request)
        })?;
        Ok((call.ok_or(Malformed::Field("request"))?, sequence))
    }

    /// The message.
    pub(crate) fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        let writer = &mut Writer::new(&mut out);
        writer.head(&Head { purpose: Purpose::Call, method: self.method(), sequence: 0 });
        writer.field(1, Kind::Struct);
        match self {
            Self::Bind { dtab, name, client } => {
                text(writer, 1, dtab.as_bytes());
                writer.field(2, Kind::Struct);
                name.write(writer);
                path(writer, 3, client);
            }
            Self::Addr { name, client } => {
                writer.field(1, Kind::Struct);
                name.write(writer);
                path(writer, 2, client);
            }
            Self::Delegate { dtab, stamp, path: name, namespace, client } => {
                text(writer, 1, dtab.as_bytes());
                writer.field(2, Kind::Struct);
                text(writer, 1, stamp);
                writer.field(2, Kind::Struct);
                explained::write_question(writer, name.as_ref().unwrap_or(&Path::empty()));
                text(writer, 3, namespace.as_bytes());
                writer.end();
                path(writer, 3, client);
            }
            Self::Dtab { stamp, namespace, client } => {
                text(writer, 1, stamp);
                text(writer, 2, namespace.as_bytes());
                path(writer, 3, client);
            }
        }
        writer.end();
        writer.end();
        out
    }

    fn read_bind(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mut dtab, mut name, mut client) = (String::new(), None, Path::empty());
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Text) => dtab = reader.text()?.to_owned(),
                (2, Kind::Struct) => name = Some(NameRef::read(reader)?),
                (3, Kind::List) => client = read_path(reader)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self::Bind { dtab, name: name.ok_or(Malformed::Field("name"))?, client })
    }

    fn read_addr(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mut name, mut client) = (None, Path::empty());
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Struct) => name = Some(NameRef::read(reader)?),
                (2, Kind::List) => client = read_path(reader)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self::Addr { name: name.ok_or(Malformed::Field("name"))?, client })
    }

    fn read_delegate(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mut dtab, mut client) = (String::new(), Path::empty());
        let (mut stamp, mut path, mut namespace) = (Vec::new(), None, String::new());
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Text) => dtab = reader.text()?.to_owned(),
                (2, Kind::Struct) => reader.fields(|reader, id, kind| {
                    match (id, kind) {
                        (1, Kind::Text) => stamp = reader.bytes()?.to_vec(),
                        (2, Kind::Struct) => path = explained::read_question(reader)?,
                        (3, Kind::Text) => namespace = reader.text()?.to_owned(),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?,
                (3, Kind::List) => client = read_path(reader)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self::Delegate { dtab, stamp, path, namespace, client })
    }

    fn read_dtab(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mut stamp, mut namespace, mut client) = (Vec::new(), String::new(), Path::empty());
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Text) => stamp = reader.bytes()?.to_vec(),
                (2, Kind::Text) => namespace = reader.text()?.to_owned(),
                (3, Kind::List) => client = read_path(reader)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self::Dtab { stamp, namespace, client })
    }
}

impl NameRef {
    fn write(&self, writer: &mut Writer<'_>) {
        text(writer, 1, &self.stamp);
        path(writer, 2, &self.name);
        text(writer, 3, self.namespace.as_bytes());
        writer.end();
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut name = Self::default();
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Text) => name.stamp = reader.bytes()?.to_vec(),
                (2, Kind::List) => name.name = read_path(reader)?,
                (3, Kind::Text) => name.namespace = reader.text()?.to_owned(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(name)
    }
}

/// The bare value of an answer: what its stamp is made of.
pub(crate) fn bound_tree<'a, T>(tree: &'a NameTree<T>, leaf: impl Fn(&'a T) -> (&'a Path, &'a Path)) -> BytesMut {
    value(|writer| tree::write(writer, tree, leaf))
}

/// As [`bound_tree`].
pub(crate) fn addr(addr: &Addr) -> BytesMut {
    value(|writer| addr::write(writer, addr))
}

/// As [`bound_tree`].
pub(crate) fn explained(explained: &Explained) -> BytesMut {
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

fn text(writer: &mut Writer<'_>, id: i16, text: &[u8]) {
    writer.field(id, Kind::Text);
    writer.bytes(text);
}

fn path(writer: &mut Writer<'_>, id: i16, path: &Path) {
    writer.field(id, Kind::List);
    writer.list(Kind::Text, path.size());
    path.iter().for_each(|element| writer.bytes(element));
}

fn read_path(reader: &mut Reader<'_>) -> Result<Path, Malformed> {
    let elements = reader.list(Kind::Text, Reader::bytes)?;
    Path::from_elements(elements).map_err(|_| Malformed::EmptyElement)
}

fn bound_name(writer: &mut Writer<'_>, id: i16, (name, residual): (&Path, &Path)) {
    writer.field(id, Kind::Struct);
    path(writer, 1, name);
    path(writer, 2, residual);
    writer.end();
}

fn read_bound_name(reader: &mut Reader<'_>) -> Result<(Path, Path), Malformed> {
    let (mut name, mut residual) = (Path::empty(), Path::empty());
    reader.fields(|reader, id, kind| {
        match (id, kind) {
            (1, Kind::List) => name = read_path(reader)?,
            (2, Kind::List) => residual = read_path(reader)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((name, residual))
}

fn numbers(writer: &mut Writer<'_>, id: i16, numbers: impl ExactSizeIterator<Item = i32>) {
    writer.field(id, Kind::List);
    writer.list(Kind::I32, numbers.len());
    numbers.for_each(|number| writer.i32(number));
}

fn shares(writer: &mut Writer<'_>, id: i16, shares: impl ExactSizeIterator<Item = (f64, i32)>) {
    writer.field(id, Kind::List);
    writer.list(Kind::Struct, shares.len());
    for (weight, number) in shares {
        writer.field(1, Kind::Double);
        writer.double(weight);
        writer.field(2, Kind::I32);
        writer.i32(number);
        writer.end();
    }
}

fn read_shares(reader: &mut Reader<'_>) -> Result<Vec<(f64, i32)>, Malformed> {
    reader.list(Kind::Struct, |reader| {
        let (mut weight, mut number) = (1.0, None);
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Double) => weight = reader.double()?,
                (2, Kind::I32) => number = Some(reader.i32()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        // Written so that NaN is refused too.
        if !(weight >= 0.0) {
            return Err(Malformed::Weight(weight));
        }
        Ok((weight, number.ok_or(Malformed::Field("node's number"))?))
    })
}

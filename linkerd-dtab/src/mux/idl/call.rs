//! Calls.

use bytes::BytesMut;

use super::{explained, path, read_path, text};
use crate::{
    Path,
    mux::thrift::{Head, Kind, Malformed, Purpose, Reader, Writer},
};

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
                (1, Kind::Text) => reader.text()?.clone_into(&mut dtab),
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
                (1, Kind::Text) => reader.text()?.clone_into(&mut dtab),
                (2, Kind::Struct) => reader.fields(|reader, id, kind| {
                    match (id, kind) {
                        (1, Kind::Text) => stamp = reader.bytes()?.to_vec(),
                        (2, Kind::Struct) => path = explained::read_question(reader)?,
                        (3, Kind::Text) => reader.text()?.clone_into(&mut namespace),
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
                (2, Kind::Text) => reader.text()?.clone_into(&mut namespace),
                (3, Kind::List) => client = read_path(reader)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self::Dtab { stamp, namespace, client })
    }
}

impl NameRef {
    pub(super) fn write(&self, writer: &mut Writer<'_>) {
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
                (3, Kind::Text) => reader.text()?.clone_into(&mut name.namespace),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(name)
    }
}

//! Thrift's binary protocol, in its strict form.
//!
//! A [`Reader`] takes what anybody sends: it is bounded by the bytes that are there and by a depth, what it does not know
//! is skipped, and nothing is reserved for what a length only claims.

use bytes::{BufMut, BytesMut};

/// How deep values may nest in what is read.
const MAX_DEPTH: usize = 64;

const VERSION: u32 = 0x8001_0000;

/// The types on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool = 2,
    Byte = 3,
    Double = 4,
    I16 = 6,
    I32 = 8,
    I64 = 10,
    Text = 11,
    Struct = 12,
    Map = 13,
    Set = 14,
    List = 15,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Call = 1,
    Reply = 2,
    /// An answer that is a [`Fault`].
    Exception = 3,
    Oneway = 4,
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) method: &'a str,
    pub(crate) sequence: i32,
}

/// What any call may be answered with (`TApplicationException`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Fault {
    pub(crate) text: String,
    pub(crate) kind: i32,
}

/// Bytes that are no message, or not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a thrift message ends in the middle")]
    Short,
    #[error("a thrift message of another version or protocol")]
    Version,
    #[error("no thrift type has number {0}")]
    Kind(u8),
    #[error("no thrift message has type {0}")]
    Purpose(u8),
    #[error("a thrift text is not UTF-8")]
    Utf8,
    #[error("a thrift value nests more than {MAX_DEPTH} levels")]
    Depth,
    #[error("a thrift {0} is missing or of another type")]
    Field(&'static str),
    #[error("a path element is empty")]
    EmptyElement,
    #[error("a tree of more than {0}")]
    TooMuch(&'static str),
    #[error("a tree has no node {0}")]
    NoNode(i32),
    #[error("a share of {0}")]
    Weight(f64),
    #[error("an address of {0} bytes")]
    Ip(usize),
    #[error("no port is {0}")]
    Port(i32),
}

/// Reads values one after another.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    depth: usize,
}

/// Appends values.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut BytesMut,
}

impl Fault {
    pub(crate) const UNKNOWN_METHOD: i32 = 1;
    pub(crate) const INTERNAL_ERROR: i32 = 6;
    pub(crate) const PROTOCOL_ERROR: i32 = 7;
}

impl Kind {
    fn from_wire(byte: u8) -> Result<Self, Malformed> {
        use Kind::{Bool, Byte, Double, I16, I32, I64, List, Map, Set, Struct, Text};
        [Bool, Byte, Double, I16, I32, I64, Text, Struct, Map, Set, List]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
            .ok_or(Malformed::Kind(byte))
    }

    // The fewest bytes that a value takes, so that a claimed length has to be paid for.
    fn least(self) -> usize {
        match self {
            Self::Bool | Self::Byte | Self::Struct => 1,
            Self::I16 => 2,
            Self::I32 | Self::Text => 4,
            Self::Double | Self::I64 => 8,
            Self::Set | Self::List => 5,
            Self::Map => 6,
        }
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, depth: 0 }
    }

    /// The head of a message.
    pub(crate) fn head(&mut self) -> Result<Head<'a>, Malformed> {
        let word = u32::from_be_bytes(self.array()?);
        if word & 0xffff_ff00 != VERSION {
            return Err(Malformed::Version);
        }
        let purpose = match word as u8 {
            1 => Purpose::Call,
            2 => Purpose::Reply,
            3 => Purpose::Exception,
            4 => Purpose::Oneway,
            other => return Err(Malformed::Purpose(other)),
        };
        Ok(Head { purpose, method: self.text()?, sequence: self.i32()? })
    }

    /// Reads a struct: `field` is handed each field's number and type, and says whether it has read the value. What it
    /// has not read is skipped.
    pub(crate) fn fields(
        &mut self,
        mut field: impl FnMut(&mut Self, i16, Kind) -> Result<bool, Malformed>,
    ) -> Result<(), Malformed> {
        self.nested(|reader| {
            loop {
                let [kind] = reader.array()?;
                if kind == 0 {
                    return Ok(());
                }
                let kind = Kind::from_wire(kind)?;
                let id = i16::from_be_bytes(reader.array()?);
                if !field(reader, id, kind)? {
                    reader.skip(kind)?;
                }
            }
        })
    }

    /// Reads a list or a set of values of `kind`. One of other values is skipped if it is empty, else refused.
    pub(crate) fn list<T>(
        &mut self,
        kind: Kind,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        self.nested(|reader| {
            let (found, count) = reader.list_head()?;
            if found != Some(kind) && count > 0 {
                return Err(Malformed::Field("list"));
            }
            (0..count).map(|_| item(reader)).collect()
        })
    }

    /// Reads a map from numbers to structs.
    pub(crate) fn numbered<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<(i32, T)>, Malformed> {
        self.nested(|reader| {
            let (kinds, count) = reader.map_head()?;
            if kinds != Some((Kind::I32, Kind::Struct)) && count > 0 {
                return Err(Malformed::Field("map"));
            }
            (0..count).map(|_| Ok((reader.i32()?, item(reader)?))).collect()
        })
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn double(&mut self) -> Result<f64, Malformed> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.i32()?;
        let length = usize::try_from(length).map_err(|_| Malformed::Short)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }

    /// Reads the body of an answer of purpose [`Purpose::Exception`].
    pub(crate) fn fault(&mut self) -> Result<Fault, Malformed> {
        let mut fault = Fault { text: String::new(), kind: 0 };
        self.fields(|reader, id, kind| {
            match (id, kind) {
                (1, Kind::Text) => fault.text = String::from_utf8_lossy(reader.bytes()?).into_owned(),
                (2, Kind::I32) => fault.kind = reader.i32()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(fault)
    }

    fn skip(&mut self, kind: Kind) -> Result<(), Malformed> {
        match kind {
            Kind::Bool | Kind::Byte => self.take(1).map(drop),
            Kind::I16 => self.take(2).map(drop),
            Kind::I32 => self.take(4).map(drop),
            Kind::Double | Kind::I64 => self.take(8).map(drop),
            Kind::Text => self.bytes().map(drop),
            Kind::Struct => self.fields(|_, _, _| Ok(false)),
            Kind::List | Kind::Set => self.nested(|reader| {
                let (kind, count) = reader.list_head()?;
                let Some(kind) = kind else { return Ok(()) };
                (0..count).try_for_each(|_| reader.skip(kind))
            }),
            Kind::Map => self.nested(|reader| {
                let (kinds, count) = reader.map_head()?;
                let Some((key, value)) = kinds else { return Ok(()) };
                (0..count).try_for_each(|_| {
                    reader.skip(key)?;
                    reader.skip(value)
                })
            }),
        }
    }

    // Of an empty one the type may be anything.
    fn list_head(&mut self) -> Result<(Option<Kind>, usize), Malformed> {
        let [kind] = self.array()?;
        let count = self.count()?;
        if count == 0 {
            return Ok((None, 0));
        }
        let kind = Kind::from_wire(kind)?;
        self.afford(count, kind.least())?;
        Ok((Some(kind), count))
    }

    fn map_head(&mut self) -> Result<(Option<(Kind, Kind)>, usize), Malformed> {
        let [key, value] = self.array()?;
        let count = self.count()?;
        if count == 0 {
            return Ok((None, 0));
        }
        let kinds = (Kind::from_wire(key)?, Kind::from_wire(value)?);
        self.afford(count, kinds.0.least() + kinds.1.least())?;
        Ok((Some(kinds), count))
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.i32()?).map_err(|_| Malformed::Short)
    }

    fn afford(&self, count: usize, each: usize) -> Result<(), Malformed> {
        if count > self.rest.len() / each { Err(Malformed::Short) } else { Ok(()) }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<T, Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(Malformed::Depth);
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*taken)
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut BytesMut) -> Self {
        Self { out }
    }

    pub(crate) fn head(&mut self, head: &Head<'_>) {
        self.out.put_u32(VERSION | head.purpose as u32);
        self.bytes(head.method.as_bytes());
        self.i32(head.sequence);
    }

    /// The head of a field; its value is to follow.
    pub(crate) fn field(&mut self, id: i16, kind: Kind) {
        self.out.put_u8(kind as u8);
        self.out.put_i16(id);
    }

    /// The end of a struct.
    pub(crate) fn end(&mut self) {
        self.out.put_u8(0);
    }

    /// The head of a list or a set of so many values, which are to follow.
    pub(crate) fn list(&mut self, kind: Kind, count: usize) {
        self.out.put_u8(kind as u8);
        self.count(count);
    }

    /// Writes a map from numbers, counted from zero, to structs. `item` writes the one of a number, until there are no
    /// more.
    pub(crate) fn numbered(&mut self, mut item: impl FnMut(&mut Self, usize) -> bool) {
        self.out.put_slice(&[Kind::I32 as u8, Kind::Struct as u8]);
        let start = self.out.len();
        self.count(0);
        let mut count = 0;
        loop {
            let end = self.out.len();
            self.count(count);
            if !item(self, count) {
                self.out.truncate(end);
                break;
            }
            count += 1;
        }
        self.out[start..start + 4].copy_from_slice(&(count as u32).to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    pub(crate) fn double(&mut self, value: f64) {
        self.out.put_f64(value);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.out.put_slice(bytes);
    }

    /// A value that was written before.
    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.out.put_slice(value);
    }

    pub(crate) fn fault(&mut self, fault: &Fault) {
        self.field(1, Kind::Text);
        self.bytes(fault.text.as_bytes());
        self.field(2, Kind::I32);
        self.i32(fault.kind);
        self.end();
    }

    // What is written here is far below this: trees and tables have bounds of their own, and frames are checked.
    fn count(&mut self, count: usize) {
        self.out.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
    }
}

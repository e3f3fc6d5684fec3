//! What is said over thrift between a namerd and those who ask it: calls, answers and the values in them.

mod addr;
mod answer;
mod call;
mod explained;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use answer::{
    BadAnswer, Stamped, address, bound_tree, dtab, explanation, fault, read_addr, read_bound, read_explained,
};
pub(crate) use call::{BadCall, Call, NameRef};
pub(crate) use explained::{Content, Explained, NO_ENTRY};

use super::thrift::{Kind, Malformed, Reader, Writer};
use crate::Path;

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

/// The numbers of nodes that are added behind so many.
fn numbers_from(nodes: usize) -> std::ops::RangeFrom<i32> {
    // Trees have far fewer nodes than there are numbers.
    i32::try_from(nodes).unwrap_or(i32::MAX)..
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
        if weight.is_nan() || weight < 0.0 {
            return Err(Malformed::Weight(weight));
        }
        Ok((weight, number.ok_or(Malformed::Field("node's number"))?))
    })
}

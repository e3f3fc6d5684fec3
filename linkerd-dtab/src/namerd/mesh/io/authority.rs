//! Blocks of headers without an empty `:authority`.

use std::ops::Range;

/// How long the head of a frame is.
pub(super) const HEAD: usize = 9;

/// The types of frames that requests have.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const NAME: &[u8] = b":authority";

/// The same in the header compression's Huffman code.
const NAME_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// Where the header compression's static table has the name with an empty value.
const INDEX: usize = 1;

/// The head of a frame, without the stream's id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
}

impl Head {
    /// The head that these bytes begin with, if they are enough.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, ..] = bytes.get(..HEAD)? else { return None };
        Some(Self { len: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c), kind, flags })
    }
}

/// A HEADERS frame and the CONTINUATION frames that end it, without fields that say that `:authority` is empty.
///
/// What is malformed stays as it is: others know better what to answer.
pub(super) fn without_empty(frames: Vec<u8>) -> Vec<u8> {
    let Some(fragments) = fragments(&frames) else { return frames };
    // Fields may begin in one frame and end in another.
    let block: Vec<u8> = fragments.iter().flat_map(|range| &frames[range.clone()]).copied().collect();
    match empty_authorities(&block) {
        Some(fields) if !fields.is_empty() => without(&frames, &fragments, &fields),
        _ => frames,
    }
}

/// What each frame has of the block.
fn fragments(frames: &[u8]) -> Option<Vec<Range<usize>>> {
    let (mut fragments, mut at) = (Vec::new(), 0);
    while at < frames.len() {
        let head = Head::of(&frames[at..])?;
        let (mut begin, mut end) = (at + HEAD, at + HEAD + head.len);
        at = end;
        if head.kind == HEADERS {
            if head.flags & PADDED != 0 {
                let padding = usize::from(*frames.get(begin).filter(|_| begin < end)?);
                begin += 1;
                end = end.checked_sub(padding)?;
            }
            if head.flags & PRIORITY != 0 {
                begin += 5;
            }
        }
        if begin > end || end > frames.len() {
            return None;
        }
        fragments.push(begin..end);
    }
    Some(fragments)
}

/// The frames without these fields of the block; their lengths are less by what they lack.
fn without(frames: &[u8], fragments: &[Range<usize>], fields: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frames.len());
    let mut goes = vec![false; fragments.iter().map(ExactSizeIterator::len).sum()];
    for field in fields {
        goes[field.clone()].fill(true);
    }
    let (mut at, mut in_block) = (0, 0);
    for fragment in fragments {
        let head = out.len();
        out.extend_from_slice(&frames[at..fragment.start]);
        for (i, byte) in frames[fragment.clone()].iter().enumerate() {
            if !goes[in_block + i] {
                out.push(*byte);
            }
        }
        in_block += fragment.len();
        let len = Head::of(&frames[at..]).map_or(0, |head| head.len);
        let end = at + HEAD + len;
        out.extend_from_slice(&frames[fragment.end..end]);
        at = end;
        let len = out.len() - head - HEAD;
        out[head..head + 3].copy_from_slice(&len.to_be_bytes()[size_of::<usize>() - 3..]);
    }
    out
}

/// Where a block says that `:authority` is empty, by fields that leave the compression's table as it is.
fn empty_authorities(block: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut fields = Vec::new();
    let mut rest = Rest { block, at: 0 };
    while let Some(&first) = block.get(rest.at) {
        let begin = rest.at;
        let is_one = match first {
            // From a table: name and value.
            0x80.. => rest.integer(7)? == INDEX,
            // A new entry of the table.
            0x40..0x80 => {
                rest.name(6)?;
                rest.string()?;
                false
            }
            // Another size of the table.
            0x20..0x40 => {
                rest.integer(5)?;
                false
            }
            0x00..0x20 => {
                let is_authority = rest.name(4)?;
                rest.string()?.is_empty() && is_authority
            }
        };
        if is_one {
            fields.push(begin..rest.at);
        }
    }
    Some(fields)
}

/// What of a block is still to be read.
struct Rest<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// An integer whose first byte has so many bits of it.
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let mask = (1 << bits) - 1;
        let mut value = usize::from(self.byte()? & mask);
        if value < usize::from(mask) {
            return Some(value);
        }
        // Up to 21 more bits: more than a block has bytes.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A text as it is written, be it in Huffman code.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.integer(7)?;
        let string = self.block.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(string)
    }

    /// Whether a name, by its index or as a text, is the one.
    fn name(&mut self, bits: u32) -> Option<bool> {
        let index = self.integer(bits)?;
        if index != 0 {
            return Some(index == INDEX);
        }
        let is_huffman = self.block.get(self.at)? & 0x80 != 0;
        Some(self.string()? == if is_huffman { NAME_HUFFMAN } else { NAME })
    }
}

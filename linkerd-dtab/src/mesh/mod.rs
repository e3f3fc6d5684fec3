//! namerd's gRPC interface: its messages, and how they stand for ours.
//!
//! Messages come from others. What they may nest is bounded by prost (100 levels), what they may be in all by the size of a
//! message ([`MAX_MESSAGE`]) and the number of nodes of its trees ([`parse::MAX_OPERANDS`]); what is written keeps to the
//! same depth, so that every peer can read it.

pub(crate) mod codec;
pub(crate) mod delegation;
pub(crate) mod name;
pub(crate) mod replicas;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use prost::Message;

use crate::{Failure, parse};

/// The messages and services of the package `io.linkerd.mesh`, generated from `proto/*.proto` by `just proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, unused_qualifications)]
#[allow(clippy::all, clippy::pedantic)]
pub mod proto {
    include!("proto.rs");
}

/// The longest message that is read, in bytes: 4 MiB.
pub const MAX_MESSAGE: usize = 4 << 20;

/// How deep messages may nest: as deep as implementations of protocol buffers read if they are not told otherwise.
const MAX_LEVELS: usize = 100;

/// Why a message stands for nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A path has an element without bytes.
    #[error("a path element is empty")]
    EmptyElement,
    /// A message lacks one that it has to have.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A weight is negative, or not a number.
    #[error("{0} is not a weight")]
    Weight(f64),
    /// A tree, or a table, has too many nodes.
    #[error("more than {} names", parse::MAX_OPERANDS)]
    TooMany,
    /// An address is neither four nor sixteen bytes long.
    #[error("an address has {0} bytes")]
    Address(usize),
    /// A port is none.
    #[error("{0} is not a port")]
    Port(i32),
}

/// What a peer says has failed there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
struct Remote(Box<str>);

/// The longest message of a failure that is kept, in bytes.
const MAX_FAILURE: usize = 1024;

fn remote_failure(message: &str) -> Failure {
    let end = message.floor_char_boundary(MAX_FAILURE);
    Arc::new(Remote(message[..end].into()))
}

/// Why something is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// Peers would not read it.
    #[error("it nests deeper than the {MAX_LEVELS} levels that a message may have")]
    TooDeep,
    /// It takes too much memory.
    #[error("it takes more than the {MAX_MESSAGE} bytes that a message may have")]
    TooLong,
}

/// How many levels of messages there may still be below one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels(usize);

impl Levels {
    /// Of a field of what is sent.
    pub(crate) const fn of_field() -> Self {
        Self(MAX_LEVELS - 1)
    }

    /// Of a message `levels` further down.
    pub(crate) fn below(self, levels: usize) -> Result<Self, Unfit> {
        self.0.checked_sub(levels).map(Self).ok_or(Unfit::TooDeep)
    }
}

/// How many bytes may still be written.
#[derive(Debug)]
pub(crate) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(MAX_MESSAGE)
    }
}

impl Room {
    fn take(&mut self, message: &impl Message) -> Result<(), Unfit> {
        self.0 = self.0.checked_sub(message.encoded_len()).ok_or(Unfit::TooLong)?;
        Ok(())
    }
}

/// How many nodes may still be read.
#[derive(Debug)]
pub(crate) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(parse::MAX_OPERANDS)
    }
}

impl Budget {
    fn take(&mut self) -> Result<(), Malformed> {
        self.0 = self.0.checked_sub(1).ok_or(Malformed::TooMany)?;
        Ok(())
    }
}

//! namerd's gRPC interface: its messages, and how they stand for ours.
//!
//! The service is [`namerd::mesh`](crate::namerd), the client [`interpreter::remote::Mesh`](crate::interpreter::remote).

mod codec;

/// The messages and services of the package `io.linkerd.mesh`, generated from `proto/*.proto` by `just proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, unused_qualifications)]
#[allow(clippy::all, clippy::pedantic)]
pub mod proto {
    include!("proto.rs");
}

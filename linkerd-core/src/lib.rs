//! The crate to import: an embeddable service mesh as one tower stack.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
pub mod context;
mod error;
pub mod http;
pub mod identify;
mod random;
mod svc;
pub mod telemetry;

pub use body::{Body, IntoBody};
pub use error::{BoxError, Error, ErrorKind};
pub use svc::{HttpService, Svc, SvcFuture};

pub use linkerd_balance as balance;
pub use linkerd_dtab as dtab;
pub use linkerd_retry as retry;

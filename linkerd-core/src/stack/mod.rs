//! The stacks that a request goes through, one inside the other.
//!
//! ```text
//! PathStack    ① one box    per logical name: stats, timeout, deadline, classes, retries, the pick of a bound name
//! BoundClient     inside ①  per bound name: requeues, the pick of an endpoint, attempt stats, accrual, attempt timeout
//! endpoint     ② one box    what `Connect` gave, inside the layers of `endpoint_layer`
//! ```

mod bound;
mod clients;
mod path;
mod route;
mod share;

pub(crate) use bound::{BoundClient, BoundName};
pub(crate) use clients::Clients;
pub(crate) use path::{PathInfo, PathStack, Shared, now};
pub(crate) use route::{Binding, Route};

//! The stacks that a request goes through, one inside the other.
//!
//! ```text
//! PathStack    ① one box    per logical name: stats, timeout, deadline, classes, retries, the pick of a bound name
//! BoundClient     inside ①  per bound name: requeues, the pick of an endpoint, attempt stats, accrual, attempt timeout
//! endpoint     ② one box    what `Connect` gave, inside the layers of `endpoint_layer`
//! ```

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use linkerd_dtab::Failure;

mod allowance;
mod attempt;
mod bound;
mod classified;
mod clients;
mod diagnose;
mod discard;
mod endpoints;
mod fail_fast;
mod fault;
mod hedge;
mod hints;
mod hold;
mod info;
mod limit;
mod outgoing;
mod path;
mod probe;
mod ready;
mod route;
mod share;
mod switch;
mod time;
mod trail;

pub(crate) use allowance::{Allowance, Allowances};
pub(crate) use bound::{BoundClient, BoundName};
pub(crate) use classified::{Open, Watched};
pub(crate) use clients::Clients;
#[cfg(feature = "config")]
pub(crate) use diagnose::PATIENCE;
#[cfg(feature = "config")]
pub(crate) use fail_fast::REST;
pub(crate) use fault::outcome as grpc_outcome;
pub(crate) use info::{PathInfo, Shared};
pub(crate) use outgoing::Outgoing;
pub(crate) use path::PathStack;
pub(crate) use route::{Binding, Route};
pub(crate) use switch::Switching;
pub(crate) use time::now;
pub(crate) use trail::{Leg, Places, Trail};

/// Somebody's layer, policy or connector panicked when a stack was built.
#[derive(Debug, thiserror::Error)]
#[error("a stack could not be built: {0}")]
struct Panicked(String);

/// Runs what calls code that is not ours: a panic in it must not end the task that follows a name.
fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, Failure> {
    // Nothing of what the panic left half done is used: the next change begins anew.
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned());
        tracing::error!("a stack could not be built: {text}");
        Arc::new(Panicked(text)) as Failure
    })
}

//! What the system namers need from DNS: a host and a port to the replicas behind them.

use std::sync::Arc;

use crate::{Activity, Addr};

/// Turns a host and a port into replicas, and keeps them current.
///
/// Both arguments come from a name as somebody wrote it: the host may be a name or a literal address, the port may be
/// out of range or no number at all. None of that is an error of the call. An unknown host is [`Addr::Neg`]; what cannot
/// be an address (a bad port, a malformed literal) is [`State::Failed`](crate::State::Failed).
///
/// Called inside a tokio runtime.
pub trait Resolve: Send + Sync + 'static {
    /// The replicas at `host` and `port`, asked for again until the last clone of the activity is dropped.
    ///
    /// Equal arguments should share one watch.
    fn resolve(&self, host: &str, port: &str) -> Activity<Addr>;

    /// The same, but the first answer stands for as long as this resolver lives.
    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr>;
}

impl<R: Resolve + ?Sized> Resolve for Arc<R> {
    fn resolve(&self, host: &str, port: &str) -> Activity<Addr> {
        (**self).resolve(host, port)
    }

    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr> {
        (**self).resolve_once(host, port)
    }
}

//! Make before break: when requests of a name that is bound anew may go where it is bound to now.

use std::future::Future;

use futures::future::{join_all, select_all};
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use crate::Path;

/// Something that requests of a name can go to, and what is known of it.
///
/// Waits are cancel safe, and may be over already.
pub trait Target {
    /// Its id, for people.
    fn id(&self) -> &Path;

    /// Whether it is known for which endpoints it stands, be there none.
    fn is_known(&self) -> bool;

    /// Waits until that is known.
    fn known(&self) -> impl Future<Output = ()> + Send;

    /// Waits until it stands for an endpoint, be it one that nobody can reach.
    fn filled(&self) -> impl Future<Output = ()> + Send;

    /// Waits until requests can go there, as far as that can be found out.
    fn ready(&self) -> impl Future<Output = ()> + Send;
}

/// Why requests may go elsewhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// All that is new can take them.
    Ready,
    /// There are no endpoints left where they went.
    FailsOver,
    /// It took too long. That is what the table says, so it is done.
    Late,
}

/// Waits until requests may go to all of `new`, at least one, which are not where they went before.
///
/// That is when each of them is [ready](Target::ready); and sooner when `emptied` is over, which it is when there are no
/// endpoints left where requests went, since nothing is lost then, but for who goes from nothing to nothing. It is so at
/// `by`, too, if it is known of all where they are, be it nowhere. What is not known is no reason to leave what is.
///
/// # Cancel safety
///
/// Cancel safe, if the waits of the targets are.
pub async fn wait<T: Target>(emptied: impl Future<Output = ()>, new: &[&T], by: Instant) -> Why {
    select! {
        biased;
        _ = join_all(new.iter().map(|target| target.ready())) => Why::Ready,
        () = fails_over(emptied, new) => Why::FailsOver,
        () = late(new, by) => Why::Late,
    }
}

/// Waits until there is nothing to stay for, and something to go to: there are endpoints, or nobody knows.
async fn fails_over<T: Target>(emptied: impl Future<Output = ()>, new: &[&T]) {
    emptied.await;
    if new.iter().all(|target| target.is_known()) {
        select_all(new.iter().map(|target| Box::pin(target.filled()))).await;
    }
}

/// Waits until it is late, and it is known of all where they are.
async fn late<T: Target>(new: &[&T], by: Instant) {
    sleep_until(by).await;
    if !new.iter().all(|target| target.is_known()) {
        tracing::warn!("addresses of {} are not known: requests go where they went", ids(new));
    }
    join_all(new.iter().map(|target| target.known())).await;
    tracing::warn!("not all of {} could take requests in time; they go there now", ids(new));
}

fn ids<T: Target>(targets: &[&T]) -> String {
    targets.iter().map(|target| target.id().to_string()).collect::<Vec<_>>().join(", ")
}

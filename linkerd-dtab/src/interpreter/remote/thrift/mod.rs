//! The `io.l5d.namerd` interpreter: asks a namerd over thriftmux.

mod explain;
mod link;
#[cfg(all(test, feature = "namerd"))]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::{Explaining, Leaf, Source, Watching};
use crate::{
    Activity, Addr, Delegation, Dtab, Failure, NameTree, Path, Publisher,
    mux::{
        client::Unanswered,
        idl::{self, BadAnswer, Call, NameRef, Stamped},
    },
    transport::{Dial, Heartbeat},
};

/// After an answer that says nothing new, how long until the next call: a namerd that holds calls never gives one.
const AGAIN: Duration = Duration::from_secs(1);

/// After the failure of a name's namer at namerd, how long until the next call at most.
const FAILED_AGAIN: Duration = Duration::from_secs(8);

/// How long the address of a bound name may take that is part of an explanation; it is shown as pending then.
const EXPLAIN_ADDR: Duration = Duration::from_secs(1);

/// The addresses of so many bound names of an explanation are asked for at once.
const EXPLAIN_ADDRS_AT_ONCE: usize = 16;

/// Asks a namerd about one namespace over thriftmux. A clone shares the connection.
///
/// All watches share one connection, which is opened when there is something to ask, and again when it broke. A watch is
/// one call at a time, which namerd holds until something changes. When namerd leaves (it drains its connections before
/// it ends) the calls are made again on another connection before anything is a failure.
///
/// A connection may have 10,000 calls without an answer, and 16 MiB of them to be sent; a watch over this fails.
#[derive(Clone)]
pub struct Thrift {
    namespace: Arc<str>,
    client: Path,
    link: link::Link,
}

impl Thrift {
    /// Asks a namerd that `dial` connects to.
    pub fn new(dial: impl Dial, namespace: impl Into<Arc<str>>) -> Self {
        let link = link::Link::new(Arc::new(dial), Heartbeat::default());
        Self { namespace: namespace.into(), client: Path::empty(), link }
    }

    /// By what a namerd that is gone is noticed: `failureThreshold`, every 5 s and 4 s by default. Connects anew.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.link = self.link.with_heartbeat(heartbeat);
        self
    }

    /// What this process says that it is. Empty by default, as Linkerd says.
    #[must_use]
    pub fn client_id(mut self, client: Path) -> Self {
        self.client = client;
        self
    }

    /// Calls, and calls again while namerds leave.
    async fn call(&self, call: &Call) -> Result<Bytes, Failure> {
        let message = call.encode().freeze();
        let mut moved: Option<Instant> = None;
        loop {
            let connection = self.link.connection().await?;
            match connection.call(message.clone()).await {
                // Once in a while is a restart; at once again is a namerd that takes connections and leaves.
                Err(Unanswered::Leaving) if moved.is_none_or(|at| at.elapsed() >= AGAIN) => {
                    moved = Some(Instant::now());
                }
                Err(error) => return Err(Arc::new(error)),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// Calls for one value after another. What namerd says to have failed there ends it, unless it `goes_on`.
    async fn follow<T: Clone + PartialEq + Send + Sync + 'static>(
        &self,
        call: impl Fn(Vec<u8>) -> Call + Send + Sync,
        read: impl Fn(&[u8]) -> Result<Stamped<T>, BadAnswer> + Send + Sync,
        publisher: &Publisher<T>,
        goes_on: bool,
    ) -> Failure {
        let (mut known, mut pause) = (Vec::new(), AGAIN);
        loop {
            let answer = match self.call(&call(known.clone())).await {
                Ok(answer) => read(&answer),
                Err(error) => return error,
            };
            match answer {
                Ok(Stamped { stamp, value }) => {
                    publisher.ok_if_changed(value, |old, new| old == new);
                    if stamp == known {
                        sleep(AGAIN).await;
                    }
                    (known, pause) = (stamp, AGAIN);
                }
                Err(error @ BadAnswer::Failure(_)) if goes_on => {
                    publisher.failed(Arc::new(error));
                    sleep(pause).await;
                    pause = (2 * pause).min(FAILED_AGAIN);
                }
                Err(error) => return Arc::new(error),
            }
        }
    }

    fn name(&self, stamp: Vec<u8>, name: &Path) -> NameRef {
        NameRef { stamp, name: name.clone(), namespace: self.namespace.as_ref().to_owned() }
    }

    fn addr_call(&self, stamp: Vec<u8>, id: &Path) -> Call {
        Call::Addr { name: self.name(stamp, id), client: self.client.clone() }
    }

    async fn explain(&self, dtab: &Dtab, name: &Path) -> Result<Delegation, Failure> {
        let call = Call::Delegate {
            dtab: format!("{dtab:#}"),
            stamp: Vec::new(),
            path: Some(name.clone()),
            namespace: self.namespace.as_ref().to_owned(),
            client: self.client.clone(),
        };
        let answer = self.call(&call).await?;
        let explained = idl::read_explained(&answer).map_err(|error| -> Failure { Arc::new(error) })?.value;
        let addrs = stream::iter(explain::ids(&explained))
            .map(|id| async move {
                let addr = self.addr_once(&id).await;
                (id, addr)
            })
            .buffer_unordered(EXPLAIN_ADDRS_AT_ONCE)
            .collect()
            .await;
        Ok(explain::delegation(explained, &addrs))
    }

    /// The address as it is now.
    async fn addr_once(&self, id: &Path) -> Activity<Addr> {
        let call = self.addr_call(Vec::new(), id);
        let Ok(answer) = timeout(EXPLAIN_ADDR, self.call(&call)).await else { return Activity::channel().1 };
        let read = |answer: Bytes| idl::read_addr(&answer).map_err(|error| -> Failure { Arc::new(error) });
        match answer.and_then(read) {
            Ok(Stamped { value, .. }) => Activity::value(value),
            Err(error) => Activity::failed(error),
        }
    }
}

impl Source for Thrift {
    fn bind<'a>(&'a self, dtab: &'a Dtab, name: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        let dtab = format!("{dtab:#}");
        let call =
            move |stamp| Call::Bind { dtab: dtab.clone(), name: self.name(stamp, name), client: self.client.clone() };
        let read = |answer: &[u8]| idl::read_bound(answer, &|id, residual| Leaf { id, residual });
        Box::pin(self.follow(call, read, tree, false))
    }

    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        Box::pin(self.follow(|stamp| self.addr_call(stamp, id), idl::read_addr, addr, true))
    }

    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a> {
        Box::pin(self.explain(dtab, name))
    }
}

impl fmt::Debug for Thrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, client, link: _ } = self;
        f.debug_struct("Thrift").field("namespace", namespace).field("client", client).finish_non_exhaustive()
    }
}

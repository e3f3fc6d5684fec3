//! Constant load.

use std::{net::SocketAddr, time::Duration};

use linkerd_core::BoxError;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::traffic::{Counts, Traffic};

/// Requests that go on until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    senders: JoinSet<Counts>,
}

impl Load {
    /// So many a second to each of these, one at a time: fewer if they are answered more slowly.
    ///
    /// # Errors
    ///
    /// A client cannot be built.
    pub fn start(to: impl IntoIterator<Item = SocketAddr>, per_second: u32) -> Result<Self, BoxError> {
        let (stop, stopped) = watch::channel(false);
        let mut senders = JoinSet::new();
        for addr in to {
            senders.spawn(send(
                Traffic::to(addr, "hello")?,
                Duration::from_secs(1) / per_second.max(1),
                stopped.clone(),
            ));
        }
        Ok(Self { stop, senders })
    }

    /// Stops, and tells what was answered.
    pub async fn stop(self) -> Counts {
        self.stop.send_replace(true);
        let mut counts = Counts::default();
        for sent in self.senders.join_all().await {
            counts.add_all(sent);
        }
        counts
    }
}

async fn send(traffic: Traffic, pause: Duration, stopped: watch::Receiver<bool>) -> Counts {
    let mut counts = Counts::default();
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stopped.borrow() {
        ticks.tick().await;
        counts.add(traffic.get("/", None).await);
    }
    counts
}

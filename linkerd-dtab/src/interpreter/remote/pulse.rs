//! Whether a namerd is there, found out once for all watches that say nothing.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    select,
    sync::watch,
    time::{sleep, timeout},
};

use crate::transport::Heartbeat;

/// So many checks in a row fail before a namerd is gone: one may be refused for want of room, while watches go on.
const MISSED: usize = 2;

/// Checks a namerd for as long as somebody watches it. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse {
    heartbeat: Heartbeat,
    // Each time that it is gone its watches are told. Another one when nobody watched for a while.
    gone: Arc<Mutex<Option<Arc<watch::Sender<()>>>>>,
}

/// One watch that wants to know.
#[derive(Debug)]
pub(super) struct Felt(watch::Receiver<()>);

impl Pulse {
    pub(super) fn new(heartbeat: Heartbeat) -> Self {
        Self { heartbeat, gone: Arc::default() }
    }

    /// Has it checked by `check`, which says whether it answers, from now until this is dropped.
    pub(super) fn feel<F>(&self, check: impl Fn() -> F + Send + Sync + 'static) -> Felt
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let mut last = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is closed has ended, or is about to.
        if let Some(gone) = last.as_ref().filter(|gone| !gone.is_closed()) {
            return Felt(gone.subscribe());
        }
        let (gone, felt) = watch::channel(());
        let gone = Arc::new(gone);
        *last = Some(Arc::clone(&gone));
        tokio::spawn(beat(gone, self.heartbeat, check));
        Felt(felt)
    }
}

impl Felt {
    /// Waits until it is gone.
    ///
    /// Cancel safe.
    pub(super) async fn gone(&mut self) {
        // Who checks ends when nobody watches, so not before this.
        let _ = self.0.changed().await;
    }
}

async fn beat<F: Future<Output = bool> + Send>(
    gone: Arc<watch::Sender<()>>,
    heartbeat: Heartbeat,
    check: impl Fn() -> F + Send + Sync,
) {
    let checks = async {
        let mut missed = 0;
        loop {
            sleep(heartbeat.period).await;
            missed = if timeout(heartbeat.timeout, check()).await == Ok(true) { 0 } else { missed + 1 };
            if missed >= MISSED {
                gone.send_replace(());
                missed = 0;
            }
        }
    };
    select! {
        () = gone.closed() => {}
        () = checks => {}
    }
}

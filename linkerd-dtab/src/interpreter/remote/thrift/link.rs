//! The connection that all calls share.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{FutureExt as _, Shared};
use tokio::time::timeout;

use crate::{
    Failure,
    mux::client,
    transport::{Dial, Heartbeat},
};

/// How long connecting and agreeing on a session may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection that is opened when it is needed. A clone is the same one.
#[derive(Clone)]
pub(super) struct Link {
    dial: Arc<dyn Dial>,
    heartbeat: Heartbeat,
    // The last connection, or attempt at one. Who comes meanwhile waits for the same attempt.
    last: Arc<Mutex<Option<Connecting>>>,
}

type Connecting = Shared<Pin<Box<dyn Future<Output = Result<client::Handle, Failure>> + Send>>>;

/// Connecting took too long.
#[derive(Debug, thiserror::Error)]
#[error("not connected to namerd within {CONNECT:?}")]
struct TimedOut;

/// namerd was not reached.
#[derive(Debug, thiserror::Error)]
enum NotConnected {
    #[error("namerd was not reached")]
    Dial(#[source] std::io::Error),
    #[error("no session with namerd")]
    Session(#[source] crate::mux::Broken),
}

impl Link {
    pub(super) fn new(dial: Arc<dyn Dial>, heartbeat: Heartbeat) -> Self {
        Self { dial, heartbeat, last: Arc::default() }
    }

    pub(super) fn with_heartbeat(self, heartbeat: Heartbeat) -> Self {
        Self::new(self.dial, heartbeat)
    }

    /// The open connection, or a new one.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: others go on with the attempt.
    pub(super) async fn connection(&self) -> Result<client::Handle, Failure> {
        self.current().await
    }

    fn current(&self) -> Connecting {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*last {
            match current.peek() {
                // An attempt is on its way.
                None => return current.clone(),
                Some(Ok(handle)) if handle.is_open() => return current.clone(),
                Some(_) => {}
            }
        }
        let connecting = connect(Arc::clone(&self.dial), self.heartbeat).boxed().shared();
        last.insert(connecting).clone()
    }
}

async fn connect(dial: Arc<dyn Dial>, heartbeat: Heartbeat) -> Result<client::Handle, Failure> {
    let session = async {
        let io = dial.dial().await.map_err(NotConnected::Dial)?;
        client::begin(io, heartbeat).await.map_err(NotConnected::Session)
    };
    match timeout(CONNECT, session).await {
        Ok(Ok((handle, connection))) => {
            tokio::spawn(connection.run());
            Ok(handle)
        }
        Ok(Err(error)) => Err(Arc::new(error)),
        Err(_) => Err(Arc::new(TimedOut)),
    }
}

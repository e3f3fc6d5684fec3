//! Endpoints that connect by themselves, whether somebody asks or not.

use std::{
    error::Error,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::time;
use tower_service::Service;

use crate::{accrual::Backoff, health::Health};

mod handle;
mod task;

pub use self::handle::{Connected, NotConnected};
use self::task::Connect;

/// How an endpoint connects: at once, in a task of its own, and again whenever the connection ends.
///
/// ```text
///                    failed: Closed, for a backoff
///                   ┌──────────────────────────────┐
///                   ▼                              │
///  spawn ──► connecting: Busy ──► connected: Open ─┤ ended soon
///                   ▲                              │
///                   └──────────────────────────────┘ ended: again at once
/// ```
///
/// What it comes to is written into the endpoint's [`Health`] by [`Health::set_link`], beside what its breaker says, so a
/// balancer sends requests where there is a connection. Discovery need not know; with [`Policy::overlap`] the endpoints
/// of an old set stay until one of a new one is connected.
///
/// The task needs no request to be driven, and ends when the last clone of its [`Connected`] is dropped.
///
/// ```
/// use std::net::SocketAddr;
///
/// use linkerd_balance::{Balance, Connector, Policy};
/// use tokio::net::TcpStream;
/// # use tower::BoxError;
/// # #[derive(Clone)]
/// # struct Client;
/// # async fn handshake(_stream: TcpStream) -> Result<(Client, std::future::Pending<()>), BoxError> {
/// #     Ok((Client, std::future::pending()))
/// # }
///
/// // As of hyper's `client::conn::http2::handshake`: a service that can be cloned, and what drives its connection.
/// let balance = Balance::new(Policy::default(), |addr: &SocketAddr, health| {
///     let addr = *addr;
///     Connector::default().spawn(health, move || async move {
///         let stream = TcpStream::connect(addr).await?;
///         let (client, connection) = handshake(stream).await?;
///         Ok::<_, BoxError>((client, connection))
///     })
/// });
/// # drop(balance);
/// ```
///
/// # Defaults
///
/// An attempt takes at most 3 s, in which the loss of a first packet is made up for. Backoff is between 100 ms and 10 s,
/// decorrelated. A request waits for an attempt that comes after none that failed, and fails at once during a backoff and
/// the attempt after it. Readiness is looked at each second where that is how one hears of the end of a connection.
///
/// [`Policy::overlap`]: crate::Policy::overlap
#[derive(Clone, Copy, Debug)]
pub struct Connector {
    backoff: Backoff,
    timeout: Duration,
    wait: Option<Duration>,
    check: Duration,
}

/// A connector that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConnector {
    /// No attempt could succeed.
    #[error("an attempt to connect within {0:?}")]
    Timeout(Duration),
    /// It would do nothing else.
    #[error("a look at the connection each {0:?}")]
    Check(Duration),
}

type Cause = Arc<dyn Error + Send + Sync>;

/// Ready when a connection has ended.
type Life = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Connector {
    /// How long an attempt that fails is followed by none. The first attempt is at once, and so is the first one after a
    /// connection that lasted at least as long as the first backoff; after one that did not it goes on where it was.
    #[must_use]
    pub const fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// How long an attempt takes at most, what comes before the first request included: TLS, or a handshake.
    ///
    /// # Errors
    ///
    /// Zero.
    pub const fn timeout(self, timeout: Duration) -> Result<Self, InvalidConnector> {
        if timeout.is_zero() {
            return Err(InvalidConnector::Timeout(timeout));
        }
        Ok(Self { timeout, ..self })
    }

    /// Lets a request wait so long for a connection before it fails with [`NotConnected`], whatever became of attempts so
    /// far. Zero is not to wait, not even for the first one.
    ///
    /// By default it waits if the endpoint is well for all that is known: while the first attempt is under way, or the
    /// first one after a connection. In a balancer that is how long it takes to get to another endpoint if there is none
    /// that is connected; those that are connected come first anyway.
    #[must_use]
    pub const fn wait(self, max: Duration) -> Self {
        Self { wait: Some(max), ..self }
    }

    /// How often [`spawn_make`](Self::spawn_make) looks whether the service is still able to get ready.
    ///
    /// # Errors
    ///
    /// Zero.
    pub const fn check_each(self, interval: Duration) -> Result<Self, InvalidConnector> {
        if interval.is_zero() {
            return Err(InvalidConnector::Check(interval));
        }
        Ok(Self { check: interval, ..self })
    }

    /// Connects by `connect` from now on. It gives a service, and a future that drives the connection and ends with it.
    ///
    /// That future runs in a task of its own, to its end, so that what is under way can be answered after the endpoint
    /// has left. Where something else drives the connection, it is one that waits for its end;
    /// [`std::future::pending`] where nothing knows: then it is replaced when it fails to get ready for a request.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with time, as [`tokio::spawn`] does.
    pub fn spawn<S, D, E, Fut>(&self, health: &Health, connect: impl FnMut() -> Fut + Send + 'static) -> Connected<S>
    where
        S: Clone + Send + Sync + 'static,
        D: Future<Output: Send> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
        Fut: Future<Output = Result<(S, D), E>> + Send + 'static,
    {
        task::spawn(self, health, Driven(connect))
    }

    /// Connects by calling `make` for `target` from now on, where `make` is a tower `MakeService`.
    ///
    /// The endpoint is connected when a first clone of what was made is ready, whatever it does to get there. After that
    /// a fresh clone is asked [from time to time](Self::check_each), and dropped when it is ready.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with time, as [`tokio::spawn`] does.
    pub fn spawn_make<Req, M, T>(&self, health: &Health, make: M, target: T) -> Connected<M::Response>
    where
        M: Service<T, Future: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
        M::Response: Service<Req, Error: Into<Box<dyn Error + Send + Sync>>> + Clone + Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
        Req: 'static,
    {
        task::spawn(self, health, Made { make, target, check: self.check, req: PhantomData })
    }
}

impl Default for Connector {
    fn default() -> Self {
        let Ok(backoff) = Backoff::jittered(Duration::from_millis(100), Duration::from_secs(10)) else {
            unreachable!("a range, and not from zero")
        };
        Self { backoff, timeout: Duration::from_secs(3), wait: None, check: Duration::from_secs(1) }
    }
}

struct Driven<F>(F);

struct Made<M, T, Req> {
    make: M,
    target: T,
    check: Duration,
    req: PhantomData<fn(Req)>,
}

impl<S, D, E, Fut, F> Connect<S> for Driven<F>
where
    S: Send,
    D: Future<Output: Send> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    Fut: Future<Output = Result<(S, D), E>> + Send + 'static,
    F: FnMut() -> Fut + Send + 'static,
{
    async fn connect(&mut self) -> Result<(S, Life), Cause> {
        let (svc, driver) = (self.0)().await.map_err(|error| Cause::from(error.into()))?;
        let driven = tokio::spawn(driver);
        Ok((
            svc,
            Box::pin(async move {
                let _ = driven.await;
            }),
        ))
    }
}

impl<M, T, Req> Connect<M::Response> for Made<M, T, Req>
where
    M: Service<T, Future: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    M::Response: Service<Req, Error: Into<Box<dyn Error + Send + Sync>>> + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    Req: 'static,
{
    async fn connect(&mut self) -> Result<(M::Response, Life), Cause> {
        let made = async {
            poll_fn(|cx| self.make.poll_ready(cx)).await?;
            self.make.call(self.target.clone()).await
        };
        let svc = made.await.map_err(|error| Cause::from(error.into()))?;
        gets_ready(svc.clone()).await.map_err(|error| Cause::from(error.into()))?;
        let (watched, check) = (svc.clone(), self.check);
        let life = async move {
            loop {
                time::sleep(check).await;
                if gets_ready(watched.clone()).await.is_err() {
                    return;
                }
            }
        };
        Ok((svc, Box::pin(life)))
    }
}

/// Asks a clone of its own: what readiness reserves goes with it.
async fn gets_ready<Req, S: Service<Req>>(mut svc: S) -> Result<(), S::Error> {
    poll_fn(|cx| svc.poll_ready(cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_its_value() {
        let connector = Connector::default();
        assert_eq!(connector.timeout(Duration::ZERO).unwrap_err().to_string(), "an attempt to connect within 0ns");
        assert_eq!(connector.check_each(Duration::ZERO).unwrap_err(), InvalidConnector::Check(Duration::ZERO));
        assert!(connector.timeout(Duration::from_nanos(1)).is_ok());
    }
}

//! Finds out whether an endpoint is well without asking a user's request.

use std::{
    future::poll_fn,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use tokio::{task::AbortHandle, time};
use tower_service::Service;

use crate::{
    breaker::{Breaker, Permit, Phase, Probed, after},
    rng,
};

/// How an endpoint is probed.
///
/// # Defaults
///
/// One success takes an endpoint back; one that is in use is not probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    interval: Duration,
    timeout: Duration,
    successes: NonZeroU32,
    failures: Option<NonZeroU32>,
}

/// An endpoint is probed for as long as this is there.
///
/// No request is a probe meanwhile: once its [`Breaker`] has given the endpoint up, it stays busy, after its backoff too,
/// until a probe of ours has succeeded. When this is dropped, or what it probes with panics, requests are probes again.
#[derive(Debug)]
#[must_use = "dropping it ends the probes"]
pub struct ActiveProbe(AbortHandle);

/// Settings of probes that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProbe {
    /// They would be sent without a pause.
    #[error("a probe each {0:?}")]
    Interval(Duration),
    /// None of them could succeed.
    #[error("a probe within {0:?}")]
    Timeout(Duration),
}

impl ProbeSettings {
    /// A probe each `interval`, and by chance up to a quarter more or less, so that many do not probe in step. One that
    /// is not answered within `timeout` has failed. There is one at a time; the interval begins when one has ended.
    ///
    /// # Errors
    ///
    /// An interval or a timeout of zero.
    pub const fn new(interval: Duration, timeout: Duration) -> Result<Self, InvalidProbe> {
        if interval.is_zero() {
            return Err(InvalidProbe::Interval(interval));
        }
        if timeout.is_zero() {
            return Err(InvalidProbe::Timeout(timeout));
        }
        Ok(Self { interval, timeout, successes: NonZeroU32::MIN, failures: None })
    }

    /// How many successes in a row take an endpoint back. One failure among them, and it is left alone for the next
    /// backoff.
    #[must_use]
    pub const fn successes(self, successes: NonZeroU32) -> Self {
        Self { successes, ..self }
    }

    /// Probes an endpoint that is in use too, and gives it up after so many failures in a row: as far as its set allows,
    /// and in addition to what its accrual says.
    #[must_use]
    pub const fn failures(self, failures: NonZeroU32) -> Self {
        Self { failures: Some(failures), ..self }
    }

    fn wait(&self) -> Duration {
        // A range in parts, so that no interval is too long for it.
        self.interval
            .saturating_sub(self.interval / 4)
            .saturating_add((self.interval / 2).mul_f64(rng::unit(rng::thread())))
    }
}

impl ActiveProbe {
    /// Probes the endpoint of `breaker` by `service` from now on, in a task of its own.
    ///
    /// The service is to say whether the endpoint is well: any response is a yes, any error a no. It is asked only when
    /// its answer matters: after each backoff (or the interval since the last probe, if that takes longer), and while the
    /// endpoint is in use if [`failures`](ProbeSettings::failures) are to have a consequence. One for each breaker is
    /// enough.
    ///
    /// ```
    /// use std::{io, time::Duration};
    ///
    /// use linkerd_balance::{ActiveProbe, Breaker, ProbeSettings, accrual::ConsecutiveFailures};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), linkerd_balance::InvalidProbe> {
    /// // A request for `/healthz` that fails unless it is answered with 200, for example.
    /// let is_well = tower::service_fn(|()| async { Ok::<_, io::Error>(()) });
    /// let breaker = Breaker::builder(Box::new(ConsecutiveFailures::default())).id("10.0.0.1:80").build();
    /// let settings = ProbeSettings::new(Duration::from_secs(10), Duration::from_secs(1))?;
    /// let probe = ActiveProbe::spawn(settings, is_well, &breaker);
    /// // Kept with the endpoint, and dropped with it.
    /// drop(probe);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with time, as [`tokio::spawn`] does.
    pub fn spawn<S>(settings: ProbeSettings, service: S, breaker: &Breaker) -> Self
    where
        S: Service<()> + Send + 'static,
        S::Future: Send,
        S::Response: Send,
        S::Error: Send,
    {
        // Before the task runs for the first time: no request may be a probe in between.
        let probed = breaker.probed();
        let next = after(now(), settings.wait());
        let prober = Prober { settings, service, probed, next, failures: 0, successes: 0, trial: None };
        Self(tokio::spawn(prober.run()).abort_handle())
    }
}

impl Drop for ActiveProbe {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Prober<S> {
    settings: ProbeSettings,
    service: S,
    probed: Probed,
    // When the interval since the last probe is over.
    next: Instant,
    // Of an endpoint that is in use, in a row.
    failures: u32,
    // Of one that is tried again, in a row: it may take more than one.
    successes: u32,
    trial: Option<Permit>,
}

impl<S: Service<()>> Prober<S> {
    async fn run(mut self) {
        loop {
            let phase = self.probed.phase();
            let due = match phase {
                Phase::Alive => self.settings.failures.map(|_| self.next),
                Phase::Dead { until } => Some(until.max(self.next)),
                Phase::Probing { .. } => Some(self.next),
            };
            self.probed.announce(due);
            let died = self.probed.died();
            match due {
                None => died.await,
                Some(due) => {
                    if time::timeout_at(due.into(), died).await.is_err() {
                        self.probe().await;
                        continue;
                    }
                }
            }
            // Its backoff says when it is tried again, not how long ago it was asked while it was in use.
            self.next = now();
        }
    }

    async fn probe(&mut self) {
        match self.probed.phase() {
            Phase::Alive => self.probe_alive().await,
            Phase::Dead { .. } => {
                (self.failures, self.successes) = (0, 0);
                // First: what was tried before somebody took it back may still have the slot.
                self.trial = None;
                self.trial = self.probed.begin(now());
                self.try_again().await;
            }
            Phase::Probing { .. } => self.try_again().await,
        }
        self.next = after(now(), self.settings.wait());
    }

    async fn probe_alive(&mut self) {
        // Whatever was tried is over: somebody took it back.
        self.trial = None;
        let Some(limit) = self.settings.failures else { return };
        if self.ask().await {
            self.failures = 0;
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= limit.get() {
            self.probed.give_up(self.failures, now());
        }
    }

    async fn try_again(&mut self) {
        // Without: others of the set are tried, or a request that was sent before we came. Their turn.
        let Some(trial) = self.trial.take() else { return };
        if !self.ask().await {
            return trial.record(false, now());
        }
        self.successes = self.successes.saturating_add(1);
        if self.successes >= self.settings.successes.get() {
            return trial.record(true, now());
        }
        self.trial = Some(trial);
    }

    /// Whether the endpoint says that it is well, within the timeout.
    async fn ask(&mut self) -> bool {
        let service = &mut self.service;
        let answer = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(()).await
        };
        matches!(time::timeout(self.settings.timeout, answer).await, Ok(Ok(_)))
    }
}

fn now() -> Instant {
    time::Instant::now().into_std()
}

#[cfg(all(test, not(loom)))]
mod tests;

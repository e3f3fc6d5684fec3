//! Waiting for an endpoint.

use std::{
    fmt,
    future::Future,
    hash::Hash,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};

use crate::{balance::Balance, breaker::after, lease::Lease, panic::Unavailable, strategy::Draw};

/// Future of [`Balance::acquire`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<K, S> {
    balance: Balance<K, S>,
    draw: Draw,
    exclude: Vec<K>,
    // Armed on the first empty look: where there is an endpoint, no timer is touched.
    #[pin]
    wait: Option<Wait>,
}

#[pin_project]
struct Wait {
    #[pin]
    changed: OwnedNotified,
    #[pin]
    sleep: Sleep,
}

impl<K, S> Acquire<K, S> {
    pub(crate) const fn new(balance: Balance<K, S>, draw: Draw, exclude: Vec<K>) -> Self {
        Self { balance, draw, exclude, wait: None }
    }
}

impl<K, S> Future for Acquire<K, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    type Output = Result<Lease<K, S>, Unavailable>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let now = Instant::now();
            match this.balance.try_acquire(*this.draw, now.into_std(), this.exclude) {
                Err(Unavailable::NoEndpoints) if !this.balance.max_wait().is_zero() => {}
                result => return Poll::Ready(result),
            }
            let Some(wait) = this.wait.as_mut().as_pin_mut() else {
                // From its making on it hears of changes, so look once more before waiting.
                let changed = this.balance.changed().notified_owned();
                let sleep = sleep_until(after(now.into_std(), this.balance.max_wait()).into());
                this.wait.set(Some(Wait { changed, sleep }));
                continue;
            };
            let mut wait = wait.project();
            if wait.changed.as_mut().poll(cx).is_ready() {
                wait.changed.set(this.balance.changed().notified_owned());
                continue;
            }
            return wait.sleep.poll(cx).map(|()| Err(Unavailable::NoEndpoints));
        }
    }
}

impl<K, S> fmt::Debug for Acquire<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("waiting", &self.wait.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

    use super::*;
    use crate::policy::Policy;

    const WAIT: Duration = Duration::from_millis(500);
    const MS: Duration = Duration::from_millis(1);

    fn balance(wait: Duration) -> Balance<u8, ()> {
        Balance::new(Policy::default().max_wait(wait), |_, _| ())
    }

    fn acquire(balance: &Balance<u8, ()>) -> task::Spawn<Acquire<u8, ()>> {
        task::spawn(balance.acquire(Draw::new(1), &[]))
    }

    #[tokio::test(start_paused = true)]
    async fn with_an_endpoint_there_is_no_wait() {
        let balance = balance(WAIT);
        balance.update([(1, 1.0)]).unwrap();
        assert_eq!(*assert_ready_ok!(acquire(&balance).poll()).key(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_leave_to_wait_none_is_an_error_at_once() {
        assert_eq!(assert_ready_err!(acquire(&balance(Duration::ZERO)).poll()), Unavailable::NoEndpoints);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_its_limit_and_no_longer() {
        let balance = balance(WAIT);
        let mut acquire = acquire(&balance);
        assert_pending!(acquire.poll());
        time::advance(WAIT.saturating_sub(MS)).await;
        // A change that brings nothing neither ends the wait nor begins it anew.
        balance.update([(1, 1.0)]).unwrap();
        balance.clear();
        assert_pending!(acquire.poll());
        time::advance(2 * MS).await;
        assert!(acquire.is_woken());
        assert_eq!(assert_ready_err!(acquire.poll()), Unavailable::NoEndpoints);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_endpoint_wakes_all_who_wait() {
        let balance = balance(WAIT);
        let (mut one, mut two) = (acquire(&balance), acquire(&balance));
        assert_pending!(one.poll());
        assert_pending!(two.poll());
        balance.update([(1, 1.0)]).unwrap();
        assert!(one.is_woken() && two.is_woken());
        drop(assert_ready_ok!(one.poll()));
        drop(assert_ready_ok!(two.poll()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_comes_with_the_limit_is_still_taken() {
        let balance = balance(WAIT);
        let mut acquire = acquire(&balance);
        assert_pending!(acquire.poll());
        time::advance(WAIT + MS).await;
        balance.update([(1, 1.0)]).unwrap();
        drop(assert_ready_ok!(acquire.poll()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_may_wait_for_ever() {
        let balance = balance(Duration::MAX);
        let mut acquire = acquire(&balance);
        assert_pending!(acquire.poll());
        balance.update([(1, 1.0)]).unwrap();
        assert_eq!(*assert_ready_ok!(acquire.poll()).key(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_while_waiting_it_has_taken_nothing() {
        let balance = balance(WAIT);
        let mut acquire = acquire(&balance);
        assert_pending!(acquire.poll());
        drop(acquire);
        balance.update([(1, 1.0)]).unwrap();
        assert_eq!(balance.stats(Instant::now().into_std()).load, 0);
    }
}

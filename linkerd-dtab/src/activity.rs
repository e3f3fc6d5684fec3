//! Values that change: what a watch knows now, since when, and how sure it is.

use std::{error::Error, fmt, sync::Arc};

use tokio::{sync::watch, time::Instant};

/// Why a source has no value, or no newer one.
pub type Failure = Arc<dyn Error + Send + Sync>;

/// The latest state of something that changes. A watcher may miss steps, never the last one.
///
/// *Absent* is not one of these states: that something does not exist is an answer, so it is a value of `T`
/// ([`NameTree::Neg`](crate::NameTree::Neg), [`Addr::Neg`](crate::Addr::Neg)). Not knowing is [`State::Failed`].
#[derive(Clone, Debug)]
pub enum State<T> {
    /// No answer yet.
    Pending,
    /// The last good value.
    Ok(T),
    /// No answer ever came, and this is why.
    Failed(Failure),
}

/// A state, and how old it is.
#[derive(Clone, Debug)]
pub struct Snapshot<T> {
    /// What is known.
    pub state: State<T>,
    /// When the value (or the failure, if there is no value) came.
    pub since: Instant,
    /// When the source last answered, be it with nothing new. `None`: never.
    pub contact: Option<Instant>,
    /// The value is from before this failure of its source: it may be stale.
    pub stale: Option<Failure>,
}

/// The receiving side of a value that changes. A clone watches the same value.
pub struct Activity<T>(watch::Receiver<Snapshot<T>>);

/// The sending side. When it is dropped the value stays what it was, for good.
pub struct Publisher<T>(watch::Sender<Snapshot<T>>);

impl<T> State<T> {
    /// The value, if there is one.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Ok(value) => Some(value),
            Self::Pending | Self::Failed(_) => None,
        }
    }

    /// The same state with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> State<U> {
        match self {
            Self::Ok(value) => State::Ok(f(value)),
            Self::Pending => State::Pending,
            Self::Failed(error) => State::Failed(error),
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Activity<T> {
    /// A pending activity and the publisher that will tell it what is so.
    #[must_use]
    pub fn channel() -> (Publisher<T>, Self) {
        Self::with_state(State::Pending)
    }

    /// An activity that always has this value.
    #[must_use]
    pub fn value(value: T) -> Self {
        Self::with_state(State::Ok(value)).1
    }

    /// An activity that has failed for good.
    #[must_use]
    pub fn failed(error: Failure) -> Self {
        Self::with_state(State::Failed(error)).1
    }

    fn with_state(state: State<T>) -> (Publisher<T>, Self) {
        let now = Instant::now();
        let contact = (!matches!(state, State::Pending)).then_some(now);
        let (tx, rx) = watch::channel(Snapshot { state, since: now, contact, stale: None });
        (Publisher(tx), Self(rx))
    }

    /// What is known now. Does not mark it as seen: [`changed`](Self::changed) still reports it.
    #[must_use]
    pub fn sample(&self) -> State<T> {
        self.0.borrow().state.clone()
    }

    /// What is known now, and how old it is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<T> {
        self.0.borrow().clone()
    }

    /// What is known now, marked as seen: [`changed`](Self::changed) waits for something newer.
    pub fn sample_and_update(&mut self) -> State<T> {
        self.0.borrow_and_update().state.clone()
    }

    /// Waits for a state that this activity has not yet marked as seen, and marks it.
    ///
    /// Pends for ever once the publisher is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a change that was not reported is reported next time.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the first state that is not [`State::Pending`].
    ///
    /// Has no time limit of its own: the caller bounds it.
    ///
    /// # Errors
    ///
    /// The failure, if the source failed before its first value.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&mut self) -> Result<T, Failure> {
        loop {
            match self.sample_and_update() {
                State::Ok(value) => return Ok(value),
                State::Failed(error) => return Err(error),
                State::Pending => self.changed().await,
            }
        }
    }

    /// Whether both watch the same source.
    #[must_use]
    pub fn same_source(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }

    /// Whether the publisher is gone, so that nothing can change any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

impl<T: Clone + Send + Sync + 'static> Publisher<T> {
    /// Publishes a value.
    pub fn ok(&self, value: T) {
        let now = Instant::now();
        self.0.send_replace(Snapshot { state: State::Ok(value), since: now, contact: Some(now), stale: None });
    }

    /// Publishes a value if it is another one than the last; else only notes that the source was heard of.
    pub fn ok_if_changed(&self, value: T, same: impl FnOnce(&T, &T) -> bool) {
        let now = Instant::now();
        self.0.send_if_modified(|last| {
            last.contact = Some(now);
            last.stale = None;
            if let State::Ok(old) = &last.state
                && same(old, &value)
            {
                return false;
            }
            last.state = State::Ok(value);
            last.since = now;
            true
        });
    }

    /// The source failed, or could not be asked. A value is kept, and marked as stale; without one the activity fails.
    pub fn failed(&self, error: Failure) {
        let now = Instant::now();
        self.0.send_if_modified(|last| {
            if matches!(last.state, State::Ok(_)) {
                last.stale = Some(error);
                return false;
            }
            last.state = State::Failed(error);
            last.since = now;
            true
        });
    }

    /// The source was heard of and has nothing new.
    pub fn contact(&self) {
        self.0.send_if_modified(|last| {
            last.contact = Some(Instant::now());
            last.stale = None;
            false
        });
    }

    /// What was last published.
    #[must_use]
    pub fn sample(&self) -> State<T> {
        self.0.borrow().state.clone()
    }

    /// One more activity of this value.
    #[must_use]
    pub fn subscribe(&self) -> Activity<T> {
        Activity(self.0.subscribe())
    }

    /// Waits until nobody watches any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Whether nobody watches any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T> Clone for Activity<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Activity<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Activity").field(&self.0.borrow().state).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Publisher").field(&self.0.borrow().state).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Failure {
        Arc::from(Box::<dyn Error + Send + Sync>::from(text))
    }

    #[tokio::test]
    async fn a_failure_never_replaces_a_value() {
        let (publisher, mut activity) = Activity::channel();
        publisher.ok(1);
        publisher.failed(error("gone"));
        assert_eq!(activity.ready().await.unwrap(), 1);
        let snapshot = activity.snapshot();
        assert!(snapshot.stale.is_some());
        publisher.ok(2);
        assert!(activity.snapshot().stale.is_none());
        assert_eq!(activity.sample().ok(), Some(2));
    }

    #[tokio::test]
    async fn the_first_failure_is_seen_and_a_later_value_replaces_it() {
        let (publisher, mut activity) = Activity::<u8>::channel();
        publisher.failed(error("down"));
        assert_eq!(activity.ready().await.unwrap_err().to_string(), "down");
        publisher.ok(7);
        activity.changed().await;
        assert_eq!(activity.sample().ok(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn an_equal_value_is_contact_and_not_a_change() {
        let (publisher, mut activity) = Activity::channel();
        publisher.ok(1);
        activity.changed().await;
        let before = activity.snapshot();
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
        publisher.ok_if_changed(1, |a, b| a == b);
        let after = activity.snapshot();
        assert_eq!(after.since, before.since);
        assert!(after.contact > before.contact);
        let mut changed = tokio_test::task::spawn(activity.changed());
        tokio_test::assert_pending!(changed.poll());
    }

    #[tokio::test]
    async fn a_publisher_knows_when_nobody_watches() {
        let (publisher, activity) = Activity::<u8>::channel();
        let other = activity.clone();
        drop(activity);
        assert!(!publisher.is_closed());
        drop(other);
        publisher.closed().await;
    }
}

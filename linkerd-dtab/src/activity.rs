//! Values that change: what a watch knows now, since when, and how sure it is.

use std::{error::Error, fmt, sync::Arc};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::{runtime::Handle, select, time::Instant};

use crate::latest;

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
pub struct Activity<T>(Source<T>);

/// Where an activity's value is. One that never changes has no channel, which is large: there are many of these.
enum Source<T> {
    Live(latest::Receiver<Snapshot<T>>),
    Fixed(Arc<Snapshot<T>>),
}

/// The publisher is gone, and its last state was seen.
struct Final;

/// The sending side. When it is dropped the value stays what it was, for good.
pub struct Publisher<T>(latest::Sender<Snapshot<T>>);

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

impl<T> Snapshot<T> {
    fn now(state: State<T>) -> Self {
        let now = Instant::now();
        let contact = (!matches!(state, State::Pending)).then_some(now);
        Self { state, since: now, contact, stale: None }
    }
}

impl<T> Source<T> {
    fn read<R>(&self, f: impl FnOnce(&Snapshot<T>) -> R) -> R {
        match self {
            Self::Live(receiver) => f(&receiver.borrow()),
            Self::Fixed(snapshot) => f(snapshot),
        }
    }

    fn read_and_update<R>(&mut self, f: impl FnOnce(&Snapshot<T>) -> R) -> R {
        match self {
            Self::Live(receiver) => f(&receiver.borrow_and_update()),
            Self::Fixed(snapshot) => f(snapshot),
        }
    }

    async fn changed(&mut self) -> Result<(), Final> {
        match self {
            Self::Live(receiver) => receiver.changed().await.map_err(|_| Final),
            Self::Fixed(_) => Err(Final),
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Activity<T> {
    /// A pending activity and the publisher that will tell it what is so.
    #[must_use]
    pub fn channel() -> (Publisher<T>, Self) {
        let (tx, rx) = latest::channel(Snapshot::now(State::Pending));
        (Publisher(tx), Self(Source::Live(rx)))
    }

    /// An activity that always has this value.
    #[must_use]
    pub fn value(value: T) -> Self {
        Self(Source::Fixed(Arc::new(Snapshot::now(State::Ok(value)))))
    }

    /// An activity that has failed for good.
    #[must_use]
    pub fn failed(error: Failure) -> Self {
        Self(Source::Fixed(Arc::new(Snapshot::now(State::Failed(error)))))
    }

    /// What is known now. Does not mark it as seen: [`changed`](Self::changed) still reports it.
    #[must_use]
    pub fn sample(&self) -> State<T> {
        self.0.read(|snapshot| snapshot.state.clone())
    }

    /// What is known now, and how old it is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<T> {
        self.0.read(Snapshot::clone)
    }

    /// What is known now, marked as seen: [`changed`](Self::changed) waits for something newer.
    pub fn sample_and_update(&mut self) -> State<T> {
        self.0.read_and_update(|snapshot| snapshot.state.clone())
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

    /// Each value of this activity, changed by `f`.
    ///
    /// The first is there at once. Later ones come by a task, which ends when this one is final or nobody watches the
    /// result; without a tokio runtime there is only the first.
    #[must_use]
    pub fn map<U>(mut self, f: impl Fn(T) -> U + Send + 'static) -> Activity<U>
    where
        U: Clone + Send + Sync + 'static,
    {
        // Asked first: what is published in between is then still sampled.
        let is_final = self.is_final();
        let (publisher, activity) = Activity::channel();
        publisher.follow(self.snapshot_and_update(), &f);
        if !is_final {
            spawn(async move {
                loop {
                    select! {
                        () = publisher.closed() => return,
                        seen = self.0.changed() => {
                            let is_final = seen.is_err();
                            publisher.follow(self.snapshot_and_update(), &f);
                            if is_final {
                                return;
                            }
                        }
                    }
                }
            });
        }
        activity
    }

    /// The activity that `f` makes of the latest value of this one.
    ///
    /// Until a new one has a value, the last value of the old one is kept. There is a task as with [`map`](Self::map).
    #[must_use]
    pub fn flat_map<U>(mut self, f: impl Fn(T) -> Activity<U> + Send + 'static) -> Activity<U>
    where
        U: Clone + Send + Sync + 'static,
    {
        let (publisher, activity) = Activity::channel();
        let mut is_final = self.is_final();
        let mut inner = into_inner(self.snapshot_and_update().state, &f);
        let mut is_inner_final = inner.is_final();
        publisher.follow(inner.snapshot_and_update(), &|value| value);
        if is_final && is_inner_final {
            return activity;
        }
        spawn(async move {
            while !(is_final && is_inner_final) {
                select! {
                    () = publisher.closed() => return,
                    seen = self.0.changed(), if !is_final => {
                        is_final = seen.is_err();
                        // A failure after a value keeps the value, so it never gets here; the end brings nothing new.
                        if !is_final {
                            // The old one is let go after the new one is there: what they share stays watched.
                            inner = into_inner(self.snapshot_and_update().state, &f);
                            is_inner_final = inner.is_final();
                        }
                    }
                    seen = inner.0.changed(), if !is_inner_final => is_inner_final = seen.is_err(),
                }
                publisher.follow(inner.snapshot_and_update(), &|value| value);
            }
        });
        activity
    }

    /// The values of all of these, once each has one. There is a task as with [`map`](Self::map).
    pub(crate) fn all(mut activities: Vec<Self>) -> Activity<Vec<T>> {
        fn sample<T: Clone + Send + Sync + 'static>(activities: &mut [Activity<T>]) -> State<Vec<T>> {
            let mut values = Vec::with_capacity(activities.len());
            for activity in activities {
                match activity.sample_and_update() {
                    State::Ok(value) => values.push(value),
                    State::Failed(error) => return State::Failed(error),
                    State::Pending => return State::Pending,
                }
            }
            State::Ok(values)
        }

        let (publisher, activity) = Activity::channel();
        let is_final = activities.iter().all(Self::is_final);
        publisher.follow(Snapshot::now(sample(&mut activities)), &|values| values);
        if !is_final {
            spawn(async move {
                while !publisher.is_closed() {
                    let changes: FuturesUnordered<_> = activities.iter_mut().map(Self::changed).collect();
                    select! {
                        () = publisher.closed() => return,
                        _ = changes.into_future() => {}
                    }
                    publisher.follow(Snapshot::now(sample(&mut activities)), &|values| values);
                }
            });
        }
        activity
    }

    /// Whether there is a state that this activity has not yet marked as seen.
    pub(crate) fn has_changed(&self) -> bool {
        match &self.0 {
            Source::Live(receiver) => receiver.has_changed().unwrap_or_default(),
            Source::Fixed(_) => false,
        }
    }

    /// As [`sample_and_update`](Self::sample_and_update), with how old it is.
    pub(crate) fn snapshot_and_update(&mut self) -> Snapshot<T> {
        self.0.read_and_update(Snapshot::clone)
    }

    /// Whether both watch the same source.
    #[must_use]
    pub fn same_source(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::Live(a), Source::Live(b)) => a.same_channel(b),
            (Source::Fixed(a), Source::Fixed(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether the publisher is gone, so that nothing can change any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match &self.0 {
            Source::Live(receiver) => receiver.has_changed().is_err(),
            Source::Fixed(_) => true,
        }
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
        self.publish(value, same, false);
    }

    /// The same; and watchers see a change even if the value is the last one, whose age stays what it is.
    pub(crate) fn ok_again(&self, value: T, same: impl FnOnce(&T, &T) -> bool) {
        self.publish(value, same, true);
    }

    fn publish(&self, value: T, same: impl FnOnce(&T, &T) -> bool, is_told_again: bool) {
        let now = Instant::now();
        self.0.send_if_modified(|last| {
            last.contact = Some(now);
            last.stale = None;
            if let State::Ok(old) = &last.state
                && same(old, &value)
            {
                return is_told_again;
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

    /// Publishes what another source says, with the age that it has there.
    fn follow<S>(&self, from: Snapshot<S>, f: &impl Fn(S) -> T) {
        let Snapshot { state, since, contact, stale } = from;
        let state = state.map(f);
        self.0.send_if_modified(|last| {
            if matches!(last.state, State::Ok(_)) && !matches!(state, State::Ok(_)) {
                if let State::Failed(error) = state {
                    last.stale = Some(error);
                }
                return false;
            }
            *last = Snapshot { state, since, contact, stale };
            true
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
        Activity(Source::Live(self.0.subscribe()))
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

/// The activity that a state stands for.
fn into_inner<T, U: Clone + Send + Sync + 'static>(state: State<T>, f: &impl Fn(T) -> Activity<U>) -> Activity<U> {
    match state {
        State::Ok(value) => f(value),
        State::Failed(error) => Activity::failed(error),
        State::Pending => Activity::channel().1,
    }
}

/// Runs a task if there is a runtime for it.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(task);
    }
}

impl<T> Clone for Activity<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Source::Live(receiver) => Source::Live(receiver.clone()),
            Source::Fixed(snapshot) => Source::Fixed(Arc::clone(snapshot)),
        })
    }
}

impl<T: fmt::Debug> fmt::Debug for Activity<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.read(|snapshot| f.debug_tuple("Activity").field(&snapshot.state).finish())
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
    async fn a_mapped_activity_follows_and_lets_go() {
        let (publisher, activity) = Activity::channel();
        publisher.ok(1);
        let mut mapped = activity.map(|value| value * 10);
        assert_eq!(mapped.sample_and_update().ok(), Some(10));
        publisher.ok(2);
        mapped.changed().await;
        assert_eq!(mapped.sample().ok(), Some(20));
        assert_eq!(mapped.snapshot().since, publisher.subscribe().snapshot().since);
        drop(mapped);
        publisher.closed().await;
    }

    #[tokio::test]
    async fn a_mapped_activity_has_the_last_value_and_is_final_when_its_source_is() {
        let (publisher, activity) = Activity::channel();
        let mut mapped = activity.map(|value: u8| value + 1);
        publisher.ok(1);
        drop(publisher);
        assert_eq!(mapped.ready().await.unwrap(), 2);
        while !mapped.is_final() {
            tokio::task::yield_now().await;
        }
        assert!(Activity::value(1).map(|value| value + 1).is_final());
    }

    #[tokio::test]
    async fn a_flat_mapped_activity_keeps_its_value_until_the_next_one_has_one() {
        let (outer, outer_activity) = Activity::channel();
        let (first, second) = (Activity::channel(), Activity::channel());
        let (one, two) = (first.1, second.1);
        let mut flat = outer_activity.flat_map(move |first| if first { one.clone() } else { two.clone() });
        assert!(matches!(flat.sample(), State::Pending));
        outer.ok(true);
        first.0.ok(1);
        assert_eq!(flat.ready().await.unwrap(), 1);
        outer.ok(false);
        tokio::task::yield_now().await;
        assert_eq!(flat.sample_and_update().ok(), Some(1));
        second.0.ok(2);
        while flat.sample_and_update().ok() != Some(2) {
            flat.changed().await;
        }
        drop(flat);
        outer.closed().await;
        second.0.closed().await;
    }

    #[tokio::test]
    async fn all_values_are_there_once_each_is() {
        let channels: Vec<_> = (0..3).map(|_| Activity::channel()).collect();
        let mut all = Activity::all(channels.iter().map(|(_, activity)| activity.clone()).collect());
        for (value, (publisher, _)) in channels.iter().enumerate().rev() {
            assert!(matches!(all.sample_and_update(), State::Pending));
            publisher.ok(value);
        }
        assert_eq!(all.ready().await.unwrap(), [0, 1, 2]);
        assert!(Activity::all(vec![Activity::value(1)]).is_final());
    }

    #[tokio::test]
    async fn what_never_changes_is_final_and_all_that_is_watched() {
        let mut activity = Activity::value(1);
        assert!(activity.is_final() && activity.same_source(&activity.clone()));
        assert!(!activity.same_source(&Activity::value(1)) && !activity.same_source(&Activity::channel().1));
        assert_eq!(activity.ready().await.unwrap(), 1);
        assert!(activity.snapshot().contact.is_some());
        tokio_test::assert_pending!(tokio_test::task::spawn(activity.changed()).poll());
        let failed = Activity::<u8>::failed(error("never")).map(|value| value + 1);
        assert!(failed.is_final() && matches!(failed.sample(), State::Failed(_)));
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

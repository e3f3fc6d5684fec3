//! Messages about what changes.

use std::{
    hash::{DefaultHasher, Hasher},
    pin::Pin,
    time::Duration,
};

use futures::{Stream, stream};
use prost::Message;
use tokio::{
    select,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use crate::{
    Activity, State,
    namerd::{FollowedTable, Session, Watched},
};

/// How long a single answer waits for something that is not known yet. A Linkerd gives a binding as long.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// How long what is whole is waited for, where a part is an answer, too. As long as `/delegate` does.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// The messages of a stream.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What a state is to a peer: nothing, a message, or the end of the stream.
pub(super) type Said<M> = Option<Result<M, Status>>;

/// How long it takes at most that a name is bound under a new table. One that takes longer has a namer that does not answer.
const EVALUATED: Duration = Duration::from_secs(1);

/// How long is waited before it is looked at again whether it is.
const LOOK: Duration = Duration::from_millis(5);

/// A table whose changes have the last message sent again.
struct Retold {
    table: FollowedTable,
    // When the change was that is still to be told of.
    changed: Option<Instant>,
}

struct Following<T, F> {
    // Counts as a client for as long as it follows something.
    _session: Session,
    watched: Watched<T>,
    say: F,
    // The hash of the last message: it is not sent again, and is nothing to keep for each of many streams.
    last: Option<u64>,
    retold: Option<Retold>,
    has_ended: bool,
}

/// A message about what is so now, and about each change. Of changes that come faster than they are read the last is told,
/// and none that leaves the message what it was.
pub(super) fn follow<T, M, F>(session: Session, watched: Watched<T>, say: F) -> Messages<M>
where
    T: Clone + Send + Sync + 'static,
    M: Message + Send + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    stream_of(Following { _session: session, watched, say, last: None, retold: None, has_ended: false })
}

/// As [`follow`] does; and the message once more after a change of the table that leaves it what it was, as namerd 1.7.5
/// does, from which a peer sees that its name was bound under the new table. However many changes come before that, it is
/// sent once.
pub(super) fn follow_under<T, M, F>(session: Session, table: FollowedTable, watched: Watched<T>, say: F) -> Messages<M>
where
    T: Clone + Send + Sync + 'static,
    M: Message + Send + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    let retold = Some(Retold { table, changed: None });
    stream_of(Following { _session: session, watched, say, last: None, retold, has_ended: false })
}

fn stream_of<T, M, F>(following: Following<T, F>) -> Messages<M>
where
    T: Clone + Send + Sync + 'static,
    M: Message + Send + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    // Boxed: a stream that is made of a future has room for it twice.
    Box::pin(stream::unfold(Box::new(following), |mut following| async move {
        if following.has_ended {
            return None;
        }
        let said = following.next().await;
        following.has_ended = said.is_err();
        Some((said, following))
    }))
}

/// The first message about something. `None`: there was nothing to say for so long.
pub(super) async fn first<T, M>(
    watched: &mut Watched<T>,
    within: Duration,
    say: impl Fn(State<T>) -> Said<M>,
) -> Option<Result<M, Status>>
where
    T: Clone + Send + Sync + 'static,
{
    let first = async {
        loop {
            if let Some(said) = say(watched.sample_and_update()) {
                return said;
            }
            watched.changed().await;
        }
    };
    timeout(within, first).await.ok()
}

impl<T, F> Following<T, F>
where
    T: Clone + Send + Sync + 'static,
{
    async fn next<M: Message>(&mut self) -> Result<M, Status>
    where
        F: Fn(State<T>) -> Said<M>,
    {
        let mut is_told_again = false;
        loop {
            match (self.say)(self.watched.sample_and_update()) {
                Some(Ok(message)) => {
                    let hash = hash(&message);
                    if self.last.replace(hash) != Some(hash) || is_told_again {
                        if let Some(retold) = &mut self.retold {
                            retold.is_told(self.watched.snapshot().contact);
                        }
                        return Ok(message);
                    }
                }
                Some(Err(status)) => return Err(status),
                None => {}
            }
            is_told_again = match &mut self.retold {
                None => {
                    self.watched.changed().await;
                    false
                }
                Some(retold) => {
                    let watched = (*self.watched).clone();
                    select! {
                        biased;
                        () = self.watched.changed() => false,
                        () = retold.evaluated(&watched) => true,
                    }
                }
            };
        }
    }
}

fn hash(message: &impl Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&message.encode_to_vec());
    hasher.finish()
}

impl Retold {
    /// What was evaluated at `contact` has been told: what the table was before that is.
    fn is_told(&mut self, contact: Option<Instant>) {
        if self.table.since() <= contact {
            self.table.mark_as_seen();
            self.changed = None;
        } else if self.changed.is_some_and(|changed| Some(changed) <= contact) {
            // That change is told; there was another one since, under which nothing was evaluated yet.
            self.changed = self.table.since();
        }
    }

    /// Waits until the table has changed and what is watched has been evaluated under it, which leaves no other trace if
    /// nothing comes of it.
    ///
    /// Cancel safe: a change is known until it is told.
    async fn evaluated<T: Clone + Send + Sync + 'static>(&mut self, watched: &Activity<T>) {
        loop {
            if self.changed.is_none() {
                self.table.changed().await;
                self.changed = self.table.since();
            }
            let since = self.changed;
            let evaluated = async {
                while watched.snapshot().contact < since {
                    sleep(LOOK).await;
                }
            };
            // Boxed: streams are many, and it needs its room for a moment after a change.
            if Box::pin(timeout(EVALUATED, evaluated)).await.is_ok() {
                return;
            }
            self.changed = None;
        }
    }
}

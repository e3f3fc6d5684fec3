//! Messages about what changes.

use std::{
    hash::{DefaultHasher, Hasher},
    pin::Pin,
    time::Duration,
};

use futures::{Stream, stream};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::{
    Snapshot, State,
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

/// A table whose changes have the last message sent again.
struct Retold {
    table: FollowedTable,
    // When the last change was that was told.
    told: Option<Instant>,
    // When what was last seen came.
    seen: Option<Instant>,
}

struct Following<T, F> {
    // Counts as a client for as long as it follows something.
    _session: Session,
    watched: Watched<T>,
    say: F,
    // The hash of the last message: it is not sent again, and is nothing to keep for each of many streams.
    last: Option<u64>,
    retold: Option<Retold>,
    is_begun: bool,
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
    stream_of(session, watched, say, None)
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
    stream_of(session, watched, say, Some(Retold { table, told: None, seen: None }))
}

fn stream_of<T, M, F>(session: Session, watched: Watched<T>, say: F, retold: Option<Retold>) -> Messages<M>
where
    T: Clone + Send + Sync + 'static,
    M: Message + Send + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    let following =
        Following { _session: session, watched, say, last: None, retold, is_begun: false, has_ended: false };
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
        loop {
            if self.is_begun {
                self.watched.changed().await;
            }
            self.is_begun = true;
            let snapshot = self.watched.snapshot_and_update();
            let is_told_again = self.retold.as_mut().is_some_and(|retold| retold.is_due(&snapshot));
            match (self.say)(snapshot.state) {
                Some(Ok(message)) => {
                    let hash = hash(&message);
                    if self.last.replace(hash) != Some(hash) || is_told_again {
                        return Ok(message);
                    }
                }
                Some(Err(status)) => return Err(status),
                None => {}
            }
        }
    }
}

fn hash(message: &impl Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&message.encode_to_vec());
    hasher.finish()
}

impl Retold {
    /// Whether the table has changed since the last time, and this was evaluated under it.
    fn is_due<T>(&mut self, seen: &Snapshot<T>) -> bool {
        let change = self.table.since().filter(|change| Some(*change) <= seen.contact);
        // What is published though it is what it was says the same.
        let is_again = self.seen.replace(seen.since) == Some(seen.since);
        let is_told = change.is_none() || change == self.told;
        self.told = change.or(self.told);
        is_again || !is_told
    }
}

//! Messages about what changes.

use std::{pin::Pin, time::Duration};

use futures::{Stream, stream};
use tokio::time::timeout;
use tonic::Status;

use crate::{
    State,
    namerd::{Session, Watched},
};

/// How long a single answer waits for something that is not known yet. A Linkerd gives a binding as long.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// How long what is whole is waited for, where a part is an answer, too. As long as `/delegate` does.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// The messages of a stream.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What a state is to a peer: nothing, a message, or the end of the stream.
pub(super) type Said<M> = Option<Result<M, Status>>;

struct Following<T, M, F> {
    // Counts as a client for as long as it follows something.
    _session: Session,
    watched: Watched<T>,
    say: F,
    last: Option<M>,
    has_ended: bool,
}

/// A message about what is so now, and about each change. Of changes that come faster than they are read the last is told,
/// and none that leaves the message what it was.
pub(super) fn follow<T, M, F>(session: Session, watched: Watched<T>, say: F) -> Messages<M>
where
    T: Clone + Send + Sync + 'static,
    M: Clone + PartialEq + Send + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    let following = Following { _session: session, watched, say, last: None, has_ended: false };
    Box::pin(stream::unfold(following, |mut following| async move {
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

impl<T, M, F> Following<T, M, F>
where
    T: Clone + Send + Sync + 'static,
    M: Clone + PartialEq,
    F: Fn(State<T>) -> Said<M>,
{
    async fn next(&mut self) -> Result<M, Status> {
        loop {
            match (self.say)(self.watched.sample_and_update()) {
                Some(Ok(message)) if self.last.as_ref() != Some(&message) => {
                    self.last = Some(message.clone());
                    return Ok(message);
                }
                Some(Err(status)) => return Err(status),
                _ => self.watched.changed().await,
            }
        }
    }
}

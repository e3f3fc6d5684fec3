//! Messages about what changes.

use std::{
    hash::{DefaultHasher, Hasher},
    option,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes};
use futures::{Stream, stream};
use http::{Extensions, HeaderMap};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use pin_project::pin_project;
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::{Response, Status};

use super::status;
use crate::{
    Failure, Snapshot, State,
    namerd::{Counted, FollowedTable, Session, Streaming, Watched},
    transport::Body,
};

/// How long a single answer waits for something that is not known yet. A Linkerd gives a binding as long.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// How long what is whole is waited for, where a part is an answer, too. As long as `/delegate` does.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// A message's length, and whether it is compressed, are before it.
const PREFIX: usize = 5;

/// The messages of a stream that has one at most, or none here: it is [`Told`].
pub(super) type Messages<M> = stream::Iter<option::IntoIter<Result<M, Status>>>;

/// What a state is to a peer: nothing, a message, or the end of the stream.
pub(super) type Said<M> = Option<Result<M, Status>>;

/// The body of a stream that goes on, among the extensions of its response.
///
/// Beside tonic, which would have each message in a buffer of its own for as long as the stream lives, and whose body is in
/// one more box with each that is put around it. There are tens of thousands of such streams.
#[derive(Clone)]
struct Told(Arc<Mutex<Option<Body>>>);

/// The messages of a stream as a body, whose failure is told in trailers.
#[pin_project]
struct Telling<S> {
    #[pin]
    messages: S,
    streaming: Streaming,
    has_ended: bool,
}

/// A table whose changes have the last message sent again.
struct Retold {
    table: FollowedTable,
    // When the last change was that was told.
    told: Option<Instant>,
    // When what was last seen came.
    seen: Option<Instant>,
}

struct Following<T, F> {
    // A client for as long as it follows something.
    _client: Counted,
    watched: Watched<T>,
    say: F,
    // The hash of the last message: it is not sent again, and is nothing to keep for each of many streams.
    last: Option<u64>,
    retold: Option<Retold>,
    is_begun: bool,
}

/// The only message of a stream.
pub(super) fn only<M>(message: M) -> Messages<M> {
    stream::iter(Some(Ok(message)))
}

/// A message about what is so now, and about each change. Of changes that come faster than they are read the last is told,
/// and none that leaves the message what it was.
pub(super) fn follow<T, M, F>(session: &Session, watched: Watched<T>, say: F) -> Response<Messages<M>>
where
    T: Clone + Send + Sync + 'static,
    M: Message + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    told(session, watched, say, None)
}

/// As [`follow`] does; and the message once more after a change of the table that leaves it what it was, as namerd 1.7.5
/// does, from which a peer sees that its name was bound under the new table. However many changes come before that, it is
/// sent once.
pub(super) fn follow_under<T, M, F>(
    session: &Session,
    table: FollowedTable,
    watched: Watched<T>,
    say: F,
) -> Response<Messages<M>>
where
    T: Clone + Send + Sync + 'static,
    M: Message + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    told(session, watched, say, Some(Retold { table, told: None, seen: None }))
}

fn told<T, M, F>(session: &Session, watched: Watched<T>, say: F, retold: Option<Retold>) -> Response<Messages<M>>
where
    T: Clone + Send + Sync + 'static,
    M: Message + 'static,
    F: Fn(State<T>) -> Said<M> + Send + 'static,
{
    let following = Following { _client: session.counted(), watched, say, last: None, retold, is_begun: false };
    // Boxed: a stream that is made of a future has room for it twice.
    let messages = stream::unfold(Box::new(following), |mut following| async move {
        let said = following.next().await;
        Some((said, following))
    });
    let telling = Telling { messages, streaming: session.meter().stream(), has_ended: false };
    let mut response = Response::new(stream::iter(None));
    response.extensions_mut().insert(Told(Arc::new(Mutex::new(Some(telling.boxed_unsync())))));
    response
}

/// Takes what a stream that goes on answers with, if this is the response of one.
pub(super) fn take(extensions: &mut Extensions) -> Option<Body> {
    let Told(body) = extensions.remove()?;
    body.lock().unwrap_or_else(PoisonError::into_inner).take()
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
    /// The next message, as it is sent.
    async fn next<M: Message>(&mut self) -> Result<Bytes, Status>
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
                    let message = framed(&message)?;
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

/// A message with what is before it.
fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).map_err(|_| Status::out_of_range(format!("a message of {length} bytes")))?;
    let mut bytes = Vec::with_capacity(PREFIX + length);
    // Not compressed.
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    // What a vector has no room for it makes room for.
    let _ = message.encode(&mut bytes);
    Ok(bytes.into())
}

fn hash(message: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(message);
    hasher.finish()
}

impl<S: Stream<Item = Result<Bytes, Status>>> HttpBody for Telling<S> {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.project();
        if *this.has_ended {
            return Poll::Ready(None);
        }
        let status = match ready!(this.messages.poll_next(cx)) {
            Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        *this.has_ended = true;
        if let Some(reason) = status::reason(status.code()) {
            this.streaming.meter().failed(reason);
        }
        let mut trailers = HeaderMap::new();
        // Fails for metadata and details alone, which there are none of; the code is there then, too.
        let _ = status.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
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

//! Watches as bodies: one document a line, for each state that the reader keeps up with.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{DELEGATE_TIMEOUT, reply::told};
use crate::{Activity, Failure, State, transport::Body};

/// How long what is not wholly known is held back, from the first change that is.
const PATIENCE: Duration = DELEGATE_TIMEOUT;

/// The same after something stayed unknown for so long: what it is part of must not be late each time.
const LITTLE_PATIENCE: Duration = Duration::from_millis(100);

/// Waits until a value is wholly known. It is dropped when there is a newer one, and when it takes too long.
type Readiness<T> = fn(&T) -> Pin<Box<dyn Future<Output = ()> + Send>>;

type Render<T> = Box<dyn FnMut(&T) -> Option<String> + Send>;

/// The documents of an activity. Nothing is rendered before it is asked for, so that a reader who is slow gets the last
/// state, and there is never more than one document in memory.
pub(super) struct Documents<T, H> {
    activity: Activity<T>,
    // Counted against the reader's limits, until the body is dropped.
    _held: H,
    render: Render<T>,
    ready: Option<Readiness<T>>,
    patience: Duration,
    // Until when the value is held back, or one before it that was not told.
    held_until: Option<Instant>,
    // The failure is a document of its own, and more may come.
    render_failure: Option<fn(&Failure) -> String>,
    // The hash of the last document: the same one is not sent again.
    last: Option<u64>,
    has_repeats: bool,
    is_begun: bool,
    is_over: bool,
}

impl<T: Clone + Send + Sync + 'static, H: Send + 'static> Documents<T, H> {
    pub(super) fn new(
        activity: Activity<T>,
        held: H,
        render: impl FnMut(&T) -> Option<String> + Send + 'static,
    ) -> Self {
        Self {
            activity,
            _held: held,
            render: Box::new(render),
            ready: None,
            patience: PATIENCE,
            held_until: None,
            render_failure: None,
            last: None,
            has_repeats: false,
            is_begun: false,
            is_over: false,
        }
    }

    /// Renders what is ready; what is not, within two seconds of the first change that was held back for it.
    pub(super) fn when(mut self, ready: Readiness<T>) -> Self {
        self.ready = Some(ready);
        self
    }

    /// Goes on after a failure, which is a document.
    pub(super) fn with_failures(mut self, render: fn(&Failure) -> String) -> Self {
        self.render_failure = Some(render);
        self
    }

    /// Sends equal documents after one another, too.
    pub(super) fn with_repeats(mut self) -> Self {
        self.has_repeats = true;
        self
    }

    pub(super) fn body(self) -> Body {
        // Boxed: a stream that is made of a future has room for it twice.
        let frames = stream::unfold(Box::new(self), |mut documents| async move {
            let line = documents.next().await?;
            Some((Ok(Frame::data(line)), documents))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            if self.is_begun {
                self.activity.changed().await;
            }
            self.is_begun = true;
            let document = match self.activity.sample_and_update() {
                State::Pending => None,
                State::Ok(value) => {
                    if !self.is_due(&value).await {
                        // Seen, but not sampled yet.
                        self.is_begun = false;
                        continue;
                    }
                    (self.render)(&value)
                }
                State::Failed(error) => {
                    if let Some(render) = self.render_failure {
                        Some(render(&error))
                    } else {
                        self.is_over = true;
                        Some(format!("{}\n", told(&*error)))
                    }
                }
            };
            if let Some(document) = document
                && self.is_news(&document)
            {
                return Some(document.into());
            }
        }
        None
    }

    /// Waits until `value` is to be rendered. False: there is a newer one.
    async fn is_due(&mut self, value: &T) -> bool {
        let Some(ready) = self.ready else { return true };
        let until = *self.held_until.get_or_insert_with(|| Instant::now() + self.patience);
        select! {
            // In this order: what changes all the time must not be held back for ever.
            biased;
            () = ready(value) => self.patience = PATIENCE,
            () = sleep_until(until) => self.patience = LITTLE_PATIENCE,
            () = self.activity.changed() => return false,
        }
        self.held_until = None;
        true
    }

    fn is_news(&mut self, document: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        document.hash(&mut hasher);
        let hash = hasher.finish();
        self.last.replace(hash) != Some(hash) || self.has_repeats
    }
}

//! One watch over several namerds: which of them is asked, and when another one is.

use std::{collections::VecDeque, fmt, future::pending, hash::Hash, pin::Pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{
    Pauses, Source, Watching,
    heard::{Ear, Heard},
    pauses::{Backoff, random_share},
};
use crate::{Activity, Addr, Dtab, Failure, NameTree, Path, Publisher, State, interpreter::remote::Leaf};

/// What is asked of a source.
pub(super) trait Question: Clone + Eq + Hash + ToString + Send + Sync + 'static {
    type Answer: Clone + Send + Sync + 'static;

    fn ask<'a>(&'a self, source: &'a dyn Source, answer: &'a Publisher<Self::Answer>) -> Watching<'a>;
}

/// What a name is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Named {
    pub(super) dtab: Dtab,
    pub(super) path: Path,
}

/// Where the replicas of a bound name are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(pub(super) Path);

impl Question for Named {
    type Answer = NameTree<Leaf>;

    fn ask<'a>(&'a self, source: &'a dyn Source, answer: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        source.bind(&self.dtab, &self.path, answer)
    }
}

impl Question for Id {
    type Answer = Addr;

    fn ask<'a>(&'a self, source: &'a dyn Source, answer: &'a Publisher<Addr>) -> Watching<'a> {
        source.addr(&self.0, answer)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A namerd has said nothing about a name for this long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct NoAnswer(pub Duration);

/// What there is to tell of a watch.
#[derive(Debug)]
pub(super) enum News<A> {
    Answer(A),
    /// Nobody can be asked now, or who was asked does not know.
    Failed(Failure),
}

/// After a namerd is back, who waits for it asks within this time: not all at once.
const SPREAD: Duration = Duration::from_secs(1);

/// But not sooner than this after it asked the last time: that somebody else is answered says little of a question that is
/// refused each time.
const REST: Duration = Duration::from_secs(10);

/// Asks the first source that answers, and comes back to those before it.
pub(super) struct Follower<Q: Question> {
    sources: Arc<[Arc<dyn Source>]>,
    question: Q,
    patience: Duration,
    backoff: Backoff,
    heard: Arc<Heard>,
    ear: Ear,
    // One that is to be asked has come back since it was.
    is_back: bool,
    asked: Instant,
    // Whose word counts.
    current: Option<Attempt<Q::Answer>>,
    // Who is asked, and has not answered yet.
    trial: Option<Attempt<Q::Answer>>,
    next: usize,
    due: Option<Instant>,
    // At most two: an answer, and the end of the watch that it came by.
    news: VecDeque<News<Q::Answer>>,
}

struct Attempt<A> {
    source: usize,
    overdue: Instant,
    answer: Activity<A>,
    watching: Pin<Box<dyn Future<Output = Failure> + Send>>,
}

enum Step {
    Changed,
    Ended(Failure),
}

impl<Q: Question> Follower<Q> {
    pub(super) fn new(
        sources: Arc<[Arc<dyn Source>]>,
        question: Q,
        pauses: Pauses,
        patience: Duration,
        heard: Arc<Heard>,
    ) -> Self {
        Self {
            ear: heard.ear(),
            heard,
            is_back: false,
            asked: Instant::now(),
            sources,
            question,
            patience,
            backoff: Backoff::new(pauses),
            current: None,
            trial: None,
            next: 0,
            due: Some(Instant::now()),
            news: VecDeque::new(),
        }
    }

    /// Waits for something to tell.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> News<Q::Answer> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return news;
            }
            let overdue = self.trial.as_ref().map(|trial| trial.overdue);
            let due = self.due.filter(|_| self.trial.is_none());
            // Those that would be asked: all before the one whose word counts.
            let count = self.current.as_ref().map_or(self.sources.len(), |current| current.source);
            select! {
                biased;
                step = step(&mut self.current) => match step {
                    Step::Changed => self.tell_current(),
                    Step::Ended(failure) => self.lost(failure),
                },
                step = step(&mut self.trial) => match step {
                    Step::Changed => self.answered(),
                    Step::Ended(failure) => self.refused(failure),
                },
                () = at(overdue) => self.refused(Arc::new(NoAnswer(self.patience))),
                () = at(due) => self.attempt(),
                () = self.ear.back(count) => self.back(),
            }
        }
    }

    fn attempt(&mut self) {
        self.due = None;
        self.is_back = false;
        self.asked = Instant::now();
        let Some(source) = self.sources.get(self.next).cloned() else { return };
        let (publisher, answer) = Activity::channel();
        let question = self.question.clone();
        let watching = Box::pin(async move { question.ask(&*source, &publisher).await });
        let overdue = Instant::now() + self.patience;
        self.trial = Some(Attempt { source: self.next, overdue, answer, watching });
    }

    /// One that is to be asked has answered somebody else.
    fn back(&mut self) {
        self.is_back = true;
        self.due = self.due.map(|due| due.min(self.soon()));
    }

    fn soon(&self) -> Instant {
        (Instant::now() + SPREAD.mul_f64(random_share())).max(self.asked + REST.mul_f64(0.9 + 0.2 * random_share()))
    }

    fn tell_current(&mut self) {
        let Some(current) = &mut self.current else { return };
        match current.answer.sample_and_update() {
            State::Ok(answer) => self.news.push_back(News::Answer(answer)),
            State::Failed(failure) => self.news.push_back(News::Failed(failure)),
            State::Pending => {}
        }
    }

    /// Who was tried has answered, and is the one whose word counts if it knows something.
    fn answered(&mut self) {
        let Some(trial) = &self.trial else { return };
        let state = trial.answer.sample();
        if !matches!(state, State::Pending) {
            self.heard.answered(trial.source);
        }
        let knows = match state {
            State::Ok(_) => true,
            State::Failed(_) => self.current.is_none(),
            State::Pending => false,
        };
        if !knows {
            return;
        }
        self.current = self.trial.take();
        self.tell_current();
        match self.current.as_ref().map(|current| current.source) {
            Some(0) => {
                self.backoff.reset();
                self.due = None;
            }
            _ => self.again_from(0),
        }
    }

    /// Who was tried does not answer.
    fn refused(&mut self, failure: Failure) {
        let Some(mut trial) = self.trial.take() else { return };
        self.heard.lost(trial.source);
        // What it said before it went.
        if trial.answer.changed().now_or_never().is_some()
            && let State::Ok(answer) = trial.answer.sample()
            && self.current.is_none()
        {
            self.news.push_back(News::Answer(answer));
        }
        let end = self.current.as_ref().map_or(self.sources.len(), |current| current.source);
        self.next = trial.source + 1;
        if self.next < end {
            self.due = Some(Instant::now());
            return;
        }
        if self.current.is_none() {
            self.news.push_back(News::Failed(failure));
        }
        self.again_from(0);
    }

    /// Who was asked until now is gone.
    fn lost(&mut self, failure: Failure) {
        let Some(mut current) = self.current.take() else { return };
        self.heard.lost(current.source);
        if current.answer.changed().now_or_never().is_some()
            && let State::Ok(answer) = current.answer.sample()
        {
            self.news.push_back(News::Answer(answer));
        }
        self.news.push_back(News::Failed(failure));
        self.backoff.reset();
        if self.trial.is_none() {
            self.again_from((current.source + 1) % self.sources.len());
        }
    }

    fn again_from(&mut self, source: usize) {
        self.next = source;
        let due = Instant::now() + self.backoff.next();
        self.due = Some(if self.is_back { due.min(self.soon()) } else { due });
    }
}

async fn step<A: Clone + Send + Sync + 'static>(attempt: &mut Option<Attempt<A>>) -> Step {
    let Some(attempt) = attempt else { return pending().await };
    select! {
        biased;
        () = attempt.answer.changed() => Step::Changed,
        failure = &mut attempt.watching => Step::Ended(failure),
    }
}

async fn at(time: Option<Instant>) {
    match time {
        // A timer that is due fires with the next millisecond, and each name is asked about for the first time so.
        Some(time) if time <= Instant::now() => {}
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

//! What an outcome means: whether it failed, and whether it may be tried again.

use std::{sync::Arc, time::Duration};

use crate::Safety;

/// The longest [push-back](Pushback::After) that counts: five minutes. A peer that asks for more gets this.
pub const MAX_PUSHBACK: Duration = Duration::from_mins(5);

/// What the outcome of one attempt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResponseClass {
    /// It did what it should.
    Success,
    /// It did not.
    Failure {
        /// Whether the same request may be sent again without harm. Whether it *is* sent again is for the budget to say.
        retryable: bool,
    },
}

/// What the peer says about another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pushback {
    /// Not before this time is over, counted from the failure; at most [`MAX_PUSHBACK`] of it counts.
    After(Duration),
    /// Not at all: it is already retrying itself, or its budget is used up.
    Never,
}

/// All that is known about the outcome of one attempt: its [class](ResponseClass), how [safe](Safety) another attempt
/// is, and what the peer says about one.
///
/// A [class](ResponseClass) becomes one: retryable is [`Safety::Idempotent`], because the classifier says that sending
/// the same request again does no harm; and any other failure is [`Safety::Unsafe`].
///
/// ```
/// use linkerd_retry::{Pushback, Safety, Sent, Verdict};
/// use std::time::Duration;
///
/// // A POST that was refused, with `Retry-After: 2`.
/// let verdict = Verdict::failure(Safety::of(Sent::Refused, false)).push_back(Pushback::After(Duration::from_secs(2)));
/// assert!(verdict.class().is_retryable());
/// assert_eq!(verdict.not_before(), Some(Duration::from_secs(2)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    class: ResponseClass,
    safety: Safety,
    pushback: Option<Pushback>,
}

/// Tells successes from failures, and failures that may be tried again from those that may not.
///
/// Any `Fn(&Req, Result<&Rsp, &E>) -> ResponseClass` is one, and so is one that returns a [`Verdict`]; write the types of
/// a closure's arguments out, or the compiler takes it for one lifetime only. It runs once per attempt, on the request's task, so it should neither
/// block nor lock.
pub trait Classifier<Req: ?Sized, Rsp, E>: Send + Sync + 'static {
    /// Classifies what came of `req`.
    fn classify(&self, req: &Req, rsp: Result<&Rsp, &E>) -> ResponseClass;

    /// The same, and what else is known: how far the request had got, and what the peer says about another attempt.
    ///
    /// [`Retry`](crate::retry::Retry) goes by this. By default it is what the class alone says.
    fn verdict(&self, req: &Req, rsp: Result<&Rsp, &E>) -> Verdict {
        self.classify(req, rsp).into()
    }
}

impl ResponseClass {
    /// A failure that may be tried again.
    pub const RETRYABLE: Self = Self::Failure { retryable: true };

    /// A failure that must not be tried again.
    pub const NON_RETRYABLE: Self = Self::Failure { retryable: false };

    /// Whether this is [`Success`](Self::Success).
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success)
    }

    /// Whether this is a failure that may be tried again.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Failure { retryable: true })
    }

    /// The same class, but never tried again: for a request that cannot be sent a second time.
    #[must_use]
    pub const fn non_retryable(self) -> Self {
        match self {
            Self::Failure { .. } => Self::NON_RETRYABLE,
            Self::Success => self,
        }
    }
}

impl Verdict {
    /// It did what it should.
    pub const SUCCESS: Self = Self { class: ResponseClass::Success, safety: Safety::Unsafe, pushback: None };

    /// A failure that another attempt may mend, if it is [safe](Safety::is_repeatable).
    #[must_use]
    pub const fn failure(safety: Safety) -> Self {
        let class = ResponseClass::Failure { retryable: safety.is_repeatable() };
        Self { class, safety, pushback: None }
    }

    /// A failure that another attempt cannot mend, however safe it would be.
    #[must_use]
    pub const fn lasting(safety: Safety) -> Self {
        Self { class: ResponseClass::NON_RETRYABLE, safety, pushback: None }
    }

    /// The same, with what the peer says about another attempt.
    #[must_use]
    pub const fn push_back(mut self, pushback: Pushback) -> Self {
        self.pushback = Some(pushback);
        self
    }

    /// Whether it failed, and whether it may be tried again.
    pub const fn class(self) -> ResponseClass {
        self.class
    }

    /// How safe another attempt is. Of no meaning after a success.
    pub const fn safety(self) -> Safety {
        self.safety
    }

    /// What the peer said about another attempt.
    pub const fn pushback(self) -> Option<Pushback> {
        self.pushback
    }

    /// How long another attempt must wait because the peer says so, [`MAX_PUSHBACK`] at most. `None` if it must not be
    /// made at all.
    pub fn not_before(self) -> Option<Duration> {
        match self.pushback {
            None => Some(Duration::ZERO),
            Some(Pushback::After(wait)) => Some(wait.min(MAX_PUSHBACK)),
            Some(Pushback::Never) => None,
        }
    }
}

impl From<ResponseClass> for Verdict {
    fn from(class: ResponseClass) -> Self {
        match class {
            ResponseClass::Success => Self::SUCCESS,
            ResponseClass::Failure { retryable: true } => Self::failure(Safety::Idempotent),
            ResponseClass::Failure { retryable: false } => Self::failure(Safety::Unsafe),
        }
    }
}

impl From<Verdict> for ResponseClass {
    fn from(verdict: Verdict) -> Self {
        verdict.class
    }
}

impl<F, V, Req, Rsp, E> Classifier<Req, Rsp, E> for F
where
    F: Fn(&Req, Result<&Rsp, &E>) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
    Req: ?Sized,
{
    fn classify(&self, req: &Req, rsp: Result<&Rsp, &E>) -> ResponseClass {
        self.verdict(req, rsp).class
    }

    fn verdict(&self, req: &Req, rsp: Result<&Rsp, &E>) -> Verdict {
        self(req, rsp).into()
    }
}

impl<C, Req, Rsp, E> Classifier<Req, Rsp, E> for Arc<C>
where
    C: Classifier<Req, Rsp, E> + ?Sized,
    Req: ?Sized,
{
    fn classify(&self, req: &Req, rsp: Result<&Rsp, &E>) -> ResponseClass {
        (**self).classify(req, rsp)
    }

    fn verdict(&self, req: &Req, rsp: Result<&Rsp, &E>) -> Verdict {
        (**self).verdict(req, rsp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sent;

    #[test]
    fn a_closure_and_a_shared_trait_object_classify() {
        let even = |req: &str, rsp: Result<&u32, &String>| match rsp {
            Ok(n) if n % 2 == 0 => ResponseClass::Success,
            Ok(_) => ResponseClass::RETRYABLE,
            Err(_) => ResponseClass::Failure { retryable: req == "get" },
        };
        let shared: Arc<dyn Classifier<str, u32, String>> = Arc::new(even);
        assert_eq!(shared.classify("get", Ok(&2)), ResponseClass::Success);
        assert!(shared.classify("post", Ok(&1)).is_retryable());
        assert_eq!(shared.classify("post", Err(&String::new())), ResponseClass::NON_RETRYABLE);
        assert!(even.classify("get", Err(&String::new())).is_retryable());
    }

    #[test]
    fn demoting_touches_failures_only() {
        assert_eq!(ResponseClass::RETRYABLE.non_retryable(), ResponseClass::NON_RETRYABLE);
        assert_eq!(ResponseClass::NON_RETRYABLE.non_retryable(), ResponseClass::NON_RETRYABLE);
        assert_eq!(ResponseClass::Success.non_retryable(), ResponseClass::Success);
        assert!(!ResponseClass::NON_RETRYABLE.is_retryable() && !ResponseClass::NON_RETRYABLE.is_success());
    }

    #[test]
    fn a_verdict_keeps_what_a_class_cannot_say() {
        let refused = |(): &(), _: Result<&u32, &String>| {
            Verdict::failure(Safety::of(Sent::Refused, false)).push_back(Pushback::Never)
        };
        let shared: Arc<dyn Classifier<(), u32, String>> = Arc::new(refused);
        let verdict = shared.verdict(&(), Ok(&1));
        assert_eq!((verdict.safety(), verdict.pushback()), (Safety::Refused, Some(Pushback::Never)));
        assert_eq!(shared.classify(&(), Ok(&1)), ResponseClass::RETRYABLE);
    }

    #[test]
    fn a_class_becomes_the_verdict_that_means_it() {
        for class in [ResponseClass::Success, ResponseClass::RETRYABLE, ResponseClass::NON_RETRYABLE] {
            let verdict = Verdict::from(class);
            assert_eq!(verdict.class(), class);
            assert_eq!(verdict.not_before(), Some(Duration::ZERO));
        }
        assert_eq!(Verdict::from(ResponseClass::RETRYABLE).safety(), Safety::Idempotent);
        assert_eq!(Verdict::from(ResponseClass::NON_RETRYABLE).safety(), Safety::Unsafe);
    }

    #[test]
    fn only_what_may_help_and_does_no_harm_is_retryable() {
        let order = [Safety::NeverSent, Safety::Refused, Safety::Idempotent, Safety::Unsafe];
        assert_eq!(order.map(|safety| Verdict::failure(safety).class().is_retryable()), [true, true, true, false]);
        assert_eq!(order.map(|safety| Verdict::lasting(safety).class().is_retryable()), [false; 4]);
    }

    #[test]
    fn push_back_is_capped() {
        let wait = |secs| Verdict::SUCCESS.push_back(Pushback::After(Duration::from_secs(secs))).not_before();
        assert_eq!(wait(299), Some(Duration::from_secs(299)));
        assert_eq!(wait(301), Some(MAX_PUSHBACK));
        assert_eq!(Verdict::SUCCESS.push_back(Pushback::Never).not_before(), None);
    }
}

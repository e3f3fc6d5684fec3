//! What an outcome means: whether it failed, and whether it may be tried again.

use std::sync::Arc;

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

/// Tells successes from failures, and failures that may be tried again from those that may not.
///
/// Any `Fn(&Req, Result<&Rsp, &E>) -> ResponseClass` is one; write the types of a closure's arguments out, or the
/// compiler takes it for one lifetime only. It runs once per attempt, on the request's task, so it should neither
/// block nor lock.
pub trait Classifier<Req: ?Sized, Rsp, E>: Send + Sync + 'static {
    /// Classifies what came of `req`.
    fn classify(&self, req: &Req, rsp: Result<&Rsp, &E>) -> ResponseClass;
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

impl<F, Req, Rsp, E> Classifier<Req, Rsp, E> for F
where
    F: Fn(&Req, Result<&Rsp, &E>) -> ResponseClass + Send + Sync + 'static,
    Req: ?Sized,
{
    fn classify(&self, req: &Req, rsp: Result<&Rsp, &E>) -> ResponseClass {
        self(req, rsp)
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! What can be seen of a world.

use linkerd_balance::Status;

use crate::model::{Key, Nanos};

/// How a request ended, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    TimedOut,
    Cancelled,
    /// There was no endpoint to send it to.
    Nowhere,
    /// Too few endpoints were open.
    Refused,
}

/// A pick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked {
    pub(crate) now: Nanos,
    pub(crate) key: Key,
    pub(crate) status: Status,
    /// The best status that any endpoint of the set had.
    pub(crate) best: Status,
}

/// The end of a request for its caller: the head of the answer, or that none will come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) now: Nanos,
    pub(crate) begun: Nanos,
    pub(crate) outcome: Outcome,
}

/// Is told what happens.
pub(crate) trait Watch {
    fn picked(&mut self, picked: Picked) {
        let _ = picked;
    }

    fn ended(&mut self, ended: Ended) {
        let _ = ended;
    }
}

impl Watch for () {}

/// Tells two.
impl<A: Watch, B: Watch> Watch for (A, B) {
    fn picked(&mut self, picked: Picked) {
        self.0.picked(picked);
        self.1.picked(picked);
    }

    fn ended(&mut self, ended: Ended) {
        self.0.ended(ended);
        self.1.ended(ended);
    }
}

impl<W: Watch> Watch for &mut W {
    fn picked(&mut self, picked: Picked) {
        (**self).picked(picked);
    }

    fn ended(&mut self, ended: Ended) {
        (**self).ended(ended);
    }
}

//! How far a failed request had got, and whether another attempt can do harm.

/// How far a request had got when it failed, from the least to the most.
///
/// ```
/// use linkerd_retry::Sent;
///
/// assert!(Sent::Never < Sent::Refused && Sent::Refused < Sent::Possibly);
/// // A connection broke, and nobody knows what the peer made of the 12 bytes that it got.
/// assert!(Sent::of_bytes_written(12).may_have_been_processed());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sent {
    /// No byte of it was written. Proven, not likely: a connection that was refused, a request that a pool gave back.
    Never,
    /// It was written, and the peer says that it has not processed it and will not: a stream refused or above the last
    /// one of a GOAWAY, a NACK.
    Refused,
    /// The peer may have processed some or all of it. What is not known to be anything else is this.
    Possibly,
}

/// Whether sending a failed request again can do harm, from the least to the most.
///
/// The first two are true of an attempt, and good for every request; the last two are true of a request, once it may
/// have been processed.
///
/// | safety | what happened | may be tried again |
/// |---|---|---|
/// | [`NeverSent`](Self::NeverSent) | no byte was written | every request |
/// | [`Refused`](Self::Refused) | the peer says that it did nothing | every request |
/// | [`Idempotent`](Self::Idempotent) | it may have been processed, and twice is as good as once | this request |
/// | [`Unsafe`](Self::Unsafe) | it may have been processed, and twice is not as good as once | never |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Safety {
    /// See [`Sent::Never`].
    NeverSent,
    /// See [`Sent::Refused`].
    Refused,
    /// It may have been processed, but that it is processed twice is no harm.
    Idempotent,
    /// It may have been processed, and must not be twice.
    Unsafe,
}

/// An error that knows how far its request had got.
///
/// Its use is to whoever sees the error last: an application that would like to try once more can tell whether it may.
/// Between [`Unsent`](crate::requeue::Unsent), which hands the request back, and this there is one rule: what is unsent
/// wrote no bytes.
///
/// The errors of this crate know it: what a limit [rejected](crate::limit::Rejected) was never sent, what its deadline
/// [ended](crate::Expired) says how far it was, and what ran into a [timeout](crate::timeout::Elapsed) may have been
/// processed.
///
/// ```
/// use linkerd_retry::{Delivery, Sent, limit::{ConcurrencyLimit, Criticality, WhenFull}};
/// use std::num::NonZeroUsize;
///
/// let limit = ConcurrencyLimit::fixed("mails", NonZeroUsize::MIN, WhenFull::Reject);
/// let _permit = limit.try_acquire(Criticality::Critical)?;
/// let shed = limit.try_acquire(Criticality::Critical).unwrap_err();
/// assert_eq!((shed.sent(), shed.may_have_been_processed()), (Sent::Never, false));
/// # Ok::<_, linkerd_retry::limit::Rejected>(())
/// ```
pub trait Delivery {
    /// How many bytes of the request were written, head and body, before what the transport adds. `None` if that is not
    /// known, as it is not once a request shares its connection.
    fn bytes_written(&self) -> Option<u64>;

    /// How far the request had got. By default, [what the bytes say](Sent::of_bytes_written), and
    /// [`Possibly`](Sent::Possibly) where they are not known.
    fn sent(&self) -> Sent {
        self.bytes_written().map_or(Sent::Possibly, Sent::of_bytes_written)
    }

    /// Whether the peer may have processed some of the request. If so, only an idempotent one may be sent again.
    fn may_have_been_processed(&self) -> bool {
        self.sent().may_have_been_processed()
    }
}

impl Sent {
    /// What the number of bytes that were written says by itself: one byte may have been enough.
    #[must_use]
    pub const fn of_bytes_written(bytes: u64) -> Self {
        if bytes == 0 { Self::Never } else { Self::Possibly }
    }

    /// Whether the peer may have processed some of the request.
    #[must_use]
    pub const fn may_have_been_processed(self) -> bool {
        matches!(self, Self::Possibly)
    }
}

impl Safety {
    /// The safety of a request that had got so far, and of which twice is as good as once, or is not.
    #[must_use]
    pub const fn of(sent: Sent, idempotent: bool) -> Self {
        match (sent, idempotent) {
            (Sent::Never, _) => Self::NeverSent,
            (Sent::Refused, _) => Self::Refused,
            (Sent::Possibly, true) => Self::Idempotent,
            (Sent::Possibly, false) => Self::Unsafe,
        }
    }

    /// How far the request had got.
    #[must_use]
    pub const fn sent(self) -> Sent {
        match self {
            Self::NeverSent => Sent::Never,
            Self::Refused => Sent::Refused,
            Self::Idempotent | Self::Unsafe => Sent::Possibly,
        }
    }

    /// Whether the request may be sent again at all.
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        !matches!(self, Self::Unsafe)
    }

    /// Whether any request may be sent again after this, whatever it asks for.
    #[must_use]
    pub const fn is_repeatable_for_all(self) -> bool {
        matches!(self, Self::NeverSent | Self::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(Option<u64>);

    impl Delivery for Broken {
        fn bytes_written(&self) -> Option<u64> {
            self.0
        }
    }

    #[test]
    fn the_lattice_is_in_order_and_only_its_first_two_are_for_all() {
        let order = [Safety::NeverSent, Safety::Refused, Safety::Idempotent, Safety::Unsafe];
        assert!(order.is_sorted());
        assert_eq!(order.map(Safety::is_repeatable_for_all), [true, true, false, false]);
        assert_eq!(order.map(Safety::is_repeatable), [true, true, true, false]);
    }

    #[test]
    fn what_got_further_is_never_safer() {
        let sent = [Sent::Never, Sent::Refused, Sent::Possibly];
        assert!(sent.is_sorted());
        for idempotent in [true, false] {
            let safety = sent.map(|sent| Safety::of(sent, idempotent));
            assert!(safety.is_sorted());
            for (sent, safety) in sent.into_iter().zip(safety) {
                assert_eq!(safety.is_repeatable_for_all(), !sent.may_have_been_processed());
                assert!(Safety::of(sent, true) <= safety);
                assert_eq!(safety.sent(), sent);
            }
        }
    }

    #[test]
    fn one_byte_may_have_been_enough_and_the_unknown_is_the_worst() {
        assert_eq!((Broken(Some(0)).sent(), Broken(Some(0)).may_have_been_processed()), (Sent::Never, false));
        assert_eq!((Broken(Some(1)).sent(), Broken(Some(1)).may_have_been_processed()), (Sent::Possibly, true));
        assert_eq!((Broken(None).sent(), Broken(None).may_have_been_processed()), (Sent::Possibly, true));
    }
}

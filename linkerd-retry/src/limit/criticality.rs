//! How much a request matters, and how much of a limit it may use.

use std::{fmt, str::FromStr};

/// How much a request matters when not all can be served. The order is theirs: what is less is shed first.
///
/// The four classes, and what they stand for, are those of "Handling Overload" in Google's *Site Reliability Engineering*
/// (2016). As a number, 0 is the class that is shed first and 3 the one that is shed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criticality {
    /// May be missing now and then, even for good.
    Sheddable,
    /// May be missing for a while: it will be tried again later.
    SheddablePlus,
    /// Somebody notices if it is missing. What a request is when nothing else is known.
    #[default]
    Critical,
    /// The last to go.
    CriticalPlus,
}

/// No class has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no criticality is called {0:?}: sheddable, sheddable_plus, critical, critical_plus or 0 to 3")]
pub struct UnknownCriticality(pub String);

/// Up to which part of a limit each class may use it, in percent.
///
/// A request of a class is let in while less than the class's part is in use, *by whatever class*. What is above a
/// class's part is kept free for the classes above it; no more than that is reserved, so a class alone may use its whole
/// part. A part is rounded down, but is never less than one.
///
/// # Defaults
///
/// 80, 88, 97 and 100. Where a limit is used up, the number in use stays at about the part of the class that overloads it.
/// Classes above that one find a tenth of the limit or so to spare, and as it is free again within a tenth of a request's
/// time, that is enough for them to be let in without a wait as long as they are not the overload themselves
/// (`tests/limit_overload.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares([u8; 4]);

/// Shares that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shares of a limit must be from 1 to 100 percent and not fall from one class to the next, unlike {0:?}")]
pub struct InvalidShares(pub [u8; 4]);

impl Criticality {
    /// All of them, from the one that is shed first.
    pub const ALL: [Self; 4] = [Self::Sheddable, Self::SheddablePlus, Self::Critical, Self::CriticalPlus];

    /// Its name, as it is parsed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::SheddablePlus => "sheddable_plus",
            Self::Critical => "critical",
            Self::CriticalPlus => "critical_plus",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Criticality {
    type Err = UnknownCriticality;

    /// Takes a name, whatever its case and with `-` for `_` if need be, or a number from 0 to 3.
    fn from_str(s: &str) -> Result<Self, UnknownCriticality> {
        let name = s.trim().to_ascii_lowercase().replace('-', "_");
        let named = |class: &Self| class.as_str() == name || class.index().to_string() == name;
        Self::ALL.into_iter().find(named).ok_or_else(|| UnknownCriticality(s.to_owned()))
    }
}

impl Shares {
    /// The whole limit for every class: which of them is let in is then for the queue to say, if there is one.
    pub const WHOLE: Self = Self([100; 4]);

    /// Shares in percent, in the order of [`Criticality::ALL`].
    ///
    /// # Errors
    ///
    /// If one is 0 or above 100, or a class has a smaller share than the one below it.
    pub fn new(percent: [u8; 4]) -> Result<Self, InvalidShares> {
        let valid = percent.is_sorted() && percent.iter().all(|share| (1..=100).contains(share));
        if valid { Ok(Self(percent)) } else { Err(InvalidShares(percent)) }
    }

    /// The part of `whole` that `class` may use: at least one, unless `whole` is zero.
    pub fn of(&self, whole: u128, class: Criticality) -> u128 {
        let share = u128::from(self.0[class.index()]);
        // Divided first, so that no number is too large to take a share of.
        let part = whole / 100 * share + whole % 100 * share / 100;
        part.max(whole.min(1))
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self([80, 88, 97, 100])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_names_numbers_and_an_order() {
        for (number, class) in Criticality::ALL.into_iter().enumerate() {
            assert_eq!(class.to_string().parse(), Ok(class));
            assert_eq!(number.to_string().parse(), Ok(class));
        }
        assert_eq!(" CRITICAL-PLUS ".parse(), Ok(Criticality::CriticalPlus));
        assert_eq!("4".parse::<Criticality>(), Err(UnknownCriticality("4".to_owned())));
        assert!(Criticality::ALL.is_sorted());
        assert_eq!(Criticality::default(), Criticality::Critical);
    }

    #[test]
    fn shares_are_exact_and_never_nothing() {
        let of = |whole| Criticality::ALL.map(|class| Shares::default().of(whole, class));
        assert_eq!(of(0), [0, 0, 0, 0]);
        assert_eq!(of(1), [1, 1, 1, 1]);
        assert_eq!(of(4), [3, 3, 3, 4]);
        assert_eq!(of(100), [80, 88, 97, 100]);
        assert_eq!(of(250), [200, 220, 242, 250]);
        assert_eq!(of(u128::MAX)[3], u128::MAX);
        assert_eq!(Shares::WHOLE.of(7, Criticality::Sheddable), 7);
    }

    #[test]
    fn shares_that_fall_or_are_out_of_range_are_refused() {
        for wrong in [[0, 90, 95, 100], [80, 90, 95, 101], [90, 80, 95, 100]] {
            assert_eq!(Shares::new(wrong), Err(InvalidShares(wrong)));
        }
        assert!(Shares::new([1, 1, 100, 100]).is_ok());
    }
}

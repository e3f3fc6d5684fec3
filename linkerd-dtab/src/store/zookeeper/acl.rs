//! Who a session is for, and who may do what to a node.

use std::{fmt, str::FromStr};

/// Who a session is for: the scheme `digest` with `user:password`, for instance.
#[derive(Clone)]
pub struct Auth {
    /// How it is authenticated.
    pub scheme: String,
    /// By what.
    pub auth: Vec<u8>,
}

/// Who may do what to the nodes that are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// How those who may are known: `world`, `digest`, `ip`, `auth`.
    pub scheme: String,
    /// Who they are: `anyone`, for the scheme `world`.
    pub id: String,
    /// What they may.
    pub perms: Perms,
}

/// What may be done to a node: some of the letters `crwda`, for create, read, write, delete and administer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perms(u8);

/// Why a text is no permissions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid permissions '{0}': they must be some of the letters c, r, w, d and a")]
pub struct BadPerms(String);

impl Perms {
    /// All of them: `crwda`.
    pub const ALL: Self = Self(0b1_1111);

    pub(super) fn bits(self) -> i32 {
        self.0.into()
    }
}

impl FromStr for Perms {
    type Err = BadPerms;

    fn from_str(text: &str) -> Result<Self, BadPerms> {
        let bad = || BadPerms(text.chars().take(80).flat_map(char::escape_debug).collect());
        let bits = text.chars().try_fold(0, |bits, letter| {
            let place = "rwcda".find(letter)?;
            Some(bits | 1 << place)
        });
        bits.filter(|bits| *bits > 0).map(Self).ok_or_else(bad)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_letters() {
        for (text, bits) in [("r", 1), ("w", 2), ("c", 4), ("d", 8), ("a", 16), ("crwda", 31), ("rr", 1)] {
            assert_eq!(text.parse::<Perms>().unwrap().bits(), bits, "{text}");
        }
        for bad in ["", "x", "R", "r w", "é"] {
            assert!(bad.parse::<Perms>().is_err(), "{bad}");
        }
    }
}

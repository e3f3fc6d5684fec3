//! Who may read, write and administer which namespaces.

use std::{fmt, sync::Arc};

use super::{Pattern, Peer};
use crate::store::Namespace;

/// What a peer may do with a namespace. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// See its table and history, and bind names under it.
    Read,
    /// Change and delete it, and roll it back.
    Write,
    /// Change what is protected, too.
    Admin,
}

/// Who may do what.
///
/// # Defaults
///
/// Without any grant everybody may do everything, as in Linkerd; with one, only what is granted is allowed.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    grants: Vec<Grant>,
}

/// One rule: somebody has a role in some namespaces.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who.
    pub who: Who,
    /// Where.
    pub namespaces: Pattern,
    /// What they may do there.
    pub role: Role,
}

/// Whom a [`Grant`] is for.
#[derive(Clone)]
pub enum Who {
    /// Everybody, also those of whom nothing is known.
    Anyone,
    /// Whose certificate was verified for this name. `*.team.example` is each name that ends so.
    Name(Arc<str>),
    /// Who shows this bearer token.
    Token {
        /// What it is called in histories and refusals.
        label: Arc<str>,
        /// The token. Never shown.
        secret: Arc<str>,
    },
}

impl Role {
    /// What a peer without it may not do: `read`, `write` or `administer`.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "administer",
        }
    }
}

impl Roles {
    /// Only what these grant.
    #[must_use]
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        Self { grants: grants.into_iter().collect() }
    }

    /// Whether everybody may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.grants.is_empty()
    }

    /// The highest role of `peer` in `namespace`.
    #[must_use]
    pub fn of(&self, peer: &Peer, namespace: &Namespace) -> Option<Role> {
        if self.is_open() {
            return Some(Role::Admin);
        }
        let grants = self.grants.iter().filter(|grant| grant.namespaces.matches(namespace) && grant.who.is(peer));
        grants.map(|grant| grant.role).chain(peer.is_operator.then_some(Role::Read)).max()
    }

    /// Whether `peer` has a role in any namespace.
    #[must_use]
    pub fn knows(&self, peer: &Peer) -> bool {
        self.is_open() || peer.is_operator || self.grants.iter().any(|grant| grant.who.is(peer))
    }

    /// Whether `peer` may read every namespace.
    #[must_use]
    pub fn reads_all(&self, peer: &Peer) -> bool {
        let reads_all = |grant: &Grant| grant.namespaces.is_all() && grant.who.is(peer);
        self.is_open() || peer.is_operator || self.grants.iter().any(reads_all)
    }

    /// Whether `peer` may read each namespace that a pattern may have.
    pub(super) fn reads(&self, peer: &Peer, namespaces: &Pattern) -> bool {
        let covers = |grant: &Grant| grant.namespaces.covers(namespaces) && grant.who.is(peer);
        self.reads_all(peer) || self.grants.iter().any(covers)
    }

    /// What the token of `peer` is called, if it is one that something is granted to.
    #[must_use]
    pub fn label(&self, peer: &Peer) -> Option<&Arc<str>> {
        self.grants.iter().find_map(|grant| match &grant.who {
            Who::Token { label, .. } if grant.who.is(peer) => Some(label),
            _ => None,
        })
    }
}

impl Who {
    fn is(&self, peer: &Peer) -> bool {
        match self {
            Self::Anyone => true,
            Self::Name(expected) => peer.name.as_deref().is_some_and(|name| is_name(expected, name)),
            Self::Token { secret, .. } => {
                peer.token.as_deref().is_some_and(|token| is_same(secret.as_bytes(), token.as_bytes()))
            }
        }
    }
}

fn is_name(expected: &str, name: &str) -> bool {
    match expected.strip_prefix('*') {
        Some(end) => name.len() > end.len() && name.ends_with(end),
        None => expected == name,
    }
}

/// Compares all bytes, wherever the first difference is, so that the time tells no more than the length. An empty
/// secret is nobody's.
fn is_same(secret: &[u8], token: &[u8]) -> bool {
    let difference = secret.iter().zip(token).fold(0, |difference, (a, b)| difference | (a ^ b));
    !secret.is_empty() && secret.len() == token.len() && std::hint::black_box(difference) == 0
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("Anyone"),
            Self::Name(name) => f.debug_tuple("Name").field(name).finish(),
            Self::Token { label, .. } => f.debug_tuple("Token").field(label).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(who: Who, namespaces: &str, role: Role) -> Grant {
        Grant { who, namespaces: namespaces.parse().unwrap(), role }
    }

    fn roles() -> Roles {
        let token = Who::Token { label: "deploy".into(), secret: "s3cret".into() };
        Roles::new([
            grant(Who::Anyone, "public", Role::Read),
            grant(Who::Name("web.example".into()), "team/web", Role::Write),
            grant(Who::Name("*.ops.example".into()), "*", Role::Admin),
            grant(token.clone(), "team/*", Role::Read),
            grant(token, "team/db", Role::Write),
        ])
    }

    fn named(name: &str) -> Peer {
        Peer { name: Some(name.into()), ..Peer::default() }
    }

    fn with_token(token: &str) -> Peer {
        Peer { token: Some(token.into()), ..Peer::default() }
    }

    #[test]
    fn each_peer_has_the_highest_role_that_is_granted_to_it() {
        use Role::{Admin, Read, Write};
        let nobody = Peer::default();
        let operator = Peer { is_operator: true, ..Peer::default() };
        let cases = [
            (nobody.clone(), [Some(Read), None, None, None]),
            (operator, [Some(Read); 4]),
            (named("web.example"), [Some(Read), Some(Write), None, None]),
            (named("xweb.example"), [Some(Read), None, None, None]),
            (named("a.ops.example"), [Some(Admin); 4]),
            (named(".ops.example"), [Some(Read), None, None, None]),
            (with_token("s3cret"), [Some(Read), Some(Read), Some(Write), None]),
            (with_token("s3cre"), [Some(Read), None, None, None]),
            (with_token("s3creT"), [Some(Read), None, None, None]),
            (with_token(""), [Some(Read), None, None, None]),
        ];
        let namespaces = ["public", "team/web", "team/db", "prod"].map(|name| name.parse().unwrap());
        for (peer, expected) in cases {
            let found = namespaces.each_ref().map(|namespace| roles().of(&peer, namespace));
            assert_eq!(found, expected, "{peer:?}");
        }
        assert!(Roles::default().of(&nobody, &namespaces[3]) == Some(Admin), "nothing is configured");
    }

    #[test]
    fn a_token_has_a_name_and_is_not_shown() {
        assert_eq!(roles().label(&with_token("s3cret")).map(|label| &**label), Some("deploy"));
        assert_eq!(roles().label(&with_token("other")), None);
        assert!(!format!("{:?} {:?}", roles(), with_token("s3cret")).contains("s3cret"));
        let empty = Roles::new([grant(Who::Token { label: "x".into(), secret: "".into() }, "*", Role::Admin)]);
        assert!(!empty.knows(&with_token("")));
    }
}

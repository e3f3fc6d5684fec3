//! Which endpoint a path is.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// An endpoint, with the rest of its path: the name of a namespace, not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Namespaces,
    Dtab(Cow<'a, str>),
    Bind(Cow<'a, str>),
    /// Addresses are the same in each namespace; it is where the caller has to be allowed to read.
    Addr(Cow<'a, str>),
    Resolve(Cow<'a, str>),
    Delegate(Cow<'a, str>),
    DelegateAny,
    BoundNames,
    /// What is there beside the endpoints of namerd 1.7.5.
    Change(Change, Cow<'a, str>),
    Unknown,
}

/// What is asked about the changes of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    History,
    Diff,
    Rollback,
    Plan,
    Check,
}

impl<'a> Route<'a> {
    pub(super) fn of(path: &'a str) -> Self {
        let Some(path) = path.strip_prefix("/api/1/") else { return Self::Unknown };
        let Some((endpoint, rest)) = path.split_once('/') else {
            return match path {
                "dtabs" => Self::Namespaces,
                "delegate" => Self::DelegateAny,
                "bound-names" => Self::BoundNames,
                _ => Self::Unknown,
            };
        };
        // Bytes that are no text name no namespace either.
        let namespace = percent_decode_str(rest).decode_utf8_lossy();
        match endpoint {
            "dtabs" if rest.is_empty() => Self::Namespaces,
            "dtabs" => Self::Dtab(namespace),
            "bind" => Self::Bind(namespace),
            "addr" => Self::Addr(namespace),
            "resolve" => Self::Resolve(namespace),
            "delegate" if rest.is_empty() => Self::DelegateAny,
            "delegate" => Self::Delegate(namespace),
            "history" => Self::Change(Change::History, namespace),
            "diff" => Self::Change(Change::Diff, namespace),
            "rollback" => Self::Change(Change::Rollback, namespace),
            "plan" => Self::Change(Change::Plan, namespace),
            "check" => Self::Change(Change::Check, namespace),
            _ => Self::Unknown,
        }
    }
}

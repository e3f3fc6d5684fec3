//! What a namespace is protected from.

use super::{Pattern, Role, WriteError};
use crate::store::{Expect, Namespace};

/// Guards the namespaces that match a pattern against changes made by mistake.
///
/// A namespace that several patterns match is guarded by all of them.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // Four guards that do not depend on each other.
pub struct Protection {
    /// Which.
    pub namespaces: Pattern,
    /// Only who has [`Role::Admin`] may change them.
    pub admin_only: bool,
    /// They may not be deleted.
    pub no_delete: bool,
    /// A change has to say which version it is based on (`If-Match`), or that there is no such namespace.
    pub needs_version: bool,
    /// Tables in which names go round or lead to a namer that is not configured are refused; elsewhere they are written,
    /// as in Linkerd, and the answer warns.
    pub strict: bool,
}

/// All that guards one namespace.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // As above.
pub(super) struct Guards {
    admin_only: bool,
    no_delete: bool,
    needs_version: bool,
    pub(super) strict: bool,
}

impl Protection {
    /// No protection of these namespaces yet.
    #[must_use]
    pub fn new(namespaces: Pattern) -> Self {
        Self { namespaces, admin_only: false, no_delete: false, needs_version: false, strict: false }
    }
}

impl Guards {
    pub(super) fn of(protections: &[Protection], namespace: &Namespace) -> Self {
        let matching = protections.iter().filter(|protection| protection.namespaces.matches(namespace));
        matching.fold(Self::default(), |guards, protection| Self {
            admin_only: guards.admin_only | protection.admin_only,
            no_delete: guards.no_delete | protection.no_delete,
            needs_version: guards.needs_version | protection.needs_version,
            strict: guards.strict | protection.strict,
        })
    }

    /// The role that a change needs.
    pub(super) fn role(self) -> Role {
        if self.admin_only { Role::Admin } else { Role::Write }
    }

    /// Refuses a change by what it is; `deletes` instead of writing.
    pub(super) fn allow(self, namespace: &Namespace, expect: &Expect, deletes: bool) -> Result<(), WriteError> {
        if deletes && self.no_delete {
            return Err(WriteError::Rejected(format!("namespace {namespace} is protected: it may not be deleted")));
        }
        if self.needs_version && *expect == Expect::Any {
            let needs = if deletes {
                "a deletion has to say which version it deletes (If-Match, in a DELETE together with Prefer: handling=strict)"
            } else {
                "a change has to say which version it is based on (If-Match)"
            };
            return Err(WriteError::NeedsVersion(format!("namespace {namespace} is protected: {needs}")));
        }
        Ok(())
    }
}

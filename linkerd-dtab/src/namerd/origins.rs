//! From which fragments the entries of a composed table are, and what is said of those.

use std::{mem::discriminant, ops::Range};

use super::{
    check::{Checks, Fault, Found, Issue, find},
    writes::{Fragment, whole},
};
use crate::{Dentry, Dtab, parse::Place, store::Namespace};

/// The table of a composition, and the place in it that each of its fragments has.
pub(super) struct Whole {
    pub(super) dtab: Dtab,
    places: Vec<(Namespace, Range<usize>)>,
}

/// A fault, and the entries that make it with the fragments that they are from: the same wherever in a whole these are.
#[derive(PartialEq)]
pub(super) struct Identity(Option<Fault>, Vec<(Namespace, Dentry)>);

impl Whole {
    pub(super) fn of(fragments: &[Fragment]) -> Self {
        let mut end = 0;
        let place = |(_, name, table): &Fragment| {
            let begin = end;
            end += table.as_ref().map_or(0, |table| table.dtab.len());
            (name.clone(), begin..end)
        };
        Self { dtab: whole(fragments), places: fragments.iter().map(place).collect() }
    }

    /// What is wrong with it.
    pub(super) fn faults(&self, checks: &Checks) -> Vec<Identity> {
        find(&self.dtab, checks).iter().map(|found| self.identity(found)).collect()
    }

    pub(super) fn identity(&self, found: &Found) -> Identity {
        let whose = |entry: &usize| {
            let (fragment, _) = self.find(*entry)?;
            Some((fragment.clone(), self.dtab.entries()[entry - 1].clone()))
        };
        match &found.issue.fault {
            // The number of an entry changes with those before it.
            Fault::Shadowed(by) => Identity(None, found.by.iter().chain([by]).filter_map(whose).collect()),
            Fault::TooLarge => Identity(Some(Fault::TooLarge), Vec::new()),
            fault => Identity(Some(fault.clone()), found.by.iter().filter_map(whose).collect()),
        }
    }

    /// The fragment that an entry of the whole is from, and which one of that it is, both counted from 1.
    fn find(&self, entry: usize) -> Option<(&Namespace, usize)> {
        let index = entry.checked_sub(1)?;
        let (name, place) = self.places.iter().find(|(_, place)| place.contains(&index))?;
        Some((name, index - place.start + 1))
    }

    /// Which entry of `namespace` that is, if it is one.
    fn find_own(&self, entry: usize, namespace: &Namespace) -> Option<usize> {
        let (fragment, own) = self.find(entry)?;
        (fragment == namespace).then_some(own)
    }

    /// The entry of `namespace` that a fault came with: in the whole, and which one of its own it is. It is one of those that
    /// make the fault, or else the last one that leads there.
    fn own(&self, found: &Found, namespace: &Namespace) -> Option<(usize, usize)> {
        let mut entries = found.by.iter().chain(found.via.iter().rev());
        entries.find_map(|&entry| Some((entry, self.find_own(entry, namespace)?)))
    }

    /// What is said of it to who may read the whole, when the table of `namespace` is changed. `place` says where an entry of
    /// that is in its text.
    pub(super) fn describe(
        &self,
        found: &Found,
        namespace: &Namespace,
        place: impl Fn(usize) -> Option<Place>,
        may_read: impl Fn(&Namespace) -> bool,
    ) -> String {
        let name = |entry: usize| match self.find(entry) {
            Some((fragment, entry)) if may_read(fragment) => format!("entry {entry} of {fragment}"),
            _ => format!("entry {entry} of the whole"),
        };
        let Issue { entry, fault } = found.issue.clone();
        let (entry, place) = match self.own(found, namespace) {
            Some((entry, own)) => (entry, place(own)),
            None => (entry, None),
        };
        Issue { entry, fault }.describe_as(&self.dtab, place, name)
    }

    /// What is said to who may not: nothing but what `dtab`, the table of `namespace`, has. Of that alone something may be wrong, too.
    pub(super) fn describe_alone(
        &self,
        found: &Found,
        namespace: &Namespace,
        dtab: &Dtab,
        alone: &[Found],
        place: impl Fn(usize) -> Option<Place>,
    ) -> Option<String> {
        let (_, entry) = self.own(found, namespace)?;
        let by: Option<Vec<_>> = found.by.iter().map(|&entry| self.find_own(entry, namespace)).collect();
        let fault = &found.issue.fault;
        let is_same =
            |alone: &&Found| Some(&alone.by) == by.as_ref() && discriminant(&alone.issue.fault) == discriminant(fault);
        let mut same = alone.iter().filter(is_same);
        // Names that lead there from what others have are not told.
        let told = same.clone().find(|alone| alone.issue.fault == *fault).or_else(|| same.next());
        Some(match told {
            Some(Found { issue, .. }) => issue.describe(dtab, place(issue.entry)),
            None => Issue { entry, fault: fault.clone() }.describe_alone(dtab, place(entry)),
        })
    }
}

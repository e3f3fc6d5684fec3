//! Changes of tables: allowed, checked, made, and recorded.

use std::{
    error::Error,
    io, iter,
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    Composition, Namerd, Role, Session, WriteError,
    check::{Checks, Found, find},
    compose::composed,
    history::Entry,
    origins::Whole,
    protect::Guards,
};
use crate::{
    Dtab, Failure,
    store::{Expect, Namespace, StoreError, Stored, Version, VersionedDtab},
};

/// How long the tables of other fragments are waited for, which a change of one has to fit.
const FRAGMENTS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the table that is about to change is waited for, to be recorded.
const CURRENT_TIMEOUT: Duration = Duration::from_secs(2);

/// A table that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Its version.
    pub version: Version,
    /// Which change of its namespace it is in the [history](Session::history).
    pub seq: u64,
    /// What is odd about it.
    pub warnings: Vec<String>,
}

/// What a table would be answered with if it were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Why it would be refused.
    pub errors: Vec<String>,
    /// What is odd about it.
    pub warnings: Vec<String>,
}

/// A change that the peer may make.
pub(super) struct Change {
    // Whose it is, who is told no more than it may read.
    session: Session,
    namespace: Namespace,
    dtab: Option<Dtab>,
    expect: Expect,
    entry: Entry,
    // A state that was there before is not refused for what it has.
    restores: bool,
}

impl Session {
    /// Writes the table of a namespace; when this is answered, [`dtab`](Self::dtab) shows it or something newer, and names
    /// are explained by that. So do the namespaces that it is a fragment of, which are waited for for up to two seconds;
    /// then there is a warning for each that does not show it yet.
    ///
    /// # Cancel safety
    ///
    /// A change that has begun is made and recorded also when the future is dropped.
    pub async fn put(&self, namespace: &Namespace, dtab: &Dtab, expect: &Expect) -> Result<Written, WriteError> {
        self.change(namespace, Some(dtab.clone()), expect, None).await
    }

    /// Deletes a namespace. Its history remains, and [`rollback`](Self::rollback) brings it back.
    ///
    /// # Cancel safety
    ///
    /// That of [`put`](Self::put).
    pub async fn delete(&self, namespace: &Namespace, expect: &Expect) -> Result<Written, WriteError> {
        self.change(namespace, None, expect, None).await
    }

    /// What [`put`](Self::put) would say about a table, without writing it. Who may only read it is warned that it may not
    /// write it: a table may be checked by one and written by another.
    pub async fn check(&self, namespace: &Namespace, dtab: &Dtab) -> Result<Checked, WriteError> {
        let mut checked = self.check_table(namespace, dtab).await?;
        if let Err(refused) = self.may(namespace, self.namerd.guards(namespace).role()) {
            checked.warnings.insert(0, refused.to_string());
        }
        Ok(checked)
    }

    /// The same whoever would write it.
    pub(super) async fn check_table(&self, namespace: &Namespace, dtab: &Dtab) -> Result<Checked, WriteError> {
        self.may(namespace, Role::Read)?;
        let mut checked = self.namerd.checked(self, namespace, dtab, false).await?;
        checked.errors.splice(0..0, self.is_made_of(namespace));
        Ok(checked)
    }

    /// Why a namespace that is composed is not changed itself.
    fn is_made_of(&self, namespace: &Namespace) -> Option<String> {
        let composition = self.namerd.composition(namespace)?;
        Some(format!("{}: change one of those", composition.made_of(self)))
    }

    /// Refuses a change for what is known of it without its table; `deletes` instead of writing.
    pub(super) fn may_change(&self, namespace: &Namespace, expect: &Expect, deletes: bool) -> Result<(), WriteError> {
        let guards = self.namerd.guards(namespace);
        self.may(namespace, guards.role())?;
        guards.allow(namespace, expect, deletes)?;
        self.is_made_of(namespace).map_or(Ok(()), |text| Err(WriteError::Rejected(text)))
    }

    /// Whether this peer has the role that a change of a namespace needs.
    pub(super) fn may_write(&self, namespace: &Namespace) -> bool {
        self.may(namespace, self.namerd.guards(namespace).role()).is_ok()
    }

    /// Makes a change; `restores` says which record it goes back to.
    pub(super) async fn change(
        &self,
        namespace: &Namespace,
        dtab: Option<Dtab>,
        expect: &Expect,
        restores: Option<u64>,
    ) -> Result<Written, WriteError> {
        self.may_change(namespace, expect, dtab.is_none())?;
        let mut why = self.why.as_deref().map(ToOwned::to_owned);
        if let Some(seq) = restores {
            let back = format!("back to {seq}");
            why = Some(why.map_or(back.clone(), |why| format!("{back}: {why}")));
        }
        let entry = Entry { who: self.who(), why, table: None };
        let (namespace, expect, restores) = (namespace.clone(), expect.clone(), restores.is_some());
        let session = self.clone();
        let change = Change { session: self.clone(), namespace, dtab, expect, entry, restores };
        // In a task of its own: whoever asked may go, and what is made has to be recorded.
        let made = tokio::spawn(async move { session.make(change).await }).await;
        made.unwrap_or_else(|error| Err(StoreError::Unavailable(Arc::new(error)).into()))
    }

    /// Makes a change, and says what names in use lose by it.
    async fn make(&self, change: Change) -> Result<Written, WriteError> {
        // Where there is no table names are bound as by one without entries.
        let none = Dtab::empty();
        let outlook = self.outlook(&change.namespace, change.dtab.as_ref().unwrap_or(&none)).await;
        let namespace = change.namespace.clone();
        let mut written = self.namerd.record(change).await?;
        written.warnings.extend(self.shown(&namespace).await);
        written.warnings.extend(outlook.warnings().await);
        Ok(written)
    }
}

impl Namerd {
    pub(super) fn composition(&self, namespace: &Namespace) -> Option<&Arc<Composition>> {
        self.inner.compositions.iter().find(|composition| composition.namespace == *namespace)
    }

    /// The compositions that a namespace is a fragment of.
    pub(super) fn composing(&self, namespace: &Namespace) -> impl Iterator<Item = &Arc<Composition>> {
        self.inner.compositions.iter().filter(move |composition| composition.part(namespace).is_some())
    }

    fn guards(&self, namespace: &Namespace) -> Guards {
        Guards::of(&self.inner.protections, namespace)
    }

    async fn record(&self, change: Change) -> Result<Written, WriteError> {
        let Change { session, namespace, dtab, expect, entry, restores } = change;
        // Two fragments that do not fit each other are not written at once.
        let is_fragment = self.composing(&namespace).next().is_some();
        let _fragments = if is_fragment { Some(self.inner.fragments.lock().await) } else { None };
        let mut warnings = Vec::new();
        if let Some(dtab) = &dtab {
            let checked = self.checked(&session, &namespace, dtab, restores).await?;
            if !checked.errors.is_empty() {
                return Err(WriteError::Rejected(checked.errors.join("\n")));
            }
            warnings = checked.warnings;
        }
        let turn = self.inner.history.turn(&namespace).await;
        // What there is now may be from outside, and not recorded yet; a change can be taken back only if it is.
        if let Some(now) = self.current(&namespace).await {
            self.inner.history.add_seen(&turn, now).await;
        }
        let store = &self.inner.store;
        let table = if let Some(dtab) = dtab {
            let version = store.put(&namespace, &dtab, &expect).await?;
            Some(Arc::new(VersionedDtab { version, dtab }))
        } else {
            store.delete(&namespace, &expect).await?;
            None
        };
        let version = table.as_ref().map_or_else(|| Version::new([]), |table| table.version.clone());
        let seq = self.inner.history.add(&turn, Entry { table, ..entry }).await;
        Ok(Written { version, seq, warnings })
    }

    /// What the store has of a namespace that is written, if that is known soon.
    pub(super) async fn current(&self, namespace: &Namespace) -> Option<Stored> {
        let mut stored = self.table(namespace).value().stored.clone();
        timeout(CURRENT_TIMEOUT, stored.ready()).await.ok()?.ok()
    }

    /// Checks a table, strictly where it is asked for, unless it `restores` what was written once. What is told is for the
    /// peer of `session`: of tables that it may not read nothing but that its own does not fit them.
    async fn checked(
        &self,
        session: &Session,
        namespace: &Namespace,
        dtab: &Dtab,
        restores: bool,
    ) -> Result<Checked, WriteError> {
        let is_strict = |namespace: &Namespace| !restores && self.guards(namespace).strict;
        let mut checked = Checked::default();
        let mut is_fragment = false;
        // Looked for when something is wrong.
        let places = LazyLock::new(|| session.places());
        let place = |entry: usize| places.get(entry.wrapping_sub(1)).copied();
        let alone = LazyLock::new(|| find(dtab, &self.inner.checks));
        for composition in self.composing(namespace) {
            is_fragment = true;
            let Fragments { known: fragments, unread, .. } = self.fragments(composition, Some(namespace)).await?;
            checked.warnings.extend(unread.iter().map(|unread| unread.told(session, &composition.namespace)));
            if let Err(conflict) = composition.allow(namespace, dtab, &fragments, place) {
                checked.errors.push(conflict.told(|namespace| session.may(namespace, Role::Read).is_ok()));
            }
            let after = with(composition, &fragments, namespace, dtab);
            let whole = Whole::of(&after);
            let known = Whole::of(&fragments).faults(&self.inner.checks);
            let is_new = |found: &Found| !known.contains(&whole.identity(found));
            let is_strict = is_strict(namespace) || is_strict(&composition.namespace);
            if session.may(&composition.namespace, Role::Read).is_ok() {
                let may_read = |namespace: &Namespace| session.may(namespace, Role::Read).is_ok();
                let describe = |found: &Found| {
                    let text = whole.describe(found, namespace, place, may_read);
                    Some(format!("{} as a whole: {text}", composition.namespace))
                };
                checked.add(&whole.dtab, &self.inner.checks, is_strict, is_new, describe);
            } else {
                let describe = |found: &Found| whole.describe_alone(found, namespace, dtab, &alone, place);
                checked.add(&whole.dtab, &self.inner.checks, is_strict, is_new, describe);
            }
        }
        if !is_fragment {
            let describe = |found: &Found| Some(found.issue.describe(dtab, place(found.issue.entry)));
            checked.add(dtab, &self.inner.checks, is_strict(namespace), |_| true, describe);
        }
        Ok(checked)
    }

    /// The tables of all fragments, in order, but for those that cannot be read. That of `replaced` need not be: it is left
    /// out then, as if there were none.
    pub(super) async fn fragments(
        &self,
        composition: &Composition,
        replaced: Option<&Namespace>,
    ) -> Result<Fragments, StoreError> {
        let read = async {
            let all = self.inner.store.list().ready().await?;
            let mut fragments = Fragments::default();
            for (place, namespace) in composition.fragments(&all) {
                match self.table(&namespace).value().stored.clone().ready().await {
                    Ok(table) => fragments.known.push((place, namespace, table)),
                    Err(_) if replaced == Some(&namespace) => fragments.is_repaired = true,
                    Err(why) => fragments.unread.push(Unread { namespace, why }),
                }
            }
            Ok::<_, Failure>(fragments)
        };
        let late = |_| -> Result<_, Failure> { Err(Arc::new(io::Error::other("the other fragments are not known"))) };
        timeout(FRAGMENTS_TIMEOUT, read).await.unwrap_or_else(late).map_err(StoreError::Unavailable)
    }
}

/// The fragments of a composition.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    pub(super) known: Vec<Fragment>,
    /// Those of which no table was ever read. As long as there is one the whole stays as it is.
    pub(super) unread: Vec<Unread>,
    /// There is one more, which is being replaced.
    pub(super) is_repaired: bool,
}

/// A fragment that cannot be read.
#[derive(Debug)]
pub(super) struct Unread {
    namespace: Namespace,
    why: Failure,
}

impl Unread {
    /// What is said to the peer of `session` about a change of another fragment of `whole`.
    fn told(&self, session: &Session, whole: &Namespace) -> String {
        let may_read = |namespace| session.may(namespace, Role::Read).is_ok();
        let whole =
            if may_read(whole) { format!("namespace {whole}") } else { "a namespace that it is part of".into() };
        let then = "it was not compared with this, which does not show there until that is repaired";
        if !may_read(&self.namespace) {
            return format!("a part of {whole} cannot be read: {then}");
        }
        let first: &(dyn Error + 'static) = &*self.why;
        let causes = iter::successors(Some(first), |error| (**error).source());
        let why = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        format!("namespace {}, a part of {whole}, cannot be read: {then} ({why})", self.namespace)
    }
}

/// A fragment: the part that it belongs to, its name, and its table.
pub(super) type Fragment = (usize, Namespace, Stored);

/// The table of a composition made of these.
pub(super) fn whole(fragments: &[Fragment]) -> Dtab {
    let tables: Vec<_> = fragments.iter().map(|(_, name, table)| (name.clone(), table.clone())).collect();
    composed(&tables).map_or_else(Dtab::empty, |whole| whole.dtab.clone())
}

/// The same fragments with another table of one.
pub(super) fn with(
    composition: &Composition,
    fragments: &[Fragment],
    namespace: &Namespace,
    dtab: &Dtab,
) -> Vec<Fragment> {
    let mut fragments: Vec<_> = fragments.iter().filter(|(_, name, _)| name != namespace).cloned().collect();
    if let Some(place) = composition.part(namespace) {
        let table = VersionedDtab { version: Version::new([]), dtab: dtab.clone() };
        fragments.push((place, namespace.clone(), Some(Arc::new(table))));
    }
    fragments.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    fragments
}

impl Checked {
    fn add(
        &mut self,
        dtab: &Dtab,
        checks: &Checks,
        is_strict: bool,
        is_told: impl Fn(&Found) -> bool,
        describe: impl Fn(&Found) -> Option<String>,
    ) {
        for found in find(dtab, checks).into_iter().filter(is_told) {
            let is_error = is_strict && found.issue.is_grave();
            let texts = if is_error { &mut self.errors } else { &mut self.warnings };
            let text = describe(&found).or_else(|| is_error.then(|| DOES_NOT_FIT.to_owned()));
            texts.extend(text.filter(|text| !texts.contains(text)));
        }
    }
}

/// What is told of entries that the peer may not read.
const DOES_NOT_FIT: &str = "it does not fit the tables that it is put together with";

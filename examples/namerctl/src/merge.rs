//! What two sides made of one table, as one.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::table::Entry;

/// An entry that both sides changed, and not to the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Clash {
    pub(crate) prefix: String,
    /// What it stood for before; `None` if it was not there.
    pub(crate) base: Option<String>,
    /// What this side makes of it; `None` if it is taken away.
    pub(crate) mine: Option<String>,
    /// What the others made of it.
    pub(crate) theirs: Option<String>,
}

/// Which entry: the first with its prefix, the second, and so on.
type Key<'a> = (&'a str, usize);

/// One side's entries, and their keys in their order.
struct Side<'a> {
    order: Vec<Key<'a>>,
    /// What each prefix stands for: more than one thing where it stands more than once.
    dsts: HashMap<&'a str, Vec<&'a str>>,
}

/// What both sides changed of `base`, prefix by prefix.
///
/// Entries keep the order of whoever changed it. What both added at one place stands together, theirs first. Entries with
/// one prefix are one change: nothing tells which of them is which.
///
/// # Errors
///
/// The prefixes that both changed; or, if both changed the order, all whose place they disagree on.
pub(crate) fn merge(base: &[Entry], mine: &[Entry], theirs: &[Entry]) -> Result<Vec<Entry>, Vec<Clash>> {
    let [base, mine, theirs] = [base, mine, theirs].map(Side::of);
    let mut merged = HashMap::new();
    let mut clashes = Vec::new();
    for prefix in prefixes(&[&base, &theirs, &mine]) {
        let [b, m, t] = [&base, &mine, &theirs].map(|side| side.dsts.get(prefix));
        let dsts = match () {
            () if m == t || t == b => m,
            () if m == b => t,
            () => {
                clashes.push(clash(prefix, [&base, &mine, &theirs]));
                None
            }
        };
        let dsts = dsts.into_iter().flatten().enumerate();
        merged.extend(dsts.map(|(turn, &dst)| ((prefix, turn), dst)));
    }
    if !clashes.is_empty() {
        return Err(clashes);
    }
    let order = order(&base, &mine, &theirs, &merged)?;
    // Entries with one prefix stay in their order, wherever those of the other side put them.
    let mut turns: HashMap<&str, usize> = HashMap::new();
    let entries = order.into_iter().map(|(prefix, _)| {
        let turn = turns.entry(prefix).or_default();
        *turn += 1;
        Entry { prefix: prefix.into(), dst: merged[&(prefix, *turn - 1)].into() }
    });
    Ok(entries.collect())
}

impl<'a> Side<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let mut side = Self { order: Vec::new(), dsts: HashMap::new() };
        for Entry { prefix, dst } in entries {
            let dsts = side.dsts.entry(prefix).or_default();
            side.order.push((prefix, dsts.len()));
            dsts.push(dst);
        }
        side
    }

    fn has(&self, key: Key<'_>) -> bool {
        self.dsts.get(key.0).is_some_and(|dsts| key.1 < dsts.len())
    }

    /// The keys that all three have, in this side's order.
    fn common(&self, others: [&Self; 2]) -> Vec<Key<'a>> {
        self.order.iter().filter(|&&key| others.iter().all(|other| other.has(key))).copied().collect()
    }
}

fn clash(prefix: &str, sides: [&Side<'_>; 3]) -> Clash {
    let [base, mine, theirs] = sides.map(|side| side.dsts.get(prefix).map(|dsts| dsts.join(" ; ")));
    Clash { prefix: prefix.into(), base, mine, theirs }
}

/// All prefixes, each once.
fn prefixes<'a>(sides: &[&Side<'a>]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let all = sides.iter().flat_map(|side| side.order.iter().map(|&(prefix, _)| prefix));
    all.filter(|&prefix| seen.insert(prefix)).collect()
}

fn order<'a>(
    base: &Side<'a>,
    mine: &Side<'a>,
    theirs: &Side<'a>,
    merged: &HashMap<Key<'a>, &'a str>,
) -> Result<Vec<Key<'a>>, Vec<Clash>> {
    let before = base.common([mine, theirs]);
    let by_mine = mine.common([base, theirs]);
    let by_theirs = theirs.common([base, mine]);
    if by_mine == before || by_mine == by_theirs {
        return Ok(insert(theirs, mine, merged, true));
    }
    if by_theirs == before {
        return Ok(insert(mine, theirs, merged, false));
    }
    let moved = by_mine.iter().zip(&by_theirs).filter(|(mine, theirs)| mine != theirs);
    Err(moved.map(|(key, _)| clash(key.0, [base, mine, theirs])).collect())
}

/// The order of one side, with what only the other has where that has it: after what it follows there.
///
/// `after` says whether that is after what this side alone has at the same place, or before.
fn insert<'a>(side: &Side<'a>, other: &Side<'a>, merged: &HashMap<Key<'a>, &'a str>, after: bool) -> Vec<Key<'a>> {
    let kept = |side: &Side<'a>| side.order.iter().filter(|key| merged.contains_key(*key)).copied().collect::<Vec<_>>();
    let mut order = kept(side);
    let mut last: Option<Key<'a>> = None;
    for key in kept(other) {
        if !side.has(key) {
            let follows = |last: Key<'a>| order.iter().position(|&at| at == last).map(|at| at + 1);
            let mut at = last.and_then(follows).unwrap_or_default();
            while after && order.get(at).is_some_and(|next| !other.has(*next)) {
                at += 1;
            }
            order.insert(at, key);
        }
        last = Some(key);
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(text: &str) -> Vec<Entry> {
        let entry = |text: &str| {
            let (prefix, dst) = text.split_once('=').expect("an entry");
            Entry { prefix: prefix.into(), dst: dst.into() }
        };
        text.split_whitespace().map(entry).collect()
    }

    fn merged(base: &str, mine: &str, theirs: &str) -> String {
        match merge(&table(base), &table(mine), &table(theirs)) {
            Ok(table) => {
                let entries: Vec<_> = table.iter().map(|entry| format!("{}={}", entry.prefix, entry.dst)).collect();
                entries.join(" ")
            }
            Err(clashes) => {
                let prefixes: Vec<_> = clashes.iter().map(|clash| &*clash.prefix).collect();
                format!("! {}", prefixes.join(" "))
            }
        }
    }

    #[test]
    fn changes_of_different_entries_are_both_kept() {
        assert_eq!(merged("a=1 b=1 c=1", "a=2 b=1 c=1", "a=1 b=1 c=3"), "a=2 b=1 c=3");
        assert_eq!(merged("a=1 b=1 c=1", "a=1 c=1", "a=1 b=1 c=1 d=1"), "a=1 c=1 d=1");
        assert_eq!(merged("a=1 b=1", "a=1 m=1 b=1", "a=1 t=1 b=1"), "a=1 t=1 m=1 b=1");
        assert_eq!(merged("a=1", "a=1 m=1", "a=1 t=1"), "a=1 t=1 m=1");
        assert_eq!(merged("", "m=1", "t=1"), "t=1 m=1");
    }

    #[test]
    fn an_order_is_kept_whoever_changed_it() {
        assert_eq!(merged("a=1 b=1 c=1", "c=1 a=1 b=1", "a=1 b=1 t=1 c=1"), "c=1 a=1 b=1 t=1");
        assert_eq!(merged("a=1 b=1 c=1", "a=1 b=1 m=1 c=1", "c=1 a=1 b=1"), "c=1 a=1 b=1 m=1");
        assert_eq!(merged("a=1 b=1", "b=1 a=1", "b=1 a=1 t=1"), "b=1 a=1 t=1");
        assert_eq!(merged("a=1 b=1 c=1", "b=1 a=1 c=1", "c=1 a=1 b=1"), "! b c");
    }

    #[test]
    fn one_entry_changed_by_both_is_a_clash_unless_they_agree() {
        assert_eq!(merged("a=1", "a=2", "a=2"), "a=2");
        assert_eq!(merged("a=1 b=1", "b=1", "b=1"), "b=1");
        assert_eq!(merged("a=1 b=1", "a=2 b=1", "a=3 b=2"), "! a");
        assert_eq!(merged("a=1", "", "a=2"), "! a");
        assert_eq!(merged("", "a=1", "a=2"), "! a");
        let [base, theirs] = ["1", "2"].map(|dst| Some(dst.to_owned()));
        let clash = Clash { prefix: "a".into(), base, mine: None, theirs };
        assert_eq!(merge(&table("a=1"), &[], &table("a=2")), Err(vec![clash]));
    }

    #[test]
    fn entries_with_one_prefix_are_one_change() {
        assert_eq!(merged("a=1 a=2", "a=1 a=3", "a=4 a=2"), "! a");
        assert_eq!(merged("a=1 a=2 b=1", "a=2 b=1", "a=1 a=2 b=2"), "a=2 b=2");
        assert_eq!(merged("a=1", "a=1 a=2", "a=1 b=1"), "a=1 b=1 a=2");
    }

    fn any_table() -> impl Strategy<Value = Vec<Entry>> {
        let entry = ("[abcde]", "[12]").prop_map(|(prefix, dst)| Entry { prefix, dst });
        prop::collection::vec(entry, 0..6)
    }

    proptest! {
        #[test]
        fn what_one_side_did_alone_is_what_comes_out(base in any_table(), changed in any_table()) {
            prop_assert_eq!(merge(&base, &changed, &base), Ok(changed.clone()));
            prop_assert_eq!(merge(&base, &base, &changed), Ok(changed.clone()));
            prop_assert_eq!(merge(&base, &changed, &changed), Ok(changed));
        }

        #[test]
        fn no_change_of_one_side_alone_is_lost(base in any_table(), mine in any_table(), theirs in any_table()) {
            if let Ok(merged) = merge(&base, &mine, &theirs) {
                let [base, mine, theirs, merged] = [&base, &mine, &theirs, &merged].map(|side| Side::of(side));
                for prefix in prefixes(&[&base, &mine, &theirs]) {
                    let [b, m, t, r] = [&base, &mine, &theirs, &merged].map(|side| side.dsts.get(prefix));
                    prop_assert_eq!(r, if m == b { t } else { m });
                }
            }
        }

        #[test]
        fn to_merge_again_changes_nothing(base in any_table(), mine in any_table(), theirs in any_table()) {
            if let Ok(merged) = merge(&base, &mine, &theirs) {
                prop_assert_eq!(merge(&base, &mine, &merged), Ok(merged));
            }
        }
    }
}

//! Keys, values and a history, as etcd, Consul and ZooKeeper have them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;

/// A clone is the same.
#[derive(Clone)]
pub(crate) struct Kv {
    state: Arc<Mutex<State>>,
    revision: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) revision: u64,
    pub(crate) entries: BTreeMap<String, Entry>,
    /// Each change: its revision and key.
    pub(crate) changes: Vec<(u64, String)>,
    /// History before this is forgotten.
    pub(crate) forgotten: u64,
    /// Lists are empty.
    pub(crate) is_mute: bool,
}

/// What there was at one time.
#[derive(Clone, Default)]
pub(crate) struct Backup {
    revision: u64,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    pub(crate) revision: u64,
    /// How often it was changed since it was made.
    pub(crate) changes: u32,
}

impl Kv {
    pub(crate) fn new() -> Self {
        let state = State { revision: 1, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), revision: Arc::new(watch::Sender::new(1)) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn put(&self, key: &str, value: &[u8]) -> u64 {
        let revision = self.state().put(key, value);
        self.revision.send_replace(revision);
        revision
    }

    pub(crate) fn delete(&self, key: &str) -> u64 {
        let revision = self.state().delete(key);
        self.revision.send_replace(revision);
        revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.state().entries.get(key).cloned()
    }

    /// Does something in one step, as far as others can see.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        self.revision.send_replace(state.revision);
        result
    }

    pub(crate) fn backup(&self) -> Backup {
        let state = self.state();
        Backup { revision: state.revision, entries: state.entries.clone() }
    }

    /// Goes back to what there was, as a server does that was begun on that disk.
    pub(crate) fn restore(&self, backup: &Backup) {
        self.change(|state| {
            let Backup { revision, entries } = backup.clone();
            *state = State { revision: revision.max(1), entries, ..State::default() };
        });
    }

    /// Deletes all there is.
    pub(crate) fn clear(&self) {
        self.change(|state| {
            for key in state.entries.keys().cloned().collect::<Vec<_>>() {
                state.delete(&key);
            }
        });
    }

    /// Waits for a change of a key with this prefix that is of this revision or later; `false` if that is forgotten.
    pub(crate) async fn changed(&self, prefix: &str, from: u64) -> bool {
        let mut revision = self.revision.subscribe();
        loop {
            {
                let state = self.state();
                if from <= state.forgotten {
                    return false;
                }
                if state.changes.iter().any(|(at, key)| *at >= from && key.starts_with(prefix)) {
                    return true;
                }
            }
            revision.changed().await.unwrap();
        }
    }
}

impl State {
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> u64 {
        self.revision += 1;
        let changes = self.entries.get(key).map_or(0, |entry| entry.changes + 1);
        let entry = Entry { value: value.to_vec(), revision: self.revision, changes };
        self.entries.insert(key.to_owned(), entry);
        self.changes.push((self.revision, key.to_owned()));
        self.revision
    }

    pub(crate) fn delete(&mut self, key: &str) -> u64 {
        if self.entries.remove(key).is_some() {
            self.revision += 1;
            self.changes.push((self.revision, key.to_owned()));
        }
        self.revision
    }
}

//! The store in memory, which nobody reaches behind and which never fails.

use std::sync::Arc;

use linkerd_dtab::store::{DtabStore, Memory};

use crate::suite::{Done, Fault, Read, Rig};

struct MemoryRig(Arc<Memory>);

impl MemoryRig {
    fn new() -> Self {
        Self(Arc::default())
    }
}

impl Rig for MemoryRig {
    fn open(&self) -> Arc<dyn DtabStore> {
        self.0.clone()
    }

    fn write<'a>(&'a self, _: &'a str, _: &'a str) -> Done<'a> {
        unreachable!("there is no way past the store")
    }

    fn erase<'a>(&'a self, _: &'a str) -> Done<'a> {
        unreachable!("there is no way past the store")
    }

    fn read<'a>(&'a self, _: &'a str) -> Read<'a> {
        unreachable!("there is no way past the store")
    }

    fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }

    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        unreachable!("it knows no {fault:?}")
    }
}

crate::conforms! {
    paused = true, MemoryRig::new(),
    a_table_is_created_changed_and_deleted
    changes_are_made_only_to_what_is_expected
    of_two_writers_one_succeeds
    no_update_is_lost
    who_writes_reads_it_at_once
    names_with_slashes_and_dots_are_kept_apart
    a_small_share_is_kept
}

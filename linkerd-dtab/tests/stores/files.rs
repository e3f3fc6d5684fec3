//! A folder of files.

use std::{fs, future::ready, path::PathBuf, sync::Arc, time::Duration};

use linkerd_dtab::{
    State,
    store::{DtabStore, Expect, Files, StoreError},
};
use tokio::time::{Instant, sleep};

use crate::suite::{Done, Fault, Read, Rig, dtab, name, until, until_shows};

struct FilesRig {
    parent: tempfile::TempDir,
}

impl FilesRig {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        Files::new(parent.path().join("dtabs")).begin().unwrap();
        Self { parent }
    }

    fn dir(&self) -> PathBuf {
        self.parent.path().join("dtabs")
    }

    fn file(&self, namespace: &str) -> PathBuf {
        let name = format!("{}.dtab", namespace.replace('/', "%2F"));
        let here = self.dir().join(&name);
        if self.dir().exists() { here } else { self.parent.path().join("away").join(name) }
    }
}

impl Rig for FilesRig {
    fn open(&self) -> Arc<dyn DtabStore> {
        Arc::new(Files::new(self.dir()).with_settle(Duration::from_millis(20)).open())
    }

    fn write<'a>(&'a self, namespace: &'a str, text: &'a str) -> Done<'a> {
        fs::write(self.file(namespace), format!("{text}\n")).unwrap();
        Box::pin(ready(()))
    }

    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a> {
        fs::remove_file(self.file(namespace)).unwrap();
        Box::pin(ready(()))
    }

    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a> {
        Box::pin(ready(fs::read_to_string(self.file(namespace)).ok()))
    }

    fn faults(&self) -> Vec<Fault> {
        vec![Fault::Away, Fault::Blank]
    }

    /// The folder is moved away, and another one is put in its place or not.
    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        let (here, away) = (self.dir(), self.parent.path().join("away"));
        if let Some(fault) = fault {
            fs::rename(&here, &away).unwrap();
            if fault == Fault::Blank {
                fs::create_dir(&here).unwrap();
            }
        } else {
            // Nobody may have put anything there.
            if here.exists() {
                fs::remove_dir(&here).unwrap();
            }
            fs::rename(&away, &here).unwrap();
        }
        Box::pin(ready(()))
    }
}

crate::conforms! {
    paused = false, FilesRig::new(),
    a_table_is_created_changed_and_deleted
    changes_are_made_only_to_what_is_expected
    of_two_writers_one_succeeds
    no_update_is_lost
    who_writes_reads_it_at_once
    changes_of_others_are_seen
    names_with_slashes_and_dots_are_kept_apart
    a_table_that_could_not_be_read_is_not_written
    a_small_share_is_kept
    what_is_no_table_leaves_the_last_good_one
    what_was_read_outlives_every_fault
    a_watch_outlives_the_store_value
}

#[tokio::test]
async fn a_folder_that_is_not_there_at_the_start_is_found_later() {
    let rig = FilesRig::new();
    rig.write("early", "/a => /b").await;
    rig.set(Some(Fault::Away)).await;
    let store = rig.open();
    let watch = store.watch(&name("early"));
    until(&watch, "failed", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
    assert!(!rig.dir().exists(), "a folder was made, which may hide one that is to be mounted");
    rig.set(None).await;
    until_shows(&watch, "/a => /b").await;
}

/// As the folder under a mount is.
#[tokio::test]
async fn an_empty_folder_is_not_taken_for_a_store() {
    let rig = FilesRig::new();
    rig.write("early", "/a => /b").await;
    rig.set(Some(Fault::Blank)).await;
    let is_empty = || fs::read_dir(rig.dir()).unwrap().next().is_none();
    let store = rig.open();
    let (watch, names) = (store.watch(&name("early")), store.list());
    let failed = until(&names, "failed", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
    let State::Failed(why) = failed.state else { unreachable!() };
    assert!(why.to_string().contains(&format!("the folder {} is empty", rig.dir().display())), "{why}");
    let refused = store.put(&name("early"), &dtab("/a => /c"), &Expect::Any).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(!matches!(watch.sample(), State::Ok(_)) && is_empty(), "{watch:?}");
    // It is mounted, and unmounted while it is used.
    rig.set(None).await;
    until_shows(&watch, "/a => /b").await;
    rig.set(Some(Fault::Blank)).await;
    let stale = until(&names, "stale", |snapshot| snapshot.stale.is_some()).await;
    assert!(stale.stale.unwrap().to_string().contains("nothing is mounted there"));
    let refused = store.put(&name("early"), &dtab("/a => /c"), &Expect::Any).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.to_string().contains("nothing is mounted")),
        "{refused:?}"
    );
    assert!(matches!(watch.sample(), State::Ok(Some(_))) && is_empty() && store.doubts() > 0);
    // Told that it is a new one, it is.
    Files::new(rig.dir()).begin().unwrap();
    let other = rig.open().list();
    until(&other, "empty", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.is_empty())).await;
}

/// With tables but without a mark, as one that was copied without its hidden files.
#[tokio::test]
async fn a_folder_that_has_tables_is_one_of_tables() {
    let rig = FilesRig::new();
    rig.write("a", "/a => /b").await;
    fs::remove_file(rig.dir().join(".revision")).unwrap();
    let store = rig.open();
    until_shows(&store.watch(&name("a")), "/a => /b").await;
    store.put(&name("b"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
}

/// The clock runs ahead while nobody looks at files.
#[tokio::test(start_paused = true)]
async fn an_older_folder_is_believed_when_it_stays_so_and_has_tables() {
    let rig = FilesRig::new();
    let store = rig.open();
    store.put(&name("a"), &dtab("/a => /1"), &Expect::Any).await.unwrap();
    let backup = tempfile::tempdir().unwrap();
    let copied = || ["a.dtab", ".revision"].map(|file| (file, fs::read(rig.dir().join(file)).unwrap()));
    let old = copied();
    store.put(&name("a"), &dtab("/a => /2"), &Expect::Any).await.unwrap();
    let (watch, names) = (store.watch(&name("a")), store.list());
    until_shows(&watch, "/a => /2").await;

    // A mark of another hand, and no table: never.
    let away = backup.path().join("away");
    fs::rename(rig.dir(), &away).unwrap();
    Files::new(rig.dir()).begin().unwrap();
    let begun = Instant::now();
    until(&names, "stale", |snapshot| snapshot.stale.is_some()).await;
    sleep(Duration::from_hours(1)).await;
    assert!(matches!(watch.sample(), State::Ok(Some(_))), "{:?} {watch:?}", begun.elapsed());
    let refused = store.put(&name("a"), &dtab("/a => /x"), &Expect::Any).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.to_string().contains("went back from 2 to 0")),
        "{refused:?}"
    );
    // A backup: after a while.
    for (file, bytes) in &old {
        fs::write(rig.dir().join(file), bytes).unwrap();
    }
    until_shows(&watch, "/a => /1").await;
    store.put(&name("a"), &dtab("/a => /3"), &Expect::Any).await.unwrap();
    until_shows(&watch, "/a => /3").await;
}

/// As the folder under a mount may have one, too.
#[tokio::test]
async fn a_table_in_a_folder_without_a_mark_takes_the_place_of_none() {
    let rig = FilesRig::new();
    let store = rig.open();
    store.put(&name("a"), &dtab("/a => /1"), &Expect::Any).await.unwrap();
    let watch = store.watch(&name("a"));
    until_shows(&watch, "/a => /1").await;
    let away = rig.parent.path().join("away");
    fs::rename(rig.dir(), &away).unwrap();
    fs::create_dir(rig.dir()).unwrap();
    fs::write(rig.dir().join("a.dtab"), "/a => /gone\n").unwrap();
    until(&watch, "stale", |snapshot| snapshot.stale.is_some()).await;
    sleep(Duration::from_millis(500)).await;
    assert!(matches!(watch.sample(), State::Ok(Some(table)) if table.dtab == dtab("/a => /1")), "{watch:?}");
    // Once the right one is back, it counts.
    fs::remove_dir_all(rig.dir()).unwrap();
    fs::rename(&away, rig.dir()).unwrap();
    fs::write(rig.dir().join("a.dtab"), "/a => /2\n").unwrap();
    until_shows(&watch, "/a => /2").await;
}

#[tokio::test]
async fn a_table_is_kept_as_people_read_it() {
    let rig = FilesRig::new();
    let store = rig.open();
    store.put(&name("team/web"), &dtab("/svc => 1 * /a & 2 * /b ; /c=>/d|/e"), &Expect::Any).await.unwrap();
    let text = rig.read("team/web").await.unwrap();
    assert_eq!(text, "# revision 1\n/svc => /a & 2.00*/b ;\n/c => /d | /e ;\n");
    store.put(&name("other"), &dtab(""), &Expect::Any).await.unwrap();
    assert_eq!(rig.read("other").await.unwrap(), "# revision 2\n");
    until_shows(&rig.open().watch(&name("other")), "").await;
}

#[tokio::test]
async fn no_version_comes_twice() {
    let rig = FilesRig::new();
    let mut versions = Vec::new();
    for _ in 0..3 {
        let store = rig.open();
        for _ in 0..2 {
            versions.push(store.put(&name("a"), &dtab("/a => /b"), &Expect::Any).await.unwrap());
        }
        store.delete(&name("a"), &Expect::Any).await.unwrap();
    }
    fs::write(rig.dir().join(".revision"), "torn").unwrap();
    let store = rig.open();
    store.put(&name("b"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
    versions.push(store.put(&name("a"), &dtab("/a => /b"), &Expect::Any).await.unwrap());
    let known: std::collections::HashSet<_> = versions.iter().collect();
    assert_eq!(known.len(), versions.len(), "{versions:?}");
}

#[tokio::test]
async fn half_an_edit_is_not_believed() {
    let rig = FilesRig::new();
    let store = Files::new(rig.dir()).with_settle(Duration::from_hours(1)).open();
    store.put(&name("edited"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
    let (watch, names) = (store.watch(&name("edited")), store.list());
    // Emptied, gone, cut short: the settle time of an hour never ends.
    fs::write(rig.file("edited"), "").unwrap();
    fs::write(rig.file("marker-1"), "/m => /m\n").unwrap();
    until(&names, "two", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.len() == 2)).await;
    until_shows(&watch, "/a => /b").await;
    fs::remove_file(rig.file("edited")).unwrap();
    fs::write(rig.file("marker-2"), "/m => /m\n").unwrap();
    until(&names, "three", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.len() == 3)).await;
    until_shows(&watch, "/a => /b").await;
    fs::write(rig.file("edited"), "# revision 1\n/a => /c ;\n").unwrap();
    until_shows(&watch, "/a => /c").await;
}

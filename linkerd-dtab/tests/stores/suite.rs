//! What every store promises, whatever it is kept in.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use linkerd_dtab::{
    Activity, Dtab, Snapshot, State,
    store::{DtabStore, Expect, Namespace, StoreError, Stored, Version},
};
use tokio::time::{Instant, sleep, timeout};

use crate::fake::{Backup, Kv};

/// Longer than any pause of a store, many times over. By a paused clock, but for real servers and files.
const LONG: Duration = Duration::from_mins(5);
const TICK: Duration = Duration::from_millis(5);

/// A kind of store under test, and the hands that reach behind it.
pub(crate) trait Rig: Send + Sync {
    /// One more store over the same tables, as a second namerd has it.
    fn open(&self) -> Arc<dyn DtabStore>;

    /// Writes past every store.
    fn write<'a>(&'a self, namespace: &'a str, text: &'a str) -> Done<'a>;

    /// Deletes past every store.
    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a>;

    /// What is kept for a namespace, as it is kept.
    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a>;

    /// Whether the same table again is another version.
    fn counts_what_changes_nothing(&self) -> bool {
        true
    }

    /// The faults that it knows, [`Fault::Away`] at least.
    fn faults(&self) -> Vec<Fault>;

    /// What a server in memory is made of.
    fn kv(&self) -> &Kv {
        unreachable!("it is no server in memory")
    }

    /// From now on there is this fault, or none.
    fn set(&self, fault: Option<Fault>) -> Done<'_>;
}

pub(crate) type Done<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
pub(crate) type Read<'a> = Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;

/// What can go wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody is there.
    Away,
    /// It answers never.
    Hangs,
    /// Its connections are reset in the middle of an answer.
    Resets,
    /// Its answers end in the middle, as if that were all.
    Halves,
    /// It answers, but nothing that makes sense.
    Babbles,
    /// It says that it cannot.
    Refuses,
    /// It says that it is well, and that there is nothing, in a way that it never says.
    Blank,
}

pub(crate) fn name(text: &str) -> Namespace {
    text.parse().unwrap()
}

pub(crate) fn dtab(text: &str) -> Dtab {
    text.parse().unwrap()
}

/// Waits until what is known is so.
pub(crate) async fn until<T>(activity: &Activity<T>, what: &str, is_so: impl Fn(&Snapshot<T>) -> bool) -> Snapshot<T>
where
    T: Clone + Send + Sync + std::fmt::Debug + 'static,
{
    let wait = async {
        loop {
            let snapshot = activity.snapshot();
            if is_so(&snapshot) {
                return snapshot;
            }
            sleep(TICK).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never {what}: {:?}", activity.snapshot()))
}

fn shows(snapshot: &Snapshot<Stored>, text: &str) -> bool {
    matches!(&snapshot.state, State::Ok(Some(stored)) if stored.dtab == dtab(text))
}

fn is_fresh<T>(snapshot: &Snapshot<T>) -> bool {
    snapshot.stale.is_none() && matches!(snapshot.state, State::Ok(_))
}

/// Waits until a namespace has this table, and the store is well.
pub(crate) async fn until_shows(activity: &Activity<Stored>, text: &str) -> Version {
    let what = format!("'{text}'");
    let snapshot = until(activity, &what, |snapshot| shows(snapshot, text) && is_fresh(snapshot)).await;
    snapshot.state.ok().flatten().unwrap().version.clone()
}

async fn put(store: &dyn DtabStore, namespace: &str, text: &str, expect: Expect) -> Result<Version, StoreError> {
    store.put(&name(namespace), &dtab(text), &expect).await
}

/// Waits until the store takes changes.
async fn put_at_last(store: &dyn DtabStore, namespace: &str, text: &str) -> Version {
    let wait = async {
        loop {
            match put(store, namespace, text, Expect::Any).await {
                Ok(version) => return version,
                Err(StoreError::Unavailable(_)) => sleep(TICK).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(LONG, wait).await.expect("the store never takes a change")
}

pub(crate) async fn a_table_is_created_changed_and_deleted(rig: &dyn Rig) {
    let store = rig.open();
    let default = name("default");
    let watch = store.watch(&default);
    let names = store.list();
    until(&watch, "absent", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
    until(&names, "empty", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.is_empty())).await;

    let first = put(&*store, "default", "/a => /b ; /c => /d | /e", Expect::Absent).await.unwrap();
    assert_eq!(until_shows(&watch, "/a => /b ; /c => /d | /e").await, first);
    until(&names, "one", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.len() == 1)).await;
    let second = put(&*store, "default", "/a => /z", Expect::Version(first.clone())).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(until_shows(&watch, "/a => /z").await, second);
    let third = put(&*store, "default", "/a => /z", Expect::Any).await.unwrap();
    assert_eq!(second != third, rig.counts_what_changes_nothing());

    store.delete(&default, &Expect::Version(third)).await.unwrap();
    until(&watch, "deleted", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
    until(&names, "empty again", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.is_empty())).await;
    put(&*store, "default", "", Expect::Absent).await.unwrap();
    until_shows(&watch, "").await;
}

pub(crate) async fn changes_are_made_only_to_what_is_expected(rig: &dyn Rig) {
    let store = rig.open();
    let (one, two) = (name("one"), name("two"));
    let old = put(&*store, "one", "/a => /b", Expect::Any).await.unwrap();
    let now = put(&*store, "one", "/a => /c", Expect::Version(old.clone())).await.unwrap();
    let strange = [&b"?"[..], b"", b"00000000", b"99999999999999999999999", &[0xff; 40]];
    let others = strange.map(Version::new).into_iter().chain([old]);
    for other in others {
        let expect = Expect::Version(other);
        let lost = put(&*store, "one", "/a => /x", expect.clone()).await;
        assert!(matches!(&lost, Err(StoreError::Mismatch(name)) if *name == one), "{expect:?}: {lost:?}");
        let lost = store.delete(&one, &expect).await;
        assert!(matches!(&lost, Err(StoreError::Mismatch(_))), "{expect:?}: {lost:?}");
        let lost = put(&*store, "two", "/a => /x", expect.clone()).await;
        assert!(matches!(&lost, Err(StoreError::Missing(name)) if *name == two), "{expect:?}: {lost:?}");
        let lost = store.delete(&two, &expect).await;
        assert!(matches!(&lost, Err(StoreError::Missing(_))), "{expect:?}: {lost:?}");
    }
    let lost = put(&*store, "one", "/a => /x", Expect::Absent).await;
    assert!(matches!(lost, Err(StoreError::Exists(_))), "{lost:?}");
    let lost = store.delete(&one, &Expect::Absent).await;
    assert!(matches!(lost, Err(StoreError::Exists(_))), "{lost:?}");
    for expect in [Expect::Any, Expect::Absent] {
        let lost = store.delete(&two, &expect).await;
        assert!(matches!(lost, Err(StoreError::Missing(_))), "{lost:?}");
    }
    assert_eq!(until_shows(&store.watch(&one), "/a => /c").await, now);
    store.delete(&one, &Expect::Any).await.unwrap();
}

pub(crate) async fn of_two_writers_one_succeeds(rig: &dyn Rig) {
    let stores: Vec<_> = (0..4).map(|_| rig.open()).collect();
    let base = put(&*stores[0], "race", "/a => /b", Expect::Absent).await.unwrap();
    let tries = stores.iter().enumerate().map(|(i, store)| {
        let (store, base) = (Arc::clone(store), base.clone());
        tokio::spawn(async move { put(&*store, "race", &format!("/w => /{i}"), Expect::Version(base)).await })
    });
    let mut winners = 0;
    for (i, tried) in tries.collect::<Vec<_>>().into_iter().enumerate() {
        match tried.await.unwrap() {
            Ok(version) => {
                winners += 1;
                assert_eq!(until_shows(&stores[i].watch(&name("race")), &format!("/w => /{i}")).await, version);
            }
            Err(StoreError::Mismatch(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners, 1);
    let tries = stores.iter().map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move { put(&*store, "born", "/a => /b", Expect::Absent).await.is_ok() })
    });
    let mut winners = 0;
    for tried in tries.collect::<Vec<_>>() {
        winners += usize::from(tried.await.unwrap());
    }
    assert_eq!(winners, 1);
}

pub(crate) async fn no_update_is_lost(rig: &dyn Rig) {
    const WRITERS: usize = 3;
    const WRITES: usize = 4;
    let first = rig.open();
    put(&*first, "sum", "", Expect::Absent).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = rig.open();
        tokio::spawn(async move {
            let sum = name("sum");
            let mut watch = store.watch(&sum);
            for write in 0..WRITES {
                // Each lost race is somebody's success, so there are not more.
                for _ in 0..=WRITERS * WRITES {
                    let stored = watch.ready().await.unwrap().expect("it is there");
                    let more = stored.dtab.concat(&dtab(&format!("/{writer}/{write} => /x")));
                    match store.put(&sum, &more, &Expect::Version(stored.version.clone())).await {
                        Ok(_) => break,
                        Err(StoreError::Mismatch(_)) => {
                            until(&watch, "newer", |snapshot| {
                                !matches!(&snapshot.state, State::Ok(Some(now)) if now.version == stored.version)
                            })
                            .await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let watch = first.watch(&name("sum"));
    until(
        &watch,
        "all there",
        |snapshot| matches!(&snapshot.state, State::Ok(Some(stored)) if stored.dtab.len() == WRITERS * WRITES),
    )
    .await;
}

pub(crate) async fn who_writes_reads_it_at_once(rig: &dyn Rig) {
    let store = rig.open();
    let mine = name("mine");
    let watch = store.watch(&mine);
    for i in 0..5 {
        let text = format!("/a => /{i}");
        let version = put(&*store, "mine", &text, Expect::Any).await.unwrap();
        for watch in [&watch, &store.watch(&mine)] {
            let State::Ok(Some(stored)) = watch.sample() else { panic!("{watch:?}") };
            assert_eq!((&stored.version, &stored.dtab), (&version, &dtab(&text)));
        }
        assert!(store.list().sample().ok().unwrap().contains(&mine));
    }
    store.delete(&mine, &Expect::Any).await.unwrap();
    assert!(matches!(watch.sample(), State::Ok(None)), "{watch:?}");
    assert!(!store.list().sample().ok().unwrap().contains(&mine));
}

pub(crate) async fn changes_of_others_are_seen(rig: &dyn Rig) {
    let (store, other) = (rig.open(), rig.open());
    let (here, names) = (store.watch(&name("here")), store.list());
    let version = put(&*other, "here", "/a => /b", Expect::Any).await.unwrap();
    assert_eq!(until_shows(&here, "/a => /b").await, version);
    rig.write("here", "/a => /past | /us").await;
    let past = until_shows(&here, "/a => /past | /us").await;
    assert_ne!(past, version);
    let lost = put(&*other, "here", "/a => /x", Expect::Version(version)).await;
    assert!(matches!(lost, Err(StoreError::Mismatch(_))), "{lost:?}");
    put(&*store, "here", "/a => /c", Expect::Version(past)).await.unwrap();
    rig.write("there", "/a => /b").await;
    let both = [name("here"), name("there")].into();
    until(&names, "two", |snapshot| matches!(&snapshot.state, State::Ok(names) if **names == both)).await;
    rig.erase("here").await;
    until(&here, "erased", |snapshot| matches!(snapshot.state, State::Ok(None)) && is_fresh(snapshot)).await;
    let one = [name("there")].into();
    until(&names, "one", |snapshot| matches!(&snapshot.state, State::Ok(names) if **names == one)).await;
}

pub(crate) async fn names_with_slashes_and_dots_are_kept_apart(rig: &dyn Rig) {
    let names = ["team", "team/web", "team/web/eu", "team.web", "team-web_1", "x.dtab"];
    let store = rig.open();
    for (i, namespace) in names.iter().enumerate() {
        put(&*store, namespace, &format!("/n => /{i}"), Expect::Absent).await.unwrap();
    }
    let again = rig.open();
    for (i, namespace) in names.iter().enumerate() {
        until_shows(&again.watch(&name(namespace)), &format!("/n => /{i}")).await;
    }
    let listed = again.list();
    until(&listed, "all", |snapshot| matches!(&snapshot.state, State::Ok(all) if all.len() == names.len())).await;
    store.delete(&name("team/web"), &Expect::Any).await.unwrap();
    until(&again.watch(&name("team/web")), "gone", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
    until_shows(&again.watch(&name("team")), "/n => /0").await;
    until_shows(&again.watch(&name("team/web/eu")), "/n => /2").await;
}

pub(crate) async fn a_table_is_kept_as_namerd_writes_it(rig: &dyn Rig) {
    let store = rig.open();
    put(&*store, "two", "/svc => 1 * /a & 2 * /b ;\n/c=>/d|/e", Expect::Any).await.unwrap();
    assert_eq!(rig.read("two").await.as_deref(), Some("/svc=>/a & 2.00*/b;/c=>/d | /e"));
}

/// With two decimals, as namerd 1.7.5 writes them, a share of one in a thousand is none.
pub(crate) async fn a_small_share_is_kept(rig: &dyn Rig) {
    let canary = "/svc => 0.001 * /new & 0.999 * /old | 12.3456789 * /a & 0.004 * /b";
    put(&*rig.open(), "canary", canary, Expect::Any).await.unwrap();
    until_shows(&rig.open().watch(&name("canary")), canary).await;
}

pub(crate) async fn a_table_that_could_not_be_read_is_not_written(rig: &dyn Rig) {
    let store = rig.open();
    let long: Dtab = (0..12).map(|i| format!("/{i} => /{}", "x".repeat(100_000)).parse().unwrap()).collect();
    let refused = store.put(&name("long"), &long, &Expect::Any).await;
    assert!(matches!(&refused, Err(StoreError::Unfit { .. })), "{refused:?}");
    until(&store.watch(&name("long")), "absent", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
}

pub(crate) async fn what_is_no_table_leaves_the_last_good_one(rig: &dyn Rig) {
    let store = rig.open();
    put(&*store, "kept", "/a => /b", Expect::Any).await.unwrap();
    let watch = store.watch(&name("kept"));
    until_shows(&watch, "/a => /b").await;
    rig.write("kept", "/a -> /c").await;
    let snapshot = until(&watch, "stale", |snapshot| snapshot.stale.is_some()).await;
    assert!(shows(&snapshot, "/a => /b"), "{snapshot:?}");
    let why = snapshot.stale.unwrap().to_string();
    assert!(why.contains("line ") && why.contains("column 4"), "{why}");
    assert!(store.list().sample().ok().unwrap().contains(&name("kept")));

    // Who has not seen the good one does not take it for absent.
    let other = rig.open();
    let watch_there = other.watch(&name("kept"));
    let failed = until(&watch_there, "failed", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
    assert!(matches!(&failed.state, State::Failed(why) if why.to_string().contains("column 4")), "{failed:?}");
    let names = other.list();
    until(&names, "listed", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.len() == 1)).await;

    rig.write("kept", "/a => /d").await;
    until_shows(&watch, "/a => /d").await;
    until_shows(&watch_there, "/a => /d").await;
    rig.write("kept", "nothing at all").await;
    until(&watch, "stale again", |snapshot| snapshot.stale.is_some()).await;
    put(&*store, "kept", "/a => /e", Expect::Any).await.unwrap();
    until_shows(&watch, "/a => /e").await;
}

pub(crate) async fn a_store_that_is_away_at_the_start_is_found_later(rig: &dyn Rig) {
    rig.write("early", "/a => /b").await;
    for fault in rig.faults() {
        rig.set(Some(fault)).await;
        let store = rig.open();
        let (watch, names) = (store.watch(&name("early")), store.list());
        let refused = put(&*store, "late", "/x => /y", Expect::Any).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{fault:?}: {refused:?}");
        let unknown = until(&watch, "known to be away", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
        assert!(!matches!(unknown.state, State::Ok(_)), "{fault:?}");
        assert!(!matches!(names.sample(), State::Ok(_)), "{fault:?}: {names:?}");
        rig.set(None).await;
        until_shows(&watch, "/a => /b").await;
        until(&names, "listed", |snapshot| matches!(&snapshot.state, State::Ok(all) if all.contains(&name("early"))))
            .await;
        put_at_last(&*store, "late", "/x => /y").await;
    }
}

pub(crate) async fn what_was_read_outlives_every_fault(rig: &dyn Rig) {
    let store = rig.open();
    put(&*store, "old", "/a => /0", Expect::Any).await.unwrap();
    put(&*store, "doomed", "/a => /b", Expect::Any).await.unwrap();
    let (old, doomed, names) = (store.watch(&name("old")), store.watch(&name("doomed")), store.list());
    for (i, fault) in rig.faults().into_iter().enumerate() {
        until_shows(&old, &format!("/a => /{i}")).await;
        until_shows(&doomed, "/a => /b").await;
        rig.set(Some(fault)).await;
        for watch in [&old, &doomed] {
            let snapshot = until(watch, &format!("stale ({fault:?})"), |snapshot| snapshot.stale.is_some()).await;
            assert!(matches!(&snapshot.state, State::Ok(Some(_))), "{fault:?}: {snapshot:?}");
        }
        let listed = until(&names, "stale", |snapshot| snapshot.stale.is_some()).await.state.ok().unwrap();
        assert!(listed.contains(&name("old")) && listed.contains(&name("doomed")), "{fault:?}: {listed:?}");
        // A name that is first asked for now may or may not be there, and may be written by a change that nobody answers.
        let new = format!("new-{i}");
        let watch = store.watch(&name(&new));
        assert!(!is_fresh(&watch.snapshot()), "{fault:?}: {watch:?}");
        let refused = put(&*store, &new, "/x => /y", Expect::Absent).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{fault:?}: {refused:?}");
        sleep(10 * TICK).await;
        assert!(shows(&old.snapshot(), &format!("/a => /{i}")), "{fault:?}: {old:?}");
        rig.set(None).await;
        rig.write("old", &format!("/a => /{}", i + 1)).await;
        until_shows(&old, &format!("/a => /{}", i + 1)).await;
        until_shows(&doomed, "/a => /b").await;
    }
    rig.set(Some(Fault::Away)).await;
    until(&doomed, "stale", |snapshot| snapshot.stale.is_some()).await;
    rig.set(None).await;
    rig.erase("doomed").await;
    until(&doomed, "gone", |snapshot| matches!(snapshot.state, State::Ok(None)) && is_fresh(snapshot)).await;
}

pub(crate) async fn a_watch_outlives_the_store_value(rig: &dyn Rig) {
    let store = rig.open();
    put(&*store, "left", "/a => /b", Expect::Any).await.unwrap();
    let watch = store.watch(&name("left"));
    drop(store);
    rig.write("left", "/a => /c").await;
    until_shows(&watch, "/a => /c").await;
}

/// Puts a server in the place of the one that is there.
async fn swap(rig: &dyn Rig, backup: &Backup) {
    rig.set(Some(Fault::Away)).await;
    rig.kv().restore(backup);
    rig.set(None).await;
}

fn is_kept(watch: &Activity<Stored>, text: &str) -> bool {
    let snapshot = watch.snapshot();
    shows(&snapshot, text) && snapshot.stale.is_some()
}

async fn until_gone(watch: &Activity<Stored>) {
    until(watch, "gone", |snapshot| matches!(snapshot.state, State::Ok(None)) && is_fresh(snapshot)).await;
}

pub(crate) async fn a_store_that_went_back_is_believed_when_it_stays_so(rig: &dyn Rig) {
    let store = rig.open();
    put(&*store, "old", "/a => /0", Expect::Any).await.unwrap();
    let old = rig.kv().backup();
    for table in ["/a => /1", "/a => /2"] {
        put(&*store, "old", table, Expect::Any).await.unwrap();
    }
    put(&*store, "young", "/b => /b", Expect::Any).await.unwrap();
    let new = rig.kv().backup();
    let (watch, young) = (store.watch(&name("old")), store.watch(&name("young")));
    until_shows(&watch, "/a => /2").await;
    assert_eq!(store.doubts(), 0);

    // One that is behind answers for a while.
    swap(rig, &old).await;
    sleep(Duration::from_secs(7)).await;
    assert!(is_kept(&watch, "/a => /2") && is_kept(&young, "/b => /b"), "{watch:?} {young:?}");
    let refused = put(&*store, "old", "/a => /x", Expect::Any).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.to_string().contains("went back")),
        "{refused:?}"
    );
    swap(rig, &new).await;
    until_shows(&watch, "/a => /2").await;
    until_shows(&young, "/b => /b").await;
    assert!(store.doubts() > 0);

    // A backup was restored. What it lacks is kept for a while longer.
    swap(rig, &old).await;
    let begun = Instant::now();
    until_shows(&watch, "/a => /0").await;
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    sleep(Duration::from_mins(9)).await;
    assert!(is_kept(&young, "/b => /b"), "{young:?}");
    until_shows(&watch, "/a => /0").await;
    until_gone(&young).await;
    put(&*store, "old", "/a => /3", Expect::Any).await.unwrap();
    until_shows(&watch, "/a => /3").await;
}

pub(crate) async fn a_store_that_lost_its_disk_empties_nothing(rig: &dyn Rig) {
    let store = rig.open();
    put(&*store, "one", "/a => /1", Expect::Any).await.unwrap();
    put(&*store, "two", "/b => /2", Expect::Any).await.unwrap();
    let (one, two, names) = (store.watch(&name("one")), store.watch(&name("two")), store.list());
    until_shows(&two, "/b => /2").await;
    swap(rig, &Backup::default()).await;
    sleep(Duration::from_hours(24)).await;
    assert!(is_kept(&one, "/a => /1") && is_kept(&two, "/b => /2"), "{one:?} {two:?}");
    let listed = names.snapshot();
    assert!(listed.stale.is_some() && matches!(&listed.state, State::Ok(names) if names.len() == 2), "{listed:?}");

    // It is written anew, table by table.
    put(&*store, "one", "/a => /3", Expect::Any).await.unwrap();
    until_shows(&one, "/a => /3").await;
    assert!(is_kept(&two, "/b => /2"), "{two:?}");
    put(&*store, "two", "/b => /2", Expect::Absent).await.unwrap();
    until_shows(&two, "/b => /2").await;
    until(&names, "well", is_fresh).await;
}

pub(crate) async fn what_would_empty_all_is_doubted_for_ten_minutes(rig: &dyn Rig) {
    let store = rig.open();
    put(&*store, "one", "/a => /1", Expect::Any).await.unwrap();
    put(&*store, "two", "/b => /2", Expect::Any).await.unwrap();
    let (one, two, names) = (store.watch(&name("one")), store.watch(&name("two")), store.list());
    until_shows(&two, "/b => /2").await;
    rig.kv().clear();
    sleep(Duration::from_mins(9)).await;
    assert!(is_kept(&one, "/a => /1") && is_kept(&two, "/b => /2"), "{one:?} {two:?}");
    // Who deletes it knows that it is to be gone.
    let missing = store.delete(&name("one"), &Expect::Any).await;
    assert!(matches!(&missing, Err(StoreError::Missing(_))), "{missing:?}");
    assert!(matches!(one.sample(), State::Ok(None)), "{one:?}");
    assert!(is_kept(&two, "/b => /2"), "{two:?}");
    until_gone(&two).await;
    until(&names, "empty", |snapshot| is_fresh(snapshot) && snapshot.state.clone().ok().unwrap().is_empty()).await;
}

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use linkerd_dtab::{
    namerd::{History, Keep, Namerd, PastError, Record, Session, WriteError},
    store::{DtabStore, Expect, Memory, StoreError},
};

use crate::support::{dtab, named, ns, session};

fn namerd(history: History) -> (Arc<Memory>, Namerd) {
    let store = Arc::new(Memory::default());
    (Arc::clone(&store), Namerd::builder(store).history(history).build())
}

fn open(folder: &Path) -> History {
    History::open(folder, Keep { records: 50, ..Keep::default() }).unwrap()
}

async fn put(session: &Session, table: &str) -> u64 {
    session.put(&ns("team/web"), &dtab(table), &Expect::Any).await.unwrap().seq
}

fn shown(records: &[Arc<Record>]) -> Vec<String> {
    let one = |record: &Arc<Record>| {
        let table = record.table.as_ref().map_or_else(|| "deleted".to_owned(), |table| table.dtab.to_string());
        let why = record.why.as_deref().unwrap_or("");
        format!("{} {} {table} ({why})", record.seq, record.who)
    };
    records.iter().map(one).collect()
}

#[tokio::test]
async fn a_clock_that_is_stepped_while_it_runs_changes_no_order_and_no_watch() {
    let folder = tempfile::tempdir().unwrap();
    let year = Arc::new(AtomicU64::new(2026));
    let stepped = Arc::clone(&year);
    let at = move || SystemTime::UNIX_EPOCH + Duration::from_hours((stepped.load(Ordering::Relaxed) - 1970) * 365 * 24);
    let (_, namerd) = namerd(open(folder.path()).clock(at.clone()));
    let session = namerd.session(named("ann"));
    let mut watched = session.dtab(&ns("team/web")).unwrap();
    for (port, now) in [(1, 2026), (2, 1970), (3, 2100), (4, 2020)] {
        year.store(now, Ordering::Relaxed);
        assert_eq!(put(&session, &format!("/a => /{port}")).await, port);
        watched.changed().await;
        let seen = watched.sample_and_update().ok().unwrap().unwrap();
        assert_eq!(seen.dtab, dtab(&format!("/a => /{port}")));
    }
    let history = || session.history(&ns("team/web"), 10).unwrap();
    let seqs = |records: Vec<Arc<Record>>| records.iter().map(|record| record.seq).collect::<Vec<_>>();
    assert_eq!(seqs(history()), [4, 3, 2, 1]);
    assert_eq!(session.diff(&ns("team/web"), 2, Some(3)).unwrap(), "- /a => /2 ;\n+ /a => /3 ;\n");
    session.rollback(&ns("team/web"), 2, &Expect::Any).await.unwrap();
    assert_eq!(shown(&history())[0], "5 ann /a=>/2 (back to 2)");
    // And so it is read again.
    let (_, again) = self::namerd(open(folder.path()).clock(at));
    assert_eq!(seqs(again.session(named("ann")).history(&ns("team/web"), 10).unwrap()), [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn every_change_is_recorded_with_who_and_why_and_can_be_gone_back_to() {
    let (_, namerd) = namerd(History::in_memory(Keep::default()));
    let session = namerd.session(named("ann"));
    put(&session, "/a => /1").await;
    put(&session.because("  try\nit "), "/a => /2; /b => /3").await;
    session.delete(&ns("team/web"), &Expect::Any).await.unwrap();
    let history = || session.history(&ns("team/web"), 10).unwrap();
    assert_eq!(shown(&history()), ["3 ann deleted ()", "2 ann /a=>/2;/b=>/3 (try it)", "1 ann /a=>/1 ()"]);
    assert_eq!(session.diff(&ns("team/web"), 1, Some(2)).unwrap(), "- /a => /1 ;\n+ /a => /2 ;\n+ /b => /3 ;\n");
    assert_eq!(session.diff(&ns("team/web"), 1, None).unwrap(), "- /a => /1 ;\n", "to what it is now");
    let missing = |name: &str, seq, there_are: &str| {
        let text = session.diff(&ns(name), 0, Some(seq)).unwrap_err().to_string();
        assert_eq!(text, format!("the history of namespace {name} has no record {seq}: {there_are}"));
    };
    missing("team/web", 9, "there are 1 to 3");
    missing("nobody", 0, "there are none");
    let missing = session.rollback(&ns("team/web"), 9, &Expect::Any).await.unwrap_err();
    assert!(matches!(missing, WriteError::Past(PastError::Missing { seq: 9, there_are: Some((1, 3)), .. })));

    // Back from a delete, and back to it.
    let back = session.rollback(&ns("team/web"), 1, &Expect::Absent).await.unwrap();
    assert_eq!(shown(&history())[0], "4 ann /a=>/1 (back to 1)");
    let wrong = session.rollback(&ns("team/web"), 2, &Expect::Absent).await;
    assert!(matches!(wrong, Err(WriteError::Store(StoreError::Exists(_)))));
    let expect = Expect::Version(back.version);
    session.because("oops").rollback(&ns("team/web"), 3, &expect).await.unwrap();
    assert_eq!(shown(&history())[0], "5 ann deleted (back to 3: oops)");
    assert!(session.dtab(&ns("team/web")).unwrap().sample().ok().unwrap().is_none());
    let json = history()[1].to_json().to_string();
    assert!(json.starts_with(r#"{"seq":4,"version":"AAAAAAAAAAE=","at":"20"#), "{json}");
    assert!(json.ends_with(r#"Z","who":"ann","why":"back to 1","dtab":[{"prefix":"/a","dst":"/1"}]}"#), "{json}");
}

#[tokio::test(start_paused = true)]
async fn changes_made_past_namerd_are_recorded_as_from_outside() {
    let (store, namerd) = namerd(History::in_memory(Keep::default()));
    store.put(&ns("team/web"), &dtab("/a => /0"), &Expect::Any).await.unwrap();
    let session = session(&namerd);
    // Paused: time goes on only when all there is to do is done.
    let settle = || tokio::time::sleep(std::time::Duration::from_secs(5));
    settle().await;
    put(&session, "/a => /1").await;
    settle().await;
    store.put(&ns("team/web"), &dtab("/a => /2"), &Expect::Any).await.unwrap();
    settle().await;
    store.delete(&ns("team/web"), &Expect::Any).await.unwrap();
    settle().await;
    store.put(&ns("team/web"), &dtab("/a => /3"), &Expect::Any).await.unwrap();
    settle().await;
    assert_eq!(
        shown(&session.history(&ns("team/web"), 10).unwrap()),
        [
            "5 outside /a=>/3 ()",
            "4 outside deleted ()",
            "3 outside /a=>/2 ()",
            "2 127.0.0.1:1 /a=>/1 ()",
            "1 outside /a=>/0 (found at the start)",
        ]
    );
}

#[tokio::test]
async fn what_was_there_before_the_first_change_is_recorded_with_it() {
    let (store, namerd) = namerd(History::in_memory(Keep::default()));
    let session = session(&namerd);
    store.put(&ns("team/web"), &dtab("/a => /0"), &Expect::Any).await.unwrap();
    assert_eq!(put(&session, "/a => /1").await, 2);
    session.rollback(&ns("team/web"), 1, &Expect::Any).await.unwrap();
    let stored = session.dtab(&ns("team/web")).unwrap().sample().ok().flatten().unwrap();
    assert_eq!(stored.dtab, dtab("/a => /0"));
    assert_eq!(session.diff(&ns("team/web"), 0, Some(1)).unwrap(), "+ /a => /0 ;\n");
    session.rollback(&ns("team/web"), 0, &Expect::Any).await.unwrap();
    assert!(session.dtab(&ns("team/web")).unwrap().sample().ok().unwrap().is_none());
}

#[tokio::test]
async fn a_change_is_made_and_recorded_also_when_nobody_waits_for_it() {
    let (store, namerd) = namerd(History::in_memory(Keep::default()));
    let session = namerd.session(named("ann"));
    let (namespace, table) = (ns("team/web"), dtab("/a => /1"));
    {
        let mut put = tokio_test::task::spawn(session.put(&namespace, &table, &Expect::Any));
        assert!(put.poll().is_pending());
    }
    let mut stored = store.watch(&namespace);
    while stored.sample_and_update().ok().flatten().is_none() {
        stored.changed().await;
    }
    // The next one has to wait for the turn of the first.
    put(&session, "/a => /2").await;
    assert_eq!(shown(&session.history(&namespace, 10).unwrap()), ["2 ann /a=>/2 ()", "1 ann /a=>/1 ()"]);
}

#[tokio::test]
async fn a_history_on_disk_outlives_the_process_and_a_torn_line() {
    let folder = tempfile::tempdir().unwrap();
    let namespace = ns("team/web");
    {
        let (_, namerd) = namerd(open(folder.path()));
        let session = namerd.session(named("ann"));
        put(&session.because("first"), "/a => /1").await;
        put(&session, "/a => /2").await;
    }
    let file = folder.path().join("team~web");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = whole.lines().collect();
    assert_eq!(lines.len(), 2);
    // Cut anywhere within the last line: the first is as it was, and the next is written after it.
    for cut in [1, 2, lines[1].len() / 2, lines[1].len()] {
        fs::write(&file, &whole[..whole.len() - cut]).unwrap();
        let (_, namerd) = namerd(open(folder.path()));
        assert_eq!(fs::read_to_string(&file).unwrap().lines().collect::<Vec<_>>(), lines[..1], "{cut}");
        let session = namerd.session(named("bob"));
        put(&session, "/a => /3").await;
        let (_, namerd) = self::namerd(open(folder.path()));
        let history = shown(&namerd.session(named("bob")).history(&namespace, 10).unwrap());
        // The store in memory was not there after the restart.
        assert_eq!(history, ["3 bob /a=>/3 ()", "2 outside deleted ()", "1 ann /a=>/1 (first)"], "{cut}");
    }
}

#[tokio::test]
async fn the_past_is_bounded_in_memory_and_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Keep { records: 5, bytes: 1 << 20, file_bytes: 2000, ..Keep::default() };
    let (_, namerd) = namerd(History::open(folder.path(), keep).unwrap());
    let session = namerd.session(named("ann"));
    for n in 1..=60 {
        assert_eq!(put(&session, &format!("/a => /{n}")).await, n);
    }
    let numbers = |session: &Session| {
        let records = session.history(&ns("team/web"), 100).unwrap();
        records.iter().map(|record| record.seq).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&session), [60, 59, 58, 57, 56]);
    for file in [folder.path().join("team~web"), folder.path().join("~old/team~web")] {
        let len = fs::metadata(&file).unwrap().len();
        assert!((100..=2000).contains(&len), "{len}");
    }
    let (_, namerd) = self::namerd(History::open(folder.path(), keep).unwrap());
    let session = namerd.session(named("ann"));
    assert_eq!(numbers(&session), [60, 59, 58, 57, 56]);
    let few = Keep { records: 100, bytes: 1, ..Keep::default() };
    let (_, namerd) = self::namerd(History::in_memory(few));
    let session = namerd.session(named("ann"));
    put(&session, "/a => /1").await;
    put(&session, "/a => /2").await;
    assert_eq!(numbers(&session), [2], "the last is kept whatever its size");
}

#[tokio::test]
async fn deleting_what_is_not_there_leaves_the_past_alone() {
    let (_, namerd) = namerd(History::in_memory(Keep::default()));
    let session = namerd.session(named("ann"));
    session.put(&ns("gone"), &dtab("/a => /1"), &Expect::Any).await.unwrap();
    session.delete(&ns("gone"), &Expect::Any).await.unwrap();
    put(&session, "/a => /1").await;
    // More than deleted namespaces are remembered.
    for n in 0..Keep::default().deleted + 10 {
        let missing = session.delete(&ns(&format!("none-{n}")), &Expect::Any).await;
        assert!(matches!(missing, Err(WriteError::Store(StoreError::Missing(_)))), "{missing:?}");
    }
    assert_eq!(shown(&session.history(&ns("gone"), 10).unwrap()), ["2 ann deleted ()", "1 ann /a=>/1 ()"]);
    assert_eq!(put(&session, "/a => /2").await, 2);
    assert_eq!(session.put(&ns("gone"), &dtab("/a => /3"), &Expect::Any).await.unwrap().seq, 3);
}

#[tokio::test]
async fn of_the_deleted_the_first_are_forgotten_and_no_number_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Keep { deleted: 3, ..Keep::default() };
    let open = || History::open(folder.path(), keep).unwrap();
    let files = || fs::read_dir(folder.path()).unwrap().count();
    let (store, namerd) = namerd(open());
    let session = namerd.session(named("ann"));
    let number = async |session: &Session, name: &str| {
        session.put(&ns(name), &dtab("/a => /1"), &Expect::Any).await.unwrap().seq
    };
    for n in 0..20 {
        number(&session, &format!("alive-{n}")).await;
    }
    for table in ["/a => /1", "/a => /2", "/a => /3"] {
        session.put(&ns("first"), &dtab(table), &Expect::Any).await.unwrap();
    }
    session.delete(&ns("first"), &Expect::Any).await.unwrap();
    for name in ["second", "third", "again"] {
        number(&session, name).await;
        session.delete(&ns(name), &Expect::Any).await.unwrap();
        if name == "third" {
            // It was deleted before the others and is there again: it does not count.
            assert_eq!(number(&session, "second").await, 3);
        }
    }
    let len = |session: &Session, name: &str| session.history(&ns(name), 10).unwrap().len();
    assert_eq!(["first", "second", "third", "again"].map(|name| len(&session, name)), [4, 3, 2, 2]);
    session.delete(&ns("alive-0"), &Expect::Any).await.unwrap();
    assert_eq!(["first", "second", "third", "again"].map(|name| len(&session, name)), [0, 3, 2, 2]);
    for n in 0..20 {
        assert!(len(&session, &format!("alive-{n}")) > 0, "{n}");
    }
    // Beside the files of those there are `~old` and the highest number that was forgotten.
    assert_eq!(files(), 20 + 3 + 2);
    assert_eq!(number(&session, "first").await, 5, "its numbers up to 4 stood for other tables");

    // After a restart, too; and what has a bound that was lowered is within it.
    let keep = Keep { deleted: 1, ..Keep::default() };
    drop(namerd);
    let namerd = Namerd::builder(Arc::clone(&store)).history(History::open(folder.path(), keep).unwrap()).build();
    let session = namerd.session(named("ann"));
    assert_eq!(["second", "third", "again", "alive-0"].map(|name| len(&session, name)), [3, 0, 0, 2]);
    assert_eq!(number(&session, "third").await, 5);
    assert_eq!(number(&session, "new").await, 5);
    assert_eq!(number(&session, "second").await, 4);
}

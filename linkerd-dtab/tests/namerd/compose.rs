use std::{collections::BTreeSet, sync::Arc, time::Duration};

use linkerd_dtab::{
    Activity, Dtab,
    namerd::{
        Builder, Composition, Grant, Namerd, Part, Peer, Protection, Record, Role, Roles, Session, Who, WriteError,
    },
    store::{Change, DtabStore, Expect, Memory, Namespace, StoreError, Stored, Version},
};

use crate::support::{Counted, dtab, named, ns, path, session, value};

fn part(fragments: &str, owns: &[&str]) -> Part {
    Part { fragments: fragments.parse().unwrap(), owns: owns.iter().map(|owned| owned.parse().unwrap()).collect() }
}

fn namerd() -> Namerd {
    let composition = Composition {
        namespace: ns("all"),
        parts: vec![part("base", &[]), part("team/*", &["/svc/{}*", "/own/{}"]), part("env", &[])],
    };
    let tables = [(ns("base"), dtab("/svc => /#/fixed")), (ns("env"), dtab("/env => /x"))];
    Namerd::builder(Memory::new(tables)).namer(path("/#/fixed"), Counted::new()).compose(composition).build()
}

async fn rejected(namerd: &Namerd, namespace: &str, table: &str) -> String {
    rejected_by(&session(namerd), namespace, table).await
}

async fn rejected_by(session: &Session, namespace: &str, table: &str) -> String {
    match session.put(&ns(namespace), &dtab(table), &Expect::Any).await {
        Err(WriteError::Rejected(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn fragments_make_one_table_in_a_fixed_order() {
    let namerd = namerd();
    let session = session(&namerd);
    let mut all = session.dtab(&ns("all")).unwrap();
    let first = value(&mut all).await.unwrap().unwrap();
    assert_eq!(first.dtab.to_string(), "/svc=>/#/fixed;/env=>/x");
    let mut tree = session.bind(&ns("all"), &dtab(""), &path("/svc/web")).unwrap();
    assert_eq!(value(&mut tree).await.unwrap().to_string(), "/#/fixed/web");

    // Written in another order than that of their names.
    session.put(&ns("team/web"), &dtab("/svc/web => /svc/web-v2"), &Expect::Any).await.unwrap();
    session.put(&ns("team/db"), &dtab("/svc/db => /own/db; /own/db => /#/fixed/db"), &Expect::Any).await.unwrap();
    let expected = "/svc=>/#/fixed;/svc/db=>/own/db;/own/db=>/#/fixed/db;/svc/web=>/svc/web-v2;/env=>/x";
    while all.sample_and_update().ok().flatten().is_none_or(|table| table.dtab.to_string() != expected) {
        all.changed().await;
    }
    while tree.sample_and_update().ok().is_none_or(|tree| tree.to_string() != "/#/fixed/web-v2") {
        tree.changed().await;
    }
    let second = value(&mut all).await.unwrap().unwrap();
    assert_ne!(first.version, second.version);
    let names = value(&mut session.namespaces().unwrap()).await.unwrap();
    let names: Vec<_> = names.iter().map(linkerd_dtab::store::Namespace::as_str).collect();
    assert_eq!(names, ["all", "base", "env", "team/db", "team/web"]);
    let same = self::namerd();
    let session = self::session(&same);
    assert_eq!(value(&mut session.dtab(&ns("all")).unwrap()).await.unwrap().unwrap().version, first.version);
}

// The clock stands still as long as a task has something to do.
#[tokio::test(start_paused = true)]
async fn a_write_is_answered_when_all_that_it_is_part_of_shows_it() {
    // So many that the tasks behind them do not all have their turn before whoever wrote.
    let wholes: Vec<_> = (0..100).map(|n| ns(&format!("whole-{n}"))).collect();
    let compose = |builder: Builder, namespace: &Namespace| {
        let parts = vec![part("base", &[]), part("team/*", &[])];
        builder.compose(Composition { namespace: namespace.clone(), parts })
    };
    let store = Memory::new([(ns("base"), dtab("/svc => /#/fixed"))]);
    let builder = Namerd::builder(store).namer(path("/#/fixed"), Counted::new());
    let namerd = wholes.iter().fold(builder, compose).build();
    let session = session(&namerd);
    let shown: Vec<_> = wholes.iter().map(|whole| session.dtab(whole).unwrap()).collect();
    let explain = |whole| session.delegate(whole, &dtab(""), &path("/svc/web")).unwrap();
    let held: Vec<_> = wholes.iter().map(explain).collect();
    // One that is new, one that is there, and one that goes.
    for table in ["/svc/web => /#/fixed/a", "/svc/web => /#/fixed/b", ""] {
        let expected = dtab(&format!("/svc => /#/fixed; {table}"));
        let written = match table {
            "" => session.delete(&ns("team/web"), &Expect::Any).await,
            table => session.put(&ns("team/web"), &dtab(table), &Expect::Any).await,
        };
        assert_eq!(written.unwrap().warnings, [""; 0]);
        for (whole, shown) in wholes.iter().zip(&shown) {
            assert_eq!(shown.sample().ok().flatten().unwrap().dtab, expected, "{whole}");
            let leads_to = if table.is_empty() { "/#/fixed/web" } else { &table[12..] };
            let explained = format!("{:?}", explain(whole).sample());
            assert!(explained.contains(leads_to), "{whole} {table}: {explained}");
        }
    }
    drop(held);
}

/// A store in which nobody knows what the namespace `team/bad` has.
struct WithBad(Memory);

impl DtabStore for WithBad {
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        self.0.list()
    }

    fn watch(&self, namespace: &Namespace) -> Activity<Stored> {
        match namespace.as_str() {
            "team/bad" => Activity::failed(Arc::new(std::io::Error::other("no table"))),
            _ => self.0.watch(namespace),
        }
    }

    fn put<'a>(&'a self, namespace: &'a Namespace, dtab: &'a Dtab, expect: &'a Expect) -> Change<'a, Version> {
        self.0.put(namespace, dtab, expect)
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Change<'a, ()> {
        self.0.delete(namespace, expect)
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_that_does_not_show_a_write_in_time_is_warned_of() {
    let tables = ["base", "team/bad", "team/db", "team/web"].map(|name| (ns(name), dtab("/x => /y")));
    let composition = Composition { namespace: ns("all"), parts: vec![part("base", &[]), part("team/*", &[])] };
    let grant = |name: &str, namespaces: &str, role| Grant {
        who: Who::Name(name.into()),
        namespaces: namespaces.parse().unwrap(),
        role,
    };
    let grants = [grant("web", "team/*", Role::Write), grant("all", "*", Role::Admin)];
    let namerd = Namerd::builder(WithBad(Memory::new(tables))).compose(composition).roles(Roles::new(grants)).build();
    let all = namerd.session(named("all"));
    let _followed = all.dtab(&ns("all")).unwrap();
    let start = tokio::time::Instant::now();
    let written = all.delete(&ns("team/web"), &Expect::Any).await.unwrap();
    assert_eq!(written.warnings, ["namespace all does not show it yet"]);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(value(&mut all.dtab(&ns("team/web")).unwrap()).await.unwrap(), None, "it was made all the same");
    let written = namerd.session(named("web")).delete(&ns("team/db"), &Expect::Any).await.unwrap();
    assert_eq!(written.warnings, ["a namespace that it is part of does not show it yet"]);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_be_read_does_not_stop_changes_of_the_others() {
    let tables = ["base", "team/bad"].map(|name| (ns(name), dtab("/x => /y")));
    let composition = Composition { namespace: ns("all"), parts: vec![part("base", &[]), part("team/*", &[])] };
    let grant = |name: &str, namespaces: &str| Grant {
        who: Who::Name(name.into()),
        namespaces: namespaces.parse().unwrap(),
        role: Role::Admin,
    };
    let roles = Roles::new([grant("all", "*"), grant("web", "team/web")]);
    let namerd = Namerd::builder(WithBad(Memory::new(tables))).compose(composition).roles(roles).build();
    let (all, web) = (namerd.session(named("all")), namerd.session(named("web")));
    let (base, new) = (ns("base"), dtab("/x => /z"));
    let warning = "namespace team/bad, a part of namespace all, cannot be read: it was not compared with this, which does not \
                   show there until that is repaired (no table)";
    let plan = all.plan(&base, &new, &[path("/x")]).await.unwrap();
    assert_eq!((plan.checked.errors, plan.checked.warnings), (vec![], vec![warning.to_owned()]));
    assert!(plan.moves.iter().all(|found| found.namespace == base), "the whole stays as it is");
    assert_eq!(all.put(&base, &new, &Expect::Any).await.unwrap().warnings, [warning]);
    assert_eq!(all.rollback(&base, 1, &Expect::Any).await.unwrap().warnings, [warning]);
    let written = web.put(&ns("team/web"), &new, &Expect::Any).await.unwrap();
    assert_eq!(
        written.warnings,
        [
            "a part of a namespace that it is part of cannot be read: it was not compared with this, which does not show there \
          until that is repaired"
        ]
    );
    // What repairs it.
    assert_eq!(all.check(&ns("team/bad"), &dtab("/a => /b")).await.unwrap().warnings, [""; 0]);
    all.put(&ns("team/bad"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
    let conflict = rejected_by(&all, "team/bad", "/x => /q").await;
    assert!(conflict.contains("conflicts with entry 1 of team/web"), "{conflict}");
}

#[cfg(feature = "files")]
#[tokio::test]
async fn a_file_that_is_no_dtab_is_repaired_by_a_write_and_named_until_then() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("team%2Fweb.dtab"), "/svc/web -> /a").unwrap();
    let composition = Composition { namespace: ns("all"), parts: vec![part("base", &[]), part("team/*", &[])] };
    let store = linkerd_dtab::store::Files::new(dir.path()).open();
    let namerd = Namerd::builder(store).namer(path("/#/fixed"), Counted::new()).compose(composition).build();
    let session = session(&namerd);
    let [warning] = &session.put(&ns("base"), &dtab("/svc => /#/fixed"), &Expect::Any).await.unwrap().warnings[..]
    else {
        panic!("one part is bad")
    };
    assert!(
        warning.starts_with("namespace team/web, a part of namespace all, cannot be read: it was not "),
        "{warning}"
    );
    assert!(warning.contains("team%2Fweb.dtab: line 1, column "), "{warning}");
    let mut tree = session.bind(&ns("all"), &dtab(""), &path("/svc/web")).unwrap();
    assert!(value(&mut tree).await.unwrap_err().contains("team%2Fweb.dtab"), "it is not left out");
    session.put(&ns("team/web"), &dtab("/svc/web => /#/fixed/db"), &Expect::Any).await.unwrap();
    let mut tree = session.bind(&ns("all"), &dtab(""), &path("/svc/web")).unwrap();
    let is_bound = async {
        while tree.sample_and_update().ok().is_none_or(|tree| tree.to_string() != "/#/fixed/db") {
            tree.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), is_bound).await.expect("it is repaired");
}

#[tokio::test]
async fn a_fragment_defines_only_what_it_owns() {
    let namerd = namerd();
    assert_eq!(
        rejected(&namerd, "team/web", "/svc/web-v2 => /a; /svc/db => /b").await,
        "entry 2 of team/web defines /svc/db, but it may only define /svc/web*, /own/web and below"
    );
    for table in ["/svc => /b", "/svc/* => /b", "/ => /b", "/own/webs => /b", "/*/web => /b"] {
        assert!(rejected(&namerd, "team/web", table).await.starts_with("entry 1 of team/web defines"), "{table}");
    }
    let session = session(&namerd);
    let allowed = dtab("/svc/web => /a; /svc/web/*/x => /a; /svc/web-v2 => /b; /own/web/x => /c");
    session.put(&ns("team/web"), &allowed, &Expect::Any).await.unwrap();
    session.put(&ns("env"), &dtab("/svc/web => /z"), &Expect::Any).await.unwrap();
}

#[tokio::test]
async fn two_fragments_of_one_part_do_not_define_the_same_names() {
    let namerd = namerd();
    let session = session(&namerd);
    session.put(&ns("team/web"), &dtab("/svc/web-admin => /a"), &Expect::Any).await.unwrap();
    assert_eq!(
        rejected(&namerd, "team/web-admin", "/svc/web-admin/x => /b").await,
        "entry 1 of team/web-admin defines /svc/web-admin/x, which conflicts with entry 1 of team/web \
         (/svc/web-admin=>/a)"
    );
    session.put(&ns("team/web"), &dtab("/svc/web => /b; /svc/web-admin => /a"), &Expect::Any).await.unwrap();
    let text = "/svc/web-admin-2 => /x;\n  /svc/web-admin/x => /b";
    let error = session.of_text(text).put(&ns("team/web-admin"), &dtab(text), &Expect::Any).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 2 of team/web-admin at line 2, column 3 defines /svc/web-admin/x, which conflicts with entry 2 of team/web \
         (/svc/web-admin=>/a)"
    );
    let text = "# mine\n/svc/web-admin-2 => /x;\n/svc/db => /b";
    let error = session.of_text(text).put(&ns("team/web-admin"), &dtab(text), &Expect::Any).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 2 of team/web-admin at line 3, column 1 defines /svc/db, but it may only define /svc/web-admin*, \
         /own/web-admin and below"
    );
    session.put(&ns("team/web"), &dtab("/svc/web-admin => /b"), &Expect::Any).await.unwrap();
    session.delete(&ns("team/web"), &Expect::Any).await.unwrap();
    session.put(&ns("team/web-admin"), &dtab("/svc/web-admin/x => /b"), &Expect::Any).await.unwrap();
}

#[tokio::test]
async fn a_composed_namespace_is_not_changed_itself_and_its_whole_is_checked() {
    let namerd = namerd();
    assert_eq!(
        rejected(&namerd, "all", "/svc => /a").await,
        "namespace all is made of base + team/* + env: change one of those"
    );
    let session = session(&namerd);
    let errors = ["namespace all is made of base + team/* + env: change one of those"];
    assert_eq!(session.check(&ns("all"), &dtab("/svc => /a")).await.unwrap().errors, errors);
    assert_eq!(session.plan(&ns("all"), &dtab("/svc => /a"), &[]).await.unwrap().checked.errors, errors);
    assert!(matches!(session.delete(&ns("all"), &Expect::Any).await, Err(WriteError::Rejected(_))));
    let missing = session.delete(&ns("team/none"), &Expect::Any).await;
    assert!(matches!(missing, Err(WriteError::Store(StoreError::Missing(_)))));
    session.put(&ns("team/web"), &dtab("/svc/web => /env/web"), &Expect::Any).await.unwrap();
    let written = session.put(&ns("env"), &dtab("/env => /svc"), &Expect::Any).await.unwrap();
    assert_eq!(written.warnings.len(), 1, "{:?}", written.warnings);
    assert_eq!(
        written.warnings,
        ["all as a whole: entry 1 of env (/env=>/svc): names go round: /svc/web -> /env/web -> /svc/web"]
    );
    let again = session.put(&ns("env"), &dtab("/env => /svc; /x => /y"), &Expect::Any).await.unwrap();
    assert_eq!(again.warnings, [""; 0], "that was there before");
    let decided = session.put(&ns("env"), &dtab("/x => /y; /svc/web => $"), &Expect::Any).await.unwrap();
    assert_eq!(
        decided.warnings,
        [
            "all as a whole: entry 1 of team/web (/svc/web=>/env/web): it has no effect, as entry 2 of env decides for all of \
          its names"
        ]
    );
}

/// `team/web` may be written by `web`, who may read no more than that and, if so, `all`; `team/db` is somebody else's.
fn divided(reads_all: bool) -> Namerd {
    let composition = Composition {
        namespace: ns("all"),
        parts: vec![part("base", &[]), part("team/*", &[]), part("secret-env", &[])],
    };
    let tables = [
        (ns("base"), dtab("/hidden => /round; /db => /hidden/x")),
        (ns("team/db"), dtab("/svc/db => /db; /a => /secret-place")),
        (ns("team/web"), dtab("/svc/web => /x")),
        (ns("secret-env"), dtab("/env => /x")),
    ];
    let grant =
        |namespaces: &str, role| Grant { who: Who::Name("web".into()), namespaces: namespaces.parse().unwrap(), role };
    let mut grants = vec![grant("team/web", Role::Write), grant("other/*", Role::Write)];
    grants.extend(reads_all.then(|| grant("all", Role::Write)));
    let mut protection = Protection::new((&ns("all")).into());
    protection.strict = true;
    Namerd::builder(Memory::new(tables))
        .namer(path("/#/fixed"), Counted::new())
        .compose(composition)
        .roles(Roles::new(grants))
        .protect(protection)
        .build()
}

#[tokio::test]
async fn nobody_is_told_of_fragments_that_it_may_not_read() {
    let ask = async |reads_all, table: &str| {
        let session = divided(reads_all).session(named("web"));
        let checked = session.check(&ns("team/web"), &dtab(table)).await.unwrap();
        let planned = session.plan(&ns("team/web"), &dtab(table), &[path("/svc/db")]).await.unwrap();
        assert_eq!(planned.checked, checked);
        let put = session.put(&ns("team/web"), &dtab(table), &Expect::Any).await;
        let put = put.err().map_or(String::new(), |error| error.to_string());
        assert_eq!(put, checked.errors.join("\n"));
        (checked.errors, checked.warnings, planned.moves.len())
    };
    let conflict = "/b => /x; /svc/db => /y";
    let (errors, ..) = ask(false, conflict).await;
    assert_eq!(errors, ["entry 2 of team/web defines /svc/db, which conflicts with what another fragment has"]);

    // Names go round through what others define.
    let round = "/x => /x2; /round => /hidden";
    let (errors, warnings, moves) = ask(false, round).await;
    assert!(!errors.is_empty());
    for text in errors.iter().chain(&warnings) {
        let is_known = *text == "it does not fit the tables that it is put together with"
            || *text == "entry 2 (/round=>/hidden): names go round together with what others define";
        assert!(is_known, "{text}");
    }
    assert_eq!(moves, 0);
    let (errors, ..) = ask(true, round).await;
    assert!(
        errors[0].starts_with("all as a whole: entry 2 of team/web (/round=>/hidden): names go round: /hidden"),
        "{errors:?}"
    );
    // It may read the whole, and not which part that is from.
    let (_, warnings, _) = ask(true, "/env => /x").await;
    let expected =
        "all as a whole: entry 1 of team/web (/env=>/x): it has no effect, as entry 6 of the whole decides for all";
    assert!(warnings[0].starts_with(expected), "{warnings:?}");

    // A place is that in one's own text.
    let text = "/x => /x2;\n /round => /hidden; /round2 => /round2";
    let own = |reads_all| divided(reads_all).session(named("web")).of_text(text);
    let checked = own(false).check(&ns("team/web"), &dtab(text)).await.unwrap();
    let all: Vec<_> = checked.errors.iter().chain(&checked.warnings).collect();
    assert!(all.iter().any(|text| text.starts_with("entry 3 at line 2, column 21 (/round2=>/round2): ")), "{all:?}");
    let checked = own(true).check(&ns("team/web"), &dtab(text)).await.unwrap();
    let found = checked.errors.iter().find(|text| text.contains("/round2")).unwrap();
    let expected = "all as a whole: entry 3 of team/web at line 2, column 21 (/round2=>/round2): names go round";
    assert!(found.starts_with(expected), "{found}");
}

/// `all` is `base`, which has faults, and `team/*`, which is strict; `web` may read and write `team/web` alone.
fn faulty() -> Namerd {
    let grant = |name: &str, namespaces: &str| Grant {
        who: Who::Name(name.into()),
        namespaces: namespaces.parse().unwrap(),
        role: Role::Write,
    };
    let strict = Protection { strict: true, ..Protection::new("team/*".parse().unwrap()) };
    let base = dtab("/svc/db => /svc/web; /x => /#/nope; /svc/in => /svc/web/deep");
    Namerd::builder(Memory::new([(ns("base"), base)]))
        .namer(path("/#/fixed"), Counted::new())
        .compose(Composition { namespace: ns("all"), parts: vec![part("base", &[]), part("team/*", &[])] })
        .roles(Roles::new([grant("all", "*"), grant("web", "team/web")]))
        .protect(strict)
        .build()
}

#[tokio::test]
async fn a_fault_is_that_of_the_entry_that_makes_it_whatever_leads_there_and_whoever_has_the_same() {
    let unknown = "entry 1{} at line 2, column 1 (/svc/web=>/#/nope): no namer is configured for /#/nope";
    let round =
        "entry 1{} at line 1, column 1 (/svc/web=>/svc/web-a): names go round: /svc/web -> /svc/web-a -> /svc/web";
    let cases = [("# mine\n/svc/web => /#/nope", unknown), ("/svc/web=>/svc/web-a;\n/svc/web-a=>/svc/web", round)];
    for (text, expected) in cases {
        let namerd = faulty();
        let refused = async |name: &str| {
            let session = namerd.session(named(name)).of_text(text);
            session.put(&ns("team/web"), &dtab(text), &Expect::Any).await.unwrap_err().to_string()
        };
        // Names below it that only others have are not told to who may not read those.
        assert_eq!(refused("web").await, expected.replace("{}", ""));
        let told = refused("all").await;
        let expected = format!("all as a whole: {}", expected.replace("{}", " of team/web"));
        assert_eq!(told.lines().next(), Some(&*expected), "{told}");
        assert!(told.lines().all(|line| line.contains("entry 1 of team/web at line")), "{told}");
    }
}

#[tokio::test]
async fn a_fault_that_was_there_is_known_where_entries_have_moved_and_no_longer_where_it_is_anothers() {
    let namerd = faulty();
    let all = namerd.session(named("all"));
    let moved = dtab("/y => /z; /svc/db => /svc/web; /x => /#/nope; /svc/in => /svc/web/deep");
    assert_eq!(all.put(&ns("base"), &moved, &Expect::Any).await.unwrap().warnings, [""; 0]);
    all.put(&ns("team/db"), &dtab("/svc/d => /#/fixed"), &Expect::Any).await.unwrap();
    let led = rejected_by(&all, "team/web", "/svc/y => /x/1").await;
    assert_eq!(led, "all as a whole: entry 1 of team/web (/svc/y=>/x/1): no namer is configured for /#/nope/1");
}

#[tokio::test]
async fn a_whole_is_refused_without_the_names_of_parts_that_are_hidden() {
    let session = divided(true).session(named("web"));
    let refused = session.put(&ns("all"), &dtab("/a => /b"), &Expect::Any).await.unwrap_err();
    assert_eq!(refused.to_string(), "namespace all is made of ... + ... + ...: change one of those");
}

/// Waits until what is there at the start is recorded.
async fn has_past(session: &Session, namespace: &str) {
    let is_known = async {
        while session.history(&ns(namespace), 1).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), is_known).await.expect("it is recorded");
}

#[tokio::test]
async fn the_past_of_a_whole_is_that_of_its_parts_which_may_be_read() {
    let namerd = namerd();
    let session = session(&namerd);
    assert_eq!(session.composed_history(&ns("base"), 9).unwrap(), None);
    has_past(&session, "base").await;
    has_past(&session, "env").await;
    for (name, table) in [("team/web", "/svc/web => /a"), ("base", "/svc => /b"), ("team/web", "/svc/web => /c")] {
        session.put(&ns(name), &dtab(table), &Expect::Any).await.unwrap();
    }
    session.put(&ns("other"), &dtab("/x => /y"), &Expect::Any).await.unwrap();
    session.delete(&ns("team/web"), &Expect::Any).await.unwrap();
    let shown = |limit| {
        let past = session.composed_history(&ns("all"), limit).unwrap().unwrap();
        let shown = |(name, record): &(Namespace, Arc<Record>)| format!("{name} {}", record.seq);
        (past.note, past.changes.iter().map(shown).collect::<Vec<_>>())
    };
    let note = "namespace all is made of base + team/* + env: these are the changes of its parts";
    let (said, changes) = shown(9);
    assert_eq!(said, note);
    assert_eq!(changes[..4], ["team/web 3", "team/web 2", "base 2", "team/web 1"]);
    // These were there at the start.
    assert_eq!(
        changes[4..].iter().map(|change| &**change).collect::<BTreeSet<_>>(),
        BTreeSet::from(["base 1", "env 1"])
    );
    assert_eq!(shown(2).1, ["team/web 3", "team/web 2"]);
    assert_eq!(session.history(&ns("all"), 9).unwrap(), []);
    let error = session.diff(&ns("all"), 1, Some(2)).unwrap_err().to_string();
    assert_eq!(
        error,
        "namespace all is made of base + team/* + env, and has no changes of its own: ask for those of one of these"
    );

    let hidden = divided(true);
    let (web, all) = (hidden.session(named("web")), ns("all"));
    web.put(&ns("team/web"), &dtab("/svc/web => /y"), &Expect::Any).await.unwrap();
    // Somebody has looked at the others, so that they have a past, too.
    let operator = hidden.session(Peer { is_operator: true, ..Peer::default() });
    has_past(&operator, "team/db").await;
    let past = web.composed_history(&all, 9).unwrap().unwrap();
    assert!(past.changes.iter().all(|(name, _)| *name == ns("team/web")) && !past.changes.is_empty(), "{past:?}");
    assert!(
        past.note.ends_with(": these are the changes of its parts, but for those that you may not read"),
        "{}",
        past.note
    );
    assert!(divided(false).session(named("web")).composed_history(&all, 9).is_err());
}

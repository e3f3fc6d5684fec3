//! Bindings and explanations over time: what a change of a namer, of a table or of who is watching does to them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use linkerd_dtab::{
    Activity, Addr, BindError, Bound, Dtab, Failure, Interpreter, Name, NameTree, Namer, Path, Publisher, State,
    delegate::{self, Step, Unsettled},
    interpreter::Local,
    namer::Resolve,
};
use tokio_test::{assert_pending, assert_ready, task};

/// Answers what a test publishes, and lets it see who watches.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<HashMap<Path, Publisher<NameTree<Name>>>>>);

impl Fake {
    fn names(&self) -> MutexGuard<'_, HashMap<Path, Publisher<NameTree<Name>>>> {
        self.0.lock().unwrap()
    }

    fn bound(&self, name: &str) {
        let bound = Bound::new(path(name), Path::empty(), Activity::value(Addr::Neg));
        self.names()[&path(name)].ok(NameTree::Leaf(Name::Bound(bound)));
    }

    fn neg(&self, name: &str) {
        self.names()[&path(name)].ok(NameTree::Neg);
    }

    fn failed(&self, name: &str, text: &str) {
        self.names()[&path(name)].failed(failure(text));
    }

    fn is_watched(&self, name: &str) -> bool {
        self.names().get(&path(name)).is_some_and(|publisher| !publisher.is_closed())
    }
}

impl Namer for Fake {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        self.names().entry(path.clone()).or_insert_with(|| Activity::channel().0).subscribe()
    }
}

struct Nowhere;

impl Resolve for Nowhere {
    fn resolve(&self, _: &str, _: &str) -> Activity<Addr> {
        Activity::value(Addr::Neg)
    }

    fn resolve_once(&self, _: &str, _: &str) -> Activity<Addr> {
        Activity::value(Addr::Neg)
    }
}

fn failure(text: &str) -> Failure {
    Failure::from(Box::<dyn std::error::Error + Send + Sync>::from(text))
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn interpreter() -> (Fake, Local) {
    let fake = Fake::default();
    let local = Local::new(vec![(path("/#/fake"), Arc::new(fake.clone()))], Arc::new(Nowhere));
    (fake, local)
}

fn bind(local: &Local, dtab: &str, name: &str) -> Activity<NameTree<Bound>> {
    local.bind(&dtab.parse().unwrap(), &path(name))
}

fn shown(activity: &Activity<NameTree<Bound>>) -> String {
    match activity.sample() {
        State::Ok(tree) => tree.to_string(),
        State::Pending => "pending".to_owned(),
        State::Failed(error) => format!("failed: {error}"),
    }
}

/// Lets the tasks of all bindings run.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_binding_follows_its_namer() {
    let (fake, local) = interpreter();
    let tree = bind(&local, "/svc => /#/fake", "/svc/a");
    assert_eq!(shown(&tree), "pending");
    fake.bound("/a");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a");
    fake.neg("/a");
    settle().await;
    assert_eq!(shown(&tree), "~");
}

#[tokio::test]
async fn the_first_answer_is_there_at_once() {
    let (fake, local) = interpreter();
    let _watch = fake.lookup(&path("/a"));
    fake.bound("/a");
    assert_eq!(shown(&bind(&local, "/svc => /#/fake", "/svc/a")), "/#/fake/a");
}

#[tokio::test]
async fn the_same_tree_again_is_no_change() {
    let (fake, local) = interpreter();
    let mut tree = bind(&local, "/svc => /#/fake/a | /#/fake/b", "/svc");
    fake.bound("/a");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a");
    let _ = tree.sample_and_update();
    let State::Ok(same) = fake.lookup(&path("/a")).sample() else { panic!("published above") };
    fake.names()[&path("/a")].ok(same);
    settle().await;
    let mut changed = task::spawn(tree.changed());
    assert_pending!(changed.poll());
    // The same name with another watch of its addresses is a change, or the old watch would be read for ever.
    fake.bound("/a");
    settle().await;
    assert_ready!(changed.poll());
}

#[tokio::test]
async fn a_failure_keeps_the_tree_and_marks_it_stale() {
    let (fake, local) = interpreter();
    let table = Activity::<Dtab>::channel();
    let local = local.with_dtab(table.1);
    let tree = bind(&local, "/svc => /#/fake", "/svc/a");
    assert_eq!(shown(&tree), "pending");
    table.0.ok("/x => /y".parse().unwrap());
    settle().await;
    fake.bound("/a");
    settle().await;
    // The table now leads elsewhere, where there is an error and no answer.
    table.0.ok("/y => /y".parse().unwrap());
    let other = bind(&local, "/svc => /y", "/svc/a");
    assert!(shown(&other).starts_with("failed: Max recursion level: 100 reached"));
    fake.failed("/a", "the source is down");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a");
}

#[tokio::test]
async fn a_tree_that_starts_to_fail_is_kept() {
    let (fake, local) = interpreter();
    let table = Activity::<Dtab>::channel();
    table.0.ok("/svc => /#/fake/a".parse().unwrap());
    let local = local.with_dtab(table.1);
    let tree = bind(&local, "", "/svc");
    fake.bound("/a");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a");
    table.0.ok("/svc => /svc".parse().unwrap());
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a", "stale beats absent");
    assert!(tree.snapshot().stale.unwrap().to_string().contains("Max recursion"));
    // Pending, too: the new name is not known yet.
    table.0.ok("/svc => /#/fake/b".parse().unwrap());
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a");
    fake.bound("/b");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/b");
    assert!(tree.snapshot().stale.is_none());
}

#[tokio::test]
async fn a_failure_before_the_first_tree_fails_until_there_is_one() {
    let (fake, local) = interpreter();
    let tree = bind(&local, "/svc => /#/fake", "/svc/a");
    fake.failed("/a", "no route to host");
    settle().await;
    assert_eq!(shown(&tree), "failed: no route to host");
    fake.bound("/a");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a");
}

#[tokio::test]
async fn alternatives_are_watched_only_while_they_are_needed() {
    let (fake, local) = interpreter();
    let tree = bind(&local, "/svc => /#/fake/a | /#/fake/b", "/svc");
    assert!(!fake.is_watched("/b"), "the first decides, even while it is pending");
    fake.neg("/a");
    settle().await;
    assert!(fake.is_watched("/b"));
    fake.bound("/b");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/b");
    fake.bound("/a");
    settle().await;
    assert_eq!(shown(&tree), "/#/fake/a");
    assert!(!fake.is_watched("/b"));
}

#[tokio::test]
async fn a_binding_that_nobody_reads_ends() {
    let (fake, local) = interpreter();
    let tree = bind(&local, "/svc => /#/fake", "/svc/a");
    let again = tree.clone();
    drop(tree);
    settle().await;
    assert!(fake.is_watched("/a"));
    drop(again);
    settle().await;
    assert!(!fake.is_watched("/a"));
}

#[tokio::test]
async fn a_binding_of_literal_names_is_final() {
    let (_, local) = interpreter();
    let tree = bind(&local, "/svc => 3*/$/inet/1 & /$/inet/h/2", "/svc/x");
    assert_eq!(shown(&tree), "3.00*/$/inet/1[/x] & /$/inet/h/2[/x]");
    assert!(tree.is_final());
    let (publisher, table) = Activity::<Dtab>::channel();
    publisher.ok(Dtab::empty());
    assert!(!bind(&local.with_dtab(table), "/svc => /$/inet/1", "/svc").is_final(), "its table may change");
}

#[tokio::test]
async fn the_interpreters_own_table_is_waited_for_and_followed() {
    let (_, local) = interpreter();
    let (publisher, table) = Activity::channel();
    let local = local.with_dtab(table);
    let tree = bind(&local, "/svc/b => /$/inet/9", "/svc/a");
    assert_eq!(shown(&tree), "pending");
    publisher.ok("/svc => /$/inet/1".parse().unwrap());
    settle().await;
    assert_eq!(shown(&tree), "/$/inet/1[/a]");
    publisher.ok("/svc => /$/inet/2".parse().unwrap());
    settle().await;
    assert_eq!(shown(&tree), "/$/inet/2[/a]");
    assert_eq!(shown(&bind(&local, "/svc/b => /$/inet/9", "/svc/b")), "/$/inet/9", "the given table goes first");
}

#[tokio::test(start_paused = true)]
async fn many_names_that_only_the_table_can_change_follow_it_together_and_let_it_go() {
    let (fake, local) = interpreter();
    let (publisher, table) = Activity::channel();
    publisher.ok("/svc => /$/inet/1".parse().unwrap());
    let local = local.with_dtab(table);
    let names: Vec<_> = (0..100).map(|i| bind(&local, "", &format!("/svc/n{i}"))).collect();
    let shown_all = |names: &[Activity<NameTree<Bound>>]| names.iter().map(shown).collect::<Vec<_>>();
    let all_at = |id: &str| (0..100).map(|i| format!("{id}[/n{i}]")).collect::<Vec<_>>();
    assert_eq!(shown_all(&names), all_at("/$/inet/1"));
    publisher.ok("/svc => /$/inet/2".parse().unwrap());
    // One that comes while the others are evaluated is not left behind.
    tokio::task::yield_now().await;
    let late = bind(&local, "", "/svc/late");
    publisher.ok("/svc => /$/inet/3; /svc/n7 => /#/fake/a".parse().unwrap());
    settle().await;
    assert_eq!(shown(&late), "/$/inet/3[/late]");
    // What may change otherwise, too, is followed for itself, and then with the others again.
    assert_ne!(shown(&names[7]), "/#/fake/a", "not known yet");
    fake.bound("/a");
    settle().await;
    assert_eq!(shown(&names[7]), "/#/fake/a");
    publisher.ok("/svc => /$/inet/4".parse().unwrap());
    settle().await;
    assert_eq!(shown_all(&names), all_at("/$/inet/4"));
    assert!(!fake.is_watched("/a"));
    drop((names, late, local));
    tokio::time::timeout(Duration::from_secs(5), publisher.closed()).await.expect("nobody reads the table");
}

#[tokio::test]
async fn a_table_that_ends_leaves_its_last_word() {
    let (_, local) = interpreter();
    let (publisher, table) = Activity::channel();
    publisher.ok("/svc => /$/inet/1".parse().unwrap());
    let tree = bind(&local.with_dtab(table), "", "/svc");
    settle().await;
    publisher.ok("/svc => /$/inet/2".parse().unwrap());
    drop(publisher);
    settle().await;
    assert_eq!(shown(&tree), "/$/inet/2");
    assert!(tree.is_final());
}

#[tokio::test]
async fn a_cycle_is_named() {
    let (_, local) = interpreter();
    let State::Failed(error) = bind(&local, "/a => /b; /b => /c; /c => /b", "/a").sample() else {
        panic!("a cycle does not bind")
    };
    let Some(BindError::TooDeep { limit: 100, steps }) = error.downcast_ref() else { panic!("{error:?}") };
    assert_eq!(steps.all().len(), 101);
    assert_eq!(steps.all()[0], path("/a"));
    assert_eq!(steps.to_string(), "/c -> /b -> /c");
    let State::Failed(error) = bind(&local, "/a => /a/x", "/a").sample() else { panic!("grows for ever") };
    let Some(BindError::TooDeep { steps, .. }) = error.downcast_ref() else { panic!("{error:?}") };
    assert!(steps.cycle().is_none());
    assert!(steps.to_string().starts_with("/a -> /a/x -> /a/x/x"), "{steps}");
}

#[tokio::test]
async fn self_reference_in_a_union_ends() {
    let (_, local) = interpreter();
    let dtabs = ["/a => /a & /a".to_owned(), format!("/a => /a{0} & /a{0}", "/x".repeat(2000)), nested(190)];
    for dtab in dtabs {
        for dtab in [dtab.clone(), dtab.replace('&', "|")] {
            let state = bind(&local, &dtab, "/a").sample();
            let State::Failed(error) = state else { panic!("bound: {state:?}") };
            let explanation = local.delegate(&dtab.parse().unwrap(), &path("/a")).sample().ok().unwrap();
            assert!(matches!(explanation.outcome(), State::Failed(_)));
            let _ = explanation.to_json();
            assert!(matches!(error.downcast_ref(), Some(BindError::TooMuch { .. } | BindError::TooDeep { .. })));
        }
    }
}

#[tokio::test]
async fn what_binds_is_explained_however_much_it_is() {
    let (fake, local) = interpreter();
    let _watch = fake.lookup(&path("/web"));
    fake.bound("/web");
    let union = |name: &str| vec![name; 90].join(" & ");
    let wide = format!("/svc => /b; /b => {}; /c => {}", union("/c"), union("/#/fake/web"));
    // Each lookup doubles what is behind the alternative that decides.
    let behind = "/svc => /#/fake/web | /svc & /svc".to_owned();
    let deep = (0..480).map(|n| format!("/{n} => /{}", n + 1)).collect::<Vec<_>>().join(";");
    let deep = format!("/svc => /0; {deep}; /480 => /#/fake/web");
    let deeper = local.clone().with_max_depth(483);
    for (local, dtab) in [(&local, wide), (&local, behind), (&deeper, deep)] {
        let bound = bind(local, &dtab, "/svc").sample().ok().expect(&dtab);
        let explained = local.delegate(&dtab.parse().unwrap(), &path("/svc")).sample().ok().unwrap();
        assert_eq!(explained.outcome().ok().expect(&dtab), bound);
    }
}

#[tokio::test]
async fn what_is_too_much_to_bind_is_too_much_to_explain() {
    let (fake, local) = interpreter();
    let _watch = fake.lookup(&path("/web"));
    fake.bound("/web");
    let union = |name: &str, n| vec![name; n].join(" & ");
    for n in [97, 98, 99, 100, 101] {
        // 2 + n + n * n lookups, of which 10,000 are allowed.
        let dtab = format!("/svc => /b; /b => {}; /c => {}", union("/c", n), union("/#/fake/web", n));
        let state = bind(&local, &dtab, "/svc").sample();
        assert_eq!(matches!(state, State::Ok(_)), n < 100, "{n}");
        let explained = local.delegate(&dtab.parse().unwrap(), &path("/svc")).sample().ok().unwrap();
        assert_eq!(matches!(explained.outcome(), State::Ok(_)), n < 100, "{n}");
    }
}

// As deep as the parser lets it be, once more at each lookup.
fn nested(depth: usize) -> String {
    format!("/a => {}/a{}", "(".repeat(depth), " & /a)".repeat(depth))
}

#[tokio::test(start_paused = true)]
async fn an_explanation_settles_or_says_what_it_waits_for() {
    let (fake, local) = interpreter();
    let dtab: Dtab = "/svc => /#/fake/a | /#/fake/b | /$/fail".parse().unwrap();
    let explanation = local.delegate(&dtab, &path("/svc"));
    let limit = Duration::from_secs(2);
    let Err(Unsettled::Pending { last: Some(last), .. }) = delegate::settled(explanation.clone(), limit).await else {
        panic!("two names are unknown")
    };
    let pending = last.nodes().filter(|node| matches!(node.step, Step::Pending)).count();
    assert_eq!(pending, 2, "also behind the one that decides");

    fake.failed("/a", "down");
    let (addresses, watch) = Activity::channel();
    let bound = Bound::new(path("/b"), Path::empty(), watch);
    fake.names()[&path("/b")].ok(NameTree::Leaf(Name::Bound(bound)));
    let mut settled = task::spawn(delegate::settled(explanation, limit));
    assert_pending!(settled.poll());
    settle().await;
    assert_pending!(settled.poll(), "the addresses are unknown");
    addresses.ok(Addr::of(["10.0.0.1:80".parse().unwrap()]));
    settle().await;
    let explanation = assert_ready!(settled.poll()).unwrap();
    assert_eq!(
        explanation.to_json().unwrap(),
        r#"{"type":"alt","path":"/svc","alt":[{"type":"exception","path":"/#/fake/a","dentry":{"prefix":"/svc","dst":"/#/fake/a | /#/fake/b | /$/fail"},"message":"down"},{"type":"leaf","path":"/#/fake/b","dentry":{"prefix":"/svc","dst":"/#/fake/a | /#/fake/b | /$/fail"},"bound":{"addr":{"type":"bound","addrs":[{"ip":"10.0.0.1","port":80,"meta":{}}],"meta":{}},"id":"/#/fake/b","path":"/"}},{"type":"fail","path":"/$/fail","dentry":{"prefix":"/svc","dst":"/#/fake/a | /#/fake/b | /$/fail"}}]}"#
    );
}

#[tokio::test(start_paused = true)]
async fn an_explanation_is_text_for_people() {
    let (fake, local) = interpreter();
    let lookup = |name: &str| drop(fake.lookup(&path(name)));
    ["/a", "/b", "/c", "/d"].into_iter().for_each(lookup);
    fake.failed("/a", "down");
    let (addresses, watch) = Activity::channel();
    let bound = |name: &str, watch| NameTree::Leaf(Name::Bound(Bound::new(path(name), Path::empty(), watch)));
    fake.names()[&path("/b")].ok(bound("/b", watch));
    fake.names()[&path("/c")].ok(bound("/c", Activity::channel().1));
    addresses.ok(Addr::of(["10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()]));
    tokio::time::advance(Duration::from_secs(5)).await;
    addresses.contact();
    tokio::time::advance(Duration::from_secs(1)).await;
    addresses.failed(failure("refused"));
    let dtab =
        "/svc => /x | 3 * /#/fake/b & /$/nil; /x => /#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $".parse().unwrap();
    let explanation = local.delegate(&dtab, &path("/svc"));
    let expected = "\
/svc: first of
  /x (by /svc=>/x | 3.00*/#/fake/b & /$/nil): first of
    /#/fake/a (by /x=>/#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $): failed: down
    /#/fake/c (by /x=>/#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $): bound to /#/fake/c, pending
    /#/fake/d (by /x=>/#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $): pending
    ~ (by /x=>/#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $): neg, no such name
    /x (by /x=>/#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $): fail
    /x (by /x=>/#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $): empty, no replicas
  /svc (by /svc=>/x | 3.00*/#/fake/b & /$/nil): shared by
    3.00 * /#/fake/b: bound to /#/fake/b, 10.0.0.1:80 10.0.0.2:80 (for 6s, last contact 1s ago, stale: refused)
    1.00 * /$/nil: empty, no replicas
";
    assert_eq!(explanation.sample().ok().unwrap().to_string(), expected);
    let unsettled = delegate::settled(explanation, Duration::from_secs(2)).await.unwrap_err();
    let text = unsettled.text().unwrap().to_string();
    assert!(text.contains("bound to /#/fake/c, timed out after 2s\n"), "{text}");
    assert!(
        text.contains("/#/fake/d (by /x=>/#/fake/a | /#/fake/c | /#/fake/d | ~ | ! | $): timed out after 2s\n"),
        "{text}"
    );
    assert!(text.contains("(for 8s, last contact 3s ago"), "{text}");
}

#[tokio::test]
async fn an_explanation_shows_a_loop_where_linkerd_does() {
    let (_, local) = interpreter();
    let explain = |dtab: &str| local.delegate(&dtab.parse().unwrap(), &path("/a")).sample().ok().unwrap();
    assert_eq!(explain("/a => /a").to_json().unwrap_err().to_string(), "Max recursion level reached.");
    let json = explain("/a => /$/nil | /b; /b => /b").to_json().unwrap();
    assert!(json.ends_with(r#"{"type":"exception","path":"/a","dentry":{"prefix":"/a","dst":"/$/nil | /b"},"message":"Max recursion level reached."}]}"#), "{json}");
}

#[tokio::test]
async fn an_explanation_shows_namers_that_rewrite_though_linkerd_does_not() {
    let (_, local) = interpreter();
    let dtab = "/svc => /$/io.buoyant.http.domainToPath; /io => /$/inet/1".parse().unwrap();
    let explanation = local.delegate(&dtab, &path("/svc/web.io")).sample().ok().unwrap();
    let paths: Vec<_> = explanation.nodes().map(|node| node.path.to_string()).collect();
    assert_eq!(paths, ["/svc/web.io", "/$/io.buoyant.http.domainToPath/web.io", "/io/web", "/$/inet/1/web"]);
    assert!(!explanation.to_json().unwrap().contains("domainToPath/web.io"));
}

#[tokio::test]
async fn a_bare_neg_is_explained_as_it_binds() {
    let (fake, local) = interpreter();
    let _watch = fake.lookup(&path("/a"));
    fake.bound("/a");
    let dtab = "/#/fake => ~".parse().unwrap();
    let explanation = local.delegate(&dtab, &path("/#/fake/a")).sample().ok().unwrap();
    assert_eq!(explanation.outcome().ok().unwrap().to_string(), "/#/fake/a");
}

#[tokio::test]
async fn an_explanation_shows_what_a_transformer_changed() {
    let (_, local) = interpreter();
    let dtab = "/svc => 3*/$/inet/1 & /$/inet/2".parse().unwrap();
    let explanation = local.delegate(&dtab, &path("/svc")).sample().ok().unwrap();
    let transformed = explanation.transform("io.l5d.port", |bound| {
        let mut bound = bound.clone();
        if bound.id == path("/$/inet/1") {
            bound.id = path("/%/io.l5d.port/4141").concat(&bound.id);
        }
        State::Ok(NameTree::Leaf(bound))
    });
    let outcome = transformed.outcome().ok().unwrap();
    assert_eq!(outcome.to_string(), "3.00*/%/io.l5d.port/4141/$/inet/1 & /$/inet/2");
    let json = transformed.to_json().unwrap();
    let step = r#"{"type":"transformation","path":"/$/inet/1","name":"io.l5d.port","bound":{"addr":{"type":"neg"},"id":"/$/inet/1","path":"/"},"tree":{"type":"leaf","path":"/$/inet/1","dentry":{"prefix":"/svc","dst":"3.00*/$/inet/1 & /$/inet/2"},"bound":{"addr":{"type":"neg"},"id":"/%/io.l5d.port/4141/$/inet/1","path":"/"}}}"#;
    assert!(json.contains(step), "{json}");
    assert_eq!(json.matches("transformation").count(), 1);
}

//! Changes and outages.

use std::num::NonZeroUsize;

use linkerd_dtab::interpreter::remote::TooManyWatches;

use super::*;

fn remote(source: &Fake) -> Remote {
    Remote::builder(source.clone()).pauses(PAUSES).build()
}

#[tokio::test(start_paused = true)]
async fn a_change_there_is_a_change_here() {
    let namerd = Fake::new(Mode::Up("/#/a", 1));
    let remote = remote(&namerd);
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/a").await;
    let mut addr = addr(&tree);
    assert_eq!(addr.ready().await.unwrap(), at(1));
    namerd.becomes(Mode::Up("/#/b", 2));
    becomes(&mut tree, "/#/b").await;
    addr.changed().await;
    assert_eq!(addr.sample().ok(), Some(at(2)));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_ask_the_same_are_one_watch_that_ends_with_the_last() {
    let namerd = Fake::new(Mode::Up("/#/a", 1));
    let remote = remote(&namerd);
    let mut trees: Vec<_> = (0..100).map(|_| bind(&remote, "/svc/web")).collect();
    // Another name that is bound to the same id.
    trees.push(bind(&remote, "/svc/other"));
    for tree in &mut trees {
        becomes(tree, "/#/a").await;
        addr(tree).ready().await.unwrap();
    }
    assert_eq!(namerd.asked(), (2, 1));
    assert_eq!(remote.watched(), (2, 1));
    drop(trees);
    until("the end of all watches", || namerd.watches() == 0).await;
    assert_eq!(remote.watched(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_what_was_known_and_ends_by_itself() {
    let namerd = Fake::new(Mode::Up("/#/a", 1));
    let remote = remote(&namerd);
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/a").await;
    let mut addr = addr(&tree);
    addr.ready().await.unwrap();
    namerd.becomes(Mode::Down);
    until("staleness", || tree.snapshot().stale.is_some() && addr.snapshot().stale.is_some()).await;
    // Long enough for many attempts.
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!((shown(&tree), addr.sample().ok()), ("/#/a".to_owned(), Some(at(1))));
    assert_eq!(tree.snapshot().stale.unwrap().to_string(), "down");
    // The same answers as before.
    namerd.becomes(Mode::Up("/#/a", 1));
    until("freshness", || tree.snapshot().stale.is_none() && addr.snapshot().stale.is_none()).await;
    let (names, ids) = namerd.asked();
    // 1 s doubling up to 60 s, for half an hour.
    assert!((30..100).contains(&names) && (30..100).contains(&ids), "{names} {ids}");
}

#[tokio::test(start_paused = true)]
async fn a_name_asked_for_during_an_outage_fails_and_is_bound_after_it() {
    let namerd = Fake::new(Mode::Down);
    let mut tree = bind(&remote(&namerd), "/svc/web");
    becomes(&mut tree, "failed: down").await;
    namerd.becomes(Mode::Up("/#/a", 1));
    becomes(&mut tree, "/#/a").await;
}

#[tokio::test(start_paused = true)]
async fn the_second_is_asked_when_the_first_is_gone_until_that_is_back() {
    let (first, second) = (Fake::new(Mode::Up("/#/first", 1)), Fake::new(Mode::Up("/#/second", 2)));
    let remote = Remote::builder(first.clone()).or(second.clone()).pauses(PAUSES).build();
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/first").await;
    assert_eq!(second.asked(), (0, 0));

    first.becomes(Mode::Down);
    becomes(&mut tree, "/#/second").await;
    assert_eq!(addr(&tree).ready().await.unwrap(), at(2));
    // Bound while the first is away: asked of the second at once, with no failure in between.
    let mut other = bind(&remote, "/svc/other");
    assert_eq!(other.ready().await.unwrap().to_string(), "/#/second");

    first.becomes(Mode::Up("/#/first", 1));
    becomes(&mut tree, "/#/first").await;
    becomes(&mut other, "/#/first").await;
    drop(addr(&tree));
    until("the second is let go", || second.watches() == 0).await;
    assert!(tree.snapshot().stale.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_last_is_followed_by_the_first() {
    let (first, second) = (Fake::new(Mode::Down), Fake::new(Mode::Up("/#/second", 2)));
    let remote = Remote::builder(first.clone()).or(second.clone()).pauses(PAUSES).build();
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/second").await;
    // The first was tried so often that it is tried rarely by now.
    tokio::time::sleep(Duration::from_mins(30)).await;
    first.becomes(Mode::Up("/#/first", 1));
    second.becomes(Mode::Down);
    let lost = tokio::time::Instant::now();
    becomes(&mut tree, "/#/first").await;
    assert!(lost.elapsed() <= Duration::from_secs(2), "{:?}", lost.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_is_passed_over() {
    let (first, second) = (Fake::new(Mode::Silent), Fake::new(Mode::Up("/#/second", 2)));
    let builder = Remote::builder(first).or(second).pauses(PAUSES).patience(Duration::from_secs(3));
    let mut tree = bind(&builder.build(), "/svc/web");
    let began = tokio::time::Instant::now();
    becomes(&mut tree, "/#/second").await;
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn there_is_a_failure_only_after_each_was_asked() {
    let (first, second) = (Fake::new(Mode::Down), Fake::new(Mode::Silent));
    let builder = Remote::builder(first).or(second).pauses(PAUSES).patience(Duration::from_secs(3));
    let mut tree = bind(&builder.build(), "/svc/web");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shown(&tree), "pending");
    becomes(&mut tree, "failed: no answer within 3s").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_watched_is_bounded() {
    let namerd = Fake::new(Mode::Up("/#/a", 1));
    let max = NonZeroUsize::new(2).unwrap();
    let remote = Remote::builder(namerd).max_watches(max).build();
    let (mut a, mut b) = (bind(&remote, "/svc/a"), bind(&remote, "/svc/b"));
    becomes(&mut a, "/#/a").await;
    becomes(&mut b, "/#/a").await;
    let Err(error) = bind(&remote, "/svc/c").ready().await else { panic!("a third is watched") };
    let expected = TooManyWatches { asked: "/svc/c".to_owned(), what: "names", limit: 2 };
    assert_eq!(error.downcast_ref(), Some(&expected));
    // Those that are watched already are no new ones.
    assert_eq!(shown(&bind(&remote, "/svc/a")), "/#/a");
    drop(b);
    until("an end", || remote.watched().0 == 1).await;
    becomes(&mut bind(&remote, "/svc/c"), "/#/a").await;
}

#[tokio::test(start_paused = true)]
async fn an_explanation_is_asked_of_whoever_answers() {
    let (first, second) = (Fake::new(Mode::Silent), Fake::new(Mode::Up("/#/a", 1)));
    let remote = Remote::builder(first).or(second.clone()).build();
    let explained = remote.delegate(&Dtab::empty(), &path("/svc/web")).ready().await.unwrap();
    assert_eq!(explained.to_json().unwrap(), r#"{"type":"neg","path":"/svc/web"}"#);
    second.becomes(Mode::Down);
    let failed = remote.delegate(&Dtab::empty(), &path("/svc/web")).ready().await;
    assert_eq!(failed.unwrap_err().to_string(), "down");
}

/// What `a_namerd_that_is_back` finds out by, of an interpreter with long pauses.
async fn all_come_back_when(somebody_asks: impl AsyncFn(&Remote)) {
    let fake = Fake::new(Mode::Up("/#/a", 1));
    let pauses = Pauses::new(Duration::from_secs(1), Duration::from_mins(10));
    let remote = Remote::builder(fake.clone()).pauses(pauses).build();
    let mut trees: Vec<_> = (0..1000).map(|n| bind(&remote, &format!("/svc/{n}"))).collect();
    for tree in &mut trees {
        becomes(tree, "/#/a").await;
    }
    fake.becomes(Mode::Down);
    // Until the pauses are as long as they get, and nobody has asked for a while.
    tokio::time::sleep(Duration::from_hours(2)).await;
    fake.becomes(Mode::Up("/#/b", 2));
    let before = fake.asked().0;
    somebody_asks(&remote).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let at_once = fake.asked().0 - before;
    assert!(at_once < 500, "{at_once} asked at once");
    // Who asked a moment before it was back rests first.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let late = trees.iter().filter(|tree| shown(tree) != "/#/b").count();
    assert_eq!(late, 0, "{late} of 1000 still wait");
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_is_back_is_asked_by_all_once_one_is_answered() {
    all_come_back_when(async |remote| becomes(&mut bind(remote, "/svc/new"), "/#/b").await).await;
}

#[tokio::test(start_paused = true)]
async fn an_explanation_is_an_answer_too() {
    all_come_back_when(async |remote| {
        remote.delegate(&Dtab::empty(), &path("/svc/new")).ready().await.unwrap();
    })
    .await;
}

/// Binds all names but one.
#[derive(Clone)]
struct But(Fake, &'static str, Arc<AtomicUsize>);

impl Source for But {
    fn bind<'a>(&'a self, dtab: &'a Dtab, name: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        if name.to_string() == self.1 {
            self.2.fetch_add(1, Ordering::SeqCst);
            return Box::pin(async { failure("no such name") });
        }
        self.0.bind(dtab, name, tree)
    }

    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        self.0.addr(id, addr)
    }

    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a> {
        self.0.delegate(dtab, name)
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_always_refused_rests_though_others_are_answered() {
    let refused = Arc::default();
    let remote = Remote::builder(But(Fake::new(Mode::Up("/#/a", 1)), "/svc/bad", Arc::clone(&refused)));
    let remote = remote.pauses(Pauses::new(Duration::from_secs(1), Duration::from_mins(10))).build();
    let _bad = bind(&remote, "/svc/bad");
    for n in 0..600 {
        becomes(&mut bind(&remote, &format!("/svc/{n}")), "/#/a").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let refused = refused.load(Ordering::SeqCst);
    assert!((10..=75).contains(&refused), "asked {refused} times in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_back_after_the_one_in_use_is_none_of_its_business() {
    let (first, second) = (Fake::new(Mode::Up("/#/a", 1)), Fake::new(Mode::Down));
    let remote = Remote::builder(first.clone()).or(second.clone()).pauses(PAUSES).build();
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/a").await;
    second.becomes(Mode::Up("/#/b", 2));
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((first.asked().0, second.asked().0), (1, 0));
    // The first is preferred, and followed to again as soon as somebody hears of it.
    first.becomes(Mode::Down);
    becomes(&mut tree, "/#/b").await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    first.becomes(Mode::Up("/#/c", 3));
    remote.delegate(&Dtab::empty(), &path("/svc/web")).ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(shown(&tree), "/#/c");
}

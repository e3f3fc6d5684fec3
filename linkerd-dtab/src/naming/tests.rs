use std::{convert::Infallible, sync::atomic::AtomicUsize};

use tokio::sync::watch;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{Addr, Publisher, delegate::Delegation};

type Answer = BoxCloneSyncService<&'static str, String, BoxError>;
type Trees = Arc<Mutex<HashMap<Path, Publisher<NameTree<Bound>>>>>;

/// Binds names to what a test publishes.
#[derive(Clone, Default)]
struct Fake(Trees);

impl Fake {
    fn publish(&self, name: &str, tree: NameTree<Bound>) {
        lock(&self.0)[&path(name)].ok(tree);
    }

    fn is_watched(&self, name: &str) -> bool {
        lock(&self.0).get(&path(name)).is_some_and(|publisher| !publisher.is_closed())
    }
}

impl Interpreter for Fake {
    fn bind(&self, _: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        lock(&self.0).entry(path.clone()).or_insert_with(|| Activity::channel().0).subscribe()
    }

    fn delegate(&self, _: &Dtab, _: &Path) -> Activity<Delegation> {
        Activity::channel().1
    }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn leaf(id: &str) -> NameTree<Bound> {
    NameTree::Leaf(Bound::new(path(id), Path::empty(), Activity::value(at(1))))
}

fn at(port: u16) -> Addr {
    Addr::of([([127, 0, 0, 1], port).into()])
}

/// A service that counts how many services it made, each of which answers with its name.
fn service(
    fake: &Fake,
    change: impl Fn(NamingLayer<fn(&&'static str) -> Path>) -> NamingLayer<fn(&&'static str) -> Path>,
) -> (impl Service<&'static str, Response = String, Error = BoxError, Future: Send> + Clone, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let make = service_fn(move |bound: Bound| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let answer = format!("{bound} {number}");
        let service = service_fn(move |_: &'static str| std::future::ready(Ok::<_, BoxError>(answer.clone())));
        std::future::ready(Ok::<_, Infallible>(Answer::new(service)))
    });
    let name_of: fn(&&'static str) -> Path = |req| req.parse().unwrap();
    let layer = change(NamingLayer::new(fake.clone(), Dtab::empty(), name_of));
    (ServiceBuilder::new().layer(layer).service(make), made)
}

#[tokio::test]
async fn a_name_leads_to_the_service_of_its_bound_name() {
    let fake = Fake::default();
    let (svc, made) = service(&fake, |layer| layer);
    let mut first = task::spawn(svc.clone().oneshot("/a"));
    assert_pending!(first.poll());
    fake.publish("/a", leaf("/x"));
    assert_eq!(assert_ready!(first.poll()).unwrap(), "/x 0");
    assert_eq!(svc.clone().oneshot("/a").await.unwrap(), "/x 0");

    // Another name that is bound to the same shares its service, as long as the watch is the same.
    let mut other = task::spawn(svc.clone().oneshot("/b"));
    assert_pending!(other.poll());
    let State::Ok(tree) = lock(&fake.0)[&path("/a")].sample() else { panic!("published above") };
    fake.publish("/b", tree);
    assert_eq!(assert_ready!(other.poll()).unwrap(), "/x 0");
    assert_eq!(made.load(Ordering::SeqCst), 1);

    fake.publish("/a", leaf("/x"));
    assert_eq!(svc.clone().oneshot("/a").await.unwrap(), "/x 1", "the addresses have another source");
    fake.publish("/a", leaf("/y"));
    assert_eq!(svc.oneshot("/a").await.unwrap(), "/y 2", "the name is bound to another");
}

#[tokio::test]
async fn a_union_is_picked_from_by_weight() {
    let fake = Fake::default();
    let draws = AtomicU64::new(0);
    let draws: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(move || draws.fetch_add(1 << 61, Ordering::SeqCst));
    let (svc, _) = service(&fake, |layer| {
        let draws = Arc::clone(&draws);
        layer.with_random(move || draws())
    });
    let union = vec![crate::Weighted::new(3.0, leaf("/x")), crate::Weighted::new(1.0, leaf("/y"))];
    let _watch = fake.bind(&Dtab::empty(), &path("/a"));
    fake.publish("/a", NameTree::Union(union));
    let mut picked = Vec::new();
    for _ in 0..8 {
        picked.push(svc.clone().oneshot("/a").await.unwrap());
    }
    assert_eq!(picked.iter().filter(|answer| answer.starts_with("/x")).count(), 6, "{picked:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_binding_is_waited_for_as_long_as_allowed_and_no_longer() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let fake = Fake::default();
    let (svc, _) = service(&fake, |layer| layer.with_binding_timeout(TIMEOUT));
    let mut rsp = task::spawn(svc.clone().oneshot("/a"));
    assert_pending!(rsp.poll());
    tokio::time::advance(TIMEOUT.saturating_sub(MS)).await;
    assert_pending!(rsp.poll());
    tokio::time::advance(2 * MS).await;
    let error = assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!(error.to_string(), "/a was not bound within 300ms");
    assert!(matches!(error.downcast_ref(), Some(NamingError::Pending { .. })));
    assert!(fake.is_watched("/a"), "the next request finds a binding under way");
}

#[tokio::test]
async fn no_name_and_a_failed_name_are_different_errors() {
    let fake = Fake::default();
    let (svc, _) = service(&fake, |layer| layer);
    let _watches = ["/a", "/b"].map(|name| fake.bind(&Dtab::empty(), &path(name)));
    fake.publish("/a", NameTree::Neg);
    assert_eq!(svc.clone().oneshot("/a").await.unwrap_err().to_string(), "no such name: /a");
    lock(&fake.0)[&path("/b")].failed(Failure::from(BoxError::from("the source is down")));
    let error = svc.clone().oneshot("/b").await.unwrap_err();
    assert_eq!(error.to_string(), "/b could not be bound");
    assert_eq!(error.source().unwrap().to_string(), "the source is down");
    fake.publish("/b", leaf("/x"));
    assert_eq!(svc.oneshot("/b").await.unwrap(), "/x 0");
}

#[tokio::test]
async fn the_least_recently_used_names_and_services_are_given_up() {
    let fake = Fake::default();
    let (svc, made) = service(&fake, |layer| layer.with_max_names(2).with_max_services(2));
    let names = ["/a", "/b", "/c"];
    {
        let _watches = names.map(|name| fake.bind(&Dtab::empty(), &path(name)));
        for name in names {
            fake.publish(name, leaf(name));
        }
        for name in ["/a", "/b", "/a", "/c"] {
            svc.clone().oneshot(name).await.unwrap();
        }
    }
    assert_eq!(names.map(|name| fake.is_watched(name)), [true, false, true]);
    assert_eq!(made.load(Ordering::SeqCst), 3);
    assert_eq!(svc.clone().oneshot("/a").await.unwrap(), "/a 0");
    assert_eq!(svc.oneshot("/b").await.unwrap(), "/b 3", "made again");
}

#[tokio::test]
async fn a_cancelled_request_leaves_the_binding_to_others() {
    let fake = Fake::default();
    let (svc, _) = service(&fake, |layer| layer);
    let mut first = task::spawn(svc.clone().oneshot("/a"));
    let mut second = task::spawn(svc.oneshot("/a"));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    drop(first);
    fake.publish("/a", leaf("/x"));
    assert_eq!(assert_ready!(second.poll()).unwrap(), "/x 0");
}

#[tokio::test]
async fn a_maker_that_fails_is_asked_again() {
    let fake = Fake::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let make = service_fn(move |bound: Bound| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let answer = service_fn(move |_: &'static str| std::future::ready(Ok::<_, BoxError>(bound.to_string())));
        std::future::ready(if first { Err(BoxError::from("no descriptors left")) } else { Ok(Answer::new(answer)) })
    });
    let layer = NamingLayer::new(fake.clone(), Dtab::empty(), |req: &&'static str| path(req));
    let svc = ServiceBuilder::new().layer(layer).service(make);
    let _watch = fake.bind(&Dtab::empty(), &path("/a"));
    fake.publish("/a", leaf("/x"));
    assert_eq!(svc.clone().oneshot("/a").await.unwrap_err().to_string(), "no descriptors left");
    assert_eq!(svc.oneshot("/a").await.unwrap(), "/x");
}

/// A name that is bound to `/v1`, which has an endpoint, and was asked for once; and the addresses of `/v2`.
struct World {
    fake: Fake,
    svc: Answer,
    // The services that are ready.
    open: watch::Sender<Vec<String>>,
    v1: Publisher<Addr>,
    v2: Publisher<Addr>,
    _watch: Activity<NameTree<Bound>>,
}

impl World {
    async fn new(
        change: impl FnOnce(NamingLayer<fn(&&'static str) -> Path>) -> NamingLayer<fn(&&'static str) -> Path>,
    ) -> Self {
        let open = watch::Sender::new(vec!["/v1".to_owned(), "/v2".to_owned()]);
        let opened = open.clone();
        let make = service_fn(move |bound: Bound| {
            let mut opened = opened.subscribe();
            async move {
                let id = bound.id.to_string();
                // It is made when it can be connected to.
                opened.wait_for(|open| open.contains(&id)).await?;
                let answer = service_fn(move |_: &'static str| std::future::ready(Ok::<_, BoxError>(id.clone())));
                Ok::<_, BoxError>(Answer::new(answer))
            }
        });
        let fake = Fake::default();
        let name_of: fn(&&'static str) -> Path = |req| req.parse().unwrap();
        let layer = change(NamingLayer::new(fake.clone(), Dtab::empty(), name_of));
        let svc = Answer::new(ServiceBuilder::new().layer(layer).service(make));
        let ((v1, _), (v2, _)) = (Activity::channel(), Activity::channel());
        let watch = fake.bind(&Dtab::empty(), &path("/a"));
        let world = Self { fake, svc, open, v1, v2, _watch: watch };
        world.v1.ok(at(1));
        world.bind("/v1");
        assert_eq!(world.asked().await, "/v1");
        world
    }

    fn bind(&self, id: &str) {
        let addr = if id == "/v1" { &self.v1 } else { &self.v2 };
        self.fake.publish("/a", NameTree::Leaf(Bound::new(path(id), Path::empty(), addr.subscribe())));
    }

    fn open(&self, ids: &[&str]) {
        self.open.send_replace(ids.iter().map(ToString::to_string).collect());
    }

    /// Who answers, once all that can happen by itself has.
    async fn asked(&self) -> String {
        let answer = self.svc.clone().oneshot("/a").await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        answer
    }

    /// Who answers in a while.
    async fn asked_after(&self, time: Duration) -> String {
        self.asked().await;
        tokio::time::sleep(time).await;
        self.asked().await
    }
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn requests_stay_until_the_new_service_is_ready() {
    let world = World::new(|layer| layer).await;
    world.open(&["/v1"]);
    world.bind("/v2");
    assert_eq!(world.asked_after(100_000 * MS).await, "/v1", "nobody knows where it is");
    world.v2.ok(at(2));
    world.asked().await;
    // It is late, and known: who asks waits for the service itself.
    let mut rsp = task::spawn(world.svc.clone().oneshot("/a"));
    assert_pending!(rsp.poll());
    world.open(&["/v1", "/v2"]);
    assert_eq!(rsp.await.unwrap(), "/v2");

    let world = World::new(|layer| layer).await;
    world.open(&["/v1"]);
    world.v2.ok(at(2));
    world.bind("/v2");
    assert_eq!(world.asked_after(1500 * MS).await, "/v1");
    world.open(&["/v1", "/v2"]);
    assert_eq!(world.asked_after(MS).await, "/v2");
}

#[tokio::test(start_paused = true)]
async fn what_the_table_says_is_done_in_time() {
    for addr in [Addr::Neg, Addr::of([])] {
        let world = World::new(|layer| layer).await;
        world.v2.ok(addr);
        world.bind("/v2");
        assert_eq!(world.asked_after(1990 * MS).await, "/v1");
        assert_eq!(world.asked_after(20 * MS).await, "/v2");
    }
    // Nobody asked in the meantime.
    let world = World::new(|layer| layer).await;
    world.v2.ok(Addr::Neg);
    world.bind("/v2");
    tokio::time::sleep(3000 * MS).await;
    assert_eq!(world.asked().await, "/v2");
    // A table that never rests.
    let world = World::new(|layer| layer).await;
    world.v2.ok(Addr::Neg);
    let mut last = String::new();
    for _ in 0..25 {
        world.bind("/v2");
        last = world.asked_after(100 * MS).await;
    }
    assert_eq!(last, "/v2");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_when_there_is_nothing_to_keep_or_no_time() {
    let world = World::new(|layer| layer).await;
    world.open(&["/v1"]);
    world.v2.ok(at(2));
    world.bind("/v2");
    assert_eq!(world.asked_after(MS).await, "/v1");
    world.v1.ok(Addr::Neg);
    world.open(&["/v1", "/v2"]);
    world.asked().await;
    assert_eq!(world.asked().await, "/v2");

    let world = World::new(|layer| layer.with_switch_timeout(Duration::ZERO)).await;
    world.v2.ok(Addr::Neg);
    world.bind("/v2");
    assert_eq!(world.asked().await, "/v2");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_went_back_was_never_left() {
    let world = World::new(|layer| layer).await;
    world.bind("/v2");
    assert_eq!(world.asked_after(500 * MS).await, "/v1");
    world.bind("/v1");
    assert_eq!(world.asked().await, "/v1");
    world.v2.ok(at(2));
    assert_eq!(world.asked_after(5000 * MS).await, "/v1");
}

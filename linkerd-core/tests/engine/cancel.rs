//! A request that nobody waits for any more leaves nothing behind.

use std::num::{NonZeroU32, NonZeroUsize};

use linkerd_core::{
    HedgePolicy, LimitPolicy,
    retry::{Backoff, hedge::HedgeDelay, limit::WhenFull},
    testing::{End, Reply},
};
use tokio_test::assert_pending;

use super::*;

fn nothing_is_left(world: &World) {
    assert_eq!(world.service("pending"), 0);
    assert_eq!(world.metric("client/#/fake/users/pending").unwrap_or_default(), 0.0);
    for client in world.mesh.clients() {
        assert!(client.endpoints.iter().all(|endpoint| endpoint.pending == 0));
    }
    for n in 1..=2 {
        assert_eq!(world.endpoints.in_flight(ep(n)), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn while_its_name_is_bound() {
    let world = World::new();
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert_pending!(rsp.poll());
    assert_eq!(world.service("pending"), 1);
    drop(rsp);
    nothing_is_left(&world);
    let mut rsp = sending(&world.client("/svc/users"), get());
    world.namer.tree("/users", "/users");
    settle().await;
    assert_pending!(rsp.poll());
    drop(rsp);
    nothing_is_left(&world);
}

#[tokio::test(start_paused = true)]
async fn while_an_endpoint_works_on_it() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert_pending!(rsp.poll());
    assert_eq!((world.bound("pending"), world.endpoints.in_flight(ep(1))), (1, 1));
    drop(rsp);
    nothing_is_left(&world);
    assert_eq!(world.endpoints.seen(ep(1))[0].end, End::Dropped);
    assert_eq!(world.bound("failures"), 0, "who went away is nobody's failure");
}

#[tokio::test(start_paused = true)]
async fn while_it_waits_to_be_sent_again() {
    let world = World::policies(
        ServicePolicy { backoff: Backoff::constant(SEC), ..service(HttpClassifier::RetryableRead5xx) },
        steady(),
    );
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::status(500)]);
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert_pending!(rsp.poll());
    drop(rsp);
    nothing_is_left(&world);
    tokio::time::sleep(10 * SEC).await;
    assert_eq!(world.endpoints.count(ep(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn while_a_response_is_thrown_away() {
    let world = World::retrying(HttpClassifier::RetryableRead5xx);
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::status(500).body("slow").streamed(SEC)]);
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert_pending!(rsp.poll());
    drop(rsp);
    nothing_is_left(&world);
    assert_eq!(world.endpoints.seen(ep(1))[0].end, End::Dropped);
}

#[tokio::test(start_paused = true)]
async fn as_soon_as_it_was_made() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    drop(client.send(get()));
    nothing_is_left(&world);
    assert_eq!(world.endpoints.count(ep(1)), 0);
}

/// A layer that panics when it is called with `/panic`.
#[derive(Clone)]
struct Panicky<S>(S);

impl<S: tower::Service<Request<Body>>> tower::Service<Request<Body>> for Panicky<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, req: Request<Body>) -> S::Future {
        assert!(req.uri().path() != "/panic", "as asked");
        self.0.call(req)
    }
}

#[tokio::test(start_paused = true)]
async fn or_that_made_a_layer_panic() {
    let layer = tower::layer::layer_fn(Panicky);
    let worlds = [
        World::with(|builder| builder.path_layer(layer)),
        World::with(|builder| builder.client_layer(layer)),
        World::with(|builder| builder.endpoint_layer(layer)),
    ];
    for world in worlds {
        world.namer.endpoints("/users", [ep(1), ep(2)]);
        let client = world.client("/svc/users");
        for _ in 0..20 {
            let client = client.clone();
            let req = Request::get("/panic").body("").unwrap();
            let panicked = tokio::spawn(async move { client.send(req).await.map(drop) }).await;
            assert!(panicked.unwrap_err().is_panic());
        }
        nothing_is_left(&world);
        assert_eq!(status(&client).await, 200);
    }
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::panic(), Reply::ok("")]);
    let client = world.client("/svc/users");
    let panicked = client.clone();
    assert!(tokio::spawn(async move { panicked.send(get()).await.map(drop) }).await.unwrap_err().is_panic());
    nothing_is_left(&world);
    assert_eq!(status(&client).await, 200);
}

/// A layer that panics when it wraps something for the `n`th time.
fn once_in(n: usize) -> impl Fn(linkerd_core::Svc) -> linkerd_core::Svc + Send + Sync + 'static {
    let count = std::sync::atomic::AtomicUsize::new(0);
    move |svc| {
        assert!(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 != n, "no layer today");
        svc
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_panics_when_it_is_built_does_so_once() {
    let layer = |n| tower::layer::layer_fn(once_in(n));
    for (n, world) in [
        (1, World::with(|builder| builder.client_layer(layer(1)))),
        (1, World::with(|builder| builder.endpoint_layer(layer(1)))),
        (2, World::with(|builder| builder.client_layer(layer(2)))),
        (2, World::with(|builder| builder.endpoint_layer(layer(2)))),
    ] {
        let client = world.client("/svc/users");
        for (at, name) in ["/a", "/b", "/c"].into_iter().enumerate() {
            world.namer.endpoints(name, [ep(1)]);
            world.namer.tree("/users", name);
            settle().await;
            let failed = client.send(get()).await.err();
            assert_eq!(failed.is_some(), (at + 1 == n) && (n == 1 || failed.is_some()), "{n} {name}");
            if let Some(error) = failed {
                assert_eq!(error.text(), "a stack could not be built: no layer today");
            }
        }
    }
}

/// One place, a queue, hedges, retries with waits, and answers that fail at once at both endpoints.
fn everything_at_once() -> World {
    let queue = WhenFull::Queue { capacity: 10, wait: SEC };
    let hedge = HedgePolicy::new(HedgeDelay::Fixed(10 * MS)).unwrap().share(1.0).unwrap();
    let service = ServicePolicy {
        backoff: Backoff::constant(20 * MS),
        max_attempts: NonZeroU32::new(3),
        hedge: Some(hedge),
        limit: Some(LimitPolicy::concurrency(NonZeroUsize::MIN, queue)),
        total_timeout: Some(10 * SEC),
        ..service(HttpClassifier::RetryableRead5xx)
    };
    let world = World::policies(service, steady());
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    for n in 1..=2 {
        world.endpoints.script(ep(n), [Reply::status(500).body("no").after(15 * MS).streamed(MS)]);
    }
    world
}

#[tokio::test(start_paused = true)]
async fn after_any_number_of_polls() {
    // Waiting to be let in, waiting for a retry, and at two endpoints: each has to have been what was ended.
    let mut ended_in = [0, 0, 0];
    let mut polls = 0;
    let mut is_over = false;
    while !is_over && polls < 1000 {
        let world = everything_at_once();
        let client = world.client("/svc/users");
        // Somebody else, with whom it has to take turns.
        let other = client.clone();
        let other = tokio::spawn(async move { text(other.send(get()).await.unwrap()).await });
        settle().await;
        let mut asking = task::spawn(async move { text(client.send(get()).await.unwrap()).await });
        for _ in 0..polls {
            if asking.poll().is_ready() {
                is_over = true;
                break;
            }
            for _ in 0..10_000 {
                if asking.is_woken() {
                    break;
                }
                tokio::time::sleep(MS).await;
            }
        }
        let at_two = world.endpoints.in_flight(ep(1)) + world.endpoints.in_flight(ep(2)) == 2;
        let now = [world.service("limit/queued") > 0, world.service("retries/waiting") > 0, at_two];
        ended_in = std::array::from_fn(|i| ended_in[i] + usize::from(now[i]));
        drop(asking);
        assert_eq!(other.await.unwrap(), "no", "it gets its turn");
        settle().await;
        nothing_is_left(&world);
        for gauge in ["limit/in_flight", "limit/queued", "retries/waiting"] {
            assert_eq!(world.service(gauge), 0, "{gauge} after {polls} polls");
        }
        let limit = world.mesh.paths()[0].limit.clone().unwrap();
        assert_eq!((limit.in_flight, limit.queued), (Some(0), 0), "after {polls} polls");
        polls += 1;
    }
    assert!(is_over && polls > 10, "{polls}");
    assert!(ended_in.iter().all(|times| *times > 0), "{ended_in:?}");
}

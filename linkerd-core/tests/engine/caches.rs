//! What is remembered of names, and for how long.

use std::num::NonZeroUsize;

use linkerd_core::{
    CacheSettings, ErrorKind, LimitPolicy, identify,
    retry::{
        Budget, BudgetSettings,
        limit::{AdaptiveSettings, WhenFull},
    },
    testing::Reply,
};
use tokio::time::advance;
use tokio_test::assert_pending;

use super::*;

fn small(n: usize, ttl: Duration) -> World {
    let caches = CacheSettings { paths: n, trees: n, bounds: n, clients: n, idle_ttl: ttl };
    World::with(|builder| builder.caches(caches))
}

/// A client that sends each request to the name in its `to` header.
fn routed(world: &World) -> Client {
    world.mesh.router(identify::HeaderToken::new("/svc".parse().unwrap(), "to").unwrap())
}

fn to(name: &'static str) -> Request<&'static str> {
    Request::get("/").header("to", name).body("").unwrap()
}

impl World {
    fn cache(&self, which: &str) -> [u64; 4] {
        ["misses", "evicts", "expires", "oneshots"].map(|name| self.count(&format!("bindcache/{which}/{name}")))
    }

    fn caches(&self) -> [[u64; 4]; 4] {
        ["path", "tree", "bound", "client"].map(|which| self.cache(which))
    }
}

#[tokio::test(start_paused = true)]
async fn each_cache_counts_its_misses() {
    let world = small(10, 600 * SEC);
    world.namer.endpoints("/users", [ep(1)]);
    world.namer.tree("/others", "/users");
    assert_eq!(world.caches(), [[0; 4]; 4], "they are there before the first request");
    let client = routed(&world);
    for name in ["users", "users", "others", "others"] {
        client.send(to(name)).await.unwrap();
    }
    assert_eq!(world.caches(), [[2, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]);
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_evicts_who_was_idle_for_longest() {
    let world = small(2, 600 * SEC);
    let client = routed(&world);
    for (n, name) in ["/a", "/b", "/c"].into_iter().enumerate() {
        world.namer.endpoints(name, [ep(n as u8)]);
    }
    for name in ["a", "b", "a", "c", "a"] {
        advance(SEC).await;
        client.send(to(name)).await.unwrap();
    }
    settle().await;
    assert_eq!(world.cache("path"), [3, 1, 0, 0], "b went, and a stayed");
    let paths: Vec<_> = world.mesh.paths().iter().map(|path| path.path.to_string()).collect();
    assert_eq!(paths, ["/svc/a", "/svc/c"]);
    assert!(!world.namer.is_watched("/b"));
    assert!(world.namer.is_watched("/a") && world.namer.is_watched("/c"));
}

#[tokio::test(start_paused = true)]
async fn a_cache_full_of_busy_names_serves_others_with_one_shots() {
    let world = small(1, 600 * SEC);
    let client = routed(&world);
    world.namer.endpoints("/a", [ep(1)]);
    world.namer.endpoints("/b", [ep(2)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let mut busy = sending(&client, to("a"));
    assert_pending!(busy.poll());
    for _ in 0..3 {
        client.send(to("b")).await.unwrap();
    }
    settle().await;
    assert_eq!(world.caches(), [[4, 0, 0, 3], [4, 0, 0, 3], [4, 0, 0, 3], [4, 0, 0, 3]]);
    assert_eq!(world.mesh.clients().len(), 1);
    assert!(!world.namer.is_watched("/b"), "nothing of a one-shot is left");
    assert_eq!(world.metric("client/#/fake/b/requests"), None);
    // With room again, what was busy makes it.
    drop(busy);
    client.send(to("b")).await.unwrap();
    assert_eq!(world.cache("path"), [5, 1, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_is_idle_for_the_ttl_ends_by_the_second_sweep_and_all_of_it() {
    let world = small(10, 100 * SEC);
    let client = routed(&world);
    world.namer.endpoints("/users", [ep(1)]);
    advance(SEC).await;
    client.send(to("users")).await.unwrap();
    // The first sweep is at 100 s: not idle for so long yet.
    advance(100 * SEC).await;
    settle().await;
    assert_eq!(world.caches(), [[1, 0, 0, 0]; 4]);
    assert!(world.namer.is_watched("/users"));
    advance(100 * SEC).await;
    settle().await;
    assert_eq!(world.caches(), [[1, 0, 1, 0]; 4]);
    assert!(world.mesh.paths().is_empty() && world.mesh.clients().is_empty());
    assert!(!world.namer.is_watched("/users"));
    assert_eq!(world.metric("client/#/fake/users/requests"), None, "its metrics go with it");
    assert_eq!(world.metric("service/svc/users/requests"), None);
    // And all comes back.
    client.send(to("users")).await.unwrap();
    assert_eq!(world.caches(), [[2, 0, 1, 0]; 4]);
}

#[tokio::test(start_paused = true)]
async fn what_is_used_stays() {
    let world = small(10, 100 * SEC);
    world.namer.endpoints("/users", [ep(1)]);
    world.namer.endpoints("/fixed", [ep(2)]);
    let (client, fixed) = (routed(&world), world.client("/svc/fixed"));
    for _ in 0..20 {
        client.send(to("users")).await.unwrap();
        advance(60 * SEC).await;
        settle().await;
    }
    assert_eq!(world.caches().map(|[_, _, expires, _]| expires), [0; 4]);
    // Nobody sends to it, but somebody could.
    assert_eq!(status(&fixed).await, 200);
    assert_eq!(world.cache("path"), [2, 0, 0, 0]);
    // Only from when it was let go does its time run.
    drop(fixed);
    advance(30 * SEC).await;
    settle().await;
    assert!(world.namer.is_watched("/fixed"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lost_its_path_is_kept_for_the_ttl() {
    let world = small(10, 100 * SEC);
    let client = world.client("/svc/users");
    world.namer.endpoints("/a", [ep(1)]);
    world.namer.endpoints("/b", [ep(2)]);
    world.namer.tree("/users", "/a");
    advance(190 * SEC).await;
    settle().await;
    status(&client).await;
    world.namer.tree("/users", "/b");
    settle().await;
    advance(11 * SEC).await;
    settle().await;
    assert_eq!(world.mesh.clients().len(), 2, "rules that are edited back find their connections");
    advance(100 * SEC).await;
    settle().await;
    assert_eq!(world.mesh.clients().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_of_nothing_spins_nobody() {
    let world = small(10, Duration::ZERO);
    world.namer.endpoints("/users", [ep(1)]);
    let client = routed(&world);
    client.send(to("users")).await.unwrap();
    tokio::time::sleep(5 * SEC).await;
    assert!(world.mesh.paths().is_empty());
    World::with(|builder| builder.caches(CacheSettings { idle_ttl: Duration::MAX, ..CacheSettings::default() }));
}

#[tokio::test(start_paused = true)]
async fn overrides_go_where_they_say_from_fixed_and_from_routed_clients() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    world.namer.endpoints("/staged", [ep(2)]);
    let (fixed, routed) = (world.client("/svc/users"), routed(&world));
    let rule = "/svc/users => /#/fake/staged";
    for _ in 0..3 {
        fixed.send(overridden(rule)).await.unwrap();
        let mut req = overridden(rule);
        req.headers_mut().insert("to", "users".parse().unwrap());
        routed.send(req).await.unwrap();
    }
    assert_eq!((world.endpoints.count(ep(1)), world.endpoints.count(ep(2))), (0, 6));
    status(&fixed).await;
    routed.send(to("users")).await.unwrap();
    assert_eq!((world.endpoints.count(ep(1)), world.endpoints.count(ep(2))), (2, 6));
    // One of each: the name, and the name under the rule.
    assert_eq!(world.cache("path"), [2, 0, 0, 0]);
    let state: Vec<_> = world.mesh.paths().iter().map(|path| (path.path.to_string(), path.local.to_string())).collect();
    let users = "/svc/users".to_owned();
    let mut expected = [(users.clone(), String::new()), (users, "/svc/users=>/#/fake/staged".to_owned())];
    expected.sort();
    let mut state = state;
    state.sort();
    assert_eq!(state, expected);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_overrides_take_no_more_room_than_the_cache_has() {
    let world = small(50, 600 * SEC);
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    status(&client).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (before, metrics) = (tasks(), world.registry.len());
    for n in 0..10_000 {
        client.send(overridden(&format!("/x/{n} => /y"))).await.unwrap();
        if n % 100 == 0 {
            settle().await;
        }
    }
    settle().await;
    assert_eq!(world.mesh.paths().len(), 51);
    assert_eq!(world.cache("path"), [10_001, 9_950, 0, 0]);
    assert!(tasks() <= before + 2 * 50 + 2, "{before} {}", tasks());
    assert_eq!(world.registry.len(), metrics);
    assert_eq!(world.mesh.clients().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn overrides_do_not_each_bring_a_budget_of_retries() {
    let world = World::retrying(HttpClassifier::RetryableRead5xx);
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::status(500)]);
    let client = world.client("/svc/users");
    for n in 0..10 {
        client.send(overridden(&format!("/x/{n} => /y"))).await.unwrap();
    }
    // One reserve of a hundred, and a fifth of the requests.
    assert_eq!(world.endpoints.count(ep(1)), 10 + 100 + 2);
}

/// The same, with these policies, and with what `n` names need to each have an allowance of its own.
fn allowing(n: usize, service: ServicePolicy) -> World {
    let caches = CacheSettings { paths: n / 2, idle_ttl: 4 * SEC, ..CacheSettings::default() };
    let uniform = Uniform { service, client: steady() };
    World::with(|builder| builder.policies(uniform).caches(caches).dtab("/svc/* => /#/fake/all".parse().unwrap()))
}

/// Ten retries in ten seconds.
fn ten_retries() -> ServicePolicy {
    let settings = BudgetSettings { ttl: 10 * SEC, min_per_sec: 1, percent: 0.0 };
    ServicePolicy { retry_budget: Budget::new(settings).unwrap(), ..service(HttpClassifier::RetryableRead5xx) }
}

/// How often a request is sent that always fails.
async fn sent(world: &World, req: Request<&'static str>) -> usize {
    let before = world.endpoints.count(ep(1));
    assert_eq!(routed(world).send(req).await.unwrap().status(), 503);
    world.endpoints.count(ep(1)) - before
}

#[tokio::test(start_paused = true)]
async fn other_names_do_not_bring_back_what_a_name_has_used_up() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    const OTHERS: [&str; 8] = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let world = allowing(4, ten_retries());
    world.namer.endpoints("/all", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::status(503)]);
    for name in NAMES {
        assert_eq!(sent(&world, to(name)).await, 11, "{name}");
    }
    // Others need no retries of their own, and outlast the time for which names are kept that nobody uses.
    for at in 0..6 {
        for name in OTHERS {
            let post = Request::post("/").header("to", name).body("").unwrap();
            assert_eq!(sent(&world, post).await, 1);
        }
        for name in NAMES {
            assert_eq!(sent(&world, to(name)).await, 1, "{name} after {at} s");
        }
        tokio::time::sleep(SEC).await;
    }
    assert!(world.count("allowances/shared") >= 8);
    // All of those for whom there is no room have what one has.
    let mut retries = 0;
    for name in OTHERS {
        retries += sent(&world, to(name)).await - 1;
    }
    assert_eq!(retries, 10);
    tokio::time::sleep(11 * SEC).await;
    for name in NAMES {
        assert_eq!(sent(&world, to(name)).await, 11, "{name}: it is forgotten after its time");
    }
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_that_was_forgotten_begins_anew() {
    let settings = AdaptiveSettings { initial: 20, window: 10, ..AdaptiveSettings::default() };
    let limit = LimitPolicy::adaptive(settings, WhenFull::Reject).ok();
    let world = allowing(4, ServicePolicy { limit, ..ServicePolicy::default() });
    world.namer.endpoints("/all", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::ok("").after(20 * MS)]);
    let client = routed(&world);
    for _ in 0..20 {
        let send = |_| {
            let client = client.clone();
            tokio::spawn(async move { client.send(to("a")).await.map(drop) })
        };
        futures::future::join_all((0..30).map(send)).await;
    }
    let limit = || world.count("service/svc/a/limit/limit");
    let learned = limit();
    assert!(learned >= 30, "{learned}");
    tokio::time::sleep(3 * SEC).await;
    client.send(to("a")).await.unwrap();
    assert_eq!(limit(), learned, "while it is remembered it stays");
    tokio::time::sleep(20 * SEC).await;
    client.send(to("a")).await.unwrap();
    assert_eq!(limit(), 20);
}

#[tokio::test(start_paused = true)]
async fn names_beyond_those_kept_share_one_limit_until_there_is_room() {
    let one = LimitPolicy::concurrency(NonZeroUsize::MIN, WhenFull::Reject);
    let world = allowing(2, ServicePolicy { limit: Some(one), ..ServicePolicy::default() });
    world.namer.endpoints("/all", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let client = routed(&world);
    let mut busy = Vec::new();
    for name in ["a", "b", "c"] {
        let mut rsp = sending(&client, to(name));
        assert_pending!(rsp.poll());
        settle().await;
        assert_pending!(rsp.poll());
        busy.push(rsp);
    }
    assert_eq!(world.endpoints.count(ep(1)), 3);
    for name in ["c", "d", "e", "d"] {
        let error = client.send(to(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{name}");
        assert!(error.text().starts_with("limit of all names beyond those kept is full: 1 of 1"), "{}", error.text());
    }
    assert_eq!(world.count("allowances/shared"), 5);
    // With room again, a name that is in use gets one of its own by the next sweep.
    busy.clear();
    world.endpoints.script(ep(1), [Reply::ok("")]);
    for _ in 0..3 {
        client.send(to("d")).await.unwrap();
        tokio::time::sleep(SEC).await;
    }
    world.endpoints.script(ep(1), [Reply::hang()]);
    let shared = world.count("allowances/shared");
    for name in ["c", "d"] {
        let mut rsp = sending(&client, to(name));
        assert_pending!(rsp.poll());
        settle().await;
        assert_pending!(rsp.poll());
        busy.push(rsp);
    }
    assert_eq!((busy.len(), world.count("allowances/shared")), (2, shared));
}

//! Make before break: a name that is bound to another client keeps its requests where they went until that one is ready.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use linkerd_core::{
    ErrorKind, Svc,
    admin::mesh_state,
    dtab::{Addr, Endpoint},
    http::Connect,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::*;

/// Endpoints of which some refuse connections, before any request.
#[derive(Clone, Default)]
struct Doors {
    endpoints: Scripted,
    shut: Arc<Mutex<HashSet<SocketAddr>>>,
    dials: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Doors {
    fn shut(&self, addr: SocketAddr) {
        self.shut.lock().unwrap().insert(addr);
    }

    fn open(&self, addr: SocketAddr) {
        self.shut.lock().unwrap().remove(&addr);
    }
}

impl Connect for Doors {
    fn connect(&self, endpoint: &Endpoint) -> Svc {
        self.endpoints.connect(endpoint)
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<()>> {
        self.dials.lock().unwrap().push(endpoint.addr);
        let is_shut = self.shut.lock().unwrap().contains(&endpoint.addr);
        let reached = if is_shut { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(()) };
        Box::pin(std::future::ready(reached))
    }
}

/// `/svc/users` is bound to `/v1`, which has one endpoint, and was asked for once.
async fn world(more: impl FnOnce(MeshBuilder) -> MeshBuilder) -> (World, Doors, Client) {
    let doors = Doors::default();
    let connect = doors.clone();
    let world = World::with(|builder| more(builder.connect(connect)));
    world.namer.addrs("/v1", [ep(1)]);
    world.namer.tree("/users", "/v1");
    let client = world.client("/svc/users");
    assert_eq!(asked(&client, &doors).await, Ok(1));
    (world, doors, client)
}

/// Who answers a request that is sent now: the last number of its address. Or why nobody does.
async fn asked(client: &Client, doors: &Doors) -> Result<u8, ErrorKind> {
    let counts = || (1..10).map(|n| doors.endpoints.count(ep(n))).collect::<Vec<_>>();
    let before = counts();
    client.send(get()).await.map_err(|error| error.kind())?;
    let after = counts();
    let who = before.iter().zip(&after).position(|(before, after)| before != after);
    Ok(who.expect("somebody was asked") as u8 + 1)
}

/// Moves `/svc/users` to another tree, and lets that sink in.
async fn move_to(world: &World, tree: &str) {
    world.namer.tree("/users", tree);
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn requests_stay_until_an_endpoint_of_the_new_client_is_known_and_connected_to() {
    let (world, doors, client) = world(|builder| builder).await;
    move_to(&world, "/v2").await;
    assert_eq!(world.metric("bindcache/switch/waiting"), Some(1.0));
    let shown = || mesh_state(&world.mesh)["paths"][0].clone();
    assert_eq!((&shown()["value"], &shown()["serving"]), (&json!("/#/fake/v2"), &json!("/#/fake/v1")));
    // Nobody knows where it is, for however long.
    sleep(100 * SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    world.namer.fail_addr("/v2", "away");
    settle().await;
    assert_eq!(asked(&client, &doors).await, Ok(1));

    let (world, doors, client) = self::world(|builder| builder).await;
    doors.shut(ep(2));
    move_to(&world, "/v2").await;
    world.namer.addrs("/v2", [ep(2)]);
    sleep(SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    doors.open(ep(2));
    sleep(150 * MS).await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
    assert_eq!(world.metric("bindcache/switch/waiting"), Some(0.0));
    assert_eq!(world.count("bindcache/switch/timeouts"), 0);
    let shown = &mesh_state(&world.mesh)["paths"][0];
    assert_eq!((&shown["value"], &shown["serving"]), (&json!("/#/fake/v2"), &json!(null)));
    // It was reached once: nobody has to find out again.
    let dials = doors.dials.lock().unwrap().len();
    move_to(&world, "/v1").await;
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
    let dialed = doors.dials.lock().unwrap()[dials..].to_vec();
    assert_eq!(dialed, [ep(1)], "once for the client that was never new");
}

#[tokio::test(start_paused = true)]
async fn what_the_table_says_is_done_in_time_whether_or_not_it_can_be_reached() {
    let empty: [SocketAddr; 0] = [];
    let known = [
        (Addr::of(empty), Err(ErrorKind::NoEndpoints)),
        (Addr::Neg, Err(ErrorKind::NoEndpoints)),
        (Addr::of([ep(2)]), Ok(2)),
    ];
    for (addr, then) in known {
        let (world, doors, client) = world(|builder| builder).await;
        doors.shut(ep(2));
        world.namer.addr("/v2", addr);
        move_to(&world, "/v2").await;
        sleep(1990 * MS).await;
        assert_eq!(asked(&client, &doors).await, Ok(1), "{then:?}");
        sleep(20 * MS).await;
        assert_eq!(asked(&client, &doors).await, then);
        assert_eq!(world.count("bindcache/switch/timeouts"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_unknown_when_it_is_late_goes_over_as_soon_as_it_is_known() {
    let (world, doors, client) = world(|builder| builder).await;
    doors.shut(ep(2));
    move_to(&world, "/v2").await;
    sleep(10 * SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    world.namer.addrs("/v2", [ep(2)]);
    settle().await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stands_for_nothing_any_more_does_so_at_once() {
    for tree in ["~", "!", "$"] {
        let (world, doors, client) = world(|builder| builder).await;
        move_to(&world, tree).await;
        assert!(asked(&client, &doors).await.is_err(), "{tree}");
    }
    // And one that stood for nothing has nothing to wait for.
    let (world, doors, client) = world(|builder| builder).await;
    doors.shut(ep(2));
    world.namer.addrs("/v2", [ep(2)]);
    move_to(&world, "~").await;
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn of_a_union_each_new_branch_that_gets_requests_is_waited_for() {
    let (world, doors, client) = world(|builder| builder).await;
    world.namer.addrs("/v3", [ep(3)]);
    move_to(&world, "/v2 & /v3").await;
    for _ in 0..20 {
        assert_eq!(asked(&client, &doors).await, Ok(1));
    }
    world.namer.addrs("/v2", [ep(2)]);
    settle().await;
    let mut who = HashSet::new();
    for _ in 0..100 {
        who.insert(asked(&client, &doors).await.unwrap());
    }
    assert_eq!(who, HashSet::from([2, 3]));
    // Shares of who is there already change at once, and what gets nothing is not waited for.
    move_to(&world, "0 * /v4 & 1 * /v3").await;
    assert_eq!(asked(&client, &doors).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn the_latest_tree_wins_and_one_that_went_back_was_never_left() {
    let (world, doors, client) = world(|builder| builder).await;
    move_to(&world, "/v2").await;
    world.namer.addrs("/v3", [ep(3)]);
    move_to(&world, "/v3").await;
    assert_eq!(asked(&client, &doors).await, Ok(3));
    move_to(&world, "/v2").await;
    move_to(&world, "/v3").await;
    assert_eq!(world.metric("bindcache/switch/waiting"), Some(0.0));
    world.namer.addrs("/v2", [ep(2)]);
    sleep(5 * SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_never_rests_does_not_keep_a_name_where_it_was() {
    let (world, doors, client) = world(|builder| builder).await;
    for n in [2, 3] {
        doors.shut(ep(n));
        world.namer.addrs(&format!("/v{n}"), [ep(n)]);
    }
    let begun = Instant::now();
    let mut last = 1;
    for change in 0..40 {
        move_to(&world, if change % 2 == 0 { "/v2" } else { "/v3" }).await;
        sleep(100 * MS).await;
        last = asked(&client, &doors).await.unwrap();
        if last != 1 {
            break;
        }
    }
    assert_ne!(last, 1, "still at the first after {:?}", begun.elapsed());
    assert!((SEC * 2..SEC * 2 + 200 * MS).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_when_there_is_nothing_to_keep() {
    let empty: [SocketAddr; 0] = [];
    let (world, doors, client) = world(|builder| builder).await;
    doors.shut(ep(2));
    world.namer.addrs("/v2", [ep(2)]);
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    world.namer.addrs("/v1", empty);
    settle().await;
    assert_eq!(asked(&client, &doors).await, Ok(2));

    let (world, doors, client) = self::world(|builder| builder.switch_timeout(Duration::ZERO)).await;
    doors.shut(ep(2));
    world.namer.addrs("/v2", [ep(2)]);
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_changes_under_load_fail_no_request() {
    let (world, doors, client) = world(|builder| builder).await;
    let load = tokio::spawn({
        let client = client.clone();
        async move {
            for _ in 0..10_000 {
                client.send(get()).await.map_err(|error| error.to_string())?;
                sleep(20 * MS).await;
            }
            Ok::<(), String>(())
        }
    });
    let mut moved = 0;
    for change in 0_u32..1000 {
        // A name that nobody has looked at, which has its endpoint a while later.
        let (name, addr) = (format!("/v{}", change + 10), ep((change % 200) as u8 + 10));
        let before = doors.endpoints.count(addr);
        doors.shut(addr);
        move_to(&world, &name).await;
        sleep(20 * MS).await;
        world.namer.addrs(&name, []);
        sleep(20 * MS).await;
        world.namer.addrs(&name, [addr]);
        sleep(20 * MS).await;
        assert_eq!(doors.endpoints.count(addr), before, "asked before it is there");
        doors.open(addr);
        sleep(140 * MS).await;
        moved += usize::from(doors.endpoints.count(addr) > before);
    }
    load.await.unwrap().unwrap();
    assert_eq!(moved, 1000);
}

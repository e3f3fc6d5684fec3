//! The mesh as a whole: how it is built, and that nothing of it stays.

use http_body_util::Full;
use linkerd_core::{BuildProblem, dtab::interpreter::Local, testing::Reply};
use tower::{Service, ServiceExt};

use super::*;

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_mesh_that_is_gone_leaves_no_task() {
    let before = tasks();
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    world.namer.tree("/others", "/users & /more");
    let client = world.client("/svc/users");
    let waiting = sending(&world.client("/svc/others"), get());
    status(&client).await;
    client.send(overridden("/x => /y")).await.unwrap();
    assert!(tasks() > before);
    // A client is a mesh, too.
    drop((world.mesh, waiting));
    settle().await;
    assert_eq!(status(&client).await, 200);
    drop(client);
    settle().await;
    assert_eq!(tasks(), before);
    assert!(!world.namer.is_watched("/users"));
    world.registry.visit(|path, _| assert!(path.len() < 3, "{path:?}"));
}

#[tokio::test(start_paused = true)]
async fn a_request_outlives_its_mesh() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::ok("late").after(SEC)]);
    let client = world.client("/svc/users");
    let rsp = tokio::spawn(async move { client.send(get()).await });
    settle().await;
    drop(world.mesh);
    assert_eq!(text(rsp.await.unwrap().unwrap()).await, "late");
}

#[test]
fn a_mesh_needs_a_runtime_and_every_problem_is_listed() {
    let namer = FakeNamer::new();
    let resolve = std::sync::Arc::new(linkerd_core::dtab::namer::Inet::default());
    let error = Mesh::builder()
        .namer("fake", namer.clone())
        .namer("/#/fake", namer)
        .interpreter(Local::new(Vec::new(), resolve))
        .build()
        .unwrap_err();
    let [prefix, runtime, beside] = error.problems() else { panic!("{error}") };
    assert!(matches!(prefix, BuildProblem::Prefix { prefix, .. } if prefix == "fake"), "{prefix}");
    assert_eq!([beside, runtime], [&BuildProblem::NamersBesideInterpreter, &BuildProblem::NoRuntime]);
    for problem in error.problems() {
        assert!(error.to_string().contains(&problem.to_string()), "{error}");
    }
    assert_eq!(Mesh::builder().build().unwrap_err().problems(), [BuildProblem::NoRuntime]);
}

#[tokio::test(start_paused = true)]
async fn a_client_takes_bodies_of_other_types() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::ok("hello")]);
    let mut client = world.client("/svc/users").with_body::<Full<bytes::Bytes>>();
    let req = Request::post("/").body(Full::from("given")).unwrap();
    let rsp = client.ready().await.unwrap().call(req).await.unwrap();
    assert_eq!(text(rsp).await, "hello");
    let req = Request::post("/").body("text".to_owned()).unwrap();
    let rsp = world.client("/svc/users").with_body::<String>().oneshot(req).await.unwrap();
    assert_eq!(rsp.status(), 200);
    let rsp = world.client("/svc/users").oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(rsp.status(), 200);
    assert_eq!(world.endpoints.count(ep(1)), 3);
}

#[tokio::test(start_paused = true)]
async fn a_bad_name_is_refused_where_it_is_given() {
    let world = World::new();
    assert!(world.mesh.client("users").is_err());
    assert!(world.mesh.client("/svc//users").is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_writes_is_written_only_by_one() {
    let world = World::new();
    world.namer.residual("/users", "/users", "/rest");
    world.namer.addrs("/users", [ep(1)]);
    let client = world.client("/svc/users");
    let rsp = client.send(Request::get("/").header("l5d-dst-residual", "/mine").body("").unwrap()).await.unwrap();
    assert!(rsp.headers().is_empty());
    let sent = &world.endpoints.seen(ep(1))[0].headers;
    assert_eq!((sent.len(), &sent["l5d-dst-residual"]), (1, &"/mine".parse().unwrap()));

    let world = World::with(|builder| builder.proxy(true));
    world.namer.residual("/users", "/users", "/rest");
    world.namer.endpoints("/others", [ep(2)]);
    world.namer.addrs("/users", [ep(1)]);
    let rsp = world.client("/svc/users").send(get()).await.unwrap();
    assert_eq!(rsp.headers()["l5d-success-class"], "1.0");
    let sent = &world.endpoints.seen(ep(1))[0].headers;
    let names = ["l5d-dst-service", "l5d-dst-client", "l5d-dst-residual"].map(|name| sent[name].to_str().unwrap());
    assert_eq!(names, ["/svc/users", "/#/fake/users", "/rest"]);
    let spoofed = Request::get("/").header("l5d-dst-residual", "/mine").body("").unwrap();
    world.client("/svc/others").send(spoofed).await.unwrap();
    assert_eq!(world.endpoints.seen(ep(2))[0].headers.get("l5d-dst-residual"), None);
}

//! Another file in the place of the one that there is, while requests are served.

use http::Request;
use tokio::net::TcpStream;

use crate::harness::{Conn, Folder, Linkerd, SIMPLE, eventually, held, replace, server};

/// [`SIMPLE`], whose file is read again only when it is told to, with this table.
fn told(dtab: &str) -> String {
    format!("reload: {{watch: false}}\n{}", SIMPLE.replace("/svc => /#/io.l5d.fs;", dtab))
}

#[tokio::test]
async fn a_file_that_changes_is_reloaded_and_a_typo_keeps_what_was() {
    let folder = Folder::new();
    let (a, b) = (server("a").await, server("b").await);
    folder.list("a", &[a.addr()]);
    folder.list("b", &[b.addr()]);
    let config = |to: &str| {
        let dtab = format!("/svc/web => /#/io.l5d.fs/{to};");
        format!("reload: {{intervalMs: 20}}\n{}", SIMPLE.replace("/svc => /#/io.l5d.fs;", &dtab))
    };
    let linkerd = Linkerd::start(&folder, &config("a")).await;
    let mut open = Conn::open(linkerd.servers[0]).await;
    assert_eq!(open.get("/", "web", &[]).await.body, "a!");
    assert_eq!(linkerd.metric("config/reloads").await, Some(0.0));

    replace(&folder.path("linkerd.yaml"), &config("b").replace("  dtab:", "  dtap:"));
    linkerd.logged("the configuration was not reloaded").await;
    linkerd.logged("linkerd.yaml:11:3: routers[0].dtap: unknown key; did you mean `dtab`?").await;
    assert_eq!(open.get("/", "web", &[]).await.body, "a!");
    assert_eq!(linkerd.metric("config/reload_failures").await, Some(1.0));
    assert_eq!(linkerd.metric("config/reload_failed").await, Some(1.0));
    let state = linkerd.json("/admin/reload").await;
    assert!(state["last"]["error"].as_str().unwrap().contains("routers[0].dtap"), "{state}");
    assert!(linkerd.page("/config.json").await.body.contains("io.l5d.fs/a"));

    replace(&folder.path("linkerd.yaml"), &config("b"));
    // The connection that was open before goes by the new file, too.
    eventually("the new file", async || (open.get("/", "web", &[]).await.body == "b!").then_some(())).await;
    eventually("its page", async || linkerd.page("/config.json").await.body.contains("io.l5d.fs/b").then_some(()))
        .await;
    assert_eq!(linkerd.metric("config/reload_failed").await, Some(0.0));
    assert_eq!(linkerd.metric("config/reload_failures").await, Some(1.0));
    let state = linkerd.json("/admin/process.json").await;
    assert_eq!(state["reload"]["last"]["changes"]["built"][0], "http", "{state}");
    // Counters went on.
    assert!(linkerd.metric("rt/http/service/svc/web/requests").await >= Some(3.0));
}

#[tokio::test]
async fn a_hangup_reloads_and_what_is_the_same_stays() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let config = told("/svc => /#/io.l5d.fs;");
    let linkerd = Linkerd::start(&folder, &config).await;
    assert_eq!(linkerd.get("web").await.body, "web!");
    let connects = "rt/http/client/#/io.l5d.fs/web/connects";
    assert_eq!(linkerd.metric(connects).await, Some(1.0));

    let more = config.replace("  - port: 0", "  - port: 0\n    maxCallDepth: 1");
    replace(&folder.path("linkerd.yaml"), &format!("# Another line.\n{more}"));
    linkerd.signal("-HUP").await;
    linkerd.logged("the configuration was reloaded: routers as they were: http").await;

    // The connection to the endpoint is the same, and new ones to the server are treated as the file says now.
    assert_eq!(linkerd.get("web").await.body, "web!");
    assert_eq!(linkerd.get_with("web", &[("via", "1.1 a, 1.1 b")]).await.status, 400);
    assert_eq!(linkerd.metric(connects).await, Some(1.0));
}

#[tokio::test]
async fn what_was_read_from_standard_input_cannot_be_read_again() {
    let folder = Folder::new();
    let linkerd = Linkerd::start_with(&folder, &["-"], SIMPLE.as_bytes()).await;
    linkerd.signal("-HUP").await;
    linkerd.logged("there is no file to reload").await;
    assert_eq!(linkerd.page("/admin/reload").await.status, 404);
}

#[tokio::test]
async fn servers_come_and_go() {
    let folder = Folder::new();
    let web = server("web").await;
    let mut slow = held().await;
    folder.list("web", &[web.addr()]);
    folder.list("slow", &[slow.addr]);
    let one = told("/svc => /#/io.l5d.fs;");
    let two = format!("{one}  - port: 0\n");
    let linkerd = Linkerd::start(&folder, &one).await;

    let answer = linkerd.reload(&two).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let changes: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let added = changes["opened"][0].as_str().unwrap().parse().unwrap();
    assert_eq!(Conn::open(added).await.get("/", "web", &[]).await.body, "web!");
    let mut busy = Conn::open(added).await;
    let request = Request::get("/").header("host", "slow").body(String::new()).unwrap();
    let answer = tokio::spawn(async move { busy.try_send(request).await });
    slow.arrived().await;
    let scope = format!("rt/http/server/{}/{}/requests", added.ip(), added.port());
    assert!(linkerd.metric(&scope).await.is_some());

    let closed = linkerd.reload(&one).await;
    assert!(closed.body.contains(&added.to_string()), "{closed:?}");
    eventually("a closed port", async || TcpStream::connect(added).await.is_err().then_some(())).await;
    slow.answer.send(()).unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer.body.as_str(), answer.headers["connection"].to_str().unwrap()), ("late!", "close"));
    eventually("forgotten metrics", async || linkerd.metric(&scope).await.is_none().then_some(())).await;
    // The other one was there all the time.
    assert_eq!(linkerd.get("web").await.body, "web!");

    // Of what cannot be bound nothing is done.
    let taken = one.replace("  - port: 0", &format!("  - port: 0\n  - port: {}", web.addr().port()));
    let refused = linkerd.reload(&taken.replace("io.l5d.fs;", "nothing;")).await;
    assert_eq!(refused.status, 422);
    assert!(refused.body.contains(&format!("router http: cannot listen on {}", web.addr())), "{refused:?}");
    assert_eq!(linkerd.get("web").await.body, "web!");
}

#[tokio::test]
async fn a_server_that_was_removed_comes_back_before_it_has_closed() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let one = format!("shutdown: {{closeMs: 600000}}\n{}", told("/svc => /#/io.l5d.fs;"));
    let two = format!("{one}  - port: 0\n");
    let linkerd = Linkerd::start(&folder, &two).await;
    let second = linkerd.servers[1];
    let mut open = Conn::open(second).await;
    assert_eq!(open.get("/", "web", &[]).await.body, "web!");
    for _ in 0..2 {
        let removed: serde_json::Value = serde_json::from_str(&linkerd.reload(&one).await.body).unwrap();
        assert_eq!(removed["closed"][0], second.to_string(), "{removed}");
        // Its clients are asked to leave, and it closes after that.
        let leaving = Conn::open(second).await.get("/", "web", &[]).await;
        assert_eq!(leaving.headers["connection"], "close");
        let returned: serde_json::Value = serde_json::from_str(&linkerd.reload(&two).await.body).unwrap();
        assert_eq!(returned["opened"][0], second.to_string(), "{returned}");
        let staying = open.get("/", "web", &[]).await;
        assert_eq!((staying.body.as_str(), staying.headers.get("connection")), ("web!", None));
    }
}

#[tokio::test]
async fn servers_that_change_their_routers_leave_no_metrics_behind() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let first = told("/svc => /#/io.l5d.fs;");
    let more = "- protocol: http\n  label: more\n  dtab: /svc => /#/io.l5d.fs;\n  servers:\n";
    let free = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = free.each_ref().map(|listener| listener.local_addr().unwrap().port());
    drop(free);
    let fixed = |a: usize, b: usize| {
        let first = first.replace("  - port: 0", &format!("  - port: {}", ports[a]));
        format!("{first}{more}  - port: {}\n", ports[b])
    };
    let linkerd = Linkerd::start(&folder, &fixed(0, 1)).await;
    let mut open = Conn::open(linkerd.servers[0]).await;
    assert_eq!(open.get("/", "web", &[]).await.body, "web!");
    let swapped = linkerd.reload(&fixed(1, 0)).await;
    assert_eq!(swapped.status, 200, "{swapped:?}");
    assert_eq!(Conn::open(linkerd.servers[0]).await.get("/", "web", &[]).await.body, "web!");
    let metrics = linkerd.json("/admin/metrics.json").await;
    let of = |label: &str| {
        let name = format!("rt/{label}/server/127.0.0.1/{}/requests", ports[0]);
        metrics[name].as_u64()
    };
    assert_eq!((of("http"), of("more")), (None, Some(1)));
    let connections = |label: &str| format!("rt/{label}/server/127.0.0.1/{}/connections", ports[0]);
    // The one that was open before, once the other one is closed.
    eventually("one connection", async || {
        let counted = linkerd.metric(&connections("more")).await;
        (counted == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(linkerd.metric(&connections("http")).await, None);
    assert_eq!(open.get("/", "web", &[]).await.body, "web!");
    drop(open);
    eventually("no connection", async || {
        let counted = linkerd.metric(&connections("more")).await;
        (counted == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reload_that_is_refused_leaves_nothing_behind() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let good = told("/svc => /#/io.l5d.fs;").replace("  servers:", "  originator: true\n  servers:");
    let linkerd = Linkerd::start(&folder, &good).await;
    assert_eq!(linkerd.get("web").await.body, "web!");
    let names = async || {
        let metrics = linkerd.json("/admin/metrics.json").await;
        let names = metrics.as_object().unwrap().keys().filter(|name| !name.starts_with("jvm/"));
        names.cloned().collect::<std::collections::BTreeSet<_>>()
    };
    let before = names().await;
    // One is seen when its log is opened, the other when its address is bound.
    let nowhere =
        "- protocol: http\n  label: other\n  servers: [{port: 0}]\n  httpAccessLog: linkerd.yaml/no/folder.log\n";
    let taken = format!("- protocol: http\n  label: other\n  servers: [{{port: {}}}]\n", web.addr().port());
    for more in [nowhere, &taken] {
        let logged = good
            .replace("  originator: true\n", "  httpAccessLog: new.log\n  service: {retries: {bufferBytes: 1000}}\n");
        let refused = linkerd.reload(&format!("{logged}{more}")).await;
        assert_eq!(refused.status, 422, "{refused:?}");
        let is_gone = async || (!folder.path("new.log").exists() && names().await == before).then_some(());
        eventually("what there was before", is_gone).await;
        assert_eq!(linkerd.metric("rt/http/originator").await, Some(1.0));
    }
    let accepted = linkerd.reload(&good.replace("  originator: true\n", "  httpAccessLog: new.log\n")).await;
    assert_eq!(accepted.status, 200, "{accepted:?}");
    assert_eq!(linkerd.metric("rt/http/originator").await, Some(0.0));
    assert_eq!(linkerd.get("web").await.body, "web!");
    eventually("a line", async || {
        std::fs::read_to_string(folder.path("new.log")).is_ok_and(|text| !text.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn routers_come_and_go() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let one = told("/svc => /#/io.l5d.fs;");
    let two = format!("{one}- protocol: http\n  label: more\n  dtab: /svc => /#/io.l5d.fs;\n  servers:\n  - port: 0\n");
    let linkerd = Linkerd::start(&folder, &one).await;
    let changes: serde_json::Value = serde_json::from_str(&linkerd.reload(&two).await.body).unwrap();
    let added = changes["opened"][0].as_str().unwrap().parse().unwrap();
    assert_eq!((changes["kept"][0].as_str(), changes["built"][0].as_str()), (Some("http"), Some("more")), "{changes}");
    assert_eq!(Conn::open(added).await.get("/", "web", &[]).await.body, "web!");
    assert!(linkerd.page("/").await.body.contains("more"));

    let changes: serde_json::Value = serde_json::from_str(&linkerd.reload(&one).await.body).unwrap();
    assert_eq!(changes["removed"][0], "more", "{changes}");
    eventually("a closed port", async || TcpStream::connect(added).await.is_err().then_some(())).await;
    let left = async || {
        let metrics = linkerd.json("/admin/metrics.json").await;
        let left = metrics.as_object().unwrap().keys().filter(|name| name.starts_with("rt/more/")).count();
        (left == 0).then_some(())
    };
    eventually("forgotten metrics", left).await;
}

#[tokio::test]
async fn what_has_to_wait_for_the_next_start_is_said() {
    let folder = Folder::new();
    let config = told("/svc => /#/io.l5d.fs;");
    let linkerd = Linkerd::start(&folder, &config).await;
    let other = config.replace("admin:\n  port: 0", "workers: 7\nadmin:\n  port: 0\n  workerThreads: 5");
    for _ in 0..2 {
        let changes: serde_json::Value = serde_json::from_str(&linkerd.reload(&other).await.body).unwrap();
        assert_eq!(changes["pending"], serde_json::json!(["admin.workerThreads", "workers"]));
    }
    linkerd.logged("workers is used when the process is started again: until then it is as it was").await;
    let backlog = config.replace("  - port: 0", "  - port: 0\n    socketOptions: {backlog: 7}");
    let answer = linkerd.reload(&backlog).await.body;
    assert!(answer.contains(&format!("socketOptions of what listens on {}", linkerd.servers[0])), "{answer}");
}

#[tokio::test]
async fn workers_are_as_many_as_somebody_says() {
    let folder = Folder::new();
    let processors = std::thread::available_parallelism().unwrap().get();
    folder.write("three.yaml", &format!("workers: 3\n{SIMPLE}"));
    folder.write("linkerd.yaml", SIMPLE);
    for (args, workers, why) in [
        (["-workers", "2", "three.yaml"].as_slice(), 2, "as the command line says"),
        (&["three.yaml"], 3, "as the file says"),
        (&["linkerd.yaml"], processors, "as many as the processors that the process may use"),
    ] {
        let linkerd = Linkerd::start_with(&folder, args, b"").await;
        linkerd.logged(&format!("workers: {workers}, {why}")).await;
        let state = linkerd.json("/admin/process.json").await;
        assert_eq!(
            (state["workers"].as_u64(), state["processors"].as_u64()),
            (Some(workers as u64), Some(processors as u64))
        );
        assert_eq!(linkerd.metric("proxy/workers").await, Some(workers as f64));
    }
}

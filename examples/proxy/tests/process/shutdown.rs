//! From a process that serves to one that has ended, phase by phase; and back, as long as there is a way back.

use http::Request;
use tokio::net::TcpStream;

use crate::harness::{Conn, Folder, Linkerd, SIMPLE, eventually, held, server};

async fn ready(linkerd: &Linkerd) -> (u16, String) {
    let answer = linkerd.page("/admin/ready").await;
    (answer.status.as_u16(), answer.body)
}

#[tokio::test]
async fn a_signal_goes_through_the_phases() {
    let folder = Folder::new();
    let web = server("web").await;
    let mut slow = held().await;
    folder.list("web", &[web.addr()]);
    folder.list("slow", &[slow.addr]);
    // Long enough for a machine that is busy, as what is asked meanwhile is about one of them.
    let config = format!("shutdown: {{lameDuckMs: 3000, closeMs: 3000}}\n{SIMPLE}");
    let mut linkerd = Linkerd::start(&folder, &config).await;
    let addr = linkerd.servers[0];
    eventually("ready", async || (ready(&linkerd).await == (200, "ready\n".to_owned())).then_some(())).await;
    assert_eq!(linkerd.page("/admin/live").await.body, "live\n");
    assert_eq!(linkerd.metric("proxy/phase").await, Some(1.0));
    let timers = linkerd.page("/admin/timeouts.json").await.body;
    assert!(timers.contains("shutdown.lameDuckMs") && timers.contains("admin.shutdownGraceMs"), "{timers}");
    let mut busy = Conn::open(addr).await;
    let request = Request::get("/").header("host", "slow").body(String::new()).unwrap();
    let answer = tokio::spawn(async move { busy.try_send(request).await });
    slow.arrived().await;
    let mut idle = Conn::open(addr).await;
    assert_eq!(idle.get("/", "web", &[]).await.body, "web!");

    linkerd.signal("-TERM").await;
    linkerd.logged("not ready any more").await;
    assert_eq!(ready(&linkerd).await, (503, "ending\n".to_owned()));
    let served = linkerd.get("web").await;
    assert_eq!((served.status.as_u16(), served.headers.get("connection")), (200, None));

    linkerd.logged("clients are asked to leave").await;
    // It is said before every server has been told.
    let asked = async || {
        let served = Conn::open(addr).await.get("/", "web", &[]).await;
        served.headers.contains_key("connection").then_some(())
    };
    eventually("a client that is asked to leave", asked).await;
    for mut conn in [idle, Conn::open(addr).await] {
        let served = conn.get("/", "web", &[]).await;
        assert_eq!((served.status.as_u16(), served.headers["connection"].to_str().unwrap()), (200, "close"));
    }
    assert_eq!(linkerd.page("/admin/live").await.status, 200);

    eventually("a closed port", async || TcpStream::connect(addr).await.is_err().then_some(())).await;
    assert_eq!(linkerd.metric("proxy/phase").await, Some(4.0));
    assert!(!answer.is_finished());
    slow.answer.send(()).unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer.body.as_str(), answer.headers["connection"].to_str().unwrap()), ("late!", "close"));
    assert_eq!(linkerd.ended().await.code(), Some(0), "{:#?}", linkerd.log());
}

#[tokio::test]
async fn draining_refuses_nobody_and_can_be_undone() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;
    let mut open = Conn::open(linkerd.servers[0]).await;
    assert_eq!(linkerd.page("/admin/drain").await.status, 405);

    assert_eq!(linkerd.send("POST", "/admin/drain").await.body, "draining\n");
    linkerd.logged("clients are asked to leave").await;
    assert_eq!(ready(&linkerd).await, (503, "draining\n".to_owned()));
    assert_eq!(linkerd.json("/admin/process.json").await["phase"], "closing");
    let left = async || open.get("/", "web", &[]).await.headers.get("connection").map(|value| value == "close");
    assert!(eventually("an answer that asks to leave", left).await);
    assert_eq!(linkerd.get("web").await.body, "web!");

    assert_eq!(linkerd.send("DELETE", "/admin/drain").await.body, "no longer draining\n");
    linkerd.logged("ready again").await;
    assert_eq!(ready(&linkerd).await, (200, "ready\n".to_owned()));
    let stays = async || linkerd.get("web").await.headers.get("connection").is_none().then_some(());
    eventually("an answer that does not", stays).await;
}

#[tokio::test]
async fn it_is_ready_once_fixed_names_are_bound() {
    let folder = Folder::new();
    folder.write("rules.dtab", "/svc/web => /$/inet/127.0.0.1/9 ;\n");
    let config = "\
admin: {port: 0}
reload: {bindMs: 60000}
routers:
- protocol: http
  identifier: {kind: io.l5d.static, path: /web}
  interpreter: {kind: io.l5d.fs, dtabFile: rules.dtab}
  servers:
  - port: 0
";
    let linkerd = Linkerd::start(&folder, config).await;
    eventually("ready", async || (ready(&linkerd).await.0 == 200).then_some(())).await;
    let state = linkerd.json("/state.json").await;
    assert_eq!(state["rt/http"]["paths"][0]["path"], "/svc/web", "{state}");
}

#[tokio::test]
async fn a_server_that_was_removed_holds_up_no_end() {
    let folder = Folder::new();
    let mut slow = held().await;
    folder.list("slow", &[slow.addr]);
    let config = format!("reload: {{watch: false}}\n{SIMPLE}")
        .replace("  port: 0\ntele", "  port: 0\n  shutdownGraceMs: 3600000\ntele");
    let two = config.replace("  - port: 0", "  - port: 0\n  - port: 0");
    let mut linkerd = Linkerd::start(&folder, &two).await;
    let mut busy = Conn::open(linkerd.servers[1]).await;
    let request = Request::get("/").header("host", "slow").body(String::new()).unwrap();
    let answer = tokio::spawn(async move { busy.try_send(request).await });
    slow.arrived().await;
    assert_eq!(linkerd.reload(&config).await.status, 200);
    assert!(!answer.is_finished());
    linkerd.send("POST", "/admin/shutdown?grace=0").await;
    linkerd.ended().await;
    assert!(answer.await.unwrap().is_err());
}

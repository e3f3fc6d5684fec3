//! A process that has no file descriptors left.

use tokio::net::TcpStream;

use crate::harness::{Conn, Folder, Linkerd, SIMPLE, eventually, server};

#[tokio::test]
async fn accepting_pauses_before_the_last_file_descriptor_and_the_admin_pages_live() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let linkerd = Linkerd::start_with_files(&folder, SIMPLE, 64).await;
    assert_eq!(linkerd.metric("jvm/fd_limit").await, Some(64.0));
    assert_eq!(linkerd.get("web").await.body, "web!");
    let mut early = Conn::open(linkerd.servers[0]).await;
    assert_eq!(early.get("/", "web", &[]).await.body, "web!");

    let mut crowd = Vec::new();
    for _ in 0..200 {
        // They wait in the backlog, those that are not accepted.
        crowd.push(TcpStream::connect(linkerd.servers[0]).await.unwrap());
    }
    let addr = linkerd.servers[0];
    let pauses = format!("rt/http/server/{}/{}/accept_pauses", addr.ip(), addr.port());
    eventually("a pause", async || linkerd.metric(&pauses).await.filter(|pauses| *pauses >= 1.0)).await;
    linkerd.logged("accepting connections pauses").await;
    for _ in 0..20 {
        assert_eq!(linkerd.page("/admin/ping").await.body, "pong");
        // Who is here already is served.
        assert_eq!(early.get("/", "web", &[]).await.body, "web!");
    }
    assert!(linkerd.metric("jvm/fd_count").await < Some(64.0));

    drop(crowd);
    assert_eq!(linkerd.get("web").await.body, "web!");
    eventually("closed files", async || linkerd.metric("jvm/fd_count").await.filter(|files| *files < 56.0)).await;
    assert_eq!(linkerd.get("web").await.body, "web!");
}

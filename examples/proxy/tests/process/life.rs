//! From the first line of the log to the end.

use std::time::Duration;

use http::Request;
use linkerd_core::{config::Config, proxy::Proxy};
use tokio::{
    net::TcpStream,
    process::Command,
    time::{sleep, timeout},
};

use crate::harness::{Conn, Folder, LONG, Linkerd, SIMPLE, eventually, held, server};

#[tokio::test]
async fn it_says_what_it_serves_where() {
    let folder = Folder::new();
    let config = "\
admin: {port: 0}
routers:
- protocol: http
  label: out
  servers:
  - port: 0
  - port: 0
- protocol: http
  label: /in
  servers:
  - port: 0
";
    let linkerd = Linkerd::start(&folder, config).await;

    let log = linkerd.log();
    let lines: Vec<_> = log.iter().map(|line| line.split_once("INFO ").expect(line).1).collect();
    let [out, second, inner] = linkerd.servers[..] else { panic!("{lines:?}") };
    assert!(lines[0].starts_with("linkerd ") && lines[1].starts_with("workers: "), "{lines:?}");
    let expected = [
        format!("serving http admin on {}", linkerd.admin),
        format!("serving out on {out}"),
        format!("serving out on {second}"),
        format!("serving /in on {inner}"),
        "initialized".to_owned(),
    ];
    assert_eq!(lines[2..], expected);
    assert!(out.ip().is_loopback() && linkerd.admin.ip().is_loopback());
}

/// An in-flight request is answered, new ones are refused, and the program ends with 0.
async fn ends_well(end: impl AsyncFnOnce(&Linkerd)) {
    let folder = Folder::new();
    let mut backend = held().await;
    folder.list("slow", &[backend.addr]);
    let mut linkerd = Linkerd::start(&folder, SIMPLE).await;
    let addr = linkerd.servers[0];
    let idle = Conn::open(addr).await;
    let mut busy = Conn::open(addr).await;
    let request = Request::get("/").header("host", "slow").body(String::new()).unwrap();
    let answer = tokio::spawn(async move { busy.try_send(request).await });
    backend.arrived().await;

    end(&linkerd).await;

    let refused = async || TcpStream::connect(addr).await.is_err().then_some(());
    eventually("a closed port", refused).await;
    assert!(!answer.is_finished());
    backend.answer.send(()).unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "late!"));
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(linkerd.ended().await.code(), Some(0), "{:#?}", linkerd.log());
    drop(idle);
}

/// In this process, which logs nothing, as a program with `-log.level=OFF`.
#[tokio::test]
async fn a_signal_is_waited_for_and_heard_before_that_whatever_is_logged() {
    let bound = || {
        let file = "admin: {port: 0}\nrouters: [{protocol: http, servers: [{port: 0}]}]";
        let config = Config::parse("linkerd.yaml", file).unwrap();
        Proxy::builder(&config).build().unwrap().bind().unwrap()
    };
    let proxy = bound();
    let heard = linkerd_cli::signals(proxy.shutdown());
    tokio::select! {
        served = proxy.serve() => panic!("nobody asked for the end: {served:?}"),
        () = heard => panic!("it ends the process"),
        () = sleep(Duration::from_millis(200)) => {}
    }

    let proxy = bound();
    let heard = linkerd_cli::signals(proxy.shutdown());
    let pid = std::process::id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let waiting = tokio::spawn(heard);
    timeout(LONG, proxy.serve()).await.expect("it ends").unwrap();
    assert!(!waiting.is_finished(), "the second signal is waited for");
    waiting.abort();
}

#[tokio::test]
async fn sigterm_lets_open_requests_end() {
    ends_well(async |linkerd| linkerd.signal("-TERM").await).await;
}

#[tokio::test]
async fn sigint_lets_open_requests_end() {
    ends_well(async |linkerd| linkerd.signal("-INT").await).await;
}

#[tokio::test]
async fn the_shutdown_page_lets_open_requests_end() {
    ends_well(async |linkerd| {
        assert_eq!(linkerd.page("/admin/shutdown").await.status, 405);
        let answer = linkerd.post("/admin/shutdown", "text/plain", "").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "quitting\n"));
    })
    .await;
}

/// A request that never ends is cut off.
async fn cuts_off(config: &str, end: impl AsyncFnOnce(&Linkerd)) {
    let folder = Folder::new();
    let mut backend = held().await;
    folder.list("slow", &[backend.addr]);
    let mut linkerd = Linkerd::start(&folder, config).await;
    let mut busy = Conn::open(linkerd.servers[0]).await;
    let request = Request::get("/").header("host", "slow").body(String::new()).unwrap();
    let answer = tokio::spawn(async move { busy.try_send(request).await });
    backend.arrived().await;

    end(&linkerd).await;

    let error = answer.await.unwrap().unwrap_err();
    assert!(error.is_incomplete_message() || error.is_canceled() || error.is_closed(), "{error:?}");
    assert_eq!(linkerd.ended().await.code(), Some(0));
    linkerd.logged("1 connections were cut off: the grace period was over").await;
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_is_cut_off() {
    let config = SIMPLE.replace("admin:\n", "admin:\n  shutdownGraceMs: 50\n");
    cuts_off(&config, async |linkerd| linkerd.signal("-TERM").await).await;
}

#[tokio::test]
async fn the_shutdown_page_takes_a_grace_of_its_own() {
    // With the file's, of ten minutes, this would not end.
    let config = SIMPLE.replace("admin:\n", "admin:\n  shutdownGraceMs: 600000\n");
    cuts_off(&config, async |linkerd| {
        let answer = linkerd.post("/admin/shutdown?grace=never", "text/plain", "").await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains("grace") && answer.body.contains("never"), "{answer:?}");
        assert_eq!(linkerd.post("/admin/shutdown?grace=50.milliseconds", "text/plain", "").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let folder = Folder::new();
    let mut backend = held().await;
    folder.list("slow", &[backend.addr]);
    let config = SIMPLE.replace("admin:\n", "admin:\n  shutdownGraceMs: 600000\n");
    let mut linkerd = Linkerd::start(&folder, &config).await;
    let mut busy = Conn::open(linkerd.servers[0]).await;
    let request = Request::get("/").header("host", "slow").body(String::new()).unwrap();
    let answer = tokio::spawn(async move { busy.try_send(request).await });
    backend.arrived().await;

    linkerd.signal("-INT").await;
    linkerd.logged("SIGINT").await;
    linkerd.signal("-TERM").await;

    assert_eq!(linkerd.ended().await.code(), Some(1));
    assert!(answer.await.unwrap().is_err());
}

#[tokio::test]
async fn the_file_may_be_json_or_standard_input() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let json = r#"{
      "admin": {"port": 0},
      "namers": [{"kind": "io.l5d.fs", "rootDir": "disco"}],
      "routers": [{"protocol": "http", "dtab": "/svc=>/#/io.l5d.fs", "servers": [{"port": 0}]}]
    }"#;
    folder.write("linkerd.json", json);
    let linkerd = Linkerd::start_with(&folder, &["linkerd.json"], b"").await;
    assert_eq!(linkerd.get("web").await.body, "web!");
    assert_eq!(linkerd.json("/config.json").await, serde_json::from_str::<serde_json::Value>(json).unwrap());

    for text in [json, SIMPLE] {
        let linkerd = Linkerd::start_with(&folder, &["-log.level=INFO", "-"], text.as_bytes()).await;
        assert_eq!(linkerd.get("web").await.body, "web!");
    }
}

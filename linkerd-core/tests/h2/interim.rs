//! Interim responses: 100 and 103, before the one that is the answer.

use std::{future::poll_fn, net::SocketAddr};

use h2::client::ResponseFuture;
use http::{Request, Response};
use linkerd_core::http::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::peers::{Answer, Backend, Client, get, h2_client, h2_server, routed, serve, through, within};

/// The next interim response.
async fn interim(response: &mut ResponseFuture) -> Response<()> {
    within(poll_fn(|cx| response.poll_informational(cx))).await.expect("there is one").unwrap()
}

fn head(status: u16, name: &str, value: &str) -> Response<()> {
    Response::builder().status(status).header(name, value).body(()).unwrap()
}

fn expecting() -> Request<()> {
    Request::post("http://web/").header("expect", "100-continue").body(()).unwrap()
}

#[tokio::test]
async fn hints_arrive_one_by_one_before_the_answer() {
    let (mut backend, client) = through().await;
    let (mut response, _) = client.open(get("http://web/"), true).await;
    let mut seen = backend.accept().await;
    for link in ["</one.css>", "</two.css>"] {
        seen.respond.send_informational(head(103, "link", link)).unwrap();
        let hint = interim(&mut response).await;
        assert_eq!((hint.status().as_u16(), &hint.headers()["link"]), (103, &link.parse().unwrap()));
    }
    seen.answer(200, "ok");
    let rsp = Answer::read(response).await.unwrap();
    assert_eq!((rsp.head.status().as_u16(), &rsp.body[..]), (200, &b"ok"[..]));
}

#[tokio::test]
async fn what_an_endpoint_says_at_once_arrives_in_its_order() {
    let (mut backend, client) = through().await;
    let (mut response, _) = client.open(get("http://web/"), true).await;
    let mut seen = backend.accept().await;
    for link in ["</one.css>", "</two.css>"] {
        seen.respond.send_informational(head(103, "link", link)).unwrap();
    }
    seen.answer(200, "ok");
    for link in ["</one.css>", "</two.css>"] {
        assert_eq!(interim(&mut response).await.headers()["link"], link);
    }
    assert_eq!(Answer::read(response).await.unwrap().body, b"ok");
}

#[tokio::test]
async fn an_endpoint_that_says_no_end_of_them_is_heard_for_a_while() {
    let (mut backend, client) = through().await;
    let (mut response, _) = client.open(get("http://web/"), true).await;
    let mut seen = backend.accept().await;
    for _ in 0..100 {
        seen.respond.send_informational(head(103, "link", "</one.css>")).unwrap();
    }
    seen.answer(200, "ok");
    let mut came = 0;
    for _ in 0..100 {
        match within(poll_fn(|cx| response.poll_informational(cx))).await {
            Some(hint) => came += usize::from(hint.unwrap().status() == 103),
            None => break,
        }
    }
    assert!((1..=16).contains(&came), "{came}");
    assert_eq!(Answer::read(response).await.unwrap().body, b"ok");
}

#[tokio::test]
async fn an_endpoint_says_itself_that_a_body_is_wanted() {
    let (mut backend, client) = through().await;
    let (mut response, mut to) = client.open(expecting(), false).await;
    let mut seen = backend.accept().await;
    assert_eq!(seen.head.headers()["expect"], "100-continue");
    seen.respond.send_informational(head(100, "x-any", "1")).unwrap();
    assert_eq!(interim(&mut response).await.status(), 100);
    to.send_data("body".into(), true).unwrap();
    assert_eq!(super::peers::read(&mut seen.body).await.unwrap(), b"body");
    seen.answer(200, "ok");
    assert_eq!(Answer::read(response).await.unwrap().body, b"ok");
}

#[tokio::test]
async fn what_is_not_for_the_outside_is_left_out_of_them() {
    let mut backend = Backend::new().await;
    let config = ServerConfig { clear_context: true, ..h2_server() };
    let client = Client::connect(serve(config, routed(backend.addr, h2_client()))).await;
    let (mut response, _) = client.open(get("http://web/"), true).await;
    let mut seen = backend.accept().await;
    seen.respond.send_informational(head(103, "l5d-inside", "1")).unwrap();
    let hint = interim(&mut response).await;
    assert!(hint.headers().is_empty(), "{hint:?}");
    seen.answer(200, "");
    Answer::read(response).await.unwrap();
}

/// An endpoint of HTTP/1.1 that answers when it has read the head and these bytes.
async fn reads_body(body: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(body) {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    (addr, seen)
}

#[tokio::test]
async fn who_waits_to_send_a_body_to_an_endpoint_of_http1_is_told_to_by_the_proxy() {
    let (addr, seen) = reads_body("body").await;
    let client = Client::connect(serve(h2_server(), routed(addr, ClientConfig::default()))).await;
    let (mut response, mut to) = client.open(expecting(), false).await;
    assert_eq!(interim(&mut response).await.status(), 100);
    to.send_data("body".into(), true).unwrap();
    assert_eq!(Answer::read(response).await.unwrap().body, b"ok");
    let seen = within(seen).await.unwrap().to_lowercase();
    assert!(!seen.contains("expect"), "{seen}");
}

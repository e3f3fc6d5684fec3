//! Servers that are changed while streams are open.

use linkerd_core::http::Server;

use super::peers::{Answer, Backend, Client, get, h2_client, h2_server, routed, within};

#[tokio::test]
async fn a_client_that_is_asked_to_leave_finishes_its_streams() {
    let mut backend = Backend::new().await;
    let server = Server::bind(h2_server()).unwrap().live(routed(backend.addr, h2_client()));
    let control = server.control();
    tokio::spawn(server.serve_until(std::future::pending()));
    let client = Client::connect(control.local_addr()).await;
    let (response, _) = client.open(get("http://web/"), true).await;
    let accepted = backend.accept().await;

    control.ask_to_leave(true);

    within(client.is_told_to_leave()).await;
    accepted.answer(200, "late");
    assert_eq!(Answer::read(response).await.unwrap().body, b"late");
    // Who comes now is served before it is asked, too.
    let late = Client::connect(control.local_addr()).await;
    assert!(late.ask_ok(&mut backend).await);
    within(late.is_told_to_leave()).await;
    control.ask_to_leave(false);
    let stays = Client::connect(control.local_addr()).await;
    for _ in 0..3 {
        assert!(stays.ask_ok(&mut backend).await);
    }
}

#[tokio::test]
async fn a_stream_outlives_what_was_served_when_it_began() {
    let (mut old, mut new) = (Backend::new().await, Backend::new().await);
    let server = Server::bind(h2_server()).unwrap().live(routed(old.addr, h2_client()));
    let control = server.control();
    tokio::spawn(server.serve_until(std::future::pending()));
    let client = Client::connect(control.local_addr()).await;
    let (response, mut request) = client.open(get("http://web/"), false).await;
    let mut accepted = old.accept().await;
    let mut answer = accepted.head();
    let mut body = within(response).await.unwrap().into_body();

    for i in 0..20_u8 {
        control.replace(routed(new.addr, h2_client()), h2_server());
        assert!(client.ask_ok(&mut new).await);
        request.send_data(vec![i].into(), false).unwrap();
        assert_eq!(within(accepted.body.data()).await.unwrap().unwrap(), vec![i]);
        answer.send_data(vec![i].into(), i == 19).unwrap();
        assert_eq!(within(body.data()).await.unwrap().unwrap(), vec![i]);
    }
    assert!(within(body.data()).await.is_none());
    assert!(old.accepted().is_none());
}

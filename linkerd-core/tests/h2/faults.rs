//! What becomes of a request that comes to nothing.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use h2::Reason;
use http::Request;
use linkerd_core::{
    H2Classifier, HttpClassifier, ServicePolicy,
    http::{H2Config, ServerConfig, Wire},
    retry::{Budget, BudgetSettings},
};

use super::peers::{
    Answer, Backend, Client, get, h2_client, h2_server, read, routed, routed_by, serve, through, within,
};

fn reason(result: Result<Answer, h2::Error>) -> Reason {
    let error = result.unwrap_err();
    assert!(error.is_reset(), "{error:?}");
    error.reason().unwrap()
}

#[tokio::test]
async fn a_reset_passes_on_as_it_came_if_it_is_about_the_stream() {
    let (mut backend, client) = through().await;
    for (sent, expected) in [(1, 1), (2, 2), (5, 5), (8, 8), (11, 11), (12, 2), (13, 2), (99, 2)] {
        // Not one that may be repeated.
        let (response, _) = client.open(Request::post("http://web/").body(()).unwrap(), true).await;
        backend.accept().await.respond.send_reset(sent.into());
        assert_eq!(reason(Answer::read(response).await), Reason::from(expected), "{sent}");
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_body_passes_on_after_what_came_before_it() {
    let (mut backend, client) = through().await;
    let (response, _) = client.open(get("http://web/"), true).await;
    let mut back = backend.accept().await.head();
    back.send_data("part".into(), false).unwrap();
    let mut from = within(response).await.unwrap().into_body();
    assert_eq!(within(from.data()).await.unwrap().unwrap(), "part");
    back.send_reset(Reason::ENHANCE_YOUR_CALM);
    assert_eq!(read(&mut from).await.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn what_has_no_name_is_refused_and_what_stands_for_nothing_says_so() {
    let (_backend, client) = through().await;
    let nameless = Request::get("/").version(http::Version::HTTP_11).body(()).unwrap();
    assert_eq!(reason(client.ask(nameless).await), Reason::REFUSED_STREAM);
    let rsp = client.ask(get("http://none/")).await.unwrap();
    assert_eq!(rsp.head.status(), 502);
    assert!(rsp.get("l5d-err").unwrap().starts_with("Unable+to+route+request%21"), "{rsp:?}");
    assert_eq!(rsp.get("content-length"), Some(rsp.body.len().to_string().as_str()));
    let text = "Unable to route request!\n\nservice name: /svc/none\n";
    assert!(std::str::from_utf8(&rsp.body).unwrap().starts_with(text), "{rsp:?}");
    let mut with_dtab = get("http://web/");
    with_dtab.headers_mut().insert("l5d-dtab", "nope".parse().unwrap());
    assert_eq!(client.ask(with_dtab).await.unwrap().head.status(), 400);
}

#[tokio::test]
async fn an_endpoint_that_nobody_listens_at_is_a_502() {
    let gone = Backend::new().await.addr;
    tokio::task::yield_now().await;
    let client = Client::connect(serve(h2_server(), routed(gone, h2_client()))).await;
    let rsp = client.ask(Request::head("http://web/").body(()).unwrap()).await.unwrap();
    assert_eq!((rsp.head.status().as_u16(), rsp.body.len()), (502, 0));
    let rsp = client.ask(get("http://web/")).await.unwrap();
    let text = format!("Unable to establish connection to {gone}.");
    assert!(std::str::from_utf8(&rsp.body).unwrap().starts_with(&text), "{rsp:?}");
}

#[tokio::test]
async fn headers_of_a_connection_are_a_protocol_error_in_either_direction() {
    let (mut backend, client) = through().await;
    for name in ["trailer", "proxy-authenticate"] {
        let req = Request::get("http://web/").header(name, "x").body(()).unwrap();
        assert_eq!(reason(client.ask(req).await), Reason::PROTOCOL_ERROR, "{name}");
    }
    for name in ["trailer", "proxy-authenticate"] {
        let (response, _) = client.open(get("http://web/"), true).await;
        let rsp = http::Response::builder().header(name, "x").body(()).unwrap();
        backend.accept().await.respond.send_response(rsp, true).unwrap();
        assert_eq!(reason(Answer::read(response).await), Reason::PROTOCOL_ERROR, "{name}");
    }
}

#[tokio::test]
async fn one_request_too_many_is_refused() {
    let mut backend = Backend::new().await;
    let config = ServerConfig { max_concurrent_requests: Some(1), ..h2_server() };
    let client = Client::connect(serve(config, routed(backend.addr, h2_client()))).await;
    let (first, _) = client.open(get("http://web/"), true).await;
    let stream = backend.accept().await;
    assert_eq!(reason(client.ask(get("http://web/")).await), Reason::REFUSED_STREAM);
    stream.answer(200, "ok");
    assert_eq!(Answer::read(first).await.unwrap().body, b"ok");
    assert!(client.ask_ok(&mut backend).await, "there is room again");
}

#[tokio::test]
async fn a_server_says_how_many_streams_it_takes_and_how_long_headers_may_be() {
    let h2 = H2Config { max_concurrent_streams: 7, max_header_list_bytes: 1000, ..H2Config::default() };
    let backend = Backend::new().await;
    let config = ServerConfig { wire: Wire::H2(h2), ..h2_server() };
    let client = Client::connect(serve(config, routed(backend.addr, h2_client()))).await;
    let long = Request::get("http://web/").header("x-long", "x".repeat(1000)).body(()).unwrap();
    assert_eq!(client.ask(long).await.unwrap().head.status(), 431);
    assert_eq!(client.max_streams(), 7);
}

#[tokio::test]
async fn a_stream_that_was_refused_is_tried_again_and_then_passed_on() {
    let (mut backend, client) = through().await;
    let (response, _) = client.open(get("http://web/"), true).await;
    let mut refused = 0;
    // The second attempt is let in.
    backend.accept().await.respond.send_reset(Reason::REFUSED_STREAM);
    refused += 1;
    backend.accept().await.answer(200, "ok");
    assert_eq!((refused, Answer::read(response).await.unwrap().body), (1, b"ok".to_vec()));
    // Nobody lets it in, ever.
    let (response, _) = client.open(get("http://web/"), true).await;
    let answer = tokio::spawn(Answer::read(response));
    for _ in 0..1000 {
        if answer.is_finished() {
            break;
        }
        if let Some(mut stream) = backend.accepted() {
            stream.respond.send_reset(Reason::REFUSED_STREAM);
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(reason(within(answer).await.unwrap()), Reason::REFUSED_STREAM);
}

fn call() -> http::request::Builder {
    Request::post("http://web/pkg.Svc/Method").header("content-type", "application/grpc")
}

#[tokio::test]
async fn a_call_of_grpc_is_told_that_its_time_was_over_and_other_requests_are_reset() {
    const SOON: Duration = Duration::from_millis(30);
    let total = ServicePolicy { total_timeout: Some(SOON), ..ServicePolicy::default() };
    let server = ServerConfig { timeout: Some(SOON), ..h2_server() };
    for (service, server) in [(total.clone(), h2_server()), (ServicePolicy::default(), server)] {
        let backend = Backend::new().await;
        let addr = serve(server, routed_by(service, backend.addr, h2_client()));
        let client = Client::connect(addr).await;
        let rsp = client.ask(call().body(()).unwrap()).await.unwrap();
        assert_eq!((rsp.head.status().as_u16(), rsp.get("grpc-status")), (200, Some("4")), "{rsp:?}");
        assert_eq!(
            (rsp.body.len(), rsp.trailers.is_none(), rsp.get("content-type")),
            (0, true, Some("application/grpc"))
        );
        let message = rsp.get("grpc-message").unwrap();
        assert!(message.contains("exceeded 30.milliseconds to "), "{message}");
        assert!(rsp.get("l5d-err").unwrap().starts_with("exceeded+30.milliseconds"), "{rsp:?}");
        assert_eq!(reason(client.ask(get("http://web/")).await), Reason::INTERNAL_ERROR);
    }
    let backend = Backend::new().await;
    let client = Client::connect(serve(h2_server(), routed(backend.addr, h2_client()))).await;
    let rsp = client.ask(call().header("grpc-timeout", "20m").body(()).unwrap()).await.unwrap();
    assert_eq!((rsp.head.status().as_u16(), rsp.get("grpc-status")), (200, Some("4")), "{rsp:?}");
    // With all that is known of it, where that is wanted.
    let mut server = h2_server();
    server.error_limits.detail = true;
    let client = Client::connect(serve(server, routed_by(total, backend.addr, h2_client()))).await;
    for (req, status) in [(call(), 200), (Request::get("http://web/"), 503)] {
        let rsp = client.ask(req.body(()).unwrap()).await.unwrap();
        let detail: serde_json::Value = serde_json::from_str(rsp.get("l5d-err-json").unwrap()).unwrap();
        assert_eq!((rsp.head.status().as_u16(), &detail["timer"]["name"]), (status, &"total".into()), "{detail}");
    }
}

#[tokio::test]
async fn who_should_not_send_it_again_is_told_so_in_the_place_of_a_reset() {
    let policy = ServicePolicy {
        retry_hints: true,
        classifier: Arc::new(H2Classifier(HttpClassifier::RetryableAll5xx)),
        max_attempts: NonZeroU32::new(2),
        retry_budget: Budget::new(BudgetSettings { percent: 10.0, ..BudgetSettings::default() }).unwrap(),
        ..ServicePolicy::default()
    };
    for (req, status, grpc) in [(call(), 200, Some("13")), (Request::get("http://web/"), 502, None)] {
        let mut backend = Backend::new().await;
        let client = Client::connect(serve(h2_server(), routed_by(policy.clone(), backend.addr, h2_client()))).await;
        let (response, _) = client.open(req.body(()).unwrap(), true).await;
        let answer = tokio::spawn(Answer::read(response));
        backend.accept().await.respond.send_reset(Reason::INTERNAL_ERROR);
        while !answer.is_finished() {
            if let Some(mut stream) = backend.accepted() {
                stream.respond.send_reset(Reason::INTERNAL_ERROR);
            }
            tokio::task::yield_now().await;
        }
        let rsp = answer.await.unwrap().unwrap();
        assert_eq!((rsp.head.status().as_u16(), rsp.get("grpc-status")), (status, grpc));
        assert_eq!(rsp.get("l5d-retryable"), Some("false"));
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_hears_of_it_before_the_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (backend, _client) = through().await;
    let addr: SocketAddr = serve(h2_server(), routed(backend.addr, h2_client()));
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    // No settings, but data on a stream that there is not, and more than anybody reads.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\x01x".to_vec();
    bytes.resize(32 * 1024, 0);
    stream.write_all(&bytes).await.unwrap();
    let mut said = Vec::new();
    within(stream.read_to_end(&mut said)).await.expect("it ends, and is not cut off");
    // Length 8 or more, type 7: GOAWAY; its last four bytes are the code.
    let goaway = said.windows(5).position(|frame| frame[0..2] == [0, 0] && frame[2] >= 8 && frame[3..] == [7, 0]);
    assert_eq!(said[goaway.expect("it says goodbye") + 16], 1, "PROTOCOL_ERROR");
}

#[tokio::test]
async fn a_client_that_does_not_speak_http2_is_shown_the_door() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Backend::new().await;
    let addr: SocketAddr = serve(h2_server(), routed(backend.addr, h2_client()));
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GARBAGE GARBAGE GARBAGE\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // Closed, whatever it says before.
    let _ = within(stream.read_to_end(&mut rest)).await;
}

//! Against servers that misbehave.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    mux::{
        idl::{self, Call, NameRef, Stamped},
        thrift::Fault,
    },
    transport::Heartbeat,
};

/// The answer to a call of `bind`: not bound, with this stamp.
fn neg(stamp: &[u8]) -> Vec<u8> {
    let call = Call::Bind { dtab: String::new(), name: NameRef::default(), client: Path::empty() };
    let value = idl::bound_tree(&NameTree::Neg::<Leaf>, |leaf| (&leaf.id, &leaf.residual));
    call.answer(0, &Ok(Stamped { stamp: stamp.to_vec(), value })).to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_is_not_reached_is_a_failure() {
    let (source, _) = client(0);
    assert_eq!(bind(&source, "", "/a").failure().await, "namerd was not reached");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_begins_is_given_up() {
    let (source, _servers) = client(1);
    let start = Instant::now();
    assert_eq!(bind(&source, "", "/a").failure().await, "not connected to namerd within 10s");
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_handshakes_is_spoken_to() {
    let (source, mut servers) = client(1);
    let mut watch = bind(&source, "", "/a");
    let server = &mut servers[0];
    server.frame().await.unwrap();
    server.send(127, 1, b"what?").await;
    let (tag, _) = server.call().await;
    server.answer(tag, &neg(b"1")).await;
    assert_eq!(watch.next().await, NameTree::Neg);
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_falls_silent_is_given_up() {
    let (source, mut servers) = client(1);
    let watch = bind(&source, "", "/a");
    servers[0].begin().await;
    servers[0].call().await;
    let start = Instant::now();
    assert_eq!(servers[0].frame().await.unwrap(), (65, 1, vec![]));
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(watch.failure().await, "the peer gave no sign of life for 4s");
    assert_eq!(start.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_and_asked_for() {
    let (source, mut servers) = client(1);
    let source = source.heartbeat(Heartbeat { period: Duration::from_secs(1), timeout: Duration::from_secs(1) });
    let watch = bind(&source, "", "/a");
    let server = &mut servers[0];
    server.begin().await;
    server.call().await;
    for _ in 0..5 {
        assert_eq!(server.frame().await.unwrap(), (65, 1, vec![]));
        server.send(-65, 1, &[]).await;
    }
    server.send(65, 7, &[]).await;
    assert_eq!(server.frame().await.unwrap(), (-65, 7, vec![]));
    assert!(!watch.end.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_knows_no_pings_is_not_asked_again() {
    let (source, mut servers) = client(1);
    let watch = bind(&source, "", "/a");
    let server = &mut servers[0];
    server.begin().await;
    server.call().await;
    assert_eq!(server.frame().await.unwrap().0, 65);
    server.send(127, 1, b"Unexpected mux message type 65").await;
    sleep(Duration::from_hours(1)).await;
    assert!(!watch.end.is_finished());
    server.send(65, 7, &[]).await;
    assert_eq!(server.frame().await.unwrap(), (-65, 7, vec![]), "and nothing before");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_discarded() {
    let (source, mut servers) = client(1);
    let first = bind(&source, "", "/a");
    let server = &mut servers[0];
    server.begin().await;
    let (tag, _) = server.call().await;
    first.end.abort();
    let (kind, _, body) = server.frame().await.unwrap();
    assert_eq!((kind, &body[..3]), (-62, &tag.to_be_bytes()[1..]));

    // Until it is answered its tag is not used again.
    let mut second = bind(&source, "", "/b");
    let (other, _) = server.call().await;
    assert_ne!(other, tag);
    server.send(-66, tag, &[]).await;
    server.answer(other, &neg(b"1")).await;
    assert_eq!(second.next().await, NameTree::Neg);
    assert!([tag, other].contains(&server.call().await.0));
}

#[tokio::test(start_paused = true)]
async fn calls_are_made_again_where_the_server_sends_them() {
    for (kind, tag, body) in [(64, 1, vec![]), (67, 0, vec![0; 9])] {
        let (source, mut servers) = client(2);
        let mut watch = bind(&source, "", "/a");
        let mut second = servers.pop().unwrap();
        let mut first = servers.pop().unwrap();
        first.begin().await;
        let (_, call) = first.call().await;
        first.send(kind, tag, &body).await;
        second.begin().await;
        let (tag, again) = second.call().await;
        assert_eq!(call, again);
        second.answer(tag, &neg(b"1")).await;
        assert_eq!(watch.next().await, NameTree::Neg);
        if kind == 64 {
            assert_eq!(first.frame().await.unwrap(), (-64, 1, vec![]));
        }
        assert_eq!(first.frame().await, None, "the first connection is closed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_sends_everybody_on_is_a_failure() {
    let (source, servers) = client(10);
    let watch = bind(&source, "", "/a");
    for (i, mut server) in servers.into_iter().enumerate() {
        if i == 2 {
            break;
        }
        server.begin().await;
        server.call().await;
        server.send(64, 1, &[]).await;
    }
    assert_eq!(watch.failure().await, "the server is leaving");
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_does_not_hold_calls_is_not_asked_without_end() {
    let (source, mut servers) = client(1);
    let _watch = bind(&source, "", "/a");
    let server = &mut servers[0];
    server.begin().await;
    let (tag, _) = server.call().await;
    server.answer(tag, &neg(b"1")).await;
    let start = Instant::now();
    for _ in 0..4 {
        let (tag, _) = server.call().await;
        server.answer(tag, &neg(b"1")).await;
    }
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_no_answer_is_a_failure() {
    let fault = idl::fault("bind", 0, &Fault { text: "no".to_owned(), kind: 6 }).to_vec();
    let call = Call::Bind { dtab: String::new(), name: NameRef::default(), client: Path::empty() };
    let failure = call.answer(0, &Err("not today".to_owned())).to_vec();
    let answers: [(i8, Vec<u8>, &str); 9] = [
        (-2, [&[0; 3], &fault[..]].concat(), "namerd says: no"),
        (-2, [&[0; 3], &failure[..]].concat(), "namerd says: not today"),
        (-2, vec![0; 3], "namerd's answer is not understood: a thrift message ends in the middle"),
        (
            -2,
            [&[0; 3][..], b"GET / HTTP/1.1"].concat(),
            "namerd's answer is not understood: a thrift message of another version or protocol",
        ),
        (-2, vec![2, 0, 0], "the server refused the request"),
        (-2, b"\x01\0\0bad".to_vec(), "the server says: bad"),
        (-128, b"bad".to_vec(), "the server says: bad"),
        (-2, vec![7], "the peer does not speak mux as it should: an answer with status 7"),
        (-66, vec![], "the server refused the request"),
    ];
    for (kind, body, expected) in answers {
        let (source, mut servers) = client(1);
        let watch = bind(&source, "", "/a");
        servers[0].begin().await;
        let (tag, _) = servers[0].call().await;
        servers[0].send(kind, tag, &body).await;
        assert_eq!(watch.failure().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_nobody_asked_for_are_left_alone() {
    let (source, mut servers) = client(1);
    let mut watch = bind(&source, "", "/a");
    let server = &mut servers[0];
    server.begin().await;
    let (tag, _) = server.call().await;
    for (kind, body) in [(-2, vec![0; 3]), (-66, vec![]), (-65, vec![]), (-128, vec![]), (-100, vec![1])] {
        server.send(kind, 77, &body).await;
    }
    server.answer(tag, &neg(b"1")).await;
    assert_eq!(watch.next().await, NameTree::Neg);
}

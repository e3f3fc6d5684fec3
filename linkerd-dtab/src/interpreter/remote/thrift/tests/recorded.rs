//! What a real namerd said to a real Linkerd, said to us: our calls have to be Linkerd's, byte by byte.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;
use tokio::sync::Semaphore;

use super::*;
use crate::delegate::Step;

type Answers = HashMap<Vec<u8>, VecDeque<Vec<u8>>>;

/// The answers of the first recorded connection, by call.
fn answers() -> Answers {
    let text = include_str!("../../../../../tests/data/namerd/thrift-session.json");
    let recorded: Vec<Value> = serde_json::from_str(text).unwrap();
    let (mut pending, mut answers) = (HashMap::new(), Answers::new());
    for entry in recorded.iter().filter(|entry| entry["conn"] == 0) {
        let Some(frame) = entry["frame"].as_str() else { continue };
        let bytes: Vec<u8> =
            (0..frame.len()).step_by(2).map(|i| u8::from_str_radix(&frame[i..i + 2], 16).unwrap()).collect();
        let (kind, tag, body) = (bytes[4].cast_signed(), bytes[7], &bytes[8..]);
        if kind == 2 {
            // A thrift message begins so; before it are contexts, a destination and a table.
            let start = body.windows(4).position(|word| word == [0x80, 1, 0, 1]).unwrap();
            pending.insert(tag, body[start..].to_vec());
        } else if kind == -2 {
            answers.entry(pending.remove(&tag).unwrap()).or_default().push_back(body[3..].to_vec());
        }
    }
    answers
}

/// Answers what was answered, one answer for each permit; what was never answered is held.
async fn speak(mut server: Server, mut answers: Answers, permits: Arc<Semaphore>) {
    server.begin().await;
    loop {
        let Some((kind, tag, body)) = server.frame().await else { return };
        match kind {
            65 => server.send(-65, tag, &[]).await,
            2 => {
                permits.acquire().await.unwrap().forget();
                match answers.get_mut(&body[6..]).and_then(VecDeque::pop_front) {
                    Some(answer) => server.answer(tag, &answer).await,
                    None => permits.add_permits(1),
                }
            }
            other => panic!("a message of type {other}"),
        }
    }
}

fn namerd() -> (Thrift, Arc<Semaphore>) {
    let (source, mut servers) = client(1);
    let permits = Arc::new(Semaphore::new(0));
    tokio::spawn(speak(servers.remove(0), answers(), Arc::clone(&permits)));
    (source, permits)
}

#[tokio::test(start_paused = true)]
async fn a_bound_name_is_followed() {
    let (source, permits) = namerd();
    let mut tree = bind(&source, "/extra => /svc", "/svc/web");
    for id in ["web", "other", "web", "other"] {
        permits.add_permits(1);
        assert_eq!(tree.next().await, leaf(&format!("/#/io.l5d.fs/{id}")));
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_are_followed() {
    let (source, permits) = namerd();
    let mut web = addr(&source, "/#/io.l5d.fs/web");
    for ports in [&[37611][..], &[37611, 40313]] {
        permits.add_permits(1);
        assert_eq!(web.next().await, at(ports));
    }
    drop(web);
    let (source, permits) = namerd();
    let mut other = addr(&source, "/#/io.l5d.fs/other");
    for addr in [at(&[40313]), Addr::Neg, at(&[40313])] {
        permits.add_permits(1);
        assert_eq!(other.next().await, addr);
    }
}

#[tokio::test(start_paused = true)]
async fn an_explanation_is_understood() {
    let (source, permits) = namerd();
    permits.add_permits(3);
    let delegation = source.delegate(&"/extra => /svc".parse().unwrap(), &path("/svc/web")).await.unwrap();
    let Step::Alt(nodes) = &delegation.root.step else { panic!("{delegation}") };
    let shown: Vec<_> =
        nodes.iter().map(|node| (node.path.to_string(), node.dentry.as_ref().unwrap().to_string())).collect();
    let expected = [("/#/io.l5d.fs/other", "/svc/web=>/#/io.l5d.fs/other"), ("/#/io.l5d.fs/web", "/svc=>/#/io.l5d.fs")];
    assert_eq!(shown, expected.map(|(path, entry)| (path.to_owned(), entry.to_owned())));
    assert!(delegation.to_string().contains("127.0.0.1:37611"), "{delegation}");
}

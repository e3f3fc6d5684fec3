//! A tree is told again after a change of its table, and not again and again.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use futures::FutureExt;
use linkerd_dtab::{
    Path,
    mesh::proto::{BindReq, Path as Proto},
    namerd::Session,
    store::Expect,
};
use prost::Message;
use tokio::time::advance;

use crate::{
    call::{Answer, call},
    server::Server,
};

const STREAM: &str = "/io.linkerd.mesh.Interpreter/StreamBoundTree";

/// More than any of what has to happen takes.
const TURNS: usize = 40;

/// Lets each task that can run now run once. Unlike `yield_now`, which lets them all run until none can.
async fn turn() {
    let mut has_waited = false;
    poll_fn(|cx| {
        if has_waited {
            return Poll::Ready(());
        }
        has_waited = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets all others have so many turns, then the time go on: longer than what is looked for is looked for again.
async fn rest() {
    for _ in 0..TURNS {
        turn().await;
    }
    advance(Duration::from_millis(20)).await;
}

/// How many messages are there without anybody else having a turn; no more than a thousand are looked at.
fn read(answer: &mut Answer) -> usize {
    (0..1000).take_while(|_| matches!(answer.message().now_or_never(), Some(Some(_)))).count()
}

/// Changes the table, and reads what there is after so many turns of that. Whether it was made by then.
async fn change(session: &Session, n: usize, turns: usize, answer: &mut Answer) -> (usize, bool) {
    let (namespace, table) = ("default".parse().unwrap(), format!("/svc => /$/inet/127.0.0.1/1 ; /other => /n{n}"));
    let table = table.parse().unwrap();
    let mut put = pin!(session.put(&namespace, &table, &Expect::Any));
    let mut is_made = false;
    for _ in 0..turns {
        is_made = is_made || put.as_mut().now_or_never().is_some();
        turn().await;
    }
    let told = read(answer);
    if !is_made {
        put.await.unwrap();
    }
    (told, is_made)
}

/// What is told of two changes, of which a stream learns after so many turns of each: how often, and whether they were made.
async fn two_changes(session: Session, mut answer: Answer, first: usize, second: usize) -> (usize, [bool; 2]) {
    rest().await;
    assert_eq!(read(&mut answer), 0, "nothing has changed");
    let (mut told, is_first_made) = change(&session, 1, first, &mut answer).await;
    rest().await;
    let (again, is_second_made) = change(&session, 2, second, &mut answer).await;
    told += again;
    for _ in 0..3 {
        rest().await;
        told += read(&mut answer);
    }
    (told, [is_first_made, is_second_made])
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_told_once_though_its_table_changes_again_before_that() {
    let proto = |text: &str| Some(Proto::from(&text.parse::<Path>().unwrap()));
    let asked = BindReq { root: proto("/default"), name: proto("/svc"), dtab: None }.encode_to_vec();
    let mut seen = [false; 4];
    'first: for first in 0..TURNS {
        for second in 0..TURNS {
            let server = Server::new([("default", "/svc => /$/inet/127.0.0.1/1")], []);
            let mut answer = call(&server.mesh, STREAM, &asked).await;
            assert!(answer.message().await.is_some());
            // In a task, which has its turn as others have.
            let changes = tokio::spawn(two_changes(server.session(), answer, first, second));
            let (told, [is_first_made, is_second_made]) = changes.await.unwrap();
            assert!((1..=3).contains(&told), "{told} times if it is looked at after {first} and {second} turns");
            seen[told] = true;
            // More turns make no difference.
            if is_first_made {
                break 'first;
            }
            if is_second_made {
                break;
            }
        }
    }
    assert!(seen[1] && seen[2], "{seen:?}");
}

//! Requests at a rate of their own: whoever answers slowly is not asked less.

use std::{net::SocketAddr, time::Duration};

use http::Request;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::harness::Conn;

/// So many requests a second, for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) per_second: u32,
    pub(crate) lasts: Duration,
    /// No more than so many are under way; what finds none of them idle is late, and its time counts from when it was due.
    pub(crate) clients: u32,
}

/// What came of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Which it was, from 0.
    pub(crate) number: u32,
    pub(crate) status: u16,
    /// How long it took from when it was due.
    pub(crate) took: Duration,
}

impl Load {
    /// Sends them all, and waits for every answer.
    pub(crate) async fn send(self, to: SocketAddr, request: fn(u32) -> http::request::Builder) -> Vec<Sent> {
        let requests = (f64::from(self.per_second) * self.lasts.as_secs_f64()) as u32;
        let begin = Instant::now() + Duration::from_millis(50);
        let mut clients = JoinSet::new();
        for client in 0..self.clients {
            let mut conn = Conn::open(to).await;
            clients.spawn(async move {
                let mut sent = Vec::new();
                for number in (client..requests).step_by(self.clients as usize) {
                    let due = begin + Duration::from_secs(1) * number / self.per_second;
                    sleep_until(due).await;
                    let req: Request<String> = request(number).body(String::new()).unwrap();
                    let answer = conn.send(req).await;
                    let closes = answer.headers.get("connection").is_some_and(|value| value == "close");
                    sent.push(Sent { number, status: answer.status.as_u16(), took: due.elapsed() });
                    if closes {
                        conn = Conn::open(to).await;
                    }
                }
                sent
            });
        }
        clients.join_all().await.concat()
    }
}

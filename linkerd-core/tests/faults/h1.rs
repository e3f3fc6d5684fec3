//! Origins of HTTP/1.1.

use std::{net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    leaks::{LONG, Served},
    origin::{
        Fault, Origin, Script,
        Then::{Close, Hang, Next, Reset},
    },
    peers::{Message, Wire},
};

/// What a client makes of its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// It is the origin's, and whole.
    Whole,
    /// It is the origin's, and does not pass for a whole one.
    Broken,
    /// It is the proxy's, and says why.
    Failed(u16),
    /// There is none.
    Silent,
    Other,
}

use Outcome::{Broken, Failed, Whole};

/// One that is read whole by a proxy, and a stream.
const ANSWERS: [&str; 2] = [
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nworld",
    "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n",
];

impl Outcome {
    fn of(rsp: Option<&Message>) -> Self {
        match rsp {
            Some(rsp) if rsp.status() == 200 && rsp.is_whole && rsp.body == b"world" => Whole,
            Some(rsp) if rsp.status() == 200 && !rsp.is_whole => Broken,
            Some(rsp) if rsp.is_whole && rsp.get("l5d-err").is_some_and(|why| !why.is_empty()) => Failed(rsp.status()),
            None => Self::Silent,
            _ => Self::Other,
        }
    }
}

impl Fault<Outcome> {
    /// Every way in which an origin of HTTP/1.1 fails, but for the bytes at which it may.
    async fn all() -> Vec<Self> {
        let [short, chunked] = ANSWERS;
        let long = |len: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\nworld");
        let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n";
        let tick = Duration::from_millis(20);
        vec![
            Self::at("refuses", Origin::refusing(), &[Failed(502)]),
            Self::at("slams", Origin::slamming().await, &[Failed(502)]),
            Self::new("says nothing and closes", Script::h1("", Close), &[Failed(502)]).await,
            Self::new("says nothing and resets", Script::h1("", Reset), &[Failed(502)]).await,
            Self::new("closes after the head", Script::h1(&long(5)[..38], Close), &[Failed(502)]).await,
            Self::new("a length that is too long", Script::h1(long(7), Close), &[Failed(502)]).await,
            Self::new("much too long", Script::h1(long(1 << 20), Close), &[Broken]).await,
            Self::new("a chunk that is too short", Script::h1(begun.replace('5', "7"), Close), &[Broken]).await,
            Self::new("no last chunk", Script::h1(begun, Close), &[Broken]).await,
            Self::new("no chunk", Script::h1(begun.replace('5', "x"), Close), &[Broken, Failed(502)]).await,
            Self::new("garbage", Script::h1("\0\x16\x03\x01 garbage\r\n\r\n", Close), &[Failed(502)]).await,
            Self::new("garbage without an end", Script::h1("g".repeat(100_000), Hang), &[Failed(502)]).await,
            Self::new(
                "a head too long",
                Script::h1(format!("{}{long}", "HTTP/1.1 200 OK\r\nX: ", long = "x".repeat(20_000)), Hang),
                &[Failed(502)],
            )
            .await,
            Self::new(
                "two lengths",
                Script::h1(long(5).replacen("\r\n", "\r\nContent-Length: 4\r\n", 1), Next),
                &[Failed(502)],
            )
            .await,
            // What comes after the answer is nobody's answer.
            Self::new("a length that is too short", Script::h1(format!("{}{}", long(5), long(3)), Next), &[Whole])
                .await,
            Self::new("dribbles", Script::h1(long(5), Next).by_byte(), &[Whole]).await,
            Self::new("dribbles chunks", Script::h1(chunked, Close).by_byte(), &[Whole]).await,
            Self::slow("hangs", Script::h1("", Hang), &[Failed(503)]).await,
            Self::slow("hangs in the head", Script::h1(&short[..20], Hang), &[Failed(503)]).await,
            Self::slow("hangs before the body", Script::h1(&long(5)[..38], Hang), &[Failed(503)]).await,
            Self::slow("hangs in a stream", Script::h1(begun, Hang), &[Broken, Failed(503)]).await,
            Self::slow(
                "dribbles a head without end",
                Script::h1("HTTP/1.1 200 OK\r\nX: x", Hang).endlessly(tick),
                &[Failed(503)],
            )
            .await,
        ]
    }

    /// Ends at each byte of its answers.
    async fn cuts() -> Vec<Self> {
        let mut cuts = Vec::new();
        for (i, answer) in ANSWERS.into_iter().enumerate() {
            let head = answer.find("\r\n\r\n").unwrap() + 4;
            for at in 0..answer.len() {
                for then in [Close, Reset] {
                    let allowed: &[_] = match then {
                        // What had arrived is as good as lost.
                        Reset if i == 1 && at >= head => &[Broken, Failed(502)],
                        _ if i == 1 && at >= head => &[Broken],
                        _ => &[Failed(502)],
                    };
                    let origin = Origin::new(Script::h1(answer, then).cut(at)).await;
                    cuts.push(Self::at(format!("{then:?} at {at} of {i}"), origin, allowed));
                }
            }
        }
        cuts
    }

    /// What it came to, if that must not be.
    async fn ask(&self, served: &Served, request: &str) -> Option<String> {
        let proxy = if self.is_hasty { served.hasty } else { served.patient };
        let (outcome, rsp) = ask(proxy, request, self.origin.port).await;
        (!self.allowed.contains(&outcome)).then(|| format!("{}: {outcome:?}, {rsp:?}", self.name))
    }
}

async fn ask(proxy: SocketAddr, request: &str, host: u16) -> (Outcome, Option<Message>) {
    let mut wire = Wire::connect(proxy).await;
    wire.write(request.replace("HOST", &host.to_string())).await;
    let rsp = timeout(LONG, wire.message(false)).await.ok().flatten();
    (Outcome::of(rsp.as_ref()), rsp)
}

const REQUESTS: [&str; 2] =
    ["GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\nhello"];

/// Asks every origin for everything: the slow ones beside the others.
async fn round(served: &Served, faults: &[Fault<Outcome>], cuts: &[Fault<Outcome>]) {
    let (slow, quick): (Vec<_>, Vec<_>) = faults.iter().partition(|fault| fault.is_hasty);
    let all = async |faults: Vec<&Fault<Outcome>>, requests: &[&str]| {
        let mut wrong = Vec::new();
        for fault in faults {
            for request in requests {
                // Twice: the second one finds what the first one left.
                wrong.extend(fault.ask(served, request).await);
                wrong.extend(fault.ask(served, request).await);
            }
        }
        wrong
    };
    let quick = async {
        let mut wrong = all(quick, &REQUESTS).await;
        wrong.extend(all(cuts.iter().collect(), &REQUESTS[..1]).await);
        wrong
    };
    let (slow, quick) = tokio::join!(all(slow, &REQUESTS), quick);
    assert!(slow.is_empty() && quick.is_empty(), "{slow:#?}\n{quick:#?}");
}

#[tokio::test]
async fn whatever_an_origin_does_its_callers_are_answered_and_nothing_is_left() {
    let served = Served::new("http").await;
    let (faults, cuts) = (Fault::all().await, Fault::cuts().await);
    round(&served, &faults, &cuts).await;
    // From here on every name is known, and nothing more is to be held.
    let before = served.at_rest().await;
    round(&served, &faults, &cuts).await;
    served.returns_to(before).await;

    // At once, too, but for those that leave a connection to each.
    let mut asked = JoinSet::new();
    for fault in faults.iter().filter(|fault| !fault.is_hasty && fault.allowed != [Whole]) {
        for _ in 0..4 {
            asked.spawn(ask(served.patient, REQUESTS[0], fault.origin.port));
        }
    }
    for (outcome, rsp) in asked.join_all().await {
        let is_shed = rsp.as_ref().is_some_and(|rsp| rsp.status() == 503 && rsp.get("retry-after").is_some());
        assert!(is_shed || outcome != Outcome::Other, "{rsp:#?}");
    }
    served.returns_to(before).await;
    served.idle(&["pending", "loadbalancer/load", "pool_waiters"]).await;
    drop((faults, cuts));
    served.idle(&["pending", "connections", "pool_size", "pool_cached", "pool_waiters", "loadbalancer/load"]).await;
}

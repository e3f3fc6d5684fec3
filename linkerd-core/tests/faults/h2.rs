//! Origins of HTTP/2, byte by byte.

use std::net::SocketAddr;

use ::h2::Reason;
use http::Request;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    h2_peers::{Client, read},
    leaks::{LONG, Served},
    origin::{
        Fault, Origin, Script,
        Then::{self, Close, Hang, Reset},
    },
};

/// What a client makes of its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// It is the origin's, and whole.
    Whole,
    /// It is the origin's, and was reset.
    Broken,
    /// It is the proxy's, and says why.
    Failed(u16),
    /// There is none.
    Silent,
    /// There is none but a reset.
    Refused(Reason),
    Other,
}

use Outcome::{Broken, Failed, Refused, Whole};

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// `:status: 200` on the first stream.
const HEAD: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x01\x88";
/// The same with `content-length: 7`.
const LONG_HEAD: &[u8] = b"\0\0\x04\x01\x04\0\0\0\x01\x88\x5c\x017";
/// With `content-length: 3`.
const SHORT_HEAD: &[u8] = b"\0\0\x04\x01\x04\0\0\0\x01\x88\x5c\x013";
const BODY: &[u8] = b"\0\0\x05\0\x01\0\0\0\x01world";
/// Not the end of the stream.
const PART: &[u8] = b"\0\0\x05\0\0\0\0\0\x01world";

fn answer(frames: &[&[u8]], then: Then) -> Script {
    Script::h2(SETTINGS, &frames.concat(), then)
}

impl Fault<Outcome> {
    async fn all() -> Vec<Self> {
        const LOST: &[Outcome] = &[Refused(Reason::CANCEL)];
        const BAD: &[Outcome] = &[Refused(Reason::INTERNAL_ERROR)];
        const MALFORMED: &[Outcome] = &[Refused(Reason::PROTOCOL_ERROR)];
        // It is passed on before its end shows what it is.
        const LIE: &[Outcome] = &[Broken, Refused(Reason::PROTOCOL_ERROR), Refused(Reason::INTERNAL_ERROR)];
        // The second stream on the same connection hears nothing.
        const HUNG: &[Outcome] = &[Broken, Refused(Reason::INTERNAL_ERROR)];
        let none = Script::h2(b"", b"", Close);
        let http1 = Script::h2(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"", Close);
        let on_stream_0 = b"\0\0\x05\0\x01\0\0\0\0world";
        let too_large = b"\xff\xff\xff\0\0\0\0\0\x01";
        let bad_hpack = b"\0\0\x01\x01\x04\0\0\0\x01\xff";
        let no_status = b"\0\0\x02\x01\x05\0\0\0\x01\x5c\0";
        let goodbye = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\x02";
        let reset = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x0b";
        vec![
            Self::at("refuses", Origin::refusing(), &[Failed(502)]),
            Self::at("slams", Origin::slamming().await, &[Failed(502), Refused(Reason::CANCEL)]),
            Self::new("says nothing and closes", none, LOST).await,
            Self::new("speaks HTTP/1", http1, BAD).await,
            Self::new("closes instead of an answer", answer(&[], Close), LOST).await,
            Self::new("resets instead of an answer", answer(&[], Reset), LOST).await,
            Self::new("closes after the head", answer(&[HEAD], Close), &[Broken]).await,
            Self::new("closes in the body", answer(&[HEAD, PART], Close), &[Broken]).await,
            Self::new("a length that is too long", answer(&[LONG_HEAD, BODY], Close), LIE).await,
            Self::new("a length that is too short", answer(&[SHORT_HEAD, BODY], Close), LIE).await,
            Self::new("a frame of no stream", answer(&[on_stream_0], Close), BAD).await,
            Self::new("a frame too large", answer(&[HEAD, too_large], Close), LIE).await,
            Self::new("a head that cannot be read", answer(&[bad_hpack], Close), BAD).await,
            Self::new("a head without a status", answer(&[no_status], Close), MALFORMED).await,
            Self::new("goes away for a reason", answer(&[goodbye], Close), LOST).await,
            Self::new("resets the stream", answer(&[reset], Close), &[Refused(Reason::ENHANCE_YOUR_CALM)]).await,
            Self::new("resets the stream after the head", answer(&[HEAD, reset], Close), &[Broken]).await,
            Self::new("dribbles", answer(&[HEAD, BODY], Close).by_byte(), &[Whole]).await,
            Self::slow("hangs", answer(&[], Hang), BAD).await,
            Self::slow("hangs in the head", answer(&[&HEAD[..5]], Hang), BAD).await,
            Self::slow("hangs after the head", answer(&[HEAD], Hang), HUNG).await,
            Self::slow("hangs in the body", answer(&[HEAD, PART], Hang), HUNG).await,
        ]
    }

    /// Ends at each byte of an answer.
    async fn cuts() -> Vec<Self> {
        let mut cuts = Vec::new();
        let whole = answer(&[HEAD, BODY], Close).len();
        for at in 0..whole {
            for then in [Close, Reset] {
                let origin = Origin::new(answer(&[HEAD, BODY], then).cut(at)).await;
                let allowed: &[_] = if at >= SETTINGS.len() + HEAD.len() {
                    &[Broken, Refused(Reason::CANCEL)]
                } else {
                    // Before it greets whole it may pass for one that cannot be connected to.
                    &[Refused(Reason::CANCEL), Failed(502)]
                };
                cuts.push(Self::at(format!("{then:?} at {at}"), origin, allowed));
            }
        }
        cuts
    }

    async fn ask(&self, served: &Served, has_body: bool) -> Option<String> {
        let proxy = if self.is_hasty { served.hasty } else { served.patient };
        let outcome = ask(proxy, self.origin.port, has_body).await;
        (!self.allowed.contains(&outcome)).then(|| format!("{}: {outcome:?}", self.name))
    }
}

async fn ask(proxy: SocketAddr, host: u16, has_body: bool) -> Outcome {
    let asked = timeout(LONG, async {
        let client = Client::connect(proxy).await;
        let req = if has_body { Request::post(uri(host)) } else { Request::get(uri(host)) };
        let (response, mut body) = client.open(req.body(()).unwrap(), !has_body).await;
        if has_body {
            let _ = body.send_data("hello".into(), true);
        }
        let rsp = match response.await {
            Ok(rsp) => rsp,
            Err(error) => return error.reason().map_or(Outcome::Other, Refused),
        };
        let (head, mut body) = rsp.into_parts();
        match (head.status.as_u16(), read(&mut body).await) {
            (200, Ok(body)) if body == b"world" => Whole,
            (200, Err(_)) => Broken,
            (status, Ok(_)) if head.headers.get("l5d-err").is_some_and(|why| !why.is_empty()) => Failed(status),
            _ => Outcome::Other,
        }
    });
    asked.await.unwrap_or(Outcome::Silent)
}

fn uri(host: u16) -> String {
    format!("http://{host}/")
}

/// Asks every origin for everything: the slow ones beside the others.
async fn round(served: &Served, faults: &[Fault<Outcome>], cuts: &[Fault<Outcome>]) {
    let (slow, quick): (Vec<_>, Vec<_>) = faults.iter().partition(|fault| fault.is_hasty);
    let all = async |faults: Vec<&Fault<Outcome>>| {
        let mut wrong = Vec::new();
        for fault in faults {
            for has_body in [false, true] {
                // Twice: the second one finds what the first one left.
                wrong.extend(fault.ask(served, has_body).await);
                wrong.extend(fault.ask(served, has_body).await);
            }
        }
        wrong
    };
    let quick = quick.into_iter().chain(cuts).collect();
    let (slow, quick) = tokio::join!(all(slow), all(quick));
    assert!(slow.is_empty() && quick.is_empty(), "{slow:#?}\n{quick:#?}");
}

#[tokio::test]
async fn whatever_an_origin_does_its_callers_are_answered_and_nothing_is_left() {
    let served = Served::new("h2").await;
    let (faults, cuts) = (Fault::all().await, Fault::cuts().await);
    round(&served, &faults, &cuts).await;
    let before = served.at_rest().await;
    round(&served, &faults, &cuts).await;
    served.returns_to(before).await;

    let mut asked = JoinSet::new();
    for fault in faults.iter().filter(|fault| !fault.is_hasty) {
        for _ in 0..4 {
            asked.spawn(ask(served.patient, fault.origin.port, false));
        }
    }
    let outcomes = asked.join_all().await;
    assert!(!outcomes.contains(&Outcome::Other) && !outcomes.contains(&Outcome::Silent), "{outcomes:?}");
    served.returns_to(before).await;
    drop((faults, cuts));
    served.idle(&["pending", "loadbalancer/load"]).await;
}

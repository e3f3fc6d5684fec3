//! Connections to an origin that are cut at every byte of a request and of its response: what may be sent once is sent
//! once, everybody gets an answer, and nothing is left behind.
//!
//! Each byte of each kind of request is cut once, under one of the classifiers in turn; with `CUTS=all` under each of them,
//! by an end and by a reset.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use http::Method;
use linkerd_core::{HttpClassifier, config::Config, proxy::Proxy};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    cuts_origin::{ANSWERS, Attempt, Cut, End, Origin, body_of},
    peers::{Message, Wire},
};

/// Whatever has not happened by then does not happen.
const LONG: Duration = Duration::from_secs(20);

/// What `retries.bufferBytes` is where streams are kept.
const BUFFER: usize = 4096;

/// How a request's body comes, and whether the proxy can send it again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sent {
    None,
    Whole,
    Streamed,
    StreamedAndKept,
}

/// All requests that are alike but for the place of the cut. They go to an origin of their own, one after the other.
#[derive(Clone, Debug)]
struct Lane {
    method: Method,
    has_key: bool,
    sent: Sent,
    classifier: HttpClassifier,
    on_reused: bool,
    /// Which of three bytes it cuts; `None`: all, in both ways.
    turn: Option<usize>,
}

/// What came of cuts.
#[derive(Default)]
struct Tally {
    cuts: usize,
    reused: usize,
    again: usize,
    failed: usize,
}

impl Lane {
    fn all(every: bool) -> Vec<Self> {
        use HttpClassifier::{NonRetryable5xx, RetryableAll5xx, RetryableRead5xx};
        let mut requests = vec![(Method::GET, false, Sent::None)];
        for sent in [Sent::Whole, Sent::Streamed, Sent::StreamedAndKept] {
            requests.extend([(Method::PUT, false, sent), (Method::POST, false, sent), (Method::POST, true, sent)]);
        }
        let mut lanes = Vec::new();
        for (method, has_key, sent) in requests {
            for (i, classifier) in [NonRetryable5xx, RetryableRead5xx, RetryableAll5xx].into_iter().enumerate() {
                for on_reused in [false, true] {
                    let turn = (!every).then_some(i);
                    lanes.push(Self { method: method.clone(), has_key, sent, classifier, on_reused, turn });
                }
            }
        }
        lanes
    }

    /// The router that serves it.
    fn router(&self) -> String {
        format!("{:?}-{}", self.classifier, if self.sent == Sent::StreamedAndKept { BUFFER } else { 0 })
    }

    fn request(&self, id: usize, host: u16) -> String {
        let key = if self.has_key { "Idempotency-Key: k\r\n" } else { "" };
        let rest = match self.sent {
            Sent::None => "\r\n",
            Sent::Whole => "Content-Length: 5\r\n\r\nhello",
            Sent::Streamed | Sent::StreamedAndKept => {
                "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
            }
        };
        format!("{} /{id:05} HTTP/1.1\r\nHost: {host}\r\n{key}{rest}", self.method)
    }

    /// How a connection is cut at this byte.
    fn ends(&self, at: usize) -> &'static [End] {
        match self.turn {
            None => &[End::Closed, End::Reset],
            Some(turn) if at % 3 != turn => &[],
            Some(_) if (at / 3).is_multiple_of(2) == self.on_reused => &[End::Closed],
            Some(_) => &[End::Reset],
        }
    }

    /// Whether a request that was cut there may be sent a second time, as `docs/retries.md` has it.
    fn may_be_sent_again(&self, cut: Cut, was_reused: bool) -> bool {
        if self.sent == Sent::Streamed {
            return false;
        }
        let no_answer_yet = matches!(cut, Cut::Request(_) | Cut::Response(_, 0));
        let is_resent = was_reused && self.method.is_idempotent() && no_answer_yet;
        let keyed = self.has_key && self.classifier.may_retry(&Method::PUT);
        is_resent || keyed || self.classifier.may_retry(&self.method)
    }
}

/// A lane at work.
struct Run {
    lane: Lane,
    proxy: SocketAddr,
    origin: Origin,
    // Kept as long as it lasts.
    client: Option<Wire>,
    tally: Tally,
}

impl Run {
    async fn new(lane: Lane, proxy: SocketAddr) -> Self {
        let origin = Origin::new(lane.on_reused).await;
        Self { lane, proxy, origin, client: None, tally: Tally::default() }
    }

    /// Cuts the requests of the lane everywhere.
    async fn run(mut self) -> (Tally, Origin) {
        // The first is not cut: it tells how long a request is.
        let len = self.whole().await;
        let request = (0..=len).map(Cut::Request);
        let response = (0..ANSWERS.len()).flat_map(|i| (0..=ANSWERS[i].len()).map(move |n| Cut::Response(i, n)));
        let mut id = 0;
        for cut in request.chain(response) {
            for &end in self.lane.ends(cut.at()) {
                id += 1;
                self.cut(id, cut, end).await;
            }
        }
        assert_eq!(self.origin.take_attempts(), [], "{:?}: after all was answered", self.lane);
        (self.tally, self.origin)
    }

    /// A request that goes through. How many bytes of it arrive.
    async fn whole(&mut self) -> usize {
        let rsp = self.ask(&self.lane.request(0, self.origin.port)).await;
        assert_eq!(rsp.map(|rsp| rsp.status()), Some(200), "{:?}", self.lane);
        let [attempt] = &self.origin.take_attempts()[..] else { panic!("{:?}: sent more than once", self.lane) };
        attempt.bytes.len()
    }

    /// One request whose connection is cut, and what has to come of it.
    async fn cut(&mut self, id: usize, cut: Cut, end: End) {
        if self.lane.on_reused {
            // Leaves an idle connection. It may go out on one that is ending, so it is one that may be sent twice.
            let warm = format!("GET /{id:05} HTTP/1.1\r\nHost: {}\r\n\r\n", self.origin.port);
            let rsp = self.ask(&warm).await.expect("a response");
            assert_eq!(rsp.status(), 200, "{:?} before {cut:?}", self.lane);
            self.origin.take_attempts();
        }
        self.origin.cut_next(cut, end);
        let rsp = self.ask(&self.lane.request(id, self.origin.port)).await;
        let attempts = self.origin.take_attempts();
        let what = || format!("{:?}\n{cut:?} {end:?}\n{attempts:#?}\n{rsp:#?}", self.lane);
        let sent: &[u8] = if self.lane.sent == Sent::None { b"" } else { b"hello" };
        for attempt in &attempts {
            assert!(attempt.id().is_none_or(|seen| seen == id), "a request came late: {}", what());
            assert!(body_of(&attempt.bytes).is_none_or(|body| body == sent), "{}", what());
        }
        let first = attempts.iter().find(|attempt| attempt.is_cut).unwrap_or_else(|| panic!("{}", what()));
        let may_again = self.lane.may_be_sent_again(cut, first.was_reused);
        let seen = attempts.iter().filter(|attempt| !attempt.bytes.is_empty()).count();
        assert!(seen <= 1 + usize::from(may_again), "sent {seen} times: {}", what());
        let outcome = Outcome::of(rsp.as_ref());
        assert!(allowed(cut, end, may_again, &attempts).contains(&outcome), "{outcome:?}: {}", what());
        self.tally.add(&Tally {
            cuts: 1,
            reused: usize::from(first.was_reused),
            again: usize::from(seen > 1),
            failed: usize::from(outcome == Outcome::BadGateway),
        });
    }

    /// Sends a request. `None`: there was no answer.
    async fn ask(&mut self, req: &str) -> Option<Message> {
        let mut wire = match self.client.take() {
            Some(wire) => wire,
            None => Wire::connect(self.proxy).await,
        };
        wire.write(req).await;
        let rsp = timeout(LONG, wire.message(false)).await.unwrap_or_else(|_| panic!("no answer to {req}"));
        let lasts = |rsp: &Message| rsp.is_whole && rsp.get("connection") != Some("close");
        if rsp.as_ref().is_some_and(lasts) {
            self.client = Some(wire);
        }
        rsp
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.reused += other.reused;
        self.again += other.again;
        self.failed += other.failed;
    }
}

/// What a client makes of its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Answered,
    BadGateway,
    /// It began as a success, and does not pass for a whole one.
    BrokenOff,
    Other,
}

impl Outcome {
    fn of(rsp: Option<&Message>) -> Self {
        match rsp {
            Some(rsp) if rsp.status() == 200 && rsp.is_whole && rsp.body == b"world" => Self::Answered,
            Some(rsp) if rsp.status() == 200 && !rsp.is_whole => Self::BrokenOff,
            Some(rsp) if rsp.status() == 502 && rsp.is_whole && rsp.get("l5d-err").is_some() => Self::BadGateway,
            _ => Self::Other,
        }
    }
}

/// What may come of a request that was cut there.
fn allowed(cut: Cut, end: End, may_again: bool, attempts: &[Attempt]) -> Vec<Outcome> {
    use Outcome::{Answered, BadGateway, BrokenOff};
    let failed = if may_again { Answered } else { BadGateway };
    match cut {
        // It may not even have been written, and goes out again then whatever it is.
        Cut::Request(0) if attempts.len() > 1 => vec![Answered],
        Cut::Response(i, n) if n == ANSWERS[i].len() => match end {
            End::Closed => vec![Answered],
            // What had arrived is as good as lost.
            End::Reset => vec![Answered, BrokenOff, failed],
        },
        // The head of a stream was passed on before, or was not.
        Cut::Response(1, n) if ANSWERS[1][..n].contains("\r\n\r\n") => match end {
            End::Closed => vec![BrokenOff],
            End::Reset => vec![BrokenOff, failed],
        },
        _ => vec![failed],
    }
}

/// A router for each classifier, with and without a buffer for streams.
fn config(lanes: &[Lane]) -> String {
    let routers: BTreeMap<_, _> = lanes.iter().map(|lane| (lane.router(), lane)).collect();
    let router = |(label, lane): (&String, &&Lane)| {
        let kind = match lane.classifier {
            HttpClassifier::RetryableRead5xx => "responseClassifier: {kind: io.l5d.http.retryableRead5XX}, ",
            HttpClassifier::RetryableAll5xx => "responseClassifier: {kind: io.l5d.http.retryableAll5XX}, ",
            _ => "",
        };
        let buffer = if lane.sent == Sent::StreamedAndKept { BUFFER } else { 0 };
        format!(
            "- protocol: http\n  label: {label}\n  dtab: /svc => /$/inet/127.0.0.1\n  servers: [{{port: 0}}]\n  \
             client: {{failureAccrual: {{kind: none}}, requeueBudget: {{percentCanRetry: 2}}}}\n  \
             service: {{{kind}retries: {{bufferBytes: {buffer}, budget: {{percentCanRetry: 2}}}}}}\n"
        )
    };
    let routers: String = routers.iter().map(router).collect();
    format!("admin: {{port: 0}}\nrouters:\n{routers}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_may_be_cut_anywhere() {
    let lanes = Lane::all(std::env::var("CUTS").is_ok_and(|cuts| cuts == "all"));
    let config = Config::parse("cuts.yaml", &config(&lanes)).unwrap();
    let proxy = Proxy::builder(&config).build().unwrap().bind().unwrap();
    let admin = proxy.admin_addr();
    let servers: BTreeMap<_, _> = proxy.servers().map(|(label, addr)| (label.to_owned(), addr)).collect();
    let serving = tokio::spawn(proxy.serve());

    let begun = Instant::now();
    let mut running = JoinSet::new();
    for lane in lanes {
        let proxy = servers[&lane.router()];
        running.spawn(async move {
            let on_reused = lane.on_reused;
            (on_reused, Run::new(lane, proxy).await.run().await)
        });
    }
    let (mut all, mut meant, mut origins) = (Tally::default(), 0, Vec::new());
    while let Some(done) = running.join_next().await {
        let (on_reused, (tally, origin)) = done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        meant += if on_reused { tally.cuts } else { 0 };
        all.add(&tally);
        origins.push(origin);
    }
    let Tally { cuts, reused, again, failed } = all;
    println!(
        "{cuts} cuts in {:?}: {reused} on reused connections, {again} sent again, {failed} failed",
        begun.elapsed()
    );
    assert!(reused * 10 > meant * 9, "{reused} of {meant} went out on a reused connection");

    // The origins go, and their connections: with the clients gone, nothing is left.
    drop(origins);
    let begun = Instant::now();
    loop {
        let left = held(&metrics(admin).await);
        if left.is_empty() {
            break;
        }
        assert!(begun.elapsed() < LONG, "still held: {left:#?}");
        sleep(Duration::from_millis(20)).await;
    }
    serving.abort();
}

/// The gauges of what is held for a request, or for a connection, that are not zero.
fn held(metrics: &Value) -> Vec<String> {
    const HELD: [&str; 6] = ["pending", "connections", "pool_size", "pool_cached", "pool_waiters", "loadbalancer/load"];
    let metrics = metrics.as_object().unwrap();
    let is_held = |name: &str| HELD.iter().any(|held| name.ends_with(&format!("/{held}")));
    let seen: Vec<_> = metrics.iter().filter(|(name, _)| name.starts_with("rt/") && is_held(name)).collect();
    assert!(seen.len() > 300, "{seen:?}");
    let held = seen.into_iter().filter(|(_, value)| value.as_f64() != Some(0.0));
    held.map(|(name, value)| format!("{name}: {value}")).collect()
}

async fn metrics(admin: SocketAddr) -> Value {
    let mut wire = Wire::connect(admin).await;
    let rsp = wire.ask("GET /admin/metrics.json HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    serde_json::from_slice(&rsp.body).unwrap()
}

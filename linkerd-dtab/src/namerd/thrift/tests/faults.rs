//! Clients that are gone, slow, greedy or wrong.

use tokio::time::Instant;

use super::{super::MAX_CALL, *};
use crate::mux::{
    idl::{Call, NameRef},
    thrift::{Fault, Reader},
};

const PING: (i8, u32) = (65, 1);

fn bind(name: &str, stamp: &[u8]) -> Vec<u8> {
    let name = NameRef { stamp: stamp.to_vec(), name: path(name), namespace: "default".to_owned() };
    Call::Bind { dtab: String::new(), name, client: Path::empty() }.encode().to_vec()
}

fn replicas(count: u16, port: u16) -> Addr {
    Addr::of((0..count).map(|i| ([10, 0, (i >> 8) as u8, i as u8], port).into()))
}

impl Wire {
    /// The payload of the answer to the call with this tag, which has to be next.
    async fn answer(&mut self, tag: u32) -> Vec<u8> {
        let frame = self.next().await.unwrap();
        assert_eq!((frame.kind, frame.tag, frame.body[0]), (-2, tag, 0));
        frame.body[3..].to_vec()
    }

    async fn kind_and_tag(&mut self) -> (i8, u32) {
        let frame = self.frame().await.unwrap();
        (frame.kind, frame.tag)
    }

    async fn end(self) -> Result<(), Broken> {
        self.served.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_is_dropped() {
    let mut wire = Rig::new().connect();
    wire.call(2, &bind("/svc/web", b"")).await;
    wire.answer(2).await;
    let start = Instant::now();
    assert_eq!(wire.kind_and_tag().await, PING);
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(wire.frame().await, None);
    assert_eq!(start.elapsed().as_secs(), 9);
    let error = wire.end().await.unwrap_err();
    assert_eq!(error.to_string(), "the peer gave no sign of life for 4s");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays() {
    let mut wire = Rig::new().connect();
    wire.send(65, 3, &[]).await;
    assert_eq!(wire.kind_and_tag().await, (-65, 3));
    for _ in 0..100 {
        assert_eq!(wire.kind_and_tag().await, PING);
        wire.send(-65, 1, &[]).await;
    }
    assert!(!wire.served.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_refuses_pings_stays() {
    let mut wire = Rig::new().connect();
    wire.send(65, 3, &[]).await;
    assert_eq!(wire.kind_and_tag().await, (-65, 3));
    assert_eq!(wire.kind_and_tag().await, PING);
    wire.send(127, 1, b"Unexpected mux message type 65").await;
    assert!(timeout(Duration::from_hours(1), wire.frame()).await.is_err());
    wire.call(2, &bind("/svc/web", b"")).await;
    wire.answer(2).await;
}

#[tokio::test(start_paused = true)]
async fn who_connects_has_to_say_something() {
    let mut wire = Rig::new().connect();
    let start = Instant::now();
    assert_eq!(wire.frame().await, None, "there is no ping in the middle of a handshake");
    assert_eq!(start.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_mux_ends_the_connection() {
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 3, 65, 0, 0],
        &[0x01, 0, 0, 1],
        // A request with tag 0, one whose contexts end early, and a ping in fragments.
        &frame(2, 0, &[0; 6]),
        &frame(2, 2, &[0, 9, 0]),
        &frame(65, 0x80_0001, &[]),
    ];
    for bytes in garbage {
        let mut wire = Rig::new().connect();
        wire.raw(bytes).await;
        assert_eq!(wire.frame().await, None);
        let error = wire.end().await.unwrap_err().to_string();
        assert!(error.starts_with("the peer does not speak mux as it should: "), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_requests_with_one_tag_end_the_connection() {
    let rig = Rig::new();
    let mut wire = rig.connect();
    wire.call(2, &bind("/svc/web", b"")).await;
    let answer = wire.answer(2).await;
    let held = bind("/svc/web", &answer[stamp(&answer).unwrap()]);
    wire.call(2, &held).await;
    wire.call(2, &held).await;
    assert_eq!(wire.next().await, None);
    assert!(wire.end().await.unwrap_err().to_string().ends_with("two requests with tag 2"));
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_refused_and_the_others_held() {
    let rig = Rig::new();
    let mut wire = rig.connect_with(Settings { max_pending: 2, ..Settings::default() }, 1 << 16);
    wire.call(2, &bind("/svc/web", b"")).await;
    let answer = wire.answer(2).await;
    let held = bind("/svc/web", &answer[stamp(&answer).unwrap()]);
    for tag in 2..5 {
        wire.call(tag, &held).await;
    }
    let refused = wire.next().await.unwrap();
    assert_eq!((refused.kind, refused.tag, refused.body), (-2, 4, vec![2, 0, 0]));
    rig.delete("web");
    let mut tags = [wire.next().await.unwrap().tag, wire.next().await.unwrap().tag];
    tags.sort_unstable();
    assert_eq!(tags, [2, 3]);
    wire.call(4, &bind("/svc/web", b"")).await;
    wire.answer(4).await;
}

#[tokio::test(start_paused = true)]
async fn a_discarded_call_is_over() {
    let rig = Rig::new();
    let mut wire = rig.connect();
    wire.call(2, &bind("/svc/web", b"")).await;
    let answer = wire.answer(2).await;
    let held = bind("/svc/web", &answer[stamp(&answer).unwrap()]);
    for kind in [66, -62] {
        wire.call(2, &held).await;
        wire.send(kind, 0, &[0, 0, 2, b'n', b'o']).await;
        assert_eq!(wire.kind_and_tag().await, (-66, 2));
    }
    // Of a call that is not there nothing is said; the tag can be used again.
    wire.send(66, 0, &[0, 0, 9]).await;
    rig.delete("web");
    wire.call(2, &held).await;
    wire.answer(2).await;
    assert!(wire.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_gets_the_last_state_and_then_is_dropped() {
    let rig = Rig::new();
    // So many replicas that one answer is more than the pipe takes.
    rig.names.set(path("/big"), replicas(2000, 1));
    let mut wire = rig.connect_with(Settings::default(), 1 << 15);
    let name = |stamp: &[u8]| NameRef { stamp: stamp.to_vec(), name: path("/#/io.l5d.fs/big"), ..NameRef::default() };
    let addr = |stamp: &[u8]| Call::Addr { name: name(stamp), client: Path::empty() }.encode().to_vec();
    for tag in 2..200 {
        wire.call(tag, &addr(b"")).await;
    }
    // More than a megabyte waits by now, so the rest is not made yet.
    assert!(timeout(QUIET, &mut wire.served).await.is_err());
    rig.names.set(path("/big"), replicas(2000, 2));
    let (mut old, mut new) = (0, 0);
    for _ in 2..200 {
        let frame = wire.next().await.unwrap();
        let addr = crate::mux::idl::read_addr(&frame.body[3..]).unwrap().value;
        match addr.endpoints()[0].addr.port() {
            1 => old += 1,
            _ => new += 1,
        }
    }
    assert!(old > 0 && new > 100, "{old} were made before the change, {new} after it");

    for tag in 2..200 {
        wire.call(tag, &addr(b"")).await;
    }
    let start = Instant::now();
    let error = wire.served.await.unwrap().unwrap_err();
    assert!(matches!(error, Broken::Dead(_)), "{error}");
    assert!(start.elapsed().as_secs() <= 9);
}

#[tokio::test(start_paused = true)]
async fn long_answers_come_in_frames_of_the_size_that_was_agreed_on() {
    let rig = Rig::new();
    rig.names.set(path("/big"), replicas(500, 1));
    let mut wire = rig.connect();
    wire.send(127, 1, b"tinit check").await;
    assert_eq!(wire.kind_and_tag().await, (127, 1));
    let framer = [&[0, 1, 0, 0, 0, 10][..], b"mux-framer", &[0, 0, 0, 4], &1024_u32.to_be_bytes()].concat();
    wire.send(68, 1, &framer).await;
    assert_eq!(wire.kind_and_tag().await, (-68, 1));
    let name = NameRef { name: path("/#/io.l5d.fs/big"), ..NameRef::default() };
    // The call comes in two fragments, too.
    let call = [&[0; 6], &Call::Addr { name, client: Path::empty() }.encode()[..]].concat();
    let (head, rest) = call.split_at(10);
    wire.send(2, 0x80_0002, head).await;
    wire.send(2, 2, rest).await;

    let mut answer = Vec::new();
    for _ in 0..100 {
        let frame = wire.next().await.unwrap();
        assert_eq!((frame.kind, frame.tag & 0x7f_ffff), (-2, 2));
        assert!(frame.body.len() <= 1020);
        answer.extend(frame.body);
        if frame.tag == 2 {
            break;
        }
    }
    let addr = crate::mux::idl::read_addr(&answer[3..]).unwrap().value;
    assert_eq!(addr.endpoints().len(), 500);
}

#[tokio::test(start_paused = true)]
async fn bad_handshakes_are_refused() {
    let mut wire = Rig::new().connect();
    wire.send(127, 1, b"tinit check").await;
    assert_eq!(wire.kind_and_tag().await, (127, 1));
    wire.send(68, 1, &[0, 2]).await;
    let refused = wire.frame().await.unwrap();
    assert_eq!((refused.kind, &refused.body[..]), (-128, &b"unsupported version 2, expected 1"[..]));
    let tiny = [&[0, 1, 0, 0, 0, 10][..], b"mux-framer", &[0, 0, 0, 4, 0, 0, 0, 5]].concat();
    let mut wire = Rig::new().connect();
    wire.send(68, 1, &tiny).await;
    assert_eq!(wire.frame().await, None);
    assert!(wire.end().await.unwrap_err().to_string().contains("fewer than 1024"));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_leave_is_left() {
    let rig = Rig::new();
    let mut wire = rig.connect();
    wire.call(2, &bind("/svc/web", b"")).await;
    wire.answer(2).await;
    wire.drain.take().unwrap().send(()).unwrap();
    assert_eq!(wire.kind_and_tag().await, (64, 1));
    let start = Instant::now();
    wire.call(3, &bind("/svc/web", b"")).await;
    let refused = wire.next().await.unwrap();
    assert_eq!((refused.kind, refused.tag, refused.body[0]), (-2, 3, 2), "nothing new is begun");
    assert_eq!(wire.next().await, None);
    assert_eq!(start.elapsed().as_secs(), 4);
    wire.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_under_way_is_given_before_the_end() {
    let rig = Rig::new();
    let mut wire = rig.connect();
    // Nobody has answered for this name yet.
    let (publisher, activity) = crate::Activity::channel();
    let slow = Slow(activity);
    let store = Memory::new([(namespace("default"), "/slow => /#/slow".parse().unwrap())]);
    let namerd = Namerd::builder(store).namer(path("/#/slow"), slow).build();
    let rig = Rig { names: rig.names, session: namerd.session(Peer::default()) };
    wire.served.abort();
    wire = rig.connect();
    wire.call(2, &bind("/slow", b"")).await;
    assert!(wire.is_quiet().await);
    wire.drain.take().unwrap().send(()).unwrap();
    assert_eq!(wire.kind_and_tag().await, (64, 1));
    wire.send(-64, 1, &[]).await;
    assert!(wire.is_quiet().await);
    publisher.ok(crate::NameTree::Fail);
    wire.answer(2).await;
    assert_eq!(wire.next().await, None);
    wire.end().await.unwrap();
}

struct Slow(crate::Activity<crate::NameTree<crate::Name>>);

impl crate::Namer for Slow {
    fn lookup(&self, _: &Path) -> crate::Activity<crate::NameTree<crate::Name>> {
        self.0.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_make_no_sense_are_answered() {
    let mut wire = Rig::new().connect();
    let fault = |payload: &[u8]| -> (String, Fault) {
        let mut reader = Reader::new(payload);
        let method = reader.head().unwrap().method.to_owned();
        (method, reader.fault().unwrap())
    };
    // What Finagle asks first where it does not know better.
    let probe = [&[0x80, 1, 0, 1, 0, 0, 0, 29][..], b"__can__finagle__trace__v3__..", &[0, 0, 0, 7, 0]].concat();
    wire.call(2, &probe).await;
    let (method, unknown) = fault(&wire.answer(2).await);
    assert_eq!(method, "__can__finagle__trace__v3__..");
    assert_eq!(unknown.kind, Fault::UNKNOWN_METHOD);

    let name = NameRef { name: path("/svc/web"), namespace: "no way".to_owned(), ..NameRef::default() };
    let call = |dtab: &str, name: NameRef| Call::Bind { dtab: dtab.to_owned(), name, client: Path::empty() }.encode();
    wire.call(2, &call("", name.clone())).await;
    let error = crate::mux::idl::read_bound(&wire.answer(2).await, &|id, _| id).unwrap_err().to_string();
    assert!(error.starts_with("namerd says: invalid namespace 'no way'"), "{error}");

    wire.call(2, &call("bad", NameRef { namespace: "default".to_owned(), ..name })).await;
    let (_, bad) = fault(&wire.answer(2).await);
    let text =
        "Internal error processing bind: 'java.lang.IllegalArgumentException: '/' expected but 'b' found at '[b]ad''";
    assert_eq!((bad.text.as_str(), bad.kind), (text, Fault::INTERNAL_ERROR));

    let cut = call("", NameRef::default());
    for end in 0..cut.len() {
        wire.call(2, &cut[..end]).await;
        let (_, bad) = fault(&wire.answer(2).await);
        assert_eq!(bad.kind, Fault::PROTOCOL_ERROR);
    }
}

#[tokio::test(start_paused = true)]
async fn an_explanation_with_a_stamp_is_given_too() {
    let mut wire = Rig::new().connect();
    let call = |stamp: &[u8]| Call::Delegate {
        dtab: String::new(),
        stamp: stamp.to_vec(),
        path: Some(path("/svc/web")),
        namespace: "default".to_owned(),
        client: Path::empty(),
    };
    wire.call(2, &call(b"").encode()).await;
    let first = wire.answer(2).await;
    wire.call(2, &call(&first[stamp(&first).unwrap()]).encode()).await;
    assert_eq!(wire.answer(2).await, first);
}

/// What a client reads of a connection that is closed for what it sends, and why.
async fn refused(rig: &Rig, bytes: &[u8]) -> (Frame, String) {
    let mut wire = rig.connect();
    wire.raw(bytes).await;
    let said = wire.next().await.unwrap();
    assert_eq!(wire.next().await, None);
    (said, wire.end().await.unwrap_err().to_string())
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_too_long_is_refused_before_it_is_read() {
    let mut rig = Rig::new();
    let meter = Meter::default();
    rig.session = rig.session.metered(&meter);
    let length = 4 + MAX_CALL as u32;
    let head = [length.to_be_bytes(), (2_u32 << 24 | 7).to_be_bytes()].concat();
    let (said, error) = refused(&rig, &head).await;
    assert_eq!((said.kind, said.tag), (-128, 7));
    assert_eq!(String::from_utf8(said.body).unwrap(), "a message of 262148 bytes, of at most 262144");
    assert_eq!(error, "the peer was refused: a message of 262148 bytes, of at most 262144");
    assert_eq!(meter.failures(Reason::Limit), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_come_in_whole_is_given_up() {
    let rig = Rig::new();
    // All of a frame, but of a message there is more to come: what comes in between is no reason to wait.
    let begun = Instant::now();
    let mut wire = rig.connect();
    wire.send(65, 2, &[]).await;
    assert_eq!(wire.kind_and_tag().await, (-65, 2));
    wire.send(2, 0x80_0007, &[0; 100]).await;
    let mut said = None;
    for _ in 0..20 {
        let Some(next) = wire.frame().await else { break };
        if next.kind == 65 {
            // It may be closed already.
            let _ = wire.io.write_all(&frame(-65, next.tag, &[])).await;
        }
        said = Some(next);
    }
    let said = said.unwrap();
    assert_eq!((said.kind, said.tag), (-128, 1));
    assert_eq!(String::from_utf8(said.body).unwrap(), "a message took too long to come in whole");
    assert!(matches!(wire.end().await, Err(Broken::Refused(_))));
    assert_eq!(begun.elapsed().as_secs(), 10);

    // Of a peer that refuses pings, nothing else is known.
    let begun = Instant::now();
    let mut wire = rig.connect();
    wire.send(-128, 1, b"no pings").await;
    wire.raw(&frame(2, 7, &[0; 100])[..50]).await;
    let Some(said) = wire.frame().await else { panic!("{:?}", wire.end().await) };
    assert_eq!((said.kind, said.tag), (-128, 7));
    assert_eq!(wire.frame().await, None);
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_all_connections_read_at_once_has_a_bound() {
    let rig = Rig::within(Limits { reading_bytes: 20_000, reading_bytes_per_peer: 20_000, ..Limits::default() });
    let part = &frame(2, 7, &vec![0; 100_000])[..15_000];
    let mut first = rig.connect();
    first.raw(part).await;
    assert!(first.is_quiet().await);
    let (said, _) = refused(&rig, part).await;
    assert_eq!((said.kind, said.tag), (-128, 7));
    assert_eq!(String::from_utf8(said.body).unwrap(), "too many bytes being read: 20000 are allowed to one peer");
    // Calls of the usual length are not kept out.
    let mut other = rig.connect();
    other.call(2, &bind("/svc/web", b"")).await;
    assert!(stamp(&other.answer(2).await).is_some());
    drop(first);
    let mut again = rig.connect();
    again.is_quiet().await;
    again.raw(part).await;
    assert!(again.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn calls_and_pings_are_counted() {
    let mut rig = Rig::new();
    let meter = Meter::default();
    rig.session = rig.session.metered(&meter);
    let mut wire = rig.connect();
    wire.call(2, &bind("/svc/web", b"")).await;
    let answer = wire.answer(2).await;
    wire.call(3, &bind("/svc/web", &answer[stamp(&answer).unwrap()])).await;
    wire.call(4, b"nonsense").await;
    wire.answer(4).await;
    // Until a ping is not answered.
    while wire.frame().await.is_some() {}
    assert!(matches!(wire.end().await, Err(Broken::Dead(_))));
    let read = meter.read();
    assert_eq!((read.sessions, read.requests, read.streams, read.open_streams), (1, 3, 1, 0));
    assert_eq!((read.pings, read.dead, meter.failures(Reason::BadRequest)), (1, 1, 1));
}

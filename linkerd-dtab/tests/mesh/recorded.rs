//! A recorded session of a real Linkerd with a real namerd: the one's bytes are served by ours, the other's answers are read
//! by ours.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use linkerd_dtab::{
    Addr,
    interpreter::remote::{Leaf, Mesh, Source},
    namerd::mesh::Io,
    transport::{Body, Sending, Transport},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    time::timeout,
};

use crate::{
    data,
    follow::{PATIENCE, follow_addr, follow_tree, next},
    hex,
    server::Server,
    unhex,
};

const PREFACE: usize = 24;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

struct RawFrame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// The frames that are whole in these bytes, which are taken.
fn frames(bytes: &mut Vec<u8>) -> Vec<RawFrame> {
    let mut frames = Vec::new();
    while bytes.len() >= 9 {
        let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if bytes.len() < 9 + len {
            break;
        }
        let frame: Vec<u8> = bytes.drain(..9 + len).collect();
        let stream = u32::from_be_bytes(frame[5..9].try_into().unwrap());
        frames.push(RawFrame { kind: frame[3], flags: frame[4], stream, payload: frame[9..].to_vec() });
    }
    frames
}

/// The messages of each stream, those that repeat the one before left out.
#[derive(Default)]
struct Messages(BTreeMap<u32, (Vec<u8>, Vec<String>)>);

impl Messages {
    fn add(&mut self, frame: &RawFrame) {
        if frame.kind != DATA {
            return;
        }
        let (rest, messages) = self.0.entry(frame.stream).or_default();
        rest.extend(&frame.payload);
        while rest.len() >= 5 {
            let len = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
            if rest.len() < 5 + len {
                break;
            }
            let message = hex(&rest.drain(..5 + len).skip(5).collect::<Vec<_>>());
            // Replicas that are not known yet: the recorded namerd knew all of them already.
            if message != "0a00" && messages.last() != Some(&message) {
                messages.push(message);
            }
        }
    }

    fn of(&self, stream: u32) -> &[String] {
        self.0.get(&stream).map_or(&[], |(_, messages)| messages)
    }
}

/// A connection to our server.
struct Connection {
    io: DuplexStream,
    read: Vec<u8>,
    messages: Messages,
    settings: usize,
    pongs: usize,
}

impl Connection {
    fn to(server: &Server) -> Self {
        let (io, served) = duplex(64 << 10);
        let service = TowerToHyperService::new(server.mesh.clone());
        let serving =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(Io::new(served)), service);
        tokio::spawn(serving);
        Self { io, read: Vec::new(), messages: Messages::default(), settings: 0, pongs: 0 }
    }

    /// Reads on until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let read = timeout(PATIENCE, self.io.read_buf(&mut self.read)).await;
            let read = read.unwrap_or_else(|_| panic!("{what} has not come; {:?}", self.messages.0)).unwrap();
            assert_ne!(read, 0, "the connection was closed before {what}");
            for frame in frames(&mut self.read) {
                self.messages.add(&frame);
                match (frame.kind, frame.flags & ACK) {
                    (SETTINGS, 0) => self.settings += 1,
                    (PING, ACK) => self.pongs += 1,
                    _ => {}
                }
            }
        }
    }
}

fn session() -> Value {
    data("session.json")
}

fn events(session: &Value, connection: u64) -> impl Iterator<Item = &Value> {
    let of = move |event: &&Value| event["conn"] == connection || event.get("conn").is_none();
    session["raw"].as_array().unwrap().iter().filter(of)
}

fn endpoints(session: &Value, names: &[&str]) -> String {
    let lines: Vec<_> = names.iter().map(|name| format!("127.0.0.1 {}\n", session["backends"][name])).collect();
    lines.concat()
}

/// Sends what Linkerd sent on a connection, when it did, does meanwhile what was done to its namerd, and holds our server
/// to the same messages.
async fn serve(session: &Value, connection: u64, server: &Server) -> Connection {
    let disco = server.dir().join("disco");
    let mut served = Connection::to(server);
    let (mut expected, mut recorded, mut sent) = (Messages::default(), Vec::new(), Vec::new());
    let (mut has_begun, mut pings, mut settings) = (false, 0, 0);
    for event in events(session, connection) {
        match (event["dir"].as_str(), event["note"].as_str()) {
            (Some(_), _) if event.get("eof").is_some() => break,
            (Some(">"), _) => {
                let bytes = unhex(event["hex"].as_str().unwrap());
                served.io.write_all(&bytes).await.unwrap();
                sent.extend_from_slice(if has_begun { &bytes } else { &bytes[PREFACE..] });
                has_begun = true;
                let is_ping = |frame: &RawFrame| frame.kind == PING && frame.flags & ACK == 0;
                pings += frames(&mut sent).iter().filter(|frame| is_ping(frame)).count();
            }
            (Some(_), _) => {
                recorded.extend(unhex(event["hex"].as_str().unwrap()));
                for frame in frames(&mut recorded) {
                    expected.add(&frame);
                    settings += usize::from(frame.kind == SETTINGS && frame.flags & ACK == 0);
                    let last = expected.of(frame.stream).last();
                    let what = format!("{last:?} of {}", frame.stream);
                    let as_far = |served: &Connection| {
                        served.settings >= settings && served.messages.of(frame.stream).last() == last
                    };
                    served.until(&what, as_far).await;
                }
            }
            (None, Some(note)) => match note {
                "endpoint file of web changes to two addresses" => {
                    fs::write(disco.join("web"), endpoints(session, &["web", "other"])).unwrap();
                }
                "PUT dtab default = /svc => /#/io.l5d.fs ; /svc/web => /#/io.l5d.fs/other" if has_begun => {
                    server.put("default", "/svc => /#/io.l5d.fs ; /svc/web => /#/io.l5d.fs/other").await;
                }
                "endpoint file of other deleted" if has_begun => fs::remove_file(disco.join("other")).unwrap(),
                "endpoint file of other recreated" => {
                    fs::write(disco.join("other"), endpoints(session, &["other"])).unwrap();
                }
                _ => {}
            },
            _ => unreachable!(),
        }
    }
    served.until("an answer to each ping", |served| served.pongs == pings).await;
    assert!(pings > 1);
    for (stream, (_, messages)) in &expected.0 {
        assert_eq!(served.messages.of(*stream), messages, "of {stream}");
    }
    served
}

#[tokio::test]
async fn a_recorded_linkerd_gets_from_our_server_what_it_got_from_namerd() {
    let session = session();
    let web = endpoints(&session, &["web"]);
    let other = endpoints(&session, &["other"]);
    let files = [("disco/web", &*web), ("disco/other", &*other)];
    let server = Server::new([("default", "/svc => /#/io.l5d.fs")], files);
    let served = serve(&session, 0, &server).await;
    assert_eq!(served.messages.0.keys().copied().collect::<Vec<_>>(), [3, 5, 7, 9, 11, 13]);
}

#[tokio::test]
async fn a_recorded_linkerd_comes_back_and_cancels_what_it_asked_for() {
    let session = session();
    let (web, other) = (endpoints(&session, &["web", "other"]), endpoints(&session, &["other"]));
    let files = [("disco/web", &*web), ("disco/other", &*other)];
    let server = Server::new([("default", "/svc => /#/io.l5d.fs")], files);
    // Its streams end with resets, after which the connection is still good.
    let mut served = serve(&session, 16, &server).await;
    let pongs = served.pongs;
    served.io.write_all(&unhex("000008060000000000").into_iter().chain([7; 8]).collect::<Vec<_>>()).await.unwrap();
    served.until("an answer to a ping", |served| served.pongs == pongs + 1).await;
}

/// The recorded namerd: answers what it was asked, when the test says so.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<HashMap<String, mpsc::Receiver<Frame<Bytes>>>>>);

impl Transport for Recorded {
    fn send(&self, request: Request<Body>) -> Sending {
        let recorded = self.clone();
        Box::pin(async move {
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let path = request.uri().path().to_owned();
            let frame = request.into_body().collect().await?.to_bytes();
            let asked = format!("{path} {}", hex(&frame[5..]));
            let frames = recorded.0.lock().unwrap().remove(&asked);
            let frames = frames.unwrap_or_else(|| panic!("no Linkerd has asked {asked}"));
            let body = stream::unfold(frames, async |mut frames| Some((Ok(frames.recv().await?), frames)));
            let response = Response::builder().header("content-type", "application/grpc+proto");
            Ok(response.body(StreamBody::new(body).boxed_unsync()).unwrap())
        })
    }
}

/// Paths of what was asked on the streams of the first connection.
const ASKED: [(u32, &str); 6] = [
    (3, "/io.linkerd.mesh.Interpreter/StreamBoundTree"),
    (5, "/io.linkerd.mesh.Resolver/StreamReplicas"),
    (7, "/io.linkerd.mesh.Interpreter/StreamBoundTree"),
    (9, "/io.linkerd.mesh.Interpreter/StreamBoundTree"),
    (11, "/io.linkerd.mesh.Resolver/StreamReplicas"),
    (13, "/io.linkerd.mesh.Delegator/GetDelegateTree"),
];

/// The frames with messages of the first connection, by who sent them.
fn data_frames(session: &Value, direction: &str) -> Vec<RawFrame> {
    let sent = events(session, 0).filter(|event| event["dir"] == direction && event.get("hex").is_some());
    let mut bytes: Vec<u8> = sent.flat_map(|event| unhex(event["hex"].as_str().unwrap())).collect();
    if direction == ">" {
        bytes.drain(..PREFACE);
    }
    let mut frames = frames(&mut bytes);
    frames.retain(|frame| frame.kind == DATA);
    frames
}

/// The recorded namerd, and by the stream where to send what it answers.
fn namerd(session: &Value) -> (Mesh, HashMap<u32, mpsc::Sender<Frame<Bytes>>>) {
    let recorded = Recorded::default();
    let mut answers = HashMap::new();
    for frame in data_frames(session, ">") {
        let (answer, frames) = mpsc::channel(16);
        let path = ASKED.iter().find(|(stream, _)| *stream == frame.stream).unwrap().1;
        let asked = format!("{path} {}", hex(&frame.payload[5..]));
        recorded.0.lock().unwrap().insert(asked, frames);
        answers.insert(frame.stream, answer);
    }
    (Mesh::new(recorded, "/default".parse().unwrap()), answers)
}

#[tokio::test]
async fn our_source_asks_as_linkerd_did_and_reads_what_namerd_answered() {
    let session = session();
    let (source, answers) = namerd(&session);
    let mut trees = HashMap::from([
        (3, follow_tree(&source, "/extra => /svc", "/svc/web")),
        (7, follow_tree(&source, "/extra => /svc", "/svc/missing")),
        (9, follow_tree(&source, "/extra => /svc ; /svc/web => /svc/other", "/svc/web")),
    ]);
    let mut addrs = HashMap::from([
        (5, follow_addr(&source, "/#/io.l5d.fs/web")),
        (11, follow_addr(&source, "/#/io.l5d.fs/other")),
    ]);
    let (mut seen, mut last) = (BTreeMap::<u32, Vec<String>>::new(), HashMap::new());
    for frame in data_frames(&session, "<") {
        if frame.stream == 13 {
            continue;
        }
        answers[&frame.stream].send(Frame::data(frame.payload.clone().into())).await.unwrap();
        // What says the same once more is no change. If it were taken for one, it would be in the place of the next.
        if last.insert(frame.stream, frame.payload.clone()).as_ref() == Some(&frame.payload) {
            continue;
        }
        let shown = match (trees.get_mut(&frame.stream), addrs.get_mut(&frame.stream)) {
            (Some(tree), _) => next(tree).await.map(&mut |leaf: Leaf| leaf.id).to_string(),
            (_, Some(addr)) => format!("{:?}", ports(&next(addr).await)),
            _ => unreachable!(),
        };
        seen.entry(frame.stream).or_default().push(shown);
    }
    let (web, other) = ("/#/io.l5d.fs/web", "/#/io.l5d.fs/other");
    assert_eq!(seen[&3], [web, other, web, other]);
    assert_eq!(seen[&5], ["Some([37611])", "Some([37611, 40313])"]);
    assert_eq!(seen[&7], ["~"]);
    assert_eq!(seen[&9], [other, web, other]);
    assert_eq!(seen[&11], ["Some([40313])", "None", "Some([40313])"]);
}

#[tokio::test]
async fn our_source_explains_a_name_by_namerd_as_linkerd_did() {
    let session = session();
    let (source, answers) = namerd(&session);
    for stream in [5, 11, 13] {
        let last = data_frames(&session, "<").into_iter().rfind(|frame| frame.stream == stream).unwrap();
        answers[&stream].send(Frame::data(last.payload.into())).await.unwrap();
    }
    let ok = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    answers[&13].send(Frame::trailers(ok)).await.unwrap();
    let (dtab, name) = ("/extra => /svc".parse().unwrap(), "/svc/web".parse().unwrap());
    let delegation = source.delegate(&dtab, &name).await.unwrap();
    assert_eq!(delegation.to_json().unwrap(), session["delegator.json"].as_str().unwrap());
}

fn ports(addr: &Addr) -> Option<Vec<u16>> {
    match addr {
        Addr::Neg => None,
        Addr::Bound(endpoints) => Some(endpoints.iter().map(|endpoint| endpoint.addr.port()).collect()),
    }
}

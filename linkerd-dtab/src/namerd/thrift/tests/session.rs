//! A recorded conversation of a real Linkerd with a real namerd: what Linkerd sent is sent to ours, with our stamps for
//! namerd's, and ours has to say what namerd said.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{Frame, Rig, Wire, data, frame, unhex, unstamped};

const TDISPATCH: i8 = 2;
const RDISPATCH: i8 = -2;
const RDRAIN: i8 = -64;
const NACK: u8 = 2;

#[tokio::test(start_paused = true)]
async fn a_real_linkerd_is_served() {
    let recorded = data(include_str!("../../../../tests/data/namerd/thrift-session.json"));
    let mut replay = Replay::new(&recorded[0]["env"]);
    for entry in &recorded[1..] {
        if let Some(note) = entry["note"].as_str() {
            replay.note(note).await;
            continue;
        }
        let (conn, is_sent) = (entry["conn"].as_u64().unwrap(), entry["dir"] == ">");
        if replay.left.contains(&conn) {
            continue;
        }
        match entry["frame"].as_str() {
            Some(bytes) if is_sent => replay.send(conn, &unhex(bytes)).await,
            Some(bytes) => replay.expect(conn, &unhex(bytes)).await,
            None if is_sent => drop(replay.wires.remove(&conn)),
            None => assert!(!replay.wires.contains_key(&conn)),
        }
    }
    assert_eq!(replay.compared, 19, "answers in the recording");
}

struct Replay {
    rig: Rig,
    ports: [u64; 2],
    wires: HashMap<u64, Wire>,
    // Connections that namerd has asked to end; it ends them as soon as it can, not when the recorded one did.
    left: BTreeSet<u64>,
    held: BTreeSet<u32>,
    early: Vec<Frame>,
    // Recorded stamps and ours.
    stamps: HashMap<Vec<u8>, Vec<u8>>,
    compared: usize,
}

impl Replay {
    fn new(env: &Value) -> Self {
        let ports = ["backend.web", "backend.other"].map(|name| env[name].as_u64().unwrap());
        let rig = Rig::new();
        let [web, other] = ports;
        rig.file("web", &format!("127.0.0.1 {web}\n"));
        rig.file("other", &format!("127.0.0.1 {other}\n"));
        let (wires, left, held) = (HashMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { rig, ports, wires, left, held, early: Vec::new(), stamps: HashMap::new(), compared: 0 }
    }

    async fn note(&mut self, note: &str) {
        for wire in self.wires.values_mut() {
            assert!(self.early.is_empty() && wire.is_quiet().await, "before {note:?} more is said than was recorded");
        }
        let [web, other] = self.ports;
        let both = format!("127.0.0.1 {web}\n127.0.0.1 {other}\n");
        if note.starts_with("endpoint file of web changes") {
            self.rig.file("web", &both);
        } else if note.starts_with("PUT dtab default = ") {
            self.rig.put("default", note.trim_start_matches("PUT dtab default = ")).await;
        } else if note.starts_with("endpoint file of other deleted") {
            self.rig.delete("other");
        } else if note.starts_with("endpoint file of other recreated") {
            self.rig.file("other", &format!("127.0.0.1 {other}\n"));
        } else if note.starts_with("namerd stopped") {
            for wire in self.wires.values_mut() {
                wire.drain.take().unwrap().send(()).unwrap();
            }
        } else if note.starts_with("namerd restarted") {
            let ports = serde_json::json!({ "backend.web": web, "backend.other": other });
            *self = Self { compared: self.compared, left: self.left.clone(), ..Self::new(&ports) };
            self.rig.file("web", &both);
        }
    }

    async fn send(&mut self, conn: u64, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        for i in 0..bytes.len().saturating_sub(7) {
            if let Some(ours) = self.stamps.get(&bytes[i..i + 8]) {
                bytes[i..i + 8].copy_from_slice(ours);
            }
        }
        let sent = parse(&bytes);
        let wire = self.wires.entry(conn).or_insert_with(|| self.rig.connect());
        wire.raw(&bytes).await;
        if sent.kind == TDISPATCH {
            self.held.insert(sent.tag);
        } else if sent.kind == RDRAIN {
            // What is held is to be asked elsewhere.
            while let Some(nack) = wire.next().await {
                assert_eq!((nack.kind, nack.body), (RDISPATCH, vec![NACK, 0, 0]));
                assert!(self.held.remove(&nack.tag));
            }
            assert_eq!(self.held, BTreeSet::new());
            self.wires.remove(&conn);
            self.left.insert(conn);
        }
    }

    // Answers to different calls come in any order.
    async fn expect(&mut self, conn: u64, bytes: &[u8]) {
        let expected = parse(bytes);
        let wire = self.wires.get_mut(&conn).unwrap();
        let is_it = |frame: &Frame| (frame.kind, frame.tag) == (expected.kind, expected.tag);
        for _ in 0..20 {
            if let Some(found) = self.early.iter().position(is_it) {
                let found = self.early.remove(found);
                self.compare(&found, &expected);
                return;
            }
            self.early.push(wire.next().await.expect("the connection ends"));
        }
        panic!("{expected:?} is not said, but {:?}", self.early);
    }

    fn compare(&mut self, found: &Frame, expected: &Frame) {
        if found.kind != RDISPATCH {
            assert_eq!(found, expected);
            return;
        }
        self.held.remove(&found.tag);
        let [ours, theirs] = [&found.body[3..], &expected.body[3..]];
        let [ours_shown, theirs_shown] = [ours, theirs].map(|payload| unstamped(payload).escape_ascii().to_string());
        assert_eq!(ours_shown, theirs_shown);
        let stamp = |payload: &[u8]| payload[super::stamp(payload).unwrap()].to_vec();
        self.stamps.insert(stamp(theirs), stamp(ours));
        self.compared += 1;
    }
}

fn parse(bytes: &[u8]) -> Frame {
    let tag = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]);
    let parsed = Frame { kind: bytes[4].cast_signed(), tag, body: bytes[8..].to_vec() };
    assert_eq!(frame(parsed.kind, parsed.tag, &parsed.body), bytes);
    parsed
}

//! The interface against what was recorded of namerd 1.7.5 and Linkerd 1.7.5, and against clients that misbehave.

mod faults;
mod golden;
mod session;

use std::{future::pending, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::{Broken, Settings, serve};
use crate::{
    Addr, Failure, Path,
    namer::fixed,
    namerd::{Limits, Meter, Namerd, Peer, Reason, Session},
    store::{Expect, Memory, Namespace},
};

/// A clock that is paused comes here only once nothing else is left to do.
const QUIET: Duration = Duration::from_millis(100);

/// A namerd over tables in memory, and names that look like those in a folder.
struct Rig {
    names: fixed::Namer,
    session: Session,
}

/// A connection to it, by hand.
struct Wire {
    io: DuplexStream,
    served: JoinHandle<Result<(), Broken>>,
    drain: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: i8,
    tag: u32,
    body: Vec<u8>,
}

impl Rig {
    fn new() -> Self {
        Self::within(Limits::default())
    }

    fn within(limits: Limits) -> Self {
        let multi = "/svc => /#/io.l5d.fs/one | /#/io.l5d.fs/two ; /w => 3 * /#/io.l5d.fs/one & 1 * /#/io.l5d.fs/two ; \
            /neg => ~ ; /fail => ! ; /empty => $ ; /loop => /loop ; /wild/* => /#/io.l5d.fs ; \
            /inet => /$/inet/127.0.0.1/7777";
        let tables = [("default", "/svc => /#/io.l5d.fs"), ("multi", multi)];
        let store = Memory::new(tables.map(|(name, dtab)| (namespace(name), dtab.parse().unwrap())));
        let names = fixed::Namer::new();
        let namerd = Namerd::builder(store).namer(path("/#/io.l5d.fs"), names.clone()).limits(limits).build();
        let rig = Self { names, session: namerd.session(Peer::default()) };
        let files = [
            ("web", "127.0.0.1 1111\n"),
            ("one", "127.0.0.1 1111\n"),
            ("two", "127.0.0.1 1111\n127.0.0.1 2222 * 0.5\n"),
            ("emptyfile", "\n"),
            ("badfile", "what is this\n"),
        ];
        for (name, text) in files {
            rig.file(name, text);
        }
        rig
    }

    /// What the folder namer makes of a file.
    fn file(&self, name: &str, text: &str) {
        let name = path(&format!("/{name}"));
        let mut endpoints = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (addr, weight) = line.split_once(" * ").unwrap_or((line, "1"));
            let Ok(addr) = addr.replace(' ', ":").parse() else {
                let failure: Failure = Arc::new(std::io::Error::other(format!("malformed address: {line}")));
                return self.names.fail(name, failure);
            };
            endpoints.push(crate::Endpoint::new(addr).with_weight(weight.parse().unwrap()));
        }
        self.names.set(name, Addr::Bound(endpoints.into()));
    }

    fn delete(&self, name: &str) {
        self.names.remove(&path(&format!("/{name}")));
    }

    async fn put(&self, name: &str, dtab: &str) {
        self.session.put(&namespace(name), &dtab.parse().unwrap(), &Expect::Any).await.unwrap();
    }

    fn connect(&self) -> Wire {
        self.connect_with(Settings::default(), 1 << 16)
    }

    fn connect_with(&self, settings: Settings, buffer: usize) -> Wire {
        let (io, theirs) = duplex(buffer);
        let (drain, draining) = oneshot::channel::<()>();
        let session = self.session.clone();
        let served = tokio::spawn(async move {
            let drained = async {
                if draining.await.is_err() {
                    pending::<()>().await;
                }
            };
            serve(theirs, session, settings, drained).await
        });
        Wire { io, served, drain: Some(drain) }
    }
}

impl Wire {
    async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    async fn send(&mut self, kind: i8, tag: u32, body: &[u8]) {
        self.raw(&frame(kind, tag, body)).await;
    }

    /// A call as Finagle's clients make it, without contexts.
    async fn call(&mut self, tag: u32, payload: &[u8]) {
        self.send(2, tag, &[&[0; 6], payload].concat()).await;
    }

    /// The next frame; `None` at the end of the connection.
    async fn frame(&mut self) -> Option<Frame> {
        let length = self.io.read_u32().await.ok()?;
        let mut bytes = vec![0; length as usize];
        self.io.read_exact(&mut bytes).await.ok()?;
        let tag = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]);
        Some(Frame { kind: bytes[0].cast_signed(), tag, body: bytes[4..].to_vec() })
    }

    /// The next frame that is no ping of the server's.
    async fn next(&mut self) -> Option<Frame> {
        for _ in 0..100 {
            let frame = self.frame().await?;
            if frame.kind != 65 {
                return Some(frame);
            }
            self.send(-65, frame.tag, &[]).await;
        }
        panic!("nothing but pings");
    }

    async fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        timeout(QUIET, self.io.read(&mut byte)).await.is_err()
    }
}

fn frame(kind: i8, tag: u32, body: &[u8]) -> Vec<u8> {
    let head = [(body.len() as u32 + 4).to_be_bytes(), (u32::from(kind.cast_unsigned()) << 24 | tag).to_be_bytes()];
    [head.concat().as_slice(), body].concat()
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn namespace(text: &str) -> Namespace {
    text.parse().unwrap()
}

fn data(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Where the stamp of a good answer is in a thrift message.
fn stamp(payload: &[u8]) -> Option<std::ops::Range<usize>> {
    let method = usize::try_from(u32::from_be_bytes(payload.get(4..8)?.try_into().unwrap())).unwrap();
    let start = 8 + method + 4;
    let head = [12, 0, 0, 11, 0, 1, 0, 0, 0, 8];
    (payload.get(start..start + head.len())? == head).then_some(start + 10..start + 18)
}

/// The message with a stamp that says nothing.
fn unstamped(payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    if let Some(range) = stamp(&payload) {
        payload[range].fill(0);
    }
    payload
}

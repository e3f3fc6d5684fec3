//! ZooKeeper, as far as a store asks it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use linkerd_dtab::transport::{Dial, Dialling, Io};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
};

use super::{Kv, kv::State};
use crate::suite::Fault;

const NO_NODE: i32 = -101;
const BAD_VERSION: i32 = -103;
const NODE_EXISTS: i32 = -110;

/// A server, and the way to it. A clone is the same.
#[derive(Clone)]
pub(crate) struct ZooKeeper {
    pub(crate) kv: Kv,
    fault: Arc<watch::Sender<Option<Fault>>>,
}

impl ZooKeeper {
    pub(crate) fn new() -> Self {
        Self { kv: Kv::new(), fault: Arc::new(watch::Sender::new(None)) }
    }

    /// Connections end, and new ones have this fault.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }
}

impl Dial for ZooKeeper {
    fn dial(&self) -> Dialling {
        let mut fault = self.fault.subscribe();
        let now = *fault.borrow_and_update();
        let kv = self.kv.clone();
        Box::pin(async move {
            if now == Some(Fault::Away) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = duplex(1 << 16);
            let seen = kv.state().revision;
            let connection = Connection {
                io: theirs,
                read: BytesMut::new(),
                seen,
                kv,
                fault: now,
                data: BTreeSet::new(),
                children: BTreeMap::new(),
            };
            tokio::spawn(async move {
                tokio::select! {
                    _ = connection.serve() => {}
                    _ = fault.changed() => {}
                }
            });
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }
}

struct Connection {
    io: DuplexStream,
    read: BytesMut,
    kv: Kv,
    fault: Option<Fault>,
    /// Up to which revision was told.
    seen: u64,
    /// Watched nodes.
    data: BTreeSet<String>,
    /// Watched parents, and the children that they had.
    children: BTreeMap<String, Vec<String>>,
}

impl Connection {
    async fn serve(mut self) -> io::Result<()> {
        if self.fault == Some(Fault::Hangs) {
            std::future::pending::<()>().await;
        }
        self.frame().await?;
        let timeout = if self.fault == Some(Fault::Blank) { 0 } else { 10_000 };
        let mut greeting = BytesMut::new();
        greeting.put_i32(0);
        greeting.put_i32(timeout);
        greeting.put_i64(7);
        greeting.put_i32(16);
        greeting.put_bytes(0, 16);
        greeting.put_u8(0);
        self.send(&greeting).await?;
        loop {
            let revision = self.kv.clone();
            let seen = self.seen;
            tokio::select! {
                request = self.frame() => {
                    let request = request?;
                    self.tell().await?;
                    self.answer(request).await?;
                }
                _ = revision.changed("/", seen + 1) => self.tell().await?,
            }
        }
    }

    async fn frame(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(len) = self.read.first_chunk() {
                let len = u32::from_be_bytes(*len) as usize;
                if self.read.len() >= 4 + len {
                    self.read.advance(4);
                    return Ok(self.read.split_to(len).freeze());
                }
            }
            if self.io.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn send(&mut self, body: &[u8]) -> io::Result<()> {
        let half = body.len() / 2;
        match self.fault {
            Some(Fault::Babbles) => return self.io.write_all(&[0, 0, 0, 3, 0xff, 0x7f, 1]).await,
            Some(Fault::Halves) => {
                self.io.write_u32(half as u32).await?;
                return self.io.write_all(&body[..half]).await;
            }
            _ => self.io.write_u32(body.len() as u32).await?,
        }
        if self.fault == Some(Fault::Resets) {
            self.io.write_all(&body[..half]).await?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.io.write_all(body).await
    }

    /// Tells of watched nodes that changed.
    async fn tell(&mut self) -> io::Result<()> {
        let (mut told, now) = (Vec::new(), self.kv.state().revision);
        {
            let state = self.kv.state();
            let changed: BTreeSet<_> =
                state.changes.iter().filter(|(at, _)| *at > self.seen).map(|(_, key)| key.clone()).collect();
            for path in changed {
                if self.data.remove(&path) {
                    told.push(path);
                }
            }
            self.children.retain(|parent, had| {
                let is_same = *had == children(&state, parent);
                if !is_same {
                    told.push(parent.clone());
                }
                is_same
            });
        }
        self.seen = now;
        for path in told {
            let mut notice = BytesMut::new();
            notice.put_i32(-1);
            notice.put_i64(-1);
            notice.put_i32(0);
            notice.put_i32(3);
            notice.put_i32(3);
            put_text(&mut notice, &path);
            self.send(&notice).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, mut request: Bytes) -> io::Result<()> {
        let (xid, operation) = (request.get_i32(), request.get_i32());
        let mut body = BytesMut::new();
        let done = if self.fault == Some(Fault::Refuses) { Err(-1) } else { self.do_it(operation, request, &mut body) };
        let mut answer = BytesMut::new();
        answer.put_i32(xid);
        answer.put_i64(self.kv.state().revision.cast_signed());
        answer.put_i32(done.err().unwrap_or(0));
        if done.is_ok() {
            answer.put_slice(&body);
        }
        self.send(&answer).await
    }

    fn do_it(&mut self, operation: i32, mut request: Bytes, body: &mut BytesMut) -> Result<(), i32> {
        match operation {
            // Ping, and who is it.
            11 => return Ok(()),
            100 => {
                request.advance(4);
                let scheme = text(&mut request);
                return if (scheme.as_str(), &text(&mut request)[..]) == ("digest", "namerd:secret") {
                    Ok(())
                } else {
                    Err(-115)
                };
            }
            _ => {}
        }
        let path = text(&mut request);
        let exists = self.kv.get(&path);
        match operation {
            1 => {
                let data = text(&mut request);
                let parent = &path[..path.rfind('/').unwrap()];
                return self.kv.change(|state| {
                    if !parent.is_empty() && !state.entries.contains_key(parent) {
                        return Err(NO_NODE);
                    }
                    if state.entries.contains_key(&path) {
                        return Err(NODE_EXISTS);
                    }
                    state.put(&path, data.as_bytes());
                    put_text(body, &path);
                    Ok(())
                });
            }
            2 => {
                let version = request.get_i32();
                return self.kv.change(|state| {
                    is_version(state, &path, version)?;
                    state.delete(&path);
                    Ok(())
                });
            }
            3 | 4 => {
                if request.get_u8() == 1 && (exists.is_some() || operation == 3) {
                    self.data.insert(path);
                }
                let entry = exists.ok_or(NO_NODE)?;
                if operation == 4 {
                    put_text(body, std::str::from_utf8(&entry.value).unwrap());
                }
                put_stat(body, entry.changes);
            }
            5 => {
                let (data, version) = (text(&mut request), request.get_i32());
                return self.kv.change(|state| {
                    is_version(state, &path, version)?;
                    state.put(&path, data.as_bytes());
                    put_stat(body, state.entries[&path].changes);
                    Ok(())
                });
            }
            8 => {
                exists.ok_or(NO_NODE)?;
                let names = children(&self.kv.state(), &path);
                body.put_u32(names.len() as u32);
                for name in &names {
                    put_text(body, name);
                }
                if request.get_u8() == 1 {
                    self.children.insert(path, names);
                }
            }
            9 => put_text(body, &path),
            other => panic!("operation {other}"),
        }
        Ok(())
    }
}

fn is_version(state: &State, path: &str, version: i32) -> Result<(), i32> {
    let entry = state.entries.get(path).ok_or(NO_NODE)?;
    if version == -1 || version == entry.changes.cast_signed() { Ok(()) } else { Err(BAD_VERSION) }
}

fn children(state: &State, parent: &str) -> Vec<String> {
    let below = state.entries.keys().filter_map(|key| key.strip_prefix(parent)?.strip_prefix('/'));
    below.filter(|name| !name.contains('/')).map(str::to_owned).collect()
}

fn text(request: &mut Bytes) -> String {
    let len = request.get_i32() as usize;
    String::from_utf8(request.split_to(len).into()).unwrap()
}

fn put_text(body: &mut BytesMut, text: &str) {
    body.put_u32(text.len() as u32);
    body.put_slice(text.as_bytes());
}

fn put_stat(body: &mut BytesMut, version: u32) {
    body.put_bytes(0, 32);
    body.put_u32(version);
    body.put_bytes(0, 32);
}

//! The client against our own server, against what a real namerd said, and against servers that misbehave.

mod end_to_end;
mod recorded;
mod scripted;

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
};

use super::{Source as _, Thrift};
use crate::{
    Activity, Addr, Failure, NameTree, Path,
    interpreter::remote::Leaf,
    transport::{Dial, Dialling},
};

/// Hands out what a test puts in; refuses when there is nothing.
struct Dialled(Arc<tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>>);

/// The server's end of a connection, by hand.
struct Server {
    io: DuplexStream,
}

/// A watch that runs: what it shows, and how it ends.
struct Watch<T> {
    shown: Activity<T>,
    end: JoinHandle<Failure>,
}

/// A client, and the servers that it will connect to one after another.
fn client(servers: usize) -> (Thrift, Vec<Server>) {
    let (sender, receiver) = mpsc::channel(servers.max(1));
    let servers = (0..servers).map(|_| {
        let (io, theirs) = duplex(1 << 16);
        sender.try_send(theirs).unwrap();
        Server { io }
    });
    let servers = servers.collect();
    (Thrift::new(Dialled(Arc::new(tokio::sync::Mutex::new(receiver))), "default"), servers)
}

fn bind(source: &Thrift, dtab: &str, name: &str) -> Watch<NameTree<Leaf>> {
    let (publisher, shown) = Activity::channel();
    let (source, dtab, name) = (source.clone(), dtab.parse().unwrap(), path(name));
    Watch { shown, end: tokio::spawn(async move { source.bind(&dtab, &name, &publisher).await }) }
}

fn addr(source: &Thrift, id: &str) -> Watch<Addr> {
    let (publisher, shown) = Activity::channel();
    let (source, id) = (source.clone(), path(id));
    Watch { shown, end: tokio::spawn(async move { source.addr(&id, &publisher).await }) }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn leaf(id: &str) -> NameTree<Leaf> {
    NameTree::Leaf(Leaf { id: path(id), residual: Path::empty() })
}

fn at(ports: &[u16]) -> Addr {
    Addr::of(ports.iter().map(|port| ([127, 0, 0, 1], *port).into()))
}

impl<T: Clone + Send + Sync + 'static> Watch<T> {
    /// What is shown next.
    async fn next(&mut self) -> T {
        self.shown.changed().await;
        self.shown.sample().ok().unwrap()
    }

    async fn failure(self) -> String {
        self.end.await.unwrap().to_string()
    }
}

impl Dial for Dialled {
    fn dial(&self) -> Dialling {
        let receiver = Arc::clone(&self.0);
        Box::pin(async move {
            match receiver.lock().await.try_recv() {
                Ok(io) => Ok(Box::new(io) as Box<dyn crate::transport::Io>),
                Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

impl Server {
    async fn send(&mut self, kind: i8, tag: u32, body: &[u8]) {
        let head = [(body.len() as u32 + 4).to_be_bytes(), (u32::from(kind.cast_unsigned()) << 24 | tag).to_be_bytes()];
        self.io.write_all(&[head.concat().as_slice(), body].concat()).await.unwrap();
    }

    async fn answer(&mut self, tag: u32, payload: &[u8]) {
        self.send(-2, tag, &[&[0; 3], payload].concat()).await;
    }

    /// The next frame: type, tag and body. `None` at the end.
    async fn frame(&mut self) -> Option<(i8, u32, Vec<u8>)> {
        let length = self.io.read_u32().await.ok()?;
        let mut bytes = vec![0; length as usize];
        self.io.read_exact(&mut bytes).await.ok()?;
        let tag = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]);
        Some((bytes[0].cast_signed(), tag, bytes[4..].to_vec()))
    }

    /// The next call: its tag and its message.
    async fn call(&mut self) -> (u32, Vec<u8>) {
        let (kind, tag, body) = self.frame().await.unwrap();
        assert_eq!((kind, &body[..6]), (2, &[0; 6][..]));
        (tag, body[6..].to_vec())
    }

    /// As a real namerd begins.
    async fn begin(&mut self) {
        let probe = self.frame().await.unwrap();
        assert_eq!(probe, (127, 1, b"tinit check".to_vec()));
        self.send(127, 1, &probe.2).await;
        let (kind, tag, init) = self.frame().await.unwrap();
        assert_eq!((kind, tag), (68, 1));
        self.send(-68, 1, &init).await;
    }
}

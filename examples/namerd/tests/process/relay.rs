//! A network between programs: an address that stays when the program behind it comes back on another, and a partition.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
};

/// Forwards connections until it is dropped.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    to: Arc<watch::Sender<Option<SocketAddr>>>,
    is_cut: Arc<watch::Sender<bool>>,
}

impl Relay {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Self {
            addr: listener.local_addr().unwrap(),
            to: Arc::new(watch::Sender::new(None)),
            is_cut: Arc::new(watch::Sender::new(false)),
        };
        let (to, is_cut) = (relay.to.subscribe(), relay.is_cut.subscribe());
        tokio::spawn(async move {
            let mut closed = to.clone();
            loop {
                select! {
                    Ok((from, _)) = listener.accept() => tokio::spawn(forward(from, to.clone(), is_cut.clone())),
                    // The relay is gone.
                    _ = closed.wait_for(|_| false) => return,
                };
            }
        });
        relay
    }

    /// Where connections go from now on; nowhere: they are closed. Those that there are end with what they lead to.
    pub(crate) fn to(&self, addr: Option<SocketAddr>) {
        self.to.send_replace(addr);
    }

    /// A partition: nothing arrives any more, in neither direction, and nobody is told.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

async fn forward(from: TcpStream, to: watch::Receiver<Option<SocketAddr>>, is_cut: watch::Receiver<bool>) {
    let addr = *to.borrow();
    let Some(addr) = addr else { return };
    let Ok(to) = TcpStream::connect(addr).await else { return };
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    select! {
        () = pump(from_read, to_write, is_cut.clone()) => {}
        () = pump(to_read, from_write, is_cut) => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut is_cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        // An end is not forwarded during a partition either.
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if is_cut.wait_for(|is_cut| !is_cut).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

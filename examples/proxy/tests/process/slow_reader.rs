//! An answer that is read slowly, over HTTP/2: it waits at its sender, and not in the proxy.
//!
//! `SLOW_MIB` says how long it is; `just slow-reader` has a gibibyte.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    harness::{Folder, LONG, Linkerd, eventually},
    upload::peak,
};

const MIB: usize = 1024 * 1024;
const PIECE: usize = 16 * 1024;
/// What the windows of two hops and the pieces between them may hold.
const IN_FLIGHT: usize = 512 * 1024;

/// An endpoint that answers with so many bytes, as fast as it may, and counts them.
async fn endless(bytes: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let sent = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut conn = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = conn.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                let piece = Bytes::from(vec![7; PIECE]);
                let mut left = bytes;
                while left > 0 {
                    to.reserve_capacity(PIECE.min(left));
                    let capacity = poll_fn(|cx| to.poll_capacity(cx)).await.unwrap().unwrap();
                    to.send_data(piece.slice(..capacity), false).unwrap();
                    left -= capacity;
                    count.fetch_add(capacity, Ordering::SeqCst);
                }
                to.send_data(Bytes::new(), true).unwrap();
            });
        }
    });
    (addr, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_slowly_is_not_kept() {
    let bytes = std::env::var("SLOW_MIB").map_or(8, |mib| mib.parse().unwrap()) * MIB;
    let (endpoint, sent) = endless(bytes).await;
    let folder = Folder::new();
    let config = format!(
        "admin: {{port: 0}}\nrouters:\n- protocol: h2\n  dtab: /svc => /$/inet/127.0.0.1/{}\n  servers: [{{port: 0}}]\n",
        endpoint.port()
    );
    let linkerd = Linkerd::start(&folder, &config).await;
    let stream = TcpStream::connect(linkerd.servers[0]).await.unwrap();
    let (sender, conn) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(conn);
    let mut sender = sender.ready().await.unwrap();
    let (response, _) = sender.send_request(Request::get("http://web/").body(()).unwrap(), true).unwrap();
    let mut body = timeout(LONG, response).await.expect("a head").unwrap().into_body();
    let before = peak(linkerd.pid());
    let (mut read, mut rests) = (0, 0);
    while let Some(data) = timeout(LONG, body.data()).await.expect("more of it") {
        let data = data.unwrap();
        read += data.len();
        // Four times on its way, until all windows are full.
        if read / (bytes / 4) > rests && bytes - read > IN_FLIGHT {
            rests += 1;
            eventually("the windows to fill", async || (sent.load(Ordering::SeqCst) >= read + 64 * 1024).then_some(()))
                .await;
        }
        let in_flight = sent.load(Ordering::SeqCst).saturating_sub(read);
        assert!(in_flight <= IN_FLIGHT, "{in_flight} bytes after {read}");
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!((read, rests >= 3), (bytes, true));
    let grown = peak(linkerd.pid()) - before;
    println!("{} MiB were read slowly; the proxy grew by {} KiB", bytes / MIB, grown / 1024);
    assert!(grown < 4 * MIB, "{grown}");
}

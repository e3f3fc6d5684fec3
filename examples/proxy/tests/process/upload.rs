//! Uploads that are too large to be kept: what refuses them first costs nothing.
//!
//! `UPLOAD_MIB` says how large they are; `just upload` has a gibibyte.

use std::{fs, net::SocketAddr, sync::LazyLock};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    balancing_backend::Backend,
    harness::{Folder, LONG, Linkerd, SIMPLE},
};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// Twice the bytes that a body repeats, so that any part of it is a slice.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| (0..2 * CHUNK).map(|i| (i % CHUNK % 251) as u8).collect());

/// An endpoint that looks at each byte, keeps none, and answers with how many there were.
async fn counting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |req: Request<Incoming>| {
                let (mut body, mut read) = (req.into_body(), 0);
                while let Some(frame) = body.frame().await {
                    let data = frame?.into_data().unwrap();
                    for part in data.chunks(CHUNK) {
                        assert!(*part == PATTERN[read % CHUNK..][..part.len()], "other bytes came than were sent");
                        read += part.len();
                    }
                }
                Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(read.to_string()))))
            });
            tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    addr
}

/// Sends so many bytes, none of which is held, and returns the answer as it came.
async fn upload(to: SocketAddr, bytes: usize, is_chunked: bool) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let framing = if is_chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {bytes}") };
    let head = format!("POST / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{framing}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..bytes / CHUNK {
        if is_chunked {
            stream.write_all(format!("{CHUNK:x}\r\n").as_bytes()).await.unwrap();
        }
        stream.write_all(&PATTERN[..CHUNK]).await.unwrap();
        if is_chunked {
            stream.write_all(b"\r\n").await.unwrap();
        }
    }
    if is_chunked {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The most memory that a process ever had.
pub(crate) fn peak(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refuses_an_upload_first_costs_no_memory() {
    let mib = std::env::var("UPLOAD_MIB").map_or(256, |mib| mib.parse().unwrap());
    let (dead, alive) = (Backend::down("dead"), counting().await);
    let folder = Folder::new();
    folder.list("web", &[dead.addr, alive]);
    // In turn: of two requests one comes to the dead one first. A buffer for streams is no place for these.
    let more = "  client: {failureAccrual: {kind: none}, loadBalancer: {kind: roundRobin}}\n  service: {responseClassifier: \
                {kind: io.l5d.http.retryableAll5XX}, retries: {bufferBytes: 1048576}}\n";
    let linkerd = Linkerd::start(&folder, &format!("{SIMPLE}{more}")).await;
    let requeues = async || {
        let metrics = linkerd.json("/admin/metrics.json").await;
        metrics["rt/http/client/#/io.l5d.fs/web/retries/requeues"].as_u64().unwrap_or_default()
    };
    // Code and tables that are there only once they were used.
    for is_chunked in [false, true, false, true] {
        upload(linkerd.servers[0], 4 * CHUNK, is_chunked).await;
    }

    for is_chunked in [false, true] {
        let (before, had) = (requeues().await, peak(linkerd.pid()));
        let begun = Instant::now();
        for _ in 0..2 {
            let answer = timeout(LONG, upload(linkerd.servers[0], mib * MIB, is_chunked)).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&(mib * MIB).to_string()), "{answer}");
        }
        let grown = peak(linkerd.pid()) - had;
        let requeues = requeues().await - before;
        println!(
            "{mib} MiB twice, chunked: {is_chunked}: {requeues} requeued, {grown} bytes more, {:?}",
            begun.elapsed()
        );
        assert!(requeues > 0, "each came to the endpoint that lives first");
        assert!(grown < 8 * MIB, "{grown} bytes more than {had}");
    }
}

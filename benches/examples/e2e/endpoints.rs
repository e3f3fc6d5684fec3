//! What the proxies are in front of: four endpoints in one process that answer `GET /N` with N bytes, as cheaply as may be.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{BoxError, Protocol};

/// The largest answer.
const MOST: usize = 1 << 20;

/// Binds so many endpoints, which serve until the process ends.
pub(super) async fn bind(count: usize, protocol: Protocol) -> Result<Vec<SocketAddr>, BoxError> {
    let page = Bytes::from(vec![b'x'; MOST]);
    let mut addrs = Vec::new();
    for _ in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addrs.push(listener.local_addr()?);
        let page = page.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let page = page.clone();
                if protocol == Protocol::H2c {
                    tokio::spawn(http2(stream, page));
                } else {
                    tokio::spawn(http1(stream, page));
                }
            }
        });
    }
    Ok(addrs)
}

/// How many bytes a path asks for.
fn wanted(path: &str) -> usize {
    path.trim_start_matches('/').parse().unwrap_or(0).min(MOST)
}

/// Requests without bodies, one after the other.
async fn http1(mut stream: TcpStream, page: Bytes) {
    let (mut buf, mut answer, mut answered) = (Vec::with_capacity(4096), Vec::new(), usize::MAX);
    loop {
        while let Some(end) = buf.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let target = buf.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
            let size = wanted(&String::from_utf8_lossy(target));
            if size != answered {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n");
                (answer, answered) = ([head.as_bytes(), &page[..size]].concat(), size);
            }
            buf.drain(..end + 4);
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut buf).await {
            Ok(read) if read > 0 && buf.len() <= MOST => {}
            _ => return,
        }
    }
}

async fn http2(stream: TcpStream, page: Bytes) {
    let answer = service_fn(move |req: Request<Incoming>| {
        let mut rsp = Response::new(Full::new(page.slice(..wanted(req.uri().path()))));
        rsp.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
        std::future::ready(Ok::<_, Infallible>(rsp))
    });
    let _ = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(1000)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

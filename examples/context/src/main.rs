//! The context of a request through two services that know nothing of each other's frameworks: one on axum, one on tonic.
//!
//! ```text
//! a request ──HTTP/1.1──► web (axum) ──gRPC──► health (tonic)
//!   deadline, trace          │ adds a key of its own    │ sees all of it
//! ```
//!
//! Neither handler touches a header. Each server has a `ServerLayer`, each client a `ClientLayer`. It sends one request,
//! prints what the second service saw, sends another one whose answer is a stream, and ends.

mod health;
mod web;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Request, StatusCode, header::HOST};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tower::BoxError;

use self::health::Seen;

/// How many lines the streamed answer has; the second service is asked for each.
const LINES: usize = 3;

const TRACE: &str = "AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (health, mut seen) = health::start().await?;
    let web = web::start(health).await?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let deadline = format!("{} {}", now.as_nanos(), (now + Duration::from_secs(5)).as_nanos());
    let (status, _) = ask(web, "/", &deadline).await?;

    let saw = seen.recv().await.ok_or("the second service was not asked")?;
    println!("{status}");
    println!("span     {:016x} of trace {:016x}", saw.span, saw.trace);
    println!("time     {:.0} s left", saw.left.as_secs_f64());
    println!("class    {}", saw.class);
    println!("tenant   {}", saw.tenant);

    let (_, body) = ask(web, "/watch", &deadline).await?;
    let mut streamed = Vec::new();
    for _ in body.lines() {
        streamed.push(seen.recv().await.ok_or("the second service was not asked")?);
    }
    let is_kept = |saw: &Seen| saw.trace == 3 && saw.tenant == "streamed" && saw.left > Duration::from_secs(1);
    let kept = streamed.iter().filter(|saw| is_kept(saw)).count();
    println!("streamed {kept} lines of {LINES} in the same trace");
    if kept != LINES {
        return Err("something of the context was lost while the answer was streamed".into());
    }

    let is_whole = saw.span == 1 && saw.trace == 3 && saw.tenant == "acme" && saw.left > Duration::from_secs(1);
    if status == StatusCode::OK && is_whole { Ok(()) } else { Err("something of the context was lost".into()) }
}

/// Sends a request with a context, as a proxy before the service would.
async fn ask(addr: SocketAddr, target: &str, deadline: &str) -> Result<(StatusCode, String), BoxError> {
    let stream = TcpStream::connect(addr).await?;
    let (mut send, conn) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(conn);
    let req = Request::get(target)
        .header(HOST, "web")
        .header("l5d-ctx-trace", TRACE)
        .header("l5d-ctx-deadline", deadline)
        .header("l5d-ctx-criticality", "critical_plus")
        .body(String::new())?;
    let (head, body) = send.send_request(req).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
}

/// A port that the system chooses.
async fn listen() -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

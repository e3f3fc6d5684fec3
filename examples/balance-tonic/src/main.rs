//! A balancer as drop-in under a tonic client: three servers, of which one refuses.
//!
//! Where a generated client takes tonic's `Channel`, it takes any service of HTTP requests: here a `BalanceService` over
//! connections of hyper. The servers are its own, on loopback, and offer gRPC's health check. It sends a thousand calls,
//! prints where they went, and ends.

mod connection;
mod server;

use std::net::SocketAddr;

use http::Uri;
use linkerd_balance::{BalanceService, Connector, Health, Outcome, Policy, Verdict};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::BoxError;

use self::{
    connection::{Rsp, connect},
    server::Server,
};

const CALLS: u32 = 1000;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let servers = [Server::start("one").await?, Server::start("two").await?, Server::refusing("refusing")?];
    let endpoint = |&addr: &SocketAddr, health: &Health| Connector::default().spawn(health, move || connect(addr));
    let svc = BalanceService::fixed(Policy::peak_ewma(), servers.iter().map(|server| (server.addr(), 1.0)), endpoint)?;
    let mut client = HealthClient::with_origin(svc.judge_by(verdict), Uri::from_static("http://health.example"));

    let mut errors = 0;
    for _ in 0..CALLS {
        if let Err(status) = client.check(HealthCheckRequest::default()).await {
            eprintln!("{status}");
            errors += 1;
        }
    }

    for server in &servers {
        println!("{:<8} {:5.1} %", server.name(), 100.0 * f64::from(server.calls()) / f64::from(CALLS));
    }
    println!("{errors} errors in {CALLS} calls");
    if errors == 0 { Ok(()) } else { Err("there were errors".into()) }
}

/// What an answer says of its server, as far as its head does: gRPC says how a call went there if it is over by then.
fn verdict(rsp: Result<&Rsp, &BoxError>) -> Verdict {
    let Ok(rsp) = rsp else { return Outcome::Failure.into() };
    match rsp.headers().get("grpc-status").map(http::HeaderValue::as_bytes) {
        None | Some(b"0") => rsp.status().is_success().into(),
        // Resource exhausted, internal, unavailable, data loss.
        Some(b"8" | b"13" | b"14" | b"15") => Outcome::Failure.into(),
        // The others are about the call.
        Some(_) => Outcome::Neutral.into(),
    }
}

//! Plain hyper connections to three servers, balanced: one is well, one is slow, one fails.
//!
//! No engine, no names and no discovery: hyper, tower and `linkerd-balance`. The servers are its own, on loopback. It
//! sends a thousand requests, prints where they went, and ends.

mod connection;
mod server;

use std::{net::SocketAddr, time::Duration};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use linkerd_balance::{
    BalanceService, Breaker, BreakerLayer, Connector, Health, Heap, PeakEwma, Policy,
    accrual::{Backoff, ConsecutiveFailures},
};
use tower::{BoxError, Layer, Service, ServiceExt};

use self::{connection::connect, server::Server};

const REQUESTS: u32 = 1000;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let servers = [
        Server::start("well", Duration::ZERO, StatusCode::OK).await?,
        Server::start("slow", Duration::from_millis(50), StatusCode::OK).await?,
        Server::start("failing", Duration::ZERO, StatusCode::SERVICE_UNAVAILABLE).await?,
    ];
    let greeter = balanced(servers.iter().map(Server::addr))?;

    let mut succeeded = 0;
    for _ in 0..REQUESTS {
        let req = Request::get("http://greeter/").body(String::new())?;
        succeeded += u32::from(greeter.clone().oneshot(req).await?.status().is_success());
    }

    for server in &servers {
        println!("{:<8} {:5.1} %", server.name(), 100.0 * f64::from(server.requests()) / f64::from(REQUESTS));
    }
    println!("{succeeded} of {REQUESTS} succeeded");
    Ok(())
}

/// Balances over these by latency. Each has a connection, which is there before a request is, and a breaker.
fn balanced(
    addrs: impl Iterator<Item = SocketAddr>,
) -> Result<
    impl Service<Request<String>, Response = Response<Incoming>, Error = BoxError, Future: Send> + Clone,
    BoxError,
> {
    let endpoint = |&addr: &SocketAddr, health: &Health| {
        let connected = Connector::default().spawn(health, move || connect(addr));
        let breaker = Breaker::builder(Box::new(ConsecutiveFailures::default()))
            .backoff(Backoff::default())
            .health(health.clone())
            .id(addr.to_string())
            .build();
        BreakerLayer::new(breaker).classify(is_well).layer(connected)
    };
    // The best of all. Of two by chance, one request of three would find the slow and the failing one.
    let policy = Policy::new(Heap::new(), PeakEwma::default);
    let svc = BalanceService::fixed(policy, addrs.map(|addr| (addr, 1.0)), endpoint)?;
    Ok(svc.success_if(is_well))
}

/// Any answer but a 5xx says that the server is well: what is wrong with a request is not its fault.
fn is_well(rsp: Result<&Response<Incoming>, &BoxError>) -> bool {
    rsp.is_ok_and(|rsp| !rsp.status().is_server_error())
}

//! A balanced service of anything: endpoints that come and go, one of them slow.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    task::{Context, Poll},
};

use linkerd_balance::{Balance, BalanceService, Policy, Unavailable};
use tower::{Service, ServiceExt};

/// An endpoint that answers with its name.
#[derive(Clone)]
struct Echo(&'static str);

impl Service<()> for Echo {
    type Response = &'static str;
    type Error = Unavailable;
    type Future = Ready<Result<&'static str, Unavailable>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Unavailable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(self.0))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let balance = Balance::new(Policy::least_loaded(), |name: &&'static str, _health| Echo(name));
    let service = BalanceService::new(balance.clone());
    let Err(Unavailable::NoEndpoints) = service.clone().oneshot(()).await else { panic!("there is no endpoint") };

    balance.update([("a", 1.0), ("b", 1.0), ("c", 2.0)])?;
    let mut seen = HashMap::new();
    for _ in 0..1000 {
        *seen.entry(service.clone().oneshot(()).await?).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");

    balance.update([("b", 1.0)])?;
    assert_eq!(service.clone().oneshot(()).await?, "b");
    println!("balance: ok; a thousand requests went to {seen:?}");
    Ok(())
}

//! Leases from a balancer, so many times, for valgrind to count: `count ENDPOINTS TIMES [p2c|ewma]`.
//!
//! The difference of two runs with different `TIMES`, divided by the difference, is what one lease costs.

use benches::addrs;
use linkerd_balance::{Balance, Draw, Policy};
use tokio::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args.get(i).and_then(|arg| arg.parse::<u32>().ok()).unwrap_or(1000);
    let policy = if args.get(2).is_some_and(|arg| arg == "p2c") { Policy::least_loaded() } else { Policy::peak_ewma() };
    let balance = Balance::new(policy, |_, _| ());
    let endpoints = u16::try_from(number(0)).unwrap_or(u16::MAX);
    balance.update(addrs(endpoints).map(|addr| (addr, 1.0))).expect("valid weights");
    let now = Instant::now().into_std();
    for _ in 0..number(1) {
        let lease = balance.try_acquire(Draw::random(), now, &[]).expect("an endpoint");
        lease.end(true, now);
    }
}

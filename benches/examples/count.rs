//! One thing many times, for valgrind to count: `count ENDPOINTS TIMES POLICY [lease|weight|endpoint|gone|turned]`.
//!
//! The difference of two runs with different `TIMES`, divided by the difference, is what it costs: a lease that is ended;
//! an update with another weight of one endpoint, with another endpoint in place of one, with one fewer or one more, or
//! with the same ones named in another order.

use std::net::SocketAddr;

use benches::{addrs, policies::policy};
use linkerd_balance::{Balance, Draw};
use tokio::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args.get(i).and_then(|arg| arg.parse::<u32>().ok()).unwrap_or(1000);
    let name = args.get(2).map_or("ewma", String::as_str);
    let endpoints = u16::try_from(number(0)).unwrap_or(u16::MAX);
    let plain: Vec<_> = addrs(endpoints).map(|addr| (addr, 1.0)).collect();
    let balance = Balance::new(policy(name).expect("a policy's name"), |_, _| ());
    balance.update(plain.iter().copied()).expect("valid weights");
    let mut other = plain.clone();
    let middle = other.len() / 2;
    match args.get(3).map_or("lease", String::as_str) {
        "lease" => {
            let now = Instant::now().into_std();
            for _ in 0..number(1) {
                let lease = balance.try_acquire(Draw::random(), now, &[]).expect("an endpoint");
                lease.end(true, now);
            }
            return;
        }
        "weight" => other[middle].1 = 2.0,
        "endpoint" => other[middle].0 = SocketAddr::from(([11, 0, 0, 1], 80)),
        "gone" => {
            other.remove(middle);
        }
        "turned" => other.reverse(),
        what => panic!("nothing is called {what}"),
    }
    for i in 0..number(1) {
        // There and back, so that each is a change.
        let members = if i.is_multiple_of(2) { &other } else { &plain };
        balance.update(members.iter().copied()).expect("valid weights");
    }
}

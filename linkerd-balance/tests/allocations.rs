//! What balancing takes from the heap: nothing for a request, little for an endpoint.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use linkerd_balance::{
    Aperture, Balance, Breaker, BreakerCounters, Draw, Health, Heap, LeastLoaded, Load, Maglev, P2c, PeakEwma, Peer,
    Policy, Random, Ring, RoundRobin, SlowStart, StickyPrimary, Strategy, Subset, Tiers,
    accrual::{Accrual, ConsecutiveFailures, SuccessRate, SuccessRateWindowed, Unified},
};

const MS: Duration = Duration::from_millis(1);
const MANY: u32 = 10_000;

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn addr(n: u32) -> SocketAddr {
    SocketAddr::from(((0x0A00_0000 + n).to_be_bytes(), 80))
}

/// So many, the first of this weight, all others of weight 1.
fn members(size: u32, first: f64) -> Vec<(SocketAddr, f64)> {
    (0..size).map(|n| (addr(n), if n == 0 { first } else { 1.0 })).collect()
}

fn balance(policy: Policy, size: u32, first: f64) -> Balance<SocketAddr, ()> {
    let balance = Balance::new(policy, |_, _| ());
    balance.update(members(size, first)).unwrap();
    balance
}

/// Requests of all kinds: some fail, some are cancelled, some are out while others come, some avoid where they were.
fn requests(balance: &Balance<SocketAddr, ()>, start: Instant, times: u32) {
    for i in 0..times {
        let (now, random) = (start + i * MS, u64::from(i).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let draw = Draw::new(random).with_key(random);
        let first = balance.try_acquire(draw, now, &[]).unwrap();
        let second = balance.try_acquire(draw, now, &[*first.key()]).unwrap();
        match i % 8 {
            0 => second.end(false, now + MS),
            1 => drop(second),
            _ => second.end(true, now + 2 * MS),
        }
        first.end(true, now + MS);
    }
}

fn allocations(policy: Policy, size: u32, first: f64) -> u64 {
    let (balance, start) = (balance(policy, size, first), now());
    // Each thread's first pick makes a record of it, once; strategies that remember have room from then on.
    requests(&balance, start, 2_000);
    allocation_counter::measure(|| requests(&balance, start + 2_000 * MS, 1_000)).count_total
}

fn assert_none<S: Strategy>(strategy: impl Fn() -> S) {
    fn assert_none_of<S: Strategy, L: Load>(strategy: S, load: fn() -> L, size: u32, first: f64) {
        let policy = Policy::new(strategy, load);
        let name = policy.algorithm();
        assert_eq!(allocations(policy, size, first), 0, "{name} of {size}, the first one of weight {first}");
    }
    for (size, first) in [(1, 1.0), (2, 3.0), (10, 1.0), (100, 3.0), (1_000, 1.0)] {
        assert_none_of(strategy(), LeastLoaded::new, size, first);
        assert_none_of(strategy(), PeakEwma::default, size, first);
    }
}

#[test]
fn a_lease_allocates_nothing_whatever_the_strategy_and_the_load() {
    assert_none(P2c::new);
    assert_none(Random::new);
    assert_none(RoundRobin::new);
    assert_none(Heap::new);
    assert_none(Ring::new);
    assert_none(Maglev::new);
    assert_none(StickyPrimary::new);
    assert_none(|| Aperture::builder().build().unwrap());
    assert_none(|| Aperture::builder().peer(Peer::new(1, 7).unwrap()).build().unwrap());
    assert_none(|| Subset::new(5, 1, P2c::new()).unwrap());
}

#[test]
fn a_lease_allocates_nothing_where_endpoints_start_slowly_or_in_zones() {
    let slow = Policy::peak_ewma().slow_start(SlowStart::new(10_000 * MS).unwrap());
    assert_eq!(allocations(slow, 10, 1.0), 0);
    let zoned = Policy::peak_ewma().tiers(Tiers::new().local("here").spill_load(2.0).unwrap());
    let (balance, start) = (Balance::new(zoned, |_, _| ()), now());
    let zone = |n: u32| if n.is_multiple_of(2) { "here" } else { "there" };
    let members = (0..10).map(|n| linkerd_balance::Member::new(addr(n)).zone(zone(n)));
    balance.update(members).unwrap();
    requests(&balance, start, 2_000);
    let measured = allocation_counter::measure(|| requests(&balance, start + 2_000 * MS, 1_000));
    assert_eq!(measured.count_total, 0);
}

/// Live bytes of one of so many idle endpoints with a breaker each, and the most while they came.
fn bytes(policy: Policy, accrual: fn() -> Box<dyn Accrual>, size: u32, first: f64) -> (u64, u64) {
    let counters = BreakerCounters::default();
    let breaker = move |addr: &SocketAddr, health: &Health| {
        let breaker = Breaker::builder(accrual()).id(addr.to_string());
        breaker.health(health.clone()).counters(counters.clone()).build()
    };
    let (balance, members) = (Balance::new(policy, breaker), members(size, first));
    let measured = allocation_counter::measure(|| balance.update(members.iter().copied()).unwrap());
    (measured.bytes_current.unsigned_abs() / u64::from(size), measured.bytes_max / u64::from(size))
}

#[test]
fn an_idle_endpoint_with_its_breaker_takes_a_kilobyte_at_most() {
    type Case<T> = (&'static str, fn() -> T);
    fn of<S: Strategy>(strategy: S) -> Policy {
        Policy::new(strategy, PeakEwma::default)
    }
    let policies: [Case<Policy>; 11] = [
        ("p2c", Policy::least_loaded),
        ("ewma", Policy::peak_ewma),
        ("aperture", || of(Aperture::builder().build().unwrap())),
        ("aperture of a peer", || of(Aperture::builder().peer(Peer::new(1, 7).unwrap()).build().unwrap())),
        ("subset", || of(Subset::new(100, 1, P2c::new()).unwrap())),
        ("ring", || of(Ring::new())),
        ("maglev", || of(Maglev::new())),
        ("round robin", || of(RoundRobin::new())),
        ("heap", || of(Heap::new())),
        ("random", || of(Random::new())),
        ("sticky primary", || of(StickyPrimary::new())),
    ];
    let accruals: [Case<Box<dyn Accrual>>; 4] = [
        ("consecutive", || Box::new(ConsecutiveFailures::default())),
        ("success rate", || Box::new(SuccessRate::new(0.9, 100).unwrap())),
        ("windowed", || Box::new(SuccessRateWindowed::new(0.9, 30_000 * MS).unwrap())),
        ("unified", || Box::new(Unified::default())),
    ];
    for (name, policy) in policies {
        for (kind, accrual) in accruals {
            for first in [1.0, 3.0] {
                let (kept, at_most) = bytes(policy(), accrual, MANY, first);
                println!("{name}, {kind}, the first of weight {first}: {kept} bytes, {at_most} while they come");
                assert!(kept <= 1024, "{name}, {kind}, the first of weight {first}: {kept} bytes");
            }
        }
    }
}

#[test]
fn a_change_of_one_makes_nothing_anew_for_the_others() {
    let balance = balance(Policy::peak_ewma(), MANY, 1.0);
    let measure = |members: Vec<(SocketAddr, f64)>| {
        allocation_counter::measure(|| balance.update(members.iter().copied()).unwrap())
    };

    let same = measure(members(MANY, 1.0));
    let weight = measure(members(MANY, 2.0));
    let mut replaced = members(MANY, 2.0);
    replaced[1].0 = addr(MANY);
    let replaced = measure(replaced);
    // Tables of all of them, however many there are; the endpoints are what they were.
    for (what, measured) in [("nothing", same), ("a weight", weight), ("an endpoint", replaced)] {
        let bytes = measured.bytes_total / u64::from(MANY);
        println!("{what} changed: {} allocations, {bytes} bytes for an endpoint", measured.count_total);
        assert!(measured.count_total <= 64, "{what}: {measured:?}");
        assert!(bytes <= 256, "{what}: {measured:?}");
        // No set stays behind the new one: the table of weights is all that there is more of.
        assert!(measured.bytes_current.unsigned_abs() <= 64 * u64::from(MANY), "{what}: {measured:?}");
    }
}

#[test]
fn who_comes_and_goes_leaves_nothing_behind() {
    for strategy in [|| Policy::peak_ewma(), || Policy::new(Ring::new(), PeakEwma::default)] {
        let (policy, mut members) = (strategy(), members(1_000, 1.0));
        let (name, balance) = (policy.algorithm(), Balance::new(policy, |_, _| ()));
        balance.update(members.iter().copied()).unwrap();
        let mut next = MANY;
        let mut replace = |times: u32| {
            for i in 0..times {
                members[(i * 7 % 1_000) as usize].0 = addr(next);
                next += 1;
                balance.update(members.iter().copied()).unwrap();
            }
        };
        replace(100);
        let more = allocation_counter::measure(|| replace(1_000)).bytes_current;
        assert!(more <= 64 * 1_000, "{name}: {more} bytes more for 1,000 endpoints");
    }
}

//! Ten seconds of more than can be done: what gets through, how late, and whose.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use linkerd_retry::limit::{AdaptiveSettings, ConcurrencyLimit, Criticality, LimitLayer, Rejected, WhenFull};
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};
use tower::{Service, service_fn};
use tower_layer::Layer;

const MS: Duration = Duration::from_millis(1);
const WORKERS: usize = 50;
/// Fifty workers, fifty milliseconds each.
const CAPACITY: f64 = 1000.0;
/// At three fifths of the capacity, and not counted, before it begins.
const WARM_UP: f64 = 10.0;
const OVERLOAD: f64 = 10.0;

/// xorshift64*: random bits that are the same in every run.
struct Dice(u64);

impl Dice {
    /// From 0 to 1, neither included.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// Of what could be done.
    goodput: f64,
    p99: Duration,
    /// Sent and answered, by class.
    classes: [(u32, u32); 4],
}

impl Seen {
    fn success(&self, class: Criticality) -> f64 {
        let (sent, answered) = self.classes[class as usize];
        f64::from(answered) / f64::from(sent)
    }
}

/// A request: its class, and how long it will take.
type Req = (Criticality, Duration);

/// Sends `ratio` times the capacity: one in ten critical, two in ten better not shed, seven in ten sheddable.
async fn overload(limit: Option<ConcurrencyLimit>, ratio: f64, seed: u64) -> Seen {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let backend = service_fn(move |(_, takes): Req| {
        let workers = workers.clone();
        async move {
            let _worker = workers.acquire().await.unwrap();
            time::sleep(takes).await;
            Ok::<_, Rejected>(())
        }
    });
    let unlimited = ConcurrencyLimit::fixed("none", NonZeroUsize::MAX, WhenFull::Reject);
    let svc = LimitLayer::new(limit.unwrap_or(unlimited)).classify_with(|req: &Req| req.0).layer(backend);
    let (mut dice, start, mut next) = (Dice(seed), Instant::now(), 0.0);
    let mut calls = Vec::new();
    while next < WARM_UP + OVERLOAD {
        let overloaded = next >= WARM_UP;
        time::sleep_until(start + Duration::from_secs_f64(next)).await;
        let class = match dice.unit() {
            dice if dice < 0.1 => Criticality::Critical,
            dice if dice < 0.3 => Criticality::SheddablePlus,
            _ => Criticality::Sheddable,
        };
        let takes = Duration::from_secs_f64(dice.exponential(WORKERS as f64 / CAPACITY));
        let mut svc = svc.clone();
        calls.push(tokio::spawn(async move {
            let began = Instant::now();
            let rsp = svc.call((class, takes)).await;
            overloaded.then(|| (class, rsp.ok().map(|()| (began.elapsed(), start.elapsed().as_secs_f64()))))
        }));
        next += dice.exponential(1.0 / (if overloaded { ratio } else { 0.6 } * CAPACITY));
    }
    let (mut seen, mut took, mut in_time) = (Seen::default(), Vec::new(), 0);
    for call in calls {
        let Some((class, answer)) = call.await.unwrap() else { continue };
        let (sent, answered) = &mut seen.classes[class as usize];
        *sent += 1;
        if let Some((latency, at)) = answer {
            *answered += 1;
            took.push(latency);
            in_time += u32::from(at < WARM_UP + OVERLOAD);
        }
    }
    took.sort_unstable();
    seen.p99 = took[took.len() * 99 / 100];
    seen.goodput = f64::from(in_time) / (OVERLOAD * CAPACITY);
    seen
}

const QUEUE: WhenFull = WhenFull::Queue { capacity: 50, wait: Duration::from_millis(100) };

fn fixed(when_full: WhenFull) -> ConcurrencyLimit {
    ConcurrencyLimit::fixed("server", NonZeroUsize::new(WORKERS * 6 / 5).unwrap(), when_full)
}

fn adaptive(when_full: WhenFull) -> ConcurrencyLimit {
    ConcurrencyLimit::adaptive("server", AdaptiveSettings::default(), when_full).unwrap()
}

#[track_caller]
fn assert_holds(seen: &Seen, p99: Duration) {
    assert!(seen.goodput >= 0.8, "{seen:?}");
    assert!(seen.p99 <= p99, "{seen:?}");
    assert!(seen.success(Criticality::Critical) >= 0.999, "{seen:?}");
    assert!(seen.success(Criticality::Sheddable) < seen.success(Criticality::SheddablePlus), "{seen:?}");
}

// Exponential service times have their own p99 at 230 ms.

#[tokio::test(start_paused = true)]
async fn a_fixed_limit_with_a_queue_holds_at_three_times_the_capacity() {
    assert_holds(&overload(Some(fixed(QUEUE)), 3.0, 7).await, 400 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_limit_that_rejects_holds_at_three_times_the_capacity() {
    assert_holds(&overload(Some(fixed(WhenFull::Reject)), 3.0, 7).await, 400 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_adapts_holds_at_twice_the_capacity() {
    assert_holds(&overload(Some(adaptive(QUEUE)), 2.0, 7).await, 400 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_adapts_holds_at_three_times_the_capacity() {
    for seed in [1, 2, 3] {
        assert_holds(&overload(Some(adaptive(QUEUE)), 3.0, seed).await, 400 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_everybody_waits_for_seconds() {
    let seen = overload(None, 3.0, 7).await;
    assert!(seen.p99 > Duration::from_secs(5), "{seen:?}");
}

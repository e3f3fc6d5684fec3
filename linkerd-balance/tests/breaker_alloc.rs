//! What a breaker costs a request: no allocation, whatever decides.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use linkerd_balance::{
    Breaker, Health,
    accrual::{Accrual, Backoff, ConsecutiveFailures, Never, SuccessRate, SuccessRateWindowed, Unified},
};

const MS: Duration = Duration::from_millis(1);

#[test]
fn letting_calls_through_and_giving_up_allocates_nothing() {
    let accruals: [Box<dyn Accrual>; 5] = [
        Box::new(Never),
        Box::new(ConsecutiveFailures::new(NonZeroU32::MIN)),
        Box::new(SuccessRate::new(0.9, 10).unwrap()),
        Box::new(SuccessRateWindowed::new(0.9, 10 * MS).unwrap()),
        Box::new(Unified::default()),
    ];
    for accrual in accruals {
        let name = format!("{accrual:?}");
        let start: Instant = tokio::time::Instant::now().into_std();
        let breaker = Breaker::new(accrual, Backoff::constant(5 * MS).unwrap(), Health::new());
        let allocated = allocation_counter::measure(|| {
            for i in 0..1000 {
                let now = start + i * MS;
                breaker.admit(now).record(i % 3 == 0, now);
            }
        });
        assert_eq!(allocated.count_total, 0, "{name}");
        assert_eq!(breaker.counters().removals() > 0, !name.starts_with("Never"), "{name}");
    }
}

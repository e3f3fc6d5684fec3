use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn budget(percent: f64, min_per_sec: u32, ttl_secs: u64) -> Budget {
    Budget::new(BudgetSettings { ttl: Duration::from_secs(ttl_secs), min_per_sec, percent }).unwrap()
}

/// Withdraws as often as it is let.
fn drain(budget: &Budget, now: Instant) -> u64 {
    let mut retries = 0;
    while budget.try_withdraw(now) {
        retries += 1;
    }
    retries
}

fn just_before(at: Instant) -> Instant {
    at.checked_sub(MS).unwrap()
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[test]
fn two_hundred_percent_is_two_retries_for_the_first_request() {
    let (budget, now) = (budget(2.0, 0, 10), now());
    assert_eq!(drain(&budget, now), 0);
    budget.deposit(now);
    assert_eq!(budget.balance(now), 2);
    assert_eq!(drain(&budget, now), 2);
}

#[test]
fn without_a_share_only_the_reserve_counts() {
    let (budget, now) = (budget(0.0, 1, 3), now());
    budget.deposit(now);
    assert_eq!(drain(&budget, now), 3);
    budget.deposit(now);
    assert_eq!(drain(&budget, now), 0);
}

#[test]
fn half_a_retry_is_none_and_two_halves_are_one() {
    let (budget, now) = (budget(0.5, 0, 10), now());
    budget.deposit(now);
    assert_eq!(drain(&budget, now), 0);
    budget.deposit(now);
    assert_eq!(drain(&budget, now), 1);
}

#[test]
fn nothing_and_nothing_is_off() {
    let now = now();
    for budget in [budget(0.0, 0, 10), Budget::off()] {
        budget.deposit(now);
        assert!(budget.is_off());
        assert_eq!((budget.balance(now), drain(&budget, now)), (0, 0));
    }
    assert!(!budget(0.0, 1, 1).is_off() && !budget(0.1, 0, 1).is_off());
}

#[test]
fn the_default_allows_a_hundred_retries_and_then_a_fifth_of_the_requests() {
    let (budget, now) = (Budget::default(), now());
    assert_eq!((budget.balance(now), budget.share_for_one(now)), (100, 20));
    assert_eq!(drain(&budget, now), 100);
    for _ in 0..14 {
        budget.deposit(now);
    }
    assert_eq!((budget.balance(now), budget.share_for_one(now)), (2, 1));
    assert_eq!(drain(&budget, now), 2);
}

#[test]
fn deposits_are_lost_after_the_ttl_and_not_before_nine_tenths_of_it() {
    let (budget, start) = (budget(1.0, 0, 10), now());
    assert_eq!(budget.balance(start), 0);
    budget.deposit(start);
    budget.deposit(just_before(start + SEC));
    budget.deposit(start + SEC);
    assert_eq!(budget.balance(just_before(start + 10 * SEC)), 3);
    assert_eq!(budget.balance(start + 10 * SEC), 1);
    assert_eq!(budget.balance(just_before(start + 11 * SEC)), 1);
    assert_eq!(budget.balance(start + 11 * SEC), 0);
}

#[test]
fn the_reserve_comes_back_as_its_withdrawals_are_forgotten() {
    let (budget, start) = (budget(0.0, 1, 3), now());
    assert_eq!(drain(&budget, start), 3);
    assert_eq!(drain(&budget, just_before(start + 3 * SEC)), 0);
    assert_eq!(drain(&budget, start + 3 * SEC), 3);
    // Long after, and never more than once.
    assert_eq!(drain(&budget, start + 3600 * SEC), 3);
}

#[test]
fn it_is_at_rest_once_nothing_that_was_taken_counts() {
    let (budget, start) = (budget(1.0, 1, 10), now());
    assert!(budget.is_at_rest(start));
    budget.deposit(start);
    assert!(budget.is_at_rest(start), "what was earned is lost with it");
    let later = start + 5 * SEC;
    assert!(budget.try_withdraw(later));
    // Nothing is owed now, but in five seconds what paid for it is forgotten, and it is not.
    assert_eq!(budget.balance(later), 10);
    assert!(!budget.is_at_rest(later));
    assert_eq!(budget.balance(start + 11 * SEC), 9);
    assert!(!budget.is_at_rest(just_before(later + 9 * SEC)));
    assert!(budget.is_at_rest(later + 10 * SEC));
    let after = later + 20 * SEC;
    assert!(budget.try_withdraw(after));
    budget.deposit(after);
    assert!(budget.is_at_rest(after), "earned back, and forgotten no sooner");
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let (budget, start) = (budget(1.0, 0, 10), now());
    budget.deposit(start + 5 * SEC);
    assert_eq!(budget.balance(start), 1);
    budget.deposit(start);
    assert_eq!(drain(&budget, start + 5 * SEC), 2);
}

#[test]
fn clones_share_and_siblings_do_not() {
    let (first, now) = (budget(1.0, 0, 10), now());
    let (clone, sibling) = (first.clone(), Budget::new(first.settings()).unwrap());
    first.deposit(now);
    assert!(clone.try_withdraw(now));
    assert!(!first.try_withdraw(now));
    assert_eq!(sibling.balance(now), 0);
}

#[test]
fn every_share_is_exact_where_whole_tokens_would_round() {
    let now = now();
    // 0.7 and 0.3 are where 1000/percent, or 1/percent, rounds down to a cheaper retry.
    for (percent, requests, retries) in
        [(0.0001, 10_000, 1), (0.0001, 9_999, 0), (0.3, 1000, 300), (0.7, 1000, 700), (0.9, 10, 9), (3.0, 7, 21)]
    {
        let budget = budget(percent, 0, 10);
        for _ in 0..requests {
            budget.deposit(now);
        }
        assert_eq!(drain(&budget, now), retries, "{percent} of {requests}");
    }
}

/// tower#857, as it was reported: whole tokens made 0.6 retries for each request one retry for each.
#[test]
fn tower_857_a_fractional_share_is_not_rounded_up() {
    let (budget, now) = (budget(0.6, 0, 1), now());
    for _ in 0..10 {
        budget.deposit(now);
    }
    let allowed = (0..10).filter(|_| budget.try_withdraw(now)).count();
    assert_eq!(allowed, 6);
}

/// tower-resilience#370: a balance that was read and then written lost what others did in between.
#[test]
fn tower_resilience_370_threads_never_take_more_than_there_is() {
    let (budget, now) = (budget(0.5, 0, 10), now());
    let taken: u64 = std::thread::scope(|scope| {
        let one = || {
            (0..10_000)
                .filter(|_| {
                    budget.deposit(now);
                    budget.try_withdraw(now)
                })
                .count() as u64
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken + budget.balance(now), 20_000);
    let BudgetCounts { deposits, withdrawals, exhausted } = budget.counts();
    assert_eq!((deposits, withdrawals, exhausted), (40_000, taken, 40_000 - taken));
}

#[test]
fn it_counts_what_it_saw_and_forgets_none_of_it() {
    let (budget, start) = (budget(0.5, 0, 1), now());
    for _ in 0..4 {
        budget.deposit(start);
    }
    assert_eq!(drain(&budget, start), 2);
    let counts = BudgetCounts { deposits: 4, withdrawals: 2, exhausted: 1 };
    assert_eq!(budget.counts(), counts);
    assert_eq!(drain(&budget.clone(), start + 3600 * SEC), 0);
    assert_eq!(budget.counts(), BudgetCounts { exhausted: 2, ..counts });

    let off = Budget::off();
    off.deposit(start);
    assert!(!off.try_withdraw(start));
    assert_eq!(off.counts(), BudgetCounts::default());
}

#[test]
fn the_greatest_settings_do_not_overflow() {
    let (budget, now) = (budget(1000.0, u32::MAX, 60), now());
    for _ in 0..1000 {
        budget.deposit(now);
    }
    assert_eq!(budget.balance(now), u64::from(u32::MAX) * 60 + 1_000_000);
}

#[test]
fn errors_name_the_value_and_the_range() {
    let ok = BudgetSettings::default();
    let fails = |settings| Budget::new(settings).unwrap_err().to_string();
    for ttl in [Duration::ZERO, 999 * MS, 60 * SEC + MS, Duration::MAX] {
        let text = fails(BudgetSettings { ttl, ..ok });
        assert_eq!(text, format!("a retry budget's ttl must be from 1s to 60s, not {ttl:?}"));
    }
    for percent in [-0.1, 1000.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let text = fails(BudgetSettings { percent, ..ok });
        assert_eq!(text, format!("a retry budget's percentage must be a ratio from 0 to 1000, not {percent}"));
    }
    for (ttl, percent) in [(SEC, 0.0), (60 * SEC, 1000.0), (SEC, -0.0)] {
        assert!(Budget::new(BudgetSettings { ttl, percent, ..ok }).is_ok());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deposit,
    Withdraw,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Deposit),
        3 => Just(Step::Withdraw),
        1 => (0..2500_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// The law in the docs, against a list of everything that ever happened.
    #[test]
    fn never_overdraws(
        millis in 0..=3000_u32,
        min_per_sec in 0..4_u32,
        ttl_secs in 1..=5_u64,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let budget = budget(f64::from(millis) / 1000.0, min_per_sec, ttl_secs);
        let (mut now, start) = (now(), now());
        let ttl = Duration::from_secs(ttl_secs);
        let (mut requests, mut retries) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Deposit => {
                    budget.deposit(now);
                    requests.push(now);
                }
                Step::Withdraw => {
                    let balance = budget.balance(now);
                    let allowed = budget.try_withdraw(now);
                    prop_assert_eq!(allowed, balance > 0);
                    prop_assert_eq!(budget.balance(now), balance.saturating_sub(1));
                    if !allowed {
                        continue;
                    }
                    retries.push(now);
                    // All of the requests that can still count, against the retries that must.
                    let since = |age: Duration| move |at: &&Instant| now.saturating_duration_since(**at) < age;
                    let earned = requests.iter().filter(since(ttl)).count() as u64 * u64::from(millis);
                    let spent = retries.iter().filter(since(ttl * 9 / 10)).count() as u64 * 1000;
                    prop_assert!(spent <= earned + u64::from(min_per_sec) * ttl_secs * 1000);
                    // And from the very first on, with the reserve once more in each nine tenths of a ttl.
                    let rounds = 1 + (now - start).as_nanos() / (ttl * 9 / 10).as_nanos();
                    let reserve = u128::from(min_per_sec) * u128::from(ttl_secs) * rounds;
                    let ever = (retries.len() as u128, requests.len() as u128 * u128::from(millis) / 1000);
                    prop_assert!(ever.0 <= ever.1 + reserve);
                }
                Step::Wait(ms) => now += Duration::from_millis(ms),
            }
        }
    }

    /// tower#857 for every share: what N requests earn is the whole part of N times the share.
    #[test]
    fn the_share_is_exact_from_a_hundredth_of_a_percent_to_a_thousand(
        basis_points in 1..=100_000_u32,
        requests in 0..3000_u32,
    ) {
        let (budget, now) = (budget(f64::from(basis_points) / 10_000.0, 0, 10), now());
        for _ in 0..requests {
            budget.deposit(now);
        }
        let earned = u64::from(basis_points) * u64::from(requests) / 10_000;
        prop_assert_eq!(budget.balance(now), earned);
        let taken = (0..=earned).filter(|_| budget.try_withdraw(now)).count() as u64;
        prop_assert_eq!(taken, earned);
    }

    /// However many fail together, and however often each comes back: the backend sees the share and the reserve more.
    #[test]
    fn simultaneous_failures_are_not_amplified(
        waves in prop::collection::vec(1..400_u32, 1..6),
        percent in 0..=1000_u32,
        min_per_sec in 0..5_u32,
    ) {
        let (budget, now) = (budget(f64::from(percent) / 100.0, min_per_sec, 10), now());
        let (mut requests, mut sent) = (0_u64, 0_u64);
        for wave in waves {
            for _ in 0..wave {
                budget.deposit(now);
            }
            requests += u64::from(wave);
            sent += u64::from(wave);
            let mut failed = wave;
            while failed > 0 {
                failed = (0..failed).filter(|_| budget.try_withdraw(now)).count() as u32;
                sent += u64::from(failed);
            }
            prop_assert_eq!(sent, requests * u64::from(100 + percent) / 100 + u64::from(min_per_sec) * 10);
        }
    }
}

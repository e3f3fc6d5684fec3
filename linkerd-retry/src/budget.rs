//! How many retries there may be: a share of the requests, and a few a second on top.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// One retry, in the unit that a budget counts in: a billionth of a retry.
///
/// Fine enough that every share of up to nine decimals is exact, and `i128` sums cannot overflow.
const RETRY: i128 = 1_000_000_000;

/// Into how many slices `ttl` is cut. What happened in a slice is forgotten as one.
const SLICES: usize = 10;

/// How a [`Budget`] is filled.
///
/// # Defaults
///
/// Linkerd 1.x's, which are Finagle's but for the last: `ttl` 10 s, `min_per_sec` 10, `percent` 0.2. A service that
/// has seen no request yet may make 100 retries at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetSettings {
    /// For how long a request, and a retry, counts. From 1 s to 60 s.
    pub ttl: Duration,
    /// Retries per second that are allowed whatever the number of requests is. All that fall into one `ttl` may be
    /// made at once. 0 means that only requests earn retries.
    pub min_per_sec: u32,
    /// Retries per request, as a ratio: 0.2 is one retry for five requests, 2.0 is two for each. From 0 to 1000.
    /// 0 means that only `min_per_sec` counts; if that is 0 too, there are no retries.
    pub percent: f64,
}

/// A value of [`BudgetSettings`] that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBudget {
    /// `ttl` is not from 1 s to 60 s.
    #[error("a retry budget's ttl must be from 1s to 60s, not {0:?}")]
    Ttl(Duration),
    /// `percent` is negative, more than 1000, or not a number.
    #[error("a retry budget's percentage must be a ratio from 0 to 1000, not {0}")]
    Percent(f64),
}

/// An allowance of retries that requests earn and retries spend.
///
/// Clones share one allowance. Each request [deposits](Self::deposit) `percent` retries, each retry
/// [withdraws](Self::try_withdraw) one, and both are forgotten after `ttl`. On top of that comes a reserve of
/// `min_per_sec · ttl` retries. So whenever a retry is allowed, of what still counts at that moment, it included,
///
/// > retries ≤ `percent` · requests + `min_per_sec` · `ttl`
///
/// and what was not used in time is lost: a quiet night does not save up for a storm.
///
/// After Finagle's `RetryBudget` (Apache-2.0): tenths of `ttl` are forgotten as one, so that something counts for at
/// least nine tenths of it and at most the whole. Unlike there, the share is exact for any `percent`, where Finagle
/// rounds 1000/`percent` down to a whole number of tokens.
///
/// It reads no clock: `now` is an argument. A `now` before an earlier one counts as that earlier one. An operation
/// takes a lock for some tens of nanoseconds, and allocates nothing.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    settings: BudgetSettings,
    /// What a request earns.
    deposit: i128,
    /// What is there without any request.
    reserve: i128,
    slice: Duration,
    window: Mutex<Window>,
}

/// Deposits less withdrawals of the last `ttl`, by slices.
struct Window {
    slices: [i128; SLICES],
    /// The sum of `slices`.
    sum: i128,
    /// The slice that is being filled, and when it began: at the first use.
    head: usize,
    began: Option<Instant>,
}

impl BudgetSettings {
    /// A share of the requests and nothing else: `min_per_sec` 0, `ttl` 10 s.
    #[must_use]
    pub fn share(percent: f64) -> Self {
        Self { min_per_sec: 0, percent, ..Self::default() }
    }

    /// No retries at all.
    #[must_use]
    pub fn off() -> Self {
        Self::share(0.0)
    }
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), min_per_sec: 10, percent: 0.2 }
    }
}

impl Budget {
    /// A budget with its whole reserve and no deposits.
    ///
    /// # Errors
    ///
    /// The first value that is out of range.
    pub fn new(settings: BudgetSettings) -> Result<Self, InvalidBudget> {
        if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&settings.ttl) {
            return Err(InvalidBudget::Ttl(settings.ttl));
        }
        // NaN is in no range.
        if !(0.0..=1000.0).contains(&settings.percent) {
            return Err(InvalidBudget::Percent(settings.percent));
        }
        Ok(Self::valid(settings))
    }

    /// Another budget with the same settings, as it was at first.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self::valid(self.0.settings)
    }

    /// A budget that never allows a retry.
    #[must_use]
    pub fn off() -> Self {
        Self::valid(BudgetSettings::off())
    }

    /// Notes that a request was made, which earns `percent` retries.
    pub fn deposit(&self, now: Instant) {
        let Shared { deposit, .. } = *self.0;
        if deposit > 0 {
            self.with(now, |window| window.add(deposit));
        }
    }

    /// Takes one retry, or says that there is none to take.
    ///
    /// Call it when the retry is *scheduled*: retries that wait in a backoff must already be paid for, or a thousand
    /// failures at once all get away. A retry that is not made after all is not given back.
    #[must_use = "a retry may be made only if this is true"]
    pub fn try_withdraw(&self, now: Instant) -> bool {
        if self.is_off() {
            return false;
        }
        let reserve = self.0.reserve;
        self.with(now, |window| {
            let enough = window.sum + reserve >= RETRY;
            if enough {
                window.add(-RETRY);
            }
            enough
        })
    }

    /// How many retries could be taken now.
    pub fn balance(&self, now: Instant) -> u64 {
        if self.is_off() {
            return 0;
        }
        let left = self.with(now, |window| window.sum) + self.0.reserve;
        // Below zero when the deposits that paid for a retry are forgotten before it is.
        u64::try_from(left.max(0) / RETRY).unwrap_or(u64::MAX)
    }

    /// The most that one request should take: a fifth of the [balance](Self::balance), rounded up.
    ///
    /// Finagle's limit for requeues. A request that keeps failing then leaves something to the others.
    pub fn share_for_one(&self, now: Instant) -> u64 {
        self.balance(now).div_ceil(5)
    }

    /// Whether there can never be a retry, so that nobody need keep a copy of a request.
    pub fn is_off(&self) -> bool {
        self.0.deposit == 0 && self.0.reserve == 0
    }

    /// What it was made with.
    pub fn settings(&self) -> BudgetSettings {
        self.0.settings
    }

    fn valid(settings: BudgetSettings) -> Self {
        Self(Arc::new(Shared {
            settings,
            deposit: (settings.percent * RETRY as f64).round() as i128,
            // Retries a second times nanoseconds: billionths of a retry.
            reserve: i128::from(settings.min_per_sec) * settings.ttl.as_nanos().cast_signed(),
            slice: settings.ttl / SLICES as u32,
            window: Mutex::new(Window { slices: [0; SLICES], sum: 0, head: 0, began: None }),
        }))
    }

    fn with<T>(&self, now: Instant, f: impl FnOnce(&mut Window) -> T) -> T {
        // Nothing in here can leave the window half changed, so a poisoned one is as good as any.
        let mut window = self.0.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.forget(now, self.0.slice);
        f(&mut window)
    }
}

impl Default for Budget {
    /// A budget with the default [`BudgetSettings`].
    fn default() -> Self {
        Self::valid(BudgetSettings::default())
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Budget").field(&self.0.settings).finish()
    }
}

impl Window {
    fn add(&mut self, amount: i128) {
        self.slices[self.head] += amount;
        self.sum += amount;
    }

    fn forget(&mut self, now: Instant, slice: Duration) {
        let began = *self.began.get_or_insert(now);
        let steps = now.saturating_duration_since(began).as_nanos() / slice.as_nanos();
        if steps == 0 {
            return;
        }
        let Some(short) = usize::try_from(steps).ok().filter(|&steps| steps < SLICES) else {
            *self = Self { slices: [0; SLICES], sum: 0, head: 0, began: Some(now) };
            return;
        };
        for _ in 0..short {
            self.head = (self.head + 1) % SLICES;
            self.sum -= std::mem::take(&mut self.slices[self.head]);
        }
        self.began = Some(began + slice * short as u32);
    }
}

#[cfg(test)]
mod tests {
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
    }
}

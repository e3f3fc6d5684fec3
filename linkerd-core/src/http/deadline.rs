//! When an answer is no longer wanted, as hops tell each other.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};

use super::RequestContext;

/// How long the caller of a gRPC method waits for its end.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// When an answer is no longer wanted, as hops tell each other: in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Deadline {
    timestamp_nanos: i64,
    deadline_nanos: i64,
}

impl Deadline {
    /// `timeout` after `now`.
    #[must_use]
    pub fn after(now: SystemTime, timeout: Duration) -> Self {
        let nanos = |since: Duration| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let now = now.duration_since(UNIX_EPOCH).map(nanos).unwrap_or_default();
        Self { timestamp_nanos: now, deadline_nanos: now.saturating_add(nanos(timeout)) }
    }

    /// Of both the later timestamp and the earlier deadline.
    #[must_use]
    pub fn combined(self, other: Self) -> Self {
        Self {
            timestamp_nanos: self.timestamp_nanos.max(other.timestamp_nanos),
            deadline_nanos: self.deadline_nanos.min(other.deadline_nanos),
        }
    }

    /// How much time is left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: SystemTime) -> Duration {
        self.at().duration_since(now).unwrap_or_default()
    }

    pub(super) fn at(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.deadline_nanos).unwrap_or_default())
    }

    /// Whether it has passed at `now`.
    #[must_use]
    pub fn has_passed(self, now: SystemTime) -> bool {
        self.remaining(now).is_zero()
    }

    /// The value of an `l5d-ctx-deadline`.
    pub(crate) fn decode(value: &HeaderValue) -> Option<Self> {
        let (timestamp, deadline) = value.to_str().ok()?.split_once(' ')?;
        Some(Self { timestamp_nanos: timestamp.parse().ok()?, deadline_nanos: deadline.parse().ok()? })
    }

    /// The value of an `l5d-ctx-deadline`.
    pub(crate) fn encode(self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{} {}", self.timestamp_nanos, self.deadline_nanos)).ok()
    }
}

/// Until when a gRPC call is wanted: what its `grpc-timeout` says, at each time that it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcUntil(Option<Instant>);

impl GrpcUntil {
    /// That of a request which came at `arrived`. `None` if it is no gRPC call.
    pub(crate) fn of<B>(req: &Request<B>, arrived: Instant) -> Option<Self> {
        let is_grpc = *req.method() == Method::POST && is_grpc(req.headers());
        is_grpc.then(|| Self(grpc_timeout(req.headers()).and_then(|timeout| arrived.checked_add(timeout))))
    }

    pub(crate) fn at(self) -> Option<Instant> {
        self.0
    }

    /// Or earlier, as it may take `total` in all and as what came with it has it.
    pub(crate) fn within(self, arrived: Instant, total: Option<Duration>, cx: Option<&RequestContext>) -> Self {
        let left = cx.and_then(|cx| cx.deadline).map(|deadline| deadline.remaining(SystemTime::now()));
        let left = left.into_iter().chain(total).min();
        let ours = left.and_then(|left| arrived.checked_add(left));
        Self([self.0, ours, cx.and_then(|cx| cx.until)].into_iter().flatten().min())
    }

    /// Says how much of it is left at `now`, or that the attempt may take `timeout` if that is less.
    pub(crate) fn write(self, headers: &mut HeaderMap, now: Instant, timeout: Option<Duration>) {
        let left = self.0.map(|at| at.saturating_duration_since(now));
        if let Some(left) = left.into_iter().chain(timeout).min() {
            headers.insert(GRPC_TIMEOUT, encode(left));
        }
    }
}

/// Whether a request is a gRPC call, by its `content-type`: `application/grpc`, or that with a `+` and what messages are
/// written in.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes) else { return false };
    let Some((grpc, rest)) = kind.split_at_checked(GRPC.len()) else { return false };
    grpc.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

const GRPC: &[u8] = b"application/grpc";

/// How long a `grpc-timeout` says; the shortest, if there are several. One that is none says nothing.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    headers.get_all(GRPC_TIMEOUT).iter().filter_map(decode).min()
}

/// Units from the finest on, in nanoseconds.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3600 * 1_000_000_000),
];

/// The most that eight digits say.
const MAX: u64 = 99_999_999;

fn decode(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    let nanos = UNITS.iter().find(|(name, _)| name == unit)?.1;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    // Eight digits of hours are more nanoseconds than fit, but not more seconds.
    Some(Duration::from_secs(nanos / UNITS[3].1 * count) + Duration::from_nanos(nanos % UNITS[3].1 * count))
}

/// In the finest unit that it fits in, cut off: never more than there is.
fn encode(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos();
    let fits = UNITS.iter().find(|(_, unit)| nanos / u128::from(*unit) <= u128::from(MAX));
    let (count, unit) = match fits {
        Some((name, unit)) => ((nanos / u128::from(*unit)) as u64, *name),
        None => (MAX, b'H'),
    };
    let mut text = count.to_string();
    text.push(unit.into());
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    fn timeout(text: &str) -> Option<Duration> {
        decode(&text.parse().unwrap())
    }

    fn call(content_type: &str, timeouts: &[&str]) -> Request<()> {
        let mut req = Request::post("/").header(header::CONTENT_TYPE, content_type);
        for timeout in timeouts {
            req = req.header(GRPC_TIMEOUT, *timeout);
        }
        req.body(()).unwrap()
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn a_deadline_passes() {
        let now = UNIX_EPOCH + 100 * SEC;
        let deadline = Deadline::after(now, 5 * SEC);
        assert_eq!(deadline.remaining(now), 5 * SEC);
        assert!(!deadline.has_passed(now + Duration::from_millis(4999)));
        assert!(deadline.has_passed(now + 5 * SEC));
        assert!(Deadline::after(now, Duration::MAX).remaining(now) > Duration::from_secs(1 << 32));
    }

    #[test]
    fn a_timeout_has_six_units_and_eight_digits_at_most() {
        for (text, expected) in [
            ("1H", 3600 * SEC),
            ("2M", 120 * SEC),
            ("30S", 30 * SEC),
            ("250m", SEC / 4),
            ("250u", SEC / 4000),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("00000001S", SEC),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_hours(99_999_999)),
        ] {
            assert_eq!(timeout(text), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "1s", "1h", "1.5S", "-1S", "+1S", " 1S", "1S ", "1 S", "100000000n", "soon"] {
            assert_eq!(timeout(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_left_is_said_in_the_finest_unit_that_it_fits_in() {
        for (left, text) in [
            (Duration::ZERO, "0n"),
            (50 * SEC / 1000, "50000000n"),
            (100 * SEC / 1000, "100000u"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (100 * SEC, "100000m"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(encode(left), text, "{left:?}");
        }
    }

    #[test]
    fn only_calls_of_grpc_have_a_timeout() {
        let at = now();
        for kind in ["application/grpc", "application/grpc+proto", "Application/GRPC;x=y"] {
            assert_eq!(GrpcUntil::of(&call(kind, &["1S"]), at), Some(GrpcUntil(Some(at + SEC))), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            assert_eq!(GrpcUntil::of(&call(kind, &["1S"]), at), None, "{kind}");
        }
        let mut get = call("application/grpc", &["1S"]);
        *get.method_mut() = Method::GET;
        assert_eq!(GrpcUntil::of(&get, at), None);
    }

    #[test]
    fn of_several_the_shortest_counts_and_what_is_none_is_ignored() {
        let at = now();
        let until = |timeouts: &[&str]| GrpcUntil::of(&call("application/grpc", timeouts), at).unwrap().at();
        assert_eq!(until(&["3S", "2S", "soon"]), Some(at + 2 * SEC));
        assert_eq!((until(&["soon"]), until(&[])), (None, None));
    }

    #[test]
    fn each_time_says_what_is_left_then_and_no_more_than_an_attempt_may_take() {
        let at = now();
        let said = |until: GrpcUntil, after: Duration, timeout: Option<Duration>| {
            let mut headers = call("application/grpc", &["1H", "2H"]).headers().clone();
            until.write(&mut headers, at + after, timeout);
            assert!(headers.get_all(GRPC_TIMEOUT).iter().count() <= 2);
            grpc_timeout(&headers).unwrap()
        };
        let until = GrpcUntil(Some(at + 3 * SEC));
        assert_eq!(said(until, SEC, None), 2 * SEC);
        assert_eq!(said(until, SEC, Some(SEC)), SEC);
        assert_eq!(said(until, 4 * SEC, Some(SEC)), Duration::ZERO);
        assert_eq!(said(GrpcUntil(None), SEC, Some(SEC)), SEC);
        assert_eq!(said(GrpcUntil(None), SEC, None), 3600 * SEC, "what came stays");
        assert_eq!(until.within(at, Some(SEC), None).at(), Some(at + SEC));
        let cx = RequestContext { until: Some(at + SEC / 2), ..RequestContext::default() };
        assert_eq!(until.within(at, Some(SEC), Some(&cx)).at(), Some(at + SEC / 2));
        assert_eq!(until.within(at, None, None), until);
    }

    proptest! {
        #[test]
        fn what_is_said_is_read_again_as_no_more_than_there_is(secs in 0..3600 * MAX, nanos in 0..1_000_000_000u32) {
            let left = Duration::new(secs, nanos);
            let text = encode(left);
            prop_assert!((2..=9).contains(&text.len()), "{:?}", text);
            let read = decode(&text).unwrap();
            prop_assert!(read <= left);
            // There are six digits at least before what is cut off.
            prop_assert!(left.saturating_sub(read) <= left / 90_000);
            prop_assert_eq!(decode(&encode(read)), Some(read), "and is not cut again");
        }

        #[test]
        fn nothing_that_is_sent_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                decode(&value);
            }
        }
    }
}

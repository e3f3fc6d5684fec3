//! What a service says of retries: what arrives, what is refused, and that its page leaves nothing out.

use std::{
    fs,
    num::{NonZeroU32, NonZeroUsize},
    path::Path,
    time::Duration,
};

use linkerd_core::{
    HedgePolicy, LimitPolicy,
    config::{Backoff, Classifier, Config, Service},
    retry::{
        hedge::HedgeDelay,
        limit::{AdaptiveSettings, RateSettings, Shares, WhenFull},
    },
    telemetry::{Reading, Registry},
};

const EXAMPLE: &str = include_str!("retries.yaml");

fn service(name: &str) -> Service {
    let config = Config::parse("retries.yaml", EXAMPLE).unwrap_or_else(|e| panic!("{e}"));
    config.routers[0].service.for_path(&name.parse().unwrap())
}

/// A file with these keys in a service, on its fourth line.
fn file(keys: &str) -> String {
    format!("routers:\n- protocol: http\n  servers: [{{port: 0}}]\n  service: {{{keys}}}\n")
}

#[test]
fn every_key_arrives_and_prefixes_add_up() {
    let web = service("/svc/web");
    assert_eq!((web.budget().percent_can_retry, web.retries.buffer_bytes), (0.5, None));
    assert_eq!(web.idle_timeout, Some(Duration::from_secs(30)));
    assert_eq!(web.retries.max_attempts.map(std::num::NonZeroU32::get), Some(4));
    let (min, max) = (Duration::from_millis(10), Duration::from_millis(500));
    let hedge = HedgePolicy::new(HedgeDelay::Percentile { percentile: 99.5, min, max });
    assert_eq!(web.hedge, hedge.and_then(|hedge| hedge.share(0.1)).ok());
    let uploads = service("/svc/uploads");
    assert_eq!(uploads.response_classifier, Some(Classifier::RetryableAll5xx));
    assert_eq!(uploads.retries.backoff, Some(Backoff::Constant { pause: Duration::from_millis(100) }));
    assert_eq!((uploads.retries.buffer_bytes, uploads.retries.hints), (Some(65536), Some(true)));
    let hedge = HedgePolicy::new(HedgeDelay::Fixed(Duration::from_millis(250)));
    assert_eq!(uploads.hedge, hedge.ok(), "as a whole");
    let adaptive = AdaptiveSettings { min: 2, initial: 10, max: 500, tolerance: 1.5, window: 100 };
    assert_eq!(web.limit, LimitPolicy::adaptive(adaptive, WhenFull::Block).ok());
    let queue = WhenFull::Queue { capacity: 50, wait: Duration::from_millis(100) };
    let shares = Shares::new([60, 80, 97, 100]).unwrap();
    let fixed = LimitPolicy::concurrency(NonZeroUsize::new(100).unwrap(), queue).shares(shares);
    assert_eq!(uploads.limit, Some(fixed), "as a whole");
    let [requests, burst] = [100, 10].map(|n| NonZeroU32::new(n).unwrap());
    let max_wait = Duration::from_millis(500);
    let rate = RateSettings { requests, burst, max_wait, per: Duration::from_secs(1) };
    assert_eq!(service("/svc/mails").limit, LimitPolicy::rate(rate).ok());
    let [min, max] = [20, 2000].map(Duration::from_millis);
    assert_eq!(service("/svc/mails").retries.backoff, Some(Backoff::EqualJittered { min, max }));
    assert_eq!(service("/svc/reports").retries.backoff, Some(Backoff::FullJittered { min, max }));
    assert_eq!((uploads.budget().percent_can_retry, uploads.total_timeout()), (0.5, Some(Duration::from_secs(5))));
}

#[test]
fn a_later_budget_takes_the_place_of_the_whole_one_before() {
    let budget = |keys: &str| {
        let prefixes = ["/svc, retries: {budget: {minRetriesPerSec: 1, ttlSecs: 5}, maxAttempts: 3}", keys]
            .map(|keys| format!("{{prefix: {keys}}}"));
        let text = file(&format!("kind: io.l5d.static, configs: [{}]", prefixes.join(", ")));
        let config = Config::parse("budget.yaml", &text).unwrap_or_else(|e| panic!("{e}"));
        let service = config.routers[0].service.for_path(&"/svc/web".parse().unwrap());
        let budget = service.budget();
        assert_eq!(service.retries.max_attempts, NonZeroU32::new(3), "which is a key of its own");
        (budget.percent_can_retry, budget.min_retries_per_sec, budget.ttl.as_secs())
    };
    assert_eq!(budget("/svc/mails, retries: {budget: {percentCanRetry: 0.01}}"), (0.2, 1, 5));
    assert_eq!(budget("/svc/web, retries: {budget: {percentCanRetry: 0.01}}"), (0.01, 10, 10));
}

#[test]
fn the_waits_of_hedges_and_limits_are_listed_with_their_place() {
    let config = Config::parse("retries.yaml", EXAMPLE).unwrap();
    let timers = config.timers();
    let listed = |name: &str| {
        let of = timers.iter().filter(|timer| timer.timer == format!("service.{name}"));
        of.map(|timer| (timer.scope.clone().unwrap(), timer.value.unwrap().as_millis())).collect::<Vec<_>>()
    };
    let of = |prefix: &str, ms| (prefix.to_owned(), ms);
    assert_eq!(listed("hedge.delayMs"), [of("/svc/uploads", 250)]);
    assert_eq!((listed("hedge.minDelayMs"), listed("hedge.maxDelayMs")), (vec![of("/svc", 10)], vec![of("/svc", 500)]));
    assert_eq!(listed("limit.queueWaitMs"), [of("/svc/uploads", 100), of("/svc/mails", 500)]);
}

#[test]
fn what_a_limit_leaves_out_has_a_default_that_fits() {
    let limit = |keys: &str| {
        let config = Config::parse("f", &file(&format!("limit: {{{keys}}}"))).unwrap_or_else(|e| panic!("{keys}: {e}"));
        config.routers[0].service.for_path(&"/svc/web".parse().unwrap()).limit.unwrap()
    };
    let max = NonZeroUsize::new(7).unwrap();
    assert_eq!(limit("kind: concurrency, max: 7"), LimitPolicy::concurrency(max, WhenFull::Reject));
    assert_eq!(limit("kind: concurrency, max: 7, whenFull: block"), LimitPolicy::concurrency(max, WhenFull::Block));
    for (keys, [min, initial, max]) in [
        ("", [4, 20, 1000]),
        (", max: 10", [4, 10, 10]),
        (", max: 2", [2, 2, 2]),
        (", min: 50", [50, 50, 1000]),
        (", min: 5000", [5000, 5000, 5000]),
    ] {
        let settings = AdaptiveSettings { min, initial, max, ..AdaptiveSettings::default() };
        assert_eq!(Ok(limit(&format!("kind: adaptive{keys}"))), LimitPolicy::adaptive(settings, WhenFull::Reject));
    }
    let settings = RateSettings { burst: NonZeroU32::new(7).unwrap(), ..RateSettings::default() };
    let settings = RateSettings { requests: settings.burst, max_wait: Duration::ZERO, ..settings };
    assert_eq!(Ok(limit("kind: rate, perSec: 7")), LimitPolicy::rate(settings));
}

#[test]
fn what_is_out_of_range_is_named_with_its_place_and_range() {
    for (keys, problem) in [
        ("idleTimeoutMs: ^0", "idleTimeoutMs: must be at least 1, got 0"),
        ("totalTimeoutMs: ^-1", "totalTimeoutMs: must be at least 0, got -1"),
        ("retries: {bufferBytes: ^-1}", "retries.bufferBytes: must be at least 0, got -1"),
        ("retries: {bufferBytes: ^some}", "retries.bufferBytes: "),
        ("retries: {hints: ^some}", "retries.hints: "),
        (
            "retries: {budget: {percentCanRetry: ^1001}}",
            "retries.budget.percentCanRetry: must be from 0 to 1000, got 1001",
        ),
        ("retries: {budget: {ttlSecs: ^61}}", "retries.budget.ttlSecs: must be 1..60, got 61"),
        (
            "retries: {backoff: {kind: jittered, minMs: 5, maxMs: ^4}}",
            "retries.backoff.maxMs: must not be less than minMs 5, got 4",
        ),
        ("retries: {backoff: {kind: constant, ms: ^-1}}", "retries.backoff.ms: must be at least 0, got -1"),
        (
            "retries: {backoff: {kind: equalJittered, minMs: ^0, maxMs: 4}}",
            "retries.backoff.minMs: must be at least 1, got 0",
        ),
        (
            "retries: {backoff: {kind: equalJittered, minMs: 5, maxMs: ^4}}",
            "retries.backoff.maxMs: must not be less than minMs 5, got 4",
        ),
        ("retries: {backoff: ^{kind: fullJittered, minMs: 5}}", "retries.backoff.maxMs: is required"),
        (
            "retries: {backoff: {kind: fullJittered, minMs: 5, maxMs: ^4}}",
            "retries.backoff.maxMs: must not be less than minMs 5, got 4",
        ),
        ("retries: {backoff: {kind: ^halfJittered}}", "retries.backoff.kind: unknown kind 'halfJittered'"),
        ("retries: {maxAttempts: ^0}", "retries.maxAttempts: must be at least 1, got 0"),
        ("hedge: {delayMs: ^0}", "hedge.delayMs: must be at least 1, got 0"),
        ("hedge: ^{}", "hedge.percentile: is required, or delayMs"),
        ("hedge: {percentile: ^0}", "hedge.percentile: must be above 0 and at most 100, got 0"),
        ("hedge: {percentile: ^100.5}", "hedge.percentile: must be above 0 and at most 100, got 100.5"),
        ("hedge: {delayMs: 5, percentile: ^95}", "hedge.percentile: cannot stand beside delayMs"),
        ("hedge: {delayMs: 5, maxDelayMs: ^95}", "hedge.maxDelayMs: cannot stand beside delayMs"),
        (
            "hedge: {percentile: 95, minDelayMs: 9, maxDelayMs: ^8}",
            "hedge.maxDelayMs: must not be less than minDelayMs 9, got 8",
        ),
        ("hedge: {delayMs: 5, maxShare: ^1.5}", "hedge.maxShare: must be from 0 to 1, got 1.5"),
        ("hedge: {delayMs: 5, maxShare: ^-0.1}", "hedge.maxShare: must be from 0 to 1, got -0.1"),
        ("limit: ^{max: 5}", "limit.kind: is required: one of concurrency, adaptive, rate"),
        ("limit: {kind: concurrency, max: ^0}", "limit.max: must be 1..1000000, got 0"),
        ("limit: ^{kind: concurrency}", "limit.max: is required"),
        ("limit: ^{kind: concurrency, max: 5, queue: 5}", "limit.queueWaitMs: is required"),
        ("limit: ^{kind: concurrency, max: 5, whenFull: queue, queueWaitMs: 5}", "limit.queue: is required"),
        ("limit: {kind: concurrency, max: 5, queue: ^0, queueWaitMs: 5}", "limit.queue: must be 1..65536, got 0"),
        (
            "limit: {kind: concurrency, max: 5, queue: 5, queueWaitMs: ^-5}",
            "limit.queueWaitMs: must be 1..300000, got -5",
        ),
        ("limit: {kind: concurrency, max: 5, whenFull: block, queue: ^5}", "limit.queue: is a key of whenFull queue"),
        ("limit: {kind: adaptive, min: 9, max: ^8}", "limit.max: must not be less than min 9, got 8"),
        ("limit: {kind: adaptive, min: 9, initial: ^8}", "limit.initial: must be 9..1000, as min and max are, got 8"),
        ("limit: {kind: adaptive, tolerance: ^1}", "limit.tolerance: must be from 1.05 to 2, got 1"),
        ("limit: {kind: adaptive, window: ^9}", "limit.window: must be 10..100000, got 9"),
        ("limit: ^{kind: rate}", "limit.perSec: is required"),
        ("limit: {kind: rate, perSec: ^0}", "limit.perSec: must be at least 1, got 0"),
        ("limit: {kind: rate, perSec: 1, burst: ^0}", "limit.burst: must be at least 1, got 0"),
        (
            "limit: {kind: rate, perSec: 65536, queueWaitMs: ^1001}",
            "limit.queueWaitMs: must be 0..1000, so that no more than 65536 wait, got 1001",
        ),
        (
            "limit: {kind: rate, perSec: 1, shares: ^[9, 8, 7, 6]}",
            "limit.shares: must be four percentages that do not fall",
        ),
        ("limit: {kind: rate, perSec: 1, shares: [^0, 8, 9, 9]}", "limit.shares[0]: must be 1..100, got 0"),
    ] {
        let text = file(keys);
        let column = text.lines().nth(3).unwrap().find('^').expect("a mark") + 1;
        let errors = Config::parse("f", &text.replace('^', "")).expect_err(keys).to_string();
        let start = format!("f:4:{column}: routers[0].service.{problem}");
        assert!(errors.starts_with(&start), "expected {start}, got {errors}");
    }
}

#[tokio::test]
async fn the_example_can_be_used_and_shows_what_it_keeps() {
    let names = |text: &str| {
        let registry = Registry::new();
        let _plan = Config::parse("f", text).unwrap().build(&registry).unwrap_or_else(|e| panic!("{e}"));
        let mut names = Vec::new();
        registry.visit(|path, reading| {
            if &*path[0] == "retries" {
                let Reading::Gauge(value) = reading else { panic!("a gauge") };
                names.push((path[1..].join("/"), value));
            }
        });
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    };
    let expected = |cap| {
        [("cap_bytes", cap), ("held_bytes", 0.0), ("refused", 0.0), ("too_long", 0.0)]
            .map(|(name, value)| (format!("buffer/{name}"), value))
    };
    assert_eq!(names(EXAMPLE), expected(33_554_432.0));
    assert_eq!(names(&file("")), [], "only where something is kept");
    assert_eq!(names(&file("retries: {bufferBytes: 1}")), expected(67_108_864.0));
    // Which an h2 router does without a word of it.
    let h2 = |keys: &str| names(&file(keys).replace("protocol: http", "protocol: h2"));
    assert_eq!(h2(""), expected(67_108_864.0));
    assert_eq!(h2("retryBufferSize: {responseBytes: 1}"), expected(67_108_864.0));
}

#[test]
fn what_all_bodies_may_keep_is_in_range() {
    let parse = |value: &str| Config::parse("f", &format!("retryBufferBytes: {value}\n{}", file("")));
    for (value, problem) in [
        ("-1", "must be at least 0, got -1"),
        ("2147483648", "must be 0..2147483647, got 2147483648"),
        ("64MB", "must be a whole number, got '64MB'"),
    ] {
        let errors = parse(value).expect_err(value).to_string();
        assert!(errors.starts_with(&format!("f:1:19: retryBufferBytes: {problem}")), "{errors}");
    }
    assert_eq!(parse("0").unwrap().retry_buffer_bytes, 0);
    assert_eq!(Config::parse("f", &file("")).unwrap().retry_buffer_bytes, 64 * 1024 * 1024);
}

/// Maps of a service, `...` where a key can stand; what the loader knows there is listed when it meets another.
const SECTIONS: [&str; 11] = [
    "...",
    "limit: {kind: concurrency, max: 1, queue: 1, queueWaitMs: 1, ...}",
    "limit: {kind: adaptive, ...}",
    "limit: {kind: rate, perSec: 1, ...}",
    "hedge: {percentile: 95, ...}",
    "retries: {...}",
    "retries: {budget: {...}}",
    "retries: {backoff: {kind: constant, ...}}",
    "retries: {backoff: {kind: jittered, minMs: 1, maxMs: 1, ...}}",
    "retries: {backoff: {kind: equalJittered, minMs: 1, maxMs: 1, ...}}",
    "retries: {backoff: {kind: fullJittered, minMs: 1, maxMs: 1, ...}}",
];

#[test]
fn every_key_is_in_the_example_and_in_the_documentation() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration-retries.md");
    let page = fs::read_to_string(page).unwrap();
    for section in SECTIONS {
        let text = file(&section.replace("...", "qqqqqqqqqqqq: 1"));
        let errors = Config::parse("f", &text).unwrap_err().to_string();
        let keys = errors.lines().find_map(|line| line.split_once("known here: ")).expect("a list of keys").1;
        for key in keys.split(", ") {
            // They say what for.
            if matches!(key, "kind" | "prefix") {
                continue;
            }
            assert!(EXAMPLE.contains(&format!("{key}:")), "the example lacks {key}");
            assert!(page.contains(&format!("| `{key}` |")), "no table has `{key}`");
        }
    }
}

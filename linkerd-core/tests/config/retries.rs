//! What a service says of retries: what arrives, what is refused, and that its page leaves nothing out.

use std::{fs, path::Path, time::Duration};

use linkerd_core::{
    config::{Backoff, Classifier, Config, Delay, Hedge, Service},
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
    let delay = Delay::Percentile { percentile: 99.5, min, max };
    assert_eq!(web.hedge, Some(Hedge { delay, max_share: 0.1 }));
    let uploads = service("/svc/uploads");
    assert_eq!(uploads.response_classifier, Some(Classifier::RetryableAll5xx));
    assert_eq!(uploads.retries.backoff, Some(Backoff::Constant { pause: Duration::from_millis(100) }));
    assert_eq!((uploads.retries.buffer_bytes, uploads.retries.hints), (Some(65536), Some(true)));
    assert_eq!(
        uploads.hedge,
        Some(Hedge { delay: Delay::Fixed(Duration::from_millis(250)), max_share: 0.05 }),
        "as a whole"
    );
    assert_eq!((uploads.budget().percent_can_retry, uploads.total_timeout()), (0.5, Some(Duration::from_secs(5))));
}

#[test]
fn what_is_out_of_range_is_named_with_its_place_and_range() {
    for (keys, problem) in [
        ("idleTimeoutMs: ^0", "idleTimeoutMs: must be at least 1, got 0"),
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
    let expected = [
        ("buffer/cap_bytes", 67_108_864.0),
        ("buffer/held_bytes", 0.0),
        ("buffer/refused", 0.0),
        ("buffer/too_long", 0.0),
    ];
    assert_eq!(names(EXAMPLE), expected.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(names(&file("")), [], "only where something is kept");
}

/// Maps of a service, `...` where a key can stand; what the loader knows there is listed when it meets another.
const SECTIONS: [&str; 6] = [
    "...",
    "hedge: {percentile: 95, ...}",
    "retries: {...}",
    "retries: {budget: {...}}",
    "retries: {backoff: {kind: constant, ...}}",
    "retries: {backoff: {kind: jittered, minMs: 1, maxMs: 1, ...}}",
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

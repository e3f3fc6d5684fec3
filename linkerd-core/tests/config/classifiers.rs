//! What a service of h2 says of its responses: what is refused, and that its page leaves nothing out.

use std::{fs, path::Path};

use linkerd_core::config::{Config, check_supported};

/// A file with these keys in a service of h2, on its fourth line.
fn file(keys: &str) -> String {
    format!("routers:\n- protocol: h2\n  servers: [{{port: 0}}]\n  service: {{{keys}}}\n")
}

#[test]
fn what_is_out_of_range_is_named_with_its_place_and_range() {
    for (keys, problem) in [
        ("classificationTimeoutMs: ^-1", "classificationTimeoutMs: must be at least 0, got -1"),
        ("retryBufferSize: {requestBytes: ^-1}", "retryBufferSize.requestBytes: must be at least 0, got -1"),
        ("retryBufferSize: {responseBytes: ^few}", "retryBufferSize.responseBytes: must be a whole number, got 'few'"),
        (
            "responseClassifier: {kind: io.l5d.h2.grpc.default, successStatusCodes: [^-1]}",
            "responseClassifier.successStatusCodes[0]: must be at least 0, got -1",
        ),
        (
            "responseClassifier: ^{kind: io.l5d.h2.grpc.retryableStatusCodes}",
            "responseClassifier.retryableStatusCodes: is required",
        ),
        (
            "responseClassifier: {kind: ^io.l5d.http.retryableRead5XX}",
            "responseClassifier.kind: unknown kind 'io.l5d.http.retryableRead5XX'",
        ),
        (
            "responseClassifier: {kind: io.l5d.h2.retryableRead5XX, ^successStatusCodes: [0]}",
            "responseClassifier.successStatusCodes: ",
        ),
    ] {
        let text = file(keys);
        let column = text.lines().nth(3).unwrap().find('^').expect("a mark") + 1;
        let errors = Config::parse("f", &text.replace('^', "")).expect_err(keys).to_string();
        let start = format!("f:4:{column}: routers[0].service.{problem}");
        assert!(errors.starts_with(&start), "expected {start}, got {errors}");
    }
}

#[test]
fn http_has_none_of_it() {
    for keys in ["classificationTimeoutMs: 1", "retryBufferSize: {}"] {
        let text = file(keys).replace("h2", "http");
        assert!(Config::parse("f", &text).is_err(), "{keys}");
    }
}

#[test]
fn nothing_of_it_waits_to_be_built() {
    let keys = "classificationTimeoutMs: 1, retryBufferSize: {requestBytes: 1}, \
                responseClassifier: {kind: io.l5d.h2.grpc.compliant}";
    let config = Config::parse("f", &file(keys)).unwrap();
    assert_eq!(check_supported(&config), []);
}

#[test]
fn every_key_and_kind_is_in_the_documentation() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration-retries.md");
    let page = fs::read_to_string(page).unwrap();
    for section in [
        "...",
        "retryBufferSize: {...}",
        "responseClassifier: {kind: io.l5d.h2.grpc.retryableStatusCodes, retryableStatusCodes: [1], ...}",
    ] {
        let errors = Config::parse("f", &file(&section.replace("...", "qqqqqqqqqqqq: 1"))).unwrap_err().to_string();
        let keys = errors.lines().find_map(|line| line.split_once("known here: ")).expect("a list of keys").1;
        for key in keys.split(", ").filter(|key| !matches!(*key, "kind" | "prefix")) {
            assert!(page.contains(&format!("| `{key}` |")), "no table has `{key}`");
        }
    }
    let errors = Config::parse("f", &file("responseClassifier: {kind: qqqqqqqqqqqq}")).unwrap_err().to_string();
    let kinds: Vec<_> =
        errors.split(['`', '\'', ',', ' ', '\n']).filter(|word| word.starts_with("io.l5d.h2.")).collect();
    assert_eq!(kinds.len(), 10, "{errors}");
    for kind in kinds {
        let short = kind.trim_start_matches("io.l5d.h2.");
        assert!(page.contains(&format!("| `{short}` |")), "no table has {kind}");
    }
}

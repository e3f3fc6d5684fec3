//! What holds for every input.

use linkerd_core::config::{Config, check_supported};
use proptest::prelude::*;

const VALID: &str = include_str!("everything.yaml");
const BALANCING: &str = include_str!("balancing.yaml");

/// Sections of a client, with a value left out: its key, and the other key that it is compared with.
const NUMBERS: [(&str, &str, &str); 24] = [
    ("loadBalancer: {kind: p2c, maxEffort: ...}", "maxEffort", ""),
    ("loadBalancer: {kind: ewma, decayTimeMs: ...}", "decayTimeMs", ""),
    ("loadBalancer: {kind: ewma, longStreamMs: ...}", "longStreamMs", ""),
    ("loadBalancer: {kind: heap, failurePenaltyMs: ...}", "failurePenaltyMs", ""),
    ("loadBalancer: {kind: heap, overlapMs: ...}", "overlapMs", ""),
    ("loadBalancer: {kind: heap, slowStart: {windowMs: ...}}", "windowMs", ""),
    ("loadBalancer: {kind: heap, slowStart: {windowMs: 1, minShare: ...}}", "minShare", ""),
    ("loadBalancer: {kind: heap, slowStart: {windowMs: 1, aggression: ...}}", "aggression", ""),
    ("loadBalancer: {kind: heap, zones: {local: a, minOpen: ...}}", "minOpen", "returnOpen"),
    ("loadBalancer: {kind: heap, zones: {local: a, returnOpen: ...}}", "returnOpen", ""),
    ("loadBalancer: {kind: heap, zones: {local: a, spillLoad: ...}}", "spillLoad", ""),
    ("loadBalancer: {kind: heap, panic: {below: ...}}", "below", ""),
    ("loadBalancer: {kind: aperture, lowLoad: ...}", "lowLoad", "highLoad"),
    ("loadBalancer: {kind: aperture, highLoad: ...}", "highLoad", ""),
    ("loadBalancer: {kind: aperture, peer: {ordinal: ..., total: 3}}", "ordinal", ""),
    ("loadBalancer: {kind: aperture, peer: {ordinal: 3, total: ...}}", "total", "ordinal"),
    ("loadBalancer: {kind: ring, hashOn: {path: true}, maxRingSize: ...}", "maxRingSize", ""),
    ("loadBalancer: {kind: ring, hashOn: {path: true}, loadFactor: ...}", "loadFactor", ""),
    ("loadBalancer: {kind: maglev, hashOn: {path: true}, tableSize: ...}", "tableSize", ""),
    ("failureAccrual: {kind: none, maxEjectedShare: ...}", "maxEjectedShare", ""),
    ("failureAccrual: {kind: none, maxProbes: ...}", "maxProbes", ""),
    ("failureAccrual: {kind: none, probe: {path: /, timeoutMs: ...}}", "timeoutMs", ""),
    ("failureAccrual: {kind: none, probe: {path: /, intervalMs: ...}}", "intervalMs", ""),
    ("failureAccrual: {kind: io.l5d.unified, minRequests: ...}", "minRequests", ""),
];

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i32>().prop_map(|n| n.to_string()),
        (-5..20).prop_map(|n: i32| n.to_string()),
        any::<f64>().prop_map(|x| format!("{x:?}")),
        (-0.5..3.0).prop_map(|x: f64| format!("{x:?}")),
        (2..100_000).prop_map(|n: i32| format!("'{n}'")),
        prop::sample::select(vec![
            ".nan", ".inf", "-.inf", "1e999", "-0", "-0.0", "0x10", "true", "x", "''", "[]", "{}"
        ])
        .prop_map(str::to_owned),
    ]
}

/// Text out of the pieces that files are made of.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("routers:".to_owned()),
        Just("\n".to_owned()),
        Just("\n  ".to_owned()),
        Just("\n- ".to_owned()),
        Just("protocol: http".to_owned()),
        Just("servers: [{port: 0}]".to_owned()),
        Just("kind: ".to_owned()),
        Just("dtab: |".to_owned()),
        Just("dtab: >-\n".to_owned()),
        "[-?:,\\[\\]{}#&*!|>'\"%@` \t\r\n~a-z0-9/.=$\\\\]{1,6}",
        Just("&a ".to_owned()),
        Just("*a ".to_owned()),
        Just("!!str ".to_owned()),
        Just("%YAML 1.2\n---\n".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("é\u{2028}".to_owned()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn look_at(text: &str) {
    match Config::parse("f", text) {
        Ok(config) => {
            let _ = (check_supported(&config), config.to_json(), config.warnings());
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        look_at(&text);
        look_at(&format!("{{{text}"));
    }

    #[test]
    fn no_yaml_panics(text in pieces()) {
        look_at(&text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse_bytes("f", &bytes);
    }

    #[test]
    fn no_edit_of_a_file_panics(at in 0..VALID.len(), len in 0..20_usize, with in pieces()) {
        let cut = |i: usize| (0..=i.min(VALID.len())).rev().find(|i| VALID.is_char_boundary(*i)).unwrap_or(0);
        look_at(&format!("{}{with}{}", &VALID[..cut(at)], &VALID[cut(at + len)..]));
    }

    #[test]
    fn no_edit_of_a_balancer_panics(at in 0..BALANCING.len(), len in 0..20_usize, with in pieces()) {
        let end = (at + len).min(BALANCING.len());
        look_at(&format!("{}{with}{}", &BALANCING[..at], &BALANCING[end..]));
    }

    /// It is either kept, and read again from what is rendered, or refused at its place.
    #[test]
    fn no_number_of_a_balancer_is_dropped(case in prop::sample::select(NUMBERS.to_vec()), value in number()) {
        let (section, key, compared) = case;
        let section = section.replace("...", &value);
        let text = format!("routers:\n- protocol: http\n  servers: [{{port: 0}}]\n  client:\n    {section}\n");
        match Config::parse("f", &text) {
            Ok(config) => {
                let client = config.routers[0].client.for_path(&"/x".parse().unwrap());
                prop_assert!(client.load_balancer.is_some() || client.failure_accrual.is_some());
                let rendered = config.to_json();
                let shown = format!("\"{key}\"");
                prop_assert!(rendered.to_string().contains(&shown), "{rendered} lacks {shown}");
                let again = Config::parse("f.json", &rendered.to_string()).map(|config| config.routers);
                prop_assert_eq!(again, Ok(config.routers));
            }
            Err(errors) => for problem in errors.problems() {
                let last = problem.key.rsplit('.').next().unwrap();
                prop_assert!(last == key || last == compared, "{}", problem);
                prop_assert_eq!(problem.position.map(|at| at.line), Some(5));
            }
        }
    }
}

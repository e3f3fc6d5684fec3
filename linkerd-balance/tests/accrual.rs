//! The vectors of `vectors/accrual.json`: plain data, for other implementations too.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use linkerd_balance::accrual::{Accrual, ConsecutiveFailures, SuccessRate, SuccessRateWindowed, Unified};
use serde_json::Value;

fn accrual(settings: &Value) -> Box<dyn Accrual> {
    let count = |key: &str| NonZeroU32::new(settings[key].as_u64().unwrap() as u32).unwrap();
    let rate = || settings["successRate"].as_f64().unwrap();
    let window = || Duration::from_millis(settings["windowMs"].as_u64().unwrap());
    match settings["kind"].as_str().unwrap() {
        "consecutiveFailures" => Box::new(ConsecutiveFailures::new(count("failures"))),
        "successRate" => Box::new(SuccessRate::new(rate(), count("requests").get()).unwrap()),
        "successRateWindowed" => Box::new(SuccessRateWindowed::new(rate(), window()).unwrap()),
        "unified" => Box::new(Unified::new(count("failures"), rate(), window(), count("minRequests")).unwrap()),
        kind => panic!("no accrual is called {kind}"),
    }
}

#[test]
fn the_vectors_hold() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/accrual.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 25, "vectors are missing");
    for case in cases {
        let start: Instant = tokio::time::Instant::now().into_std();
        let mut accrual = accrual(&case["accrual"]);
        accrual.revived(start);
        for step in case["steps"].as_array().unwrap() {
            let now = start + Duration::from_millis(step[0].as_u64().unwrap());
            let results = step[1].as_str().unwrap();
            let mut tripped = None;
            for (i, result) in results.chars().enumerate() {
                assert_eq!(tripped, None, "{}: {step} trips at its result {i}", case["name"]);
                match result {
                    'S' => tripped = accrual.record(true, now),
                    'F' => tripped = accrual.record(false, now),
                    'R' => accrual.revived(now),
                    other => panic!("no result is called {other}"),
                }
            }
            let tripped = tripped.map(|tripped| tripped.to_string());
            assert_eq!(tripped.as_deref(), step[2].as_str(), "{}: {step}", case["name"]);
        }
    }
}

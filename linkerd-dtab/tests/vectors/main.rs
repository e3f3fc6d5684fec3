//! The conformance corpus: what Linkerd 1.7.5 and Finagle 21.4.0 do with each of these inputs.
//!
//! Walks the files beside this one, or those in `DTAB_VECTORS`, and prints a line for each.

#![allow(missing_docs)]

use std::{env, fs, path::PathBuf};

use serde_json::Value;

mod binding;
mod language;

#[test]
fn every_vector_passes() {
    let folder = env::var_os("DTAB_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"), PathBuf::from);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "{} has no vectors", folder.display());

    let mut mismatches = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let vectors: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let kind = vectors["kind"].as_str().unwrap_or_default();
        let (mut passed, mut failed) = (0, 0);
        for case in vectors["cases"].as_array().unwrap() {
            let actual = run(kind, &case["in"]);
            if agrees(&case["out"], &actual) {
                passed += 1;
            } else {
                failed += 1;
                mismatches.push(format!("{name} {}\n  expected {}\n  got      {actual}", case["id"], case["out"]));
            }
        }
        println!("{name}: {passed} passed, {failed} failed");
    }
    assert!(mismatches.is_empty(), "{} vectors fail:\n{}", mismatches.len(), mismatches.join("\n"));
}

fn run(kind: &str, input: &Value) -> Value {
    match kind {
        "path" => language::path(input),
        "parse-ok" | "parse-error" => language::parse(input),
        "prefix-match" => language::prefix_match(input),
        "lookup" => language::lookup(input),
        "simplify" => language::simplify(input),
        "show" => language::show(input),
        "dtab-ops" => language::dtab_ops(input),
        "distribution" => language::distribution(input),
        "header" => language::header(input),
        "utility" => binding::utility(input),
        "rewrite" => binding::rewrite(input),
        "delegate" => binding::delegate(input),
        "delegate-tree" => binding::delegate_tree(input),
        "bind-json" => binding::bind_json(input),
        kind => panic!("vectors of an unknown kind: {kind:?}"),
    }
}

// What is expected decides: texts are compared where they are given. The answers of later Finagle versions are not ours.
fn agrees(expected: &Value, actual: &Value) -> bool {
    const OPTIONAL: [&str; 3] = ["message", "l5d_err", "finagle_21_5"];
    match (expected, actual) {
        (Value::Number(expected), Value::Number(actual)) => {
            (expected.as_f64().unwrap() - actual.as_f64().unwrap()).abs() <= 1e-9
        }
        (Value::Array(expected), Value::Array(actual)) => {
            expected.len() == actual.len() && expected.iter().zip(actual).all(|(e, a)| agrees(e, a))
        }
        (Value::Object(expected), Value::Object(actual)) => {
            let missing = |(key, _): &(&String, &Value)| !expected.contains_key(*key);
            let only_optional = actual.iter().filter(missing).all(|(key, _)| OPTIONAL.contains(&key.as_str()));
            let same = expected.iter().filter(|(key, _)| *key != "finagle_21_5").all(|(key, expected)| {
                let Some(actual) = actual.get(key) else { return false };
                if key == "shares" { agrees(&sorted(expected), &sorted(actual)) } else { agrees(expected, actual) }
            });
            only_optional && same
        }
        (expected, actual) => expected == actual,
    }
}

fn sorted(shares: &Value) -> Value {
    let mut shares = shares.as_array().cloned().unwrap_or_default();
    shares.sort_by_key(|share| format!("{}{}{}", share["leaf"], share["id"], share["residual"]));
    Value::Array(shares)
}

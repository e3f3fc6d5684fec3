//! What Linkerd 1.7.5 said to configurations, against what we say.

use std::{collections::BTreeMap, fs};

use linkerd_core::{
    config::{Config, check_supported},
    telemetry::Registry,
};
use serde_json::Value;

/// Replaces `{dir}` and gives each other placeholder a port of its own. Nothing is bound.
fn fill_in(config: &str, dir: &str) -> String {
    let mut ports = BTreeMap::new();
    let mut filled = String::new();
    let mut rest = config;
    while let Some((before, after)) = rest.split_once('{') {
        filled += before;
        let name = after.split_once('}').map(|(name, _)| name).filter(|name| {
            *name == "dir" || *name == "admin" || ["server.", "port."].iter().any(|p| name.starts_with(p))
        });
        let Some(name) = name else {
            filled.push('{');
            rest = after;
            continue;
        };
        if name == "dir" {
            filled += dir;
        } else {
            let next = 20000 + ports.len();
            filled += &ports.entry(name).or_insert(next).to_string();
        }
        rest = &after[name.len() + 1..];
    }
    filled + rest
}

#[tokio::test]
async fn recorded_configurations_are_accepted_and_refused_alike() {
    let data: Value = serde_json::from_str(include_str!("../data/linkerd-1.7.5-configs.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in data["files"].as_object().unwrap() {
        fs::write(dir.path().join(name), text.as_str().unwrap()).unwrap();
    }
    let mut wrong = Vec::new();
    let (mut unsupported, mut deviations) = (Vec::new(), Vec::new());
    let cases = data["cases"].as_array().unwrap();
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let text = fill_in(case["config"].as_str().unwrap(), dir.path().to_str().unwrap());
        let parsed = Config::parse("linkerd.yaml", &text);
        let theirs = case["result"] == "ok";
        // A deviation turns the answer round: we refuse what failed at the first request only, and accept a quoted number.
        let expected = theirs != case.get("deviation").is_some();
        // What its files are is found out when they are read, before anything listens.
        let parsed = parsed.and_then(|config| {
            if expected {
                return Ok(config);
            }
            config.build(&Registry::new()).map(|_| config.clone())
        });
        if parsed.is_ok() != expected {
            wrong.push(format!("{id}: expected {expected}, got {parsed:?}\n{text}"));
        }
        if case.get("deviation").is_some() {
            deviations.push(id);
        }
        if let Ok(config) = &parsed
            && !check_supported(config).is_empty()
        {
            unsupported.push(id);
        }
        // Each error has a place in the file.
        if let Err(errors) = &parsed {
            for problem in errors.problems() {
                assert!(problem.position.is_some(), "{id}: {problem}");
            }
            println!("{id}\n  {}", errors.to_string().replace('\n', "\n  "));
        }
    }
    println!("{} cases, {} deviations, not supported yet: {unsupported:#?}", cases.len(), deviations.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
}

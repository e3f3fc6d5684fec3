//! The files beside this one are read; together they use every key there is.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use linkerd_core::config::{
    AccrualKind, BalancerKind, Classifier, Config, Errors, InterpreterKind, NOT_BUILT, Protocol, check_supported,
};

/// A directory with the files that the examples name.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ca.pem", "cert.pem", "key.pem", "example.dtab"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    dir
}

fn read(name: &str, text: &str, files: &Path) -> Result<Config, Errors> {
    Config::parse(name, &text.replace("{dir}", files.to_str().unwrap()))
}

/// The examples by name.
fn examples() -> BTreeMap<String, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let files = fs::read_dir(here).unwrap().map(|entry| entry.unwrap().path());
    let configs = files.filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"));
    configs
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

#[test]
fn every_example_is_accepted() {
    let dir = files();
    let examples = examples();
    assert!(examples.len() >= 9);
    for (name, text) in &examples {
        let config = read(name, text, dir.path()).unwrap_or_else(|e| panic!("{e}"));
        let rendered = config.to_json().to_string().replace(r#""ip":"localhost""#, r#""ip":"127.0.0.1""#);
        let again = read(name, &rendered, dir.path()).unwrap_or_else(|e| panic!("rendered: {e}"));
        assert_eq!(again.routers, config.routers, "{name}");
        assert_eq!(again.namers, config.namers, "{name}");
    }
}

#[test]
fn every_line_of_what_is_not_built_is_used_by_an_example() {
    let dir = files();
    let mut found = Vec::new();
    for (name, text) in examples() {
        let config = read(&name, &text, dir.path()).unwrap();
        for problem in check_supported(&config) {
            assert!(problem.message.ends_with("is not supported yet"), "{problem}");
            assert!(problem.position.is_some(), "{problem}");
            // The key as the list has it: without indices and `configs`.
            let mut key = String::new();
            for part in problem.key.split(['[', ']']).step_by(2) {
                key += part;
            }
            found.push((key.replace(".configs", ""), problem.message));
        }
    }
    println!("not supported yet:");
    for line in NOT_BUILT {
        println!("  {line}");
        let (key, value) = line.split_once('=').map_or((*line, None), |(key, value)| (key, Some(value)));
        let quoted = value.map(|value| format!("'{value}' is not supported yet"));
        let used = found.iter().any(|(k, message)| {
            let placed = key.strip_prefix('*').map_or(k == key, |end| k.ends_with(end));
            placed && quoted.as_ref().is_none_or(|quoted| quoted == message)
        });
        assert!(used, "no example has {line}: is it misspelt?");
    }
}

#[test]
fn problems_of_support_name_their_place() {
    let text = "\
admin: {port: 1}
namers: [{kind: io.l5d.consul}]
routers:
- protocol: http
  announcers: []
  tracePropagator: {kind: io.l5d.default}
  servers: [{announce: []}]
  client:
    kind: io.l5d.static
    configs:
    - {prefix: /, loadBalancer: {kind: heap, enableProbation: no}}
";
    let config = Config::parse("f", text).unwrap_or_else(|e| panic!("{e}"));
    let found: Vec<_> = check_supported(&config).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["f:2:17: namers[0].kind: 'io.l5d.consul' is not supported yet",]);
}

#[test]
fn plain_examples_use_nothing_that_is_not_built() {
    let dir = files();
    for name in ["everything.yaml", "linkerd.json", "servicemesh.yaml"] {
        let config = read(name, &examples()[name], dir.path()).unwrap();
        let problems = check_supported(&config);
        assert!(problems.is_empty(), "{}", Errors::from_problems(problems).unwrap());
    }
}

#[test]
fn values_arrive_where_they_belong() {
    let dir = files();
    let config = read("everything.yaml", &examples()["everything.yaml"], dir.path()).unwrap();
    let router = &config.routers[0];
    assert_eq!(config.admin.port, 9991);
    assert_eq!(router.label, "/http-everything");
    assert_eq!(router.dtab.to_string().matches("=>").count(), 3);
    assert_eq!(router.dst_prefix.to_string(), "/http");
    assert_eq!(router.interpreter.kind, InterpreterKind::Default);
    assert_eq!(router.interpreter.transformers.len(), 4);
    assert_eq!(router.binding_cache.clients, 10);
    let Protocol::Http(http) = &router.protocol else { panic!("{:?}", router.protocol) };
    assert_eq!(http.identifiers.len(), 5);
    assert_eq!((http.max_headers_kb, http.compression_level), (16, 9));
    assert_eq!(router.servers.len(), 2);
    assert!(router.servers[0].clear_context && !router.servers[0].upgrades && router.servers[1].upgrades);
    let path = "/http/1.1/GET/web".parse().unwrap();
    let service = router.service.for_path(&path);
    assert_eq!(service.total_timeout(), Some(Duration::from_secs(2)));
    assert!(!service.enforces_deadline());
    assert_eq!(service.retries.hints, Some(false));
    assert_eq!(service.budget().percent_can_retry, 5.0);
    assert_eq!(service.response_classifier, Some(Classifier::RetryableIdempotent5xx));
    let client = router.client.for_path(&path);
    assert_eq!(client.load_balancer().kind, BalancerKind::Ewma { max_effort: 10 });
    assert_eq!(client.failure_accrual().kind, AccrualKind::ConsecutiveFailures { failures: 10 });
    assert_eq!(client.request_attempt_timeout, Some(Duration::from_millis(500)));
}

#[test]
fn defaults_are_those_of_linkerd() {
    let config = Config::parse("f", "routers: [{protocol: http, servers: [{}]}]").unwrap();
    let router = &config.routers[0];
    assert_eq!(config.admin.port, 9990);
    assert!(config.admin.ip.is_loopback());
    assert_eq!(router.label, "http");
    assert_eq!(router.dst_prefix.to_string(), "/svc");
    assert_eq!(router.binding_timeout, Duration::from_secs(10));
    assert_eq!(router.binding_cache.paths, 1000);
    assert_eq!(router.servers[0].addr(), "127.0.0.1:4140".parse().unwrap());
    assert_eq!(router.servers[0].max_call_depth, 1000);
    let path = "/svc/web".parse().unwrap();
    let client = router.client.for_path(&path);
    assert_eq!(client.load_balancer().kind, BalancerKind::P2c { max_effort: 5 });
    assert_eq!(client.failure_accrual().kind, AccrualKind::ConsecutiveFailures { failures: 5 });
    assert_eq!(client.requeue_budget().min_retries_per_sec, 10);
    let service = router.service.for_path(&path);
    assert_eq!(service.total_timeout(), None);
    assert_eq!(service.budget().ttl, Duration::from_secs(10));
    assert!(service.enforces_deadline());
}

#[test]
fn later_prefixes_override_setting_by_setting() {
    let config = Config::parse("f", &examples()["static.yaml"]).unwrap_or_else(|e| panic!("{e}"));
    let router = &config.routers[0];
    let service = |path: &str| router.service.for_path(&path.parse().unwrap());
    assert_eq!(service("/svc/bar").total_timeout(), Some(Duration::from_millis(500)));
    assert_eq!(service("/svc/foo").total_timeout(), Some(Duration::from_millis(300)));
    assert_eq!(service("/svc/foo").budget().percent_can_retry, 0.5);
    assert_eq!(service("/svc/foo").response_classifier, Some(Classifier::RetryableRead5xx));
    assert_eq!(service("/svc/foo/slow").total_timeout(), None);

    let client = |path: &str| router.client.for_path(&path.parse().unwrap());
    assert!(client("/$/inet/a/1").tls().is_none());
    let web = client("/#/io.l5d.fs/web");
    assert_eq!(web.tls().unwrap().common_name.as_deref(), Some("web.example.com"));
    assert_eq!(web.load_balancer().kind, BalancerKind::P2c { max_effort: 2 });
    assert_eq!(web.failure_accrual().kind, AccrualKind::Off);
    assert!(client("/#/io.l5d.fs/plain").tls().is_none());
}

#[test]
fn keys_without_effect_are_warned_of() {
    let dir = files();
    let config = read("h2.yaml", &examples()["h2.yaml"], dir.path()).unwrap();
    let warnings: Vec<_> = config.warnings().iter().map(|w| w.key.clone()).collect();
    assert_eq!(warnings, ["routers[0].client.windowUpdateRatio", "routers[0].servers[0].windowUpdateRatio"]);
    let config = Config::parse(
        "f",
        "\
routers:
- protocol: http
  servers: [{label: a, socketOptions: {reuseAddr: true, backlog: 5}}]
  client: {socketOptions: {noDelay: true, reuseAddr: true, reusePort: true, keepAlive: true, backlog: 5}}
",
    );
    let warnings: Vec<_> = config.unwrap().warnings().iter().map(|w| w.key.clone()).collect();
    let client = ["reuseAddr", "reusePort", "backlog"].map(|key| format!("routers[0].client.socketOptions.{key}"));
    assert_eq!(warnings[0], "routers[0].servers[0].label");
    assert_eq!(warnings[1..], client);
}

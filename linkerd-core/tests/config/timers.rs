//! Every timer is listed, with its value and where it was set.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use linkerd_core::config::{Config, PerRequest, TimerSetting, TimerSource};

const EXAMPLE: &str = include_str!("timers.yaml");

const BARE: &str = "routers:\n- protocol: http\n  servers: [{}]\n";

/// Where a timer was set, in short.
fn source(setting: &TimerSetting) -> String {
    match &setting.source {
        TimerSource::Default => "default".to_owned(),
        TimerSource::Fixed => "fixed".to_owned(),
        TimerSource::Header => "header".to_owned(),
        TimerSource::File { key, position } => format!("{key}@{position}"),
    }
}

/// Its scope, timer, milliseconds and source.
fn rows(text: &str) -> Vec<String> {
    let config = Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors}"));
    let row = |setting: &TimerSetting| {
        let ms = setting.value.map_or("-".to_owned(), |value| value.as_millis().to_string());
        let (router, scope) = (setting.router.as_deref(), setting.scope.as_deref());
        format!("{}|{}|{}|{ms}|{}", router.unwrap_or(""), scope.unwrap_or(""), setting.timer, source(setting))
    };
    config.timers().iter().map(row).collect()
}

#[test]
fn without_a_word_of_it_there_are_these() {
    let expected = "\
||shutdown.lameDuckMs|0|default
||shutdown.closeMs|0|default
||admin.shutdownGraceMs|10000|default
||admin.requestHead|60000|fixed
||admin.socketOptions.readTimeoutMs|-|default
||admin.socketOptions.writeTimeoutMs|-|default
||admin.socketOptions.userTimeoutMs|30000|default
||reload.intervalMs|1000|default
||reload.bindMs|1000|default
||servers.acceptRetry|50|fixed
http||bindingTimeoutMs|10000|default
http||switchTimeoutMs|2000|default
http||bindingCache.idleTtlSecs|600000|default
http||dns.lookup|10000|fixed
http||dns.refresh|5000|fixed
http||trace.explanation|500|fixed
http|127.0.0.1/4140|servers.timeoutMs|-|default
http|127.0.0.1/4140|servers.serverSession.idleTimeMs|-|default
http|127.0.0.1/4140|servers.serverSession.lifeTimeMs|-|default
http|127.0.0.1/4140|servers.socketOptions.readTimeoutMs|-|default
http|127.0.0.1/4140|servers.socketOptions.writeTimeoutMs|-|default
http|127.0.0.1/4140|servers.socketOptions.userTimeoutMs|30000|default
http|127.0.0.1/4140|servers.headerReadTimeoutMs|30000|default
http|*|service.totalTimeoutMs|-|default
http|*|service.idleTimeoutMs|-|default
http|*|service.retries.budget.ttlSecs|10000|default
http|*|service.retries.maxPushback|300000|fixed
http|*|service.retries.drain|20|fixed
http||l5d-ctx-deadline|-|header
http||grpc-timeout|-|header
http|*|client.requestAttemptTimeoutMs|-|default
http|*|client.connectTimeout|1000|fixed
http|*|client.hostConnectionPool.idleTimeMs|-|default
http|*|client.clientSession.idleTimeMs|-|default
http|*|client.clientSession.lifeTimeMs|-|default
http|*|client.socketOptions.readTimeoutMs|-|default
http|*|client.socketOptions.writeTimeoutMs|-|default
http|*|client.socketOptions.userTimeoutMs|30000|default
http|*|client.requeueBudget.ttlSecs|10000|default
http|*|client.failureAccrual.backoff.minMs|5000|default
http|*|client.failureAccrual.backoff.maxMs|300000|default
http|*|client.failFast.firstTry|1000|fixed
http|*|client.hostConnectionPool.rest|1000|fixed
http|*|client.loadBalancer.overlapMs|0|default";
    assert_eq!(rows(BARE).join("\n"), expected);
}

#[test]
fn what_is_of_a_protocol_or_of_other_keys_is_there_with_them() {
    let found = |protocol: &str, keys: &str| -> BTreeSet<String> {
        let text = format!("routers:\n- protocol: {protocol}\n  servers: [{{}}]\n{keys}");
        let rows = rows(&text).into_iter().map(|row| row.splitn(3, '|').nth(2).unwrap().to_owned());
        rows.collect()
    };
    let bare = found("http", "");
    let of_h2: Vec<_> = found("h2", "").difference(&bare).cloned().collect();
    let expected = [
        "client.h2.pingAfter|1500|fixed",
        "client.h2.silence|3000|fixed",
        "service.classificationTimeoutMs|100|default",
    ];
    assert_eq!(of_h2, expected);
    let hedged = found("http", "  service: {hedge: {percentile: 95, maxDelayMs: 50}}\n");
    assert!(hedged.contains("service.hedge.minDelayMs|1|default"), "{hedged:#?}");
    assert!(!hedged.contains("service.hedge.maxDelayMs|1000|default"), "{hedged:#?}");
    let fixed = found("http", "  service: {hedge: {delayMs: 5}}\n");
    assert!(!fixed.iter().any(|row| row.contains("DelayMs")), "{fixed:#?}");
    let backoff = |keys: &str| {
        let found = found("http", &format!("  client: {{failureAccrual: {{{keys}}}}}\n"));
        found.iter().filter(|row| row.contains("failureAccrual.backoff.")).count()
    };
    let row = "kind: io.l5d.consecutiveFailures, failures: 3";
    assert_eq!([row, "kind: none", "kind: none, probe: {path: /}"].map(backoff), [2, 0, 2]);
}

#[test]
fn what_a_file_sets_has_its_key_and_place() {
    let rows = rows(EXAMPLE);
    let expected = [
        "||admin.shutdownGraceMs|2000|admin.shutdownGraceMs@2:35",
        "web||bindingTimeoutMs|5000|routers[0].bindingTimeoutMs@6:21",
        "web|127.0.0.1/0|servers.timeoutMs|4000|routers[0].servers[0].timeoutMs@9:16",
        "web|127.0.0.1/0|servers.headerReadTimeoutMs|-|routers[0].servers[0].headerReadTimeoutMs@11:26",
        "web|127.0.0.1/0|servers.perRequestPolicy.maxTimeoutMs|30000|routers[0].servers[0].perRequestPolicy.maxTimeoutMs@10:38",
        "web|127.0.0.1/0|l5d-timeout|-|header",
        "web|*|service.totalTimeoutMs|-|default",
        "web|/svc|service.totalTimeoutMs|2000|routers[0].service.configs[0].totalTimeoutMs@16:23",
        "web|/svc/slow|service.totalTimeoutMs|-|routers[0].service.configs[1].totalTimeoutMs@18:23",
        "web|/svc/slow|service.idleTimeoutMs|1000|routers[0].service.configs[1].idleTimeoutMs@19:22",
        "web|/svc/slow|service.retries.backoff.maxMs|500|routers[0].service.configs[1].retries.backoff.maxMs@20:62",
        "web|*|client.requestAttemptTimeoutMs|500|routers[0].client.requestAttemptTimeoutMs@22:30",
        "web|*|client.failureAccrual.window|30000|routers[0].client.failureAccrual.window@23:82",
        "web|*|client.failureAccrual.probe.intervalMs|5000|default",
        "web|*|client.failureAccrual.backoff.ms|100|routers[0].client.failureAccrual.backoff.ms@25:37",
        "web|*|client.failureAccrual.probe.timeoutMs|200|routers[0].client.failureAccrual.probe.timeoutMs@24:41",
    ];
    for row in expected {
        assert!(rows.iter().any(|found| found == row), "no {row} in {rows:#?}");
    }
    assert!(!rows.iter().any(|row| row.contains("failureAccrual.backoff.minMs")), "{rows:#?}");
    assert_eq!(rows.iter().filter(|row| row.contains("|/svc|")).count(), 1, "a prefix has what it sets");
}

/// Keys that mean a time, by their names and by what reads them in the source.
fn time_keys(source: &str) -> BTreeSet<&str> {
    let read = ["millis(\"", "seconds(\""].into_iter().flat_map(|read| source.split(read).skip(1));
    let read = read.filter_map(|rest| rest.split('"').next());
    let named = source.split('"').filter(|text| text.ends_with("Ms") || text.ends_with("Secs"));
    let is_key = |key: &&str| key.chars().all(|c| c.is_ascii_alphanumeric());
    read.chain(named).filter(is_key).collect()
}

#[test]
fn how_a_namerd_is_asked_is_listed_with_what_its_kind_has() {
    let rows = |kind: &str, keys: &str| {
        let file = format!(
            "routers:\n- protocol: http\n  servers: [{{port: 0}}]\n  interpreter: {{kind: {kind}, experimental: true, \
             dst: /$/inet/127.1/1, {keys}}}\n"
        );
        let rows = rows(&file).into_iter().filter_map(|row| row.strip_prefix("http||interpreter.").map(str::to_owned));
        rows.filter(|row| !row.contains("snapshot")).collect::<Vec<_>>()
    };
    let expected = ["retry.baseSeconds|5000|default", "retry.maxSeconds|60000|default"];
    let checks = ["failureThreshold.minPeriodMs|5000|default", "failureThreshold.closeTimeoutMs|4000|default"];
    assert_eq!(rows("io.l5d.namerd", ""), [expected, checks].concat());
    assert_eq!(rows("io.l5d.namerd.http", ""), [&expected[..], &checks, &["quiet|120000|fixed"]].concat());
    let mesh = rows("io.l5d.mesh", "retry: {baseSeconds: 100}, failureThreshold: {minPeriodMs: 7}");
    let expected = [
        "retry.baseSeconds|100000|routers[0].interpreter.retry.baseSeconds",
        "retry.maxSeconds|100000|default",
        "failureThreshold.minPeriodMs|7|routers[0].interpreter.failureThreshold.minPeriodMs",
        "failureThreshold.closeTimeoutMs|6000|default",
    ];
    let plain: Vec<_> = mesh.iter().map(|row| row.split('@').next().unwrap_or_default()).collect();
    assert_eq!(plain, expected);
}

#[test]
fn no_key_for_a_time_is_left_out() {
    // Of sections that are refused at start-up, of metrics, what a load is averaged over, and of a namerd's own
    // file.
    const NO_TIMERS: [&str; 11] = [
        "sessionTimeoutMs",
        "addrCacheInactiveTTLSecs",
        "bindingCacheInactiveTTLSecs",
        "failurePenaltyMs",
        "jitterMs",
        "decayTimeMs",
        "refreshIntervalSeconds",
        "maxWait",
        "ttlMs",
        "gaugeIntervalMs",
        "maxTimeoutMs",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let list = fs::read_to_string(folder.join("timers.rs")).unwrap();
    let (mut found, mut missing) = (0, Vec::new());
    let inside = |folder: &Path| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    let files = inside(&folder).into_iter().flat_map(|file| if file.is_dir() { inside(&file) } else { vec![file] });
    for file in files {
        let source = fs::read_to_string(file).unwrap();
        for key in time_keys(&source).into_iter().filter(|key| !NO_TIMERS.contains(key)) {
            found += 1;
            let listed = [format!("\"{key}\""), format!(".{key}\"")];
            let is_listed = listed.iter().any(|listed| list.contains(listed));
            missing.extend((!is_listed).then(|| key.to_owned()));
        }
    }
    assert_eq!(missing, [""; 0], "not in timers.rs");
    assert!(found > 10, "{found}");
}

#[test]
fn presets_are_what_the_sections_have() {
    let config = Config::parse("f", BARE).unwrap();
    let preset = |timer: &str| {
        let timers = config.timers();
        timers.into_iter().find(|setting| setting.timer == timer).and_then(|setting| setting.value)
    };
    let router = &config.routers[0];
    assert_eq!(preset("bindingTimeoutMs"), Some(router.binding_timeout));
    assert_eq!(preset("switchTimeoutMs"), Some(router.switch_timeout));
    assert_eq!(preset("bindingCache.idleTtlSecs"), Some(router.binding_cache.idle_ttl));
    assert_eq!(preset("admin.shutdownGraceMs"), Some(config.admin.shutdown_grace));
    assert_eq!(preset("shutdown.lameDuckMs"), Some(config.shutdown.lame_duck));
    assert_eq!(preset("shutdown.closeMs"), Some(config.shutdown.close));
    assert_eq!(preset("reload.intervalMs"), Some(config.reload.interval));
    assert_eq!(preset("reload.bindMs"), Some(config.reload.bind));
    let path = "/svc/web".parse().unwrap();
    assert_eq!(preset("service.retries.budget.ttlSecs"), Some(router.service.for_path(&path).budget().ttl));
    assert_eq!(preset("client.requeueBudget.ttlSecs"), Some(router.client.for_path(&path).requeue_budget().ttl));
    assert_eq!(preset("client.connectTimeout"), Some(linkerd_core::http::ClientConfig::default().connect_timeout));
    assert_eq!(preset("service.retries.maxPushback"), Some(linkerd_core::retry::MAX_PUSHBACK));
    assert_eq!(preset("client.loadBalancer.overlapMs"), Some(Duration::ZERO));
}

#[test]
fn a_server_that_trusts_its_callers_has_bounds() {
    let server = |keys: &str| format!("routers:\n- protocol: http\n  servers:\n  - {{port: 0, {keys}}}\n");
    let parsed = |keys: &str| Config::parse("f", &server(keys)).map(|config| config.routers[0].servers[0].clone());
    assert_eq!(parsed("ip: 127.0.0.1").unwrap().per_request, None);
    let given = parsed("perRequestPolicy: {}, errorDetail: true").unwrap();
    assert!(given.error_detail);
    let expected = PerRequest { max_timeout: Duration::from_mins(1), max_retries: 10, criticality: true };
    assert_eq!(given.per_request, Some(expected));
    let given = parsed("perRequestPolicy: {criticality: false}").unwrap();
    assert_eq!(given.per_request, Some(PerRequest { criticality: false, ..PerRequest::default() }));
    for (keys, problem) in [
        ("perRequestPolicy: {maxTimeoutMs: 0}", "perRequestPolicy.maxTimeoutMs: must be at least 1, got 0"),
        ("perRequestPolicy: {maxRetries: -1}", "perRequestPolicy.maxRetries: must be at least 0, got -1"),
        ("perRequestPolicy: {}, clearContext: true", "perRequestPolicy: excludes clearContext"),
        ("errorDetail: some", "errorDetail: must be true or false"),
    ] {
        let errors = parsed(keys).expect_err(keys).to_string();
        assert!(errors.contains(&format!("routers[0].servers[0].{problem}")), "{errors}");
    }
}

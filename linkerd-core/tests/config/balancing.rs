//! `loadBalancer` and `failureAccrual`: what arrives, what is refused, and that nothing is left out of the examples and
//! of the documentation.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use linkerd_core::config::{
    AccrualKind, ApertureOrder, Backoff, BalancerKind, Client, Config, FailureAccrual, HashOn, HeaderName,
    LoadBalancer, LoadMetric, Measure, Panic, PanicMode, Probe, ProbeKind, SlowStart, Zones,
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const EXAMPLE: &str = include_str!("balancing.yaml");

/// The settings of the example for a bound name.
fn client(router: usize, name: &str) -> Client {
    let config = Config::parse("balancing.yaml", EXAMPLE).unwrap_or_else(|e| panic!("{e}"));
    config.routers[router].client.for_path(&format!("/#/io.l5d.fs/{name}").parse().unwrap())
}

fn balancer(name: &str) -> LoadBalancer {
    client(0, name).load_balancer.expect("the example has one")
}

fn accrual(name: &str) -> FailureAccrual {
    client(1, name).failure_accrual.expect("the example has one")
}

/// A file with one section of a client on its fifth line.
fn file(protocol: &str, section: &str, keys: &str) -> String {
    format!("routers:\n- protocol: {protocol}\n  servers: [{{port: 0}}]\n  client:\n    {section}: {{{keys}}}\n")
}

/// The only problem of a section, which must stand where the mark `^` is.
fn problem(protocol: &str, section: &str, keys: &str) -> String {
    let text = file(protocol, section, keys);
    let column = text.lines().nth(4).unwrap().chars().position(|c| c == '^').expect("a mark") + 1;
    let errors = Config::parse("f", &text.replace('^', "")).expect_err(keys).to_string();
    let start = format!("f:5:{column}: routers[0].client.{section}.");
    match errors.strip_prefix(&start) {
        Some(problem) => problem.to_owned(),
        None => panic!("expected {start}..., got {errors}\n{text}"),
    }
}

fn parsed(section: &str, keys: &str) -> Client {
    let text = file("http", section, keys);
    let config = Config::parse("f", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    config.routers[0].client.for_path(&"/x".parse().unwrap())
}

#[test]
fn every_policy_arrives() {
    let p2c = balancer("p2c");
    assert_eq!(
        p2c,
        LoadBalancer {
            kind: BalancerKind::P2c { max_effort: 3 },
            load: LoadMetric::Ewma {
                decay_time: 15 * S,
                failure_penalty: Duration::ZERO,
                measure: Measure::EndOfStream,
                long_stream: 30 * S,
            },
            enable_probation: false,
            slow_start: Some(SlowStart { window: 30 * S, min_share: 0.2, aggression: 1.5 }),
            zones: Some(Zones {
                local: "east".to_owned(),
                fallback: vec!["west".to_owned(), "north".to_owned()],
                min_open: 0.5,
                return_open: 0.8,
                spill_load: Some(10.0),
            }),
            panic: Panic { mode: PanicMode::Spray, below: 0.4 },
            overlap: 5 * S,
            hints: true,
        }
    );
    let heap = balancer("heap");
    assert_eq!((heap.kind, heap.load), (BalancerKind::Heap, LoadMetric::LeastLoaded { failure_penalty: S }));
    assert!(heap.enable_probation);
    assert_eq!(heap.slow_start, Some(SlowStart { window: MS, min_share: 0.1, aggression: 1.0 }));
    let robin = balancer("robin");
    assert_eq!(robin.kind, BalancerKind::RoundRobin { max_effort: 6 });
    assert_eq!(robin.panic, Panic { mode: PanicMode::FailFast, below: 0.0 });
    let LoadMetric::Ewma { measure, failure_penalty, .. } = robin.load else { panic!("{:?}", robin.load) };
    assert_eq!((measure, failure_penalty), (Measure::PendingOnly, 5 * S));
    let random = balancer("random");
    assert_eq!(random.kind, BalancerKind::Random { max_effort: 7 });
    let zones = random.zones.unwrap();
    assert_eq!((zones.min_open, zones.return_open, zones.spill_load), (0.7, 0.9, None));
    assert!(zones.fallback.is_empty());
}

#[test]
fn every_kind_arrives() {
    let aperture = |order| BalancerKind::Aperture {
        max_effort: 5,
        smooth_window: 5 * S,
        low_load: 0.5,
        high_load: 2.0,
        min_aperture: 1,
        order,
    };
    assert_eq!(balancer("aperture/peer").kind, aperture(ApertureOrder::Peer { ordinal: 0, total: 3 }));
    assert_eq!(balancer("aperture/client").kind, aperture(ApertureOrder::Client("web-7".to_owned())));
    assert_eq!(
        balancer("aperture").kind,
        BalancerKind::Aperture {
            max_effort: 8,
            smooth_window: 10 * MS,
            low_load: 0.1,
            high_load: 0.9,
            min_aperture: 2,
            order: ApertureOrder::Chance,
        }
    );
    assert_eq!(
        balancer("ring").kind,
        BalancerKind::Ring {
            hash_on: HashOn::Header(HeaderName("X-User".to_owned())),
            points_per_endpoint: 256,
            max_ring_size: 65536,
            load_factor: Some(1.5),
        }
    );
    assert_eq!(
        balancer("maglev").kind,
        BalancerKind::Maglev { hash_on: HashOn::Cookie("session".to_owned()), table_size: 5003, load_factor: None }
    );
    let sticky = |hash_on, return_after| BalancerKind::StickyPrimary { hash_on, return_after };
    assert_eq!(balancer("sticky").kind, sticky(Some(HashOn::Path), Some(60 * S)));
    assert_eq!(balancer("sticky/all").kind, sticky(None, None));
    let thrift = client(2, "x").load_balancer.unwrap();
    assert_eq!(
        thrift.kind,
        BalancerKind::Ring {
            hash_on: HashOn::SourceIp,
            points_per_endpoint: 512,
            max_ring_size: 1 << 20,
            load_factor: Some(1.25),
        }
    );
}

#[test]
fn the_load_follows_from_the_kind_unless_it_is_given() {
    let load = |keys: &str| parsed("loadBalancer", keys).load_balancer.unwrap().load;
    for kind in ["p2c", "aperture", "heap", "roundRobin", "random", "stickyPrimary"] {
        assert_eq!(load(&format!("kind: {kind}")), LoadMetric::LEAST_LOADED, "{kind}");
    }
    let ewma =
        LoadMetric::Ewma { decay_time: 10 * S, failure_penalty: 5 * S, measure: Measure::Headers, long_stream: 10 * S };
    assert_eq!(load("kind: ewma"), ewma);
    assert_eq!(load("kind: ewma, load: ewma"), ewma);
    assert_eq!(load("kind: maglev, hashOn: {path: true}, load: ewma"), ewma);
}

#[test]
fn every_accrual_arrives() {
    assert_eq!(
        accrual("row"),
        FailureAccrual {
            kind: AccrualKind::ConsecutiveFailures { failures: 3 },
            backoff: Some(Backoff::Constant { pause: S }),
            max_ejected_share: 0.5,
            keep_last: true,
            max_probes: Some(2),
            probe: Some(Probe {
                kind: ProbeKind::Http { path: "/health?deep=1".to_owned() },
                host: Some("web:80".to_owned()),
                interval: 2 * S,
                timeout: 500 * MS,
                healthy: 2,
                unhealthy: 4,
            }),
        }
    );
    assert_eq!(accrual("rate").kind, AccrualKind::SuccessRate { success_rate: 0.9, requests: 50 });
    let window = accrual("window");
    assert_eq!(window.kind, AccrualKind::SuccessRateWindowed { success_rate: 0.9, window: 5 * S });
    let defaults = |kind| Probe { kind, host: None, interval: 5 * S, timeout: S, healthy: 1, unhealthy: 3 };
    assert_eq!(window.probe, Some(defaults(ProbeKind::Http { path: "/".to_owned() })));
    let service = "acme.Users".to_owned();
    assert_eq!(accrual("rate").probe, Some(defaults(ProbeKind::Grpc { service })));
    let service = String::new();
    assert_eq!(accrual("defaults").probe, Some(defaults(ProbeKind::Grpc { service })));
    let unified = |failures, success_rate, seconds, min_requests| AccrualKind::Unified {
        failures,
        success_rate,
        window: seconds * S,
        min_requests,
    };
    assert_eq!(accrual("unified").kind, unified(4, 0.7, 20, 10));
    assert_eq!(accrual("defaults").kind, unified(5, 0.8, 30, 20));
    let backoff = Backoff::EqualJittered { min: 2 * S, max: 60 * S };
    assert_eq!(accrual("rate").backoff, Some(backoff));
    let none = accrual("none");
    assert_eq!(
        (none.kind, none.max_ejected_share, none.keep_last, none.max_probes),
        (AccrualKind::Off, 1.0, false, None)
    );
}

#[test]
fn numbers_of_a_balancer_are_in_range() {
    for (keys, expected) in [
        ("kind: p2c, maxEffort: ^0", "maxEffort: must be at least 1, got 0"),
        ("kind: ewma, decayTimeMs: ^0", "decayTimeMs: must be 1..86400000, got 0"),
        ("kind: ewma, decayTimeMs: ^86400001", "decayTimeMs: must be 1..86400000, got 86400001"),
        ("kind: ewma, decayTimeMs: ^.nan", "decayTimeMs: must be a whole number, got '.nan'"),
        ("kind: heap, failurePenaltyMs: ^-1", "failurePenaltyMs: must be 0..3600000, got -1"),
        ("kind: heap, failurePenaltyMs: ^3600001", "failurePenaltyMs: must be 0..3600000, got 3600001"),
        ("kind: ewma, longStreamMs: ^-1", "longStreamMs: must be at least 0, got -1"),
        ("kind: heap, overlapMs: ^-1", "overlapMs: must be at least 0, got -1"),
        ("kind: aperture, lowLoad: ^0", "lowLoad: must be above 0, got 0"),
        ("kind: aperture, lowLoad: ^.NaN", "lowLoad: must be above 0, got '.NaN'"),
        ("kind: aperture, highLoad: ^.inf", "highLoad: must be above 0, got '.inf'"),
        ("kind: aperture, highLoad: ^1e999", "highLoad: must be above 0, got '1e999'"),
        ("kind: aperture, lowLoad: 2, highLoad: ^2", "highLoad: must be above lowLoad 2, got 2"),
        ("kind: aperture, smoothWindowMs: ^0", "smoothWindowMs: must be at least 1, got 0"),
        ("kind: aperture, minAperture: ^0", "minAperture: must be at least 1, got 0"),
        ("kind: aperture, peer: {ordinal: ^3, total: 3}", "peer.ordinal: must be less than total 3, got 3"),
        ("kind: aperture, peer: {ordinal: ^-1, total: 3}", "peer.ordinal: must be at least 0, got -1"),
        ("kind: aperture, peer: {ordinal: 0, total: ^0}", "peer.total: must be at least 1, got 0"),
        ("kind: aperture, peer: ^{ordinal: 0}", "peer.total: is required"),
        ("kind: aperture, clientId: ^''", "clientId: must be the name of a client, got ''"),
        ("kind: ring, hashOn: {path: true}, pointsPerEndpoint: ^0", "pointsPerEndpoint: must be 1..65536, got 0"),
        ("kind: ring, hashOn: {path: true}, maxRingSize: ^16777217", "maxRingSize: must be 1..16777216, got 16777217"),
        ("kind: ring, hashOn: {path: true}, loadFactor: ^1", "loadFactor: must be above 1, or 0 for no bound, got 1"),
        (
            "kind: maglev, hashOn: {path: true}, loadFactor: ^-2",
            "loadFactor: must be above 1, or 0 for no bound, got -2",
        ),
        ("kind: maglev, hashOn: {path: true}, tableSize: ^65536", "tableSize: must be a prime number, got 65536"),
        ("kind: maglev, hashOn: {path: true}, tableSize: ^1", "tableSize: must be 2..5000011, got 1"),
        ("kind: maglev, hashOn: {path: true}, tableSize: ^5000012", "tableSize: must be 2..5000011, got 5000012"),
        ("kind: stickyPrimary, returnAfterMs: ^-1", "returnAfterMs: must be at least 0, got -1"),
        ("kind: heap, slowStart: ^{minShare: 0.5}", "slowStart.windowMs: is required"),
        ("kind: heap, slowStart: {windowMs: ^0}", "slowStart.windowMs: must be at least 1, got 0"),
        (
            "kind: heap, slowStart: {windowMs: 1, minShare: ^0}",
            "slowStart.minShare: must be above 0 and at most 1, got 0",
        ),
        (
            "kind: heap, slowStart: {windowMs: 1, minShare: ^1.1}",
            "slowStart.minShare: must be above 0 and at most 1, got 1.1",
        ),
        (
            "kind: heap, slowStart: {windowMs: 1, aggression: ^.inf}",
            "slowStart.aggression: must be above 0, got '.inf'",
        ),
        ("kind: heap, zones: ^{minOpen: 0.5}", "zones.local: is required"),
        ("kind: heap, zones: {local: ^''}", "zones.local: must be the name of a zone, got ''"),
        ("kind: heap, zones: {local: a, fallback: [b, ^a]}", "zones.fallback[1]: names the zone 'a' again"),
        ("kind: heap, zones: {local: a, fallback: [b, ^b]}", "zones.fallback[1]: names the zone 'b' again"),
        ("kind: heap, zones: {local: a, minOpen: ^1.5}", "zones.minOpen: must be from 0 to 1, got 1.5"),
        (
            "kind: heap, zones: {local: a, returnOpen: ^0.6}",
            "zones.returnOpen: must not be less than minOpen 0.7, got 0.6",
        ),
        (
            "kind: heap, zones: ^{local: a, minOpen: 0.95}",
            "zones.returnOpen: must not be less than minOpen 0.95, got 0.9",
        ),
        ("kind: heap, zones: {local: a, spillLoad: ^0}", "zones.spillLoad: must be above 0, got 0"),
        ("kind: heap, panic: {below: ^-0.1}", "panic.below: must be from 0 to 1, got -0.1"),
        ("kind: heap, panic: {below: ^.nan}", "panic.below: must be from 0 to 1, got '.nan'"),
    ] {
        assert_eq!(problem("http", "loadBalancer", keys), expected, "{keys}");
    }
}

#[test]
fn keys_belong_to_their_kind() {
    let missing_key = "must have exactly one of header, cookie, path, sourceIp, got 0";
    for (keys, expected) in [
        ("kind: ^ringg, hashOn: {path: true}", "kind: unknown kind 'ringg'; did you mean `ring`?"),
        ("kind: ^round_robin", "kind: unknown kind 'round_robin'; did you mean `roundRobin`?"),
        (
            "kind: heap, maxEffort: ^3",
            "maxEffort: is a key of the kinds p2c, ewma, aperture, roundRobin, random, not of heap",
        ),
        ("kind: heap, lowLoad: ^1", "lowLoad: is a key of the kind aperture, not of heap"),
        ("kind: p2c, decayTimeMs: ^5", "decayTimeMs: is a key of load ewma, not of leastLoaded"),
        ("kind: p2c, measure: ^headers", "measure: is a key of load ewma, not of leastLoaded"),
        ("kind: p2c, longStreamMs: ^5", "longStreamMs: is a key of load ewma, not of leastLoaded"),
        (
            "kind: ewma, load: ^leastLoaded",
            "load: must be ewma with kind ewma (the same by leastLoaded is kind p2c), got 'leastLoaded'",
        ),
        ("kind: p2c, load: ^least", "load: unknown load 'least'; known: leastLoaded, ewma"),
        ("kind: ewma, measure: ^header", "measure: unknown measure 'header'; did you mean `headers`?"),
        ("kind: p2c, panic: {mode: ^sprey}", "panic.mode: unknown mode 'sprey'; did you mean `spray`?"),
        ("kind: p2c, hashOn: ^{path: true}", "hashOn: is a key of the kinds ring, maglev, stickyPrimary, not of p2c"),
        (
            "kind: maglev, hashOn: {path: true}, maxRingSize: ^5",
            "maxRingSize: is a key of the kind ring, not of maglev",
        ),
        ("kind: stickyPrimary, loadFactor: ^2", "loadFactor: is a key of the kinds ring, maglev, not of stickyPrimary"),
        ("kind: p2c, clientId: ^me", "clientId: is a key of the kind aperture, not of p2c"),
        ("kind: aperture, clientId: ^me, peer: {ordinal: 0, total: 1}", "clientId: cannot be set together with peer"),
        ("kind: p2c, ^slowstart: {}", "slowstart: unknown key; did you mean `slowStart`?"),
        ("kind: p2c, zones: {local: a, ^minopen: 1}", "zones.minopen: unknown key; did you mean `minOpen`?"),
    ] {
        assert_eq!(problem("http", "loadBalancer", keys), expected, "{keys}");
    }
    // The sections themselves have no dot after them.
    for (keys, expected) in [
        ("kind: ring", "hashOn: is required".to_owned()),
        ("kind: maglev", "hashOn: is required".to_owned()),
        ("kind: ring, hashOn: {}", format!("hashOn: {missing_key}")),
        ("kind: ring, hashOn: {header: }", format!("hashOn: {missing_key}")),
        ("kind: ring, hashOn: path", "hashOn: must be a map, got 'path'".to_owned()),
    ] {
        let errors = Config::parse("f", &file("http", "loadBalancer", keys)).expect_err(keys).to_string();
        assert!(errors.contains(&format!("loadBalancer.{expected}")), "{keys}: {errors}");
    }
}

#[test]
fn a_key_to_hash_is_one_that_the_protocol_has() {
    let one = "must have exactly one of header, cookie, path, sourceIp";
    for (keys, expected) in
        [("header: a, cookie: b", format!("{one}, got 2")), ("path: true, sourceIp: true", format!("{one}, got 2"))]
    {
        let keys = format!("kind: ring, hashOn: ^{{{keys}}}");
        assert_eq!(problem("http", "loadBalancer", &keys), format!("hashOn: {expected}"));
    }
    for (keys, expected) in [
        ("path: ^false", "path: must be true, got false"),
        ("sourceIp: ^1", "sourceIp: must be true, got 1"),
        ("header: ^'x y'", "header: must be the name of a header, got 'x y'"),
        ("header: ^':path'", "header: must be the name of a header, got ':path'"),
        ("cookie: ^'a=b'", "cookie: must be the name of a cookie, got 'a=b'"),
        ("cookie: a, ^paht: true", "paht: unknown key; did you mean `path`?"),
    ] {
        let keys = format!("kind: maglev, hashOn: {{{keys}}}");
        assert_eq!(problem("h2", "loadBalancer", &keys), format!("hashOn.{expected}"));
    }
    let errors = Config::parse("f", &file("mux", "loadBalancer", "kind: ring, hashOn: {header: a}")).unwrap_err();
    assert!(errors.to_string().contains("hashOn.header: unknown key; known here: sourceIp"), "{errors}");
}

#[test]
fn numbers_of_an_accrual_are_in_range() {
    for (keys, expected) in [
        ("kind: none, maxEjectedShare: ^0", "maxEjectedShare: must be above 0 and at most 1, got 0"),
        ("kind: none, maxEjectedShare: ^1.01", "maxEjectedShare: must be above 0 and at most 1, got 1.01"),
        ("kind: none, maxEjectedShare: ^.nan", "maxEjectedShare: must be above 0 and at most 1, got '.nan'"),
        ("kind: none, maxProbes: ^0", "maxProbes: must be at least 1, got 0"),
        ("kind: none, keepLast: ^1", "keepLast: must be true or false, got 1"),
        ("kind: io.l5d.unified, failures: ^0", "failures: must be at least 1, got 0"),
        ("kind: io.l5d.unified, successRate: ^1.5", "successRate: must be from 0 to 1, got 1.5"),
        ("kind: io.l5d.unified, window: ^0", "window: must be at least 1, got 0"),
        ("kind: io.l5d.unified, minRequests: ^0", "minRequests: must be at least 1, got 0"),
        (
            "kind: none, failures: ^5",
            "failures: is a key of the kinds io.l5d.consecutiveFailures, io.l5d.unified, not of none",
        ),
        (
            "kind: io.l5d.consecutiveFailures, failures: 1, minRequests: ^5",
            "minRequests: is a key of the kind io.l5d.unified, not of io.l5d.consecutiveFailures",
        ),
        ("kind: ^io.l5d.unifed", "kind: unknown kind 'io.l5d.unifed'; did you mean `io.l5d.unified`?"),
        ("kind: none, probe: ^{}", "probe.path: is required"),
        ("kind: none, probe: {path: ^health}", "probe.path: must be the path of a URI, from its '/' on, got 'health'"),
        ("kind: none, probe: {path: ^'/a b'}", "probe.path: must be the path of a URI, from its '/' on, got '/a b'"),
        ("kind: none, probe: {path: ^'/a#b'}", "probe.path: must be the path of a URI, from its '/' on, got '/a#b'"),
        ("kind: none, probe: {path: /, host: ^'a@b'}", "probe.host: must be a host, with or without a port, got 'a@b'"),
        ("kind: none, probe: {path: /, intervalMs: ^0}", "probe.intervalMs: must be at least 1, got 0"),
        ("kind: none, probe: {path: /, timeoutMs: ^0}", "probe.timeoutMs: must be at least 1, got 0"),
        ("kind: none, probe: {path: /, healthy: ^0}", "probe.healthy: must be at least 1, got 0"),
        ("kind: none, probe: {path: /, unhealthy: ^0}", "probe.unhealthy: must be at least 1, got 0"),
        ("kind: none, probe: {kind: ^tcp}", "probe.kind: unknown kind 'tcp'; known: http, grpc"),
        ("kind: none, probe: {path: /, service: ^a}", "probe.service: is a key of the kind grpc, not of http"),
        ("kind: none, probe: {kind: ^grpc}", "probe.kind: grpc is for the protocol h2"),
        ("kind: none, backoff: {kind: constant, ms: ^0}", "backoff.ms: must be at least 1, got 0"),
        ("kind: none, backoff: ^{kind: constant}", "backoff.ms: is required"),
        ("kind: none, backoff: {kind: equalJittered, minMs: ^0, maxMs: 1}", "backoff.minMs: must be at least 1, got 0"),
        (
            "kind: none, backoff: {kind: ^fullJittered, minMs: 1, maxMs: 1}",
            "backoff.kind: unknown kind 'fullJittered'; did you mean `equalJittered`?",
        ),
    ] {
        assert_eq!(problem("http", "failureAccrual", keys), expected, "{keys}");
    }
    let keys = "kind: none, probe: {kind: grpc, path: ^/}";
    assert_eq!(problem("h2", "failureAccrual", keys), "probe.path: is a key of the kind http, not of grpc");
    let keys = "kind: none, probe: ^{path: /}";
    assert_eq!(problem("thrift", "failureAccrual", keys), "probe: is an HTTP request, for the protocols http and h2");
}

#[test]
fn numbers_of_connections_are_in_range() {
    for (section, keys, expected) in [
        ("hostConnectionPool", "minSize: ^-1", "minSize: must be at least 0, got -1"),
        ("hostConnectionPool", "maxSize: ^0", "maxSize: must be at least 1, got 0"),
        ("hostConnectionPool", "minSize: 3, maxSize: ^2", "maxSize: must not be less than minSize 3, got 2"),
        ("hostConnectionPool", "idleTimeMs: ^0", "idleTimeMs: must be at least 1, got 0"),
        ("hostConnectionPool", "maxWaiters: ^-1", "maxWaiters: must be at least 0, got -1"),
        ("hostConnectionPool", "^minsize: 1", "minsize: unknown key; did you mean `minSize`?"),
        ("requeueBudget", "ttlSecs: ^0", "ttlSecs: must be 1..60, got 0"),
        ("requeueBudget", "percentCanRetry: ^.nan", "percentCanRetry: must be from 0 to 1000, got '.nan'"),
    ] {
        assert_eq!(problem("http", section, keys), expected, "{keys}");
    }
}

/// What the loader says it knows in a section, when it comes upon a key like no other.
fn known(section: &str, keys: &str) -> BTreeSet<String> {
    let text = file("http", section, &keys.replace("...", "qqqqqqqqqqqq: 1"));
    let errors = Config::parse("f", &text).expect_err(keys).to_string();
    let known = errors.lines().find_map(|line| line.split_once("known here: ")).expect("a list of keys").1;
    known.split(", ").map(str::to_owned).collect()
}

/// Every section that may stand in them, with what it needs.
const SECTIONS: [(&str, &str); 21] = [
    ("loadBalancer", "kind: p2c, load: ewma, ..."),
    ("loadBalancer", "kind: ewma, ..."),
    ("loadBalancer", "kind: aperture, ..."),
    ("loadBalancer", "kind: heap, ..."),
    ("loadBalancer", "kind: roundRobin, ..."),
    ("loadBalancer", "kind: random, ..."),
    ("loadBalancer", "kind: ring, hashOn: {path: true}, ..."),
    ("loadBalancer", "kind: maglev, hashOn: {path: true}, ..."),
    ("loadBalancer", "kind: stickyPrimary, ..."),
    ("loadBalancer", "kind: ring, hashOn: {path: true, ...}"),
    ("loadBalancer", "kind: aperture, peer: {ordinal: 0, total: 1, ...}"),
    ("loadBalancer", "kind: p2c, slowStart: {windowMs: 1, ...}"),
    ("loadBalancer", "kind: p2c, zones: {local: a, ...}"),
    ("loadBalancer", "kind: p2c, panic: {...}"),
    ("failureAccrual", "kind: io.l5d.consecutiveFailures, failures: 1, ..."),
    ("failureAccrual", "kind: io.l5d.successRate, successRate: 1, requests: 1, ..."),
    ("failureAccrual", "kind: io.l5d.successRateWindowed, successRate: 1, window: 1, ..."),
    ("failureAccrual", "kind: io.l5d.unified, ..."),
    ("failureAccrual", "kind: none, probe: {path: /, ...}"),
    ("failureAccrual", "kind: none, probe: {kind: grpc, ...}"),
    ("hostConnectionPool", "..."),
];

#[test]
fn every_key_is_in_the_example_and_in_the_documentation() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration-balancing.md");
    let page = fs::read_to_string(page).unwrap();
    let mut keys = BTreeSet::new();
    for (section, text) in SECTIONS {
        keys.append(&mut known(section, text));
    }
    assert!(keys.len() > 50, "{keys:?}");
    for key in keys {
        assert!(EXAMPLE.contains(&format!("{key}: ")), "the example lacks {key}");
        assert!(page.contains(&format!("| `{key}` |")), "no table has `{key}`");
    }
    // And the kinds, which the loader lists as well.
    for section in ["loadBalancer", "failureAccrual"] {
        let errors = Config::parse("f", &file("http", section, "")).unwrap_err().to_string();
        let kinds = errors.split_once("is required: one of ").expect("a list of kinds").1;
        for kind in kinds.trim().split(", ") {
            assert!(EXAMPLE.contains(&format!("kind: {kind}")), "the example lacks {kind}");
            assert!(page.contains(&format!("| `{kind}` |")), "no table has `{kind}`");
        }
    }
}

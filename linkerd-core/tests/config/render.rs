//! `/config.json`.

use linkerd_core::config::Config;
use serde_json::json;

#[test]
fn the_file_is_rendered_without_defaults_as_linkerd_does() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let text = format!(
        "
admin: {{ip: 127.0.0.1, port: 9990, httpIdentifierPort: 9991}}
usage: {{enabled: false}}
telemetry:
- kind: io.l5d.prometheus
- kind: io.l5d.recentRequests
  sampleRate: 1.0
  capacity: 5
namers:
- kind: io.l5d.fs
  rootDir: '{root}'
routers:
- protocol: http
  label: http
  dtab: /svc => /#/io.l5d.fs ; /w => 3 * /svc/web & /svc/down ; /neg => ~
  servers: [{{port: 4140}}]
  service:
    retries: {{budget: {{percentCanRetry: 0.0, minRetriesPerSec: 0, ttlSecs: 10}}}}
- protocol: http
  label: path
  originator: true
  bindingCache:
  identifier: {{kind: io.l5d.path, segments: 2}}
  servers: [{{port: 4141}}]
"
    );
    let config = Config::parse("f.yaml", &text).unwrap();
    assert_eq!(
        config.to_json(),
        json!({
            "admin": {"ip": "localhost", "port": 9990, "httpIdentifierPort": 9991},
            "usage": {"enabled": false},
            "telemetry": [
                {"kind": "io.l5d.prometheus"},
                {"kind": "io.l5d.recentRequests", "sampleRate": 1.0, "capacity": 5},
            ],
            "namers": [{"kind": "io.l5d.fs", "rootDir": root}],
            "routers": [
                {
                    "protocol": "http",
                    "label": "http",
                    "dtab": "/svc=>/#/io.l5d.fs;/w=>3.00*/svc/web & /svc/down;/neg=>~",
                    "servers": [{"port": 4140}],
                    "service": {
                        "kind": "io.l5d.global",
                        "retries": {"budget": {"percentCanRetry": 0.0, "minRetriesPerSec": 0, "ttlSecs": 10}},
                    },
                },
                {
                    "protocol": "http",
                    "label": "path",
                    "originator": true,
                    "identifier": [{"kind": "io.l5d.path", "segments": 2}],
                    "servers": [{"port": 4141}],
                },
            ],
        })
    );
}

#[test]
fn what_is_rendered_reads_the_same_again() {
    for text in [include_str!("static.yaml"), include_str!("balancing.yaml")] {
        let config = Config::parse("f.yaml", text).unwrap();
        let again = Config::parse("f.json", &config.to_json().to_string()).unwrap();
        assert_eq!(again.routers, config.routers);
    }
}

#[test]
fn extensions_are_rendered_as_they_are_written() {
    let text = "
routers:
- protocol: http
  servers: [{port: 4140}]
  client:
    loadBalancer:
      kind: ring
      hashOn: {sourceIp: yes}
      loadFactor: 0
      slowStart: {windowMs: 1000}
      zones: {local: no, fallback: [west, 1.10]}
      panic: {mode: failFast}
    failureAccrual:
      kind: none
      maxEjectedShare: 0.5
      probe: {path: /health}
";
    let config = Config::parse("f.yaml", text).unwrap();
    assert_eq!(
        config.to_json()["routers"][0]["client"],
        json!({
            "kind": "io.l5d.global",
            "loadBalancer": {
                "kind": "ring",
                "hashOn": {"sourceIp": true},
                "loadFactor": 0,
                "slowStart": {"windowMs": 1000},
                "zones": {"local": "no", "fallback": ["west", "1.10"]},
                "panic": {"mode": "failFast"},
            },
            "failureAccrual": {"kind": "none", "maxEjectedShare": 0.5, "probe": {"path": "/health"}},
        })
    );
}

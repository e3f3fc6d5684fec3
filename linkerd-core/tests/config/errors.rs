//! What the loader says, and where.

use linkerd_core::config::{Config, Errors};

const SERVER: &str = "  servers: [{port: 0}]\n";

fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse("f.yaml", text).expect_err("it is wrong");
    errors.to_string().lines().map(|line| line.strip_prefix("f.yaml:").unwrap_or(line).to_owned()).collect()
}

/// The errors of an http router with these lines, from line 4 on.
fn router(lines: &str) -> Vec<String> {
    errors(&format!("routers:\n- protocol: http\n{SERVER}{lines}"))
}

/// A map of so many keys that mean nothing.
fn keys(n: usize) -> String {
    (0..n).map(|i| format!("k{i}: 1")).collect::<Vec<_>>().join("\n")
}

fn accepts(text: &str) -> Config {
    Config::parse("f.yaml", text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn all_problems_are_found_at_once_each_at_its_place() {
    let text = "\
admin: {port: x, workerThreads: 0}
namers:
- kind: io.l5d.sf
- kind: io.l5d.rewrite
  pattern: '/{'
routers:
- protocol: http
  dtab: /a -> /b
  servers:
  - port: 70000
    ip: localhost
    maxCallDepth: ten
  service:
    retries:
      budget: {ttlSecs: 61, percentCanRetry: -1}
  client:
    loadBalancer: {kind: p2c, maxEffrot: 3}
telemetry: {}
bogus: 1
";
    assert_eq!(
        errors(text),
        [
            "1:15: admin.port: must be a whole number, got 'x'",
            "1:33: admin.workerThreads: must be at least 1, got 0",
            "3:9: namers[0].kind: unknown kind 'io.l5d.sf'; did you mean `io.l5d.fs`?",
            "4:3: namers[1].prefix: is required",
            "4:3: namers[1].name: is required",
            "5:12: namers[1].pattern: is not a pattern: '{' lacks a closing brace, got '/{'",
            "8:12: routers[0].dtab: '=' expected but '-' found at '/a [-]> /b'",
            "10:11: routers[0].servers[0].port: must be 0..65535, got 70000",
            "11:9: routers[0].servers[0].ip: must be an IP address (no host name), got 'localhost'",
            "12:19: routers[0].servers[0].maxCallDepth: must be a whole number, got 'ten'",
            "15:25: routers[0].service.retries.budget.ttlSecs: must be 1..60, got 61",
            "15:46: routers[0].service.retries.budget.percentCanRetry: must be from 0 to 1000, got -1",
            "17:31: routers[0].client.loadBalancer.maxEffrot: unknown key; did you mean `maxEffort`?",
            "18:12: telemetry: must be a list, got a map",
            "19:1: bogus: unknown key; known here: admin, namers, reload, retryBufferBytes, routers, shutdown, telemetry, usage, \
             workers",
        ]
    );
}

#[test]
fn a_dtab_error_names_its_line_in_a_block() {
    let found = router("  dtab: |\n    # names\n\n    /svc => /#/io.l5d.fs;\n      /host = /a;\n");
    assert_eq!(found, ["8:14: routers[0].dtab: '>' expected but ' ' found at '  /host =[ ]/a;'"]);
    let found = router("  dtab: >-\n    /svc => /a;\n    /host = /a\n");
    assert_eq!(found, ["6:12: routers[0].dtab: '>' expected but ' ' found at '/svc => /a; /host =[ ]/a'"]);
    let found = router("  dtab: '/svc = /a'\n");
    assert_eq!(found, ["4:16: routers[0].dtab: '>' expected but ' ' found at '/svc =[ ]/a'"]);
    let found = router("  dtab: /svc => /a;\n   /host = /a # no\n");
    assert_eq!(found, ["5:11: routers[0].dtab: '>' expected but ' ' found at '/svc => /a; /host =[ ]/a'"]);
    // An escape ends what is known about the place.
    let found = router("  dtab: \"/svc => /a;\\n/b = c\"\n");
    assert_eq!(found, ["4:9: routers[0].dtab: '>' expected but ' ' found at '/b =[ ]c'"]);
    let found = router("  dtab: /svc =>\n");
    assert_eq!(found, ["4:16: routers[0].dtab: simple expected but end of input found at '/svc =>[]'"]);
}

#[test]
fn repeated_keys_are_errors() {
    let found = router("  label: a\n  dtab: ''\n  label: b\n  client: {failFast: true, failFast: false}\n");
    assert_eq!(
        found,
        [
            "6:3: the key 'label' is here twice, first on line 4",
            "7:28: the key 'failFast' is here twice, first on line 7"
        ]
    );
    let found = errors(r#"{"routers": [{"protocol": "http", "servers": [{"port": 0}]}], "usage": {}, "usage": {}}"#);
    assert_eq!(found, ["1:76: the key 'usage' is here twice, first on line 1"]);
}

#[test]
fn keys_of_older_releases_say_what_became_of_them() {
    let found = router("  timeoutMs: 5\n  loggers: []\n  maxChunkKB: 8\n  client: {timeoutMs: 5}\n");
    assert_eq!(
        found,
        [
            "4:3: routers[0].timeoutMs: unknown key; it is now `service.totalTimeoutMs` (all attempts) or \
             `client.requestAttemptTimeoutMs` (each one)",
            "5:3: routers[0].loggers: unknown key; it is now `client.requestAuthorizers`",
            "6:3: routers[0].maxChunkKB: unknown key; it was removed: chunks of any size are streamed",
            "7:12: routers[0].client.timeoutMs: unknown key; it is now `requestAttemptTimeoutMs`",
        ]
    );
    let found = router("  identifier: {kind: io.l5d.headerToken}\n");
    assert_eq!(
        found,
        ["4:22: routers[0].identifier.kind: unknown kind 'io.l5d.headerToken'; it is now `io.l5d.header.token`"]
    );
}

#[test]
fn a_rewrite_has_to_give_a_path() {
    let namer = |name: &str| {
        format!(
            "namers: [{{kind: io.l5d.rewrite, prefix: /r, pattern: '/{{a}}/{{b}}', name: '{name}'}}]\n\
             routers: [{{protocol: http, servers: [{{}}]}}]\n"
        )
    };
    accepts(&namer("/srv/{b}-{a}/{a}"));
    assert_eq!(
        errors(&namer("/srv/{c}")),
        ["1:72: namers[0].name: is not a path: label char expected but '{' found at '/srv/[{]c}', with x for the \
          captures ({a}, {b})"]
    );
    assert!(errors(&namer("srv"))[0].contains("'/' expected but 's' found at '[s]rv'"));
}

#[test]
fn labels_are_unique() {
    let router = "- {protocol: http, servers: [{port: 0}]}\n";
    let found =
        errors(&format!("routers:\n{router}{router}- {{protocol: http, label: http, servers: [{{port: 0}}]}}\n"));
    assert_eq!(
        found,
        [
            "3:3: routers[1]: Multiple routers with the label http (the first on line 2)",
            "4:27: routers[2].label: Multiple routers with the label http (the first on line 2)",
        ]
    );
}

#[test]
fn files_of_snapshots_are_taken_once() {
    let router = |label: &str, file: &str, more: &str| {
        format!(
            "- protocol: http\n  label: {label}\n  servers: [{{port: 0}}]\n  interpreter:\n    kind: io.l5d.mesh\n    dst: \
             /$/inet/127.1/4321\n    snapshot: {{file: {file}}}\n{more}"
        )
    };
    let more = "    perRequestNamespace: {header: l5d-ns, allow: [blue]}\n";
    let file = ["routers:\n", &router("a", "x", more), &router("b", "y", ""), &router("c", "./x", "")].concat();
    let found = errors(&file);
    let expected =
        ["23:22: routers[2].interpreter.snapshot.file: router 'c' may not have the file ./x of router 'a' (line 8)"];
    assert_eq!(found, expected, "{file}");
    let file = ["routers:\n", &router("a", "x", more), &router("b", "x.blue", "")].concat();
    assert!(errors(&file)[0].contains("router 'b' may not have the file x.blue of router 'a'"), "{:?}", errors(&file));
    let other = more.replace("[blue]", "[red]");
    let file = ["routers:\n", &router("a", "x", more), &router("b", "y", &other)].concat();
    assert!(Config::parse("f.yaml", &file).is_ok());
}

#[test]
fn ports_are_taken_once() {
    let servers = |list: &str| format!("routers:\n- protocol: http\n  servers:\n{list}");
    let found = errors(&servers("  - {}\n  - {port: 4140}\n"));
    assert_eq!(found, ["5:12: routers[0].servers[1].port: Server conflict on port 4140 (the server on line 4 has it)"]);
    let found = errors(&servers("  - {port: 9990}\n"));
    assert_eq!(
        found,
        ["4:12: routers[0].servers[0].port: Server conflict on port 9990 (the admin server on line 1 has it)"]
    );
    let found = errors(&servers("  - {port: 1, ip: 0.0.0.0}\n  - {port: 1, ip: 127.0.0.1}\n"));
    assert_eq!(
        found,
        [
            "5:12: routers[0].servers[1].port: Server conflict on port 1 (the server on line 4 has it on 0.0.0.0, this one \
          is on 127.0.0.1)"
        ]
    );
    let shared = "socketOptions: {reusePort: true}";
    accepts(&servers(&format!("  - {{port: 1, ip: 0.0.0.0, {shared}}}\n  - {{port: 1, {shared}}}\n")));
    accepts(&servers("  - {port: 1, ip: 127.0.0.1}\n  - {port: 1, ip: 127.0.0.2}\n  - {port: 1, ip: '::1'}\n"));
    accepts(&servers("  - {port: 0}\n  - {port: 0}\n"));
    let found = errors("admin: {httpIdentifierPort: 4140}\nrouters: [{protocol: http, servers: [{}]}]\n");
    assert_eq!(
        found,
        ["2:38: routers[0].servers[0]: Server conflict on port 4140 (the identifier port on line 1 has it)"]
    );
}

#[test]
fn a_port_that_is_none_conflicts_with_nothing() {
    let found = errors("routers:\n- protocol: http\n  servers: [{port: abc}, {port: 4140}]\n");
    assert_eq!(found, ["3:20: routers[0].servers[0].port: must be a whole number, got 'abc'"]);
}

#[test]
fn routers_and_servers_are_required() {
    assert_eq!(errors("usage: {}\n"), ["1:1: At least one router must be specified in the configuration."]);
    assert_eq!(errors("routers: []\n"), ["1:10: routers: At least one router must be specified in the configuration."]);
    assert_eq!(
        errors("routers:\n- {protocol: http, label: x}\n"),
        ["2:3: routers[0].servers: router 'x' has no servers"]
    );
}

#[test]
fn settings_that_exclude_each_other() {
    let found = router("  streamingEnabled: false\n  streamAfterContentLengthKB: 5\n");
    assert_eq!(
        found,
        ["5:31: routers[0].streamAfterContentLengthKB: cannot be set together with streamingEnabled: false"]
    );
    let found = router("  aggregateUpToKB: 5\n");
    assert_eq!(found, ["4:20: routers[0].aggregateUpToKB: has to be set together with streamingEnabled: false"]);
    let found = router("  client: {hostConnectionPool: {minSize: 5, maxSize: 4}}\n");
    assert_eq!(found, ["4:54: routers[0].client.hostConnectionPool.maxSize: must not be less than minSize 5, got 4"]);
    let found = router("  client: {loadBalancer: {kind: aperture, lowLoad: 3}}\n");
    assert_eq!(found, ["4:26: routers[0].client.loadBalancer.highLoad: must be above lowLoad 3, got 2"]);

    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("a.pem");
    std::fs::write(&pem, "").unwrap();
    let pem = pem.display();
    let tls = format!(
        "  client: {{tls: {{disableValidation: true, trustCerts: [{pem}], trustCertsBundle: {pem}, \
         clientAuth: {{certPath: {pem}, keyPath: {pem}}}}}}}\n"
    );
    let found = router(&tls).join("\n");
    assert!(found.contains("disableValidation: cannot be true together with clientAuth"), "{found}");
    assert!(found.contains("trustCertsBundle: cannot be set together with trustCerts"), "{found}");
}

#[test]
fn what_is_experimental_has_to_be_enabled() {
    let found = errors("routers: [{protocol: thriftmux, servers: [{}]}]\ntelemetry: [{kind: io.l5d.statsd}]\n");
    assert_eq!(
        found,
        [
            "1:11: routers[0]: The thriftmux protocol is experimental and must be explicitly enabled by setting the \
             `experimental' parameter to `true' on each router.",
            "2:13: telemetry[0]: The io.l5d.statsd telemeter is experimental and must be explicitly enabled by setting \
             the `experimental' parameter to `true'.",
        ]
    );
}

#[test]
fn regular_expressions_are_checked() {
    let found =
        errors(&format!("admin: {{security: {{pathWhitelist: ['^/a(']}}}}\nrouters:\n- protocol: http\n{SERVER}"));
    assert_eq!(found, ["1:36: admin.security.pathWhitelist[0]: '^/a(' is not a regular expression: unclosed group"]);
    let config =
        accepts(&format!("admin: {{security: {{pathBlacklist: [/a|/b]}}}}\nrouters:\n- protocol: http\n{SERVER}"));
    let blacklist = &config.admin.security.as_ref().unwrap().path_blacklist[0];
    assert!(blacklist.matches("/a") && blacklist.matches("/b") && !blacklist.matches("/ab"));
}

#[test]
fn scalars_may_be_quoted_and_spelt_in_several_ways() {
    let config = accepts(
        "routers:\n- protocol: http\n  label: 5\n  originator: Yes\n  bindingTimeoutMs: '500'\n  maxHeadersKB: 1_6\n  \
         servers: [{port: \"4140\", clearContext: off}]\n  service: {retries: {budget: {percentCanRetry: 5}}}\n  dtab:\n",
    );
    let router = &config.routers[0];
    assert_eq!(router.label, "5");
    assert!(router.originator);
    assert_eq!(router.binding_timeout.as_millis(), 500);
    assert_eq!(router.servers[0].port, 4140);
    assert!(!router.servers[0].clear_context);
    let found = self::router("  maxHeadersKB: 010\n  bindingTimeoutMs: true\n  originator: 1\n");
    assert_eq!(
        found,
        [
            "4:17: routers[0].maxHeadersKB: must be a whole number, got '010'",
            "5:21: routers[0].bindingTimeoutMs: must be a whole number, got true",
            "6:15: routers[0].originator: must be true or false, got 1",
        ]
    );
}

#[test]
fn malformed_files_say_where_they_end_to_make_sense() {
    assert_eq!(errors(""), ["1:1: the file is empty"]);
    assert_eq!(errors("# nothing\n"), ["1:1: the file is empty"]);
    assert_eq!(errors("hello"), ["1:1: must be a map, got 'hello'"]);
    assert_eq!(errors("a: 1\n---\nb: 2\n"), ["2:1: the file holds more than one document"]);
    assert_eq!(errors("? [a]\n: b\n"), ["1:3: a key must be text, not a list or a map"]);
    assert_eq!(errors("a: !thing b\n"), ["1:4: the tag '!thing' means nothing here"]);
    assert_eq!(errors("{\"a\" 1}"), ["1:6: '1' where ':' is expected"]);
    assert_eq!(errors("{\"a\": 01}"), ["1:7: '01' is not a value"]);
    assert_eq!(errors("{\"a\": \"b"), ["1:9: the file ends inside a string"]);
    assert_eq!(errors("{} x"), ["1:4: 'x' where the end of the file is expected"]);
    let merged = errors("a: &a {b: 1}\nrouters: [{<<: *a, protocol: http, servers: [{}]}]\n");
    assert!(merged[1].contains("routers[0].<<: merge keys are not supported"), "{merged:?}");
    let bytes = Config::parse_bytes("f.yaml", b"a: 1\nb: \xff\n").unwrap_err();
    assert_eq!(bytes.to_string(), "f.yaml: is not UTF-8: line 2 holds other bytes");
}

#[test]
fn anchors_stand_for_their_value() {
    let config = accepts(
        "admin: {ip: &ip 127.0.0.1}\nrouters:\n- &http\n  protocol: http\n  servers: &servers [{port: 0, ip: *ip}]\n\
         - {protocol: h2, servers: *servers}\n",
    );
    assert_eq!(config.routers[1].servers[0].ip, config.admin.ip);
    assert_eq!(errors("a: &a [*a]\n"), ["1:8: the alias refers to a value that contains it"]);
    assert!(errors("a: *b\n")[0].starts_with("1:4: "), "an unknown anchor has a place");
}

#[test]
fn alias_bombs_do_not_go_off() {
    let mut bomb = vec!["a0: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned()];
    for i in 1..30 {
        let previous = format!("*a{}", i - 1);
        bomb.push(format!("a{i}: &a{i} [{}]", vec![previous; 10].join(", ")));
    }
    let found = errors(&bomb.join("\n"));
    assert!(found[0].contains("more than 100000 values, aliases expanded"), "{found:?}");

    // Few values, much text.
    let long = "x".repeat(1 << 20);
    let found = errors(&format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 100].join(", ")));
    assert!(found[0].contains("bytes, aliases expanded"), "{found:?}");
}

#[test]
fn nesting_size_and_keys_are_bounded() {
    let deep = "- ".repeat(100) + "x";
    assert!(errors(&deep)[0].ends_with("values nest more than 64 deep"));
    let deep = "[".repeat(100) + &"]".repeat(100);
    assert!(errors(&deep)[0].ends_with("values nest more than 64 deep"));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    assert!(errors(&deep)[0].ends_with("values nest more than 64 deep"));
    let long = "#".repeat((4 << 20) + 1);
    assert_eq!(errors(&long), [" is too large: 4194305 bytes, of at most 4194304"]);
    assert!(errors(&keys(2000))[0].ends_with("a map with more than 1000 keys"));
}

#[test]
fn many_problems_are_counted() {
    let errors: Errors = Config::parse("f.yaml", &keys(500)).unwrap_err();
    assert_eq!(errors.problems().len(), 100);
    // The 500 keys, and that there is no router.
    assert!(errors.to_string().ends_with("\nand 401 more problems"), "{errors}");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let errors = Config::load(dir.path()).unwrap_err();
    let path = dir.path().display();
    assert_eq!(errors.to_string(), format!("{path}: config is not a file: {path}"));
    let missing = dir.path().join("missing.yaml");
    let errors = Config::load(&missing).unwrap_err();
    assert!(errors.to_string().starts_with(&format!("{}: cannot be read: ", missing.display())), "{errors}");
    let file = dir.path().join("a.yaml");
    std::fs::write(&file, "routers:\n- protocol: http\n  servers: [{port: 0}]\n").unwrap();
    assert_eq!(Config::load(&file).unwrap().routers[0].label, "http");
}

#[test]
fn a_later_problem_finds_its_place() {
    let config = accepts("routers:\n- protocol: http\n  servers:\n  - port: 0\n  - port: 1\n");
    let problem = config.problem("routers[0].servers[1].port", "address in use");
    assert_eq!(problem.to_string(), "f.yaml:5:11: routers[0].servers[1].port: address in use");
    // The nearest key that is there.
    let problem = config.problem("routers[0].servers[0].ip", "no such address");
    assert_eq!(problem.to_string(), "f.yaml:4:5: routers[0].servers[0].ip: no such address");
    assert_eq!(config.problem("admin.port", "taken").to_string(), "f.yaml:1:1: admin.port: taken");
}

#[test]
fn a_pseudo_header_cannot_be_written() {
    let found = errors("routers:\n- protocol: http\n  servers: [{timestampHeader: ':path'}]\n");
    assert_eq!(found, ["3:31: routers[0].servers[0].timestampHeader: must be the name of a header, got ':path'"]);
}

#[test]
fn flavours_have_a_name_a_header_and_rules() {
    let text = "routers:\n- protocol: http\n  servers:\n  - port: 0\n    flavours:\n";
    let of = |rule: &str| errors(&format!("{text}    - {rule}\n"));
    assert_eq!(
        of("{name: a b, header: x-c, dtab: /a => /b}"),
        ["6:14: routers[0].servers[0].flavours[0].name: \"a b\" cannot be the name of a flavour: 1 to 64 letters, \
             digits, '-', '_' and '.' can"]
    );
    assert_eq!(
        of("{header: x y, dtab: nowhere, ttlMs: 5}").len(),
        4,
        "{:#?}",
        of("{header: x y, dtab: nowhere, ttlMs: 5}")
    );
}

#[test]
fn formats_of_traces_are_known_and_stand_once() {
    assert_eq!(
        router("  tracePropagator: {kind: io.l5d.formats, read: [w3c, otlp, w3c], write: []}\n"),
        [
            "4:55: routers[0].tracePropagator.read[1]: must be l5d, b3, b3single or w3c, got 'otlp'",
            "4:61: routers[0].tracePropagator.read[2]: stands there twice: w3c",
            "4:74: routers[0].tracePropagator.write: must be a list of at least one format, got a list",
        ]
    );
    assert_eq!(
        router("  tracePropagator: {kind: io.l5d.formats}\n"),
        ["4:20: routers[0].tracePropagator.write: is required"]
    );
}

#[test]
fn namespaces_that_requests_choose_are_checked() {
    let found = |keys: &str| {
        router(&format!("  interpreter: {{kind: io.l5d.namerd, dst: /$/inet/1/2, perRequestNamespace: {keys}}}\n"))
            .iter()
            .map(|error| error.split_once("perRequestNamespace").expect("its key").1.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found("{}"), [".header: is required", ".allow: is required"]);
    assert_eq!(
        found("{header: ':path', allow: []}"),
        [".header: must not be a pseudo-header, got :path", ".allow: must have from 1 to 32 namespaces, got 0"]
    );
    assert_eq!(
        found("{header: x, allow: [a/b, '..', ok]}"),
        [
            ".allow[0]: must be a namespace of at most 100 letters, digits, '-', '_' and '.', got 'a/b'",
            ".allow[1]: must be a namespace of at most 100 letters, digits, '-', '_' and '.', got '..'",
        ]
    );
    let many = (0..33).map(|i| format!("n{i}")).collect::<Vec<_>>().join(", ");
    assert_eq!(
        found(&format!("{{header: x, allow: [{many}]}}")),
        [".allow: must have from 1 to 32 namespaces, got 33"]
    );
}

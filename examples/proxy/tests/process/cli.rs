//! The command line, and files that are wrong.

use std::fs;

use tokio::net::TcpListener;

use crate::harness::{Folder, SIMPLE};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_good_file_is_valid_and_nothing_is_served() {
    let folder = Folder::new();
    folder.write("linkerd.yaml", SIMPLE);
    for args in [["-validate", "linkerd.yaml"], ["linkerd.yaml", "--validate=true"]] {
        let output = folder.run(&args).await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
    }
    let output = folder.run_with(&["-validate", "-"], SIMPLE.as_bytes()).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Each comment after a typo says what is answered to it.
#[tokio::test]
async fn a_typo_in_each_kind_of_section_is_named_all_at_once() {
    let folder = Folder::new();
    folder.write("rules.dtab", "");
    let text = include_str!("../data/typos.yaml");
    folder.write("typos.yaml", text);
    let marked = text.lines().enumerate().filter_map(|(i, line)| {
        let (_, answer) = line.split_once("  # ")?;
        Some(format!("typos.yaml:{}:{answer}", i + 1))
    });
    let expected: Vec<_> = marked.collect();
    assert!(expected.len() > 30, "{expected:#?}");

    for args in [&["-validate", "typos.yaml"][..], &["typos.yaml"]] {
        let output = folder.run(args).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr(&output).lines().collect::<Vec<_>>(), expected, "{args:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_beyond_typos_is_named_too() {
    let folder = Folder::new();
    folder.write("file", "");
    let router = |rest: &str| format!("routers:\n- protocol: http\n  servers: [{{port: 0}}]\n{rest}");
    let mut wrong = Vec::new();
    for (text, answer) in [
        (String::new(), "bad.yaml:1:1: the file is empty"),
        (
            "routers: []\n".to_owned(),
            "bad.yaml:1:10: routers: At least one router must be specified in the configuration.",
        ),
        ("routers:\n- protocol: http\n".to_owned(), "bad.yaml:2:3: routers[0].servers: router 'http' has no servers"),
        (router("admin: {port: 70000}\n"), "bad.yaml:4:15: admin.port: must be 0..65535, got 70000"),
        (router("admin: {}\nadmin: {}\n"), "bad.yaml:5:1: the key 'admin' is here twice, first on line 4"),
        (router("namers:\n- {kind: io.l5d.fs, rootDir: nope}\n"), "bad.yaml:5:30: namers[0].rootDir: "),
        (router("namers:\n- {kind: io.l5d.fs, rootDir: file}\n"), "bad.yaml:5:30: namers[0].rootDir: "),
        (router("  dtab: /svc =>\n"), "bad.yaml:4:16: routers[0].dtab: "),
        (
            router("  identifier: {kind: io.l5d.header, header: 'a b'}\n"),
            "bad.yaml:4:45: routers[0].identifier.header: must be the name of a header, got 'a b'",
        ),
        (router("  bindingTimeoutMs: soon\n"), "bad.yaml:4:21: routers[0].bindingTimeoutMs: "),
        (router("- protocol: http\n  servers: [{port: 0}]\n"), "Multiple routers with the label http"),
        (router("telemetry:\n- {kind: io.l5d.zipkin}\n"), "is not supported yet"),
        (router("- protocol: mux\n  servers: [{port: 0}]\n"), "is not supported yet"),
        ("routers: [\n".to_owned(), "bad.yaml:2:1: "),
        ("{\"routers\": [}".to_owned(), "bad.yaml:1:14: "),
    ] {
        folder.write("bad.yaml", &text);
        let output = folder.run(&["-validate", "bad.yaml"]).await;
        if output.status.code() != Some(1) || !stderr(&output).contains(answer) {
            wrong.push(format!("{text}{}expected {answer}", stderr(&output)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new();
    fs::write(folder.path("latin1.yaml"), b"routers:\n# caf\xe9\n").unwrap();
    for (file, answer) in [
        ("nope.yaml", "nope.yaml: cannot be read: No such file or directory (os error 2)\n"),
        ("disco", "disco: config is not a file: disco\n"),
        ("latin1.yaml", "latin1.yaml: is not UTF-8: line 2 holds other bytes\n"),
    ] {
        for args in [&[file][..], &["-validate", file]] {
            let output = folder.run(args).await;
            assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), answer), "{args:?}");
        }
    }
    let output = folder.run_with(&["-"], b"routers: []\n").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("<stdin>:1:10: routers: "), "{}", stderr(&output));
}

#[tokio::test]
async fn a_mistake_on_the_command_line_is_not_one_in_the_file() {
    let folder = Folder::new();
    for args in [&[][..], &["-nope", "a"], &["a", "b"], &["-log.level", "loud", "a"], &["-validate=perhaps", "a"]] {
        let output = folder.run(args).await;
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        let text = stderr(&output);
        assert!(text.starts_with("linkerd: ") && text.contains("\nusage: linkerd [flags] <config>\n"), "{text}");
    }
    for (arg, answer) in [("-help", "usage: linkerd"), ("-version", "linkerd 0.")] {
        let output = folder.run(&[arg]).await;
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(answer), "{output:?}");
    }
}

#[tokio::test]
async fn every_port_that_is_taken_is_named() {
    let folder = Folder::new();
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let ports: Vec<_> = taken.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    let (admin, first, second) = (ports[0], ports[1], ports[2]);
    folder.write(
        "linkerd.yaml",
        &format!(
            "admin: {{port: {admin}}}\nrouters:\n- protocol: http\n  label: web\n  servers: [{{port: {first}}}, {{port: 0}}]\n\
             - protocol: http\n  label: api\n  servers: [{{port: {second}}}]\n"
        ),
    );

    let output = folder.run(&["linkerd.yaml"]).await;

    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    for line in [
        format!("admin: cannot listen on 127.0.0.1:{admin}: Address already in use (os error 98)"),
        format!("router web: cannot listen on 127.0.0.1:{first}: Address already in use (os error 98)"),
        format!("router api: cannot listen on 127.0.0.1:{second}: Address already in use (os error 98)"),
    ] {
        // Without the number, which differs from system to system.
        let line = line.trim_end_matches("(os error 98)");
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("serving"), "{text}");
}

//! The command line, files that are wrong, and the files in `config`.

use std::fs;

use crate::harness::{Folder, SIMPLE, root, stderr};

#[tokio::test]
async fn a_good_file_is_valid_and_nothing_is_served() {
    let folder = Folder::new();
    folder.write("namerd.yaml", SIMPLE);
    let output = folder.run(&["-validate", "namerd.yaml"]).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_place() {
    let folder = Folder::new();
    let rest = "storage: {kind: io.l5d.inMemory}\ninterfaces: [{kind: io.l5d.mesh}]\n";
    folder.write("file", "");
    for (text, answer) in [
        (String::new(), "bad.yaml:1:1: the file is empty"),
        ("interfaces: [{kind: io.l5d.mesh}]\n".to_owned(), "bad.yaml:1:1: storage: is required"),
        ("storage: {kind: io.l5d.disk}\n".to_owned(), "bad.yaml:1:17: storage.kind: "),
        ("storage: {kind: io.l5d.inMemory}\ninterfaces: []\n".to_owned(), "One or more interfaces must be specified"),
        (format!("acess: []\n{rest}"), "bad.yaml:1:1: acess: "),
        (format!("access: [{{name: a, role: boss}}]\n{rest}"), "bad.yaml:1:26: access[0].role: "),
        (format!("protect: [{{namespaces: ['a//b']}}]\n{rest}"), "bad.yaml:1:25: protect[0].namespaces[0]: "),
        (
            format!("history: {{directory: file}}\n{rest}"),
            "bad.yaml:1:22: history.directory: cannot use the directory file: ",
        ),
        (
            format!("compose: [{{namespace: a, parts: [{{fragments: a}}]}}]\n{rest}"),
            "bad.yaml:1:46: compose[0].parts[0].fragments: namespace a cannot be made of itself",
        ),
        (
            format!(
                "compose:\n- {{namespace: a, parts: [{{fragments: b}}]}}\n- {{namespace: b, parts: [{{fragments: c}}]}}\n{rest}"
            ),
            "bad.yaml:2:38: compose[0].parts[0].fragments: namespace b is composed itself, and a part has to be",
        ),
        (format!("limits: {{watches: 0}}\n{rest}"), "bad.yaml:1:19: limits.watches: "),
        (
            rest.replace("io.l5d.inMemory", "io.l5d.fs, directory: file"),
            "bad.yaml:1:39: storage.directory: cannot make",
        ),
        (rest.replace("io.l5d.inMemory", "io.l5d.etcd"), "The io.l5d.etcd storage is experimental"),
        (rest.replace("io.l5d.inMemory", "io.l5d.zk"), "storage.zkAddrs: is required"),
        (rest.replace("io.l5d.mesh", "io.l5d.destination"), "interfaces[0].kind: is not supported yet"),
    ] {
        folder.write("bad.yaml", &text);
        for args in [&["-validate", "bad.yaml"][..], &["bad.yaml"]] {
            let output = folder.run(args).await;
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(stderr(&output).contains(answer), "{text}{}expected {answer}", stderr(&output));
        }
    }
}

#[tokio::test]
async fn keys_without_effect_are_warned_of() {
    let folder = Folder::new();
    folder.write(
        "namerd.yaml",
        "storage: {kind: io.l5d.consul, failFast: true}\ninterfaces: [{kind: io.l5d.mesh, port: 0}]\n",
    );
    let output = folder.run(&["-validate", "namerd.yaml"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("namerd.yaml:1:42: storage.failFast: has no effect"), "{}", stderr(&output));
}

#[tokio::test]
async fn names_that_nobody_can_show_are_warned_of() {
    let folder = Folder::new();
    let rest = "storage: {kind: io.l5d.inMemory}\ninterfaces: [{kind: io.l5d.mesh, port: 0}]\n";
    folder.write("namerd.yaml", &format!("access: [{{name: ci.example, role: write}}]\n{rest}"));
    let output = folder.run(&["-validate", "namerd.yaml"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let warning =
        "namerd.yaml:1:17: access[0].name: has no effect: no interface has `tls` with `requireClientAuth: true`";
    assert!(stderr(&output).contains(warning), "{}", stderr(&output));
}

#[tokio::test]
async fn each_file_in_config_is_valid_and_says_what_it_shows() {
    let mut kinds = Vec::new();
    for entry in fs::read_dir(root().join("examples/namerd/config")).unwrap() {
        let file = entry.unwrap().path().canonicalize().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# "), "{}", file.display());
        let kind = text.lines().skip_while(|line| !line.starts_with("storage:")).nth(1).unwrap();
        kinds.push(kind.trim().trim_start_matches("kind: ").to_owned());
        // What it names is made where the program runs.
        let folder = Folder::new();
        folder.write("deploy.token", "s3cret\n");
        fs::create_dir(folder.path("disco")).unwrap();
        let output = folder.run(&["-validate", file.to_str().unwrap()]).await;
        if kind.contains("io.l5d.k8s") && !cfg!(feature = "k8s") {
            assert!(stderr(&output).contains("is not supported: built without k8s"), "{}", stderr(&output));
        } else {
            assert!(output.status.success() && output.stderr.is_empty(), "{}: {}", file.display(), stderr(&output));
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["consul", "etcd", "fs", "inMemory", "k8s", "zk"].map(|kind| format!("io.l5d.{kind}")));
}

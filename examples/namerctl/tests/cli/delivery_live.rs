//! The delivery job with a namerd, proxies, git and curl that are no stand-ins; only kubectl is one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Stdio,
    time::Duration,
};

use quickstart::{cluster::Cluster, load::Load};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{Ran, delivery::JOB};

const TEXT: &str = "hal, open the pod bay doors";
const LONG: Duration = Duration::from_mins(3);

// Pods are what the folder `pods` says of a service, and are found once that is in the folder $DISCO.
const KUBECTL: &str = r#"#!/bin/sh
shift
case "$1 $2" in
"get svc")
    case $3 in
    -o) for service in $(ls "$DISCO" | sort); do printf '{"metadata": {"name": "%s"}},\n' "$service"; done ;;
    l5d) printf '%s' "$FRONTEND" ;;
    esac ;;
"apply -f") name=$(sed -n '/^  name: /{s///p;q;}' "$3"); cp "pods/$name" pods/.new && mv pods/.new "$DISCO/$name"; cp "$3" applied ;;
"delete svc") rm "$DISCO/$3" ;;
"delete rc") ;;
*) exit 1 ;;
esac
"#;

const MANIFEST: &str = "\
kind: Service
metadata:
  name: world-v1
spec:
  env:
  - name: TARGET_WORLD
    value: world
";

async fn git(repo: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=dev", "-c", "user.email=dev@example.com"]).args(args).current_dir(repo);
    let ran = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().await.expect("runs");
    assert!(ran.status.success(), "git {args:?}: {ran:?}");
}

async fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for folder in ["bin", "pods", "repo/k8s-daemonset/k8s", "repo/k8s-daemonset/helloworld"] {
        fs::create_dir_all(dir.path().join(folder)).expect("makes folders");
    }
    let kubectl = dir.path().join("bin/kubectl");
    fs::write(&kubectl, KUBECTL).expect("writes");
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("sets");
    symlink(env!("CARGO_BIN_EXE_namerctl"), dir.path().join("bin/namerctl")).expect("links");
    let repo = dir.path().join("repo");
    fs::write(repo.join("k8s-daemonset/k8s/hello-world.yml"), MANIFEST).expect("writes");
    fs::write(repo.join("k8s-daemonset/helloworld/world.txt"), format!("{TEXT}\n")).expect("writes");
    git(&repo, &["init", "--quiet", "-b", "master"]).await;
    git(&repo, &["add", "."]).await;
    git(&repo, &["commit", "--quiet", "-m", "doors"]).await;
    dir
}

async fn job(dir: &Path, cluster: &Cluster, answers: &str) -> Ran {
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").expect("is set"));
    let mut command = Command::new("/bin/sh");
    command.arg(JOB).arg(format!("gitRepo=file://{}", dir.join("repo").display())).current_dir(dir);
    command.env_clear().env("PATH", path).env("TMPDIR", dir).env("DISCO", cluster.disco());
    command.env("NAMERCTL_BASE_URL", format!("http://{}", cluster.namerd()));
    command.env("FRONTEND", cluster.nodes()[0].external().to_string()).env("DELIVERY_SETTLE", "3");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("starts");
    // A job that ended before it read is no failure here.
    let _ = child.stdin.take().expect("piped").write_all(answers.as_bytes()).await;
    Ran::of(child.wait_with_output().await.expect("ends"))
}

/// Whether a program answers.
async fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).status().await.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namerd_and_its_proxies_follow_the_job() {
    for program in ["git", "curl"] {
        if !has(program).await {
            eprintln!("!!! SKIPPED: the delivery job: {program} is not there");
            return;
        }
    }
    let story = async {
        let dir = folder().await;
        let mut cluster = Cluster::start().await.expect("starts");
        cluster.deploy("world-v2", TEXT).await.expect("starts");
        // It runs, but nobody finds it before it is applied.
        fs::rename(cluster.disco().join("world-v2"), dir.path().join("pods/world-v2")).expect("moves");
        let load = Load::start([cluster.nodes()[0].external()], 30).expect("begins");

        let ran = job(dir.path(), &cluster, "ok\nabort\n").await;
        assert_eq!((ran.code, &*ran.err), (1, "error: aborted\n"), "{}", ran.out);
        assert_eq!(cluster.rule().await.expect("reads").dst, "/srv/world-v1");
        assert!(!cluster.disco().join("world-v2").exists());
        cluster.settle("/srv/world-v1").await.expect("settles");

        let ran = job(dir.path(), &cluster, "ok\nok\nok\n").await;
        assert_eq!((ran.code, &*ran.err), (0, ""), "{}", ran.out);
        assert_eq!(cluster.rule().await.expect("reads").dst, "/srv/world-v2");
        assert!(!cluster.disco().join("world-v1").exists());
        cluster.answers(TEXT).await.expect("settles");
        let applied = fs::read_to_string(dir.path().join("applied")).expect("reads");
        assert!(applied.contains("name: world-v2\n") && applied.contains(&format!("value: {TEXT}\n")), "{applied}");

        let counts = load.stop().await;
        assert!(counts.with("world") > 0 && counts.with(TEXT) > 0 && counts.failed() == 0, "{counts}");
    };
    timeout(LONG, story).await.expect("it ends");
}

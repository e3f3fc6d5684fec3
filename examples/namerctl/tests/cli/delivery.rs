//! The delivery job, with stand-ins for what it calls but for namerctl.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio, time::Duration};

use linkerd_dtab::Dtab;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    Ran,
    fake::{Asked, Fake, Said},
};

pub(crate) const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/delivery/hello_world");

const TABLE: &str = "/srv => /#/io.l5d.fs; /host => /srv; /tmp => /srv; /svc => /host; /host/world => /srv/world-v1";

const MANIFEST: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: world-v1
---
kind: ReplicationController
metadata:
  name: world-v1
spec:
  env:
  - name: TARGET_WORLD
    value: world
";

// What is kept is in the folder $STATE: `services`, a name a line, and all `calls`.
const KUBECTL: &str = r#"#!/bin/sh
echo "kubectl $*" >>"$STATE/calls"
shift
case "$1 $2" in
"get svc")
    case $3 in
    -o) printf '{\n    "apiVersion": "v1",\n    "items": [\n'
        while read -r name; do
            printf '{"kind": "Service", "metadata": {"annotations": {"a": "{\\"name\\":\\"world-v0\\"}"}, "labels": {"app": "world-x"},\n'
            printf '            "name": "%s"\n, "namespace": "default"}, "spec": {"ports": [{"name": "http"}]}},\n' "$name"
        done <"$STATE/services"
        echo '    ]}' ;;
    l5d) printf '10.0.0.9' ;;
    esac ;;
"apply -f") cp "$3" "$STATE/applied"; sed -n '/^  name: /{s///p;q;}' "$3" >>"$STATE/services"; echo created ;;
"delete svc") grep -v "^$3\$" "$STATE/services" >"$STATE/left"; mv "$STATE/left" "$STATE/services" ;;
"delete rc") ;;
*) exit 1 ;;
esac
"#;

const CURL: &str = r#"#!/bin/sh
for arg; do printf '[%s]' "$arg"; done >>"$STATE/curl"
cat "$STATE/code"
"#;

const GIT: &str = r#"#!/bin/sh
echo "git $1 $5 $6" >>"$STATE/calls"
for to; do :; done
cp -R "$STATE/repo" "$to"
"#;

/// The job's world: its tools, a repository, a namerd.
struct World {
    namerd: Fake,
    // Where the job takes namerd to be, if it is not there.
    base: Option<String>,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let namerd = Fake::start().await;
        namerd.put("internal", TABLE);
        let world = Self { namerd, base: None, dir: tempfile::tempdir().expect("a folder") };
        for (name, text) in [("kubectl", KUBECTL), ("curl", CURL), ("git", GIT)] {
            world.write(&format!("bin/{name}"), text);
            fs::set_permissions(world.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755)).expect("sets");
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_namerctl"), world.path("bin/namerctl")).expect("links");
        world.write("repo/k8s-daemonset/k8s/hello-world.yml", MANIFEST);
        world.write("repo/k8s-daemonset/helloworld/world.txt", "hal, open the pod bay doors\n");
        world.write("services", "hello\nl5d\nworld-v1\n");
        world.write("code", "200");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("makes folders");
        fs::write(path, text).expect("writes");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn spawn(&self, parameters: &[&str]) -> Child {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let mut command = Command::new("/bin/sh");
        command.arg(JOB).args(parameters).current_dir(self.dir.path()).kill_on_drop(true).env_clear();
        command.env("PATH", path).env("STATE", self.dir.path()).env("DELIVERY_SETTLE", "0");
        let base = self.base.clone().unwrap_or_else(|| self.namerd.url());
        command.env("NAMERCTL_BASE_URL", base).env("TMPDIR", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("starts")
    }

    /// Runs the job with these answers at its gates.
    async fn deliver(&self, answers: &str) -> Ran {
        let mut child = self.spawn(&["gitRepo=http://git/hello"]);
        // A job that ended before it read is no failure here.
        let _ = child.stdin.take().expect("piped").write_all(answers.as_bytes()).await;
        Ran::of(child.wait_with_output().await.expect("ends"))
    }

    /// What the rule stands for.
    fn rule(&self) -> String {
        let table = self.namerd.table("internal").expect("is there");
        let rule = table.split(';').find_map(|entry| entry.strip_prefix("/host/world=>"));
        rule.expect("is there").into()
    }

    /// The tables that were written, and for which versions.
    fn written(&self) -> Vec<(String, String)> {
        let of = |asked: Asked| {
            assert_eq!(asked.header("content-type"), "application/json");
            (asked.header("if-match").to_owned(), asked.body)
        };
        self.namerd.asked().into_iter().filter(|asked| asked.method == "PUT").map(of).collect()
    }
}

fn body(dst: &str) -> String {
    let rest = "{\"prefix\":\"/srv\",\"dst\":\"/#/io.l5d.fs\"},{\"prefix\":\"/host\",\"dst\":\"/srv\"},\
                {\"prefix\":\"/tmp\",\"dst\":\"/srv\"},{\"prefix\":\"/svc\",\"dst\":\"/host\"}";
    format!("[{rest},{{\"prefix\":\"/host/world\",\"dst\":\"{dst}\"}}]")
}

#[tokio::test]
async fn a_delivery_writes_a_rule_at_each_stage() {
    let world = World::new().await;
    let ran = world.deliver("ok\nwhat\nok\nok\n").await;
    assert_eq!((ran.code, &*ran.err), (0, ""), "{}", ran.out);
    let written = [
        ("VERSION1=", "/tmp/world-v1"),
        ("VERSION2=", "1 * /tmp/world-v2 \\u0026 9 * /tmp/world-v1"),
        ("VERSION3=", "/tmp/world-v2 | /tmp/world-v1"),
        ("VERSION4=", "/srv/world-v2"),
    ];
    assert_eq!(world.written(), written.map(|(version, dst)| (version.to_owned(), body(dst))));

    let stages: Vec<_> = ran.out.lines().filter_map(|line| line.split_once("==> ").map(|(_, stage)| stage)).collect();
    let all = "clone,deploy,integration testing,shift traffic (10%),shift traffic (100%),cleanup";
    assert_eq!(stages.join(","), all);
    for shown in ["curl -H 'l5d-dtab: /host/world => /tmp/world-v2' 10.0.0.9\n", "http://10.0.0.9:9990\n"] {
        assert!(ran.out.contains(shown), "{}", ran.out);
    }
    let curl = "[-sL][-w][%{http_code}][-o][/dev/null][-H][l5d-dtab: /host/world => /tmp/world-v2][10.0.0.9]";
    assert_eq!(world.read("curl"), curl);
    let calls = world.read("calls");
    let calls: Vec<_> = calls.lines().collect();
    let [svc, l5d, git, apply, end @ ..] = &*calls else { panic!("{calls:?}") };
    assert_eq!(*svc, "kubectl --namespace=default get svc -o json");
    assert_eq!(*l5d, "kubectl --namespace=default get svc l5d -o jsonpath={.status.loadBalancer.ingress[0].*}");
    assert_eq!(*git, "git clone --branch master");
    assert!(
        apply.starts_with("kubectl --namespace=default apply -f ") && apply.ends_with("/hello-world.yml"),
        "{apply}"
    );
    let deleted = ["svc", "rc"].map(|kind| format!("kubectl --namespace=default delete {kind} world-v1"));
    assert_eq!(end, deleted);
    let manifest =
        MANIFEST.replace("world-v1", "world-v2").replace("value: world", "value: hal, open the pod bay doors");
    assert_eq!(world.read("applied"), manifest);
    assert_eq!(world.read("services"), "hello\nl5d\nworld-v2\n");
    // Its folder is gone.
    let left = fs::read_dir(world.dir.path())
        .expect("lists")
        .filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().starts_with("tmp."));
    assert_eq!(left.count(), 0);

    // The next one makes the next version.
    assert_eq!(world.deliver("ok\nok\nok\n").await.code, 0);
    assert_eq!((world.rule(), world.read("services")), ("/srv/world-v3".into(), "hello\nl5d\nworld-v3\n".into()));
}

#[tokio::test]
async fn an_abort_at_each_gate_reverts_and_removes_the_new_version() {
    for answers in ["abort\n", "ok\nabort\n", "ok\nok\nno\n", "ok\nok\n", "what\n", ""] {
        let world = World::new().await;
        let ran = world.deliver(answers).await;
        assert_eq!((ran.code, &*ran.err), (1, "error: aborted\n"), "{answers:?}: {}", ran.out);
        assert!(ran.out.contains("reverting traffic back to /srv/world-v1\n"), "{answers:?}: {}", ran.out);
        assert_eq!((world.rule(), world.read("services")), ("/srv/world-v1".into(), "hello\nl5d\nworld-v1\n".into()));
        assert!(world.read("calls").ends_with("delete rc world-v2\n"), "{answers:?}");
    }
}

/// Tells what the rule is while it is waited.
const SLEEP: &str = r#"#!/bin/sh
echo "sleep $1 $(namerctl dtab get internal | sed -n 's,^/host/world *=> \(.*\) ;$,\1,p')" >>"$STATE/calls"
"#;

#[tokio::test]
async fn no_version_is_removed_before_its_traffic_went_elsewhere() {
    for (answers, removed, rule) in [
        ("abort\n", "world-v2", "/srv/world-v1"),
        ("ok\nok\nabort\n", "world-v2", "/srv/world-v1"),
        ("ok\nok\nok\n", "world-v1", "/srv/world-v2"),
    ] {
        let world = World::new().await;
        world.write("bin/sleep", SLEEP);
        fs::set_permissions(world.path("bin/sleep"), fs::Permissions::from_mode(0o755)).expect("sets");
        world.deliver(answers).await;
        let calls = world.read("calls");
        let expected = format!(
            "sleep 0 {rule}\nkubectl --namespace=default delete svc {removed}\nkubectl --namespace=default delete rc {removed}\n"
        );
        assert!(calls.ends_with(&expected), "{answers:?}: {calls}");
    }
}

#[tokio::test]
async fn a_namerd_that_is_away_is_told_once() {
    // At the start, and in the middle.
    for (answers, gone) in [("ok\n", "GET"), ("ok\nok\n", "PUT")] {
        let world = World::new().await;
        world.namerd.say(gone, Said::status(503, "no store"));
        let ran = world.deliver(answers).await;
        assert_eq!(ran.code, 1);
        assert!(!ran.err.contains("no rule"), "{}", ran.err);
        let last = match gone {
            "GET" => format!("error: the table internal cannot be read from {}\n", world.namerd.url()),
            _ => "error: /host/world in internal could not be set to /tmp/world-v1\n".to_owned(),
        };
        assert!(ran.err.ends_with(&last), "{}", ran.err);
        assert!(!world.read("calls").contains("delete"), "{gone}");
    }
    let mut world = World::new().await;
    world.base = Some("http://127.0.0.1:1".to_owned());
    let ran = world.deliver("").await;
    assert!(ran.err.contains("connection refused") && !ran.err.contains("no rule"), "{}", ran.err);
    assert!(ran.err.ends_with("\nerror: the table internal cannot be read from http://127.0.0.1:1\n"), "{}", ran.err);
}

#[tokio::test]
async fn a_signal_at_a_gate_reverts() {
    let world = World::new().await;
    let mut child = world.spawn(&["gitRepo=http://git/hello"]);
    let mut out = child.stdout.take().expect("piped");
    let mut shown = Vec::new();
    while !shown.ends_with(b"(ok, abort) ") {
        shown.push(out.read_u8().await.expect("comes to the gate"));
    }
    // Stays open: it is not the end of the input that reverts.
    let _stdin = child.stdin.take();
    let pid = child.id().expect("runs");
    let mut ended = None;
    // One that comes right before the shell begins to read is heeded with the next.
    for _ in 0..1200 {
        Command::new("/bin/sh").args(["-c", &format!("kill -TERM {pid}")]).status().await.expect("runs");
        ended = timeout(Duration::from_millis(100), child.wait()).await.ok();
        if ended.is_some() {
            break;
        }
    }
    assert_eq!(ended.expect("ends").expect("ended").code(), Some(1));
    assert_eq!((world.rule(), world.read("services")), ("/srv/world-v1".into(), "hello\nl5d\nworld-v1\n".into()));
}

/// The other job marks the table while this one fetches its repository.
#[tokio::test]
async fn of_two_deliveries_at_once_one_is_refused() {
    let world = World::new().await;
    let marked = TABLE.replace("/srv/world-v1", "/tmp/world-v1");
    let mark =
        format!("echo '{marked}' >\"$STATE/marked\"\nnamerctl dtab update internal \"$STATE/marked\" >/dev/null\n");
    world.write("bin/git", &(GIT.to_owned() + &mark));
    let ran = world.deliver("ok\nok\nok\n").await;
    assert_eq!((ran.code, &*ran.err), (1, "error: dtab is already marked as being deployed!\n"));
    assert_eq!((world.rule(), world.read("services")), ("/tmp/world-v1".into(), "hello\nl5d\nworld-v1\n".into()));
}

#[tokio::test]
async fn a_delivery_in_progress_is_refused() {
    let world = World::new().await;
    let marked = TABLE.replace("/srv/world-v1", "1 * /tmp/world-v2 & 9 * /tmp/world-v1");
    world.namerd.put("internal", &marked);
    let ran = world.deliver("ok\nok\nok\n").await;
    assert_eq!((ran.code, &*ran.err), (1, "error: dtab is already marked as being deployed!\n"));
    assert_eq!(world.written(), []);
    assert!(!world.read("calls").contains("apply") && !world.read("calls").contains("delete"));
}

#[tokio::test]
async fn a_version_that_cannot_be_reached_stops_it_with_the_mark_left() {
    for code in ["502", "000"] {
        let world = World::new().await;
        world.write("code", code);
        let ran = world.deliver("ok\nok\nok\n").await;
        assert_eq!((ran.code, &*ran.err), (1, "error: could not reach new service\n"));
        assert_eq!((world.rule(), world.written().len()), ("/tmp/world-v1".into(), 1));
        assert!(!world.read("calls").contains("delete"));
    }
}

#[tokio::test]
async fn another_s_rule_is_not_overwritten() {
    let world = World::new().await;
    world.namerd.race("internal", &format!("{TABLE}; /host/new => /srv/new"));
    let ran = world.deliver("ok\nok\nok\n").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("Error: unexpected response: 412 Precondition Failed\n"), "{}", ran.err);
    assert!(ran.err.ends_with("the rule could not be written (1 of 3)\n"), "{}", ran.err);
    let table = world.namerd.table("internal").expect("is there");
    assert!(table.ends_with(";/host/world=>/srv/world-v2;/host/new=>/srv/new"), "{table}");
}

/// Reads what the job shows until it asks.
async fn to_the_gate(out: &mut ChildStdout) {
    let mut text = Vec::new();
    while !text.ends_with(b"(ok, abort) ") {
        text.push(out.read_u8().await.expect("comes to the gate"));
    }
}

/// Somebody sets the rule himself before the answer to this gate.
#[tokio::test]
async fn another_s_change_of_the_job_s_own_rule_stops_it_with_both_shown() {
    let hotfix = "/srv/world-v0 | /srv/world-v1";
    let gates = [
        // The answers so far, that to this gate, what the job has set, and what it was to set.
        (0, "ok", "/tmp/world-v1", "1 * /tmp/world-v2 & 9 * /tmp/world-v1"),
        (0, "abort", "/tmp/world-v1", "/srv/world-v1"),
        (1, "ok", "1 * /tmp/world-v2 & 9 * /tmp/world-v1", "/tmp/world-v2 | /tmp/world-v1"),
        (1, "abort", "1 * /tmp/world-v2 & 9 * /tmp/world-v1", "/srv/world-v1"),
        (2, "ok", "/tmp/world-v2 | /tmp/world-v1", "/srv/world-v2"),
        (2, "abort", "/tmp/world-v2 | /tmp/world-v1", "/srv/world-v1"),
    ];
    for (gates, answer, set, was_to_set) in gates {
        for (table, shown) in [
            (TABLE.replace("/srv/world-v1", hotfix), hotfix),
            (TABLE.replace("; /host/world => /srv/world-v1", ""), "(not there)"),
        ] {
            let world = World::new().await;
            let mut child = world.spawn(&["gitRepo=http://git/hello"]);
            let (mut stdin, mut out) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            for gate in 0..=gates {
                to_the_gate(&mut out).await;
                if gate == gates {
                    world.namerd.put("internal", &table);
                }
                let said = if gate == gates { answer } else { "ok" };
                stdin.write_all(format!("{said}\n").as_bytes()).await.expect("reads");
            }
            drop(stdin);
            // What it writes has somewhere to go until it has ended.
            let ran = Ran::of(child.wait_with_output().await.expect("ends"));
            drop(out);
            let expected = format!(
                "error: /host/world in internal was changed by somebody else while this job was at it:\n  \
                 it is now          {shown}\n  this job set it to {set}\n  and was to set     {was_to_set}\n\
                 Nothing was overwritten or deleted: world-v1 and world-v2 are left, and the rule is yours to set.\n"
            );
            assert_eq!((ran.code, ran.err), (1, expected), "{gates} {answer}");
            let kept = table.parse::<Dtab>().expect("a table").to_string();
            assert_eq!(world.namerd.table("internal"), Some(kept), "{gates} {answer}");
            assert_eq!(world.read("services"), "hello\nl5d\nworld-v1\nworld-v2\n");
        }
    }
}

/// Somebody sets the rule to what the job is to set, before the answer to this gate: written in another way, but no other.
#[tokio::test]
async fn a_rule_that_is_what_the_job_would_set_is_set() {
    let gates = [
        // The answers so far, and what the answer to this gate is and sets.
        (0, "ok", "1*/tmp/world-v2 & 9.00*/tmp/world-v1"),
        (0, "abort", "/srv/world-v1"),
        (1, "ok", "/tmp/world-v2|/tmp/world-v1"),
        (1, "abort", "/srv/world-v1"),
        (2, "ok", "/srv/world-v2"),
        (2, "abort", "/srv/world-v1"),
    ];
    for (gates, answer, dst) in gates {
        let world = World::new().await;
        let table = TABLE.replace("/srv/world-v1", dst);
        let mut child = world.spawn(&["gitRepo=http://git/hello"]);
        let (mut stdin, mut out) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        for gate in 0..=gates {
            to_the_gate(&mut out).await;
            if gate == gates {
                world.namerd.put("internal", &table);
                world.namerd.asked();
            }
            let said = if gate == gates { answer } else { "ok" };
            stdin.write_all(format!("{said}\n").as_bytes()).await.expect("reads");
        }
        if answer == "ok" && gates < 2 {
            to_the_gate(&mut out).await;
            assert_eq!(world.written(), [], "{gates}");
            stdin.write_all(b"ok\nok\n").await.expect("reads");
        }
        drop(stdin);
        let ran = Ran::of(child.wait_with_output().await.expect("ends"));
        drop(out);
        let (code, err, left) = match answer {
            "abort" => (1, "error: aborted\n", "world-v1"),
            _ => (0, "", "world-v2"),
        };
        assert_eq!((ran.code, &*ran.err), (code, err), "{gates} {answer}");
        assert_eq!(world.rule(), format!("/srv/{left}"), "{gates} {answer}");
        assert_eq!(world.read("services"), format!("hello\nl5d\n{left}\n"), "{gates} {answer}");
    }
}

/// The first write is answered by an error, and another one, which is the same, is made in its place.
#[tokio::test]
async fn a_write_that_was_made_and_not_answered_is_the_job_s_own() {
    let world = World::new().await;
    world.namerd.race("internal", &TABLE.replace("/srv/world-v1", "/tmp/world-v1"));
    let ran = world.deliver("ok\nok\nok\n").await;
    // It could be that of another job, too.
    assert_eq!((ran.code, ran.err.lines().last()), (1, Some("error: dtab is already marked as being deployed!")));
    world.namerd.put("internal", TABLE);
    let mut child = world.spawn(&["gitRepo=http://git/hello"]);
    let (mut stdin, mut out) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    to_the_gate(&mut out).await;
    world.namerd.race("internal", &TABLE.replace("/srv/world-v1", "1 * /tmp/world-v2 & 9 * /tmp/world-v1"));
    stdin.write_all(b"ok\nok\nok\n").await.expect("reads");
    drop(stdin);
    let ran = Ran::of(child.wait_with_output().await.expect("ends"));
    drop(out);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.ends_with("the rule could not be written (1 of 3)\n"), "{}", ran.err);
    assert_eq!(world.rule(), "/srv/world-v2");
}

#[tokio::test]
async fn parameters_have_the_tutorial_s_defaults() {
    let world = World::new().await;
    world.namerd.put("team", TABLE);
    let mut child = world.spawn(&["k8sNamespace=k", "namerdNamespace=team", "gitBranch=next", "gitRepo=r"]);
    drop(child.stdin.take());
    Ran::of(child.wait_with_output().await.expect("ends"));
    let calls = world.read("calls");
    assert!(calls.contains("kubectl --namespace=k apply") && calls.contains("git clone --branch next"), "{calls}");
    assert!(world.namerd.lines().iter().all(|line| line.ends_with(" /api/1/dtabs/team")));
    for (parameters, text) in [
        (&[][..], "error: the parameter gitRepo is missing\n"),
        (
            &["gitrepo=x"],
            "error: gitrepo=x is no parameter: gitRepo, gitBranch, namerdNamespace and k8sNamespace are\n",
        ),
    ] {
        let ran = Ran::of(world.spawn(parameters).wait_with_output().await.expect("ends"));
        assert_eq!((ran.code, &*ran.err), (1, text));
    }
}

#[tokio::test]
async fn what_cannot_be_delivered_changes_nothing() {
    let no_world: fn(&World) = |world| world.write("services", "hello\n");
    let odd: fn(&World) = |world| world.write("services", "world-blue\n");
    let no_rule: fn(&World) = |world| drop(world.namerd.put("internal", "/svc => /host"));
    let no_text: fn(&World) = |world| world.write("repo/k8s-daemonset/helloworld/world.txt", "two\nlines\n");
    let no_namerd: fn(&World) = |world| world.namerd.say("GET", Said::status(500, ""));
    for (change, text) in [
        (no_world, "no service in default has a name that starts with world"),
        (odd, "world-blue is not world-v and a number"),
        (no_rule, "no rule for /host/world in internal"),
        (no_text, "k8s-daemonset/helloworld/world.txt is not one line of text"),
        (no_namerd, "the table internal cannot be read from NAMERD"),
    ] {
        let world = World::new().await;
        change(&world);
        let ran = world.deliver("ok\nok\nok\n").await;
        assert_eq!(ran.code, 1, "{text}");
        let text = text.replace("NAMERD", &world.namerd.url());
        assert!(ran.err.ends_with(&format!("error: {text}\n")), "{text}: {}", ran.err);
        assert_eq!(world.written(), [], "{text}");
        assert!(!world.read("calls").contains("apply"), "{text}");
    }
}

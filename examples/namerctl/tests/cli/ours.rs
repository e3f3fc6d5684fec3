//! The commands that the original does not have, but for `apply` and `plan`.

use serde_json::{Value, json};

use crate::{
    Ctl,
    fake::{Fake, Said},
};

const TABLE: &str = "/svc => /host; /host/world => /srv/world-v1";

async fn one_table() -> (Fake, Ctl) {
    let namerd = Fake::start().await;
    namerd.put("internal", TABLE);
    let ctl = Ctl::at(&namerd.url());
    (namerd, ctl)
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test]
async fn diff_shows_what_a_file_would_change() {
    let (namerd, ctl) = one_table().await;
    let file = ctl.write("f", "/svc => /host ;\n/host/world => /srv/world-v2 ;\n/new => /x");
    let ran = ctl.run(&format!("dtab diff internal {file}")).await;
    let shown = "  /svc         => /host ;
- /host/world  => /srv/world-v1 ;
+ /host/world  => /srv/world-v2 ;
+ /new         => /x ;
";
    assert_eq!((ran.code, &*ran.out, &*ran.err), (1, shown, ""));
    assert_eq!(namerd.lines(), ["GET /api/1/dtabs/internal"]);
    let ran = ctl.run(&format!("dtab diff internal {file} --json")).await;
    let old = json!([{ "prefix": "/host/world", "dst": "/srv/world-v1" }]);
    let new = json!([{ "prefix": "/host/world", "dst": "/srv/world-v2" }, { "prefix": "/new", "dst": "/x" }]);
    assert_eq!((ran.code, value(&ran.out)), (1, json!({ "namespace": "internal", "removed": old, "added": new })));

    let same = ctl.write("same", "# other spelling\n/svc=>/host;/host/world=>(/srv/world-v1)");
    assert_eq!(ctl.run(&format!("dtab diff internal {same}")).await.ok(), "");
    let ran = ctl.run(&format!("dtab diff absent {same}")).await;
    assert_eq!((ran.code, ran.out.lines().count()), (1, 2));
}

#[tokio::test]
async fn diff_of_versions_is_namerd_s() {
    let (namerd, ctl) = one_table().await;
    let shown = "  /svc => /host ;\n- /a => /b ;\n+ /a => /c ;\n";
    let same = "  /svc => /host ;\n  /a => /c ;\n";
    namerd.say("GET /api/1/diff/internal?from=1&to=2", Said::ok(shown));
    namerd.say("GET /api/1/diff/internal?from=2", Said::ok(same));
    let ran = ctl.run("dtab diff internal --from 1 --to 2").await;
    assert_eq!((ran.code, &*ran.out), (1, shown));
    assert_eq!(ctl.run("dtab diff internal --from 2").await.ok(), "");
    let ran = ctl.run("dtab diff internal --from 1 --to 2 --json").await;
    assert_eq!((ran.code, &value(&ran.out)["diff"]), (1, &json!(shown)));
    assert_eq!(value(ctl.run("dtab diff internal --from 2 --json").await.ok())["diff"], same);
    let ran = ctl.run("dtab diff internal").await;
    assert_eq!((ran.code, &*ran.out), (255, ""));
    let start = "Error: diff requires a name and file path, or a name and --from\nUsage:\n  namerctl dtab diff [name] [file] [flags]\n";
    assert!(ran.err.starts_with(start), "{}", ran.err);
}

#[tokio::test]
async fn history_shows_who_when_and_why() {
    let (namerd, ctl) = one_table().await;
    let changes = json!([
        { "seq": 12, "version": null, "at": "2026-11-22T03:00:01Z", "who": "ann", "why": "gone & done", "dtab": null },
        { "seq": 9, "version": "VjE=", "at": "2026-11-22T03:00:00Z", "who": null, "why": null, "dtab": [{ "prefix": "/a", "dst": "/b" }] },
    ]);
    namerd.say("GET /api/1/history/internal", Said::ok(changes.to_string()));
    let shown = "\
SEQ  VERSION  AT                    WHO  WHY          ENTRIES
 12  -        2026-11-22T03:00:01Z  ann  gone & done  deleted
  9  VjE=     2026-11-22T03:00:00Z  -    -                  1
";
    assert_eq!(ctl.run("dtab history internal").await.ok(), shown);
    assert_eq!(namerd.lines(), ["GET /api/1/history/internal"]);
    assert_eq!(value(ctl.run("dtab history internal --limit 2 --json").await.ok()), changes);
    assert_eq!(namerd.lines(), ["GET /api/1/history/internal?limit=2"]);
    let ran = ctl.run("dtab history absent/x").await;
    assert_eq!(
        (ran.code, &*ran.out, &*ran.err),
        (255, "", "Error: no history of absent/x: there is no such table, or this namerd cannot tell\n")
    );
}

#[tokio::test]
async fn history_of_a_composed_table_is_that_of_its_parts() {
    let (namerd, ctl) = one_table().await;
    let change = |name: &str, seq: u64| json!({ "namespace": name, "seq": seq, "version": "VjE=", "at": "2026-11-22T03:00:00Z", "who": "ann", "why": null, "dtab": [] });
    let changes = json!([change("team/web", 2), change("base", 7)]).to_string();
    let note = "299 namerd \"namespace all is made of base + team/*: these are the changes of its parts\"";
    namerd.say("GET /api/1/history/all", Said::ok(changes).with("warning", note));
    let shown = "\
NAMESPACE  SEQ  VERSION  AT                    WHO  WHY  ENTRIES
team/web     2  VjE=     2026-11-22T03:00:00Z  ann  -          0
base         7  VjE=     2026-11-22T03:00:00Z  ann  -          0
";
    let said = "warning: namespace all is made of base + team/*: these are the changes of its parts\n";
    let ran = ctl.run("dtab history all").await;
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, shown, said));
    let ran = ctl.run("dtab history all --json").await;
    assert_eq!((ran.code, &value(&ran.out)[1]["namespace"], &*ran.err), (0, &json!("base"), said));
}

#[tokio::test]
async fn rollback_restores_a_table_if_nobody_wrote_meanwhile() {
    let (namerd, ctl) = one_table().await;
    let now = namerd.put("internal", "/a => /b");
    assert_eq!(
        ctl.run_args(&["dtab", "rollback", "internal", "1", "--reason", "v2 fails"]).await.ok(),
        "Rolled back internal to 1\n"
    );
    let asked = namerd.asked().pop().expect("was asked");
    assert_eq!(asked.line(), "POST /api/1/rollback/internal?to=1");
    assert_eq!((asked.header("if-match"), asked.header("l5d-reason")), (&*now, "v2 fails"));
    assert_eq!(namerd.table("internal").expect("is there"), TABLE.replace(' ', ""));

    let ran = ctl.run(&format!("dtab rollback internal 1 --version {now}")).await;
    let text = format!("Error: internal was changed by others: it is not at version {now}\n");
    assert_eq!((ran.code, &*ran.out, ran.err), (255, "", text));
    let json = ctl.run("dtab rollback internal 1 --json").await;
    assert_eq!(value(json.ok()), json!({ "namespace": "internal", "result": "rolled back", "to": 1 }));
    // What was deleted has no version.
    assert_eq!(ctl.run("dtab delete internal").await.code, 0);
    assert_eq!(ctl.run("dtab rollback internal 1").await.ok(), "Rolled back internal to 1\n");
    assert_eq!(ctl.run("dtab rollback internal 99").await.err, "Error: no number 99 in a history of internal\n");
}

#[tokio::test]
async fn delegate_shows_each_step() {
    let (namerd, ctl) = one_table().await;
    let tree = r#"{"type":"delegate","path":"/svc/a b","delegate":{"type":"neg","path":"/host/a","dentry":{"prefix":"/svc","dst":"/host"}}}"#;
    namerd.say("GET /api/1/delegate/internal?", Said::ok(format!("{tree}\n")));
    let shown = "/svc/a b\n  /host/a  (/svc => /host)  ~ nothing there\n";
    assert_eq!(ctl.run_args(&["dtab", "delegate", "internal", "/svc/a b"]).await.ok(), shown);
    assert_eq!(namerd.lines(), ["GET /api/1/dtabs/internal", "GET /api/1/delegate/internal?path=/svc/a%20b"]);
    let json = ctl.run_args(&["dtab", "delegate", "internal", "/svc", "--dtab", "/a=>/b;/c=>/d", "--json"]).await;
    assert_eq!(json.ok(), format!("{tree}\n"));
    assert_eq!(namerd.lines()[1], "GET /api/1/delegate/internal?path=/svc&dtab=/a%3D%3E/b%3B/c%3D%3E/d");
}

#[tokio::test]
async fn delegate_in_a_table_that_is_not_there_is_an_error() {
    let (namerd, ctl) = one_table().await;
    // As namerd has it: what is not there is empty.
    namerd.say("GET /api/1/delegate/absent", Said::ok(r#"{"type":"neg","path":"/svc"}"#));
    for flags in ["", "--json", "--dtab /svc=>/x"] {
        let ran = ctl.run(&format!("dtab delegate absent /svc {flags}")).await;
        let text = "Error: resource was not found by ID or name\n";
        assert_eq!((ran.code, &*ran.out, &*ran.err), (255, "", text), "{flags}");
    }
}

#[tokio::test]
async fn delete_may_depend_on_the_version() {
    let (namerd, ctl) = one_table().await;
    let ran = ctl.run("dtab delete internal --version OLD=").await;
    assert_eq!((ran.code, &*ran.out), (255, "unexpected response: 412 Precondition Failed\n"));
    let asked = namerd.one();
    assert_eq!((asked.header("if-match"), asked.header("prefer")), ("OLD=", "handling=strict"));
    let now = namerd.put("internal", "/a => /b");
    assert_eq!(ctl.run(&format!("dtab rm internal --version={now}")).await.ok(), "Deleted internal\n");
    assert_eq!(namerd.table("internal"), None);
    // Without the flag, or with nothing in it, what is sent is the original's.
    namerd.asked();
    for flag in ["", "--version="] {
        namerd.put("internal", TABLE);
        assert_eq!(ctl.run(&format!("dtab delete internal {flag}")).await.ok(), "Deleted internal\n");
        let asked = namerd.one();
        assert_eq!((asked.header("if-match"), asked.header("prefer")), ("", ""));
    }
}

#[tokio::test]
async fn watch_shows_changes_and_asks_again() {
    let (namerd, ctl) = one_table().await;
    let state = |dst: &str| json!([{ "prefix": "/svc", "dst": "/host" }, { "prefix": "/a", "dst": dst }]).to_string();
    // The stream ends, and the next one begins with what is known.
    let states = format!("{}\n\n{}\n", state("/1"), state("/2"));
    namerd.say("GET /api/1/dtabs/internal?watch=true", Said::ok(states));
    let ran = ctl.run("dtab watch internal --count 3").await;
    let shown = "\
/svc  => /host ;
/a    => /1 ;

  /svc  => /host ;
- /a    => /1 ;
+ /a    => /2 ;

  /svc  => /host ;
- /a    => /2 ;
+ /a    => /1 ;

";
    assert_eq!((ran.code, &*ran.out), (0, shown));
    assert_eq!(ran.err, "namerctl: the connection was closed; asking again in 100ms\n");
    assert_eq!(namerd.lines().len(), 2);

    let json = ctl.run("dtab watch internal --count=2 --json").await;
    assert_eq!(json.ok(), format!("{}\n{}\n", state("/1"), state("/2")));
    namerd.say("GET /api/1/dtabs?watch=true", Said::ok("[\"a\",\"b\"]\n"));
    assert_eq!(ctl.run("dtab watch --count 1").await.ok(), "a\nb\n\n");
    let ran = ctl.run("dtab watch absent").await;
    assert_eq!((ran.code, &*ran.err), (255, "Error: resource was not found by ID or name\n"));
}

#[tokio::test]
async fn check_tells_errors_and_warnings_and_writes_nothing() {
    let (namerd, ctl) = one_table().await;
    let verdict = json!({ "errors": ["/a delegates to itself"], "warnings": ["nobody reaches /b"] });
    namerd.say("POST /api/1/check/internal", Said::ok(verdict.to_string()));
    let file = ctl.write("f", "/a => /a & /b");
    let ran = ctl.run(&format!("dtab check internal {file}")).await;
    assert_eq!((ran.code, &*ran.out), (1, "error: /a delegates to itself\nwarning: nobody reaches /b\n"));
    let asked = namerd.one();
    assert_eq!((asked.header("content-type"), &*asked.body), ("application/dtab", "/a => /a & /b"));
    let ran = ctl.run(&format!("dtab check internal {file} --json")).await;
    let full = json!({ "namespace": "internal", "errors": verdict["errors"], "warnings": verdict["warnings"] });
    assert_eq!((ran.code, value(&ran.out)), (1, full));

    namerd.say("POST /api/1/check/internal", Said::ok(r#"{"errors":[],"warnings":["x"]}"#));
    let ran = ctl.run(&format!("dtab check internal {file}")).await;
    assert_eq!((ran.code, &*ran.out), (0, "warning: x\n"));
    // Its place in the file, without asking.
    namerd.asked();
    let bad = ctl.write("bad", "/a => /b;\n/c -> /d");
    let ran = ctl.run(&format!("dtab check internal {bad}")).await;
    assert_eq!((ran.code, ran.out), (1, format!("error: {bad}: line 2, column 4: '=' expected but '-' found\n")));
    assert_eq!(namerd.lines(), [""; 0]);
}

#[tokio::test]
async fn who_asks_and_why_is_sent() {
    let (namerd, ctl) = one_table().await;
    let file = ctl.write("f", "/a => /b");
    assert_eq!(ctl.run(&format!("dtab update internal {file} --reason=ticket-7 --token s3cret")).await.code, 0);
    let asked = namerd.one();
    assert_eq!((asked.header("l5d-reason"), asked.header("authorization")), ("ticket-7", "Bearer s3cret"));
    let ctl = ctl.with("NAMERCTL_TOKEN", "of-env");
    assert_eq!(ctl.run("dtab get internal").await.code, 0);
    assert_eq!(namerd.one().header("authorization"), "Bearer of-env");
    assert_eq!(ctl.run("dtab get internal --token of-flag").await.code, 0);
    assert_eq!(namerd.one().header("authorization"), "Bearer of-flag");
    // What could be another header is not sent.
    let ran = ctl.run_args(&["dtab", "delete", "internal", "--reason", "a\nb: c"]).await;
    assert_eq!((ran.code, &*ran.out), (255, "a reason is one line of at most 4096 bytes\n"));
    let ran = ctl.run_args(&["dtab", "list", "--token", "a\nb"]).await;
    assert_eq!((ran.code, &*ran.out), (255, "the token has characters that no header may have\n"));
}

#[tokio::test]
async fn every_shell_has_its_completion() {
    let ctl = Ctl::new();
    for (shell, part) in [
        ("bash", "complete -F _namerctl"),
        ("zsh", "#compdef namerctl"),
        ("fish", "complete -c namerctl"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let ran = ctl.run(&format!("completion {shell}")).await;
        assert!(ran.ok().contains(part) && ran.out.contains("rollback"), "{shell}");
    }
    let ran = ctl.run("completion tcsh").await;
    assert_eq!(
        (ran.code, &*ran.out),
        (255, "invalid argument \"tcsh\" for [shell]: not one of bash elvish fish powershell zsh\n")
    );
}

#[tokio::test]
async fn answers_that_cannot_be_are_told() {
    let (namerd, ctl) = one_table().await;
    namerd.say("GET", Said::ok("<html>"));
    for line in ["dtab get internal", "dtab list", "dtab history internal", "dtab delegate internal /a"] {
        let ran = ctl.run(line).await;
        assert_eq!(ran.code, 255, "{line}");
        assert!(ran.err.contains("not as expected: expected value at line 1 column 1"), "{line}: {}", ran.err);
    }
    namerd.say("GET", Said::ok("<html>\n"));
    let ran = ctl.run("dtab watch internal").await;
    assert!(ran.code == 255 && ran.err.contains("a state that is not as expected"), "{}", ran.err);
}

#[tokio::test]
async fn the_page_has_every_command_and_flag_and_its_settings_are_read() {
    let page = crate::docs();
    let ctl = Ctl::new();
    let dtab = ctl.run("dtab").await;
    let commands = dtab.ok().split("Available Commands:\n").nth(1).expect("commands");
    let commands = commands.lines().map_while(|line| line.strip_prefix("  ")).filter_map(|line| line.split(' ').next());
    for command in commands {
        assert!(
            page.contains(&format!("`dtab {command} ")) || page.contains(&format!("`dtab {command}`")),
            "{command}"
        );
        let help = ctl.run(&format!("dtab {command} --help")).await;
        for flag in help.ok().split_whitespace().filter(|word| word.starts_with("--") && *word != "--help") {
            assert!(page.contains(flag), "{command} {flag}");
        }
    }
    let settings = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("settings");
    ctl.write(".namerctl.yaml", &settings.replace("http://namerd.example.com:4180", "namerd"));
    assert_eq!(ctl.run("dtab list").await.out, "invalid base URL: namerd\n");
}

//! `apply`: what it writes, what it leaves, and what it does when others write too.

use serde_json::{Value, json};

use crate::{Ctl, fake::Fake};

const BASE: &str = "/svc => /host; /host/a => /srv/a1; /host/b => /srv/b1";

async fn one_table() -> (Fake, Ctl, String) {
    let namerd = Fake::start().await;
    let version = namerd.put("ns", BASE);
    let ctl = Ctl::at(&namerd.url());
    (namerd, ctl, version)
}

#[track_caller]
fn assert_table(namerd: &Fake, name: &str, text: &str) {
    assert_eq!(namerd.table(name), Some(text.replace(' ', "")));
}

#[tokio::test]
async fn a_file_becomes_what_namerd_has_and_again_nothing() {
    let (namerd, ctl, version) = one_table().await;
    let text = BASE.replace("a1", "a2");
    let file = ctl.write("f", &text);
    let ran = ctl.run(&format!("dtab apply ns {file} --reason try")).await;
    assert_eq!(ran.ok(), "- /host/a  => /srv/a1 ;\n+ /host/a  => /srv/a2 ;\nApplied ns\n");
    let asked = namerd.asked();
    let put = asked.iter().find(|asked| asked.method == "PUT").expect("writes");
    assert_eq!((put.header("if-match"), put.header("l5d-reason")), (&*version, "try"));
    assert_table(&namerd, "ns", &text);

    let ran = ctl.run(&format!("dtab apply ns {file}")).await;
    assert_eq!(ran.ok(), "No change: ns has it already (version VERSION2=)\n");
    assert_eq!(namerd.lines(), ["GET /api/1/dtabs/ns"]);
    assert_eq!(ctl.read("f"), text);
}

#[tokio::test]
async fn a_table_that_is_not_there_is_created() {
    let (namerd, ctl, _) = one_table().await;
    let ran = ctl.run_with_input("dtab apply new -", "/a => /b").await;
    assert_eq!(ran.ok(), "Created new\n");
    assert_eq!(namerd.lines(), ["GET /api/1/dtabs/new", "POST /api/1/dtabs/new"]);
    assert_table(&namerd, "new", "/a => /b");
    // Another makes it at the same time: both are there, and what both made is seen.
    namerd.race("both", "/c => /d");
    assert_eq!(ctl.run_with_input("dtab apply both -", "/a => /b").await.code, 0);
    assert_table(&namerd, "both", "/c => /d; /a => /b");
    namerd.race("clash", "/a => /d");
    assert_eq!(ctl.run_with_input("dtab apply clash -", "/a => /b").await.code, 1);
    assert_table(&namerd, "clash", "/a => /d");
}

#[tokio::test]
async fn the_version_in_a_file_says_what_others_changed() {
    let (namerd, ctl, version) = one_table().await;
    let mine = format!("# version {version}\n{}", BASE.replace("a1", "a2"));
    let file = ctl.write("f", &mine);
    namerd.put("ns", &BASE.replace("b1", "b2"));
    let ran = ctl.run(&format!("dtab apply ns {file}")).await;
    assert_eq!(ran.ok(), "- /host/a  => /srv/a1 ;\n+ /host/a  => /srv/a2 ;\nApplied ns, with what others changed\n");
    assert_table(&namerd, "ns", &BASE.replace("a1", "a2").replace("b1", "b2"));
    // The file has not what the others changed: it is still made from what it was made from, and safe to repeat.
    assert_eq!(ctl.read("f"), mine);
    namerd.asked();
    let ran = ctl.run(&format!("dtab apply ns {file} --json")).await;
    let report = json!({ "namespace": "ns", "result": "unchanged", "version": "VERSION3=", "merged": true });
    assert_eq!(serde_json::from_str::<Value>(ran.ok()).expect("JSON"), report);
    assert_eq!(namerd.lines(), ["GET /api/1/dtabs/ns", "GET /api/1/history/ns"]);
}

#[tokio::test]
async fn the_version_in_a_file_follows_what_was_written() {
    let (namerd, ctl, version) = one_table().await;
    let mine = BASE.replace("a1", "a2");
    let file = ctl.write("f", &format!("# mine\n# version {version}\n{mine}"));
    assert_eq!(ctl.run(&format!("dtab apply ns {file}")).await.code, 0);
    assert_eq!(ctl.read("f"), format!("# mine\n# version VERSION2=\n{mine}"));
    // So the next change is against that: the others' is not taken back.
    namerd.put("ns", &mine.replace("b1", "b2"));
    ctl.write("f", &ctl.read("f").replace("a2", "a3"));
    assert_eq!(ctl.run(&format!("dtab apply ns {file}")).await.code, 0);
    assert_table(&namerd, "ns", &BASE.replace("a1", "a3").replace("b1", "b2"));
}

#[tokio::test]
async fn what_both_changed_is_shown_and_nothing_is_written() {
    let (namerd, ctl, version) = one_table().await;
    let file = ctl.write("f", &format!("# version {version}\n/svc => /host; /host/a => /srv/a2"));
    namerd.put("ns", &BASE.replace("a1", "a3").replace("b1", "b3"));
    let ran = ctl.run(&format!("dtab apply ns {file}")).await;
    let shown = "\
/host/a
  base    /srv/a1
  mine    /srv/a2
  theirs  /srv/a3
/host/b
  base    /srv/b1
  mine    (not there)
  theirs  /srv/b3
Conflict: ns was changed by others; nothing was written
";
    assert_eq!((ran.code, &*ran.out, &*ran.err), (1, shown, ""));
    let ran = ctl.run(&format!("dtab apply ns {file} --json")).await;
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, &report["result"], &report["version"]), (1, &json!("conflict"), &json!("VERSION2=")));
    let clash = json!({ "prefix": "/host/b", "base": "/srv/b1", "mine": null, "theirs": "/srv/b3" });
    assert_eq!(report["conflicts"][1], clash);
    assert!(namerd.lines().iter().all(|line| line.starts_with("GET ")));
}

#[tokio::test]
async fn a_write_between_reading_and_writing_is_not_lost() {
    let (namerd, ctl, _) = one_table().await;
    let file = ctl.write("f", &BASE.replace("a1", "a2"));
    namerd.race("ns", &BASE.replace("b1", "b2"));
    namerd.race("ns", &format!("{}; /c => /d", BASE.replace("b1", "b2")));
    let ran = ctl.run(&format!("dtab apply ns {file}")).await;
    assert!(ran.ok().ends_with("Applied ns, with what others changed\n"), "{}", ran.out);
    let both = format!("{}; /c => /d", BASE.replace("a1", "a2").replace("b1", "b2"));
    assert_table(&namerd, "ns", &both);
    let puts = namerd.lines().iter().filter(|line| line.starts_with("PUT ")).count();
    assert_eq!(puts, 3);
    // Or both are shown.
    let file = ctl.write("f", &both.replace("a2", "a3"));
    namerd.race("ns", &both.replace("a2", "a4"));
    let ran = ctl.run(&format!("dtab apply ns {file}")).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("  base    /srv/a2\n  mine    /srv/a3\n  theirs  /srv/a4\n"), "{}", ran.out);
}

#[tokio::test]
async fn two_that_apply_at_once_lose_nothing() {
    let (namerd, ctl, version) = one_table().await;
    let files: Vec<_> = (0..4)
        .map(|i| ctl.write(&format!("f{i}"), &format!("# version {version}\n{BASE}; /new/{i} => /x/{i}")))
        .collect();
    let lines: Vec<_> = files.iter().map(|file| format!("dtab apply ns {file}")).collect();
    let (a, b, c, d) = tokio::join!(ctl.run(&lines[0]), ctl.run(&lines[1]), ctl.run(&lines[2]), ctl.run(&lines[3]));
    for ran in [a, b, c, d] {
        assert_eq!((ran.code, &*ran.err), (0, ""), "{}", ran.out);
    }
    let table = namerd.table("ns").expect("is there");
    for i in 0..4 {
        assert!(table.contains(&format!("/new/{i}=>/x/{i}")), "{table}");
    }
}

#[tokio::test]
async fn others_that_never_stop_end_it() {
    let (namerd, ctl, _) = one_table().await;
    for i in 0..20 {
        namerd.race("ns", &format!("{BASE}; /c => /d{i}"));
    }
    let file = ctl.write("f", &BASE.replace("a1", "a2"));
    let ran = ctl.run(&format!("dtab apply ns {file}")).await;
    let text = "Error: ns is being changed by others: 8 times it was not what it had just been\n";
    assert_eq!((ran.code, &*ran.out, &*ran.err), (255, "", text));
    assert_eq!(namerd.lines().iter().filter(|line| line.starts_with("PUT ")).count(), 8);
}

#[tokio::test]
async fn the_base_is_a_file_or_of_the_history() {
    let (namerd, ctl, version) = one_table().await;
    let theirs = BASE.replace("b1", "b2");
    let wanted = BASE.replace("a1", "a2").replace("b1", "b2");
    let file = ctl.write("f", &BASE.replace("a1", "a2"));
    let base = ctl.write("base", BASE);
    for base in [&*base, "1", &version] {
        namerd.put("ns", &theirs);
        assert_eq!(ctl.run(&format!("dtab apply ns {file} --base {base}")).await.code, 0, "{base}");
        assert_table(&namerd, "ns", &wanted);
    }
    // Without one the file is the whole truth.
    namerd.put("ns", &theirs);
    assert_eq!(ctl.run(&format!("dtab apply ns {file}")).await.code, 0);
    assert_table(&namerd, "ns", &BASE.replace("a1", "a2"));

    for (base, text) in [
        ("99", "no table number 99 in the history of ns".to_owned()),
        (
            "XX=",
            format!(
                "version XX=, which {file} was made from, is not in the history of ns: say by --base what it was made from"
            ),
        ),
    ] {
        namerd.put("ns", &theirs);
        let ran = ctl.run(&format!("dtab apply ns {file} --base {base}")).await;
        assert_eq!((ran.code, ran.err), (255, format!("Error: {text}\n")));
    }
    assert_eq!(ctl.run("dtab delete ns").await.code, 0);
    let ran = ctl.run(&format!("dtab apply ns {file} --base {version}")).await;
    let start = format!("Error: ns is not there, though {file} was made from one of its versions");
    assert!(ran.code == 255 && ran.err.starts_with(&start), "{}", ran.err);
}

#[tokio::test]
async fn what_is_no_table_is_not_sent() {
    let (namerd, ctl, _) = one_table().await;
    let file = ctl.write("f", "/a => /b\n/c");
    let ran = ctl.run(&format!("dtab apply ns {file}")).await;
    assert_eq!((ran.code, &*ran.out), (255, ""));
    assert!(ran.err.starts_with(&format!("Error: {file}: line 2, column 1: ")), "{}", ran.err);
    assert_eq!(namerd.lines(), [""; 0]);
}

//! What namerd refuses, in its words, and what to do about it.

use linkerd_dtab::namerd::{Builder, Composition, Part, Peer, Protection};

use crate::{
    Ctl,
    fake::{Fake, Said},
    real::{Real, ns},
};

/// One table, `ns`.
async fn namerd(set: impl FnOnce(Builder) -> Builder) -> (Real, Ctl) {
    let namerd = Real::with(&[], "/a => /b", Peer::default(), set).await;
    let ctl = Ctl::at(&namerd.url());
    (namerd, ctl)
}

#[tokio::test]
async fn what_has_no_such_past_is_told_with_what_there_is() {
    let part = Part { fragments: "ns".parse().expect("a pattern"), owns: Vec::new() };
    let (_namerd, ctl) = namerd(|namerd| namerd.compose(Composition { namespace: ns("all"), parts: vec![part] })).await;
    ctl.write("f", "/a => /c");
    assert_eq!(ctl.run("dtab update ns f").await.ok(), "Updated ns\n");
    let composed = "namespace all is made of ns, and has no changes of its own: ask for those of one of these";
    let missing = "the history of namespace ns has no record 9: there are 1 to 2";
    for (line, text) in [
        ("diff all --from 1", composed),
        ("diff all --from 1 --to 2 --json", composed),
        ("rollback all 1", composed),
        ("diff ns --from 9", missing),
        ("rollback ns 9", missing),
    ] {
        let ran = ctl.run(&format!("dtab {line}")).await;
        assert_eq!((ran.code, &*ran.out, ran.err), (255, "", format!("Error: {text}\n")), "{line}");
    }
    let ran = ctl.run("dtab diff ns --from 1").await;
    assert_eq!((ran.code, &*ran.out, &*ran.err), (1, "- /a => /b ;\n+ /a => /c ;\n", ""));
    for line in ["diff ns --from 1 --to 1", "diff ns --from 2", "diff ns --from 0 --to 0"] {
        assert_eq!(ctl.run(&format!("dtab {line}")).await.ok(), "", "{line}");
    }
    ctl.run("dtab diff ns --from 2 --json").await.ok();
    assert_eq!(ctl.run("dtab diff all f").await.ok(), "", "the whole is compared with a file as any other table");
}

#[tokio::test]
async fn a_table_that_needs_a_version_says_by_which_flag() {
    let protection = Protection { needs_version: true, ..Protection::new("*".parse().expect("a pattern")) };
    let (namerd, ctl) = namerd(|namerd| namerd.protect(protection)).await;
    ctl.write("f", "/a => /c");
    let text = "ns is protected: say which version is meant by --version, which `namerctl dtab get ns` shows\n";
    for command in ["delete ns", "update ns f"] {
        let ran = ctl.run(&format!("dtab {command}")).await;
        assert_eq!((ran.code, &*ran.out), (255, text), "{command}");
        assert!(ran.err.starts_with(&format!("Error: {text}Usage:\n")), "{}", ran.err);
    }
    assert_eq!(namerd.table(), "/a=>/b");
    for (command, said) in [("update ns f", "Updated ns\n"), ("delete ns", "Deleted ns\n")] {
        let shown = ctl.run("dtab get ns").await;
        let version = shown.ok().lines().next().and_then(|line| line.strip_prefix("# version ")).expect("a version");
        assert_eq!(ctl.run(&format!("dtab {command} --version {version}")).await.ok(), said);
    }
    // What is not there has none, and that is said, too.
    assert_eq!(ctl.run("dtab rollback ns 1").await.ok(), "Rolled back ns to 1\n");
    assert_eq!(namerd.table(), "/a=>/b");
}

#[tokio::test]
async fn a_table_that_needs_a_version_and_is_not_there_says_how_it_is_made() {
    let protection = Protection { needs_version: true, ..Protection::new("*".parse().expect("a pattern")) };
    let (_namerd, ctl) = namerd(|namerd| namerd.protect(protection)).await;
    ctl.write("f", "/a => /c");
    let ran = ctl.run("dtab update new f").await;
    let text = "Error: new is protected, and is not there: `namerctl dtab create` or `apply` makes it\n";
    assert!(ran.code == 255 && ran.err.starts_with(text), "{}", ran.err);
    let ran = ctl.run("dtab delete new").await;
    assert!(ran.code == 255 && ran.err.starts_with("Error: resource was not found by ID or name\n"), "{}", ran.err);
    // Both do.
    assert_eq!(ctl.run("dtab create new f").await.ok(), "Created new\n");
    ctl.run("dtab apply newer f").await.ok();
    assert_eq!(ctl.run("dtab get newer").await.code, 0);
}

#[tokio::test]
async fn a_table_that_is_there_again_is_not_rolled_back_unseen() {
    let namerd = Fake::start().await;
    namerd.say("POST /api/1/rollback/gone", Said::status(412, ""));
    let ran = Ctl::at(&namerd.url()).run("dtab rollback gone 1").await;
    let asked = namerd.asked().pop().expect("was asked");
    assert_eq!((asked.header("if-none-match"), asked.header("if-match")), ("*", ""));
    let text = "Error: gone was changed by others: it was deleted, and is there again\n";
    assert_eq!((ran.code, &*ran.err), (255, text));
}

#[tokio::test]
async fn a_watch_that_is_refused_says_why() {
    let namerd = Fake::start().await;
    namerd.say("GET /api/1/dtabs/x?watch=true", Said::status(403, "somebody may not read namespace x"));
    let ran = Ctl::at(&namerd.url()).run("dtab watch x").await;
    let text = "namerd: somebody may not read namespace x\nError: unexpected response: 403 Forbidden\n";
    assert_eq!((ran.code, &*ran.err), (255, text));
}

#[tokio::test]
async fn what_is_said_is_fit_for_a_terminal() {
    let namerd = Fake::start().await;
    let ctl = Ctl::at(&namerd.url());
    for (said, shown) in [
        (Said::status(500, "a\x1b[2J\rb\n"), "namerd: a?[2J?b\n".to_owned()),
        (Said::status(502, "<html>").with("content-type", "text/html; charset=utf-8"), String::new()),
        (Said::status(500, "x".repeat(100_000)), format!("namerd: {}...\n", "x".repeat(8192))),
    ] {
        let status = said.status;
        namerd.say("GET /api/1/dtabs", said);
        let ran = ctl.run("dtab list").await;
        assert_eq!((ran.code, ran.out.starts_with(&format!("unexpected response: {status} "))), (255, true));
        assert!(ran.err.starts_with(&format!("{shown}Error: ")), "{:.300}", ran.err);
    }
    namerd.say("GET /api/1/diff/x", Said::status(404, "<html>").with("content-type", "text/html"));
    let ran = ctl.run("dtab diff x --from 1").await;
    assert_eq!(ran.err, "Error: no diff of x: there is no such table, or this namerd cannot tell\n");
}

#[tokio::test]
async fn a_table_has_a_name() {
    let namerd = Fake::start().await;
    let ctl = Ctl::at(&namerd.url());
    ctl.write("f", "/a => /b");
    for command in ["get", "delete", "history", "watch", "diff", "create", "update", "apply", "check", "plan"] {
        let mut args = vec!["dtab", command, ""];
        if !["get", "delete", "history", "watch"].contains(&command) {
            args.push("f");
        }
        let ran = ctl.run_args(&args).await;
        assert!(ran.code == 255 && ran.err.starts_with("Error: empty dtab name\n"), "{command}: {}", ran.err);
    }
    for args in [["dtab", "rollback", "", "1"], ["dtab", "delegate", "", "/a"]] {
        assert_eq!(ctl.run_args(&args).await.err, "Error: empty dtab name\n");
    }
    assert_eq!(namerd.lines(), [""; 0]);
}

#[tokio::test]
async fn a_watch_is_shown_whole_states_alone() {
    let namerd = Fake::start().await;
    let ctl = Ctl::at(&namerd.url());
    // It ends without a line's end, and the next time in the middle of one.
    let mut answers = ["[\"a\"]\n[\"b\"]", "[\"c", "[\"d\"]"].into_iter();
    namerd.say_by("GET /api/1/dtabs?watch=true", move || answers.next().map(Said::ok));
    let ran = ctl.run("dtab watch --count 3").await;
    assert_eq!((ran.code, &*ran.out), (0, "a\n\nb\n\nd\n\n"));
    let closed = "namerctl: the connection was closed";
    let said = format!("{closed}; asking again in 100ms\n{closed} in the middle of a state; asking again in 200ms\n");
    assert_eq!(ran.err, said);

    namerd.say("GET /api/1/dtabs/x?watch=true", Said::ok("<html>").with("content-type", "text/html"));
    let ran = ctl.run("dtab watch x").await;
    assert_eq!((ran.code, &*ran.err), (255, "Error: an answer that is not as expected: text/html\n"));
}

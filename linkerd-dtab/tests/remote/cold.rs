//! Starts without a namerd.

use std::{fs, path::PathBuf};

use linkerd_dtab::interpreter::remote::{Recalled, Snapshots};
use tempfile::TempDir;

use super::*;

fn file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names.json");
    (folder, file)
}

fn remote(source: &Fake, snapshots: Snapshots) -> Remote {
    Remote::builder(source.clone()).pauses(PAUSES).snapshots(snapshots).build()
}

/// Leaves a snapshot in which /svc/web is /#/a at port 1.
async fn known(file: &PathBuf) {
    let remote = remote(&Fake::new(Mode::Up("/#/a", 1)), Snapshots::new(file, "us"));
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/a").await;
    addr(&tree).ready().await.unwrap();
    remote.save().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn begins_with_what_was_known_last() {
    for away in [Mode::Down, Mode::Silent] {
        let (_folder, file) = file();
        known(&file).await;
        let namerd = Fake::new(away);
        let remote = remote(&namerd, Snapshots::new(&file, "us"));
        let mut tree = bind(&remote, "/svc/web");
        becomes(&mut tree, "/#/a").await;
        let addr = addr(&tree);
        until("the address is recalled", || addr.sample().ok() == Some(at(1))).await;
        assert!(tree.snapshot().stale.is_some() && addr.snapshot().stale.is_some());
        // What was not known is not made up.
        let new = bind(&remote, "/svc/new");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(shown(&new).starts_with("failed: "), "{}", shown(&new));

        namerd.becomes(Mode::Up("/#/b", 2));
        becomes(&mut tree, "/#/b").await;
        until("freshness", || tree.snapshot().stale.is_none()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_answers_in_time_is_believed() {
    let (_folder, file) = file();
    known(&file).await;
    let namerd = Fake::new(Mode::Silent);
    let remote = remote(&namerd, Snapshots::new(&file, "us").after(Duration::from_secs(2)));
    let mut tree = bind(&remote, "/svc/web");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shown(&tree), "pending");
    namerd.becomes(Mode::Up("/#/b", 2));
    tree.changed().await;
    assert_eq!(shown(&tree), "/#/b");
    assert!(tree.snapshot().stale.is_none());
}

#[tokio::test(start_paused = true)]
async fn says_how_old_it_is() {
    let (_folder, file) = file();
    known(&file).await;
    let remote = remote(&Fake::new(Mode::Silent), Snapshots::new(&file, "us"));
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/a").await;
    let stale = tree.snapshot().stale.unwrap();
    let Some(Recalled { age }) = stale.downcast_ref() else { panic!("{stale}") };
    assert!(*age < PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_or_not_ours_or_garbage_is_not_used() {
    let (_folder, file) = file();
    known(&file).await;
    let good = fs::read_to_string(&file).unwrap();
    let check = async |text: &str, snapshots: Snapshots| {
        fs::write(&file, text).unwrap();
        let mut tree = bind(&remote(&Fake::new(Mode::Down), snapshots), "/svc/web");
        becomes(&mut tree, "failed: down").await;
    };
    let ours = || Snapshots::new(&file, "us");
    check(&good, Snapshots::new(&file, "them")).await;
    check(&good, ours().max_age(Duration::ZERO)).await;
    let mut old: serde_json::Value = serde_json::from_str(&good).unwrap();
    old["names"][0]["at"] = 1_000_000_000.into();
    check(&old.to_string(), ours()).await;
    for garbage in ["", "{", "[]", "null", &good[..good.len() / 2], &good.replace("leaf", "loaf")] {
        check(garbage, ours()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn is_written_when_something_changes_and_not_over_good_news_by_bad() {
    let (_folder, file) = file();
    let namerd = Fake::new(Mode::Up("/#/a", 1));
    let remote = remote(&namerd, Snapshots::new(&file, "us").interval(Duration::from_secs(5)));
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/a").await;
    until("a file", || fs::read_to_string(&file).is_ok_and(|text| text.contains("/#/a"))).await;
    namerd.becomes(Mode::Up("/#/b", 2));
    until("another", || fs::read_to_string(&file).is_ok_and(|text| text.contains("/#/b"))).await;
    namerd.becomes(Mode::Down);
    until("staleness", || tree.snapshot().stale.is_some()).await;
    remote.save().await.unwrap();
    assert!(fs::read_to_string(&file).unwrap().contains("/#/b"));
    // Nothing else is left in the folder.
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asked_for_this_time_is_kept() {
    let (_folder, file) = file();
    known(&file).await;
    let second = remote(&Fake::new(Mode::Up("/#/b", 2)), Snapshots::new(&file, "us"));
    let mut tree = bind(&second, "/svc/other");
    becomes(&mut tree, "/#/b").await;
    second.save().await.unwrap();
    let third = remote(&Fake::new(Mode::Down), Snapshots::new(&file, "us"));
    becomes(&mut bind(&third, "/svc/web"), "/#/a").await;
    becomes(&mut bind(&third, "/svc/other"), "/#/b").await;
}

//! The program as it stands, against a server on loopback.

use std::{fs, path::Path, process::Output, time::Duration};

use helloworld::{Options, serve};
use tokio::{process::Command, time::timeout};

/// Runs the program in a folder.
async fn run(folder: &Path) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_embed")).current_dir(folder).kill_on_drop(true).output();
    timeout(Duration::from_mins(2), program).await.expect("it ends").expect("it starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn it_sends_to_what_the_folder_lists() {
    let users = serve(Options { addr: "127.0.0.1:0".into(), ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("disco")).unwrap();
    fs::write(folder.path().join("disco/users"), format!("127.0.0.1 {}\n", users.addr().port())).unwrap();

    let output = run(folder.path()).await;

    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output), "200 OK\n");
    assert_eq!(users.requests(), 1);
}

#[tokio::test]
async fn it_fails_when_nothing_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("disco")).unwrap();

    let output = run(folder.path()).await;

    assert!(!output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/svc/users"), "{stderr}");
}

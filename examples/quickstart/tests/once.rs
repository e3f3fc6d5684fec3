//! The demonstration as a new user runs it.

use std::{process::Output, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    process::Command,
    time::timeout,
};

const LONG: Duration = Duration::from_mins(2);

async fn run(args: &[&str]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_quickstart")).args(args).kill_on_drop(true).output();
    timeout(LONG, program).await.expect("it ends").expect("it starts")
}

#[tokio::test]
async fn once_shows_everything_and_ends_well() {
    let output = run(&["--once"]).await;

    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{stdout}", String::from_utf8_lossy(&output.stderr));
    for text in [
        r#"50 requests: 50 x "Hello world!!""#,
        r#"50 requests: 50 x "Hello earth!!""#,
        "% are for version 2",
        "200 /admin/metrics/prometheus",
    ] {
        assert!(stdout.contains(text), "{text}\n{stdout}");
    }
}

#[tokio::test]
async fn a_delivery_is_shown_and_ends_well() {
    let output = run(&["--delivery", "--once"]).await;

    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{stdout}", String::from_utf8_lossy(&output.stderr));
    for text in [
        "300 requests: 300 x world, 0 x hal, open the pod bay doors, 0 x worse, 0 failed",
        "  /host/world => /tmp/world-v2 | /tmp/world-v1",
        "300 requests: 0 x world, 300 x hal, open the pod bay doors, 0 x worse, 0 failed",
        "  /host/world => /srv/world-v2",
        " requests, 0 failed",
    ] {
        assert!(stdout.contains(text), "{text}\n{stdout}");
    }
}

#[tokio::test]
async fn it_stays_until_it_is_interrupted() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    let mut program = program.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let invited = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("until Ctrl-C") {
                return;
            }
        }
        panic!("it ended");
    };
    timeout(LONG, invited).await.unwrap();

    let id = program.id().unwrap().to_string();
    let interrupted = Command::new("kill").args(["-INT", &id]).status().await.unwrap();
    assert!(interrupted.success());
    let ended = timeout(LONG, program.wait()).await.unwrap().unwrap();

    let mut rest = String::new();
    lines.into_inner().read_to_string(&mut rest).await.unwrap();
    assert!(ended.success(), "{rest}");
    assert!(rest.ends_with("\nending\n") && rest.contains("/config.json"), "{rest}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();

    let output = run(&["--once", "--port", &port.to_string()]).await;

    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&format!("router demo: cannot listen on 127.0.0.1:{port}: ")), "{stderr}");
}

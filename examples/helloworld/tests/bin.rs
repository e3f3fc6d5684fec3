//! The program: its flags, environment, first line and exit codes.

use std::process::{Output, Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};

fn helloworld(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_helloworld"));
    for name in ["TARGET_WORLD", "POD_IP", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"] {
        command.env_remove(name);
    }
    command.args(args).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run(args: &[&str]) -> Output {
    helloworld(args).output().await.expect("runs")
}

#[tokio::test]
async fn prints_where_it_listens_and_answers_with_text_and_address_of_the_environment() {
    let mut child = helloworld(&["-addr=127.0.0.1:0", "-text", "world"])
        .env("TARGET_WORLD", "earth")
        .env("POD_IP", "10.0.0.1")
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next_line().await.expect("reads").expect("prints a line");
    let addr = line.strip_prefix("starting HTTP server on ").expect("the original's line");

    let mut stream = TcpStream::connect(addr).await.expect("listens");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    assert!(answer.ends_with("\r\n\r\nearth (10.0.0.1)!"), "{answer}");
}

#[tokio::test]
async fn a_bad_flag_exits_2_with_the_flags() {
    let out = run(&["-latency", "5"]).await;
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2));
    assert!(text.starts_with("invalid value \"5\" for flag -latency: parse error\nusage: helloworld"), "{text}");
}

#[tokio::test]
async fn what_cannot_start_exits_1_and_says_why() {
    for (args, text) in [
        (&["-protocol=grpc"][..], "protocol grpc is not supported yet\n"),
        (&["-addr=7777"], "address \"7777\" is not host:port or :port\n"),
        (&["-addr=127.0.0.1:0", "-target=wor ld"], "target \"wor ld\" does not make a URL\n"),
    ] {
        let out = run(args).await;
        assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(1), text), "{args:?}");
    }
}

#[tokio::test]
async fn help_exits_0() {
    let out = run(&["-help"]).await;
    assert!(out.status.success() && out.stdout.starts_with(b"usage: helloworld"));
}

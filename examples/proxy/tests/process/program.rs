//! A program of this repository that serves: the proxy and namerd log alike, and so their tests are told alike.

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// Whatever has not happened by then does not happen.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// The program, initialized.
pub(crate) struct Program {
    child: Child,
    log: watch::Receiver<Vec<String>>,
    pub(crate) admin: SocketAddr,
    /// What it serves beside that, in the order of the file.
    pub(crate) servers: Vec<SocketAddr>,
}

impl Program {
    /// Starts it with this on its standard input, and waits until it is initialized.
    pub(crate) async fn start(mut command: Command, input: &[u8]) -> Self {
        let mut child = command.kill_on_drop(true).stderr(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).await.unwrap();
        let (said, log) = watch::channel(Vec::new());
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                said.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
        let admin = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut program = Self { child, log, admin, servers: Vec::new() };
        program.logged("initialized").await;
        for line in program.log.borrow().iter() {
            let Some((_, serving)) = line.split_once("serving ") else { continue };
            let (who, addr) = serving.rsplit_once(" on ").unwrap();
            let addr = addr.parse().unwrap();
            if who == "http admin" { program.admin = addr } else { program.servers.push(addr) }
        }
        program
    }

    /// Waits for a line of its log that has this, and returns it.
    pub(crate) async fn logged(&self, text: &str) -> String {
        let mut log = self.log.clone();
        let has = |line: &&String| line.contains(text);
        let found = timeout(LONG, log.wait_for(|lines| lines.iter().any(|line| has(&line)))).await;
        match found {
            Ok(Ok(lines)) => lines.iter().find(has).unwrap().clone(),
            _ => panic!("no {text:?} in {:#?}", *self.log.borrow()),
        }
    }

    /// Its log so far.
    #[allow(dead_code)] // Not by all of those that include this file.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.pid().to_string();
        assert!(Command::new("kill").args([name, &id]).status().await.unwrap().success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(LONG, self.child.wait()).await.expect("it ends").unwrap()
    }
}

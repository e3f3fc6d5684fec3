//! Where a program of this repository runs in a test, with what it reads.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{harness::PROGRAM, program::LONG};

/// A folder that the program runs in, with what it reads.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// One with nothing in it.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, b"").await
    }

    /// The same, with this on its standard input.
    pub(crate) async fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that does not read it may have ended already.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        timeout(LONG, child.wait_with_output()).await.expect("it ends").unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(self.root()).kill_on_drop(true).stderr(Stdio::piped());
        command
    }
}

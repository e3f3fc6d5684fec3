//! The program against a namerd that the tests are: what it sends, prints and ends with.

mod apply;
mod delivery;
mod delivery_live;
mod fake;
mod original;
mod ours;
mod plan;
mod predicted;
mod real;
mod refused;
mod tls;
mod watched;

use std::{
    path::Path,
    process::{Output, Stdio},
};

use tokio::{io::AsyncWriteExt, process::Command};

/// What the program did.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self {
            code: output.status.code().expect("ended by itself"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// What it printed, if all went well and nothing was to be said of it.
    fn ok(&self) -> &str {
        assert_eq!((self.code, &*self.err), (0, ""), "{}", self.out);
        &self.out
    }
}

/// The page about it.
fn docs() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/namerctl.md");
    std::fs::read_to_string(page).expect("is there")
}

/// The program in a folder of its own, in a clean environment.
#[derive(Debug)]
struct Ctl {
    dir: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

impl Ctl {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), env: Vec::new() }
    }

    /// With the environment's base URL.
    fn at(url: &str) -> Self {
        Self::new().with("NAMERCTL_BASE_URL", url)
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(Path::new(&path).parent().expect("a folder")).expect("makes folders");
        std::fs::write(&path, text).expect("writes");
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("reads")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_namerctl"));
        command.args(args).current_dir(self.dir.path()).kill_on_drop(true);
        command.env_remove("NAMERCTL_BASE_URL").env_remove("NAMERCTL_TOKEN");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it with these words, which a space separates.
    async fn run(&self, line: &str) -> Ran {
        self.run_args(&line.split_whitespace().collect::<Vec<_>>()).await
    }

    async fn run_args(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().await.expect("runs"))
    }

    async fn run_with_input(&self, line: &str, input: &str) -> Ran {
        let args: Vec<_> = line.split_whitespace().collect();
        let mut child = self.command(&args).stdin(Stdio::piped()).spawn().expect("runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.expect("reads");
        drop(stdin);
        Ran::of(child.wait_with_output().await.expect("ends"))
    }
}

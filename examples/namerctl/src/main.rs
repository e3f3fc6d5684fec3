//! `namerctl`: changes and shows the delegation tables of a namerd. `namerctl help` lists the commands.

mod base;
mod cli;
mod client;
mod command;
mod diff;
mod error;
mod merge;
mod namerd;
mod table;
mod text;
mod traffic;
mod usage;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches};

use crate::{
    cli::{Cli, Command, DtabCommand},
    error::{Error, Outcome},
    usage::{Chosen, Mistake},
};

/// What the original exits with, whatever went wrong.
const FAILED: u8 = 255;

fn main() -> ExitCode {
    let words: Vec<String> = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let root = Cli::command();
    let (chosen, rest) = Chosen::find(&root, &words);
    let cli = match parse(&root, &chosen, &rest, &words) {
        Ok(Some(cli)) => cli,
        Ok(None) => return print(&chosen.help(), 0),
        Err(mistake) => return refuse(&mistake),
    };
    match cli.command {
        Some(Command::Help(args)) => {
            let (topic, unknown) = Chosen::find(&root, &args.topic);
            if !unknown.is_empty() {
                note(&format!("Unknown help topic [`{}`]", args.topic.join(" ")));
            }
            print(&topic.help(), 0)
        }
        Some(Command::Completion(args)) => match args.shell {
            Some(shell) => print(&command::completion(shell), 0),
            None => refuse(&chosen.mistake("completion requires a shell")),
        },
        Some(Command::Dtab(args)) => {
            let is_original = args.command.as_ref().is_some_and(DtabCommand::is_original);
            match run(&cli.global, args) {
                Ok(Outcome { text, code }) => print(&text, code),
                Err(error) => fail(&error, &chosen, is_original),
            }
        }
        None => print(&chosen.help(), 0),
    }
}

/// The command line; `None` if help is asked for.
fn parse(root: &clap::Command, chosen: &Chosen<'_>, rest: &[String], words: &[String]) -> Result<Option<Cli>, Mistake> {
    let words = std::iter::once("namerctl").chain(words.iter().map(String::as_str));
    let matches = match root.clone().try_get_matches_from(words) {
        // As the original has it: `namerctl dtab help`.
        Err(_) if !chosen.runs() && rest == ["help"] => return Ok(None),
        other => other.map_err(|error| chosen.explain(&error, rest))?,
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| chosen.explain(&error, rest))?;
    let is_bare = matches!(&cli.command, Some(Command::Dtab(args)) if args.command.is_none());
    Ok((!cli.global.help && !is_bare).then_some(cli))
}

fn run(global: &cli::Global, args: cli::DtabArgs) -> Result<Outcome, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Other(format!("cannot start: {error}")))?;
    runtime.block_on(command::run(global, args))
}

fn print(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(FAILED),
        _ => ExitCode::from(code),
    }
}

/// Text for stdout before the command ends.
fn say(text: &str) {
    print(text, 0);
}

/// A line on stderr.
fn note(line: &str) {
    // There is nobody left to tell if this fails.
    let _ = writeln!(io::stderr(), "{line}");
}

/// As the original: what is wrong and how to do it on stderr, what is wrong on stdout too.
fn refuse(mistake: &Mistake) -> ExitCode {
    note(&format!("Error: {}\n{}", mistake.text, mistake.advice.trim_end_matches('\n')));
    if mistake.advice.ends_with("\n\n") {
        note("");
    }
    print(&format!("{}\n", mistake.text), FAILED)
}

/// The original's commands end as it does. The others say it once: what they print is for programs too.
fn fail(error: &Error, chosen: &Chosen<'_>, is_original: bool) -> ExitCode {
    if let Error::Unexpected { explanation, .. } = error
        && !explanation.is_empty()
    {
        note(&format!("namerd: {explanation}"));
    }
    if is_original {
        return refuse(&chosen.mistake(error.to_string()));
    }
    note(&format!("Error: {error}"));
    if matches!(error, Error::Words(_)) {
        note(&chosen.usage());
    }
    ExitCode::from(FAILED)
}

//! The commands and their flags.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

const ABOUT: &str = "\
namerctl changes and shows the delegation tables that a namerd keeps for its
linkerds.

It asks namerd over HTTP, at the base URL: that of the flag, else of the
environment's NAMERCTL_BASE_URL, else of the key base-url in a file
.namerctl.<ext>, where <ext> is json, toml, yaml or yml, in the working
directory or the nearest one above it that has such a file.";

const BASE_URL: &str = "namer location (e.g. http://namerd.example.com:4080)";
const TOKEN: &str = "bearer token that says who asks (default that of NAMERCTL_TOKEN)";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "namerctl",
    about = ABOUT,
    disable_help_flag = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    args_override_self = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command takes.
#[derive(Args, Debug)]
pub(crate) struct Global {
    #[arg(long, help = BASE_URL, value_name = "string", global = true, allow_hyphen_values = true)]
    pub(crate) base_url: Option<String>,
    /// config file
    #[arg(long, value_name = "string", global = true, allow_hyphen_values = true, value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[arg(long, help = TOKEN, value_name = "string", global = true, allow_hyphen_values = true)]
    pub(crate) token: Option<String>,
    /// certificates to trust with https, PEM (default the system's)
    #[arg(long, value_name = "file", global = true, value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,
    /// certificate that says who asks, PEM
    #[arg(long, value_name = "file", global = true, value_hint = ValueHint::FilePath)]
    pub(crate) cert: Option<PathBuf>,
    /// key of the certificate, PEM
    #[arg(long, value_name = "file", global = true, value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
    // Named by each command's help itself: "help for list".
    #[arg(long, short, global = true, action = ArgAction::SetTrue, hide = true)]
    pub(crate) help: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Control namerd's delegation tables
    Dtab(DtabArgs),
    /// Generate the completion script for a shell
    Completion(CompletionArgs),
    /// Help about any command
    Help(HelpArgs),
}

#[derive(Args, Debug)]
pub(crate) struct HelpArgs {
    #[arg(value_name = "command")]
    pub(crate) topic: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "shell")]
    pub(crate) shell: Option<Shell>,
}

#[derive(Args, Debug)]
pub(crate) struct DtabArgs {
    #[command(flatten)]
    pub(crate) output: Output,
    /// why, for the history
    #[arg(long, value_name = "string", global = true, allow_hyphen_values = true)]
    pub(crate) reason: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<DtabCommand>,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// input/output in json instead of text
    #[arg(
        long, global = true, num_args = 0..=1, require_equals = true, value_parser = parse_bool,
        default_value = "false", default_missing_value = "true"
    )]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DtabCommand {
    /// Write a file to a delegation table, keeping what others changed meanwhile
    // It has the most flags.
    Apply(Box<ApplyArgs>),
    /// Check a file as if it were written, and write nothing
    Check(FileArgs),
    #[command(about = "Create a new delegation table.", alias = "new")]
    Create(FileArgs),
    /// Show how a name is resolved
    Delegate(DelegateArgs),
    #[command(about = "Delete a delegation by name.", aliases = ["del", "rm"])]
    Delete(DeleteArgs),
    /// Compare a table with a file, or two versions of it
    Diff(DiffArgs),
    /// Get a delegation table by name
    #[command(alias = "cat")]
    Get(GetArgs),
    /// Show who changed a table, when and why
    History(HistoryArgs),
    /// List delegation table names
    #[command(alias = "ls")]
    List(ListArgs),
    /// Show which names a file would move, and how much of the traffic
    Plan(PlanArgs),
    /// Restore a table as it was
    Rollback(RollbackArgs),
    #[command(about = "Update a delegation table.", alias = "up")]
    Update(UpdateArgs),
    /// Follow a table, or the list of names
    Watch(WatchArgs),
}

/// Words beyond those that a command takes; it says itself that they are too many.
#[derive(Args, Debug)]
pub(crate) struct Rest {
    #[arg(hide = true)]
    pub(crate) rest: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) rest: Rest,
}

#[derive(Args, Debug)]
pub(crate) struct NameArgs {
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) rest: Rest,
}

#[derive(Args, Debug)]
pub(crate) struct FileArgs {
    pub(crate) name: Option<String>,
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<String>,
    #[command(flatten)]
    pub(crate) rest: Rest,
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// pretty-print dtabs (default true)
    #[arg(
        long, num_args = 0..=1, require_equals = true, value_parser = parse_bool,
        default_value = "true", default_missing_value = "true"
    )]
    pub(crate) pretty: bool,
    #[command(flatten)]
    pub(crate) of: NameArgs,
}

#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// only perform update if the current version matches
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) version: String,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// only delete if the current version matches
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) version: String,
    #[command(flatten)]
    pub(crate) of: NameArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// what the file was made from: a file, or a version or number of the history (default the file's "# version" line)
    #[arg(long, value_name = "string", value_hint = ValueHint::FilePath)]
    pub(crate) base: Option<String>,
    /// write nothing if a name in use would have no endpoints
    #[arg(long)]
    pub(crate) strict: bool,
    /// watch the proxies for so long, and take the change back if too many requests for names that it moves fail
    #[arg(long, value_name = "duration", value_parser = parse_duration)]
    pub(crate) watch: Option<Duration>,
    /// the lowest success rate that --watch keeps, from 0 to 1 (default 0.95)
    #[arg(long, value_name = "rate", value_parser = parse_rate)]
    pub(crate) min_success: Option<f64>,
    /// how many requests --watch decides by, at least (default 20)
    #[arg(long, value_name = "n")]
    pub(crate) min_requests: Option<u64>,
    #[command(flatten)]
    pub(crate) proxies: ProxyArgs,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

/// Whose counters are read.
#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {
    /// admin page of a proxy whose traffic counts; may be given again
    #[arg(long, value_name = "url", action = ArgAction::Append)]
    pub(crate) proxy: Vec<String>,
    /// only the traffic of this router; may be given again
    #[arg(long, value_name = "label", action = ArgAction::Append)]
    pub(crate) router: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// number in the history to compare from
    #[arg(long, value_name = "seq")]
    pub(crate) from: Option<u64>,
    /// number in the history to compare to (default the newest)
    #[arg(long, value_name = "seq")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// show so many changes, the newest first (default all that namerd keeps)
    #[arg(long, value_name = "n")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) of: NameArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    /// only if the current version matches (default the version that is there when the command starts)
    #[arg(long, value_name = "string", allow_hyphen_values = true)]
    pub(crate) version: Option<String>,
    pub(crate) name: Option<String>,
    /// number in the history
    pub(crate) seq: Option<u64>,
    #[command(flatten)]
    pub(crate) rest: Rest,
}

#[derive(Args, Debug)]
pub(crate) struct DelegateArgs {
    /// entries to append to the table, as l5d-dtab does
    #[arg(long, value_name = "string")]
    pub(crate) dtab: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) path: Option<String>,
    #[command(flatten)]
    pub(crate) rest: Rest,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// end after so many states (default never)
    #[arg(long, value_name = "n")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) of: NameArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) proxies: ProxyArgs,
    /// Prometheus whose series of the proxies to weigh
    #[arg(long, value_name = "url")]
    pub(crate) metrics: Option<String>,
    /// how long to look at the traffic; 0 for all since the proxies started (default 5s, of a Prometheus 2m)
    #[arg(long, value_name = "duration", value_parser = parse_duration)]
    pub(crate) window: Option<Duration>,
    /// exit with 1 if a name in use would have no endpoints
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

impl DtabCommand {
    /// The name of the table that it is about.
    pub(crate) fn name(&self) -> Option<&str> {
        let name = match self {
            Self::List(_) => return None,
            Self::Apply(args) => &args.of.name,
            Self::Check(args) | Self::Create(args) => &args.name,
            Self::Delegate(args) => &args.name,
            Self::Delete(args) => &args.of.name,
            Self::Diff(args) => &args.of.name,
            Self::Get(args) => &args.of.name,
            Self::History(args) => &args.of.name,
            Self::Plan(args) => &args.of.name,
            Self::Rollback(args) => &args.name,
            Self::Update(args) => &args.of.name,
            Self::Watch(args) => &args.of.name,
        };
        name.as_deref()
    }

    /// Whether the original has it, and so how it ends.
    pub(crate) fn is_original(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Delete(_) | Self::Get(_) | Self::List(_) | Self::Update(_))
    }
}

impl Rest {
    /// Whether the command line has no more words than the command takes.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")),
    }
}

/// `5s`, `500ms`, `2m` or `0`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis = match (number, unit) {
        ("0", "") => Some(0),
        (_, "ms") => Some(1),
        (_, "s") => Some(1_000),
        (_, "m") => Some(60_000),
        _ => None,
    };
    let duration = number.parse::<u64>().ok().zip(millis).and_then(|(number, millis)| number.checked_mul(millis));
    match duration.map(Duration::from_millis) {
        Some(duration) if duration <= Duration::from_hours(1) => Ok(duration),
        Some(_) => Err("more than an hour".into()),
        None => Err("not a number of ms, s or m".into()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| "not a number from 0 to 1".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units_and_a_bound() {
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("60m"), Ok(Duration::from_hours(1)));
        for bad in ["", "5", "s", "-1s", "61m", "99999999999999999999s", "1h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_is_a_share() {
        assert_eq!([parse_rate("0"), parse_rate("0.99"), parse_rate("1")], [Ok(0.0), Ok(0.99), Ok(1.0)]);
        for bad in ["99", "-0.1", "NaN", "99%", ""] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}

//! The command line, in the style of Linkerd 1.x: one dash, `-name`, `-name=value` or `-name value`.

use std::{fmt, num::NonZeroUsize, path::PathBuf, str::FromStr};

use tracing_subscriber::filter::LevelFilter;

/// As many as a file may ask for.
const MAX_WORKERS: usize = 1024;

/// A command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    /// The configuration.
    pub config: ConfigSource,
    /// Only find out whether it could be served.
    pub validate: bool,
    /// How much is logged.
    pub log_level: Level,
    /// How many threads serve requests.
    pub workers: Option<NonZeroUsize>,
}

/// Where the configuration comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// To serve.
    Run(Flags),
    /// How it is used.
    Help,
    /// Which version it is.
    Version,
}

/// A log level, by Linkerd's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub LevelFilter);

/// A mistake on the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake(String);

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Level {
    type Err = Mistake;

    fn from_str(name: &str) -> Result<Self, Mistake> {
        Ok(Self(match name.to_ascii_uppercase().as_str() {
            "OFF" => LevelFilter::OFF,
            "FATAL" | "CRITICAL" | "ERROR" => LevelFilter::ERROR,
            "WARNING" | "WARN" => LevelFilter::WARN,
            "INFO" => LevelFilter::INFO,
            "DEBUG" => LevelFilter::DEBUG,
            "TRACE" | "ALL" => LevelFilter::TRACE,
            _ => return Err(Mistake(format!("-log.level: {name} is no level"))),
        }))
    }
}

impl Command {
    /// Reads a command line, without the program's own name.
    ///
    /// # Errors
    ///
    /// The first mistake in it.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, Mistake> {
        let mut args = args.into_iter();
        let (mut config, mut validate, mut log_level, mut workers) = (None, false, Level(LevelFilter::INFO), None);
        while let Some(arg) = args.next() {
            let flag = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|flag| !flag.is_empty());
            let Some(flag) = flag else {
                let source = if arg == "-" { ConfigSource::Stdin } else { ConfigSource::File(arg.into()) };
                if config.replace(source).is_some() {
                    return Err(Mistake("more than one configuration is given".into()));
                }
                continue;
            };
            let (name, mut value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "help" | "h" => return Ok(Self::Help),
                "version" => return Ok(Self::Version),
                "validate" => {
                    validate = match value.as_deref() {
                        None | Some("true") => true,
                        Some("false") => false,
                        Some(value) => return Err(Mistake(format!("-validate: {value} is neither true nor false"))),
                    }
                }
                "log.level" => {
                    let value = value.take().or_else(|| args.next());
                    let value = value.ok_or_else(|| Mistake("-log.level: the level is missing".into()))?;
                    log_level = value.parse()?;
                }
                "workers" => {
                    let value = value.take().or_else(|| args.next());
                    let value = value.ok_or_else(|| Mistake("-workers: the number is missing".into()))?;
                    let number = value.parse().ok().filter(|n: &NonZeroUsize| n.get() <= MAX_WORKERS);
                    workers =
                        Some(number.ok_or_else(|| Mistake(format!("-workers: {value} is not 1 to {MAX_WORKERS}")))?);
                }
                _ => return Err(Mistake(format!("-{name} is no flag"))),
            }
        }
        let config = config.ok_or_else(|| Mistake("no configuration is given".into()))?;
        Ok(Self::Run(Flags { config, validate, log_level, workers }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::parse(line.split_whitespace().map(str::to_owned)).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn flags_come_with_one_dash_or_two_before_or_after_the_file() {
        let flags = Flags {
            config: ConfigSource::File("a.yaml".into()),
            validate: true,
            log_level: Level(LevelFilter::DEBUG),
            workers: NonZeroUsize::new(3),
        };
        for line in [
            "-validate -log.level=DEBUG -workers=3 a.yaml",
            "a.yaml --validate -log.level debug --workers 3",
            "-validate=true -log.level DEBUG -workers 3 a.yaml",
        ] {
            let Ok(Command::Run(parsed)) = parse(line) else { panic!("{line}") };
            assert_eq!(parsed, flags, "{line}");
        }
        let Ok(Command::Run(flags)) = parse("-") else { panic!("stdin") };
        assert_eq!(flags.config, ConfigSource::Stdin);
    }

    #[test]
    fn a_mistake_is_named() {
        for (line, text) in [
            ("", "no configuration is given"),
            ("a b", "more than one configuration is given"),
            ("-nope a", "-nope is no flag"),
            ("-log.level loud a", "-log.level: loud is no level"),
            ("a -log.level", "-log.level: the level is missing"),
            ("-workers 0 a", "-workers: 0 is not 1 to 1024"),
            ("-workers=many a", "-workers: many is not 1 to 1024"),
            ("a -workers", "-workers: the number is missing"),
            ("-validate=maybe a", "-validate: maybe is neither true nor false"),
        ] {
            assert_eq!(parse(line), Err(text.to_owned()), "{line}");
        }
    }
}

//! The command line, in the style of Linkerd 1.x: one dash, `-name`, `-name=value` or `-name value`.

use std::{fmt, path::PathBuf, str::FromStr};

use tracing_subscriber::filter::LevelFilter;

/// What is printed for `-help`, and after a mistake.
pub(crate) const USAGE: &str = "\
usage: linkerd [flags] <config>

  <config>           a file in Linkerd 1.x's YAML or JSON; - reads it from standard input

flags:
  -validate          build everything that the file says but the sockets, report every problem, and end
  -log.level LEVEL   OFF, ERROR, WARNING, INFO (default), DEBUG or TRACE
  -help              print this and end
  -version           print the version and end

exit status: 0 after a shutdown or a file without problems, 1 if the file or an address cannot be used, 64 after a
mistake on the command line
";

/// A command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) config: ConfigSource,
    pub(crate) validate: bool,
    pub(crate) log_level: Level,
}

/// Where the configuration comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConfigSource {
    Stdin,
    File(PathBuf),
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run(Flags),
    Help,
    Version,
}

/// A log level, by Linkerd's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(pub(crate) LevelFilter);

/// A mistake on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake(String);

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
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, Mistake> {
        let mut args = args.into_iter();
        let (mut config, mut validate, mut log_level) = (None, false, Level(LevelFilter::INFO));
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
                _ => return Err(Mistake(format!("-{name} is no flag"))),
            }
        }
        let config = config.ok_or_else(|| Mistake("no configuration is given".into()))?;
        Ok(Self::Run(Flags { config, validate, log_level }))
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
        };
        for line in ["-validate -log.level=DEBUG a.yaml", "a.yaml --validate -log.level debug", "-validate=true -log.level DEBUG a.yaml"] {
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
            ("-validate=maybe a", "-validate: maybe is neither true nor false"),
        ] {
            assert_eq!(parse(line), Err(text.to_owned()), "{line}");
        }
    }
}

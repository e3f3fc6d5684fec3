//! The command line, in the manner of Go's `flag` package: `-addr :7777`, `-addr=:7777` and `--addr` are one.

use crate::{Options, duration};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Flags {
    /// Serve HTTP.
    Serve(Options),
    /// Print [`Flags::USAGE`].
    Help,
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Usage {
    /// There is no such flag.
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    /// The last flag has no value.
    #[error("flag needs an argument: -{0}")]
    NeedsArgument(&'static str),
    /// A value does not fit its flag.
    #[error("invalid value {value:?} for flag -{flag}: {problem}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with the value.
        problem: &'static str,
    },
    /// Something that is not a flag.
    #[error("unexpected argument {0:?}: every setting is a flag")]
    Unexpected(String),
    /// A protocol that is known and not there yet.
    #[error("protocol grpc is not supported yet")]
    Grpc,
    /// A protocol that nobody knows.
    #[error("unsupported protocol: {0}")]
    Protocol(String),
}

impl Flags {
    /// The flags, one a line.
    pub const USAGE: &str = "\
usage: helloworld [flags]

  -addr string          address to serve on (default \":7777\")
  -text string          text to serve (default \"Hello\"); the environment variable TARGET_WORLD overrides it
  -target string        target service to call before returning
  -latency duration     time to sleep before processing a request, as in 200ms (default 0)
  -failure-rate float   rate of error responses to return, from 0 to 1 (default 0)
  -json                 return JSON instead of plain text
  -protocol string      API protocol: http (default \"http\")

environment: TARGET_WORLD, POD_IP, http_proxy, no_proxy
";

    /// Reads a command line, without the program's name, and the environment through `env`.
    ///
    /// Of a flag that stands twice the last one counts. An environment variable that is empty counts as absent.
    ///
    /// # Errors
    ///
    /// The first flag at fault.
    pub fn parse(args: impl IntoIterator<Item = String>, env: impl Fn(&str) -> Option<String>) -> Result<Self, Usage> {
        let mut options = Options::default();
        let mut protocol = String::from("http");
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|f| !f.is_empty()) else {
                return Err(Usage::Unexpected(arg));
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = |flag| inline.clone().or_else(|| args.next()).ok_or(Usage::NeedsArgument(flag));
            match name {
                "addr" => options.addr = value("addr")?,
                "text" => options.text = value("text")?,
                "target" => options.target = Some(value("target")?).filter(|t| !t.is_empty()),
                "latency" => options.latency = checked("latency", value("latency")?, "parse error", duration::parse)?,
                "failure-rate" => {
                    let rate: f64 = checked("failure-rate", value("failure-rate")?, "parse error", |v| v.parse().ok())?;
                    if !(0.0..=1.0).contains(&rate) {
                        let (flag, value) = ("failure-rate", rate.to_string());
                        return Err(Usage::Invalid { flag, value, problem: "not between 0.0 and 1.0" });
                    }
                    options.failure_rate = rate;
                }
                // A boolean takes no second argument, or `-json false` could not be told from a flag and a word.
                "json" => options.json = inline.map_or(Ok(true), |v| checked("json", v, "parse error", boolean))?,
                "protocol" => protocol = value("protocol")?,
                "h" | "help" => return Ok(Self::Help),
                _ => return Err(Usage::Undefined(name.to_owned())),
            }
        }
        match protocol.as_str() {
            "http" => {}
            "grpc" => return Err(Usage::Grpc),
            _ => return Err(Usage::Protocol(protocol)),
        }

        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        if let Some(text) = env("TARGET_WORLD") {
            options.text = text;
        }
        options.pod_ip = env("POD_IP");
        options.http_proxy = env("HTTP_PROXY").or_else(|| env("http_proxy"));
        options.no_proxy = env("NO_PROXY").or_else(|| env("no_proxy"));
        Ok(Self::Serve(options))
    }
}

fn checked<T>(
    flag: &'static str,
    value: String,
    problem: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Usage> {
    parse(&value).ok_or(Usage::Invalid { flag, value, problem })
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, Usage> {
        parse_with(args, &[])
    }

    fn parse_with(args: &[&str], env: &[(&str, &str)]) -> Result<Flags, Usage> {
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Flags::parse(args.iter().map(|arg| (*arg).to_owned()), env)
    }

    fn options(args: &[&str]) -> Options {
        let Ok(Flags::Serve(options)) = parse(args) else { panic!("{args:?}: {:?}", parse(args)) };
        options
    }

    #[test]
    fn no_flags_give_the_defaults() {
        assert_eq!(options(&[]), Options::default());
    }

    #[test]
    fn a_value_may_follow_or_be_joined_after_one_dash_or_two() {
        for args in [&["-addr", ":1"][..], &["-addr=:1"], &["--addr", ":1"], &["--addr=:1"]] {
            assert_eq!(options(args).addr, ":1", "{args:?}");
        }
    }

    #[test]
    fn every_flag_reaches_its_option() {
        let args =
            ["-text=api", "-target", "hello", "-json", "-latency=200ms", "-failure-rate", "0.5", "-protocol=http"];
        let expected = Options {
            text: "api".into(),
            target: Some("hello".into()),
            json: true,
            latency: Duration::from_millis(200),
            failure_rate: 0.5,
            ..Options::default()
        };
        assert_eq!(options(&args), expected);
        assert!(!options(&["-json", "-json=false"]).json);
        assert_eq!(parse(&["-addr=:1", "-help"]), Ok(Flags::Help));
    }

    #[test]
    fn errors_name_the_flag_and_its_value() {
        for (args, text) in [
            (&["-port=1"][..], "flag provided but not defined: -port"),
            (&["-addr"], "flag needs an argument: -addr"),
            (&["-latency=5"], "invalid value \"5\" for flag -latency: parse error"),
            (&["-failure-rate=x"], "invalid value \"x\" for flag -failure-rate: parse error"),
            (&["-failure-rate=1.5"], "invalid value \"1.5\" for flag -failure-rate: not between 0.0 and 1.0"),
            (&["-failure-rate=NaN"], "invalid value \"NaN\" for flag -failure-rate: not between 0.0 and 1.0"),
            (&["-json=maybe"], "invalid value \"maybe\" for flag -json: parse error"),
            (&["-json", "false"], "unexpected argument \"false\": every setting is a flag"),
            (&["-"], "unexpected argument \"-\": every setting is a flag"),
            (&["-protocol", "grpc"], "protocol grpc is not supported yet"),
            (&["-protocol", "thrift"], "unsupported protocol: thrift"),
        ] {
            assert_eq!(parse(args).unwrap_err().to_string(), text, "{args:?}");
        }
    }

    #[test]
    fn the_environment_fills_what_has_no_flag_and_overrides_the_text() {
        let env = [("TARGET_WORLD", "earth"), ("POD_IP", "10.0.0.1"), ("http_proxy", "p:4140"), ("NO_PROXY", "x")];
        let Ok(Flags::Serve(options)) = parse_with(&["-text=world"], &env) else { panic!() };
        assert_eq!(options.text, "earth");
        assert_eq!(options.pod_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(options.http_proxy.as_deref(), Some("p:4140"));
        assert_eq!(options.no_proxy.as_deref(), Some("x"));

        let Ok(Flags::Serve(options)) = parse_with(&["-text=world"], &[("TARGET_WORLD", ""), ("POD_IP", "")]) else {
            panic!()
        };
        assert_eq!((options.text.as_str(), options.pod_ip), ("world", None));
    }
}

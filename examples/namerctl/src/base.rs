//! Where namerd is: a flag, the environment, a file.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use http::Uri;
use saphyr_parser::{Event, Parser};

use crate::error::Error;

/// The extensions of files of settings, in the order in which they are looked for in a folder.
const EXTENSIONS: [&str; 4] = ["json", "toml", "yaml", "yml"];

/// Those that the original reads as well.
const OTHERS: [&str; 4] = ["properties", "props", "prop", "hcl"];

/// The largest file of settings, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Where a server is: scheme, host, and what all paths begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// Whether it is asked over TLS.
    pub(crate) secure: bool,
    /// As it stands in the URL.
    pub(crate) authority: String,
    /// Without a slash at its end.
    pub(crate) prefix: String,
}

impl Base {
    /// From what was given: the flag, else the environment's, else that of a file.
    pub(crate) fn find(flag: Option<&str>, config: Option<&Path>) -> Result<Self, Error> {
        let given = |text: &&str| !text.is_empty();
        if let Some(flag) = flag.filter(given) {
            return flag.parse();
        }
        if let Ok(var) = env::var("NAMERCTL_BASE_URL")
            && !var.is_empty()
        {
            return var.parse();
        }
        let found = match config {
            Some(path) => read(path)?,
            None => match search(&env::current_dir().unwrap_or_default()) {
                Some(path) => read(&path)?,
                None => None,
            },
        };
        found.as_deref().filter(given).ok_or(Error::NoBase)?.parse()
    }

    /// The URL of a path, which begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.authority, self.prefix)
    }

    /// The host, without brackets, and the port.
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        let default = if self.secure { 443 } else { 80 };
        let (host, port) = match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
            _ => (&*self.authority, default),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }
}

impl std::str::FromStr for Base {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::BadBase(format!("invalid base URL: {text}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            // What the original's parser takes for a path may not begin like this; `host:port` reads as a scheme.
            let first = text.split('/').next().unwrap_or_default();
            let scheme_like = first.starts_with(|c: char| c.is_ascii_alphabetic());
            if first.contains(':') && !scheme_like {
                let reason = "first path segment in URL cannot contain colon";
                return Err(Error::BadBase(format!("parse \"{text}\": {reason}")));
            }
            return Err(invalid());
        };
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            "" => return Err(invalid()),
            _ => return Err(Error::BadBase(format!("unsupported protocol scheme \"{scheme}\""))),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() || authority.contains('@') {
            return Err(invalid());
        }
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let base = Self { secure, authority: authority.into(), prefix: path.trim_end_matches('/').into() };
        let uri: Uri = base.url("/").parse().map_err(|error| Error::BadBase(format!("parse \"{text}\": {error}")))?;
        let host = uri.host().unwrap_or_default();
        // What is left of it without the host is a port, or nothing.
        if host.is_empty() || (host != authority && uri.port_u16().is_none()) {
            return Err(invalid());
        }
        Ok(base)
    }
}

/// The nearest file of settings: in this folder, or in one above it.
fn search(from: &Path) -> Option<PathBuf> {
    let files = from.ancestors().flat_map(|dir| EXTENSIONS.map(|ext| dir.join(format!(".namerctl.{ext}"))));
    files.into_iter().find(|path| path.is_file())
}

/// The base URL in a file of settings.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let bad = |reason: String| Error::BadConfig { path: path.to_owned(), reason };
    let extension = path.extension().and_then(|ext| ext.to_str()).unwrap_or_default().to_ascii_lowercase();
    let of: fn(&str) -> Result<Option<String>, String> = match &*extension {
        "json" => of_json,
        "toml" => of_toml,
        "yaml" | "yml" => of_yaml,
        other if OTHERS.contains(&other) => {
            return Err(bad(format!("files of settings in {other} are not read: write it in json, toml or yaml")));
        }
        _ => return Err(bad("a file of settings is named .json, .toml, .yaml or .yml".into())),
    };
    let meta = fs::metadata(path).map_err(|error| bad(crate::error::plain(&error)))?;
    if meta.len() > MAX_BYTES {
        return Err(bad(format!("more than {MAX_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| bad(crate::error::plain(&error)))?;
    of(&text).map_err(bad)
}

fn is_key(key: &str) -> bool {
    key.eq_ignore_ascii_case("base-url")
}

fn of_json(text: &str) -> Result<Option<String>, String> {
    let all: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    match all.into_iter().find(|(key, _)| is_key(key)) {
        None => Ok(None),
        Some((_, serde_json::Value::String(url))) => Ok(Some(url)),
        Some((key, _)) => Err(format!("{key} is not a string")),
    }
}

fn of_toml(text: &str) -> Result<Option<String>, String> {
    let all: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string().trim_end().to_owned())?;
    match all.into_iter().find(|(key, _)| is_key(key)) {
        None => Ok(None),
        Some((_, toml::Value::String(url))) => Ok(Some(url)),
        Some((key, _)) => Err(format!("{key} is not a string")),
    }
}

/// The value of the key in a mapping of the top level; what else there is, is passed over.
fn of_yaml(text: &str) -> Result<Option<String>, String> {
    let mut depth = 0;
    // At the top level: whether the next scalar is a key, and the key before a value.
    let mut key: Option<String> = None;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| error.to_string())?;
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                if depth == 0 && matches!(event, Event::SequenceStart(..)) {
                    return Err("a list, where keys are expected".into());
                }
                if depth == 1 && key.take().is_some_and(|key| is_key(&key)) {
                    return Err("base-url is not a string".into());
                }
                depth += 1;
            }
            Event::MappingEnd | Event::SequenceEnd => depth -= 1,
            Event::Scalar(value, ..) if depth == 1 => match key.take() {
                None => key = Some(value.into_owned()),
                Some(of) if is_key(&of) => return Ok(Some(value.into_owned())),
                Some(_) => {}
            },
            Event::Scalar(value, ..) if depth == 0 && !value.is_empty() && value != "~" => {
                return Err("no keys".into());
            }
            Event::Alias(_) if depth == 1 && key.take().is_none() => return Err("a key that is an alias".into()),
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Result<String, String> {
        text.parse::<Base>().map(|base| base.url("/x")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_base_is_a_scheme_a_host_and_a_prefix() {
        for (text, url) in [
            ("http://h", "http://h/x"),
            ("http://h:4180/", "http://h:4180/x"),
            ("http://[::1]:4180/a/b//", "http://[::1]:4180/a/b/x"),
            ("HTTPS://h/a?b#c", "https://h/a/x"),
        ] {
            assert_eq!(base(text).as_deref(), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_base_is_said() {
        for (text, error) in [
            ("namerd", "invalid base URL: namerd"),
            ("namerd:4180", "invalid base URL: namerd:4180"),
            ("//namerd", "invalid base URL: //namerd"),
            ("http://", "invalid base URL: http://"),
            ("http:///a", "invalid base URL: http:///a"),
            ("127.0.0.1:4180", "parse \"127.0.0.1:4180\": first path segment in URL cannot contain colon"),
            ("ftp://h", "unsupported protocol scheme \"ftp\""),
        ] {
            assert_eq!(base(text), Err(error.into()), "{text}");
        }
        assert!(base("http://h:port").is_err() && base("http://h h").is_err());
    }

    #[test]
    fn hosts_and_ports() {
        for (text, host, port) in
            [("http://h", "h", 80), ("https://h", "h", 443), ("http://[::1]", "::1", 80), ("http://[::1]:8", "::1", 8)]
        {
            assert_eq!(text.parse::<Base>().expect("a base").host_and_port(), (host, port));
        }
    }

    #[test]
    fn each_format_has_the_key_at_its_top() {
        let some = Ok(Some("http://h".to_owned()));
        assert_eq!(of_json(r#"{"a":{"base-url":1},"Base-Url":"http://h"}"#), some);
        assert_eq!(of_toml("base-url = \"http://h\"\n[a]\nbase-url = 1\n"), some);
        assert_eq!(of_yaml("a:\n  base-url: no\nb: [base-url, no]\nbase-url: http://h\n"), some);
        assert_eq!(of_yaml("# nothing\n"), Ok(None));
        assert_eq!(of_yaml("---\n~\n"), Ok(None));
        for none in [of_json("{}"), of_toml(""), of_yaml("a: b")] {
            assert_eq!(none, Ok(None));
        }
        for bad in [of_json("[]"), of_json(r#"{"base-url":1}"#), of_toml("base-url = 1"), of_yaml("base-url: {}")] {
            assert!(bad.is_err());
        }
        assert!(of_yaml("- a").is_err() && of_yaml("{").is_err() && of_yaml("text").is_err());
    }
}

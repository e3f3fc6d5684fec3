//! Scalars with a meaning: ports, addresses, names, files.

use std::{fmt, fs, net::IpAddr, path::PathBuf};

use linkerd_dtab::{BadPattern, Dtab, Path, PathMatcher};
use regex::Regex;

use super::decode::{At, Decode};

/// A file that existed and was a regular file when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File(pub PathBuf);

/// A directory that existed when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(pub PathBuf);

/// A regular expression that has to match a whole text.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// An HTTP header's name, or an h2 pseudo header's, in the case in which it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(pub String);

impl Pattern {
    /// Whether all of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// As it was written.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Anchored when it was read.
        let text = self.0.as_str();
        f.write_str(text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text))
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A TCP or UDP port; 0 has the system choose one.
impl Decode for u16 {
    fn decode(at: &At<'_>) -> Option<Self> {
        at.int(&(0..=65535)).map(|n| n as Self)
    }
}

impl Decode for IpAddr {
    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        let Ok(ip) = text.parse() else {
            return at.expected("an IP address (no host name)");
        };
        Some(ip)
    }
}

impl Decode for Path {
    fn decode(at: &At<'_>) -> Option<Self> {
        super::name::path(at)
    }
}

impl Decode for PathMatcher {
    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        match text.parse() {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let error: BadPattern = error;
                at.problem(format!("is not a pattern: {error}, got '{}'", super::node::shorten(text)));
                None
            }
        }
    }
}

impl Decode for Dtab {
    fn decode(at: &At<'_>) -> Option<Self> {
        super::name::dtab(at)
    }
}

impl Decode for File {
    fn decode(at: &At<'_>) -> Option<Self> {
        let path = PathBuf::from(at.text()?);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Some(Self(path)),
            Ok(_) => at.expected("a regular file"),
            Err(e) => {
                at.problem(format!("'{}' cannot be read: {e}", path.display()));
                None
            }
        }
    }
}

impl Decode for Directory {
    fn decode(at: &At<'_>) -> Option<Self> {
        let path = PathBuf::from(at.text()?);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => Some(Self(path)),
            Ok(_) => at.expected("a directory"),
            Err(e) => {
                at.problem(format!("'{}' cannot be read: {e}", path.display()));
                None
            }
        }
    }
}

/// A file that need not exist.
impl Decode for PathBuf {
    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        if text.is_empty() { at.expected("the name of a file") } else { Some(text.into()) }
    }
}

impl Decode for Pattern {
    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        match Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$"))) {
            Ok(regex) => Some(Self(regex)),
            Err(e) => {
                // The parser's own message is a drawing of several lines; its last one says what is wrong.
                let message = e.to_string();
                let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
                at.problem(format!("'{text}' is not a regular expression: {reason}"));
                None
            }
        }
    }
}

impl Decode for HeaderName {
    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        let name = text.strip_prefix(':').unwrap_or(text);
        if http::HeaderName::from_bytes(name.as_bytes()).is_ok() {
            Some(Self(text.to_owned()))
        } else {
            at.expected("the name of a header")
        }
    }
}

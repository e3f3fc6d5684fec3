//! The keys that namespaces have in stores of keys and values.

use std::{fmt, str::FromStr};

/// The longest prefix, in bytes.
const MAX_PREFIX: usize = 1024;

/// What the keys of all tables begin with: `/namerd/dtabs`.
///
/// Segments of letters, digits, `-`, `_` and `.`, each after a `/`, none of them of dots alone; at most 1,024 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPrefix(String);

/// Why a text is no prefix of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid key prefix '{0}': it must be like /namerd/dtabs, of letters, digits, '-', '_', '.' and '/'")]
pub struct BadKeyPrefix(String);

impl KeyPrefix {
    /// One that is known to be valid.
    pub(super) fn known(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The prefix, with the slash that it begins with and none at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyPrefix {
    type Err = BadKeyPrefix;

    fn from_str(text: &str) -> Result<Self, BadKeyPrefix> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_segment = |segment: &str| {
            segment.bytes().all(allowed) && !segment.is_empty() && !segment.bytes().all(|byte| byte == b'.')
        };
        let segments = text.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match segments {
            Some(segments) if text.len() <= MAX_PREFIX && segments.split('/').all(is_segment) => {
                Ok(Self(format!("/{segments}")))
            }
            _ => Err(BadKeyPrefix(text.chars().take(MAX_PREFIX).flat_map(char::escape_debug).collect())),
        }
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_segments() {
        for (text, expected) in [("/namerd/dtabs", "/namerd/dtabs"), ("/a/", "/a"), ("/a.b/c-d_1", "/a.b/c-d_1")] {
            assert_eq!(text.parse::<KeyPrefix>().unwrap().as_str(), expected);
        }
        for bad in ["", "/", "a", "//", "/a//b", "/a b", "/..", "/a?b", "/a%2F", "/ä"] {
            assert!(bad.parse::<KeyPrefix>().is_err(), "{bad}");
        }
        assert!(format!("/{}", "a".repeat(MAX_PREFIX)).parse::<KeyPrefix>().is_err());
    }
}

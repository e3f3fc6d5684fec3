//! Which namespaces: `*`, `team/*`, `prod`.

use std::{fmt, str::FromStr, sync::Arc};

use crate::store::Namespace;

/// A set of namespaces: one by its name, or all that match a pattern with stars.
///
/// A star stands for any characters but `/`; a pattern that is, or ends with, a segment of a star alone (`*`, `team/*`)
/// has what is deeper, too. So `*` is all namespaces, `team/*` is `team/web` and `team/web/eu` but not `team`, and
/// `prod-*` is `prod-eu` but not `prod-eu/web`.
///
/// ```
/// # use linkerd_dtab::namerd::Pattern;
/// let pattern: Pattern = "team/*".parse()?;
/// assert!(pattern.matches(&"team/web".parse()?));
/// assert!(!pattern.matches(&"prod".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

/// Why a text is no pattern of namespaces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern of namespaces '{text}': {reason}")]
pub struct BadPattern {
    text: String,
    reason: &'static str,
}

impl Pattern {
    /// Whether `namespace` is in the set.
    #[must_use]
    pub fn matches(&self, namespace: &Namespace) -> bool {
        self.captures(namespace).is_some()
    }

    /// What the last star stands for in `namespace`, if it is in the set: `web` of `team/web`. Without a star it is the
    /// whole name.
    #[must_use]
    pub fn captures<'n>(&self, namespace: &'n Namespace) -> Option<&'n str> {
        let (mut name, mut found) = (namespace.as_str(), namespace.as_str());
        let mut segments = self.0.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment == "*" && segments.peek().is_none() {
                return Some(name);
            }
            let (first, rest) = name.split_once('/').unwrap_or((name, ""));
            let captured = star(segment, first)?;
            if segment.contains('*') {
                found = captured;
            }
            if rest.is_empty() != segments.peek().is_none() {
                return None;
            }
            name = rest;
        }
        Some(found)
    }

    /// Whether it is all namespaces.
    #[must_use]
    pub fn is_all(&self) -> bool {
        &*self.0 == "*"
    }

    /// Whether it has every namespace that `other` has.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut wide = self.0.split('/').peekable();
        let mut narrow = other.0.split('/').peekable();
        while let Some(segment) = wide.next() {
            let Some(other) = narrow.next() else { return false };
            if segment == "*" && wide.peek().is_none() {
                return true;
            }
            // A star at the end is for what is deeper, too.
            let is_deep = other == "*" && narrow.peek().is_none();
            if is_deep || !segment_covers(segment, other) {
                return false;
            }
        }
        narrow.next().is_none()
    }

    /// How many stars it has.
    #[must_use]
    pub fn stars(&self) -> usize {
        self.0.matches('*').count()
    }

    /// Whether it is one namespace by its name.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }
}

/// What the star of a segment stands for in `text`; without a star the whole.
fn star<'t>(segment: &str, text: &'t str) -> Option<&'t str> {
    match segment.split_once('*') {
        Some((before, after)) => text.strip_prefix(before)?.strip_suffix(after).filter(|found| !found.is_empty()),
        None => (segment == text).then_some(text),
    }
}

/// Whether one segment has all that another one, within a path, has.
fn segment_covers(wide: &str, narrow: &str) -> bool {
    match (wide.split_once('*'), narrow.split_once('*')) {
        // A star is never nothing, so there is something left for that of the wide one.
        (Some((before, after)), Some((begin, end))) => begin.starts_with(before) && end.ends_with(after),
        (None, Some(_)) => false,
        (_, None) => star(wide, narrow).is_some(),
    }
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let bad = |reason| Err(BadPattern { text: text.chars().take(100).collect(), reason });
        if text.split('/').any(|segment| segment.matches('*').count() > 1) {
            return bad("a segment has more than one star");
        }
        // Whatever a star stands for, it has to be able to be a name.
        if text.replace('*', "x").parse::<Namespace>().is_err() {
            return bad("only letters, digits, '-', '_', '.', '/' and stars are allowed, and no segment may be empty");
        }
        Ok(Self(text.into()))
    }
}

impl From<&Namespace> for Pattern {
    fn from(namespace: &Namespace) -> Self {
        Self(namespace.as_str().into())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, namespace: &str) -> Option<String> {
        let pattern: Pattern = pattern.parse().unwrap();
        pattern.captures(&namespace.parse().unwrap()).map(ToOwned::to_owned)
    }

    #[test]
    fn stars_stand_for_segments_and_parts_of_them() {
        let cases = [
            ("*", "default", Some("default")),
            ("*", "team/web", Some("team/web")),
            ("team/*", "team/web", Some("web")),
            ("team/*", "team/web/eu", Some("web/eu")),
            ("team/*", "team", None),
            ("team/*", "teams/web", None),
            ("prod", "prod", Some("prod")),
            ("prod", "prod/web", None),
            ("prod/web", "prod", None),
            ("prod-*", "prod-eu", Some("eu")),
            ("prod-*", "prod-", None),
            ("prod-*", "prod-eu/web", None),
            ("*/web", "team/web", Some("team")),
            ("*/web", "team/db", None),
            ("*-a/*", "x-a/y/z", Some("y/z")),
        ];
        for (pattern, namespace, expected) in cases {
            assert_eq!(captured(pattern, namespace).as_deref(), expected, "{pattern} {namespace}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_has_all_of() {
        let covers = |wide: &str, narrow: &str| {
            let [wide, narrow] = [wide, narrow].map(|text| text.parse::<Pattern>().unwrap());
            wide.covers(&narrow)
        };
        let texts = [
            "*", "a", "a/*", "a/b", "a/b*", "a/b/*", "ab/*", "*/a", "*/b", "*/*", "a-*", "*-b", "a-*-b", "a-b",
            "a-*/x", "a-b*/x", "*/*/*", "a/*/c", "a/b/c", "*-b/*",
        ];
        let names = [
            "a", "b", "a/a", "a/b", "a/bc", "a/b/c", "a/x/c", "ab/c", "b/a", "b/b", "a-x", "x-b", "a-x-b", "a-b",
            "a-b/x", "a-bc/x", "a-c/x", "a/b/c/d", "x-b/a/b", "a--b", "a-",
        ];
        let mut covered = 0;
        for wide in texts {
            for narrow in texts {
                let [pattern, other] = [wide, narrow].map(|text| text.parse::<Pattern>().unwrap());
                let has_more = names
                    .into_iter()
                    .map(|name| name.parse().unwrap())
                    .any(|name| other.matches(&name) && !pattern.matches(&name));
                assert_eq!(covers(wide, narrow), !has_more, "{wide} {narrow}");
                covered += usize::from(!has_more);
            }
        }
        assert!(covered > texts.len(), "{covered}");
    }

    #[test]
    fn what_no_namespace_can_match_is_no_pattern() {
        for text in ["", "/", "a//b", "a b", "**", "team/*x*", "/team"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
        let error = "a b".parse::<Pattern>().unwrap_err();
        assert!(error.to_string().starts_with("invalid pattern of namespaces 'a b': only letters"), "{error}");
    }
}

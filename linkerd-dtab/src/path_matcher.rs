//! Patterns over the elements of paths, with wildcards and captures.

use std::{fmt, str::FromStr};

use crate::Path;

/// A pattern that matches the first elements of a path: `/svc/*/{name}-{version}`.
///
/// Each part between slashes is
///
/// * `*`, which matches any one element;
/// * a text with captures such as `{name}`, whose other text must occur in the element as it stands. A capture takes as
///   much as it can, perhaps nothing, and the match need not cover the whole element;
/// * any other text, which must equal the element.
///
/// Elements are matched in their printed form, with `\xNN` escapes. The name of a capture consists of ASCII letters,
/// digits, `.` and the characters from `:` to `_`. Elements after the last part are free.
///
/// After Linkerd's `PathMatcher`, except that every character outside captures stands for itself (Linkerd hands some to a
/// regular expression), and that a `*` beyond the end of a path is no match (there it is an error).
///
/// ```
/// # use linkerd_dtab::{Path, PathMatcher};
/// let matcher = PathMatcher::new("/#/io.l5d.fs/{service}");
/// let path: Path = "/#/io.l5d.fs/users/v1".parse()?;
/// let captures = matcher.captures(&path).unwrap();
/// assert_eq!(captures.substitute("{service}.example.org"), "users.example.org");
/// # Ok::<(), linkerd_dtab::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMatcher {
    pattern: String,
    parts: Vec<Part>,
}

/// What a [`PathMatcher`] captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures(Vec<(String, String)>);

/// Why a text is no pattern, or none that anybody would mean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPattern {
    /// It does not begin with a slash.
    #[error("must start with '/'")]
    NoSlash,
    /// A `{` has no `}` in its part.
    #[error("'{0}' lacks a closing brace")]
    Unclosed(String),
    /// What is between braces cannot be a name.
    #[error("'{{{0}}}' is not the name of a capture: letters, digits, '.' and '_' are allowed")]
    BadName(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Any,
    Text(String),
    Captures {
        before: String,
        // Each name, and the text after it.
        names: Vec<(String, String)>,
    },
}

impl PathMatcher {
    /// A matcher for this pattern. Every text is a pattern; slashes at its ends do not matter, and braces that are no
    /// capture stand for themselves. [`str::parse`] refuses what is likely a mistake.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let trimmed = pattern.trim_matches('/');
        let parts = if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').map(part).collect() };
        Self { pattern: pattern.to_owned(), parts }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// How many elements a path must have at least.
    #[must_use]
    pub fn size(&self) -> usize {
        self.parts.len()
    }

    /// The names of the captures, in order; a name is there as often as it is in the pattern.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.parts.iter().map(|part| match part {
            Part::Captures { names, .. } => &names[..],
            Part::Any | Part::Text(_) => &[],
        });
        names.flatten().map(|(name, _)| &**name)
    }

    /// Whether `path` starts with elements that match.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        self.captures(path).is_some()
    }

    /// What the captures take if `path` starts with elements that match.
    #[must_use]
    pub fn captures(&self, path: &Path) -> Option<Captures> {
        let mut captures = Captures::default();
        let mut elements = path.iter();
        for part in &self.parts {
            let element = elements.next()?;
            match part {
                Part::Any => {}
                Part::Text(text) => {
                    if *text != shown(element) {
                        return None;
                    }
                }
                Part::Captures { before, names } => take(&shown(element), before, names, &mut captures)?,
            }
        }
        Some(captures)
    }
}

impl Captures {
    /// What the capture of this name took; the last one, if the pattern has several.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// `text` with each `{name}` replaced by what that capture took. Names that were not captured stay.
    #[must_use]
    pub fn substitute(&self, text: &str) -> String {
        let mut substituted = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((start, name, end)) = next_capture(rest) {
            substituted.push_str(&rest[..start]);
            substituted.push_str(self.get(name).unwrap_or(&rest[start..end]));
            rest = &rest[end..];
        }
        substituted + rest
    }
}

/// Reads a pattern that a person wrote.
impl FromStr for PathMatcher {
    type Err = BadPattern;

    fn from_str(pattern: &str) -> Result<Self, BadPattern> {
        if !pattern.starts_with('/') {
            return Err(BadPattern::NoSlash);
        }
        for part in pattern.split('/') {
            let mut rest = part;
            while let Some((_, after)) = rest.split_once('{') {
                let Some((name, after)) = after.split_once('}') else {
                    return Err(BadPattern::Unclosed(part.to_owned()));
                };
                if name.is_empty() || !name.bytes().all(is_name) {
                    return Err(BadPattern::BadName(name.to_owned()));
                }
                rest = after;
            }
        }
        Ok(Self::new(pattern))
    }
}

impl fmt::Display for PathMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

/// Names and what they took, as if a pattern had captured it.
impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Captures {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(captures: I) -> Self {
        Self(captures.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

fn part(text: &str) -> Part {
    if text == "*" {
        return Part::Any;
    }
    let Some((start, mut name, mut end)) = next_capture(text) else { return Part::Text(text.to_owned()) };
    let before = text[..start].to_owned();
    let (mut names, mut rest) = (Vec::new(), &text[end..]);
    while let Some((start, next, next_end)) = next_capture(rest) {
        names.push((name.to_owned(), rest[..start].to_owned()));
        (name, end) = (next, next_end);
        rest = &rest[end..];
    }
    names.push((name.to_owned(), rest.to_owned()));
    Part::Captures { before, names }
}

// The first `{name}`: where it starts, the name, where it ends.
fn next_capture(text: &str) -> Option<(usize, &str, usize)> {
    let mut from = 0;
    loop {
        let start = from + text[from..].find('{')?;
        let name_len = text[start + 1..].bytes().take_while(|&byte| is_name(byte)).count();
        let end = start + 1 + name_len;
        if name_len > 0 && text[end..].starts_with('}') {
            return Some((start, &text[start + 1..end], end + 1));
        }
        from = start + 1;
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.' || (b':'..=b'_').contains(&byte)
}

// From the right, each text as late as it can be: so the first capture is as long as possible, then the second.
fn take(element: &str, before: &str, names: &[(String, String)], captures: &mut Captures) -> Option<()> {
    let start = element.find(before)? + before.len();
    let mut end = start;
    let mut limits = Vec::with_capacity(names.len());
    let mut rest = &element[start..];
    for (_, after) in names.iter().rev() {
        let at = rest.rfind(after.as_str())?;
        limits.push(start + at);
        rest = &rest[..at];
    }
    for ((name, after), limit) in names.iter().zip(limits.into_iter().rev()) {
        captures.0.push((name.clone(), element[end..limit].to_owned()));
        end = limit + after.len();
    }
    Some(())
}

fn shown(element: &[u8]) -> String {
    crate::path::Shown(element).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, path: &str, text: &str) -> Option<String> {
        PathMatcher::new(pattern).captures(&path.parse().unwrap()).map(|captures| captures.substitute(text))
    }

    #[test]
    fn a_capture_is_as_long_as_it_can_be() {
        assert_eq!(captured("/{a}-{b}", "/x-y-z", "{a} {b}").unwrap(), "x-y z");
        assert_eq!(captured("/{a}{b}", "/xyz", "[{a}][{b}]").unwrap(), "[xyz][]");
        assert_eq!(captured("/{a}-{b}-{c}", "/1-2-3-4", "{a} {b} {c}").unwrap(), "1-2 3 4");
        assert_eq!(captured("/{a}.{b}", "/web", "{a}"), None);
    }

    #[test]
    fn captures_take_parts_of_elements() {
        assert_eq!(captured("/#/io.l5d.fs/{service}", "/#/io.l5d.fs/web", "{service}").unwrap(), "web");
        assert_eq!(captured("/$/inet/{host}", "/$/inet/google.com/443", "{host}").unwrap(), "google.com");
        assert_eq!(captured("/#/*/{service}", "/#/io.l5d.k8s/default", "{service}").unwrap(), "default");
        assert_eq!(captured("/foo-{a}.{b}", "/foo-x.y.z", "{a} {b}").unwrap(), "x.y z");
        assert_eq!(captured("/a{x}", "/zzaQ", "{x}").unwrap(), "Q");
        assert_eq!(captured("/a.{x}", "/ab1", "{x}"), None);
    }

    #[test]
    fn a_match_need_not_cover_the_element() {
        assert_eq!(captured("/v{a}.", "/prov1.2.x", "{a}").unwrap(), "1.2");
        assert_eq!(captured("/{a}:http", "/web:https", "{a}").unwrap(), "web");
        assert_eq!(captured("/b{a}b", "/ab", "{a}"), None, "its texts do not overlap");
    }

    #[test]
    fn a_path_may_be_longer_than_the_pattern_and_not_shorter() {
        assert_eq!(captured("/a/*/", "/a/b/c", "x").unwrap(), "x");
        assert_eq!(captured("/a/*", "/a", "x"), None);
        assert_eq!(captured("", "/", "x").unwrap(), "x");
        assert_eq!(captured("/", "/a", "x").unwrap(), "x");
    }

    #[test]
    fn what_is_no_capture_stands_for_itself() {
        assert_eq!(captured("/{a}", "/x", "{b} {a {a} }").unwrap(), "{b} {a x }");
        assert_eq!(captured("/$", "/$", "x").unwrap(), "x");
        assert_eq!(captured("/{a}/{a}", "/x/y", "{a}").unwrap(), "y", "the last capture of a name counts");
        assert_eq!(captured("/{a}", "/\\x7b\\x62\\x7d", "{a}").unwrap(), "\\x7b\\x62\\x7d", "as it is printed");
    }

    #[test]
    fn mistakes_are_refused_when_a_pattern_is_read() {
        for (pattern, expected) in [
            ("a", "must start with '/'"),
            ("", "must start with '/'"),
            ("/x/a{", "'a{' lacks a closing brace"),
            ("/{a/b}", "'{a' lacks a closing brace"),
            ("/{}", "'{}' is not the name of a capture: letters, digits, '.' and '_' are allowed"),
            ("/{a-b}", "'{a-b}' is not the name of a capture: letters, digits, '.' and '_' are allowed"),
            ("/{a{b}", "'{a{b}' is not the name of a capture: letters, digits, '.' and '_' are allowed"),
        ] {
            assert_eq!(pattern.parse::<PathMatcher>().unwrap_err().to_string(), expected, "{pattern}");
        }
        for pattern in ["/", "/#/*/{service}", "/a}b", "/foo-{a}.{b_C.9}/"] {
            assert_eq!(pattern.parse(), Ok(PathMatcher::new(pattern)));
        }
    }

    #[test]
    fn captures_can_be_made_up_for_all_names() {
        let matcher: PathMatcher = "/{a}-{b}/*/{a}/c".parse().unwrap();
        assert_eq!(matcher.names().collect::<Vec<_>>(), ["a", "b", "a"]);
        let captures: Captures = matcher.names().zip(["1", "2", "3"]).collect();
        assert_eq!(captures.substitute("{a}{b}{c}"), "32{c}");
    }
}

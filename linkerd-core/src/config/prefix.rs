//! Patterns that match the beginning of a name and capture parts of it.

use std::fmt;

use linkerd_dtab::Path;
use regex::Regex;

use super::decode::{At, Decode};

/// A pattern such as `/#/io.l5d.fs/{service}`: matches every path that it is a prefix of.
///
/// `*` is any one element. `{name}` captures a part of an element, as much as it can, possibly nothing; a name is of
/// letters, digits, `.`, and the characters from `:` to `_` in ASCII. The rest of an element with captures has to be
/// *found* in the path's element, as in Linkerd 1.x: `a{x}` also matches `zza1`. Elements are matched in the form in
/// which they are shown. `/` matches everything.
#[derive(Clone, Debug)]
pub struct PathMatcher {
    text: String,
    elements: Vec<Element>,
}

/// What a [`PathMatcher`] captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures(Vec<(String, String)>);

#[derive(Clone, Debug)]
enum Element {
    Any,
    Exactly(String),
    Capturing { names: Vec<String>, regex: Regex },
}

impl PathMatcher {
    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What was captured, if the pattern matches a prefix of `path`.
    pub fn captures(&self, path: &Path) -> Option<Captures> {
        if path.size() < self.elements.len() {
            return None;
        }
        let mut captures = Captures::default();
        let shown = path.to_string();
        // The shown form of an element has no slash.
        for (element, found) in self.elements.iter().zip(shown.split('/').skip(1)) {
            match element {
                Element::Any => {}
                Element::Exactly(text) if text == found => {}
                Element::Exactly(_) => return None,
                Element::Capturing { names, regex } => {
                    let found = regex.captures(found)?;
                    for (i, name) in names.iter().enumerate() {
                        captures.0.push((name.clone(), found[i + 1].to_owned()));
                    }
                }
            }
        }
        Some(captures)
    }

    /// The names that the pattern captures.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.elements.iter().flat_map(|element| match element {
            Element::Capturing { names, .. } => names.iter().map(String::as_str),
            _ => [].iter().map(String::as_str),
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("must start with '/'".to_owned());
        }
        let elements = text.split('/').filter(|e| !e.is_empty()).map(element).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), elements })
    }
}

fn element(text: &str) -> Result<Element, String> {
    if text == "*" {
        return Ok(Element::Any);
    }
    let (mut names, mut regex, mut rest) = (Vec::new(), String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            return Err(format!("'{text}' lacks a closing brace"));
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '.' || (':'..='_').contains(&c);
        if name.is_empty() || !name.chars().all(legal) {
            return Err(format!("'{{{name}}}' is not the name of a capture: letters, digits, '.' and '_' are allowed"));
        }
        names.push(name.to_owned());
        regex += &regex::escape(before);
        regex += "(.*)";
        rest = after;
    }
    if names.is_empty() {
        return Ok(Element::Exactly(text.to_owned()));
    }
    regex += &regex::escape(rest);
    let regex = Regex::new(&regex).map_err(|_| format!("'{text}' is too complicated"))?;
    Ok(Element::Capturing { names, regex })
}

impl Captures {
    /// Replaces each `{name}` in `template` by what was captured. Unknown names stay.
    pub fn fill_in(&self, template: &str) -> String {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            filled += before;
            let named = after.split_once('}').and_then(|(name, after)| Some((self.get(name)?, after)));
            if let Some((value, after)) = named {
                filled += value;
                rest = after;
            } else {
                filled.push('{');
                rest = after;
            }
        }
        filled + rest
    }

    /// The value of a name; the last one if the pattern has it twice.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl PartialEq for PathMatcher {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PathMatcher {}

impl fmt::Display for PathMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Decode for PathMatcher {
    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        let parsed = Self::parse(text);
        if let Err(message) = &parsed {
            at.problem(format!("is not a pattern: {message}, got '{}'", super::node::shorten(text)));
        }
        parsed.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, path: &str, name: &str) -> Option<String> {
        let captures = PathMatcher::parse(pattern).unwrap().captures(&path.parse().unwrap())?;
        captures.get(name).map(str::to_owned)
    }

    #[test]
    fn captures_parts_of_elements() {
        assert_eq!(captured("/#/io.l5d.fs/{service}", "/#/io.l5d.fs/web", "service").as_deref(), Some("web"));
        assert_eq!(captured("/$/inet/{host}", "/$/inet/google.com/443", "host").as_deref(), Some("google.com"));
        assert_eq!(captured("/#/*/{service}", "/#/io.l5d.k8s/default", "service").as_deref(), Some("default"));
        assert_eq!(captured("/foo-{a}.{b}", "/foo-x.y.z", "a").as_deref(), Some("x.y"));
        assert_eq!(captured("/foo-{a}.{b}", "/foo-x.y.z", "b").as_deref(), Some("z"));
        assert_eq!(captured("/a{x}", "/zzaQ", "x").as_deref(), Some("Q"));
        assert_eq!(captured("/{a}/{a}", "/1/2", "a").as_deref(), Some("2"));
    }

    #[test]
    fn a_pattern_matches_what_it_is_a_prefix_of() {
        let matches = |pattern, path: &str| {
            let matcher = PathMatcher::parse(pattern).unwrap();
            matcher.captures(&path.parse().unwrap()).is_some()
        };
        assert!(matches("/", "/"));
        assert!(matches("/", "/a/b"));
        assert!(matches("/a", "/a/b"));
        assert!(!matches("/a/b", "/a"));
        assert!(!matches("/a", "/ab"));
        assert!(matches("/*/b", "/a/b"));
        assert!(!matches("/*", "/"));
        assert!(!matches("/a.{x}", "/ab1"));
    }

    #[test]
    fn fills_in_what_was_captured() {
        let captures = Captures(vec![("s".to_owned(), "web".to_owned())]);
        assert_eq!(captures.fill_in("{s}.x.{s}"), "web.x.web");
        assert_eq!(captures.fill_in("{t}{s}{"), "{t}web{");
        assert_eq!(captures.fill_in("plain"), "plain");
    }

    #[test]
    fn malformed_patterns_are_refused() {
        assert!(PathMatcher::parse("a").is_err());
        assert!(PathMatcher::parse("/{").is_err());
        assert!(PathMatcher::parse("/{}").is_err());
        assert!(PathMatcher::parse("/{a-b}").is_err());
    }
}

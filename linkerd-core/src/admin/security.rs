//! Which pages are served.

use regex::Regex;

/// Hides pages by category and by path, as the `security` section of a Linkerd 1.x file does.
///
/// A path on the blacklist is hidden. Any other is served if its category is enabled or it is on the whitelist. What is
/// hidden is 404, as if it were not there.
///
/// | category | paths |
/// |---|---|
/// | UI | `/`, `/files/*`, `/admin/files/*`, `/config.json`, `/metrics.json`, `/admin/metrics.json`, `/admin/metrics`, `/delegator`, `/delegator.json`, `/logging`, `/help` |
/// | control | `/admin/shutdown`, `/admin/drain`, `/admin/reload`, `/admin/breakers`, `/logging.json` |
/// | diagnostics | all others |
#[derive(Clone, Debug)]
pub struct Security {
    ui: bool,
    control: bool,
    diagnostics: bool,
    whitelist: Vec<Regex>,
    blacklist: Vec<Regex>,
}

/// A pattern of a white- or blacklist is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("{pattern:?} is no regular expression for a path")]
pub struct InvalidPattern {
    pattern: String,
    source: regex::Error,
}

impl Security {
    /// Everything enabled, nothing on the lists.
    #[must_use]
    pub fn new() -> Self {
        Self { ui: true, control: true, diagnostics: true, whitelist: Vec::new(), blacklist: Vec::new() }
    }

    /// `uiEnabled`: whether the pages for people are served. Default: yes.
    #[must_use]
    pub fn ui(mut self, enabled: bool) -> Self {
        self.ui = enabled;
        self
    }

    /// `controlEnabled`: whether what changes the process is served. Default: yes.
    #[must_use]
    pub fn control(mut self, enabled: bool) -> Self {
        self.control = enabled;
        self
    }

    /// `diagnosticsEnabled`: whether all the rest is served. Default: yes.
    #[must_use]
    pub fn diagnostics(mut self, enabled: bool) -> Self {
        self.diagnostics = enabled;
        self
    }

    /// `pathWhitelist`: paths that match one of these in full are served though their category is not.
    ///
    /// # Errors
    ///
    /// The first pattern that is no regular expression.
    pub fn whitelist<P: AsRef<str>>(mut self, patterns: impl IntoIterator<Item = P>) -> Result<Self, InvalidPattern> {
        self.whitelist = compile(patterns)?;
        Ok(self)
    }

    /// `pathBlacklist`: paths that match one of these in full are not served.
    ///
    /// # Errors
    ///
    /// The first pattern that is no regular expression.
    pub fn blacklist<P: AsRef<str>>(mut self, patterns: impl IntoIterator<Item = P>) -> Result<Self, InvalidPattern> {
        self.blacklist = compile(patterns)?;
        Ok(self)
    }

    /// Whether the page at this path is served.
    #[must_use]
    pub fn allows(&self, path: &str) -> bool {
        let on = |list: &[Regex]| list.iter().any(|pattern| pattern.is_match(path));
        !on(&self.blacklist) && (self.category(path) || on(&self.whitelist))
    }

    fn category(&self, path: &str) -> bool {
        match path {
            "/"
            | "/config.json"
            | "/metrics.json"
            | "/admin/metrics.json"
            | "/admin/metrics"
            | "/delegator"
            | "/delegator.json"
            | "/logging"
            | "/help" => self.ui,
            _ if path.starts_with("/files/") || path.starts_with("/admin/files/") => self.ui,
            "/admin/shutdown" | "/admin/drain" | "/admin/reload" | "/admin/breakers" | "/logging.json" => self.control,
            _ => self.diagnostics,
        }
    }
}

impl Default for Security {
    fn default() -> Self {
        Self::new()
    }
}

/// Anchored: a pattern has to match all of a path.
fn compile<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Vec<Regex>, InvalidPattern> {
    let compile = |pattern: P| {
        let pattern = pattern.as_ref();
        // By itself first: `a)(b` is one only inside the group.
        Regex::new(pattern)
            .and_then(|_| Regex::new(&format!("^(?:{pattern})$")))
            .map_err(|source| InvalidPattern { pattern: pattern.to_owned(), source })
    };
    patterns.into_iter().map(compile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blacklist_wins_over_the_whitelist_and_that_over_categories() {
        let security = Security::new()
            .ui(false)
            .whitelist(["/config.*", "/logging.json"])
            .and_then(|security| security.blacklist(["/admin/p.*", "/logging.json"]))
            .unwrap();
        for (path, allowed) in [
            ("/", false),
            ("/files/js/main.js", false),
            ("/config.json", true),
            ("/admin/metrics.json", false),
            ("/logging.json", false),
            ("/admin/ping", false),
            ("/admin/shutdown", true),
            ("/admin/metrics/prometheus", true),
        ] {
            assert_eq!(security.allows(path), allowed, "{path}");
        }
    }

    #[test]
    fn patterns_match_in_full() {
        let security = Security::new().diagnostics(false).whitelist(["^/admin/ping$|/help"]).unwrap();
        assert!(security.allows("/admin/ping"));
        assert!(!security.allows("/admin/pingpong"));
        assert!(!security.allows("/x/admin/ping"));
        assert!(!security.allows("/client_state.json"));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        for pattern in ["(", "a)(b"] {
            let error = Security::new().whitelist(["/ok", pattern]).unwrap_err();
            assert_eq!(error.to_string(), format!("{pattern:?} is no regular expression for a path"));
        }
    }
}

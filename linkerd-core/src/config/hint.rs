//! What to say about keys and kinds that Linkerd 1.7.5 does not know.

/// Keys of older releases, and what became of them: section, key, advice.
const OLD_KEYS: &[(&str, &str, &str)] = &[
    ("file", "baseDtab", "is now `dtab` of a router"),
    ("file", "tracers", "is now `telemetry`"),
    ("file", "metrics", "is now `telemetry`"),
    ("router", "baseDtab", "is now `dtab`"),
    (
        "router",
        "timeoutMs",
        "is now `service.totalTimeoutMs` (all attempts) or `client.requestAttemptTimeoutMs` (each one)",
    ),
    ("router", "timeout", "is now `service.totalTimeoutMs`"),
    ("router", "loggers", "is now `client.requestAuthorizers`"),
    ("router", "engine", "was removed"),
    ("router", "maxChunkKB", "was removed: chunks of any size are streamed"),
    ("router", "maxRequestKB", "was removed: requests are not limited in size"),
    ("router", "maxResponseKB", "was removed: responses are not limited in size"),
    ("router", "tls", "belongs into `client` or into a server"),
    ("router", "retries", "belongs into `service`"),
    ("router", "responseClassifier", "belongs into `service`"),
    ("router", "totalTimeoutMs", "belongs into `service`"),
    ("router", "loadBalancer", "belongs into `client`"),
    ("router", "failureAccrual", "belongs into `client`"),
    ("router", "failFast", "belongs into `client`"),
    ("router", "hostConnectionPool", "belongs into `client`"),
    ("router", "requestAttemptTimeoutMs", "belongs into `client`"),
    ("router", "requestAuthorizers", "belongs into `client`"),
    ("router", "port", "belongs into `servers`"),
    ("router", "namers", "belongs to the top level"),
    ("client", "timeoutMs", "is now `requestAttemptTimeoutMs`"),
    ("client", "loggers", "is now `requestAuthorizers`"),
    ("client", "retries", "is now split: `service.retries`, and `requeueBudget` here"),
    ("client", "responseClassifier", "belongs into `service`"),
    ("client", "totalTimeoutMs", "belongs into `service`"),
    ("client", "engine", "was removed"),
    ("service", "timeoutMs", "is now `totalTimeoutMs`"),
    ("service", "timeout", "is now `totalTimeoutMs`"),
    ("server", "engine", "was removed"),
    ("client tls", "kind", OLD_TLS),
    ("client tls", "names", OLD_TLS),
    ("client tls", "trustCert", "is now `trustCertsBundle`"),
    ("client tls", "caCertPath", "is now `trustCertsBundle`"),
    ("client tls", "strict", "is now `disableValidation` (turned round)"),
];

const OLD_TLS: &str = "was removed: `io.l5d.noValidation` is now `disableValidation: true`, \
                       `io.l5d.static` is `commonName`, `io.l5d.boundPath` is a `commonName` with captures in a static client";

/// Kinds of older releases: section (a prefix of its name), old, new.
const OLD_KINDS: &[(&str, &str, &str)] = &[
    ("identifier", "io.l5d.headerToken", "io.l5d.header.token"),
    ("identifier", "io.l5d.headerPath", "io.l5d.header.path"),
    ("identifier", "io.l5d.h2.ingress", "io.l5d.ingress"),
    ("identifier", "io.l5d.http.ingress", "io.l5d.ingress"),
    ("http classifier", "io.l5d.nonRetryable5XX", "io.l5d.http.nonRetryable5XX"),
    ("http classifier", "io.l5d.retryableRead5XX", "io.l5d.http.retryableRead5XX"),
    ("http classifier", "io.l5d.retryableIdempotent5XX", "io.l5d.http.retryableIdempotent5XX"),
    ("http classifier", "io.l5d.retryableAll5XX", "io.l5d.http.retryableAll5XX"),
    ("http classifier", "io.l5d.allSuccessful", "io.l5d.http.allSuccessful"),
    ("h2 classifier", "io.l5d.nonRetryable5XX", "io.l5d.h2.nonRetryable5XX"),
    ("h2 classifier", "io.l5d.retryableRead5XX", "io.l5d.h2.retryableRead5XX"),
    ("h2 classifier", "io.l5d.retryableIdempotent5XX", "io.l5d.h2.retryableIdempotent5XX"),
    ("h2 classifier", "io.l5d.retryableAll5XX", "io.l5d.h2.retryableAll5XX"),
    ("h2 classifier", "io.l5d.allSuccessful", "io.l5d.h2.allSuccessful"),
    ("telemeter", "io.l5d.commonMetrics", "io.l5d.prometheus"),
];

/// The message for a key that a section does not have.
pub(crate) fn unknown_key(section: &str, key: &str, known: &[&str]) -> String {
    if key == "<<" {
        return "merge keys are not supported: write the keys out, or use an alias for the whole value".to_owned();
    }
    if let Some((_, _, advice)) = OLD_KEYS.iter().find(|(s, k, _)| *s == section && *k == key) {
        return format!("unknown key; it {advice}");
    }
    match nearest(key, known) {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => {
            let mut known = known.to_vec();
            known.sort_unstable();
            known.dedup();
            format!("unknown key; known here: {}", known.join(", "))
        }
    }
}

/// The message for a kind that is not one of `kinds`.
pub(crate) fn unknown_kind(section: &str, key: &str, found: &str, kinds: &[&str]) -> String {
    let old = OLD_KINDS.iter().find(|(s, old, _)| section.ends_with(s) && *old == found);
    let found = super::node::shorten(found);
    let advice = match (old, nearest(&found, kinds)) {
        (Some((_, _, new)), _) => format!("it is now `{new}`"),
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => format!("known: {}", kinds.join(", ")),
    };
    format!("unknown {key} '{found}'; {advice}")
}

/// The candidate that differs from `word` by the fewest letters, if they are few.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let allowed = (word.chars().count() / 3).min(3);
    let scored = candidates.iter().map(|c| (distance(&lower, &c.to_lowercase(), allowed), *c));
    scored.filter(|(d, _)| *d <= allowed).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

/// Letters to insert, delete, replace, or swap with the next one (optimal string alignment), or more than `limit`.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    let a: Vec<char> = a.chars().take(100).collect();
    let b: Vec<char> = b.chars().take(100).collect();
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested() {
        assert_eq!(nearest("pathz", &["paths", "trees"]), Some("paths"));
        assert_eq!(nearest("maxHeaderListByts", &["maxHeaderListBytes"]), Some("maxHeaderListBytes"));
        assert_eq!(nearest("prot", &["port", "ip"]), Some("port"));
        assert_eq!(nearest("xyz", &["port", "ip"]), None);
        assert_eq!(nearest("", &["port"]), None);
    }

    #[test]
    fn historic_keys_say_what_became_of_them() {
        assert_eq!(unknown_key("router", "baseDtab", &["dtab"]), "unknown key; it is now `dtab`");
        let kinds = ["io.l5d.http.nonRetryable5XX"];
        let message = unknown_kind("http classifier", "kind", "io.l5d.nonRetryable5XX", &kinds);
        assert_eq!(message, "unknown kind 'io.l5d.nonRetryable5XX'; it is now `io.l5d.http.nonRetryable5XX`");
    }
}

//! Durations as Go writes them: `200ms`, `1m30s`, `1.5h`.

use std::time::Duration;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6), // U+00B5
    ("μs", 1e-6), // U+03BC
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Reads a duration. A negative one waits for nothing and so is zero; `None` for what Go refuses.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut secs = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end])?;
        secs += number * unit;
        rest = &rest[end..];
    }
    // Go's durations end at 2^63 nanoseconds.
    let most = i64::MAX as f64 / 1e9;
    if secs > most {
        return None;
    }
    if negative { Some(Duration::ZERO) } else { Duration::try_from_secs_f64(secs).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("200ms", 200_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1m30s", 90_000_000_000),
            ("+1h", 3_600_000_000_000),
            ("3µs", 3_000),
            ("3μs", 3_000),
            ("7ns", 7),
            ("-3s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in ["", "-", "5", "s", "1d", "1 s", "1s ", "1..s", ".s", "ms200", "1e3s", "9999999999999h", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

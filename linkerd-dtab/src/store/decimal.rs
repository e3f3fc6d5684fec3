//! Versions that are a store's own count of changes, as decimal text: what namerd 1.7.5 shows of etcd and Consul.

use super::Version;

/// A count as a version.
pub(super) fn version(count: u64) -> Version {
    Version::new(count.to_string().into_bytes())
}

/// The count that a version stands for, if such a store made it.
pub(super) fn count(version: &Version) -> Option<u64> {
    let text = std::str::from_utf8(version.as_bytes()).ok()?;
    // One text for each count: no sign, no zero in front.
    text.parse().ok().filter(|count: &u64| *count > 0 && count.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_one_text() {
        assert_eq!(version(4).as_bytes(), b"4");
        assert_eq!(count(&version(u64::MAX)), Some(u64::MAX));
        for bad in ["", "0", "04", "+4", "-4", "4 ", "x", "18446744073709551616"] {
            assert_eq!(count(&Version::new(bad.as_bytes())), None, "{bad}");
        }
    }
}

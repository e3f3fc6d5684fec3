//! Names of namespaces where there can be no slash: in a file name, and in a key that cannot both have a value and be above
//! others.

use super::Namespace;

/// The name of a namespace as one segment.
pub(super) fn flat(namespace: &Namespace) -> String {
    namespace.as_str().replace('/', "%2F")
}

/// The namespace that a segment is for.
pub(super) fn unflat(segment: &str) -> Option<Namespace> {
    // A slash is no part of a segment, and only `%2F` stands for one.
    if segment.contains('/') {
        return None;
    }
    segment.replace("%2F", "/").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_name_stands_for_one_namespace() {
        let namespace: Namespace = "team/web".parse().unwrap();
        assert_eq!(flat(&namespace), "team%2Fweb");
        assert_eq!(unflat("team%2Fweb"), Some(namespace));
        for bad in ["team/web", "team%2fweb", "%2Fweb", "a%", ""] {
            assert_eq!(unflat(bad), None, "{bad}");
        }
    }
}

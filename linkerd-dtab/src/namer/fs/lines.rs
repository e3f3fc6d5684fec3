//! The endpoint file: `host port [* weight] [zone=NAME]`, one a line.

use std::sync::Arc;

use crate::{
    Endpoint,
    namer::inet::host::{self, Host},
};

/// How much of a bad line is shown.
const MAX_SHOWN: usize = 200;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lines {
    /// Lines with a literal address. An address that is there twice counts as in its last line.
    pub(super) endpoints: Vec<Endpoint>,
    /// Lines with a name, for DNS.
    pub(super) names: Vec<NameLine>,
}

/// A line with a name: each of its addresses is an endpoint with this weight and zone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NameLine {
    pub(super) host: String,
    pub(super) port: u16,
    weight: f64,
    zone: Option<Arc<str>>,
}

/// The first line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Counted from one.
    pub(super) number: usize,
    /// Without its comment, possibly shortened.
    pub(super) text: String,
}

impl Lines {
    /// Reads a whole file. One bad line spoils it: a set with a member missing is worse than the set of before.
    pub(super) fn parse(text: &str) -> Result<Self, BadLine> {
        let mut lines = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() && lines.push(line).is_none() {
                return Err(BadLine { number: index + 1, text: line.chars().take(MAX_SHOWN).collect() });
            }
        }
        lines.endpoints = unique(lines.endpoints);
        Ok(lines)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.names.is_empty()
    }

    fn push(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        let host = host::parse(words.next()?)?;
        // `80*2` and `80 *2` are as good as `80 * 2`: no port, weight or zone has a star in it.
        let rest = words.collect::<Vec<_>>().join(" ").replace('*', " * ");
        let mut words = rest.split_whitespace();
        let port = host::parse_port(words.next()?)?;
        let (mut weight, mut zone) = (None, None);
        while let Some(word) = words.next() {
            if word == "*" && weight.is_none() {
                weight = Some(parse_weight(words.next()?)?);
            } else if let Some(name) = word.strip_prefix("zone=")
                && zone.is_none()
                && !name.is_empty()
            {
                zone = Some(Arc::from(name));
            } else {
                return None;
            }
        }
        let weight = weight.unwrap_or(1.0);
        match host {
            Host::Ip(ip) => {
                let mut endpoint = Endpoint::new((ip, port).into()).with_weight(weight);
                endpoint.zone = zone;
                self.endpoints.push(endpoint);
            }
            Host::Name(host) => self.names.push(NameLine { host: host.to_owned(), port, weight, zone }),
        }
        Some(())
    }
}

impl NameLine {
    /// The endpoint that an address of the name is.
    pub(super) fn endpoint(&self, of: &Endpoint) -> Endpoint {
        let mut endpoint = Endpoint::new(of.addr).with_weight(self.weight);
        endpoint.zone.clone_from(&self.zone);
        endpoint
    }
}

/// The last endpoint of each address, in the order of their first lines.
pub(super) fn unique(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut places = std::collections::HashMap::with_capacity(endpoints.len());
    let mut unique: Vec<Endpoint> = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        match places.entry(endpoint.addr) {
            std::collections::hash_map::Entry::Occupied(place) => unique[*place.get()] = endpoint,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(unique.len());
                unique.push(endpoint);
            }
        }
    }
    unique
}

fn parse_weight(text: &str) -> Option<f64> {
    // Rust would read `inf`, `nan` and `1e3` too.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| text.parse().ok()).flatten().filter(|weight: &f64| weight.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Endpoint {
        let lines = Lines::parse(line).unwrap();
        assert_eq!(lines.endpoints.len(), 1, "{line}");
        lines.endpoints[0].clone()
    }

    #[test]
    fn every_form_of_a_line_is_read() {
        let plain = Endpoint::new("127.0.0.1:8080".parse().unwrap());
        for line in ["127.0.0.1 8080", "  127.1\t8080  # here", "127.0.0.1 8080 * 1", "127.0.0.1 08080"] {
            assert_eq!(one(line), plain, "{line}");
        }
        for line in ["127.1 8080 * 2.5", "127.1 8080*2.5", "127.1 8080 *2.5", "127.1 8080 * 2.50"] {
            assert_eq!(one(line), plain.clone().with_weight(2.5), "{line}");
        }
        for line in ["127.1 8080 * 0 zone=b", "127.1 8080 zone=b * 0"] {
            assert_eq!(one(line), plain.clone().with_weight(0.0).with_zone("b"), "{line}");
        }
        assert_eq!(one("::1 80"), one("[::1] 80"));
    }

    #[test]
    fn names_keep_their_line_for_each_of_their_addresses() {
        let lines = Lines::parse("web.example 80 * 3 zone=a\n").unwrap();
        assert_eq!((lines.names[0].host.as_str(), lines.names[0].port), ("web.example", 80));
        let found = Endpoint::new("10.0.0.1:80".parse().unwrap());
        assert_eq!(lines.names[0].endpoint(&found), found.with_weight(3.0).with_zone("a"));
    }

    #[test]
    fn nothing_but_comments_and_blanks_is_an_empty_set() {
        assert!(Lines::parse("# nothing here\n\n \t\r\n#").unwrap().is_empty());
    }

    #[test]
    fn one_bad_line_spoils_the_file_and_is_named() {
        for bad in [
            "garbage here too many words",
            "127.0.0.1 0",
            "127.0.0.1 65536",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1 80 2",
            "127.0.0.1 80 *",
            "127.0.0.1 80 * -1",
            "127.0.0.1 80 * NaN",
            "127.0.0.1 80 * 1 * 2",
            "127.0.0.1 80 zone=",
            "127.0.0.1 80 zone=a zone=b",
            "a..b 80",
        ] {
            let error = Lines::parse(&format!("127.1 80\n\n {bad} # why\n")).unwrap_err();
            assert_eq!(error, BadLine { number: 3, text: bad.to_owned() });
        }
    }

    #[test]
    fn the_last_line_of_an_address_counts() {
        let lines = Lines::parse("127.1 80\n127.1 81\n127.0.0.1 80 * 4\n").unwrap();
        let weights: Vec<_> = lines.endpoints.iter().map(|e| (e.addr.port(), e.weight)).collect();
        assert_eq!(weights, [(80, 4.0), (81, 1.0)]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_line_that_is_there(text in "[ -~\n\u{e4}*#]{0,200}") {
            if let Err(error) = Lines::parse(&text) {
                prop_assert!(text.lines().nth(error.number - 1).unwrap().contains(&error.text));
            }
        }
    }
}

//! Flavours of requests: a name and rules that one hop, at the edge, gives to a request and to all that it causes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use linkerd_dtab::Dtab;

use super::headers::L5D_CTX_FLAVOUR;

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

/// Rules that hold for a request and for all that it causes, at every hop, until they expire.
///
/// It goes from hop to hop in `l5d-ctx-flavour`: its name, when it expires, in seconds since 1970, and its rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Flavour {
    name: String,
    // In seconds since 1970.
    expires: u32,
    dtab: Dtab,
}

/// Which requests a server gives a flavour: those that have a header.
#[derive(Clone, Debug, PartialEq)]
pub struct FlavourRule {
    name: String,
    header: HeaderName,
    value: Option<HeaderValue>,
    dtab: Dtab,
    ttl: Duration,
}

/// What cannot be the name of a flavour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be the name of a flavour: 1 to {MAX_NAME} letters, digits, '-', '_' and '.' can")]
pub struct InvalidFlavour(pub String);

/// Why a request's flavour does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Expired,
    /// It is none, or an outsider's.
    Refused,
}

impl Flavour {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its rules.
    #[must_use]
    pub fn dtab(&self) -> &Dtab {
        &self.dtab
    }

    /// When it expires.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires.into())
    }

    /// Takes it off a request. Two are none: who added the second is not known.
    pub(crate) fn take(headers: &mut HeaderMap, now: SystemTime) -> Option<Result<Arc<Flavour>, Lost>> {
        let http::header::Entry::Occupied(entry) = headers.entry(L5D_CTX_FLAVOUR) else { return None };
        let mut values = entry.remove_entry_mult().1;
        let (first, second) = (values.next(), values.next());
        drop(values);
        let flavour = first.filter(|_| second.is_none()).as_ref().and_then(Self::decode);
        Some(match flavour {
            None => Err(Lost::Refused),
            Some(flavour) if flavour.expires() <= now => Err(Lost::Expired),
            Some(flavour) => Ok(Arc::new(flavour)),
        })
    }

    fn decode(value: &HeaderValue) -> Option<Self> {
        let (name, rest) = value.to_str().ok()?.split_once(' ')?;
        let (expires, dtab) = rest.split_once(' ').unwrap_or((rest, ""));
        let expires = expires.parse().ok()?;
        is_name(name).then_some(())?;
        Some(Self { name: name.to_owned(), expires, dtab: dtab.parse().ok()? })
    }

    pub(crate) fn encode(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{} {} {}", self.name, self.expires, self.dtab)).ok()
    }
}

impl FlavourRule {
    /// Gives this flavour to requests that have `header`, with `value` if that is not `None`. It holds for so long from
    /// then on, in whole seconds, at least one.
    ///
    /// # Errors
    ///
    /// The name is none.
    pub fn new(
        name: &str,
        header: HeaderName,
        value: Option<HeaderValue>,
        dtab: Dtab,
        ttl: Duration,
    ) -> Result<Self, InvalidFlavour> {
        if !is_name(name) {
            return Err(InvalidFlavour(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), header, value, dtab, ttl })
    }

    /// The flavour of a request, if it has one.
    #[cfg(feature = "server")]
    pub(crate) fn apply(&self, headers: &HeaderMap, now: SystemTime) -> Option<Arc<Flavour>> {
        let mut values = headers.get_all(&self.header).iter();
        let matches = values.any(|given| self.value.as_ref().is_none_or(|value| value == given));
        let until = now.duration_since(UNIX_EPOCH).unwrap_or_default() + self.ttl.max(Duration::from_secs(1));
        matches.then(|| {
            let (name, dtab) = (self.name.clone(), self.dtab.clone());
            Arc::new(Flavour { name, expires: u32::try_from(until.as_secs()).unwrap_or(u32::MAX), dtab })
        })
    }
}

/// Whether this can be the name of a flavour.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(values: &[&str], now: u64) -> Option<Result<Arc<Flavour>, Lost>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(L5D_CTX_FLAVOUR, value.parse().unwrap());
        }
        let given = Flavour::take(&mut headers, UNIX_EPOCH + Duration::from_secs(now));
        assert!(headers.is_empty());
        given
    }

    #[test]
    fn a_flavour_reads_as_it_was_written_until_it_expires() {
        for text in ["canary 100 /svc/b=>/svc/b-canary", "plain.1 100 "] {
            let Some(Ok(flavour)) = take(&[text], 99) else { panic!("{text}") };
            assert_eq!(flavour.encode().unwrap(), text);
            assert_eq!(take(&[text], 100), Some(Err(Lost::Expired)));
        }
        assert_eq!(take(&[], 1), None);
    }

    #[test]
    fn what_is_no_flavour_is_dropped() {
        let long = format!("{} 100 ", "x".repeat(65));
        for values in [
            &[""][..],
            &["canary"],
            &["canary soon /a=>/b"],
            &["canary -1 /a=>/b"],
            &["canary 99999999999 /a=>/b"],
            &["can/ary 100 /a=>/b"],
            &["canary 100 /a"],
            &[&long],
            &["canary 100 ", "canary 100 "],
        ] {
            assert_eq!(take(values, 1), Some(Err(Lost::Refused)), "{values:?}");
        }
    }

    #[test]
    fn a_rule_is_for_requests_with_its_header() {
        let rule = |value: Option<&'static str>| {
            let value = value.map(HeaderValue::from_static);
            let header = HeaderName::from_static("x-canary");
            FlavourRule::new("canary", header, value, Dtab::empty(), Duration::from_secs(9)).unwrap()
        };
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-canary"), HeaderValue::from_static("yes"))]);
        let at = UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(rule(None).apply(&headers, at).unwrap().expires(), UNIX_EPOCH + Duration::from_secs(10));
        assert!(rule(Some("yes")).apply(&headers, at).is_some());
        assert!(rule(Some("no")).apply(&headers, at).is_none() && rule(None).apply(&HeaderMap::new(), at).is_none());
        let none = FlavourRule::new("a b", http::header::HOST, None, Dtab::empty(), Duration::ZERO);
        assert_eq!(none, Err(InvalidFlavour("a b".into())));
    }
}

//! Versions as entity tags.
//!
//! namerd's are base64 without quotes, and what it takes back it reads with a lenient decoder: quotes and other foreign
//! characters are left out, so that what is no version at all is one that nothing has.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use http::{HeaderMap, HeaderValue, header};

use super::reply::Problem;
use crate::store::{Expect, Version};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The `ETag` of a version.
pub(super) fn show(version: &Version) -> String {
    STANDARD.encode(version.as_bytes())
}

/// Whether the answer to a write is to have the version that results: `Prefer: etag`. That of namerd 1.7.5 has none.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    prefers(headers, "etag")
}

/// What has to be so for a deletion. namerd 1.7.5 takes no notice of conditions there, and neither is one taken unless the
/// caller says `Prefer: handling=strict`.
pub(super) fn expected_to_delete(headers: &HeaderMap) -> Result<Expect, Problem> {
    if is_strict(headers) { expected(headers) } else { Ok(Expect::Any) }
}

/// What is said of a deletion that was made whatever its conditions are, if it has any.
pub(super) fn unheeded_by_deletion(headers: &HeaderMap) -> Option<&'static str> {
    let is_conditional = headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH);
    let said = "If-Match and If-None-Match of a DELETE are heeded only with Prefer: handling=strict: it was deleted whatever its version was";
    (is_conditional && !is_strict(headers)).then_some(said)
}

fn is_strict(headers: &HeaderMap) -> bool {
    prefers(headers, "handling=strict")
}

/// Whether one of the preferences of RFC 7240 is this.
fn prefers(headers: &HeaderMap, wanted: &str) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|preferred| preferred.trim().eq_ignore_ascii_case(wanted))
}

/// The version that `If-Match` asks for, if it is there.
pub(super) fn if_match(headers: &HeaderMap) -> Option<Version> {
    headers.get(header::IF_MATCH).map(read)
}

fn read(value: &HeaderValue) -> Version {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let mut digits: Vec<u8> = value.as_bytes().iter().copied().filter(digit).collect();
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    Version::new(LENIENT.decode(digits).unwrap_or_default())
}

/// What has to be so for a change to be made: `If-Match` says which version is there, `If-None-Match: *` that none is.
pub(super) fn expected(headers: &HeaderMap) -> Result<Expect, Problem> {
    let absent = headers.get(header::IF_NONE_MATCH);
    if absent.is_some_and(|value| value.as_bytes().trim_ascii() != b"*") {
        return Err(Problem::bad("If-None-Match of a write must be *"));
    }
    match (if_match(headers), absent) {
        (Some(_), Some(_)) => Err(Problem::bad("If-Match and If-None-Match exclude each other")),
        (Some(version), None) => Ok(Expect::Version(version)),
        (None, Some(_)) => Ok(Expect::Absent),
        (None, None) => Ok(Expect::Any),
    }
}

/// Whether the caller of a read has this version already: `If-None-Match` lists its tag, quoted or not, weak or not.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|given| {
        let strong = given.strip_prefix("W/").unwrap_or(given);
        let bare = strong.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(strong);
        given == "*" || bare == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &'static str) -> Version {
        read(&HeaderValue::from_static(text))
    }

    #[test]
    fn reads_versions_as_leniently_as_namerd() {
        let one = Version::new(1_u64.to_be_bytes());
        assert_eq!(show(&one), "AAAAAAAAAAE=");
        assert_eq!(version("AAAAAAAAAAE="), one);
        assert_eq!(version("\"AAAAAAAAAAE=\""), one);
        assert_eq!(version("AAAAAAAAAAE"), one);
        for none in ["*", "!!!", "", "A"] {
            assert_eq!(version(none), Version::new([]), "{none}");
        }
    }

    #[test]
    fn a_read_knows_the_tags_that_it_lists() {
        let known = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(text));
            is_known(&headers, "AAE=")
        };
        assert!(["*", "AAE=", "\"AAE=\"", "W/\"AAE=\"", "\"x\", \"AAE=\""].into_iter().all(known));
        assert!(!["\"x\"", "", "AAE", "\"AAE=x\""].into_iter().any(known));
        assert!(!is_known(&HeaderMap::new(), "AAE="));
    }
}

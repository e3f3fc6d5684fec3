//! Request headers that carry tables.
//!
//! Pure functions over names and values: the caller takes the headers off the request.

use std::fmt::Write as _;

use crate::{Dentry, Dtab, NameTree, ParseError, Path, Prefix};

/// The header by which Linkerd instances hand a request's table on.
pub const CTX_DTAB: &str = "l5d-ctx-dtab";

/// The header by which users set a table for one request.
pub const USER_DTAB: &str = "l5d-dtab";

/// Why Finagle's own headers hold no table.
///
/// Displays the text that Finagle answers 400 with, after `Invalid Dtab headers: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FinagleError {
    /// A `dtab-local` header.
    #[error("{0}")]
    Dtab(#[from] ParseError),
    /// An `x-dtab-NN-a` without its `-b`, or the other way round.
    #[error("Unmatched X-Dtab headers")]
    Unmatched,
    /// An `-a` header is no prefix.
    #[error("Invalid prefix: {0}")]
    Prefix(String),
    /// A `-b` header is no tree.
    #[error("Invalid name: {0}")]
    Name(String),
    /// A header is not base64.
    #[error("Value not b64-encoded: {0}")]
    Base64(String),
}

/// The table of a request's `l5d-ctx-dtab` and `l5d-dtab` headers: context entries first, user entries after them, which
/// so take precedence whatever the order of the headers.
///
/// Each line is a table of its own; commas do not separate.
///
/// # Errors
///
/// The first line that does not parse, context before user. It is the request that is at fault: answer 400 with the
/// error's text, and with [`form_encode`] of it in `l5d-err`.
pub fn linkerd<'a, I>(headers: I) -> Result<Dtab, ParseError>
where
    I: IntoIterator<Item = (&'a str, &'a str)>,
    I::IntoIter: Clone,
{
    let headers = headers.into_iter();
    let mut entries = Vec::new();
    for wanted in [CTX_DTAB, USER_DTAB] {
        for (_, value) in headers.clone().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)) {
            entries.extend_from_slice(value.parse::<Dtab>()?.entries());
        }
    }
    Ok(Dtab::new(entries))
}

/// The table of Finagle's own headers: `x-dtab-NN-a` and `-b` pairs, then `dtab-local`. Linkerd's HTTP routers pass these
/// on unread; servers of namerd read them.
///
/// # Errors
///
/// [`FinagleError`], the first that Finagle would find.
pub fn finagle<'a, I>(headers: I) -> Result<Dtab, FinagleError>
where
    I: IntoIterator<Item = (&'a str, &'a str)>,
    I::IntoIter: Clone,
{
    let headers = headers.into_iter();
    let lower = headers.clone().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut coded: Vec<_> = lower.filter(|(name, _)| name.starts_with("x-dtab-")).collect();
    coded.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (pairs, odd) = coded.as_chunks::<2>();
    let is_pair = |[(a, _), (b, _)]: &[(String, &str); 2]| {
        a.strip_suffix("-a").is_some_and(|stem| b.strip_suffix("-b") == Some(stem))
    };
    if !odd.is_empty() || !pairs.iter().all(is_pair) {
        return Err(FinagleError::Unmatched);
    }
    let mut entries = Vec::with_capacity(pairs.len());
    for [(_, prefix), (_, name)] in pairs {
        let (prefix, name) = (base64(prefix)?, base64(name)?);
        let prefix = prefix.parse::<Prefix>().map_err(|_| FinagleError::Prefix(prefix))?;
        let dst = name.parse::<NameTree<Path>>().map_err(|_| FinagleError::Name(name))?;
        entries.push(Dentry { prefix, dst });
    }
    for (_, value) in headers.filter(|(name, _)| name.eq_ignore_ascii_case("dtab-local")) {
        let value = value.trim_end_matches(',');
        for part in value.split(',') {
            entries.extend_from_slice(part.parse::<Dtab>()?.entries());
        }
    }
    Ok(Dtab::new(entries))
}

/// A text as `application/x-www-form-urlencoded` in ISO-8859-1, as the `l5d-err` header carries it.
///
/// Characters that ISO-8859-1 does not have become `?`.
#[must_use]
pub fn form_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + text.len() / 2);
    for c in text.chars() {
        match u8::try_from(u32::from(c)).unwrap_or(b'?') {
            b' ' => encoded.push('+'),
            byte if byte.is_ascii_alphanumeric() || b".-*_".contains(&byte) => encoded.push(char::from(byte)),
            byte => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

// The standard alphabet, padding optional. As text, which the parser looks at.
fn base64(value: &str) -> Result<String, FinagleError> {
    let error = || FinagleError::Base64(value.to_owned());
    let digits = value.trim_end_matches('=');
    if digits.len() % 4 == 1 || value.len() - digits.len() > 2 {
        return Err(error());
    }
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(digits.len()), 0_u32, 0);
    for digit in digits.bytes() {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(error()),
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

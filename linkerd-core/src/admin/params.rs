//! What callers of the admin pages send: query parameters, forms and JSON.

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;

use super::reply;
use crate::{Body, BoxError};

/// No page takes more than this.
pub(super) const MAX_BODY: usize = 1 << 20;

/// Parameters of a query or a form, in their order.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

/// Why a request to an admin page is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadParams {
    /// A parameter is not UTF-8 once decoded.
    #[error("invalid parameter {name}: not UTF-8 ({raw})")]
    NotUtf8 { name: String, raw: String },
    /// A parameter that must be there is not.
    #[error("parameter {name} is missing")]
    Missing { name: &'static str },
    /// A parameter is none that the page knows.
    #[error("unknown parameter {name}: expected one of {known}")]
    Unknown { name: String, known: String },
    /// A parameter is not one of the values that it may have.
    #[error("invalid parameter {name}: expected {expected}, found {value:?}")]
    Unexpected { name: &'static str, expected: &'static str, value: String },
    /// A parameter is not what something else expects.
    #[error("invalid parameter {name}, {value:?}: {reason}")]
    Rejected { name: &'static str, value: String, reason: BoxError },
    /// The body is larger than [`MAX_BODY`].
    #[error("body is larger than {MAX_BODY} bytes")]
    TooLarge,
    /// The body could not be read.
    #[error("body could not be read: {0}")]
    Unreadable(String),
}

impl Params {
    /// Parses the query of a URL: `a=1&b=2`, where `+` is a space. As in Linkerd `;` separates too, so that in a dtab it has
    /// to be `%3B`. A `%` that begins no code stands for itself: dtabs have such names.
    pub(super) fn query(uri: &Uri) -> Result<Self, BadParams> {
        Self::parse(uri.query().unwrap_or(""), &['&', ';'])
    }

    fn parse(text: &str, separators: &[char]) -> Result<Self, BadParams> {
        let decode = |raw: &str, name: &str| {
            let text = raw.replace('+', " ");
            percent_decode_str(&text)
                .decode_utf8()
                .map(String::from)
                .map_err(|_| BadParams::NotUtf8 { name: name.to_owned(), raw: raw.to_owned() })
        };
        let pairs = text.split(separators).filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, name)?;
            let value = decode(value, &name)?;
            Ok((name, value))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// The parameters of a URL, and of a form in the body if it says that it is one.
    pub(super) async fn of(req: http::Request<Body>) -> Result<Self, BadParams> {
        let (head, body) = req.into_parts();
        let mut all = Self::query(&head.uri)?;
        let kind = head.headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FORM)) {
            let body = read(body).await?;
            all.0.extend(Self::parse(&String::from_utf8_lossy(&body), &['&'])?.0);
        }
        Ok(all)
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&str, BadParams> {
        self.get(name).ok_or(BadParams::Missing { name })
    }

    /// Refuses what is none of these: for pages that change something, where a slip must not do more than was meant.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), BadParams> {
        match self.0.iter().find(|(name, _)| !known.contains(&&**name)) {
            Some((name, _)) => Err(BadParams::Unknown { name: name.clone(), known: known.join(", ") }),
            None => Ok(()),
        }
    }

    /// A yes or no; no if it is not there.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, BadParams> {
        match self.get(name) {
            Some("true" | "t" | "1") => Ok(true),
            Some("false" | "f" | "0") | None => Ok(false),
            Some(value) => Err(BadParams::Unexpected { name, expected: "true or false", value: value.to_owned() }),
        }
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Reads a body of at most [`MAX_BODY`] bytes.
pub(super) async fn read(body: Body) -> Result<Bytes, BadParams> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BadParams::TooLarge),
        Err(error) => Err(BadParams::Unreadable(error.to_string())),
    }
}

impl BadParams {
    pub(super) fn answer(&self) -> Response<Body> {
        let status = match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        reply::error(status, self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(query: &str) -> Result<Params, BadParams> {
        Params::query(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn parameters_are_decoded() {
        let params = query("dtab=/svc=%3E/%23/a+b%3B/x=%3E/%&path=%2Fsvc&&flag;other=1").unwrap();
        assert_eq!(params.get("dtab"), Some("/svc=>/#/a b;/x=>/%"));
        assert_eq!(params.get("path"), Some("/svc"));
        assert_eq!(params.get("flag"), Some(""));
        assert_eq!(params.get("other"), Some("1"));
        assert_eq!(params.get("none"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = query("a=1&path=%ff").unwrap_err();
        assert_eq!(error.to_string(), "invalid parameter path: not UTF-8 (%ff)");
        let params = query("tree=maybe").unwrap();
        let error = params.flag("tree").unwrap_err();
        assert_eq!(error.to_string(), r#"invalid parameter tree: expected true or false, found "maybe""#);
        assert_eq!(params.required("path").unwrap_err().to_string(), "parameter path is missing");
    }
}

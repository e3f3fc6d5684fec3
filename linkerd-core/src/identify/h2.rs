//! The identifiers of HTTP/2, which know pseudo-headers.

use std::borrow::Cow;

use http::{HeaderName, header, request::Parts};
use linkerd_dtab::Path;

use super::{Identified, Identifier, Unidentified, push};

/// `io.l5d.header.token` of an h2 router: the value of a header is one element of the name, as it stands.
#[derive(Clone, Debug)]
pub struct H2Token {
    prefix: Path,
    field: Field,
}

/// `io.l5d.header.path` of an h2 router: the first segments of the path in a header, without its query.
#[derive(Clone, Debug)]
pub struct H2Path {
    prefix: Path,
    field: Field,
    segments: Option<usize>,
}

/// A header or pseudo-header.
#[derive(Clone, Debug)]
struct Field {
    kind: Kind,
    // As it was configured: the caller reads it.
    shown: String,
}

#[derive(Clone, Debug)]
enum Kind {
    Method,
    Scheme,
    Authority,
    Path,
    Header(HeaderName),
    /// A name in upper case, as no header of HTTP/2 has.
    Never,
}

impl Field {
    fn parse(name: &str) -> Result<Self, header::InvalidHeaderName> {
        let kind = match name {
            ":method" => Kind::Method,
            ":scheme" => Kind::Scheme,
            ":authority" => Kind::Authority,
            ":path" => Kind::Path,
            name => {
                let header: HeaderName = name.parse()?;
                if header.as_str() == name { Kind::Header(header) } else { Kind::Never }
            }
        };
        Ok(Self { kind, shown: name.to_owned() })
    }

    /// The first value that the request gives it.
    fn value<'a>(&self, req: &'a Parts) -> Option<Cow<'a, [u8]>> {
        let header = |name| req.headers.get(name).map(http::HeaderValue::as_bytes);
        let value = match &self.kind {
            Kind::Method => Some(req.method.as_str().as_bytes()),
            Kind::Scheme => req.uri.scheme_str().map(str::as_bytes),
            Kind::Authority => match req.uri.authority() {
                Some(authority) => Some(authority.as_str().as_bytes()),
                None => header(&header::HOST),
            },
            Kind::Path => req.uri.path_and_query().map(|path| path.as_str().as_bytes()),
            Kind::Header(name) => header(name),
            Kind::Never => None,
        };
        value.filter(|value| !value.is_empty()).map(Cow::Borrowed)
    }
}

impl H2Token {
    /// Names requests by this header, or pseudo-header: `:authority` in Linkerd.
    ///
    /// # Errors
    ///
    /// A name that no header can have.
    pub fn new(prefix: Path, header: &str) -> Result<Self, header::InvalidHeaderName> {
        Ok(Self { prefix, field: Field::parse(header)? })
    }
}

impl H2Path {
    /// Names requests by so many segments of the path in this header, or pseudo-header: of all of `:path` in Linkerd.
    ///
    /// # Errors
    ///
    /// A name that no header can have.
    pub fn new(prefix: Path, header: &str, segments: Option<usize>) -> Result<Self, header::InvalidHeaderName> {
        Ok(Self { prefix, field: Field::parse(&header.to_ascii_lowercase())?, segments })
    }
}

impl Identifier for H2Token {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let missing = || Unidentified::new(format!("missing header: '{}'", self.field.shown));
        let value = self.field.value(req).ok_or_else(missing)?;
        let mut path = self.prefix.to_builder();
        push(&mut path, &value)?;
        Ok(Identified::new(path.build()))
    }
}

impl Identifier for H2Path {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let value = self.field.value(req).unwrap_or_default();
        let value = value.split(|&byte| byte == b'?').next().unwrap_or_default();
        let value = value.strip_suffix(b"/").unwrap_or(value);
        let value = value.strip_prefix(b"/").unwrap_or(value);
        if value.is_empty() {
            return Err(Unidentified::new("Missing destination path"));
        }
        let mut path = self.prefix.to_builder();
        let mut taken = 0;
        for segment in value.split(|&byte| byte == b'/').take(self.segments.unwrap_or(usize::MAX)) {
            push(&mut path, segment)?;
            taken += 1;
        }
        match self.segments {
            Some(segments) if taken < segments => {
                Err(Unidentified::new(format!("Path must have at least {segments} segment(s)")))
            }
            _ => Ok(Identified::new(path.build())),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn svc() -> Path {
        "/svc".parse().unwrap()
    }

    fn name(identifier: &impl Identifier, target: &str, headers: &[(&str, &str)]) -> String {
        let req = headers.iter().fold(Request::post(target), |req, (name, value)| req.header(*name, *value));
        match identifier.identify(&req.body(()).unwrap().into_parts().0) {
            Ok(identified) => identified.path.to_string(),
            Err(error) => error.reason,
        }
    }

    #[test]
    fn a_token_is_a_pseudo_header_or_the_first_of_a_header() {
        let token = |header| H2Token::new(svc(), header).unwrap();
        for (header, expected) in [
            (":authority", "/svc/Web:80"),
            (":method", "/svc/POST"),
            (":scheme", "/svc/http"),
            ("my-dest", "/svc/one"),
            ("My-Dest", "missing header: 'My-Dest'"),
            ("other", "missing header: 'other'"),
        ] {
            let headers = [("my-dest", "one"), ("my-dest", "two")];
            assert_eq!(name(&token(header), "http://Web:80/a", &headers), expected, "{header}");
        }
        assert_eq!(name(&token(":authority"), "/a", &[("host", "web")]), "/svc/web");
        assert_eq!(name(&token(":authority"), "/a", &[]), "missing header: ':authority'");
        assert!(H2Token::new(svc(), ":nothing").is_err());
    }

    #[test]
    fn a_path_loses_its_query_and_one_slash() {
        let path = |segments| H2Path::new(svc(), ":path", segments).unwrap();
        for (target, segments, expected) in [
            ("/pkg.Svc/Method?x=/y", None, "/svc/pkg.Svc/Method"),
            ("/pkg.Svc/Method", Some(1), "/svc/pkg.Svc"),
            ("/a/b/", None, "/svc/a/b"),
            ("/a/b/c", Some(2), "/svc/a/b"),
            ("/a", Some(2), "Path must have at least 2 segment(s)"),
            ("/a/", Some(2), "Path must have at least 2 segment(s)"),
            ("/", None, "Missing destination path"),
            ("/a//b", None, "a segment of the path is empty"),
        ] {
            assert_eq!(name(&path(segments), target, &[]), expected, "{target}");
        }
        let named = H2Path::new(svc(), "X-Path", None).unwrap();
        assert_eq!(name(&named, "/", &[("x-path", "/x/y")]), "/svc/x/y");
    }
}

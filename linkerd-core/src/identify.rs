//! Identifiers: from a request to the logical name that it is for.
//!
//! Each of Linkerd 1.x's identifiers of HTTP and HTTP/2 is a type here, made with the prefix that its names get (`/svc` by default in
//! a file); a `Vec` of them asks one after another.

mod h2;
#[cfg(feature = "remote")]
mod namespace;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Version, header, request::Parts, uri::PathAndQuery};
use linkerd_dtab::{Path, PathBuilder};

pub use h2::{H2Path, H2Token};
#[cfg(feature = "remote")]
pub use namespace::NamespaceHeader;

/// Names requests.
pub trait Identifier: Send + Sync + 'static {
    /// Names a request.
    ///
    /// # Errors
    ///
    /// Why it has no name; the proxy answers 400 with the reason.
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified>;
}

/// A request's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// The logical name.
    pub path: Path,
    /// What the request's target becomes, if the name consumed some of it.
    pub target: Option<PathAndQuery>,
}

/// A request has no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unidentified {
    /// Why, for the caller.
    pub reason: String,
    /// Whether no later identifier is to be asked: there was a name, and it is malformed.
    pub is_final: bool,
}

/// `io.l5d.header.token`: the value of a header is one element of the name, as it stands.
#[derive(Clone, Debug)]
pub struct HeaderToken {
    prefix: Path,
    header: Header,
}

/// `io.l5d.header`: the value of a header is a path.
#[derive(Clone, Debug)]
pub struct HeaderPath {
    prefix: Path,
    header: Header,
}

/// `io.l5d.methodAndHost`: `/1.1/METHOD/host`, or `/1.0/METHOD` for HTTP/1.0, which has no host.
#[derive(Clone, Debug)]
pub struct MethodAndHost {
    prefix: Path,
    uri_in_dst: bool,
}

/// `io.l5d.path`: the first segments of the request's own path.
#[derive(Clone, Debug)]
pub struct PathSegments {
    prefix: Path,
    segments: usize,
    consume: bool,
}

/// `io.l5d.static`: always the same name.
#[derive(Clone, Debug)]
pub struct Fixed {
    path: Path,
}

#[derive(Clone, Debug)]
struct Header {
    name: HeaderName,
    // As it was configured: the caller reads it.
    shown: String,
}

impl Identified {
    /// The name alone, the request as it came.
    #[must_use]
    pub const fn new(path: Path) -> Self {
        Self { path, target: None }
    }
}

impl Unidentified {
    /// Another identifier may know.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_final: false }
    }

    /// What there is of a name is malformed: nobody else is to be asked.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_final: true }
    }
}

impl Header {
    fn parse(name: &str) -> Result<Self, header::InvalidHeaderName> {
        Ok(Self { name: name.parse()?, shown: name.to_owned() })
    }

    /// The first value that the request gives it.
    fn value<'a>(&self, headers: &'a HeaderMap) -> Result<&'a [u8], Unidentified> {
        match headers.get(&self.name).map(http::HeaderValue::as_bytes) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(Unidentified::new(format!("{} header is absent", self.shown))),
        }
    }
}

impl HeaderToken {
    /// Names requests by their `Host`.
    #[must_use]
    pub fn host(prefix: Path) -> Self {
        Self { prefix, header: Header { name: header::HOST, shown: "Host".into() } }
    }

    /// Names requests by this header.
    ///
    /// # Errors
    ///
    /// A name that no header can have.
    pub fn new(prefix: Path, header: &str) -> Result<Self, header::InvalidHeaderName> {
        Ok(Self { prefix, header: Header::parse(header)? })
    }
}

impl HeaderPath {
    /// Names requests by the path in this header: `l5d-name` in Linkerd.
    ///
    /// # Errors
    ///
    /// A name that no header can have.
    pub fn new(prefix: Path, header: &str) -> Result<Self, header::InvalidHeaderName> {
        Ok(Self { prefix, header: Header::parse(header)? })
    }
}

impl MethodAndHost {
    /// Names requests by version, method and host; and by the segments of their path, if `uri_in_dst`.
    #[must_use]
    pub const fn new(prefix: Path, uri_in_dst: bool) -> Self {
        Self { prefix, uri_in_dst }
    }
}

impl PathSegments {
    /// Names requests by so many segments of their path. With `consume` those are cut off the request.
    #[must_use]
    pub const fn new(prefix: Path, segments: usize, consume: bool) -> Self {
        Self { prefix, segments, consume }
    }
}

impl Fixed {
    /// Names every request `path`, under the prefix.
    #[must_use]
    pub fn new(prefix: &Path, path: &Path) -> Self {
        Self { path: prefix.concat(path) }
    }
}

/// `prefix` and one more element.
fn push(builder: &mut PathBuilder, element: &[u8]) -> Result<(), Unidentified> {
    builder.push(element).map_err(|_| Unidentified::malformed("a segment of the path is empty"))
}

impl Identifier for HeaderToken {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let mut path = self.prefix.to_builder();
        push(&mut path, self.header.value(&req.headers)?)?;
        Ok(Identified::new(path.build()))
    }
}

impl Identifier for HeaderPath {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let value = String::from_utf8_lossy(self.header.value(&req.headers)?);
        match value.parse::<Path>() {
            Ok(path) => Ok(Identified::new(self.prefix.concat(&path))),
            Err(error) => Err(Unidentified::malformed(error.to_string())),
        }
    }
}

impl Identifier for MethodAndHost {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let mut path = self.prefix.to_builder();
        match req.version {
            Version::HTTP_10 => {
                push(&mut path, b"1.0")?;
                push(&mut path, req.method.as_str().as_bytes())?;
            }
            Version::HTTP_11 => {
                let host = req.headers.get(header::HOST).map(|host| host.as_bytes().to_ascii_lowercase());
                let Some(host) = host.filter(|host| !host.is_empty()) else {
                    return Err(Unidentified::new("HTTP/1.1 request missing hostname"));
                };
                push(&mut path, b"1.1")?;
                push(&mut path, req.method.as_str().as_bytes())?;
                push(&mut path, &host)?;
            }
            version => return Err(Unidentified::new(format!("unsupported version: {version:?}"))),
        }
        if self.uri_in_dst && req.uri.path() != "/" {
            // The target is read as a name, so it has to be one.
            match req.uri.path().parse::<Path>() {
                Ok(uri) => path.extend(&uri),
                Err(error) => return Err(Unidentified::malformed(error.to_string())),
            }
        }
        Ok(Identified::new(path.build()))
    }
}

impl Identifier for PathSegments {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let whole = req.uri.path();
        let mut rest = whole.strip_prefix('/').unwrap_or(whole);
        let mut path = self.prefix.to_builder();
        for taken in 0..self.segments {
            if rest.is_empty() {
                return Err(Unidentified::new("not enough segments in path"));
            }
            let (segment, after) = match rest.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (rest, None),
            };
            push(&mut path, segment.as_bytes())?;
            match after {
                Some(after) => rest = after,
                None if taken + 1 == self.segments => rest = "",
                None => return Err(Unidentified::new("not enough segments in path")),
            }
        }
        let target = self.consume.then(|| match req.uri.query() {
            Some(query) => format!("/{rest}?{query}"),
            None => format!("/{rest}"),
        });
        // A suffix of a valid target, behind a slash, is one too.
        let target = target.map(|target| target.parse().unwrap_or(PathAndQuery::from_static("/")));
        Ok(Identified { path: path.build(), target })
    }
}

impl Identifier for Fixed {
    fn identify(&self, _req: &Parts) -> Result<Identified, Unidentified> {
        Ok(Identified::new(self.path.clone()))
    }
}

impl<I: Identifier + ?Sized> Identifier for Box<I> {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        (**self).identify(req)
    }
}

impl<I: Identifier + ?Sized> Identifier for Arc<I> {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        (**self).identify(req)
    }
}

/// The first that knows. Of several reasons the last one's is given.
impl<I: Identifier> Identifier for Vec<I> {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let mut reason = None;
        for identifier in self {
            match identifier.identify(req) {
                Err(error) if !error.is_final => reason = Some(error),
                done => return done,
            }
        }
        Err(reason.unwrap_or_else(|| Unidentified::new("no identifier is configured")))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn svc() -> Path {
        "/svc".parse().unwrap()
    }

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let req = headers.iter().fold(Request::get(target), |req, (name, value)| req.header(*name, *value));
        req.body(()).unwrap().into_parts().0
    }

    fn name(identifier: &impl Identifier, req: &Parts) -> String {
        match identifier.identify(req) {
            Ok(identified) => identified.path.to_string(),
            Err(error) => error.reason,
        }
    }

    #[test]
    fn a_token_is_one_element_with_its_case() {
        let host = HeaderToken::host(svc());
        assert_eq!(name(&host, &parts("/", &[("host", "WeB:80")])), "/svc/WeB:80");
        assert_eq!(name(&host, &parts("/", &[("host", "a/b")])), "/svc/\\x61\\x2f\\x62");
        assert_eq!(name(&host, &parts("/", &[("host", "")])), "Host header is absent");
        assert_eq!(name(&HeaderToken::new(svc(), "My-Dest").unwrap(), &parts("/", &[])), "My-Dest header is absent");
    }

    #[test]
    fn a_header_that_is_no_path_ends_the_search() {
        let all: Vec<Box<dyn Identifier>> =
            vec![Box::new(HeaderPath::new(svc(), "l5d-name").unwrap()), Box::new(HeaderToken::host(svc()))];
        assert_eq!(name(&all, &parts("/", &[("host", "web"), ("l5d-name", "/a/b")])), "/svc/a/b");
        assert_eq!(name(&all, &parts("/", &[("host", "web")])), "/svc/web");
        let text = "label char expected but end of input found at '/a/[]'";
        assert_eq!(name(&all, &parts("/", &[("host", "web"), ("l5d-name", "/a/")])), text);
    }

    #[test]
    fn method_and_host_lowers_the_host() {
        let plain = MethodAndHost::new(svc(), false);
        assert_eq!(name(&plain, &parts("/x", &[("host", "Web")])), "/svc/1.1/GET/web");
        assert_eq!(name(&plain, &parts("/x", &[])), "HTTP/1.1 request missing hostname");
        let with_uri = MethodAndHost::new(svc(), true);
        assert_eq!(name(&with_uri, &parts("/a/b?c", &[("host", "web")])), "/svc/1.1/GET/web/a/b");
        assert_eq!(name(&with_uri, &parts("/", &[("host", "web")])), "/svc/1.1/GET/web");
        let text = "end of input expected but '@' found at '/foo/b[@]r'";
        assert_eq!(name(&with_uri, &parts("/foo/b@r", &[("host", "web")])), text);
    }

    #[test]
    fn segments_are_cut_off_the_target_byte_for_byte() {
        for (target, segments, path, rest) in [
            ("/foo/bar/baz?q=1&r=%20x", 1, "/svc/foo", "/bar/baz?q=1&r=%20x"),
            ("/foo?q=1", 1, "/svc/foo", "/?q=1"),
            ("/a/b", 2, "/svc/a/b", "/"),
            ("/a/b/", 2, "/svc/a/b", "/"),
            ("/a%2Fb/c", 1, "/svc/a%2Fb", "/c"),
        ] {
            let got = PathSegments::new(svc(), segments, true).identify(&parts(target, &[])).unwrap();
            assert_eq!((got.path.to_string().as_str(), got.target.unwrap().as_str()), (path, rest), "{target}");
        }
        let two = PathSegments::new(svc(), 2, false);
        for target in ["/", "/a", "/a/"] {
            assert_eq!(name(&two, &parts(target, &[])), "not enough segments in path", "{target}");
        }
        assert_eq!(name(&two, &parts("//a", &[])), "a segment of the path is empty");
    }
}

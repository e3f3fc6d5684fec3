//! A line as Linkerd 1 writes it.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, Response, Version, header::CONTENT_LENGTH};
use jiff::Zoned;

use super::Asked;
use crate::Body;

impl Asked {
    /// The line, with its end. Values of headers are in it as they came.
    pub(super) fn line(&self, rsp: &Response<Body>, now: &Zoned, is_h2: bool) -> Vec<u8> {
        let mut line = Vec::with_capacity(256);
        let host = match &self.host {
            Some(host) => host.as_bytes(),
            None => self.uri.authority().map_or(&b""[..], |authority| authority.as_str().as_bytes()),
        };
        push(&mut line, host);
        let remote = self.remote.map_or_else(|| "-".to_owned(), |remote| remote.ip().to_canonical().to_string());
        let time = now.strftime(if is_h2 { "%d/%m/%Y:%H:%M:%S %z" } else { "%d/%m/%Y:%H:%M:%S %Z" });
        let method = self.method.as_str().to_ascii_uppercase();
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let version = match self.version {
            _ if is_h2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        let status = rsp.status().as_u16();
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, " {remote} - - [{time}] \"{method} {target} {version}\" {status} ");
        line.extend_from_slice(text.as_bytes());
        push(&mut line, if is_h2 { b"" } else { value(rsp.headers(), &CONTENT_LENGTH) });
        for header in [&self.referer, &self.agent] {
            line.extend_from_slice(b" \"");
            push(&mut line, header.as_ref().map_or(&b""[..], HeaderValue::as_bytes));
            line.push(b'"');
        }
        line.push(b'\n');
        line
    }
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a [u8] {
    headers.get(name).map_or(&b""[..], HeaderValue::as_bytes)
}

/// What there is, or a dash.
fn push(line: &mut Vec<u8>, value: &[u8]) {
    line.extend_from_slice(if value.is_empty() { b"-" } else { value });
}

#[cfg(test)]
mod tests {
    use http::{
        Request,
        header::{HOST, REFERER, USER_AGENT},
    };
    use jiff::tz::TimeZone;

    use super::*;

    fn line(req: http::request::Builder, length: &str, zone: TimeZone, is_h2: bool) -> String {
        let req = req.body(()).unwrap();
        let remote = Some(([127, 0, 0, 1], 4321).into());
        let asked = Asked::of(req.method(), req.uri(), req.version(), req.headers(), remote);
        let mut rsp = Response::new(Body::empty());
        if !length.is_empty() {
            rsp.headers_mut().insert(CONTENT_LENGTH, length.parse().unwrap());
        }
        let now = "2026-11-21T13:02:39Z".parse::<jiff::Timestamp>().unwrap().to_zoned(zone);
        String::from_utf8(asked.line(&rsp, &now, is_h2)).unwrap()
    }

    #[test]
    fn a_line_is_as_linkerd_recorded_it() {
        let get = || Request::get("/p?q=1").header(HOST, "web");
        assert_eq!(
            line(get(), "5", TimeZone::UTC, false),
            "web 127.0.0.1 - - [21/11/2026:13:02:39 UTC] \"GET /p?q=1 HTTP/1.1\" 200 5 \"-\" \"-\"\n"
        );
        let more = get().header(REFERER, "http://r/").header(USER_AGENT, "ua/1");
        assert_eq!(
            line(more, "5", TimeZone::UTC, false),
            "web 127.0.0.1 - - [21/11/2026:13:02:39 UTC] \"GET /p?q=1 HTTP/1.1\" 200 5 \"http://r/\" \"ua/1\"\n"
        );
        let east = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(
            line(Request::get("/").version(Version::HTTP_10), "", east, false),
            "- 127.0.0.1 - - [21/11/2026:14:02:39 +01] \"GET / HTTP/1.0\" 200 - \"-\" \"-\"\n"
        );
    }

    #[test]
    fn http_2_has_its_own_version_and_offset_and_no_length() {
        let req = Request::get("http://web/p").version(Version::HTTP_2);
        assert_eq!(
            line(req, "5", TimeZone::UTC, true),
            "web 127.0.0.1 - - [21/11/2026:13:02:39 +0000] \"GET /p HTTP/2\" 200 - \"-\" \"-\"\n"
        );
    }
}

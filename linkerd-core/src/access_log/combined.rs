//! A line as Linkerd 1 writes it.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, Response, Version, header::CONTENT_LENGTH};
use jiff::Zoned;

use super::{
    Asked,
    escape::{escape, escape_word},
};
use crate::Body;

impl Asked {
    /// The line, with its end. What others sent is escaped.
    pub(super) fn line(&self, rsp: &Response<Body>, now: &Zoned, is_h2: bool) -> String {
        let mut line = String::with_capacity(256);
        let host = match &self.host {
            Some(host) => host.as_bytes(),
            None => self.uri.authority().map_or(&b""[..], |authority| authority.as_str().as_bytes()),
        };
        push(&mut line, host, escape_word);
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
        // Writing to a string does not fail.
        let _ = write!(line, " {remote} - - [{time}] \"{method} ");
        escape(&mut line, target.as_bytes());
        let _ = write!(line, " {version}\" {status} ");
        push(&mut line, if is_h2 { b"" } else { value(rsp.headers(), &CONTENT_LENGTH) }, escape_word);
        for header in [&self.referer, &self.agent] {
            line.push_str(" \"");
            push(&mut line, header.as_ref().map_or(&b""[..], HeaderValue::as_bytes), escape);
            line.push('"');
        }
        line.push('\n');
        line
    }
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a [u8] {
    headers.get(name).map_or(&b""[..], HeaderValue::as_bytes)
}

/// What there is, or a dash.
fn push(line: &mut String, value: &[u8], escape: fn(&mut String, &[u8])) {
    if value.is_empty() {
        line.push('-');
    } else {
        escape(line, value);
    }
}

#[cfg(test)]
mod tests {
    use http::{
        Request,
        header::{HOST, REFERER, USER_AGENT},
    };
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::{super::escape::tests::unescape, *};

    fn line(req: http::request::Builder, length: &str, zone: TimeZone, is_h2: bool) -> String {
        let req = req.body(()).unwrap();
        let remote = Some(([127, 0, 0, 1], 4321).into());
        let asked = Asked::of(req.method(), req.uri(), req.version(), req.headers(), remote);
        let mut rsp = Response::new(Body::empty());
        if !length.is_empty() {
            rsp.headers_mut().insert(CONTENT_LENGTH, length.parse().unwrap());
        }
        let now = "2026-11-21T13:02:39Z".parse::<jiff::Timestamp>().unwrap().to_zoned(zone);
        asked.line(&rsp, &now, is_h2)
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

    /// Takes a line apart as those who read logs do: at spaces, but for those of a field in brackets or quotes, which ends at
    /// one that no backslash hides.
    fn fields(line: &str) -> Vec<String> {
        let (mut fields, mut end, mut is_hidden) = (vec![String::new()], None, false);
        for char in line.strip_suffix('\n').unwrap().chars() {
            // The first one is a host, which has neither.
            let begins = fields.len() > 1 && end.is_none() && fields.last().is_some_and(String::is_empty);
            match char {
                ' ' if end.is_none() => fields.push(String::new()),
                '"' if begins => end = Some('"'),
                '[' if begins => end = Some(']'),
                _ if end == Some(char) && !is_hidden => end = None,
                _ => fields.last_mut().unwrap().push(char),
            }
            is_hidden = char == '\\' && !is_hidden;
        }
        fields
    }

    /// Any value that a header may have.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(b' '), Just(b'\t')];
        proptest::collection::vec(
            byte.prop_filter("no value has it", |byte| HeaderValue::from_bytes(&[*byte]).is_ok()),
            1..40,
        )
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_it_is_one_line_of_ten_fields(host in value(), referer in value(), agent in value()) {
            let sent = [(HOST, &host), (REFERER, &referer), (USER_AGENT, &agent)];
            let req = sent.iter().fold(Request::get("/\"a\\?q"), |req, (name, value)| req.header(name, &value[..]));
            let line = line(req, "5", TimeZone::UTC, false);
            let fields = fields(&line);
            prop_assert_eq!(fields.len(), 10, "{}", line);
            prop_assert!(line.is_ascii() && line.matches('\n').count() == 1, "{}", line);
            for (at, value) in [(0, host), (8, referer), (9, agent)] {
                prop_assert_eq!(unescape(&fields[at]), value, "{}", line);
            }
        }
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

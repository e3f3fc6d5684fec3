//! The system namers: what `/$/...` means.

use std::{net::Ipv4Addr, sync::Arc};

use crate::{
    Activity, Addr, BindError, Bound, Failure, Name, NameTree, Namer, Path, PathBuilder, namer::Resolve,
    path::EmptyElement,
};

const STATUS: &str = "io.buoyant.http.status";

/// The system namers, asked with a whole path when no configured namer had an answer.
///
/// | name | what it is |
/// |---|---|
/// | `/$/inet/HOST/PORT`, `/$/inet/PORT` | the address of a host, or of this one |
/// | `/$/fixedinet/...` | the same, resolved once |
/// | `/$/nil`, `/$/fail` | `$` and `!` |
/// | `/$/io.buoyant.rinet/PORT/HOST` | inet, the other way round |
/// | `/$/io.buoyant.hostportPfx/P/HOST:PORT` and the other `io.buoyant` kinds | a rewritten path |
/// | `/$/io.buoyant.http.status/CODE` | answers with that status, see [`status_code`] |
///
/// Another kind fails; what does not start with `/$/` is negative.
#[derive(Clone)]
pub struct Global {
    resolve: Arc<dyn Resolve>,
    plain: bool,
}

/// What one system name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Neg,
    /// `!`
    Fail,
    /// `$`
    Empty,
    /// Another name.
    Path(Path),
    /// The replicas of a host.
    Inet(Inet),
    /// A service that answers with a status.
    Status {
        /// Names it: see [`status_code`].
        id: Path,
        /// The status and what follows it.
        residual: Path,
    },
}

/// A host and a port, as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inet {
    /// A name or a literal address.
    pub host: String,
    /// Perhaps not a valid one.
    pub port: String,
    /// Whether the first answer stands for good.
    pub fixed: bool,
    /// The elements that were consumed.
    pub id: Path,
    /// The others.
    pub residual: Path,
}

/// The status that requests to this bound name are answered with, if it is one of `/$/io.buoyant.http.status`.
///
/// Such a name has an address without replicas: there is nothing to connect to.
#[must_use]
pub fn status_code(id: &Path) -> Option<u16> {
    let mut elements = id.iter();
    if (elements.next(), elements.next()) != (Some(b"$"), Some(STATUS.as_bytes())) {
        return None;
    }
    let code = integer(&String::from_utf8_lossy(elements.next()?))?;
    u16::try_from(code).ok().filter(|code| (100..600).contains(code))
}

/// What `path` stands for by itself.
///
/// # Errors
///
/// [`BindError::UnknownNamer`] if it starts with `/$/KIND` and there is no such kind; [`BindError::Rewrite`] and
/// [`BindError::NotAPath`] if the result would be no path.
pub fn step(path: &Path) -> Result<Step, BindError> {
    let mut rest = path.clone();
    // A loop and no recursion: the kind `global` stands for this function, and may be repeated.
    loop {
        let mut elements = rest.iter();
        if elements.next() != Some(b"$") {
            return Ok(Step::Neg);
        }
        let Some(kind) = elements.next() else { return Ok(Step::Neg) };
        let kind = String::from_utf8_lossy(kind).into_owned();
        if let Some(inet) = inet(&kind, &rest) {
            return Ok(Step::Inet(inet));
        }
        let input = rest.drop_first(2);
        let rewritten = match &*kind {
            "fail" => return Ok(Step::Fail),
            "nil" => return Ok(Step::Empty),
            "com.twitter.finagle.namer.global" => {
                rest = input;
                continue;
            }
            "io.buoyant.rinet" => return rinet(path, &input),
            STATUS => return Ok(status(&input)),
            _ => rewrite(&kind, &input),
        };
        return match rewritten {
            Some(Ok(Some(path))) => Ok(Step::Path(path)),
            Some(Ok(None)) => Ok(Step::Neg),
            Some(Err(source)) => Err(BindError::Rewrite { path: path.clone(), source }),
            None => Err(BindError::UnknownNamer { kind, path: path.clone() }),
        };
    }
}

fn inet(kind: &str, path: &Path) -> Option<Inet> {
    if !matches!(kind, "inet" | "fixedinet") {
        return None;
    }
    let text = |index| path.get(index).map(|element| String::from_utf8_lossy(element).into_owned());
    let is_port = |text: &String| integer(text).is_some();
    let (first, second) = (text(2)?, text(3));
    let (host, port, consumed) = match second.filter(is_port) {
        Some(port) => (first, port, 4),
        // A port alone is of this host; by number, since `localhost` may name more than what is listened on.
        None if is_port(&first) => (Ipv4Addr::LOCALHOST.to_string(), first, 3),
        None => return None,
    };
    let (id, residual) = (path.take_first(consumed), path.drop_first(consumed));
    Some(Inet { host, port, fixed: kind == "fixedinet", id, residual })
}

fn rinet(path: &Path, input: &Path) -> Result<Step, BindError> {
    let mut elements = input.iter().map(String::from_utf8_lossy);
    let (Some(port), Some(host)) = (elements.next(), elements.next()) else { return Ok(Step::Neg) };
    // Read back from text, as Linkerd does: what would have to be escaped is an error.
    let text = format!("/$/io.buoyant.rinet/{port}/{host}");
    let id = match text.parse() {
        Ok(id) => id,
        Err(source) => return Err(BindError::NotAPath { path: path.clone(), text, source }),
    };
    let (host, port) = (host.into_owned(), port.into_owned());
    Ok(Step::Inet(Inet { host, port, fixed: false, id, residual: input.drop_first(2) }))
}

fn status(input: &Path) -> Step {
    let mut id = PathBuilder::default();
    let parts = [Some(b"$".as_slice()), Some(STATUS.as_bytes()), input.get(0)];
    if parts.into_iter().flatten().try_for_each(|element| id.push(element)).is_err() {
        return Step::Neg;
    }
    let id = id.build();
    if status_code(&id).is_none() {
        return Step::Neg;
    }
    Step::Status { id, residual: input.clone() }
}

/// `None`: no such kind. `Some(Ok(None))`: the input has not the form that the kind rewrites.
fn rewrite(kind: &str, input: &Path) -> Option<Result<Option<Path>, EmptyElement>> {
    let at = |index: usize| input.get(index).map(String::from_utf8_lossy);
    let host = |index: usize| at(index).filter(|text| is_host(text));
    // The elements kept before the rewritten ones, those in their place, and where the rest of the input begins.
    let rebuilt = |kept: Option<usize>, new: &[&str], rest: usize| {
        let mut path = PathBuilder::default();
        kept.and_then(|index| input.get(index)).map_or(Ok(()), |element| path.push(element))?;
        new.iter().try_for_each(|element| path.push(element.as_bytes()))?;
        path.extend(&input.drop_first(rest));
        Ok(Some(path.build()))
    };
    let removed = |prefixed: usize, matches: bool| {
        if !matches {
            return Ok(None);
        }
        rebuilt((prefixed == 1).then_some(0), &[], prefixed + 1)
    };
    Some(match kind {
        "io.buoyant.http.anyMethod" => removed(0, at(0).is_some_and(|text| is_method(&text))),
        "io.buoyant.http.anyMethodPfx" => removed(1, at(1).is_some_and(|text| is_method(&text))),
        "io.buoyant.http.anyHost" => removed(0, host(0).is_some()),
        "io.buoyant.http.anyHostPfx" => removed(1, host(1).is_some()),
        "io.buoyant.http.subdomainOf" | "io.buoyant.http.subdomainOfPfx" => {
            let prefixed = usize::from(kind.ends_with("Pfx"));
            let (Some(domain), Some(host)) = (host(0), host(1 + prefixed)) else { return Some(Ok(None)) };
            let Some(sub) = subdomain(&host, &domain) else { return Some(Ok(None)) };
            rebuilt((prefixed == 1).then_some(1), &[sub], 2 + prefixed)
        }
        "io.buoyant.http.domainToPath" | "io.buoyant.http.domainToPathPfx" => {
            let prefixed = usize::from(kind.ends_with("Pfx"));
            let Some(host) = host(prefixed) else { return Some(Ok(None)) };
            let mut labels = split(&host, '.');
            labels.reverse();
            rebuilt((prefixed == 1).then_some(0), &labels, 1 + prefixed)
        }
        "io.buoyant.hostportPfx" | "io.buoyant.porthostPfx" => {
            let Some(text) = at(1) else { return Some(Ok(None)) };
            let [host, port] = split(&text, ':')[..] else { return Some(Ok(None)) };
            if !is_port_name(port) {
                return Some(Ok(None));
            }
            let new = if kind.starts_with("io.buoyant.host") { [host, port] } else { [port, host] };
            rebuilt(Some(0), &new, 2)
        }
        _ => return None,
    })
}

// The part of `host` before `.domain`, without a port.
fn subdomain<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let host = match host.find(':') {
        Some(colon) if colon > 0 => &host[..colon],
        _ => host,
    };
    host.strip_suffix(domain)?.strip_suffix('.').filter(|sub| !sub.is_empty())
}

// The parts between separators, without the empty ones at the end.
fn split(text: &str, separator: char) -> Vec<&str> {
    let text = text.trim_end_matches(separator);
    if text.is_empty() { Vec::new() } else { text.split(separator).collect() }
}

// An optional sign and ASCII digits, within 32 bits.
fn integer(text: &str) -> Option<i32> {
    text.parse().ok()
}

fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:_-".contains(&byte))
}

fn is_port_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63 && text.bytes().next().is_some_and(word) && text.bytes().all(|byte| word(byte) || byte == b'-')
}

impl Global {
    /// The system namers, with the addresses of hosts from `resolve`.
    #[must_use]
    pub fn new(resolve: Arc<dyn Resolve>) -> Self {
        Self { resolve, plain: false }
    }

    /// An unknown kind fails with Finagle's text ([`BindError::ClassNotFound`]) and not with Linkerd's.
    #[must_use]
    pub fn with_plain_errors(mut self) -> Self {
        self.plain = true;
        self
    }

    fn address(&self, inet: &Inet) -> Activity<Addr> {
        if inet.fixed {
            self.resolve.resolve_once(&inet.host, &inet.port)
        } else {
            self.resolve.resolve(&inet.host, &inet.port)
        }
    }
}

impl Namer for Global {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let tree = match step(path) {
            Ok(Step::Neg) => NameTree::Neg,
            Ok(Step::Fail) => NameTree::Fail,
            Ok(Step::Empty) => NameTree::Empty,
            Ok(Step::Path(path)) => NameTree::Leaf(Name::Path(path)),
            Ok(Step::Inet(inet)) => {
                let addr = self.address(&inet);
                NameTree::Leaf(Name::Bound(Bound::new(inet.id, inet.residual, addr)))
            }
            Ok(Step::Status { id, residual }) => {
                let addr = Activity::value(Addr::Bound([].into()));
                NameTree::Leaf(Name::Bound(Bound::new(id, residual, addr)))
            }
            Err(BindError::UnknownNamer { kind, path }) if self.plain => {
                return Activity::failed(Arc::new(BindError::ClassNotFound { kind, path }) as Failure);
            }
            Err(error) => return Activity::failed(Arc::new(error) as Failure),
        };
        Activity::value(tree)
    }
}

impl std::fmt::Debug for Global {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Global").field("plain", &self.plain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn a_status_is_a_number_from_100_to_599() {
        for (name, code) in
            [("404/x", Some(404)), ("100", Some(100)), ("599", Some(599)), ("+200", Some(200)), ("99", None)]
        {
            let text = format!("/$/io.buoyant.http.status/{name}").replace('+', "\\x2b");
            let found = match step(&path(&text)).unwrap() {
                Step::Status { id, residual } => {
                    assert_eq!(residual, path(&text).drop_first(2));
                    status_code(&id)
                }
                _ => None,
            };
            assert_eq!(found, code, "{name}");
        }
        assert_eq!(step(&path("/$/io.buoyant.http.status/600")).unwrap(), Step::Neg);
        assert_eq!(step(&path("/$/io.buoyant.http.status")).unwrap(), Step::Neg);
        assert_eq!(status_code(&path("/#/io.l5d.fs/404")), None);
    }

    #[test]
    fn the_residual_of_an_address_keeps_its_bytes() {
        let Step::Inet(inet) = step(&path("/$/inet/h/80/\\xff")).unwrap() else { panic!("an address") };
        assert_eq!((inet.host.as_str(), inet.port.as_str(), inet.fixed), ("h", "80", false));
        assert_eq!(inet.residual, path("/\\xff"));
        let Step::Inet(inet) = step(&path("/$/fixedinet/80")).unwrap() else { panic!("an address") };
        assert_eq!((inet.host.as_str(), inet.port.as_str(), inet.fixed), ("127.0.0.1", "80", true));
    }

    #[test]
    fn an_address_by_port_and_host_is_read_back_from_text() {
        let Step::Inet(inet) = step(&path("/$/io.buoyant.rinet/http/h/r")).unwrap() else { panic!("an address") };
        assert_eq!((inet.host.as_str(), inet.port.as_str()), ("h", "http"));
        let error = step(&path("/$/io.buoyant.rinet/80/a\\x20b")).unwrap_err();
        assert!(error.to_string().contains("which is no path"), "{error}");
    }

    #[test]
    fn the_system_namers_by_name_as_often_as_one_likes() {
        let name = "/$/com.twitter.finagle.namer.global".repeat(5_000);
        assert_eq!(step(&path(&format!("{name}/$/nil"))).unwrap(), Step::Empty);
        let error = step(&path(&format!("{name}/$/what/ever"))).unwrap_err();
        assert!(matches!(error, BindError::UnknownNamer { kind, .. } if kind == "what"));
    }

    #[test]
    fn an_empty_element_is_an_error_and_not_negative() {
        for name in ["http.domainToPath/a..b", "http.domainToPath/.a", "hostportPfx/p/:80", "porthostPfx/p/:80"] {
            let error = step(&path(&format!("/$/io.buoyant.{name}"))).unwrap_err();
            assert!(matches!(error, BindError::Rewrite { .. }), "{error}");
        }
        assert_eq!(step(&path("/$/io.buoyant.http.domainToPath/.../r")).unwrap(), Step::Path(path("/r")));
    }
}

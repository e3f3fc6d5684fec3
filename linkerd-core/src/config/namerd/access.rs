//! `access`: who may do what. Not a section of Linkerd 1.x.

use std::{fmt, fs, sync::Arc};

use linkerd_dtab::namerd::{Grant, Pattern, Role, Roles, Who};

use super::super::decode::{At, Decode, Section};

/// The longest bearer token, in bytes.
const MAX_TOKEN: usize = 4096;

/// An entry of `access`: somebody has a role in some namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who: one of `name`, `token`, `tokenFile` and `anyone: true`.
    pub caller: Caller,
    /// `namespaces`: patterns such as `team/*`. Default: all.
    pub namespaces: Vec<Pattern>,
    /// `role`: `read`, `write` or `admin`, each with what those before it have. Required.
    pub role: Role,
}

/// Whom an [`Access`] is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// `anyone: true`: also those of whom nothing is known.
    Anyone,
    /// `name`: whose certificate was verified for it; `*.team.example` is each name that ends so.
    Name(String),
    /// `token`, or the one line of `tokenFile`, which is read when the file is: who shows it as a bearer token.
    Token {
        /// `label`: what it is called in histories and refusals. Required.
        label: String,
        /// The token.
        secret: Secret,
    },
}

/// A bearer token, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The token.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a whole section grants.
pub(crate) fn roles(all: &[Access]) -> Roles {
    let grants = all.iter().flat_map(|Access { caller, namespaces, role }| {
        let who = match caller {
            Caller::Anyone => Who::Anyone,
            Caller::Name(name) => Who::Name(name.as_str().into()),
            Caller::Token { label, secret } => {
                Who::Token { label: label.as_str().into(), secret: Arc::clone(&secret.0) }
            }
        };
        namespaces.iter().map(move |namespaces| Grant { who: who.clone(), namespaces: namespaces.clone(), role: *role })
    });
    Roles::new(grants)
}

/// The whole section. A token is called by one name, whatever it grants.
pub(super) fn all(at: &At<'_>) -> Option<Vec<Access>> {
    let mut labels: Vec<(usize, String, Secret)> = Vec::new();
    let mut index = 0;
    at.list(|at| {
        let own = index;
        index += 1;
        let access = Access::decode(at)?;
        let Caller::Token { label, secret } = &access.caller else { return Some(access) };
        match labels.iter().find(|(.., known)| known == secret) {
            Some((first, other, _)) if other != label => {
                let problem = format!(
                    "'{label}' is for the token that access[{first}] calls '{other}', and a token has one label"
                );
                Section::open(at, "access")?.problem("label", problem);
                return None;
            }
            Some(_) => {}
            None => labels.push((own, label.clone(), secret.clone())),
        }
        Some(access)
    })
}

impl Decode for Access {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "access")?;
        let caller = caller(&mut s);
        let namespaces = s.with("namespaces", patterns);
        let namespaces = namespaces.unwrap_or_else(|| vec!["*".parse().expect("a valid pattern")]);
        let role = s.kind("role", &["read", "write", "admin"], None).map(|role| match role {
            "read" => Role::Read,
            "write" => Role::Write,
            _ => Role::Admin,
        });
        s.finish();
        Some(Self { caller: caller?, namespaces, role: role? })
    }
}

fn caller(s: &mut Section<'_>) -> Option<Caller> {
    const WHO: [&str; 4] = ["name", "token", "tokenFile", "anyone"];
    let given = WHO.iter().filter(|key| s.has(key)).count();
    let is_token = s.has("token") || s.has("tokenFile");
    let name = s.with("name", name);
    let token = s.with("token", |at| secret(at, at.text()?));
    let file = s.with("tokenFile", token_file);
    let anyone: Option<bool> = s.get("anyone");
    let label = if is_token {
        s.require_with("label", some_text)
    } else {
        s.refuse("label", "is for a token alone");
        None
    };
    if given != 1 {
        s.at().problem("must have one of name, token, tokenFile and anyone");
        return None;
    }
    match (name, token.or(file), anyone) {
        (Some(name), ..) => Some(Caller::Name(name)),
        (_, Some(secret), _) => Some(Caller::Token { label: label?, secret }),
        (_, _, Some(true)) => Some(Caller::Anyone),
        (_, _, Some(false)) => {
            s.problem("anyone", "can only be true");
            None
        }
        _ => None,
    }
}

/// A name as certificates have it; a star may be its first character.
fn name(at: &At<'_>) -> Option<String> {
    let text = some_text(at)?;
    if text.get(1..).is_some_and(|rest| rest.contains('*')) {
        return at.expected("a name, in which a star can only be the first character");
    }
    if text == "*" { at.expected("a name; `anyone: true` is everybody") } else { Some(text) }
}

fn some_text(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if text.trim().is_empty() { at.expected("some text") } else { Some(text.to_owned()) }
}

/// What a header can hold behind `Bearer`. The value itself is in no message.
fn secret(at: &At<'_>, text: &str) -> Option<Secret> {
    let is_good = !text.is_empty() && text.len() <= MAX_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_good {
        at.problem(format!("must be a token of 1 to {MAX_TOKEN} visible ASCII characters"));
        return None;
    }
    Some(Secret(text.into()))
}

fn token_file(at: &At<'_>) -> Option<Secret> {
    let file = super::super::value::File::decode(at)?;
    match fs::read_to_string(&file.0) {
        Ok(text) => secret(at, text.trim_end_matches(['\n', '\r'])),
        Err(error) => {
            at.problem(format!("'{}' cannot be read: {error}", file.0.display()));
            None
        }
    }
}

/// Patterns of namespaces, at least one.
pub(super) fn patterns(at: &At<'_>) -> Option<Vec<Pattern>> {
    if matches!(&at.node.value, super::node::Value::List(items) if items.is_empty()) {
        return at.expected("at least one pattern of namespaces");
    }
    at.list(parsed)
}

/// What is parsed from text.
pub(super) fn parsed<T: std::str::FromStr<Err: fmt::Display>>(at: &At<'_>) -> Option<T> {
    match at.text()?.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            at.problem(format!("{error}"));
            None
        }
    }
}

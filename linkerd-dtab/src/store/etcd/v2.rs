//! Version 2 of etcd's API, with the keys of namerd 1.7.5.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::{Expect, KeyPrefix, Namespace, Revision, StoreError, Version};
use crate::{
    Failure,
    store::{
        decimal::{count, version},
        flat::{flat, unflat},
        follow::{Listing, MAX_NAMESPACES, failure},
        http::{Answer, Http, parse},
        text,
    },
};

const FORM: &str = "application/x-www-form-urlencoded";
// etcd's own numbers of its errors.
const KEY_NOT_FOUND: u64 = 100;
const TEST_FAILED: u64 = 101;
const NODE_EXISTS: u64 = 105;
const INDEX_CLEARED: u64 = 401;

pub(super) struct V2 {
    http: Arc<Http>,
    prefix: KeyPrefix,
}

#[derive(Deserialize)]
struct Event {
    node: Node,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(default)]
    key: String,
    value: Option<String>,
    #[serde(default)]
    dir: bool,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    modified_index: Revision,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fault {
    error_code: u64,
    #[serde(default)]
    index: Revision,
}

impl V2 {
    pub(super) fn new(http: Arc<Http>, prefix: KeyPrefix) -> Self {
        Self { http, prefix }
    }

    /// Whether the server has this version, and tables in it.
    pub(super) async fn has_tables(&self) -> Result<bool, Failure> {
        let answer = self.list().await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let Event { node } = answer.json()?;
        Ok(!node.nodes.is_empty())
    }

    async fn list(&self) -> Result<Answer, Failure> {
        let uri = format!("/v2/keys{}?recursive=true&quorum=true", self.prefix);
        self.http.ask(Method::GET, &uri, Bytes::new(), "").await
    }

    pub(super) async fn read(&self) -> Result<Listing<Revision>, Failure> {
        let answer = self.list().await?;
        let mut tables = BTreeMap::new();
        let mark = if answer.status == StatusCode::NOT_FOUND {
            // A server that does not know this version of the API says 404 too, and nothing else.
            let fault: Fault = parse(&answer.body)?;
            if fault.error_code != KEY_NOT_FOUND {
                return Err(answer.unexpected());
            }
            fault.index
        } else {
            let Event { node } = answer.json()?;
            if !node.dir {
                return Err(failure(format!("the key {} has a value, so no tables are below it", self.prefix)));
            }
            if node.nodes.len() > MAX_NAMESPACES {
                return Err(failure(format!("there are more than {MAX_NAMESPACES} namespaces")));
            }
            for node in node.nodes {
                let name = node.key.rsplit('/').next().and_then(unflat);
                if let (Some(name), Some(value)) = (name, node.value) {
                    let reading = text::read(&name, version(node.modified_index), value.as_bytes());
                    tables.insert(name, reading);
                }
            }
            answer.number("x-etcd-index").ok_or_else(|| failure("the store did not tell its index"))?
        };
        Ok(Listing { tables, mark, position: Some(mark) })
    }

    /// Ends when there is an event after `mark`.
    pub(super) async fn wait(&self, mark: Revision) -> Result<(), Failure> {
        let uri = format!("/v2/keys{}?wait=true&recursive=true&waitIndex={}", self.prefix, mark + 1);
        let answer = self.http.ask_patiently(Method::GET, &uri, Bytes::new(), "").await?;
        if answer.status.is_success() {
            // The server ends a wait that took too long with nothing.
            return if answer.body.is_empty() { Err(failure("the store ended a watch")) } else { Ok(()) };
        }
        match fault(&answer) {
            // What is to be told was forgotten. What is there now can still be read.
            Some(INDEX_CLEARED) => Ok(()),
            _ => Err(answer.unexpected()),
        }
    }

    pub(super) async fn put(&self, namespace: &Namespace, text: &str, expect: &Expect) -> Result<Version, StoreError> {
        let condition = match expect {
            Expect::Any => String::new(),
            Expect::Absent => "?prevExist=false".to_owned(),
            Expect::Version(version) => self.condition(namespace, version).await?,
        };
        let form = Bytes::from(format!("value={}", escaped(text)));
        let event = self.change(Method::PUT, namespace, &condition, form, expect).await?;
        Ok(version(event.node.modified_index))
    }

    pub(super) async fn delete(&self, namespace: &Namespace, expect: &Expect) -> Result<(), StoreError> {
        let condition = match expect {
            Expect::Any => String::new(),
            Expect::Absent if self.exists(namespace).await? => return Err(StoreError::Exists(namespace.clone())),
            Expect::Absent => return Err(StoreError::Missing(namespace.clone())),
            Expect::Version(version) => self.condition(namespace, version).await?,
        };
        self.change(Method::DELETE, namespace, &condition, Bytes::new(), expect).await?;
        Ok(())
    }

    /// A version that stands for no index is one that the key does not have.
    async fn condition(&self, namespace: &Namespace, version: &Version) -> Result<String, StoreError> {
        if let Some(revision) = count(version) {
            return Ok(format!("?prevIndex={revision}"));
        }
        let is_there = self.exists(namespace).await?;
        Err(Expect::Version(version.clone()).unmet(namespace, is_there))
    }

    async fn exists(&self, namespace: &Namespace) -> Result<bool, StoreError> {
        let uri = format!("{}?quorum=true", self.uri(namespace));
        let answer = self.http.ask(Method::GET, &uri, Bytes::new(), "").await.map_err(StoreError::Unavailable)?;
        match fault(&answer) {
            None if answer.status.is_success() => Ok(true),
            Some(KEY_NOT_FOUND) => Ok(false),
            _ => Err(StoreError::Unavailable(answer.unexpected())),
        }
    }

    async fn change(
        &self,
        method: Method,
        namespace: &Namespace,
        condition: &str,
        form: Bytes,
        expect: &Expect,
    ) -> Result<Event, StoreError> {
        let uri = format!("{}{condition}", self.uri(namespace));
        let kind = if form.is_empty() { "" } else { FORM };
        let answer = self.http.ask(method, &uri, form, kind).await.map_err(StoreError::Unavailable)?;
        match fault(&answer) {
            None => answer.json().map_err(StoreError::Unavailable),
            Some(KEY_NOT_FOUND) => Err(StoreError::Missing(namespace.clone())),
            Some(TEST_FAILED | NODE_EXISTS) => Err(expect.unmet(namespace, true)),
            Some(_) => Err(StoreError::Unavailable(answer.unexpected())),
        }
    }

    fn uri(&self, namespace: &Namespace) -> String {
        // The name's only percent signs are our own.
        format!("/v2/keys{}/{}", self.prefix, flat(namespace).replace('%', "%25"))
    }
}

/// The number of an error.
fn fault(answer: &Answer) -> Option<u64> {
    if answer.status.is_success() {
        return None;
    }
    // Zero is no number of etcd's.
    Some(parse::<Fault>(&answer.body).map_or(0, |fault| fault.error_code))
}

/// As the value of a form's field.
fn escaped(text: &str) -> String {
    use std::fmt::Write;

    let mut escaped = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a string takes what it is given");
        }
    }
    escaped
}

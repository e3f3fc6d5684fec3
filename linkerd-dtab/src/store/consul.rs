//! Tables in Consul's keys and values (`io.l5d.consul`).
//!
//! The key of the namespace `team/web` is `namerd/dtabs/team/web`, its value the table as namerd writes it, its version the
//! key's `ModifyIndex` as decimal text. Changes are transactions of one or two steps, since only these tell the index that
//! a key has after them.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Backoff, DtabStore, Expect, KeyPrefix, Namespace, StoreError, Version,
    decimal::{count, version},
    follow::{Asked, Backend, Followed, Listing, MAX_NAMESPACES, RESYNC, Told, failure},
    http::{Answer, Http},
    text,
};
use crate::{Dtab, Failure, transport::Transport};

/// For how long Consul is asked to wait for a change: it answers before everything is read for no reason.
const WAIT: Duration = Duration::from_secs(20);
const _: () = assert!(WAIT.as_secs() < RESYNC.as_secs());

/// Consul as a store.
///
/// ```no_run
/// # use linkerd_dtab::{store::{Consul, DtabStore}, transport::Transport};
/// # fn example(transport: impl Transport) {
/// let store = Consul::new(transport).open();
/// let default = store.watch(&"default".parse().unwrap());
/// # }
/// ```
#[derive(Debug)]
pub struct Consul {
    http: Http,
    prefix: KeyPrefix,
    datacenter: Option<String>,
    consistency: Consistency,
    backoff: Backoff,
}

/// How Consul is asked to answer watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// By who took itself for the leader a moment ago.
    #[default]
    Default,
    /// By any server, which may be behind.
    Stale,
    /// By the leader, after it made sure that it is.
    Consistent,
}

struct ConsulBackend {
    http: Http,
    /// With the slash at its end, and none at its beginning.
    prefix: String,
    datacenter: Option<String>,
    consistency: Consistency,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    // There is none in an empty value.
    value: Option<String>,
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Committed {
    results: Vec<CommittedStep>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct CommittedStep {
    kv: CommittedEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommittedEntry {
    modify_index: u64,
}

impl Consul {
    /// Tables in the Consul that `transport` leads to.
    ///
    /// # Defaults
    ///
    /// The prefix `/namerd/dtabs`, the agent's own datacenter, no token, [`Consistency::Default`], [`Backoff`]'s.
    pub fn new(transport: impl Transport) -> Self {
        Self {
            http: Http::new(transport),
            prefix: KeyPrefix::known("/namerd/dtabs"),
            datacenter: None,
            consistency: Consistency::default(),
            backoff: Backoff::default(),
        }
    }

    /// What the keys begin with. The slash in front is not part of them.
    #[must_use]
    pub fn with_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.prefix = prefix;
        self
    }

    /// Sends this as `X-Consul-Token`. Whoever makes it marks it as sensitive.
    #[must_use]
    pub fn with_token(mut self, token: HeaderValue) -> Self {
        self.http = self.http.with_header(HeaderName::from_static("x-consul-token"), token);
        self
    }

    /// Which datacenter has the tables.
    #[must_use]
    pub fn with_datacenter(mut self, datacenter: impl Into<String>) -> Self {
        self.datacenter = Some(datacenter.into());
        self
    }

    /// How Consul answers watches. What is read after a change is always consistent.
    #[must_use]
    pub fn with_consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// How long Consul is left alone when it fails.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The store. It asks nothing until it is asked; Consul need not be there.
    #[must_use]
    pub fn open(self) -> impl DtabStore + fmt::Debug {
        let Self { http, prefix, datacenter, consistency, backoff } = self;
        let prefix = format!("{}/", &prefix.as_str()[1..]);
        Followed::new(ConsulBackend { http, prefix, datacenter, consistency }, backoff)
    }
}

impl ConsulBackend {
    async fn list(&self, consistency: Consistency, since: Option<u64>) -> Result<Listing<u64>, Failure> {
        let mut uri = format!("/v1/kv/{}?recurse=true", self.prefix);
        match consistency {
            Consistency::Default => {}
            Consistency::Stale => uri.push_str("&stale"),
            Consistency::Consistent => uri.push_str("&consistent"),
        }
        uri.push_str(&self.datacenter("&"));
        let answer = match since {
            None => self.http.ask(Method::GET, &uri, Bytes::new(), "").await?,
            Some(index) => {
                uri = format!("{uri}&index={index}&wait={}s", WAIT.as_secs());
                self.http.ask_patiently(Method::GET, &uri, Bytes::new(), "").await?
            }
        };
        let index = answer.number("x-consul-index").ok_or_else(|| failure("Consul did not tell its index"));
        let mut tables = BTreeMap::new();
        // That there are no keys is said by a 404 with an index; another 404 is somebody else's.
        if answer.status == StatusCode::NOT_FOUND {
            return index.map(|mark| Listing { tables, mark, position: Some(mark) }).map_err(|_| answer.unexpected());
        }
        let entries: Vec<Entry> = answer.json()?;
        if entries.is_empty() {
            return Err(failure("Consul answered with a list of no keys, which it says by a 404"));
        }
        if entries.len() > MAX_NAMESPACES {
            return Err(failure(format!("there are more than {MAX_NAMESPACES} namespaces")));
        }
        for Entry { key, value, modify_index } in entries {
            let name = key.strip_prefix(&self.prefix).ok_or_else(|| failure("Consul answered with another key"))?;
            // Keys that no namespace can have are others' business; so are the keys that stand for folders.
            let Ok(name) = name.parse() else { continue };
            let value = BASE64_STANDARD.decode(value.unwrap_or_default());
            let value = value.map_err(|error| failure(format!("Consul's answer makes no sense: {error}")))?;
            let reading = text::read(&name, version(modify_index), &value);
            tables.insert(name, reading);
        }
        let mark = index?;
        Ok(Listing { tables, mark, position: Some(mark) })
    }

    /// Makes a change if all steps can be made, and tells the index that the last one came to.
    async fn commit(&self, namespace: &Namespace, steps: &Value, expect: &Expect) -> Result<Option<u64>, StoreError> {
        let uri = format!("/v1/txn{}", self.datacenter("?"));
        let answer = self.http.ask(Method::PUT, &uri, steps.to_string().into(), "application/json").await;
        let answer = answer.map_err(StoreError::Unavailable)?;
        match answer.status {
            StatusCode::CONFLICT => {
                let is_there = self.exists(namespace).await?;
                Err(expect.unmet(namespace, is_there))
            }
            StatusCode::FORBIDDEN => Err(StoreError::Forbidden(namespace.clone())),
            StatusCode::PAYLOAD_TOO_LARGE => Err(StoreError::Unfit {
                namespace: namespace.clone(),
                reason: "Consul says that it is too large".into(),
            }),
            _ => {
                let committed: Committed = answer.json().map_err(StoreError::Unavailable)?;
                Ok(committed.results.last().map(|step| step.kv.modify_index))
            }
        }
    }

    async fn exists(&self, namespace: &Namespace) -> Result<bool, StoreError> {
        let uri = format!("/v1/kv/{}{namespace}?consistent{}", self.prefix, self.datacenter("&"));
        let answer: Answer =
            self.http.ask(Method::GET, &uri, Bytes::new(), "").await.map_err(StoreError::Unavailable)?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(StoreError::Unavailable(answer.unexpected())),
        }
    }

    /// The index to compare with. A version that stands for none is one that the key does not have.
    async fn known(&self, namespace: &Namespace, expect: &Expect) -> Result<Option<u64>, StoreError> {
        match expect {
            Expect::Any => Ok(None),
            Expect::Absent => Ok(Some(0)),
            Expect::Version(version) => match count(version) {
                Some(index) => Ok(Some(index)),
                None => Err(expect.unmet(namespace, self.exists(namespace).await?)),
            },
        }
    }

    fn step(&self, verb: &str, namespace: &Namespace, index: Option<u64>, value: Option<&str>) -> Value {
        let mut step = json!({"Verb": verb, "Key": format!("{}{namespace}", self.prefix)});
        if let Some(index) = index {
            step["Index"] = index.into();
        }
        if let Some(value) = value {
            step["Value"] = BASE64_STANDARD.encode(value).into();
        }
        json!({ "KV": step })
    }

    fn datacenter(&self, separator: &str) -> String {
        self.datacenter.as_ref().map_or_else(String::new, |name| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            // Consul's names need no escapes; anything else is escaped to be refused by Consul and not by a parser.
            let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            format!("{separator}dc={}", name.bytes().map(escape).collect::<String>())
        })
    }
}

impl Backend for ConsulBackend {
    type Mark = u64;

    fn read(&self) -> Asked<'_, Listing<u64>> {
        Box::pin(self.list(Consistency::Consistent, None))
    }

    fn wait<'a>(&'a self, mark: &'a u64) -> Asked<'a, Told<u64>> {
        Box::pin(async {
            // An index of zero would be no reason to wait.
            let listing = self.list(self.consistency, Some((*mark).max(1))).await?;
            // Consul was restored from a backup, or this server is behind: its indexes do not go on from ours.
            Ok(if listing.mark < *mark { Told::Changed } else { Told::Now(listing) })
        })
    }

    fn put<'a>(
        &'a self,
        namespace: &'a Namespace,
        dtab: &'a Dtab,
        expect: &'a Expect,
    ) -> Asked<'a, Version, StoreError> {
        Box::pin(async move {
            let index = self.known(namespace, expect).await?;
            let verb = if index.is_some() { "cas" } else { "set" };
            let steps = json!([self.step(verb, namespace, index, Some(&text::show(dtab)))]);
            let done = self.commit(namespace, &steps, expect).await?;
            let silent = || StoreError::Unavailable(failure("Consul did not tell the index of a change"));
            done.map(version).ok_or_else(silent)
        })
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Asked<'a, (), StoreError> {
        Box::pin(async move {
            if *expect == Expect::Absent {
                let is_there = self.exists(namespace).await?;
                let missing = StoreError::Missing(namespace.clone());
                return Err(if is_there { StoreError::Exists(namespace.clone()) } else { missing });
            }
            let index = self.known(namespace, expect).await?;
            let verb = if index.is_some() { "delete-cas" } else { "delete" };
            // Deleting what is not there succeeds; reading it does not.
            let steps = json!([self.step("get", namespace, None, None), self.step(verb, namespace, index, None)]);
            self.commit(namespace, &steps, expect).await.map(|_| ())
        })
    }
}

//! Version 3 of etcd's API, by its gateway from HTTP and JSON: bytes in base64, numbers in quotes.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Expect, KeyPrefix, Namespace, Revision, StoreError, Version};
use crate::{
    Failure,
    store::{
        decimal::{count, version},
        follow::{Listing, MAX_ANSWER, MAX_NAMESPACES, failure},
        http::{Http, parse},
        text,
    },
};

const JSON: &str = "application/json";
/// Keys in one answer.
const PAGE: usize = 500;

pub(super) struct V3 {
    http: Arc<Http>,
    /// With the slash at its end.
    prefix: String,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    revision: Number,
}

/// A number in quotes; left out if it is zero.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(try_from = "String")]
struct Number(u64);

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
    #[serde(default)]
    more: bool,
    /// How many there are, also of those that are not in this answer.
    #[serde(default)]
    count: Number,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    mod_revision: Number,
}

#[derive(Deserialize)]
struct Txn {
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    response_range: Option<InTxn>,
}

#[derive(Deserialize)]
struct InTxn {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

/// A message of a watch.
#[derive(Deserialize)]
struct Watched {
    result: Option<WatchResult>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct WatchResult {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    events: Vec<Value>,
}

impl V3 {
    pub(super) fn new(http: Arc<Http>, prefix: &KeyPrefix) -> Self {
        Self { http, prefix: format!("{prefix}/") }
    }

    pub(super) async fn read(&self) -> Result<Listing<Revision>, Failure> {
        let mut tables = BTreeMap::new();
        let mut mark = 0;
        let mut from = self.prefix.as_bytes().to_vec();
        loop {
            let page = self.page(&from, mark).await?;
            // All pages are of the revision that the first one was of.
            if mark == 0 {
                mark = page.header.revision.0;
            } else if page.header.revision.0 < mark {
                return Err(failure("the store went back between two pages of one answer"));
            }
            page.check_whole()?;
            for kv in &page.kvs {
                let key = decoded(&kv.key)?;
                if key < from {
                    return Err(failure("the store answered with a key that was not asked for"));
                }
                from = key;
                from.push(0);
                let name = from.strip_prefix(self.prefix.as_bytes()).and_then(|name| name.strip_suffix(b"\0"));
                // Keys that no namespace can have are others' business.
                let name = name.and_then(|name| std::str::from_utf8(name).ok()).and_then(|name| name.parse().ok());
                if let Some(name) = name {
                    let reading = text::read(&name, version(kv.mod_revision.0), &decoded(&kv.value)?);
                    tables.insert(name, reading);
                }
            }
            if !page.more {
                break;
            }
            if tables.len() > MAX_NAMESPACES {
                return Err(failure(format!("there are more than {MAX_NAMESPACES} namespaces")));
            }
        }
        if mark == 0 {
            return Err(failure("the store did not tell its revision"));
        }
        Ok(Listing { tables, mark, position: Some(mark) })
    }

    async fn page(&self, from: &[u8], revision: Revision) -> Result<Range, Failure> {
        let req = json!({
            "key": BASE64_STANDARD.encode(from),
            "range_end": self.range_end(),
            "limit": PAGE.to_string(),
            "revision": revision.to_string(),
        });
        self.http.ask(Method::POST, "/v3/kv/range", body(&req), JSON).await?.json()
    }

    /// The first key that does not begin with the prefix: a `0` is what follows a `/`.
    fn range_end(&self) -> String {
        let mut end = self.prefix.clone().into_bytes();
        end.pop();
        end.push(b'/' + 1);
        BASE64_STANDARD.encode(end)
    }

    /// Ends when there is an event after `mark`.
    pub(super) async fn wait(&self, mark: Revision) -> Result<(), Failure> {
        let req = json!({"create_request": {
            "key": BASE64_STANDARD.encode(&self.prefix),
            "range_end": self.range_end(),
            "start_revision": (mark + 1).to_string(),
        }});
        let mut messages = self.http.send(Method::POST, "/v3/watch", body(&req), JSON)?.await?;
        if !messages.status.is_success() {
            return Err(failure(format!("the store answered {} to a watch", messages.status.as_u16())));
        }
        let mut unread = Vec::new();
        while let Some(data) = messages.chunk().await? {
            unread.extend_from_slice(&data);
            while let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
                let message = unread.drain(..=end).collect::<Vec<_>>();
                if is_change(&message)? {
                    return Ok(());
                }
            }
            if unread.len() > MAX_ANSWER {
                return Err(failure(format!("the store's message has more than {MAX_ANSWER} bytes")));
            }
        }
        Err(failure("the store ended a watch"))
    }

    pub(super) async fn put(&self, namespace: &Namespace, text: &str, expect: &Expect) -> Result<Version, StoreError> {
        let key = self.key(namespace);
        let put = json!({"request_put": {"key": key, "value": BASE64_STANDARD.encode(text)}});
        let compare = match expect {
            Expect::Any => json!([]),
            Expect::Absent => compare(&key, "EQUAL", 0),
            Expect::Version(version) => compare(&key, "EQUAL", self.known(namespace, version).await?),
        };
        self.txn(namespace, &compare, &put, expect).await.map(version)
    }

    pub(super) async fn delete(&self, namespace: &Namespace, expect: &Expect) -> Result<(), StoreError> {
        let key = self.key(namespace);
        let delete = json!({"request_delete_range": {"key": key}});
        let compare = match expect {
            Expect::Any => compare(&key, "GREATER", 0),
            Expect::Absent => compare(&key, "EQUAL", 0),
            Expect::Version(version) => compare(&key, "EQUAL", self.known(namespace, version).await?),
        };
        self.txn(namespace, &compare, &delete, expect).await?;
        if *expect == Expect::Absent { Err(StoreError::Missing(namespace.clone())) } else { Ok(()) }
    }

    /// Does it if what is there is as compared, and tells the revision of that.
    async fn txn(
        &self,
        namespace: &Namespace,
        compare: &Value,
        success: &Value,
        expect: &Expect,
    ) -> Result<Revision, StoreError> {
        let look = json!({"request_range": {"key": self.key(namespace), "keys_only": true}});
        let req = json!({"compare": compare, "success": [success], "failure": [look]});
        let answer = self.http.ask(Method::POST, "/v3/kv/txn", body(&req), JSON).await;
        let answer: Txn = answer.and_then(|answer| answer.json()).map_err(StoreError::Unavailable)?;
        if answer.succeeded {
            return Ok(answer.header.revision.0);
        }
        let looked = answer.responses.into_iter().find_map(|response| response.response_range);
        Err(expect.unmet(namespace, looked.is_some_and(|range| !range.kvs.is_empty())))
    }

    /// The revision that a version stands for; one that stands for none is one that the key does not have.
    async fn known(&self, namespace: &Namespace, version: &Version) -> Result<Revision, StoreError> {
        if let Some(revision) = count(version) {
            return Ok(revision);
        }
        let req = json!({"key": self.key(namespace), "keys_only": true});
        let range = self.http.ask(Method::POST, "/v3/kv/range", body(&req), JSON).await;
        let range: Range = range.and_then(|answer| answer.json()).map_err(StoreError::Unavailable)?;
        Err(Expect::Version(version.clone()).unmet(namespace, !range.kvs.is_empty()))
    }

    fn key(&self, namespace: &Namespace) -> String {
        BASE64_STANDARD.encode(format!("{}{namespace}", self.prefix))
    }
}

impl Range {
    /// Fails if it is half an answer: what was not told would pass for deleted.
    fn check_whole(&self) -> Result<(), Failure> {
        let (told, count) = (self.kvs.len() as u64, self.count.0);
        // A count of none is left out.
        let is_whole = if self.more { told > 0 && (count == 0 || count > told) } else { told == count };
        if is_whole {
            return Ok(());
        }
        Err(failure(format!("the store told {told} of {count} keys (more: {})", self.more)))
    }
}

/// A key that is not there has the revision zero.
fn compare(key: &str, result: &str, revision: Revision) -> Value {
    json!([{"target": "MOD", "key": key, "result": result, "mod_revision": revision.to_string()}])
}

/// Whether a message of a watch tells of a change.
fn is_change(message: &[u8]) -> Result<bool, Failure> {
    let Watched { result, error } = parse(message)?;
    match (result, error) {
        // What is to be told was compacted away, most of the time. What is there now can still be read.
        (Some(result), None) => Ok(result.canceled || !result.events.is_empty()),
        (_, Some(error)) => Err(failure(format!("the store ended a watch: {error}"))),
        (None, None) => Err(failure("the store's message makes no sense")),
    }
}

fn body(req: &Value) -> Bytes {
    req.to_string().into()
}

fn decoded(text: &str) -> Result<Vec<u8>, Failure> {
    BASE64_STANDARD.decode(text).map_err(|error| failure(format!("the store's answer makes no sense: {error}")))
}

impl TryFrom<String> for Number {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

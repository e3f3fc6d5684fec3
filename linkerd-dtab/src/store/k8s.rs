//! Tables in Kubernetes objects of the kind `DTab` (`dtabs.l5d.io`, `io.l5d.k8s`).
//!
//! The object of the namespace `default` is named `default`, in one namespace of Kubernetes. A table is its `dentries`, a
//! list of `prefix` and `dst` at the top level; a version is its `resourceVersion`. What else it has (labels, annotations)
//! is left as it is.
//!
//! Kubernetes wants names of lower-case letters, digits, `-` and `.`: other namespaces are [`Unfit`](StoreError::Unfit).
//! Writing a table that is there already changes nothing, and its version stays.

use std::{
    collections::BTreeMap,
    fmt,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::TryStreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams, Preconditions, WatchEvent, WatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tower_service::Service;

use super::{
    Backoff, DtabStore, Expect, Namespace, StoreError, Version, VersionedDtab,
    follow::{Asked, Backend, Followed, Listing, MAX_ANSWER, MAX_NAMESPACES, Told, failure, timed_out},
    mirror::Reading,
};
use crate::{
    Dentry, Dtab, Failure, ParseError,
    transport::{Body, Sending, Transport},
};

/// Objects in one answer.
const PAGE: u32 = 500;
/// Kubernetes has this long for an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Kubernetes ends a watch after this time: it is begun again after everything was read for no reason anyway.
const WATCH_SECS: u32 = 60;
/// How often a change is tried that another one comes between.
const TRIES: usize = 8;

// What Kubernetes says by its status.
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;
const GONE: u16 = 410;
const FORBIDDEN: u16 = 403;

/// Kubernetes as a store.
///
/// ```no_run
/// # use linkerd_dtab::store::{DtabStore, Kubernetes};
/// # fn example(client: kube::Client) {
/// let store = Kubernetes::new(client, "default").open();
/// let default = store.watch(&"default".parse().unwrap());
/// # }
/// ```
pub struct Kubernetes {
    client: Client,
    namespace: String,
    backoff: Backoff,
}

struct KubeBackend {
    api: Api<DynamicObject>,
    resource: ApiResource,
}

/// A part of a table as an object has it.
#[derive(Deserialize, Serialize)]
struct Part {
    prefix: String,
    dst: String,
}

/// Why the parts in an object are no table.
#[derive(Clone, Debug, thiserror::Error)]
enum BadParts {
    #[error("namespace {namespace}: its dentries are no list of prefix and dst: {reason}")]
    Shape { namespace: Namespace, reason: String },
    #[error("namespace {namespace}, dentry {number}: {field}, line {line}, column {column}: does not parse", line = source.line(), column = source.column())]
    Malformed { namespace: Namespace, number: usize, field: &'static str, source: ParseError },
}

impl Kubernetes {
    /// Tables in the namespace `namespace` of the Kubernetes that `client` leads to. The size of its answers is that
    /// client's matter; they come in pages of 500 objects.
    ///
    /// # Defaults
    ///
    /// [`Backoff`]'s.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into(), backoff: Backoff::default() }
    }

    /// The same, by a transport that leads to an API server and needs no more of a client: `kubectl proxy`, for instance.
    pub fn over(transport: impl Transport, namespace: impl Into<String>) -> Self {
        Self::new(Client::new(Over(Arc::new(transport)), "default"), namespace)
    }

    /// How long Kubernetes is left alone when it fails.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The store. It asks nothing until it is asked; neither Kubernetes nor the kind of object need be there.
    #[must_use]
    pub fn open(self) -> impl DtabStore + fmt::Debug {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("l5d.io", "v1alpha1", "DTab"), "dtabs");
        let api = Api::namespaced_with(self.client, &self.namespace, &resource);
        Followed::new(KubeBackend { api, resource }, self.backoff)
    }
}

/// A transport as the service that a client of Kubernetes is made of.
struct Over(Arc<dyn Transport>);

impl Service<Request<kube::client::Body>> for Over {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<kube::client::Body>) -> Sending {
        // A watch goes on for as long as it does; who reads it stops at the first event.
        let is_watch = req.uri().query().is_some_and(|query| query.split('&').any(|field| field.starts_with("watch=")));
        let req = req.map(|body| body.map_err(|error| Arc::new(error) as Failure).boxed_unsync());
        let sending = self.0.send(req);
        Box::pin(async move {
            let rsp = sending.await?;
            if is_watch {
                return Ok(rsp);
            }
            Ok(rsp.map(|body| Limited::new(body, MAX_ANSWER).map_err(Failure::from).boxed_unsync()))
        })
    }
}

impl KubeBackend {
    async fn list(&self) -> Result<Listing<String>, Failure> {
        let mut tables = BTreeMap::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            // Without a resource version: as new as anything that Kubernetes has answered to anyone.
            let page = in_time(self.api.list(&params)).await.map_err(failed)?;
            for object in page.items {
                // What no namespace can be called is others' business.
                if let Some(name) = object.metadata.name.as_ref().and_then(|name| name.parse().ok()) {
                    let reading = reading(&name, &object);
                    tables.insert(name, reading);
                }
            }
            if tables.len() > MAX_NAMESPACES {
                return Err(failure(format!("there are more than {MAX_NAMESPACES} namespaces")));
            }
            if let Some(more) = page.metadata.continue_.filter(|more| !more.is_empty()) {
                params.continue_token = Some(more);
                continue;
            }
            let mark = page.metadata.resource_version.filter(|version| !version.is_empty());
            let mark = mark.ok_or_else(|| failure("Kubernetes did not tell the version of a list"))?;
            // Clients are told to take it for no number, but it is etcd's revision; what is none is not compared.
            let position = mark.parse().ok();
            return Ok(Listing { tables, mark, position });
        }
    }

    async fn watch(&self, mark: &str) -> Result<(), Failure> {
        let params = WatchParams::default().timeout(WATCH_SECS);
        let events = match in_time(self.api.watch(&params, mark)).await {
            Ok(events) => events,
            // What is to be told is forgotten. What is there now can still be read.
            Err(error) if code(&error) == Some(GONE) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let mut events = pin!(events);
        while let Some(event) = events.try_next().await.map_err(failed)? {
            match event {
                WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_) => return Ok(()),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) if status.code == GONE => return Ok(()),
                WatchEvent::Error(status) => return Err(failure(format!("Kubernetes ended a watch: {status}"))),
            }
        }
        // As it does when the time is over.
        Ok(())
    }

    async fn get(&self, namespace: &Namespace) -> Result<Option<DynamicObject>, StoreError> {
        in_time(self.api.get_opt(namespace.as_str())).await.map_err(|error| refused(namespace, error))
    }

    async fn create(&self, namespace: &Namespace, dtab: &Dtab) -> Result<Version, kube::Error> {
        let mut object = DynamicObject::new(namespace.as_str(), &self.resource);
        object.data = serde_json::json!({});
        set_table(&mut object, dtab);
        in_time(self.api.create(&PostParams::default(), &object)).await.map(|object| version(&object))
    }

    /// Replaces an object by itself with another table, if it is still as it was read.
    async fn replace(
        &self,
        mut object: DynamicObject,
        namespace: &Namespace,
        dtab: &Dtab,
    ) -> Result<Version, kube::Error> {
        set_table(&mut object, dtab);
        let params = PostParams::default();
        in_time(self.api.replace(namespace.as_str(), &params, &object)).await.map(|object| version(&object))
    }

    async fn write(&self, namespace: &Namespace, dtab: &Dtab, expect: &Expect) -> Result<Version, StoreError> {
        if *expect == Expect::Absent {
            return self.create(namespace, dtab).await.map_err(|error| match code(&error) {
                Some(CONFLICT) => StoreError::Exists(namespace.clone()),
                _ => refused(namespace, error),
            });
        }
        for _ in 0..TRIES {
            let stored = self.get(namespace).await?;
            expect.check(namespace, stored.as_ref().map(version).as_ref())?;
            let written = match stored {
                Some(object) => self.replace(object, namespace, dtab).await,
                None => self.create(namespace, dtab).await,
            };
            match written {
                Err(error) if matches!(code(&error), Some(CONFLICT | NOT_FOUND)) => {}
                written => return written.map_err(|error| refused(namespace, error)),
            }
        }
        Err(StoreError::Unavailable(failure("the object of a table is changed all the time")))
    }

    async fn remove(&self, namespace: &Namespace, expect: &Expect) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let stored = self.get(namespace).await?;
            expect.check(namespace, stored.as_ref().map(version).as_ref())?;
            let Some(object) = stored else { return Err(StoreError::Missing(namespace.clone())) };
            let preconditions = Preconditions { resource_version: object.metadata.resource_version, uid: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match in_time(self.api.delete(namespace.as_str(), &params)).await {
                Ok(_) => return Ok(()),
                Err(error) if matches!(code(&error), Some(CONFLICT | NOT_FOUND)) => {}
                Err(error) => return Err(refused(namespace, error)),
            }
        }
        Err(StoreError::Unavailable(failure("the object of a table is changed all the time")))
    }
}

impl Backend for KubeBackend {
    type Mark = String;

    fn read(&self) -> Asked<'_, Listing<String>> {
        Box::pin(self.list())
    }

    fn wait<'a>(&'a self, mark: &'a String) -> Asked<'a, Told<String>> {
        Box::pin(async {
            self.watch(mark).await?;
            Ok(Told::Changed)
        })
    }

    fn put<'a>(
        &'a self,
        namespace: &'a Namespace,
        dtab: &'a Dtab,
        expect: &'a Expect,
    ) -> Asked<'a, Version, StoreError> {
        Box::pin(async move {
            if !is_name(namespace.as_str()) {
                let reason = "Kubernetes wants names of lower-case letters, digits, '-' and '.'".into();
                return Err(StoreError::Unfit { namespace: namespace.clone(), reason });
            }
            self.write(namespace, dtab, expect).await
        })
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Asked<'a, (), StoreError> {
        Box::pin(async move {
            if !is_name(namespace.as_str()) {
                return Err(StoreError::Missing(namespace.clone()));
            }
            self.remove(namespace, expect).await
        })
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let answered = timeout(ASK_TIMEOUT, asked).await;
    answered.unwrap_or_else(|_| Err(kube::Error::Service(timed_out("answer", ASK_TIMEOUT).into())))
}

/// What an object has for a table.
fn reading(namespace: &Namespace, object: &DynamicObject) -> Reading {
    match table(namespace, object) {
        Ok(dtab) => Reading::Table(VersionedDtab { version: version(object), dtab }),
        Err(error) => Reading::Bad(Arc::new(error)),
    }
}

fn table(namespace: &Namespace, object: &DynamicObject) -> Result<Dtab, BadParts> {
    // An object without any is an empty table, as for namerd.
    let parts = object.data.get("dentries").filter(|parts| !parts.is_null());
    let parts: Vec<Part> = match parts {
        None => Vec::new(),
        Some(parts) => Deserialize::deserialize(parts).map_err(|error: serde_json::Error| BadParts::Shape {
            namespace: namespace.clone(),
            reason: error.to_string(),
        })?,
    };
    let parsed = |(at, Part { prefix, dst }): (usize, Part)| {
        let bad =
            |field| move |source| BadParts::Malformed { namespace: namespace.clone(), number: at + 1, field, source };
        let prefix = prefix.parse().map_err(bad("prefix"))?;
        Ok(Dentry { prefix, dst: dst.parse().map_err(bad("dst"))? })
    };
    parts.into_iter().enumerate().map(parsed).collect::<Result<Vec<_>, _>>().map(Dtab::new)
}

fn set_table(object: &mut DynamicObject, dtab: &Dtab) {
    let part = |entry: &Dentry| Part { prefix: entry.prefix.to_string(), dst: format!("{:#}", entry.dst) };
    let parts: Vec<_> = dtab.entries().iter().map(part).collect();
    if !object.data.is_object() {
        object.data = serde_json::json!({});
    }
    object.data["dentries"] = serde_json::json!(parts);
}

fn version(object: &DynamicObject) -> Version {
    Version::new(object.metadata.resource_version.as_deref().unwrap_or_default().as_bytes())
}

/// Whether it is a DNS subdomain as Kubernetes has them. That a namespace's name is short enough is known.
fn is_name(name: &str) -> bool {
    let is_end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.split('.').all(|label| {
        let bytes = label.as_bytes();
        bytes.first().copied().is_some_and(is_end)
            && bytes.last().copied().is_some_and(is_end)
            && bytes.iter().all(|byte| is_end(*byte) || *byte == b'-')
    })
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn refused(namespace: &Namespace, error: kube::Error) -> StoreError {
    match code(&error) {
        Some(FORBIDDEN) => StoreError::Forbidden(namespace.clone()),
        Some(422 | 413) => StoreError::Unfit { namespace: namespace.clone(), reason: error.to_string() },
        _ => StoreError::Unavailable(failed(error)),
    }
}

fn failed(error: kube::Error) -> Failure {
    match code(&error) {
        Some(NOT_FOUND) => failure("Kubernetes has no dtabs.l5d.io here: is the CustomResourceDefinition missing?"),
        _ => Arc::new(error),
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        for good in ["a", "default", "team-web", "team.web", "0a"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "a_b", "a/b", "-a", "a-", "a..b", "a.-b", "."] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}

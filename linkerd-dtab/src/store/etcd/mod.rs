//! Tables in etcd (`io.l5d.etcd`), by version 3 of its API over HTTP and JSON, or by version 2 as namerd 1.7.5 does.
//!
//! Both have a key for each namespace, `/namerd/dtabs/default`, whose value is the table as namerd writes it. They do not
//! see each other's keys, though one server may serve both. In version 2 a `/` inside of a namespace is `%2F` in its key:
//! there, a key with a value cannot be above others. A version is the key's modification revision (version 3) or its
//! `modifiedIndex` (version 2), as decimal text.

mod v2;
mod v3;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use self::{v2::V2, v3::V3};
use super::{
    Backoff, DtabStore, Expect, KeyPrefix, Namespace, StoreError, Version,
    follow::{Asked, Backend, Followed, Listing, Told},
    http::Http,
    text,
};
use crate::{Dtab, Failure, transport::Transport};

/// etcd as a store.
///
/// ```no_run
/// # use linkerd_dtab::{store::{DtabStore, Etcd}, transport::Transport};
/// # fn example(transport: impl Transport) {
/// let store = Etcd::new(transport).open();
/// let default = store.watch(&"default".parse().unwrap());
/// # }
/// ```
#[derive(Debug)]
pub struct Etcd {
    http: Http,
    prefix: KeyPrefix,
    api: Option<Api>,
    backoff: Backoff,
}

/// A version of etcd's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// What namerd 1.7.5 speaks. Servers up to 3.5 have it, since 3.4 only when told to (`--enable-v2`).
    V2,
    /// By its gateway, at `/v3`: servers since 3.4 have it.
    V3,
}

struct EtcdBackend {
    v2: V2,
    v3: V3,
    // Once it is known it stays: the other one has other tables.
    api: OnceLock<Api>,
}

/// Where the store is in its history, by whichever version it was read.
type Revision = u64;

impl Etcd {
    /// Tables in the etcd that `transport` leads to.
    ///
    /// # Defaults
    ///
    /// The prefix `/namerd/dtabs`; the server is asked which version of the API has the tables; [`Backoff`]'s.
    pub fn new(transport: impl Transport) -> Self {
        let prefix = KeyPrefix::known("/namerd/dtabs");
        Self { http: Http::new(transport), prefix, api: None, backoff: Backoff::default() }
    }

    /// What the keys begin with.
    #[must_use]
    pub fn with_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.prefix = prefix;
        self
    }

    /// Which version of the API to use.
    ///
    /// If it is not said, it is version 2 where the server has it and there is something below the prefix, else version 3.
    /// That is decided at the first contact and holds until the process ends; better say it.
    #[must_use]
    pub fn with_api(mut self, api: Api) -> Self {
        self.api = Some(api);
        self
    }

    /// How long the server is left alone when it fails.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The store. It asks nothing until it is asked; the server need not be there.
    #[must_use]
    pub fn open(self) -> impl DtabStore + fmt::Debug {
        let http = Arc::new(self.http);
        let api = self.api.map_or_else(OnceLock::new, OnceLock::from);
        let backend =
            EtcdBackend { v2: V2::new(Arc::clone(&http), self.prefix.clone()), v3: V3::new(http, &self.prefix), api };
        Followed::new(backend, self.backoff)
    }
}

impl EtcdBackend {
    async fn api(&self) -> Result<Api, Failure> {
        if let Some(api) = self.api.get() {
            return Ok(*api);
        }
        let api = if self.v2.has_tables().await? { Api::V2 } else { Api::V3 };
        tracing::info!(?api, "chose the version of etcd's API");
        Ok(*self.api.get_or_init(|| api))
    }

    async fn api_to_change(&self) -> Result<Api, StoreError> {
        self.api().await.map_err(StoreError::Unavailable)
    }
}

impl Backend for EtcdBackend {
    type Mark = Revision;

    fn read(&self) -> Asked<'_, Listing<Revision>> {
        Box::pin(async {
            match self.api().await? {
                Api::V2 => self.v2.read().await,
                Api::V3 => self.v3.read().await,
            }
        })
    }

    fn wait<'a>(&'a self, mark: &'a Revision) -> Asked<'a, Told<Revision>> {
        Box::pin(async {
            match self.api().await? {
                Api::V2 => self.v2.wait(*mark).await?,
                Api::V3 => self.v3.wait(*mark).await?,
            }
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
            let text = text::show(dtab);
            match self.api_to_change().await? {
                Api::V2 => self.v2.put(namespace, &text, expect).await,
                Api::V3 => self.v3.put(namespace, &text, expect).await,
            }
        })
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Asked<'a, (), StoreError> {
        Box::pin(async move {
            match self.api_to_change().await? {
                Api::V2 => self.v2.delete(namespace, expect).await,
                Api::V3 => self.v3.delete(namespace, expect).await,
            }
        })
    }
}

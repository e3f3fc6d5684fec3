//! Tables in ZooKeeper (`io.l5d.zk`).
//!
//! The node of the namespace `default` is `/dtabs/default`, that of `team/web` is `/dtabs/team%2Fweb`: a node's children are
//! not read. Its data is the table as namerd writes it; a version is the node's own, four bytes, big-endian. The node
//! `/dtabs` is made by the first change, while namerd 1.7.5 needs it to be there.
//!
//! The client is this crate's own, for it needs eight operations, the connections of a [`Dial`], and nothing of what makes
//! such clients large: no node lives and dies with a session.

mod acl;
mod session;
mod wire;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

pub use self::acl::{Acl, Auth, BadPerms, Perms};
use self::{
    session::{CallError, Session},
    wire::{BAD_VERSION, Frame, NO_AUTH, NO_NODE, NODE_EXISTS},
};
use super::{
    Backoff, DtabStore, Expect, KeyPrefix, Namespace, StoreError, Version,
    flat::{flat, unflat},
    follow::{Asked, Backend, Followed, Listing, MAX_ANSWER, MAX_NAMESPACES, Told, failure, timed_out},
    text,
};
use crate::{Dtab, Failure, transport::Dial};

/// A server has this long to begin a session.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server has this long for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that are read at the same time.
const READS: usize = 64;
/// How often a change is tried that another one comes between.
const TRIES: usize = 8;
/// Compares with any version.
const ANY_VERSION: i32 = -1;

/// ZooKeeper as a store.
///
/// ```no_run
/// # use linkerd_dtab::{store::{DtabStore, ZooKeeper}, transport::Dial};
/// # fn example(first: impl Dial, second: impl Dial) {
/// let store = ZooKeeper::new(first).with_server(second).open();
/// let default = store.watch(&"default".parse().unwrap());
/// # }
/// ```
pub struct ZooKeeper {
    servers: Vec<Arc<dyn Dial>>,
    prefix: KeyPrefix,
    session_timeout: Duration,
    auth: Option<Auth>,
    acls: Vec<Acl>,
    backoff: Backoff,
}

struct ZkBackend {
    settings: ZooKeeper,
    session: Mutex<Option<Arc<Session>>>,
    /// Which server is next.
    next: AtomicUsize,
}

struct Mark {
    session: Arc<Session>,
    notices: u64,
}

impl ZooKeeper {
    /// Tables in the ensemble that this server is one of.
    ///
    /// # Defaults
    ///
    /// The prefix `/dtabs`, sessions of 10 s, nobody's sessions, nodes that anyone may do anything to, [`Backoff`]'s.
    pub fn new(server: impl Dial) -> Self {
        Self {
            servers: vec![Arc::new(server)],
            prefix: KeyPrefix::known("/dtabs"),
            session_timeout: Duration::from_secs(10),
            auth: None,
            acls: vec![Acl { scheme: "world".into(), id: "anyone".into(), perms: Perms::ALL }],
            backoff: Backoff::default(),
        }
    }

    /// One more server of the ensemble, which is asked when the one before it fails.
    #[must_use]
    pub fn with_server(mut self, server: impl Dial) -> Self {
        self.servers.push(Arc::new(server));
        self
    }

    /// The node that the nodes of tables are below.
    #[must_use]
    pub fn with_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.prefix = prefix;
        self
    }

    /// For how long a server that says nothing is believed to be there; the server may say otherwise. At least a second.
    #[must_use]
    pub fn with_session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout.max(Duration::from_secs(1));
        self
    }

    /// Who the sessions are for.
    #[must_use]
    pub fn with_auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Who may do what to the nodes that are made from now on; those that are there are left as they are. If there are none,
    /// it is as if nothing had been said.
    #[must_use]
    pub fn with_acls(mut self, acls: impl IntoIterator<Item = Acl>) -> Self {
        let acls: Vec<_> = acls.into_iter().collect();
        if !acls.is_empty() {
            self.acls = acls;
        }
        self
    }

    /// How long the servers are left alone when they fail.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The store. It connects when it is first asked; the servers need not be there.
    #[must_use]
    pub fn open(self) -> impl DtabStore + fmt::Debug {
        let backoff = self.backoff;
        Followed::new(ZkBackend { settings: self, session: Mutex::new(None), next: AtomicUsize::new(0) }, backoff)
    }
}

impl ZkBackend {
    /// The session that there is, or a new one.
    async fn session(&self) -> Result<Arc<Session>, Failure> {
        let current = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(session) = current.filter(|session| !session.has_ended()) {
            return Ok(session);
        }
        // Of two that come here at once one makes a session that is soon forgotten: it is as good as the other.
        let session = Arc::new(self.connect().await?);
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let ZooKeeper { servers, session_timeout, auth, .. } = &self.settings;
        // Relaxed: each attempt takes the next server, whichever attempt that is.
        let server = &servers[self.next.fetch_add(1, Ordering::Relaxed) % servers.len()];
        let connecting = async {
            let io = server.dial().await.map_err(|error| Arc::new(error) as Failure)?;
            Session::begin(io, *session_timeout, auth.as_ref()).await
        };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(timed_out("begin a session", CONNECT_TIMEOUT)))
    }

    fn node(&self, namespace: &Namespace) -> String {
        format!("{}/{}", self.settings.prefix, flat(namespace))
    }

    async fn list(&self) -> Result<Listing<Mark>, Failure> {
        let session = self.session().await?;
        let mark = Mark { notices: session.notices(), session: Arc::clone(&session) };
        let top = self.settings.prefix.as_str();
        // What this server does not know yet, others may have been told is done.
        match in_time(session.call(Frame::ask(wire::SYNC).text(top))).await {
            Ok(_) | Err(CallError::Refused(NO_NODE)) => {}
            Err(error) => return Err(error.into()),
        }
        let children = self.children(&session).await?;
        let position = session.position();
        if children.len() > MAX_NAMESPACES {
            return Err(failure(format!("there are more than {MAX_NAMESPACES} namespaces")));
        }
        // Nodes that no namespace can have are others' business.
        let mut names = children.iter().filter_map(|child| unflat(child));
        let mut reads = FuturesUnordered::new();
        let mut tables = BTreeMap::new();
        let mut bytes = 0;
        loop {
            reads.extend(names.by_ref().take(READS - reads.len()).map(|name| self.table(&session, name)));
            let Some(read) = reads.next().await else { break };
            let Some((name, data, version)) = read? else { continue };
            bytes += data.len();
            if bytes > MAX_ANSWER {
                return Err(failure(format!("the tables have more than {MAX_ANSWER} bytes")));
            }
            let reading = text::read(&name, Version::new(version.to_be_bytes()), &data);
            tables.insert(name, reading);
        }
        Ok(Listing { tables, mark, position })
    }

    /// The names of the nodes of tables. The server will tell once when there are others.
    async fn children(&self, session: &Session) -> Result<Vec<String>, Failure> {
        let top = self.settings.prefix.as_str();
        for _ in 0..TRIES {
            match in_time(session.call(Frame::ask(wire::GET_CHILDREN).text(top).flag(true))).await {
                Ok(children) => return children.texts(),
                Err(CallError::Refused(NO_NODE)) => {}
                Err(error) => return Err(error.into()),
            }
            match in_time(session.call(Frame::ask(wire::EXISTS).text(top).flag(true))).await {
                // It was made between the two questions.
                Ok(_) => {}
                Err(CallError::Refused(NO_NODE)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(failure("the node above all tables is made and deleted all the time"))
    }

    /// The data of a namespace's node, unless it has just been deleted.
    async fn table(&self, session: &Session, name: Namespace) -> Result<Option<(Namespace, Bytes, i32)>, Failure> {
        let node = self.node(&name);
        if let Some((data, version)) = session.unchanged(&node) {
            return Ok(Some((name, data, version)));
        }
        let read = session.call_and_keep(Frame::ask(wire::GET_DATA).text(&node).flag(true), &node);
        match in_time(read).await {
            Ok(fields) => {
                let (data, version) = fields.data()?;
                Ok(Some((name, data, version)))
            }
            Err(CallError::Refused(NO_NODE)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn set(&self, session: &Session, node: &str, text: &str, version: i32) -> Result<Version, CallError> {
        let set = session.call(Frame::ask(wire::SET_DATA).text(node).text(text).int(version));
        let version = in_time(set).await?.version().map_err(CallError::Lost)?;
        Ok(Version::new(version.to_be_bytes()))
    }

    /// Makes a node, and those above it.
    async fn create(&self, session: &Session, node: &str, data: &str) -> Result<Version, CallError> {
        for _ in 0..TRIES {
            match self.create_one(session, node, data).await {
                Ok(()) => return Ok(Version::new(0_i32.to_be_bytes())),
                Err(CallError::Refused(NO_NODE)) => {}
                Err(error) => return Err(error),
            }
            for (end, _) in node.match_indices('/').skip(1) {
                match self.create_one(session, &node[..end], "").await {
                    Ok(()) | Err(CallError::Refused(NODE_EXISTS)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Err(CallError::Lost(failure("the nodes above a table are deleted all the time")))
    }

    async fn create_one(&self, session: &Session, node: &str, data: &str) -> Result<(), CallError> {
        let frame = Frame::ask(wire::CREATE).text(node).text(data).acls(&self.settings.acls).int(0);
        in_time(session.call(frame)).await.map(|_| ())
    }

    async fn delete_one(&self, session: &Session, node: &str, version: i32) -> Result<(), CallError> {
        in_time(session.call(Frame::ask(wire::DELETE).text(node).int(version))).await.map(|_| ())
    }

    async fn exists(&self, session: &Session, node: &str) -> Result<bool, CallError> {
        match in_time(session.call(Frame::ask(wire::EXISTS).text(node).flag(false))).await {
            Ok(_) => Ok(true),
            Err(CallError::Refused(NO_NODE)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes whatever is there.
    async fn set_or_create(&self, session: &Session, node: &str, text: &str) -> Result<Version, CallError> {
        for _ in 0..TRIES {
            match self.set(session, node, text, ANY_VERSION).await {
                Err(CallError::Refused(NO_NODE)) => {}
                done => return done,
            }
            match self.create(session, node, text).await {
                Err(CallError::Refused(NODE_EXISTS)) => {}
                done => return done,
            }
        }
        Err(CallError::Lost(failure("the node of a table is made and deleted all the time")))
    }
}

impl Backend for ZkBackend {
    type Mark = Mark;

    fn read(&self) -> Asked<'_, Listing<Mark>> {
        Box::pin(self.list())
    }

    fn wait<'a>(&'a self, mark: &'a Mark) -> Asked<'a, Told<Mark>> {
        Box::pin(async {
            mark.session.noticed(mark.notices).await?;
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
            let session = self.session().await.map_err(StoreError::Unavailable)?;
            let (node, text) = (self.node(namespace), text::show(dtab));
            let done = match expect {
                Expect::Any => self.set_or_create(&session, &node, &text).await,
                Expect::Absent => self.create(&session, &node, &text).await,
                Expect::Version(version) => match known(version) {
                    Some(version) => self.set(&session, &node, &text, version).await,
                    None => Err(unknown(self.exists(&session, &node).await)),
                },
            };
            done.map_err(|error| refused(namespace, error))
        })
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Asked<'a, (), StoreError> {
        Box::pin(async move {
            let session = self.session().await.map_err(StoreError::Unavailable)?;
            let node = self.node(namespace);
            let done = match expect {
                Expect::Any => self.delete_one(&session, &node, ANY_VERSION).await,
                Expect::Absent => match self.exists(&session, &node).await {
                    Ok(true) => Err(CallError::Refused(NODE_EXISTS)),
                    Ok(false) => Err(CallError::Refused(NO_NODE)),
                    Err(error) => Err(error),
                },
                Expect::Version(version) => match known(version) {
                    Some(version) => self.delete_one(&session, &node, version).await,
                    None => Err(unknown(self.exists(&session, &node).await)),
                },
            };
            done.map_err(|error| refused(namespace, error))
        })
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let done = timeout(CALL_TIMEOUT, call).await;
    done.unwrap_or_else(|_| Err(CallError::Lost(timed_out("answer", CALL_TIMEOUT))))
}

/// The node's version that a version stands for. What is below zero would compare with any.
fn known(version: &Version) -> Option<i32> {
    version.as_bytes().try_into().ok().map(i32::from_be_bytes).filter(|version| *version >= 0)
}

/// What ZooKeeper would say to a version that no node can have.
fn unknown(exists: Result<bool, CallError>) -> CallError {
    match exists {
        Ok(true) => CallError::Refused(BAD_VERSION),
        Ok(false) => CallError::Refused(NO_NODE),
        Err(error) => error,
    }
}

fn refused(namespace: &Namespace, error: CallError) -> StoreError {
    let namespace = namespace.clone();
    match error {
        CallError::Refused(NO_NODE) => StoreError::Missing(namespace),
        CallError::Refused(NODE_EXISTS) => StoreError::Exists(namespace),
        CallError::Refused(BAD_VERSION) => StoreError::Mismatch(namespace),
        CallError::Refused(NO_AUTH) => StoreError::Forbidden(namespace),
        error => StoreError::Unavailable(error.into()),
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(NO_AUTH) => failure("ZooKeeper does not allow it"),
            CallError::Refused(number) => failure(format!("ZooKeeper refused, with error {number}")),
            CallError::Lost(failure) => failure,
        }
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("prefix", &self.prefix).field("acls", &self.acls).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_of_four_bytes_and_not_below_zero() {
        assert_eq!(known(&Version::new([0, 0, 1, 2])), Some(258));
        for bad in [&[0xff; 4][..], &[0; 3], &[0; 5], b""] {
            assert_eq!(known(&Version::new(bad)), None, "{bad:?}");
        }
    }
}

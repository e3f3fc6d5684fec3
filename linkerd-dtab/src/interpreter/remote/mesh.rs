//! The source that speaks gRPC.

use std::{
    collections::{HashMap, HashSet},
    error::Error as _,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tonic::{Code, Status};
use tower_service::Service;

use super::{Explaining, Leaf, Source, Watching};
use crate::{
    Activity, Addr, Bound, Delegation, Dtab, Failure, NameTree, Path, Publisher, State,
    delegate::Step,
    mesh::{
        Budget, Levels, Malformed, Unfit,
        delegation::read_node,
        name::{read_bound, write_dtab, write_tree},
        proto::{
            BindReq, DelegateTreeReq, ReplicasReq, delegator_client::DelegatorClient,
            interpreter_client::InterpreterClient, resolver_client::ResolverClient,
        },
        replicas::read_replicas,
    },
    transport::{Body, Sending, Transport},
};

/// The longest answer that is read, in bytes: 16 MiB.
const MAX_ANSWER: usize = 16 << 20;

/// How many sets of replicas an explanation shows.
const MAX_RESOLVED: usize = 100;

/// How long an explanation waits for each.
const RESOLVE: Duration = Duration::from_secs(1);

/// A namerd by its gRPC interface, `io.l5d.mesh`, on port 4321.
///
/// Each watch is a stream. What is sent on connections that are half gone, and how soon that is found out, is the
/// transport's matter; it has to speak HTTP/2, and namerd expects a ping now and then.
#[derive(Clone)]
pub struct Mesh {
    channel: Channel,
    root: Path,
}

/// Why a watch has ended, or a name is not explained.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// namerd said so, or was not reached.
    #[error("namerd says {code:?}: {message}")]
    Status {
        /// Which kind of failure.
        code: Code,
        /// Its text.
        message: String,
        /// What was not reached, or broke.
        source: Option<Arc<Status>>,
    },
    /// An answer stands for nothing.
    #[error("namerd's answer is malformed")]
    Malformed(#[from] Malformed),
    /// An answer has nothing in it.
    #[error("namerd's answer is empty")]
    Empty,
    /// The stream has ended without an error.
    #[error("namerd has ended the stream")]
    Ended,
    /// The table nests deeper than messages can.
    #[error("the table cannot be sent: {0}")]
    Unfit(String),
}

/// Somebody else has answered: a proxy, or a port of another protocol.
#[derive(Debug, thiserror::Error)]
#[error("it answers with HTTP status {0}")]
struct NotGrpc(StatusCode);

/// A transport as tonic asks for one.
#[derive(Clone)]
struct Channel(Arc<dyn Transport>);

impl Mesh {
    /// The namerd that `transport` leads to; `root` names the namespace, as its only element: `/default`.
    #[must_use]
    pub fn new(transport: impl Transport, root: Path) -> Self {
        Self { channel: Channel(Arc::new(transport)), root }
    }

    async fn follow_tree(&self, dtab: &Dtab, name: &Path, tree: &Publisher<NameTree<Leaf>>) -> Result<(), MeshError> {
        let (root, name) = (Some((&self.root).into()), Some(name.into()));
        let request = BindReq { root, name, dtab: Some(write_dtab(dtab, Levels::of_field())?) };
        let mut client = InterpreterClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let mut answers = client.stream_bound_tree(request).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            let read = read_bound(&answer.tree.ok_or(MeshError::Empty)?, &mut Budget::default())?;
            tree.ok_if_changed(read, |a, b| a == b);
        }
        Ok(())
    }

    async fn follow_replicas(&self, id: &Path, addr: &Publisher<Addr>) -> Result<(), MeshError> {
        let mut client = ResolverClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let request = ReplicasReq { id: Some(id.into()) };
        let mut answers = client.stream_replicas(request).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            match read_replicas(&answer)? {
                State::Pending => {}
                State::Ok(read) => addr.ok_if_changed(read, |a, b| a == b),
                // It is namerd's source that fails. The stream goes on, and says when it is back.
                State::Failed(error) => addr.failed(error),
            }
        }
        Ok(())
    }

    async fn explain(&self, dtab: &Dtab, name: &Path) -> Result<Delegation, MeshError> {
        let request = DelegateTreeReq {
            root: Some((&self.root).into()),
            tree: Some(write_tree(&NameTree::Leaf(name.clone()), Levels::of_field())?),
            dtab: Some(write_dtab(dtab, Levels::of_field())?),
        };
        let mut client = DelegatorClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = client.get_delegate_tree(request).await?.into_inner();
        let steps = read_node(&answer.tree.ok_or(MeshError::Empty)?, &mut Budget::default())?;
        Ok(self.with_addresses(Delegation::of_steps(steps)).await)
    }

    /// The explanation with the addresses of its bound names as they are now, of which a message says nothing.
    async fn with_addresses(&self, delegation: Delegation) -> Delegation {
        let leaves = delegation.leaves();
        let ids: HashSet<&Path> = leaves.values().map(|bound| &bound.id).take(MAX_RESOLVED).collect();
        let addresses = ids.into_iter().map(async |id| (id, self.address(id).await));
        let addresses: HashMap<_, _> = join_all(addresses).await.into_iter().collect();
        let steps = leaves.iter().filter_map(|(key, bound)| {
            let addr = addresses.get(&bound.id)?.clone();
            Some((key.clone(), Step::Leaf(Bound { addr, ..bound.clone() })))
        });
        delegation.with_leaves(&steps.collect())
    }

    /// What is first said of a bound name's replicas; pending if that is nothing for too long.
    async fn address(&self, id: &Path) -> Activity<Addr> {
        let (publisher, mut addr) = Activity::channel();
        let known = async {
            tokio::select! {
                ended = self.follow_replicas(id, &publisher) => {
                    publisher.failed(failure(ended));
                }
                _ = addr.ready() => {}
            }
        };
        _ = timeout(RESOLVE, known).await;
        publisher.subscribe()
    }
}

impl Source for Mesh {
    fn bind<'a>(&'a self, dtab: &'a Dtab, name: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        Box::pin(async { failure(self.follow_tree(dtab, name, tree).await) })
    }

    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        Box::pin(async { failure(self.follow_replicas(id, addr).await) })
    }

    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a> {
        Box::pin(async { self.explain(dtab, name).await.map_err(|error| Arc::new(error) as Failure) })
    }
}

/// Why a stream is over.
fn failure(ended: Result<(), MeshError>) -> Failure {
    Arc::new(ended.err().unwrap_or(MeshError::Ended))
}

impl From<Status> for MeshError {
    fn from(status: Status) -> Self {
        let (code, message) = (status.code(), status.message().to_owned());
        Self::Status { code, message, source: Some(Arc::new(status)).filter(|status| status.source().is_some()) }
    }
}

impl From<Unfit> for MeshError {
    fn from(error: Unfit) -> Self {
        Self::Unfit(error.to_string())
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Sending {
        let sending =
            self.0.send(request.map(|body| body.map_err(|status| Arc::new(status) as Failure).boxed_unsync()));
        Box::pin(async {
            let response = sending.await?;
            let status = response.status();
            if status.is_success() || response.headers().contains_key(Status::GRPC_STATUS) {
                return Ok(response);
            }
            Err(Arc::new(NotGrpc(status)) as Failure)
        })
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("root", &self.root).finish_non_exhaustive()
    }
}

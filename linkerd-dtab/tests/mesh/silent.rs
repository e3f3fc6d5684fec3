//! What is answered about names that nobody answers for.

use std::time::Duration;

use linkerd_dtab::{
    Activity, Name, NameTree, Namer, Path,
    mesh::proto::{
        BindReq, BoundTreeRsp, DelegateTreeReq, DelegateTreeRsp, PathNameTree, Replicas, ReplicasReq,
        bound_delegate_tree, bound_name_tree, path_name_tree as tree, replicas,
    },
    namerd::{Namerd, mesh::Mesh},
    store::Memory,
};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::call::call;

/// Knows of nothing whether it is there.
struct Silent;

impl Namer for Silent {
    fn lookup(&self, _: &Path) -> Activity<NameTree<Name>> {
        let (publisher, activity) = Activity::channel();
        tokio::spawn(async move { publisher.closed().await });
        activity
    }
}

fn mesh() -> Mesh {
    let table = "/svc => /#/silent ; /half => /svc/a & /$/inet/127.0.0.1/1";
    let store = Memory::new([("default".parse().unwrap(), table.parse().unwrap())]);
    Mesh::new(Namerd::builder(store).namer("/#/silent".parse().unwrap(), Silent).build())
}

fn path(text: &str) -> Option<linkerd_dtab::mesh::proto::Path> {
    text.parse::<Path>().ok().map(|path| (&path).into())
}

fn bind(name: &str) -> Vec<u8> {
    BindReq { root: path("/default"), name: path(name), dtab: None }.encode_to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_replicas_begins_with_pending_and_one_of_a_tree_says_nothing() {
    let id = ReplicasReq { id: path("/#/silent/a") }.encode_to_vec();
    let mut answer = call(&mesh(), "/io.linkerd.mesh.Resolver/StreamReplicas", &id).await;
    let first = Replicas::decode(answer.message().await.unwrap()).unwrap().result;
    assert_eq!(first, Some(replicas::Result::Pending(replicas::Pending {})));
    assert!(timeout(Duration::from_mins(10), answer.message()).await.is_err());

    let mut answer = call(&mesh(), "/io.linkerd.mesh.Interpreter/StreamBoundTree", &bind("/svc/a")).await;
    assert!(timeout(Duration::from_mins(10), answer.message()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_single_answer_waits_so_long_and_then_says_that_nothing_is_known() {
    let begin = Instant::now();
    let id = ReplicasReq { id: path("/#/silent/a") }.encode_to_vec();
    let mut answer = call(&mesh(), "/io.linkerd.mesh.Resolver/GetReplicas", &id).await;
    let replicas = Replicas::decode(answer.message().await.unwrap()).unwrap().result;
    assert_eq!(replicas, Some(replicas::Result::Pending(replicas::Pending {})));
    assert_eq!(begin.elapsed().as_secs(), 10);

    let mut answer = call(&mesh(), "/io.linkerd.mesh.Interpreter/GetBoundTree", &bind("/svc/a")).await;
    assert!(answer.message().await.is_none());
    assert_eq!(answer.status(), (Code::DeadlineExceeded as i32, "the name is still not bound".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_binding_is_answered_without_what_stays_unknown() {
    let begin = Instant::now();
    let mut answer = call(&mesh(), "/io.linkerd.mesh.Interpreter/GetBoundTree", &bind("/half")).await;
    let tree = BoundTreeRsp::decode(answer.message().await.unwrap()).unwrap().tree.unwrap().node.unwrap();
    let bound_name_tree::Node::Leaf(leaf) = tree else { panic!("{tree:?}") };
    assert_eq!(leaf.id, path("/$/inet/127.0.0.1/1"));
    assert_eq!(begin.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_explanation_says_what_stays_unknown() {
    let leaf = tree::Node::Leaf(tree::Leaf { id: path("/svc/a") });
    let request = DelegateTreeReq { root: path("/default"), tree: Some(PathNameTree { node: Some(leaf) }), dtab: None };
    let mut answer = call(&mesh(), "/io.linkerd.mesh.Delegator/GetDelegateTree", &request.encode_to_vec()).await;
    let root = DelegateTreeRsp::decode(answer.message().await.unwrap()).unwrap().tree.unwrap();
    let Some(bound_delegate_tree::Node::Delegate(to)) = root.node else { panic!("{root:?}") };
    assert_eq!(to.node, Some(bound_delegate_tree::Node::Exception("Request timed out.".to_owned())));
}

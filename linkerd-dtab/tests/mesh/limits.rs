//! What peers may send, and what they get when they send more, or something else.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use linkerd_dtab::{
    Activity, Dtab, Element, Path, Publisher,
    mesh::proto::{
        BindReq, BoundTreeRsp, DelegateTreeReq, DtabReq, DtabRsp, PathNameTree, Replicas, ReplicasReq, ShowDtabReq,
        bound_name_tree,
        dtab::{
            self,
            dentry::prefix::{Wildcard, elem::Value},
        },
        path_name_tree as tree, replicas,
    },
    namerd::{
        Grant, Limits, Meter, Namerd, Peer, Reason, Role, Roles, Who,
        mesh::{MAX_QUESTION, Mesh},
    },
    store::{Change, DtabStore, Expect, Namespace, StoreError, Stored, Version, VersionedDtab},
    transport::{Body, full},
};
use prost::Message;
use tokio::time::timeout;
use tonic::Code;
use tower::ServiceExt;

use crate::{
    call::{Answer, call, request},
    server::Server,
};

const BIND: &str = "/io.linkerd.mesh.Interpreter/GetBoundTree";
const STREAM: &str = "/io.linkerd.mesh.Interpreter/StreamBoundTree";
const RESOLVE: &str = "/io.linkerd.mesh.Resolver/GetReplicas";
const EXPLAIN: &str = "/io.linkerd.mesh.Delegator/GetDelegateTree";
const DTAB: &str = "/io.linkerd.mesh.Delegator/GetDtab";
const FOLLOW_DTAB: &str = "/io.linkerd.mesh.Delegator/StreamDtab";
const SHOW: &str = "/io.linkerd.mesh.Codec/ShowDtab";

type Proto = linkerd_dtab::mesh::proto::Path;

fn server() -> Server {
    Server::new([("default", "/svc => /#/io.l5d.fs")], [("disco/web", "127.0.0.1 1111\n")])
}

fn path(text: &str) -> Proto {
    (&text.parse::<Path>().unwrap()).into()
}

fn bind(dtab: Option<dtab::Dentry>) -> Vec<u8> {
    let dtab = dtab.map(|dentry| linkerd_dtab::mesh::proto::Dtab { dentries: vec![dentry] });
    BindReq { root: Some(path("/default")), name: Some(path("/svc/web")), dtab }.encode_to_vec()
}

fn dentry(node: tree::Node) -> dtab::Dentry {
    let elem = dtab::dentry::prefix::Elem { value: Some(Value::Label(b"svc".to_vec())) };
    let prefix = dtab::dentry::Prefix { elems: vec![elem] };
    dtab::Dentry { prefix: Some(prefix), dst: Some(PathNameTree { node: Some(node) }) }
}

fn alt(trees: Vec<PathNameTree>) -> PathNameTree {
    PathNameTree { node: Some(tree::Node::Alt(tree::Alt { trees })) }
}

fn neg() -> PathNameTree {
    PathNameTree { node: Some(tree::Node::Neg(tree::Neg {})) }
}

async fn status(server: &Server, path: &str, message: &[u8]) -> (Code, String) {
    let mut answer = call(&server.mesh, path, message).await;
    answer.messages().await;
    let (code, text) = answer.status();
    (Code::from(code), text)
}

#[tokio::test]
async fn a_status_without_messages_is_sent_in_trailers_behind_headers() {
    let mut answer = call(&server().mesh, BIND, b"").await;
    assert_eq!((answer.http, answer.header("grpc-status")), (StatusCode::OK, None));
    assert_eq!(answer.header("content-type"), Some("application/grpc+proto"));
    assert!(answer.message().await.is_none());
    assert_eq!(answer.status(), (3, "No namespace specified".to_owned()));
}

#[tokio::test]
async fn what_is_no_method_is_a_bad_request_and_what_is_no_post_not_allowed() {
    let server = server();
    for path in ["/", "/io.linkerd.mesh.Nobody/GetDtab", "/io.linkerd.mesh.Codec/Nope", "/other.Codec/ReadPath"] {
        let answer = call(&server.mesh, path, b"").await;
        assert_eq!((answer.http, answer.status().0), (StatusCode::BAD_REQUEST, 12), "{path}");
    }
    let get = Request::get(BIND).body(full("")).unwrap();
    let answer = server.mesh.oneshot(get).await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["allow"], "POST");
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_unread() {
    let server = server();
    let long = ReplicasReq { id: Some(Proto { elems: vec![vec![b'x'; MAX_QUESTION]] }) }.encode_to_vec();
    let (code, text) = status(&server, RESOLVE, &long).await;
    assert_eq!(code, Code::OutOfRange, "{text}");
    let short = ReplicasReq { id: Some(Proto { elems: vec![vec![b'x'; MAX_QUESTION - 64]] }) }.encode_to_vec();
    assert_eq!(status(&server, RESOLVE, &short).await.0, Code::Ok);
}

#[tokio::test]
async fn a_tree_that_nests_too_deep_is_refused_and_no_stack_overflows() {
    let server = server();
    let mut deep = neg().encode_to_vec();
    // By hand: to encode so deep a tree would itself take too much stack.
    for _ in 0..100_000 {
        for key in [0x0a, 0x22] {
            let mut outer = vec![key];
            prost::encode_length_delimiter(deep.len(), &mut outer).unwrap();
            if outer.len() + deep.len() > MAX_QUESTION / 2 {
                break;
            }
            outer.extend(&deep);
            deep = outer;
        }
        if deep.len() > 60_000 {
            break;
        }
    }
    let mut message = vec![0x12];
    prost::encode_length_delimiter(deep.len(), &mut message).unwrap();
    message.extend(deep);
    let (code, text) = status(&server, EXPLAIN, &message).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("recursion"), "{text}");
}

#[tokio::test]
async fn a_table_of_too_many_names_is_refused() {
    let server = server();
    let dentries = vec![dentry(alt(vec![neg(); 100_000]).node.unwrap())];
    let dtab = Some(linkerd_dtab::mesh::proto::Dtab { dentries });
    let (code, text) = status(&server, SHOW, &ShowDtabReq { dtab }.encode_to_vec()).await;
    assert_eq!((code, &*text), (Code::InvalidArgument, "more than 100000 names"));
}

#[tokio::test]
async fn what_is_missing_or_makes_no_sense_in_a_message_is_named() {
    let server = server();
    let weighted = |weight| {
        let branch = tree::union::Weighted { weight, tree: Some(neg()) };
        bind(Some(dentry(tree::Node::Union(tree::Union { trees: vec![branch] }))))
    };
    let without_node = |tree: PathNameTree| bind(Some(dtab::Dentry { prefix: None, dst: Some(tree) }));
    let root = |elems: &[&[u8]]| DtabReq { root: Some(Proto { elems: elems.iter().map(|e| e.to_vec()).collect() }) };
    let cases = [
        (BIND, b"\xff\xff".to_vec(), "failed to decode"),
        (BIND, weighted(Some(-1.0)), "-1 is not a weight"),
        (BIND, weighted(Some(f64::NAN)), "NaN is not a weight"),
        (BIND, without_node(PathNameTree { node: None }), "the node of a tree is missing"),
        (BIND, bind(Some(dtab::Dentry::default())), "the destination of an entry is missing"),
        (
            RESOLVE,
            ReplicasReq { id: Some(Proto { elems: vec![Vec::new()] }) }.encode_to_vec(),
            "a path element is empty",
        ),
        (DTAB, root(&[b"a b"]).encode_to_vec(), "Invalid root: invalid namespace 'a b'"),
        (DTAB, root(&[b"\xff"]).encode_to_vec(), "Invalid root: `/\\xff` must have exactly one segment"),
        (DTAB, root(&[]).encode_to_vec(), "Invalid root: `/` must have exactly one segment"),
    ];
    for (path, message, expected) in cases {
        let (code, text) = status(&server, path, &message).await;
        assert_eq!(code, Code::InvalidArgument, "{text}");
        assert!(text.starts_with(expected), "expected {expected}, got {text}");
    }
}

#[tokio::test]
async fn more_names_than_100_are_not_explained_at_once() {
    let server = server();
    let explain = |count: u32| {
        let leaf = |i| tree::Node::Leaf(tree::Leaf { id: Some(path(&format!("/svc/{i}"))) });
        let trees = (0..count).map(|i| PathNameTree { node: Some(leaf(i)) }).collect();
        DelegateTreeReq { root: Some(path("/default")), tree: Some(alt(trees)), dtab: None }.encode_to_vec()
    };
    assert_eq!(status(&server, EXPLAIN, &explain(100)).await.0, Code::Ok);
    let (code, text) = status(&server, EXPLAIN, &explain(101)).await;
    assert_eq!((code, &*text), (Code::InvalidArgument, "101 names to explain, of at most 100"));
}

#[tokio::test]
async fn a_table_that_nests_deeper_than_messages_is_not_sent() {
    let server = server();
    let nested = format!("/a => {}/b | /c{}", "(/x | ".repeat(60), ")".repeat(60));
    server.put("deep", &nested).await;
    let message = DtabReq { root: Some(path("/deep")) }.encode_to_vec();
    let (code, text) = status(&server, DTAB, &message).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(text.contains("deeper than the 100 levels"), "{text}");
    // What is sent is read by everybody who keeps to that.
    let nested = format!("/a => {}/b | /c{}", "(/x | ".repeat(40), ")".repeat(40));
    server.put("deep", &nested).await;
    let mut answer = call(&server.mesh, DTAB, &message).await;
    assert!(DtabRsp::decode(answer.message().await.unwrap()).is_ok());
}

#[tokio::test]
async fn several_names_as_an_id_are_not_one_set_of_replicas() {
    let server = server();
    let replicas = async |id: &str| {
        let message = ReplicasReq { id: Some(path(id)) }.encode_to_vec();
        let mut answer = call(&server.mesh, RESOLVE, &message).await;
        Replicas::decode(answer.message().await.unwrap()).unwrap().result.unwrap()
    };
    let failed = |message: &str| replicas::Result::Failed(replicas::Failed { message: message.to_owned() });
    assert_eq!(replicas("/").await, failed("No ID provided"));
    assert_eq!(replicas("/$/nil").await, replicas::Result::Bound(replicas::Bound::default()));
    assert_eq!(replicas("/$/fail").await, failed("/$/fail is not a concrete bound id"));
}

#[tokio::test]
async fn an_element_of_a_wildcard_is_not_the_wildcard() {
    let server = server();
    let star = |value| dtab::Dentry {
        prefix: Some(dtab::dentry::Prefix { elems: vec![dtab::dentry::prefix::Elem { value: Some(value) }] }),
        dst: Some(neg()),
    };
    let shown = async |value| {
        let dtab = linkerd_dtab::mesh::proto::Dtab { dentries: vec![star(value)] };
        let mut answer = call(&server.mesh, SHOW, &ShowDtabReq { dtab: Some(dtab) }.encode_to_vec()).await;
        String::from_utf8_lossy(&answer.message().await.unwrap()[2..]).into_owned()
    };
    assert_eq!(shown(Value::Wildcard(Wildcard {})).await, "/*=>~");
    assert_eq!(shown(Value::Label(b"*".to_vec())).await, r"/\x2a=>~");
    assert_eq!("/*=>~".parse::<Dtab>().unwrap().entries()[0].prefix.elements(), [Element::Any]);
}

#[tokio::test]
async fn a_slow_reader_gets_the_last_state_and_none_before_it() {
    let server = server();
    let message = DtabReq { root: Some(path("/default")) }.encode_to_vec();
    let mut answer = call(&server.mesh, FOLLOW_DTAB, &message).await;
    let version = |message: Bytes| DtabRsp::decode(message).unwrap().dtab.unwrap().version.unwrap().id[7];
    assert_eq!(version(answer.message().await.unwrap()), 1);
    for _ in 0..50 {
        server.put("default", "/svc => /#/io.l5d.fs").await;
    }
    assert_eq!(version(answer.message().await.unwrap()), 51);
}

#[tokio::test]
async fn a_tree_is_told_once_more_after_a_change_of_its_table_that_leaves_it_as_it_was() {
    let server = server();
    let mut answer = call(&server.mesh, STREAM, &bind(None)).await;
    let leaf = |message: Bytes| match BoundTreeRsp::decode(message).unwrap().tree.unwrap().node.unwrap() {
        bound_name_tree::Node::Leaf(leaf) => Path::try_from(&leaf.id.unwrap()).unwrap().to_string(),
        node => panic!("{node:?}"),
    };
    assert_eq!(leaf(answer.message().await.unwrap()), "/#/io.l5d.fs/web");
    server.put("default", "/svc => /#/io.l5d.fs ; /other => /svc").await;
    assert_eq!(leaf(answer.message().await.unwrap()), "/#/io.l5d.fs/web");
    let again = timeout(Duration::from_millis(200), answer.message()).await;
    assert!(again.is_err(), "once is enough");
    server.put("default", "/svc => /$/inet/127.0.0.1 ; /svc/web => /$/inet/127.0.0.1/1").await;
    assert_eq!(leaf(answer.message().await.unwrap()), "/$/inet/127.0.0.1/1");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_any_more_watches_nothing() {
    let (table, _) = Activity::channel();
    let table = Arc::new(table);
    let mesh = Mesh::new(Namerd::builder(OneTable(Arc::clone(&table))).build());
    table.ok(Some(Arc::new(VersionedDtab { version: Version::new(*b"v"), dtab: Dtab::empty() })));
    let mut answer = call(&mesh, FOLLOW_DTAB, &DtabReq { root: Some(path("/default")) }.encode_to_vec()).await;
    answer.message().await.unwrap();
    assert!(!table.is_closed());
    drop(answer);
    table.closed().await;
}

/// A store of one table, which tells who watches it.
struct OneTable(Arc<Publisher<Stored>>);

impl DtabStore for OneTable {
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        Activity::value(Arc::default())
    }

    fn watch(&self, _: &Namespace) -> Activity<Stored> {
        self.0.subscribe()
    }

    fn put<'a>(&'a self, namespace: &'a Namespace, _: &'a Dtab, _: &'a Expect) -> Change<'a, Version> {
        Box::pin(async { Err(StoreError::Forbidden(namespace.clone())) })
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, _: &'a Expect) -> Change<'a, ()> {
        Box::pin(async { Err(StoreError::Forbidden(namespace.clone())) })
    }
}

/// The status of a call to `mesh` whose body has this and no end, and how many seconds it took.
async fn unfinished(mesh: &Mesh, path: &str, body: Bytes) -> (Code, String, u64) {
    let begun = tokio::time::Instant::now();
    let pieces = stream::iter([Ok(Frame::data(body))]).chain(stream::pending());
    let body: Body = StreamBody::new(pieces).boxed_unsync();
    let (head, _) = request(path, b"").into_parts();
    let mut answer = Answer::of(mesh.clone().oneshot(Request::from_parts(head, body)).await.unwrap());
    answer.messages().await;
    let (code, text) = answer.status();
    (Code::from(code), text, begun.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn a_request_is_read_for_who_may_ask_only_and_not_for_ever() {
    let grant = Grant { who: Who::Name("web".into()), namespaces: "*".parse().unwrap(), role: Role::Read };
    let namerd = Namerd::builder(linkerd_dtab::store::Memory::default()).roles(Roles::new([grant])).build();
    let mesh = Mesh::new(namerd);
    for path in [BIND, STREAM, RESOLVE, EXPLAIN, DTAB, FOLLOW_DTAB, SHOW] {
        let (code, text, secs) = unfinished(&mesh, path, Bytes::new()).await;
        assert_eq!((code, &*text, secs), (Code::PermissionDenied, "somebody may not read namespace *", 0), "{path}");
    }
    let (head, _) = request(SHOW, b"").into_parts();
    let mut with_token = Request::from_parts(head, Body::default());
    with_token.headers_mut().insert("authorization", "Bearer n0body".parse().unwrap());
    let mut answer = Answer::of(mesh.clone().oneshot(with_token).await.unwrap());
    answer.messages().await;
    let (code, text) = answer.status();
    assert_eq!((Code::from(code), &*text), (Code::Unauthenticated, "unknown token"));
    let server = server();
    for path in [BIND, STREAM, SHOW] {
        let (code, text, secs) = unfinished(&server.mesh, path, Bytes::from_static(&[0, 0])).await;
        assert_eq!((code, &*text, secs), (Code::DeadlineExceeded, "the request did not come within 10s", 10), "{path}");
    }
}

#[tokio::test]
async fn all_that_is_being_read_has_a_bound() {
    let limits = Limits { reading_bytes_per_peer: 1000, ..Limits::default() };
    let namerd = Namerd::builder(linkerd_dtab::store::Memory::default()).limits(limits).build();
    let mesh = Mesh::new(namerd);
    let long = ReplicasReq { id: Some(Proto { elems: vec![vec![b'x'; 1000]] }) }.encode_to_vec();
    let mut answer = call(&mesh, RESOLVE, &long).await;
    answer.messages().await;
    let (code, text) = answer.status();
    assert_eq!(Code::from(code), Code::ResourceExhausted);
    assert_eq!(text, "too many bytes being read: 1000 are allowed to one peer");
    let short = ReplicasReq { id: Some(Proto { elems: vec![vec![b'x'; 900]] }) }.encode_to_vec();
    for _ in 0..3 {
        let mut answer = call(&mesh, RESOLVE, &short).await;
        answer.messages().await;
        assert_eq!(answer.status().0, 0, "what was read does not count any more");
    }
}

#[tokio::test]
async fn calls_are_counted() {
    let meter = Meter::default();
    let server = server();
    let session = server.namerd.session(Peer::default()).metered(&meter);
    let ask = async |path: &str, message: &[u8]| {
        let mut request = request(path, message);
        request.extensions_mut().insert(session.clone());
        Answer::of(server.mesh.clone().oneshot(request).await.unwrap())
    };
    let mut stream = ask(STREAM, &bind(None)).await;
    assert!(stream.message().await.is_some());
    ask(BIND, b"").await.messages().await;
    ask("/nowhere", b"").await.messages().await;
    let nowhere = DtabReq { root: Some(path("/nowhere")) }.encode_to_vec();
    ask(FOLLOW_DTAB, &nowhere).await.messages().await;
    let read = meter.read();
    assert_eq!((read.requests, read.streams, read.open_streams), (4, 2, 1));
    assert_eq!((meter.failures(Reason::BadRequest), meter.failures(Reason::Missing)), (2, 1));
    drop(stream);
    assert_eq!(meter.read().open_streams, 0);
}

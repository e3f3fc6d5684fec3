//! Our client asks our server.

use std::{error::Error, fs, sync::Arc};

use http::{Request, Response};
use linkerd_dtab::{
    Activity, Addr, Dtab, Failure, Interpreter, NameTree, Path, State, Weighted,
    delegate::{Step, settled},
    interpreter::{
        Local,
        remote::{Leaf, Mesh, MeshError, Source},
    },
    mesh::proto::{BoundTreeRsp, ReadDtabReq, ReadDtabRsp, Replicas, ShowDtabReq, ShowDtabRsp, replicas},
    namer::{Inet, fs::Namer},
    namerd::mesh,
    transport::{Body, Sending, Transport, full},
};
use prost::Message;
use tokio::time::timeout;
use tonic::Code;
use tower::Service;

use crate::{
    call::{call, request},
    follow::{PATIENCE, follow_addr, follow_tree, next},
    server::Server,
};

/// The server, as if it were elsewhere.
struct There(mesh::Mesh);

impl Transport for There {
    fn send(&self, request: Request<Body>) -> Sending {
        let answering = self.0.clone().call(request);
        Box::pin(async { Ok(answering.await.unwrap()) })
    }
}

/// One answer to everything.
struct Answers(fn() -> Result<Response<Body>, Failure>);

impl Transport for Answers {
    fn send(&self, _: Request<Body>) -> Sending {
        let answer = self.0();
        Box::pin(async { answer })
    }
}

const TABLE: &str = "/svc => /#/io.l5d.fs ; /half => 3 * /svc/web & 1 * /svc/two ; /alt => /svc/nope | /svc/web ; \
                     /gone => ~ ; /stop => ! ; /none => $ ; /loop => /loop ; /x/* => /svc ; \
                     /canary => 0.001 * /svc/web & 0.999 * /svc/two";

fn server() -> Server {
    let files = [
        ("disco/web", "127.0.0.1 1111\n"),
        ("disco/two", "127.0.0.1 1111\n::1 2222 * 0.5 zone=a\n"),
        ("disco/bad", "what is this\n"),
    ];
    Server::new([("default", TABLE)], files)
}

fn source(server: &Server) -> Mesh {
    Mesh::new(There(server.mesh.clone()), path("/default"))
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn explains(server: &Server) -> Local {
    let namer = Namer::new(server.dir().join("disco"));
    let local = Local::new(vec![(path("/#/io.l5d.fs"), Arc::new(namer) as _)], Arc::new(Inet::default()));
    local.with_dtab(Activity::value(TABLE.parse().unwrap()))
}

#[tokio::test]
async fn a_name_is_followed_through_changes_of_its_table() {
    let server = server();
    let mut tree = follow_tree(&source(&server), "/svc/web => /#/io.l5d.fs/two", "/svc/web/x");
    let leaf = |id: &str| NameTree::Leaf(Leaf { id: path(id), residual: path("/x") });
    assert_eq!(next(&mut tree).await, leaf("/#/io.l5d.fs/two"));
    // The table of the request has precedence.
    server.put("default", "/svc => /$/inet/127.0.0.1/1 ; /svc/web => /$/inet/127.0.0.1/2").await;
    server.put("default", "/svc => /#/io.l5d.fs ; /#/io.l5d.fs/two => /#/io.l5d.fs/web").await;
    assert_eq!(next(&mut tree).await, leaf("/#/io.l5d.fs/web"));
    assert!(!tree.end.is_finished());
}

#[tokio::test]
async fn every_kind_of_tree_arrives() {
    let server = server();
    let leaf = |id: &str| NameTree::Leaf(Leaf { id: path(id), residual: Path::empty() });
    for (name, expected) in [
        ("/alt", leaf("/#/io.l5d.fs/web")),
        ("/gone", NameTree::Neg),
        ("/stop", NameTree::Fail),
        ("/none", NameTree::Empty),
        ("/x/y/web", leaf("/#/io.l5d.fs/web")),
        ("/nobody", NameTree::Neg),
    ] {
        let mut tree = follow_tree(&source(&server), "", name);
        assert_eq!(next(&mut tree).await, expected, "{name}");
    }
    let mut half = follow_tree(&source(&server), "", "/half");
    let mut tree = next(&mut half).await;
    // Each branch comes as soon as it is known.
    if tree.leaves().len() == 1 {
        tree = next(&mut half).await;
    }
    assert_eq!(tree.map(&mut |leaf| leaf.id).to_string(), "3.00*/#/io.l5d.fs/web & /#/io.l5d.fs/two");
}

#[tokio::test]
async fn all_decimals_of_weights_arrive() {
    let server = server();
    let leaf = |id: &str| NameTree::Leaf(Leaf { id: path(id), residual: Path::empty() });
    let web = Weighted::new(0.001, leaf("/#/io.l5d.fs/web"));
    let two = |weight| Weighted::new(weight, leaf("/#/io.l5d.fs/two"));
    // Of the table, and of the table of the request.
    for (dtab, weight) in [("", 0.999), ("/canary => 0.001 * /svc/web & 12.3456789 * /svc/two", 12.345_678_9)] {
        let mut canary = follow_tree(&source(&server), dtab, "/canary");
        let expected = NameTree::Union(vec![web.clone(), two(weight)]);
        // Each branch comes as soon as it is known.
        let mut found = next(&mut canary).await;
        if found.leaves().len() == 1 {
            found = next(&mut canary).await;
        }
        assert_eq!(found, expected);
        let explained = source(&server).delegate(&dtab.parse().unwrap(), &path("/canary")).await.unwrap();
        let weights = explained.nodes().find_map(|node| match &node.step {
            Step::Union(branches) => Some(branches.iter().map(|(weight, _)| *weight).collect::<Vec<_>>()),
            _ => None,
        });
        assert_eq!(weights.unwrap(), [0.001, weight]);
    }

    let text = "/svc=>0.001*/a & 12.3456789*/b";
    let ask = async |method: &str, message: Vec<u8>| {
        let mut answer = call(&server.mesh, &format!("/io.linkerd.mesh.Codec/{method}"), &message).await;
        answer.message().await.unwrap()
    };
    let read = ask("ReadDtab", ReadDtabReq { text: text.to_owned() }.encode_to_vec()).await;
    let dtab = ReadDtabRsp::decode(read).unwrap().dtab;
    let shown = ask("ShowDtab", ShowDtabReq { dtab }.encode_to_vec()).await;
    assert_eq!(ShowDtabRsp::decode(shown).unwrap().text, text);
}

#[tokio::test]
async fn replicas_are_followed_with_what_is_known_of_them() {
    let server = server();
    let mut addr = follow_addr(&source(&server), "/%/io.l5d.port/9/#/io.l5d.fs/two");
    let two = next(&mut addr).await;
    let [first, second] = two.endpoints() else { panic!("{two:?}") };
    assert_eq!((first.addr, first.weight, first.zone.as_deref()), ("127.0.0.1:1111".parse().unwrap(), 1.0, None));
    assert_eq!((second.addr, second.weight), ("[::1]:2222".parse().unwrap(), 0.5));
    assert_eq!(second.zone.as_deref(), Some("a"));
    fs::write(server.dir().join("disco/two"), "127.0.0.1 3333\n").unwrap();
    assert_eq!(next(&mut addr).await, Addr::of(["127.0.0.1:3333".parse().unwrap()]));
    fs::remove_file(server.dir().join("disco/two")).unwrap();
    assert_eq!(next(&mut addr).await, Addr::Neg);
}

#[tokio::test]
async fn replicas_that_namerd_cannot_tell_fail_until_it_can() {
    let server = server();
    let mut addr = follow_addr(&source(&server), "/#/io.l5d.fs/bad");
    timeout(PATIENCE, addr.activity.changed()).await.unwrap();
    let State::Failed(error) = addr.activity.sample() else { panic!("known") };
    assert!(error.to_string().contains("what is this"), "{error}");
    assert!(!addr.end.is_finished());
    fs::write(server.dir().join("disco/bad"), "127.0.0.1 1\n").unwrap();
    assert_eq!(next(&mut addr).await, Addr::of(["127.0.0.1:1".parse().unwrap()]));
}

#[tokio::test]
async fn an_explanation_is_the_one_that_namerd_itself_has() {
    let server = server();
    let (source, local) = (source(&server), explains(&server));
    let dtab: Dtab = "/svc/two => /svc/web".parse().unwrap();
    for name in ["/svc/web", "/half", "/alt", "/gone", "/stop", "/none", "/x/y/web/res", "/nobody", "/canary"] {
        let there = source.delegate(&dtab, &path(name)).await.unwrap().to_json().unwrap();
        let here = settled(local.delegate(&dtab, &path(name)), PATIENCE).await.unwrap().to_json().unwrap();
        assert_eq!(there, here);
    }
    let error = source.delegate(&Dtab::empty(), &path("/loop")).await.unwrap_err();
    assert_eq!(error.to_string(), "namerd says Internal: Max recursion level reached.");
}

#[tokio::test]
async fn why_a_watch_ends_is_told() {
    let server = server();
    let ended = async |source: Mesh, name: &str| {
        let tree = follow_tree(&source, "", name);
        let error = timeout(PATIENCE, tree.end).await.unwrap().unwrap();
        assert!(matches!(tree.activity.sample(), State::Pending));
        error
    };
    let two = Mesh::new(There(server.mesh.clone()), path("/a/b"));
    let error = ended(two, "/svc/web").await;
    let MeshError::Status { code, .. } = error.downcast_ref().unwrap() else { panic!("{error}") };
    assert_eq!(*code, Code::InvalidArgument);

    let away = Mesh::new(Answers(|| Err(Arc::new(std::io::Error::other("nobody is there")))), path("/default"));
    let error = ended(away, "/svc/web").await;
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push(cause.to_string());
        source = cause.source();
    }
    assert!(chain.iter().any(|text| text.contains("nobody is there")), "{chain:?}");

    let not_grpc = Mesh::new(Answers(|| Ok(Response::builder().status(503).body(full("no")).unwrap())), path("/d"));
    let error = ended(not_grpc, "/svc/web").await;
    assert_eq!(error.to_string(), "namerd says Unknown: it answers with HTTP status 503 Service Unavailable");
}

/// A response of one message.
fn one(message: &impl Message) -> Response<Body> {
    Response::new(request("/", &message.encode_to_vec()).into_body())
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_ends_the_watch_and_publishes_nothing() {
    let ended = async |answers: fn() -> Result<Response<Body>, Failure>| {
        let source = Mesh::new(Answers(answers), path("/default"));
        let (tree, addr) = (follow_tree(&source, "", "/svc/web"), follow_addr(&source, "/#/io.l5d.fs/web"));
        let (tree_end, addr_end) = (tree.end.await.unwrap(), addr.end.await.unwrap());
        assert!(matches!((tree.activity.sample(), addr.activity.sample()), (State::Pending, State::Pending)));
        (tree_end.to_string(), addr_end.to_string())
    };
    let (tree, addr) = ended(|| Ok(one(&BoundTreeRsp { tree: None }))).await;
    assert_eq!((&*tree, &*addr), ("namerd's answer is empty", "namerd's answer is malformed"));
    let (_, addr) = ended(|| {
        let endpoint = linkerd_dtab::mesh::proto::Endpoint { address: vec![1, 2, 3], ..Default::default() };
        let bound = replicas::Bound { endpoints: vec![endpoint], ..Default::default() };
        Ok(one(&Replicas { result: Some(replicas::Result::Bound(bound)) }))
    })
    .await;
    assert_eq!(addr, "namerd's answer is malformed");
    let (tree, addr) = ended(|| Ok(Response::new(full("\0\0\0\0\x03\x0a\x01")))).await;
    for error in [tree, addr] {
        assert!(error.starts_with("namerd says "), "{error}");
    }
}

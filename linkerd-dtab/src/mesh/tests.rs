//! What is written is read again as what it was.

use std::sync::Arc;

use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::{
    delegation::{Writer, read_node},
    name::{read_bound, read_dtab, read_path, write_bound, write_dtab},
    replicas::{read_replicas, write_replicas},
    *,
};
use crate::{
    Activity, Addr, Bound, Delegation, Dentry, Dtab, Element, Endpoint, NameTree, Path, Prefix, State, Weighted,
    delegate::{Node, Step},
    interpreter::remote::Leaf,
};

fn any_path() -> impl Strategy<Value = Path> {
    vec(vec(any::<u8>(), 1..6), 0..4).prop_map(|elements| Path::from_elements(elements).unwrap())
}

fn any_tree<T: Clone + std::fmt::Debug + 'static>(
    leaf: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = NameTree<T>> {
    let leaf = prop_oneof![
        5 => leaf.prop_map(NameTree::Leaf),
        1 => Just(NameTree::Neg),
        1 => Just(NameTree::Fail),
        1 => Just(NameTree::Empty),
    ];
    leaf.prop_recursive(4, 24, 4, |tree| {
        let weight = prop_oneof![Just(0.0), Just(f64::INFINITY), 0.0..1e9];
        let branch = (weight, tree.clone()).prop_map(|(weight, tree)| Weighted::new(weight, tree));
        prop_oneof![vec(tree, 1..4).prop_map(NameTree::Alt), vec(branch, 1..4).prop_map(NameTree::Union)]
    })
}

fn any_dtab() -> impl Strategy<Value = Dtab> {
    let element =
        prop_oneof![Just(Element::Any), vec(any::<u8>(), 1..4).prop_map(|label| Element::Label(label.into())),];
    let entry = (vec(element, 0..4).prop_map(Prefix::new), any_tree(any_path()));
    vec(entry, 0..4).prop_map(|entries| entries.into_iter().map(|(prefix, dst)| Dentry { prefix, dst }).collect())
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let text = || option::of("[a-z]{1,8}".prop_map(Arc::<str>::from));
    (any::<std::net::SocketAddr>(), 0.0..1e6, text(), text(), text()).prop_map(
        |(addr, weight, node, authority, zone)| {
            // The scope of an address is its host's own.
            let addr = std::net::SocketAddr::new(addr.ip(), addr.port());
            Endpoint { zone, node, authority, ..Endpoint::new(addr).with_weight(weight) }
        },
    )
}

/// The message, as it arrives.
fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(&*message.encode_to_vec()).unwrap()
}

proptest! {
    #[test]
    fn a_table_arrives_as_it_is(dtab in any_dtab()) {
        let message = sent(&write_dtab(&dtab, Levels::of_field()).unwrap());
        prop_assert_eq!(read_dtab(Some(&message), &mut Budget::default()), Ok(dtab));
    }

    #[test]
    fn a_bound_tree_arrives_as_it_is(tree in any_tree((any_path(), any_path()))) {
        let leaf = |(id, residual): (Path, Path)| Bound::new(id, residual, Activity::value(Addr::Neg));
        let message = sent(&write_bound(&tree.clone().map(&mut { leaf }), Levels::of_field()).unwrap());
        let expected = tree.map(&mut |(id, residual)| Leaf { id, residual });
        prop_assert_eq!(read_bound(&message, &mut Budget::default()), Ok(expected));
    }

    #[test]
    fn replicas_arrive_as_they_are(endpoints in vec(any_endpoint(), 0..4)) {
        let addr = Addr::Bound(endpoints.into());
        let message = sent(&write_replicas(&State::Ok(addr.clone())));
        prop_assert_eq!(read_replicas(&message).unwrap().ok(), Some(addr));
    }

    #[test]
    fn no_bytes_are_more_than_a_message(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = proto::DelegateTreeRsp::decode(&*bytes)
            && let Some(tree) = &message.tree
        {
            _ = read_node(tree, &mut Budget::default());
        }
        if let Ok(message) = proto::Replicas::decode(&*bytes) {
            _ = read_replicas(&message);
        }
        if let Ok(message) = proto::Dtab::decode(&*bytes) {
            _ = read_dtab(Some(&message), &mut Budget::default());
        }
    }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn node(name: &str, step: Step) -> Node {
    let entry = Dentry { prefix: Prefix::from(&path("/svc")), dst: NameTree::Leaf(path("/x")) };
    Node { path: path(name), dentry: Some(entry.into()), step }
}

#[test]
fn every_step_of_an_explanation_arrives() {
    let bound = || Bound::new(path("/#/id"), path("/rest"), Activity::channel().1);
    let steps = vec![
        node("/a", Step::Neg),
        node("/b", Step::Fail),
        node("/c", Step::Empty),
        node("/d", Step::Leaf(bound())),
        node("/e", Step::Failed(remote_failure("no such thing"))),
        node("/f", Step::Delegate { to: Box::new(node("/g", Step::Neg)), namers: None }),
        node("/h", Step::Union(vec![(0.5, node("/i", Step::Neg)), (2.0, node("/j", Step::Leaf(bound())))])),
        node(
            "/k",
            Step::Transformed {
                name: "io.l5d.port".to_owned(),
                bound: bound(),
                to: Box::new(node("/k", Step::Leaf(bound()))),
            },
        ),
    ];
    let root = Node { path: path("/svc"), dentry: None, step: Step::Alt(steps) };
    let message = sent(&Writer::default().node(&root, Levels::of_field()).unwrap());
    let read = read_node(&message, &mut Budget::default()).unwrap();
    assert!(read.dentry.is_none());
    let json = |root| Delegation::of_steps(root).to_json().unwrap();
    assert_eq!(json(read), json(root));
}

#[test]
fn an_explanation_that_repeats_itself_without_end_is_not_written() {
    let long = path(&format!("/{}", "x".repeat(1 << 10)));
    let nodes = |count| {
        let one = Node { path: long.clone(), dentry: None, step: Step::Neg };
        Node { path: path("/svc"), dentry: None, step: Step::Alt(vec![one; count]) }
    };
    let written = |count| Writer::default().node(&nodes(count), Levels::of_field());
    assert!(written(4000).is_ok());
    assert_eq!(written(4200), Err(Unfit::TooLong));
}

#[test]
fn what_is_written_nests_no_deeper_than_everybody_reads() {
    let mut deepest = 0;
    for depth in 0..60 {
        let tree =
            (0..depth).fold(NameTree::Leaf(path("/a")), |tree, _| NameTree::Union(vec![Weighted::new(1.0, tree)]));
        let dtab = Dtab::new([Dentry { prefix: Prefix::default(), dst: tree }]);
        let Ok(message) = write_dtab(&dtab, Levels::of_field()) else { break };
        let message = proto::ReadDtabRsp { dtab: Some(message) };
        assert_eq!(read_dtab(sent(&message).dtab.as_ref(), &mut Budget::default()), Ok(dtab));
        deepest = depth;
    }
    assert_eq!(deepest, 31);
}

#[test]
fn a_failure_of_a_peer_is_cut_to_a_kilobyte() {
    assert_eq!(remote_failure(&"ä".repeat(1000)).to_string(), "ä".repeat(512));
}

#[test]
fn what_may_be_left_out_may_be_left_out() {
    assert_eq!(read_path(None), Ok(Path::empty()));
    let message = proto::Endpoint { address: vec![127, 0, 0, 1], ..Default::default() };
    let bound = proto::replicas::Bound { endpoints: vec![message], ..Default::default() };
    let replicas = proto::Replicas { result: Some(proto::replicas::Result::Bound(bound)) };
    let expected = Addr::of(["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(read_replicas(&replicas).unwrap().ok(), Some(expected));
}

//! Values: there and back, and whatever else arrives.

use proptest::{collection::vec, prelude::*};

use bytes::BytesMut;

use super::*;
use crate::{Addr, Endpoint, NameTree, Weighted};

type Leaf = (Path, Path);

fn element() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..6)
}

fn path() -> impl Strategy<Value = Path> {
    vec(element(), 0..4).prop_map(|elements| Path::from_elements(elements).unwrap())
}

fn name() -> impl Strategy<Value = NameRef> {
    (vec(any::<u8>(), 0..9), path(), ".{0,5}").prop_map(|(stamp, name, namespace)| NameRef { stamp, name, namespace })
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        (".{0,9}", name(), path()).prop_map(|(dtab, name, client)| Call::Bind { dtab, name, client }),
        (name(), path()).prop_map(|(name, client)| Call::Addr { name, client }),
        (".{0,9}", name(), path()).prop_map(|(dtab, name, client)| {
            let NameRef { stamp, name, namespace } = name;
            Call::Delegate { dtab, stamp, path: Some(name), namespace, client }
        }),
        (name(), path()).prop_map(|(NameRef { stamp, namespace, .. }, client)| Call::Dtab { stamp, namespace, client }),
    ]
}

fn tree() -> impl Strategy<Value = NameTree<Leaf>> {
    let leaf = prop_oneof![
        Just(NameTree::Neg),
        Just(NameTree::Fail),
        Just(NameTree::Empty),
        (path(), path()).prop_map(NameTree::Leaf),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(NameTree::Alt),
            vec((0.0..9.0, inner).prop_map(|(weight, tree)| Weighted::new(weight, tree)), 0..4)
                .prop_map(NameTree::Union),
        ]
    })
}

fn some_explanation() -> impl Strategy<Value = Explained> {
    let node = |(path, dentry, content): (Path, String, Content<Explained>)| Explained {
        path,
        dentry,
        content: Box::new(content),
    };
    let leaf = prop_oneof![
        ".{0,5}".prop_map(Content::Error),
        Just(Content::Empty),
        Just(Content::Fail),
        Just(Content::Neg),
        (path(), path()).prop_map(|(id, residual)| Content::Leaf { id, residual }),
        path().prop_map(Content::Path),
    ];
    (path(), ".{0,5}", leaf).prop_map(node).prop_recursive(5, 40, 4, move |inner| {
        let content = prop_oneof![
            inner.clone().prop_map(Content::Delegate),
            vec(inner.clone(), 0..4).prop_map(Content::Alt),
            vec((0.0..9.0, inner.clone()), 0..4).prop_map(Content::Union),
            (path(), path(), inner).prop_map(|(id, residual, to)| Content::Transformed { id, residual, to }),
        ];
        (path(), ".{0,5}", content).prop_map(node)
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let text = || proptest::option::of("[a-z]{1,5}".prop_map(|text| text.as_str().into()));
    (any::<std::net::IpAddr>(), any::<u16>(), 0.0..9.0, text(), text()).prop_map(
        |(ip, port, weight, node, authority)| {
            let mut endpoint = Endpoint::new((ip, port).into()).with_weight(weight);
            (endpoint.node, endpoint.authority) = (node, authority);
            endpoint
        },
    )
}

fn bind() -> Call {
    Call::Bind { dtab: String::new(), name: NameRef::default(), client: Path::empty() }
}

fn delegate() -> Call {
    let (dtab, namespace) = (String::new(), String::new());
    Call::Delegate { dtab, stamp: Vec::new(), path: None, namespace, client: Path::empty() }
}

fn answer(call: &Call, value: BytesMut) -> BytesMut {
    call.answer(7, &Ok(Stamped { stamp: b"12345678".to_vec(), value }))
}

fn leaf(id: Path, residual: Path) -> Leaf {
    (id, residual)
}

fn read_all(bytes: &[u8]) {
    let _ = Call::decode(bytes);
    let _ = read_bound(bytes, &leaf);
    let _ = read_addr(bytes);
    let _ = read_explained(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn calls_are_understood(call in call()) {
        prop_assert_eq!(Call::decode(&call.encode()), Ok((call, 0)));
    }

    #[test]
    fn trees_are_understood(tree in tree()) {
        let message = answer(&bind(), bound_tree(&tree, |(id, residual)| (id, residual)));
        prop_assert_eq!(read_bound(&message, &leaf).unwrap().value, tree);
    }

    #[test]
    fn explanations_are_understood(explained in some_explanation()) {
        let message = answer(&delegate(), explanation(&explained));
        prop_assert_eq!(read_explained(&message).unwrap().value, explained);
    }

    #[test]
    fn addresses_are_understood(endpoints in vec(endpoint(), 0..5)) {
        let endpoints = Addr::Bound(endpoints.into());
        let message = answer(&bind(), address(&endpoints));
        prop_assert_eq!(read_addr(&message).unwrap().value, endpoints);
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
        // Behind a head they get further.
        for head in [&bind().encode()[..16], &answer(&bind(), BytesMut::new())[..16]] {
            read_all(&[head, &bytes].concat());
        }
    }

    #[test]
    fn no_change_of_a_good_message_does_harm(
        tree in tree(),
        explained in some_explanation(),
        call in call(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let tree = answer(&bind(), bound_tree(&tree, |(id, residual)| (id, residual)));
        for mut message in [tree, answer(&delegate(), explanation(&explained)), call.encode()] {
            for (index, byte) in &changes {
                let index = index.index(message.len());
                message[index] = *byte;
            }
            read_all(&message);
        }
    }
}

#[test]
fn what_is_not_known_is_skipped() {
    // A struct of one field of each type, in front of each struct's end.
    let mut unknown = BytesMut::new();
    let writer = &mut Writer::new(&mut unknown);
    let values: [(Kind, &[u8]); 11] = [
        (Kind::Bool, &[1]),
        (Kind::Byte, &[1]),
        (Kind::Double, &[1; 8]),
        (Kind::I16, &[1; 2]),
        (Kind::I32, &[1; 4]),
        (Kind::I64, &[1; 8]),
        (Kind::Text, &[0, 0, 0, 1, 1]),
        (Kind::Struct, &[2, 0, 1, 1, 0]),
        (Kind::Map, &[2, 15, 0, 0, 0, 1, 1, 3, 0, 0, 0, 1, 1]),
        (Kind::Set, &[3, 0, 0, 0, 2, 1, 1]),
        (Kind::List, &[99, 0, 0, 0, 0]),
    ];
    for (kind, value) in values {
        writer.field(100, kind);
        writer.raw(value);
        // Of another type than the one that is known by this number.
        if kind != Kind::Struct {
            writer.field(1, kind);
            writer.raw(value);
        }
    }
    let mut message = bind().encode();
    let end = message.split_off(message.len() - 2);
    message.extend_from_slice(&end[..1]);
    message.extend_from_slice(&unknown);
    message.extend_from_slice(&end[1..]);
    assert_eq!(Call::decode(&message), Ok((bind(), 0)));
}

#[test]
fn depth_and_claims_are_bounded() {
    let nested = |depth: usize| {
        let head = bind().encode()[..16].to_vec();
        [head, [12, 0, 9].repeat(depth), vec![0; depth + 1]].concat()
    };
    assert_eq!(Call::decode(&nested(60)), Err(Malformed::Field("request").into()));
    assert_eq!(Call::decode(&nested(100_000)), Err(Malformed::Depth.into()));
    // A list of two billion empty structs, in five bytes.
    let list = [&bind().encode()[..16], &[15, 0, 9, 12, 0x7f, 0xff, 0xff, 0xff, 0, 0]].concat();
    assert_eq!(Call::decode(&list), Err(Malformed::Short.into()));
}

#[test]
fn trees_that_are_none_are_refused() {
    // Nodes as (number, children), the root first.
    let tree = |root: &[i32], nodes: &[(i32, Vec<i32>)]| {
        let mut value = BytesMut::new();
        let writer = &mut Writer::new(&mut value);
        writer.field(1, Kind::Struct);
        numbers(writer, 5, root.iter().copied());
        writer.end();
        writer.field(2, Kind::Map);
        writer.numbered(|writer, i| {
            let Some((_, children)) = nodes.get(i) else { return false };
            numbers(writer, 5, children.iter().copied());
            writer.end();
            true
        });
        writer.end();
        read_bound(&answer(&bind(), value), &leaf).map(|answer| answer.value)
    };
    let refused = |error| Err(BadAnswer::Malformed(error));
    assert_eq!(tree(&[0], &[]), refused(Malformed::NoNode(0)));
    assert_eq!(tree(&[0], &[(0, vec![0])]), refused(Malformed::TooMuch("500 levels")));
    // Each level has the next one twice.
    let doubling: Vec<_> = (0..60).map(|i| (i, vec![i + 1, i + 1])).chain([(60, vec![])]).collect();
    assert_eq!(tree(&[0], &doubling), refused(Malformed::TooMuch("100,000 nodes")));
    assert_eq!(tree(&[0, 0], &[(0, vec![])]), Ok(NameTree::Alt(vec![NameTree::Alt(vec![]), NameTree::Alt(vec![])])));
}

#[test]
fn values_that_cannot_be_are_refused() {
    let shares = |weight| {
        let union = NameTree::Union(vec![Weighted::new(weight, NameTree::Neg::<Leaf>)]);
        read_bound(&answer(&bind(), bound_tree(&union, |(id, residual)| (id, residual))), &leaf).is_ok()
    };
    assert_eq!([0.0, f64::INFINITY, -1.0, f64::NAN].map(shares), [true, true, false, false]);
    let weighted = |weight| {
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into()).with_weight(weight);
        read_addr(&answer(&bind(), address(&Addr::Bound([endpoint].into())))).is_ok()
    };
    assert_eq!([0.0, f64::INFINITY, -1.0, f64::NAN].map(weighted), [true, false, false, false]);
}

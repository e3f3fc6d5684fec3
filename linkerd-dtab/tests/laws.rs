//! What holds for every path, tree and table.

use std::sync::Arc;

use linkerd_dtab::{
    Activity, Addr, Bound, Dentry, Distribution, Dtab, Element, Failure, Interpreter, Name, NameTree, Namer, Path,
    PathMatcher, Prefix, State, Weighted, interpreter::Local, namer::Resolve,
};
use proptest::{collection::vec, prelude::*, sample::select};

mod check;

/// Answers by the last letter of a name, always the same.
struct Letters;

impl Namer for Letters {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let bound = |id: &Path| NameTree::Leaf(Name::Bound(Bound::new(id.clone(), Path::empty(), addresses())));
        match path.iter().next().and_then(<[u8]>::first) {
            Some(b'b') => Activity::value(bound(path)),
            Some(b'e') => Activity::value(NameTree::Empty),
            Some(b'f') => Activity::value(NameTree::Fail),
            Some(b'p') => Activity::channel().1,
            Some(b'x') => Activity::failed(Failure::from(Box::<dyn std::error::Error + Send + Sync>::from("x"))),
            Some(b'u') => Activity::value(NameTree::Union(vec![
                Weighted::new(2.0, bound(path)),
                Weighted::new(1.0, NameTree::Leaf(Name::Path("/d".parse().unwrap()))),
            ])),
            Some(b'r') => Activity::value(NameTree::Leaf(Name::Path("/c".parse().unwrap()))),
            _ => Activity::value(NameTree::Neg),
        }
    }
}

impl Resolve for Letters {
    fn resolve(&self, _: &str, _: &str) -> Activity<Addr> {
        addresses()
    }

    fn resolve_once(&self, _: &str, _: &str) -> Activity<Addr> {
        addresses()
    }
}

fn addresses() -> Activity<Addr> {
    Activity::value(Addr::Neg)
}

fn any_path() -> impl Strategy<Value = Path> {
    vec(vec(any::<u8>(), 1..6), 0..5).prop_map(|elements| Path::from_elements(elements).unwrap())
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    let element = prop_oneof![
        1 => Just(Element::Any),
        3 => vec(any::<u8>(), 1..4).prop_map(|label| Element::Label(label.into())),
    ];
    vec(element, 0..4).prop_map(Prefix::new)
}

/// Trees as the parser makes them, with weights of two decimals.
fn any_tree<T: Clone + std::fmt::Debug + 'static>(
    leaf: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<NameTree<T>> {
    let leaf = prop_oneof![
        6 => leaf.prop_map(NameTree::Leaf),
        1 => Just(NameTree::Neg),
        1 => Just(NameTree::Fail),
        1 => Just(NameTree::Empty),
    ];
    let node = leaf.prop_recursive(4, 24, 4, |tree| {
        let weight = (0_u32..400).prop_map(|cents| f64::from(cents) / 100.0);
        let branch = (weight, tree.clone()).prop_map(|(weight, tree)| Weighted::new(weight, tree));
        prop_oneof![vec(tree, 2..4).prop_map(NameTree::Alt), vec(branch, 2..4).prop_map(NameTree::Union)]
    });
    node.boxed()
}

fn any_dtab() -> impl Strategy<Value = Dtab> {
    vec((any_prefix(), any_tree(any_path())), 0..4)
        .prop_map(|entries| entries.into_iter().map(|(prefix, dst)| Dentry { prefix, dst }).collect())
}

/// Tables over few names, so that their entries meet each other.
fn tangled_dtab() -> impl Strategy<Value = Dtab> {
    let names = select(vec![
        "/a",
        "/b",
        "/c",
        "/d",
        "/a/b",
        "/",
        "/#/n/b",
        "/#/n/e",
        "/#/n/f",
        "/#/n/p",
        "/#/n/x",
        "/#/n/u",
        "/#/n/r",
        "/#/n/no",
        "/$/nil",
        "/$/fail",
        "/$/inet/1",
        "/$/unknown",
        "/$/io.buoyant.http.anyMethod/GET/c",
        "/$/io.buoyant.hostportPfx/d/:80",
    ]);
    let prefixes = select(vec!["/a", "/b", "/c", "/d", "/*", "/a/b", "/a/*", "/#/n", "/$/inet"]);
    let entry = (prefixes, any_tree(names.prop_map(|name| name.parse::<Path>().unwrap())))
        .prop_map(|(prefix, dst)| Dentry { prefix: prefix.parse().unwrap(), dst });
    vec(entry, 1..7).prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    // Cases that were found are written down as tests of their own.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn paths_and_prefixes_survive_being_printed(path in any_path(), prefix in any_prefix()) {
        prop_assert_eq!(path.to_string().parse::<Path>().unwrap(), path);
        prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
    }

    #[test]
    fn tables_survive_being_printed(dtab in any_dtab()) {
        prop_assert_eq!(dtab.to_string().parse::<Dtab>().unwrap(), dtab.clone());
        prop_assert_eq!(dtab.lines().to_string().replace('\n', ";").parse::<Dtab>().unwrap(), dtab);
    }

    #[test]
    fn no_weight_is_lost_in_the_long_form(weight in 0.0..1e9_f64, exponent in -12..0_i32) {
        let weight = weight * 10_f64.powi(exponent);
        let branch = |weight, name: &str| Weighted::new(weight, NameTree::Leaf(name.parse().unwrap()));
        let dst = NameTree::Union(vec![branch(weight, "/a"), branch(2.0, "/b")]);
        let nested = NameTree::Alt(vec![NameTree::Union(vec![Weighted::new(weight, dst.clone()), branch(1.0, "/c")]), dst]);
        let dtab = Dtab::new([Dentry { prefix: Prefix::default(), dst: nested }]);
        prop_assert_eq!(format!("{dtab:#}").parse::<Dtab>().unwrap(), dtab);
    }

    #[test]
    fn a_path_is_the_sum_of_its_parts(path in any_path(), n in 0_usize..7) {
        let (first, rest) = (path.take_first(n), path.drop_first(n));
        prop_assert_eq!(first.concat(&rest), path.clone());
        prop_assert!(path.starts_with(&first));
        prop_assert_eq!(path.strip_prefix(&first), Some(rest.clone()));
        prop_assert_eq!(Prefix::from(&first).strip_from(&path), Some(rest));
        prop_assert_eq!(first.size(), n.min(path.size()));
    }

    #[test]
    fn simplifying_keeps_the_meaning(tree in any_tree(any_path())) {
        let simple = tree.clone().simplify();
        prop_assert_eq!(simple.clone().simplify(), simple.clone());
        prop_assert_eq!(simple.eval(), tree.eval());
        prop_assert!(tree.is_equivalent(&simple));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in r"[/a*\\x0#$%.!~|&()=>; \n\u{2003}é]{0,60}", bytes in vec(any::<u8>(), 0..60)) {
        check::check(text.as_bytes());
        check::check(&bytes);
    }

    #[test]
    fn a_pattern_of_a_path_matches_what_it_starts(path in any_path(), more in any_path()) {
        let matcher = PathMatcher::new(&path.to_string());
        prop_assert!(matcher.matches(&path.concat(&more)));
        let captured = PathMatcher::new(&"/{e}".repeat(path.size())).captures(&path).unwrap();
        let last = path.iter().last().map(|element| Path::from_elements([element]).unwrap().to_string());
        prop_assert_eq!(captured.get("e").map(|element| format!("/{element}")), last);
    }

    #[test]
    fn picks_follow_the_shares(tree in any_tree(0_usize..1000)) {
        const PICKS: u32 = 1 << 12;
        let distribution = Distribution::new(&tree);
        let total: f64 = distribution.leaves().iter().map(|(_, share)| share).sum();
        prop_assert!((total + distribution.unavailable() - 1.0).abs() < 1e-9);
        // Evenly spaced draws: what is picked is off by at most a draw for each end of a column.
        let mut picked = vec![0_u32; distribution.leaves().len()];
        for i in 0..PICKS {
            if let Some(index) = distribution.pick_index(u64::from(i) << 52 | 1 << 51) {
                picked[index] += 1;
            }
        }
        let columns = distribution.leaves().len() as f64 + 1.0;
        for ((_, share), picked) in distribution.leaves().iter().zip(picked) {
            let expected = share * f64::from(PICKS);
            prop_assert!((f64::from(picked) - expected).abs() <= 2.0 * columns, "{} of {}", picked, expected);
            prop_assert!(*share > 0.0 || picked == 0);
        }
    }
}

proptest! {
    // Fewer: some of the tables take a binding to its limits.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_comes_to_what_a_binding_does(dtab in tangled_dtab()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let local = Local::new(vec![("/#/n".parse().unwrap(), Arc::new(Letters))], Arc::new(Letters));
        let path = "/a/b/c".parse().unwrap();
        let bound = local.bind(&dtab, &path).sample();
        let explained = local.delegate(&dtab, &path).sample().ok().unwrap();
        match (bound, explained.outcome()) {
            (State::Ok(bound), State::Ok(explained)) => {
                prop_assert_eq!(&bound, &explained);
                let weights = |tree: &NameTree<Bound>| tree.leaves().iter().map(|leaf| leaf.weight).collect::<Vec<_>>();
                prop_assert_eq!(weights(&bound), weights(&explained));
            }
            (State::Failed(bound), State::Failed(explained)) => prop_assert_eq!(bound.to_string(), explained.to_string()),
            (State::Pending, State::Pending) => {}
            (bound, explained) => prop_assert!(false, "bound: {:?}, explained: {:?}", bound, explained),
        }
        let _ = explained.to_json();
    }
}

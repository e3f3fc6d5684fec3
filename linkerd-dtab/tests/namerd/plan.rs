use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use linkerd_dtab::{
    Activity, Addr, Bound, Distribution, Name, NameTree, Namer, Path, Weighted,
    namerd::{
        Composition, Grant, Namerd, Part, Role, Roles, Session, Watched, Who,
        plan::{Count, Elsewhere, Move, Share, moved, shares},
    },
    store::{DtabStore, Expect, Memory},
};
use proptest::prelude::*;

use crate::support::{Counted, at, builder, dtab, named, ns, path, session, value};

fn shown(shares: &[Share]) -> String {
    let one = |share: &Share| {
        let id = share.id.as_ref().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
        format!("{:.2} {id} {:?}", share.share, share.endpoints)
    };
    shares.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn line(found: &Move) -> String {
    format!("{} {:.2}: {} -> {}", found.name, found.moved, shown(&found.before), shown(&found.after))
}

#[tokio::test]
async fn a_plan_says_what_watched_and_given_names_would_lead_to() {
    let namerd = builder(&Counted::new()).build();
    let session = session(&namerd);
    let held: Vec<_> =
        ["/svc/web", "/svc/db"].map(|name| session.bind(&ns("default"), &dtab(""), &path(name)).unwrap()).into();
    let table = dtab("/svc => /#/fixed; /svc/web => 1 * /#/fixed/web-v2 & 9 * /#/fixed/web; /svc/new => /#/fixed/web");
    let plan = session.plan(&ns("default"), &table, &[path("/svc/new"), path("/svc/web")]).await.unwrap();
    assert_eq!(plan.names, 3);
    assert_eq!(
        plan.moves.iter().map(line).collect::<Vec<_>>(),
        [
            "/svc/new 1.00: 1.00 nowhere [] -> 1.00 /#/fixed/web [127.0.0.1:1]",
            "/svc/web 0.10: 1.00 /#/fixed/web [127.0.0.1:1] -> \
             0.90 /#/fixed/web [127.0.0.1:1], 0.10 /#/fixed/web-v2 [127.0.0.1:2]",
        ]
    );
    let traffic: HashMap<Path, f64> = [("/svc/web", 60.0), ("/svc/db", 40.0)].map(|(name, n)| (path(name), n)).into();
    assert!((plan.moved_traffic(&traffic).unwrap() - 0.06).abs() < 1e-9);
    assert_eq!(plan.moved_traffic(&HashMap::new()), None);
    assert_eq!(
        value(&mut session.dtab(&ns("default")).unwrap()).await.unwrap().unwrap().dtab,
        dtab("/svc => /#/fixed")
    );
    drop(held);
}

#[tokio::test]
async fn a_plan_knows_the_tables_that_clients_have_of_their_own_and_what_would_be_refused() {
    let namerd = builder(&Counted::new()).build();
    let session = session(&namerd);
    let extra = dtab("/svc/web => /#/fixed/db");
    let _held = session.bind(&ns("default"), &extra, &path("/svc/web")).unwrap();
    let plan = session.plan(&ns("default"), &dtab("/svc => !; /x => /x"), &[]).await.unwrap();
    assert_eq!(plan.moves, [], "the table on top decides");
    assert_eq!(plan.checked.warnings, ["entry 2 (/x=>/x): names go round: /x -> /x"]);
    let plan = session.plan(&ns("default"), &dtab("/#/fixed/db => /#/fixed/web"), &[]).await.unwrap();
    assert_eq!((plan.moves.len(), plan.moves[0].extra.clone()), (1, extra));
}

#[tokio::test]
async fn a_fragment_moves_the_names_of_the_whole() {
    let part = |pattern: &str| Part { fragments: pattern.parse().unwrap(), owns: Vec::new() };
    let composition = Composition { namespace: ns("all"), parts: vec![part("base"), part("team/*")] };
    let namerd = Namerd::builder(Memory::new([(ns("base"), dtab("/svc => /#/fixed"))]))
        .namer(path("/#/fixed"), Counted::new())
        .compose(composition)
        .build();
    let session = session(&namerd);
    let _held = session.bind(&ns("all"), &dtab(""), &path("/svc/web")).unwrap();
    let plan = session.plan(&ns("team/web"), &dtab("/svc/web => /#/fixed/web-v2"), &[]).await.unwrap();
    assert_eq!(plan.moves.iter().map(|found| found.namespace.clone()).collect::<Vec<_>>(), [ns("all")]);
    assert_eq!(plan.moves[0].moved, 1.0);
}

#[tokio::test]
async fn a_plan_goes_by_the_tables_as_they_are() {
    let part = |pattern: &str| Part { fragments: pattern.parse().unwrap(), owns: Vec::new() };
    let composition = Composition { namespace: ns("all"), parts: vec![part("base"), part("team/*")] };
    let tables = [("base", "/svc => /#/fixed"), ("team/web", "/svc/web => /#/fixed/web")];
    let store = Arc::new(Memory::new(tables.map(|(name, table)| (ns(name), dtab(table)))));
    let namerd =
        Namerd::builder(Arc::clone(&store)).namer(path("/#/fixed"), Counted::new()).compose(composition).build();
    let session = session(&namerd);
    let mut held =
        ["all", "base", "team/web"].map(|name| session.bind(&ns(name), &dtab(""), &path("/svc/web")).unwrap());
    for watched in &mut held {
        value(watched).await.unwrap();
    }
    // Nothing else runs between this and the plans, so that nobody has bound the names anew.
    let changed = dtab("/svc/web => /#/fixed/web-v2");
    store.put(&ns("team/web"), &changed, &Expect::Any).await.unwrap();
    let plan = session.plan(&ns("team/web"), &changed, &[]).await.unwrap();
    assert_eq!((plan.names, plan.moves), (2, Vec::new()));
    store.put(&ns("team/web"), &dtab("/svc/web => /#/fixed/db"), &Expect::Any).await.unwrap();
    let plan = session.plan(&ns("team/web"), &changed, &[]).await.unwrap();
    let expected = "/svc/web 1.00: 1.00 /#/fixed/db [127.0.0.1:3] -> 1.00 /#/fixed/web-v2 [127.0.0.1:2]";
    assert_eq!(plan.moves.iter().map(line).collect::<Vec<_>>(), [expected; 2]);
    store.put(&ns("team/web"), &dtab("/svc/web => !"), &Expect::Any).await.unwrap();
    let warnings = session.plan(&ns("team/web"), &dtab("/svc/web => !; /x => /y"), &[]).await.unwrap().checked.warnings;
    assert_eq!(warnings, [""; 0], "there is nothing to lose any more");
}

/// Says after a second where a name is.
struct Late;

impl Namer for Late {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let (publisher, activity) = Activity::channel();
        let id = path.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            publisher.ok(NameTree::Leaf(Name::Bound(Bound::new(id, Path::empty(), Activity::value(at(9))))));
            publisher.closed().await;
        });
        activity
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_waits_for_all_branches_of_a_union() {
    let namerd = builder(&Counted::new()).namer(path("/#/late"), Late).build();
    let session = session(&namerd);
    let _held = session.bind(&ns("default"), &dtab(""), &path("/svc/web")).unwrap();
    let table = dtab("/svc/web => 1 * /#/late/web & 3 * /#/fixed/web");
    let plan = session.plan(&ns("default"), &table, &[]).await.unwrap();
    assert_eq!(plan.moves.iter().map(|found| found.moved).collect::<Vec<_>>(), [0.25]);
}

#[tokio::test]
async fn tables_that_do_not_move_have_their_part_of_the_traffic() {
    let namerd = builder(&Counted::new()).build();
    let session = session(&namerd);
    let extras = ["", "/svc/web => /#/fixed/db", "/x => /y"];
    let held: Vec<_> =
        extras.iter().map(|extra| session.bind(&ns("default"), &dtab(extra), &path("/svc/web")).unwrap()).collect();
    let table = dtab("/svc => /#/fixed; /svc/web => 1 * /#/fixed/web-v2 & 3 * /#/fixed/web");
    let plan = session.plan(&ns("default"), &table, &[]).await.unwrap();
    assert_eq!(plan.moves.iter().map(|found| (found.moved, found.tables)).collect::<Vec<_>>(), [(0.25, 3); 2]);
    let traffic: HashMap<Path, f64> = [("/svc/web", 60.0), ("/svc/db", 40.0)].map(|(name, n)| (path(name), n)).into();
    assert!((plan.moved_traffic(&traffic).unwrap() - 0.1).abs() < 1e-9);
    drop(held);
}

/// With `/svc/gone` at no address, and three names that are watched.
fn with_names_in_use() -> (Session, Vec<Watched<NameTree<Bound>>>) {
    let namer = Counted::new();
    namer.names.set(path("/gone"), Addr::of([]));
    let session = session(&builder(&namer).build());
    let names = ["/svc/web", "/svc/db", "/svc/gone"];
    let held = names.map(|name| session.bind(&ns("default"), &dtab(""), &path(name)).unwrap()).into();
    (session, held)
}

const LOSSES: [(&str, Option<&str>); 6] = [
    ("/svc => /#/fixed; /svc/web => !", Some("/svc/web")),
    ("/svc => /#/fixed/nobody; /svc/db => /#/fixed/db", Some("/svc/web")),
    (
        "/svc => /#/fixed; /svc/db => 1 * /#/fixed/gone & 3 * /#/fixed/db; /svc/web => $",
        Some("/svc/web, 25.0 % of /svc/db"),
    ),
    ("/x => /x; /svc => /x", Some("/svc/db, /svc/web")),
    // What had none before loses none; what cannot be found in a union goes to the others.
    ("/svc => /#/fixed; /svc/gone => !; /svc/web => 1 * /#/fixed/nobody & 9 * /#/fixed/db", None),
    ("/svc => /#/fixed; /svc/web => /#/fixed/nobody | /#/fixed/db", None),
];

fn warned(text: &str) -> String {
    format!("names in use would have no endpoints: {text}")
}

#[tokio::test]
async fn a_plan_warns_of_names_that_would_have_no_endpoints() {
    let (session, _held) = with_names_in_use();
    for (table, expected) in LOSSES {
        let plan = session.plan(&ns("default"), &dtab(table), &[]).await.unwrap();
        let found = plan.checked.warnings.iter().find(|warning| warning.contains("endpoints")).cloned();
        assert_eq!(found, expected.map(warned), "{table}");
        let lost = plan.moves.iter().filter(|found| found.lost > 0.0).count();
        assert_eq!(lost, expected.map_or(0, |names| names.split(", ").count()), "{table}");
    }
}

#[tokio::test]
async fn a_write_warns_of_names_that_have_no_endpoints_by_it_and_is_made() {
    for (table, expected) in LOSSES {
        let (session, mut held) = with_names_in_use();
        for watched in &mut held {
            value(watched).await.unwrap();
        }
        let written = session.put(&ns("default"), &dtab(table), &Expect::Any).await.unwrap();
        let found = written.warnings.iter().find(|warning| warning.contains("endpoints")).cloned();
        assert_eq!(found, expected.map(warned), "{table}");
        let now = value(&mut session.dtab(&ns("default")).unwrap()).await.unwrap().unwrap();
        assert_eq!(now.dtab, dtab(table));
        drop(held);
    }
}

#[tokio::test]
async fn a_deletion_warns_of_names_that_have_no_endpoints_by_it() {
    let (session, mut held) = with_names_in_use();
    for watched in &mut held {
        value(watched).await.unwrap();
    }
    let written = session.delete(&ns("default"), &Expect::Any).await.unwrap();
    assert_eq!(written.warnings, [warned("/svc/db, /svc/web")]);
    assert!(value(&mut session.dtab(&ns("default")).unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_name_under_several_tables_of_clients_is_warned_of_once() {
    let (session, _held) = with_names_in_use();
    let bind = |extra: &str| session.bind(&ns("default"), &dtab(extra), &path("/svc/web")).unwrap();
    let _more = ["/x => /y", "/x => /y; /svc => /t", "/svc => /t"].map(bind);
    for (table, expected) in [
        ("/svc => /#/fixed; /svc/web => !", "/svc/web"),
        // Under the tables of two clients it loses all, without one nothing.
        ("/svc => /#/fixed; /t => !", "/svc/web with /svc=>/t"),
    ] {
        let plan = session.plan(&ns("default"), &dtab(table), &[]).await.unwrap();
        let found: Vec<_> = plan.checked.warnings.iter().filter(|warning| warning.contains("endpoints")).collect();
        assert_eq!(found, [&warned(expected)], "{table}");
    }
}

#[tokio::test]
async fn names_that_nobody_uses_are_not_warned_of_and_many_are_counted() {
    let namer = Counted::new();
    let session = session(&builder(&namer).build());
    let table = dtab("/svc => !");
    let written = session.put(&ns("default"), &table, &Expect::Any).await.unwrap();
    assert_eq!(written.warnings, [""; 0]);
    session.put(&ns("default"), &dtab("/svc => /#/fixed"), &Expect::Any).await.unwrap();
    let held: Vec<_> = (0..11)
        .map(|n| {
            namer.names.set(path(&format!("/many-{n:02}")), at(4));
            session.bind(&ns("default"), &dtab(""), &path(&format!("/svc/many-{n:02}"))).unwrap()
        })
        .collect();
    let plan = session.plan(&ns("default"), &table, &[]).await.unwrap();
    let [warning] = &*plan.checked.warnings else { panic!("{:?}", plan.checked) };
    assert!(warning.ends_with("/svc/many-06, /svc/many-07, and 3 more"), "{warning}");
    drop(held);
}

fn tree() -> impl Strategy<Value = NameTree<Bound>> {
    let bound = |n: u8| Bound::new(path(&format!("/#/x/{n}")), Path::empty(), Activity::value(Addr::Neg));
    let leaf = prop_oneof![
        6 => (0_u8..5).prop_map(move |n| NameTree::Leaf(bound(n))),
        1 => Just(NameTree::Neg),
        1 => Just(NameTree::Empty),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let branch = (0.0..10.0_f64, inner).prop_map(|(weight, tree)| Weighted::new(weight, tree));
        prop::collection::vec(branch, 1..4).prop_map(NameTree::Union)
    })
}

/// How often each id is drawn, of `DRAWS` draws spread evenly.
fn drawn(tree: &NameTree<Bound>) -> BTreeMap<Option<Path>, f64> {
    const DRAWS: u64 = 20_000;
    let distribution = Distribution::new(tree);
    let mut drawn = BTreeMap::new();
    for n in 0..DRAWS {
        let id = distribution.pick(n * (u64::MAX / DRAWS)).map(|bound| bound.id.clone());
        *drawn.entry(id).or_default() += 1.0 / DRAWS as f64;
    }
    drawn
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_a_plan_predicts_is_drawn(before in tree(), after in tree()) {
        let (then, now) = (shares(Some(&before)), shares(Some(&after)));
        let (drawn_then, drawn_now) = (drawn(&before), drawn(&after));
        for (shares, drawn) in [(&then, &drawn_then), (&now, &drawn_now)] {
            for share in shares {
                let drawn = drawn.get(&share.id).copied().unwrap_or(0.0);
                prop_assert!((share.share - drawn).abs() < 0.01, "{share:?}: {drawn}");
            }
            prop_assert!((shares.iter().map(|share| share.share).sum::<f64>() - 1.0).abs() < 1e-6);
        }
        let stays: f64 = drawn_now.iter().map(|(id, now)| drawn_then.get(id).map_or(0.0, |then| then.min(*now))).sum();
        prop_assert!((moved(&then, &now) - (1.0 - stays)).abs() < 0.01, "{} {stays}", moved(&then, &now));
    }
}

/// Somebody watches five names of `all`, which is `base` and `team/*`: `web` writes `team/web`, `reader` reads it, and neither
/// may read `all`.
fn with_names_elsewhere() -> (Namerd, Vec<Watched<NameTree<Bound>>>) {
    let part = |pattern: &str| Part { fragments: pattern.parse().unwrap(), owns: Vec::new() };
    let composition = Composition { namespace: ns("all"), parts: vec![part("base"), part("team/*")] };
    let grant = |name: &str, namespaces: &str, role| Grant {
        who: Who::Name(name.into()),
        namespaces: namespaces.parse().unwrap(),
        role,
    };
    let grants =
        [grant("web", "team/web", Role::Write), grant("reader", "team/web", Role::Read), grant("all", "*", Role::Read)];
    let base = dtab("/svc => /#/fixed; /svc/web => /#/fixed/web; /svc/mine => /#/fixed/web; /svc/ours => /#/fixed/db");
    let tables = [(ns("base"), base), (ns("team/web"), dtab("/x => /y")), (ns("team/db"), dtab("/svc/z => /y"))];
    let namerd = Namerd::builder(Memory::new(tables))
        .namer(path("/#/fixed"), Counted::new())
        .compose(composition)
        .roles(Roles::new(grants))
        .build();
    let all = namerd.session(named("all"));
    let names = ["/svc/web", "/svc/mine", "/svc/ours", "/svc/db", "/svc/web-v2"];
    let held = names.map(|name| all.bind(&ns("all"), &dtab(""), &path(name)).unwrap()).into();
    (namerd, held)
}

/// How many move, lose all endpoints, and some.
type Counts = (usize, usize, usize);

const ELSEWHERE: [(&str, Counts, Option<&str>); 4] = [
    ("/x => /z", (0, 0, 0), None),
    ("/svc/mine => /#/fixed/db", (1, 0, 0), None),
    (
        "/svc/mine => !; /svc/ours => !; /svc/web => !; /svc/db => 1 * /#/fixed/web & 1 * $; /svc/web-v2 => /#/fixed/db",
        (5, 3, 1),
        Some(
            "3 names elsewhere lose all endpoints, 1 loses those of a part of its requests, 1 moves; you may not read them",
        ),
    ),
    ("/svc/mine => !", (1, 1, 0), Some("1 name elsewhere loses all endpoints; you may not read them")),
];

#[tokio::test]
async fn who_may_not_read_the_whole_is_told_how_many_names_of_it_change() {
    for (table, expected, warning) in ELSEWHERE {
        let (namerd, mut held) = with_names_elsewhere();
        for watched in &mut held {
            value(watched).await.unwrap();
        }
        let web = namerd.session(named("web"));
        let plan = web.plan(&ns("team/web"), &dtab(table), &[path("/svc/unused")]).await.unwrap();
        let Elsewhere::Counted(Count { moved, lost, partly_lost, .. }) = plan.elsewhere else { panic!("{plan:?}") };
        assert_eq!((moved, lost, partly_lost), expected, "{table}");
        assert_eq!(plan.checked.warnings.last().map(|text| &**text), warning, "{table}");
        assert!(plan.moves.iter().all(|found| found.namespace == ns("team/web")), "{plan:?}");
        let written = web.put(&ns("team/web"), &dtab(table), &Expect::Any).await.unwrap();
        assert_eq!(written.warnings.last().map(|text| &**text), warning, "{table}");
    }
}

#[tokio::test]
async fn who_may_not_read_the_whole_is_told_how_many_of_its_names_are_its_own() {
    let own = |fragments: &str, owns: &[&str]| Part {
        fragments: fragments.parse().unwrap(),
        owns: owns.iter().map(|owned| owned.parse().unwrap()).collect(),
    };
    let composition = |name: &str, owns: &[&str]| Composition {
        namespace: ns(name),
        parts: vec![own("base", &[]), own("team/*", owns)],
    };
    let grant = |name: &str, namespaces: &str, role| Grant {
        who: Who::Name(name.into()),
        namespaces: namespaces.parse().unwrap(),
        role,
    };
    let namerd = Namerd::builder(Memory::new([(ns("base"), dtab("/svc => /#/fixed; /host => /svc"))]))
        .namer(path("/#/fixed"), Counted::new())
        .compose(composition("all", &["/svc/{}", "/svc/{}-*"]))
        .compose(composition("some", &["/svc/{}"]))
        .compose(composition("open", &[]))
        .roles(Roles::new([grant("web", "team/eu/web", Role::Write), grant("all", "*", Role::Read)]))
        .build();
    let (all, web) = (namerd.session(named("all")), namerd.session(named("web")));
    let bind = |namespace: &str, name: &str| all.bind(&ns(namespace), &dtab(""), &path(name)).unwrap();
    let mut held = vec![
        bind("all", "/svc/eu/web/x"),
        bind("all", "/svc/eu/web-v2"),
        bind("all", "/host/eu/web/x"),
        bind("some", "/svc/eu/web"),
    ];
    let plan = async |table: &str| web.plan(&ns("team/eu/web"), &dtab(table), &[]).await.unwrap();
    let found = plan("/svc/eu/web => /#/fixed/db").await;
    let Elsewhere::Counted(Count { moved, own, .. }) = found.elsewhere else { panic!("{found:?}") };
    assert_eq!((moved, own), (3, 2), "one leads there by another name");
    let owns: Vec<_> = found.owns.iter().map(ToString::to_string).collect();
    assert_eq!(owns, ["/svc/eu/web", "/svc/eu/web-*"]);
    held.push(bind("open", "/svc/eu/web"));
    let found = plan("/svc/eu/web => /#/fixed/db").await;
    let Elsewhere::Counted(Count { moved, own, .. }) = found.elsewhere else { panic!("{found:?}") };
    assert_eq!((moved, own), (4, 2), "where it may define everything, nothing is its own");
    // What is refused tells nothing.
    assert_eq!(plan("/svc/db => /x").await.owns, []);
    drop(held);
}

#[tokio::test]
async fn nobody_finds_out_which_names_are_used_by_changes_that_it_may_not_make() {
    let (namerd, _held) = with_names_elsewhere();
    let table = dtab("/svc/mine => !");
    let plan = namerd.session(named("reader")).plan(&ns("team/web"), &table, &[]).await.unwrap();
    assert_eq!((plan.elsewhere, plan.checked.warnings), (Elsewhere::Untold, Vec::new()));
    // What another fragment has.
    let refused = dtab("/svc/z => !; /svc/mine => !");
    let plan = namerd.session(named("web")).plan(&ns("team/web"), &refused, &[]).await.unwrap();
    assert_eq!((plan.elsewhere, plan.checked.errors.len()), (Elsewhere::Untold, 1));
    // Who may read it sees which.
    let plan = namerd.session(named("all")).plan(&ns("team/web"), &table, &[]).await.unwrap();
    assert_eq!((plan.elsewhere, plan.moves[0].namespace.clone()), (Elsewhere::None, ns("all")));
}

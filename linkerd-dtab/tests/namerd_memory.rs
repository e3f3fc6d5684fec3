//! What a thousand clients cost a namerd. Alone in its process: it measures the memory of all of it.

use std::sync::Arc;

use linkerd_dtab::{
    Activity, Addr, Bound, Dtab, Name, NameTree, Namer, Path, Publisher,
    namerd::{Cache, Namerd, Peer},
    store::{Expect, Memory, Namespace},
};

const CLIENTS: usize = 1000;
const NAMES_EACH: usize = 10;
const NAMES: u64 = 10_000;
const MAX_BYTES: usize = 50 << 20;

/// Every name at one address, each lookup with a watch of its own as those of a folder or a cluster have.
struct Names(Activity<Addr>, Publisher<()>);

impl Namer for Names {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let bound = Bound::new(path.clone(), Path::empty(), self.0.clone());
        self.1.subscribe().map(move |()| NameTree::Leaf(Name::Bound(bound.clone())))
    }
}

/// The memory of this process that is in use; `None` where there is no such file.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

#[tokio::test]
async fn a_thousand_clients_that_watch_ten_names_each_cost_little() {
    let namer = Names(Activity::value(Addr::of([([127, 0, 0, 1], 80).into()])), Activity::channel().0);
    namer.1.ok(());
    let before = resident();
    let default: Namespace = "default".parse().unwrap();
    let table = |to: &str| format!("/svc => {to}").parse::<Dtab>().unwrap();
    let cache = Cache { active: 20_000, ..Cache::default() };
    let namerd =
        Namerd::builder(Memory::new([(default.clone(), table("/#/fixed"))])).namer("/#/fixed".parse().unwrap(), namer);
    let namerd = namerd.bindings(cache).addrs(cache).build();

    let (mut held, mut random) = (Vec::new(), 1_u64);
    for client in 0..CLIENTS {
        let name = Some(Arc::from(format!("client-{client}")));
        let session = namerd.session(Peer { name, ..Peer::default() });
        for _ in 0..NAMES_EACH {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let name: Path = format!("/svc/{}", (random >> 33) % NAMES).parse().unwrap();
            let mut tree = session.bind(&default, &Dtab::empty(), &name).unwrap();
            let id = tree.ready().await.unwrap().leaves()[0].id.clone();
            let mut addr = session.addr(&id).unwrap();
            assert_eq!(addr.ready().await.unwrap().endpoints().len(), 1);
            held.push((tree, addr));
        }
    }
    let stats = namerd.stats();
    assert_eq!((stats.bindings.active, stats.addrs.active), (6_339, 6_339));

    // One change reaches all, and what it took is given back.
    let session = namerd.session(Peer::default());
    session.put(&default, &table("/none"), &Expect::Any).await.unwrap();
    for (tree, _) in &mut held {
        while tree.sample_and_update().ok().is_none_or(|tree| tree.to_string() != "~") {
            tree.changed().await;
        }
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        let used = after.saturating_sub(before);
        println!("{} KiB for 10,000 watches of names and 10,000 of addresses", used >> 10);
        assert!(used <= MAX_BYTES, "{used}");
    }
    drop(held);
    let stats = namerd.stats();
    assert_eq!((stats.bindings.active, stats.bindings.inactive), (0, 100));
    assert_eq!(stats.used.watches.values().sum::<usize>(), 0);
}

//! Names without HTTP: a namer of one's own, a table, and the share of each answer.

use std::{error::Error, sync::Arc};

use linkerd_dtab::{
    Activity, Addr, Bound, Distribution, Dtab, Interpreter, Name, NameTree, Namer, Path, interpreter::Local,
    namer::Resolve,
};

/// Knows two services.
struct Registry;

impl Namer for Registry {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let port = match path.get(0) {
            Some(b"web-v1") => 8081,
            Some(b"web-v2") => 8082,
            _ => return Activity::value(NameTree::Neg),
        };
        let addr = Activity::value(Addr::of([([10, 0, 0, 1], port).into()]));
        Activity::value(NameTree::Leaf(Name::Bound(Bound::new(path.take_first(1), path.drop_first(1), addr))))
    }
}

/// No host is known: this program has no use for `/$/inet`.
struct NoDns;

impl Resolve for NoDns {
    fn resolve(&self, _host: &str, _port: &str) -> Activity<Addr> {
        Activity::value(Addr::Neg)
    }

    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr> {
        self.resolve(host, port)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let names = Local::new(vec![("/#/registry".parse()?, Arc::new(Registry) as _)], Arc::new(NoDns));
    let base: Dtab = "/svc => /srv ; /svc/web => 9 * /srv/web-v1 & 1 * /srv/web-v2 ; /srv => /#/registry".parse()?;
    let web: Path = "/svc/web".parse()?;

    let shares = shares(&names, &base, &web).await?;
    assert_eq!(shares, ["/#/registry/web-v1 0.90", "/#/registry/web-v2 0.10"]);

    let moved = base.concat(&"/svc/web => /srv/web-v3 | /srv/web-v2".parse()?);
    let shares = self::shares(&names, &moved, &web).await?;
    assert_eq!(shares, ["/#/registry/web-v2 1.00"]);

    let err = "/svc => ".parse::<Dtab>().expect_err("half an entry");
    println!("dtab: ok; and {:?} is refused: {err}", "/svc => ");
    Ok(())
}

async fn shares(names: &Local, dtab: &Dtab, path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let tree = names.bind(dtab, path).ready().await.map_err(|err| err.to_string())?;
    let distribution = Distribution::new(&tree.map(&mut |bound| bound.id));
    Ok(distribution.leaves().iter().map(|(id, share)| format!("{id} {share:.2}")).collect())
}

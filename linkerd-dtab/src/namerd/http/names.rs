//! `/api/1/bind`, `/addr` and `/resolve`: what names are bound to, and where that is.

use std::{
    any::Any,
    hash::{BuildHasher, RandomState},
    pin::Pin,
};

use futures::future::join_all;
use http::request::Parts;
use tokio::time::timeout;

use super::{
    DELEGATE_TIMEOUT, TIMEOUT,
    dtabs::known,
    params::{self, Params},
    reply::{self, Answer, Problem},
    stream::Documents,
};
use crate::{
    Activity, Addr, Bound, Delegation, Distribution, Dtab, Failure, Interpreter, NameTree, Path, State,
    delegate::{addr_json, bound_json},
    namerd::{Namerd, Refused, Session},
    store::Namespace,
};

/// A name in a namespace. The empty one has no table, and is for who may read all of them.
struct Asked {
    namespace: Option<Namespace>,
    dtab: Dtab,
    name: Path,
}

/// A watch, and what makes it count.
type Counted<T> = (Activity<T>, Box<dyn Any + Send>);

impl Asked {
    fn new(namespace: &str, params: &Params) -> Result<Self, Problem> {
        let (name, dtab) = (params.path()?, params.dtab()?);
        if !namespace.is_empty() {
            return Ok(Self { namespace: Some(params::namespace(namespace)?), dtab, name });
        }
        if params.watch() {
            return Err(Problem::bad("a name is watched in a namespace, and there is none"));
        }
        Ok(Self { namespace: None, dtab, name })
    }

    fn bind(&self, namerd: &Namerd, session: &Session) -> Result<Counted<NameTree<Bound>>, Refused> {
        let Some(namespace) = &self.namespace else {
            let counted = session.everything()?;
            return Ok((namerd.bare().bind(&self.dtab, &self.name), Box::new(counted)));
        };
        let watched = session.bind(namespace, &self.dtab, &self.name)?;
        Ok((watched.clone(), Box::new(watched)))
    }

    fn delegate(&self, namerd: &Namerd, session: &Session) -> Result<Counted<Delegation>, Refused> {
        let Some(namespace) = &self.namespace else {
            let counted = session.everything()?;
            return Ok((namerd.bare().delegate(&self.dtab, &self.name), Box::new(counted)));
        };
        let watched = session.delegate(namespace, &self.dtab, &self.name)?;
        Ok((watched.clone(), Box::new(watched)))
    }

    /// The tree, with all of the branches that are known within a moment: the first answer of a binding may lack some.
    async fn bind_once(&self, namerd: &Namerd, session: &Session) -> Result<NameTree<Bound>, Problem> {
        let (mut tree, _counted) = self.bind(namerd, session)?;
        let (mut delegation, _counted) = self.delegate(namerd, session)?;
        let whole = async {
            loop {
                match delegation.sample_and_update() {
                    State::Ok(delegation) if !delegation.waits() => return delegation.outcome().ok(),
                    State::Failed(_) => return None,
                    _ => delegation.changed().await,
                }
            }
        };
        match timeout(DELEGATE_TIMEOUT, whole).await {
            Ok(Some(tree)) => Ok(tree),
            // What is known of it, or why nothing is.
            _ => known(&mut tree).await,
        }
    }
}

pub(super) async fn bind(namerd: &Namerd, session: &Session, head: &Parts, namespace: &str) -> Answer {
    let params = Params::of(&head.uri)?;
    let asked = Asked::new(namespace, &params)?;
    let render = |tree: &NameTree<Bound>| format!("{}\n", bound_json(tree));
    if params.watch() {
        let (tree, counted) = asked.bind(namerd, session)?;
        let documents = Documents::new(tree, counted, move |tree| Some(render(tree))).when(addresses_known);
        return Ok(reply::body(None, documents.body()));
    }
    let tree = asked.bind_once(namerd, session).await?;
    // One that stays unknown is shown as such.
    let _ = timeout(TIMEOUT, addresses_known(&tree)).await;
    Ok(reply::document(None, render(&tree)))
}

pub(super) async fn addr(session: &Session, head: &Parts, namespace: &str) -> Answer {
    let params = Params::of(&head.uri)?;
    session.may_read(namespace)?;
    let addr = session.addr(&params.path()?)?;
    if params.watch() {
        let documents = Documents::new(addr.clone(), addr, |addr| Some(line(Ok(addr)))).with_failures(|e| line(Err(e)));
        return Ok(reply::body(None, documents.body()));
    }
    Ok(reply::document(None, settled(addr.clone()).await?))
}

pub(super) async fn resolve(namerd: &Namerd, session: &Session, head: &Parts, namespace: &str) -> Answer {
    let params = Params::of(&head.uri)?;
    let asked = Asked::new(namespace, &params)?;
    let random = RandomState::new().hash_one(0_u64);
    if params.watch() {
        // The same leaf as long as the tree is the same.
        let (tree, counted) = asked.bind(namerd, session)?;
        let addr = tree.flat_map(move |tree| pick(tree, random));
        let documents = Documents::new(addr, counted, |addr| Some(line(Ok(addr))));
        return Ok(reply::body(Some("application/json"), documents.body()));
    }
    let tree = asked.bind_once(namerd, session).await?;
    Ok(reply::document(Some("application/json"), settled(pick(tree, random)).await?))
}

/// The addresses of one leaf. Alternatives are tried in order, branches are drawn by weight.
fn pick(tree: NameTree<Bound>, random: u64) -> Activity<Addr> {
    let has_leaf = |tree: &NameTree<Bound>| !tree.leaves().is_empty();
    let tree = match tree {
        NameTree::Alt(trees) => trees.into_iter().find(has_leaf).unwrap_or(NameTree::Neg),
        tree => tree,
    };
    match Distribution::new(&tree).pick(random) {
        Some(bound) => bound.addr.clone(),
        None => Activity::value(Addr::Neg),
    }
}

/// An address that is not pending any more, if that does not take too long.
async fn settled(mut addr: Activity<Addr>) -> Result<String, Problem> {
    // A failed address is one that is known.
    let waited = timeout(TIMEOUT, addr.ready()).await;
    match waited {
        Ok(_) => Ok(format!("{}\n", addr_json(&addr))),
        Err(_) => Err(Problem::timed_out()),
    }
}

fn line(addr: Result<&Addr, &Failure>) -> String {
    let activity = match addr {
        Ok(addr) => Activity::value(addr.clone()),
        Err(error) => Activity::failed(error.clone()),
    };
    format!("{}\n", addr_json(&activity))
}

/// Waits until no address in the tree is pending.
fn addresses_known(tree: &NameTree<Bound>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let unknown = tree.leaves().into_iter().map(|bound| bound.addr.clone());
    let mut unknown: Vec<_> = unknown.filter(|addr| matches!(addr.sample(), State::Pending)).collect();
    Box::pin(async move {
        join_all(unknown.iter_mut().map(Activity::ready)).await;
    })
}

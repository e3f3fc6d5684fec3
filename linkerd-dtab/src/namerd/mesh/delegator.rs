//! Tables, and explanations.

use std::collections::{HashMap, HashSet};

use futures::future::try_join_all;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    follow::{Messages, SETTLE, Said, WAIT, first, follow, only},
    status,
};
use crate::{
    Dtab, NameTree, Path, State,
    delegate::{Node, Unsettled, settled},
    mesh::{
        Budget, Levels,
        delegation::Writer,
        name::{read_dtab, read_tree, write_dtab},
        proto::{
            DelegateTreeReq, DelegateTreeRsp, DtabReq, DtabRsp, VersionedDtab, delegator_server::Delegator,
            versioned_dtab::Version,
        },
    },
    namerd::{Session, Watched},
    store::{Namespace, Stored},
};

/// How many names one explanation may be about.
const MAX_NAMES: usize = 100;

#[async_trait]
impl Delegator for Api {
    type StreamDtabStream = Messages<DtabRsp>;
    type StreamDelegateTreeStream = Messages<DelegateTreeRsp>;

    async fn get_dtab(&self, request: Request<DtabReq>) -> Result<Response<DtabRsp>, Status> {
        let mut watched = table(&self.session(&request).once(), request.get_ref())?;
        let said = first(&mut watched, WAIT, say).await;
        said.unwrap_or_else(|| Err(Status::deadline_exceeded("the table is not known yet"))).map(Response::new)
    }

    async fn stream_dtab(&self, request: Request<DtabReq>) -> Result<Response<Self::StreamDtabStream>, Status> {
        let session = self.session(&request);
        let watched = table(&session, request.get_ref())?;
        Ok(follow(&session, watched, say))
    }

    async fn get_delegate_tree(&self, request: Request<DelegateTreeReq>) -> Result<Response<DelegateTreeRsp>, Status> {
        delegate(&self.session(&request).once(), request.get_ref()).await.map(Response::new)
    }

    async fn stream_delegate_tree(
        &self,
        request: Request<DelegateTreeReq>,
    ) -> Result<Response<Self::StreamDelegateTreeStream>, Status> {
        let answer = delegate(&self.session(&request).once(), request.get_ref()).await?;
        Ok(Response::new(only(answer)))
    }
}

fn table(session: &Session, DtabReq { root }: &DtabReq) -> Result<Watched<Stored>, Status> {
    let namespace = status::namespace(root.as_ref())?;
    Ok(session.dtab(&namespace)?)
}

fn say(stored: State<Stored>) -> Said<DtabRsp> {
    match stored {
        State::Pending => None,
        State::Failed(error) => Some(Err(status::failed(&error))),
        State::Ok(None) => Some(Err(status::no_root())),
        State::Ok(Some(stored)) => {
            let version = Version { id: stored.version.as_bytes().to_vec() };
            let dtab = Levels::of_field().below(1).and_then(|levels| write_dtab(&stored.dtab, levels));
            Some(match dtab {
                Ok(dtab) => Ok(DtabRsp { dtab: Some(VersionedDtab { version: Some(version), dtab: Some(dtab) }) }),
                Err(error) => Err(error.into()),
            })
        }
    }
}

async fn delegate(session: &Session, request: &DelegateTreeReq) -> Result<DelegateTreeRsp, Status> {
    let DelegateTreeReq { root, tree, dtab } = request;
    if root.is_some() && tree.is_none() {
        return Err(status::no_name());
    }
    let namespace = status::namespace(root.as_ref())?;
    let mut budget = Budget::default();
    let tree = read_tree(tree.as_ref().ok_or_else(status::no_name)?, &mut budget)?;
    let dtab = read_dtab(dtab.as_ref(), &mut budget)?;
    let explained = explain(session, &namespace, &dtab, &tree).await?;
    let tree = Writer::default().tree(&tree, &explained, Levels::of_field())?;
    Ok(DelegateTreeRsp { tree: Some(tree) })
}

/// How each name of a tree is bound.
async fn explain<'a>(
    session: &Session,
    namespace: &Namespace,
    dtab: &Dtab,
    tree: &'a NameTree<Path>,
) -> Result<HashMap<&'a Path, Node>, Status> {
    let names: HashSet<&Path> = tree.leaves().into_iter().collect();
    if names.len() > MAX_NAMES {
        let text = format!("{} names to explain, of at most {MAX_NAMES}", names.len());
        return Err(Status::invalid_argument(text));
    }
    let explained = names.into_iter().map(|name| async move {
        let watched = session.delegate(namespace, dtab, name)?;
        let delegation = match settled((*watched).clone(), SETTLE).await {
            Ok(delegation) => delegation,
            // Names that nobody answers for in time are shown as such.
            Err(Unsettled::Pending { last: Some(last), .. }) => *last,
            Err(Unsettled::Failed { source }) => return Err(status::failed(&source)),
            Err(error) => return Err(Status::deadline_exceeded(error.to_string())),
        };
        let node = delegation.linkerds().map_err(|error| Status::internal(error.to_string()))?;
        Ok((name, node))
    });
    Ok(try_join_all(explained).await?.into_iter().collect())
}

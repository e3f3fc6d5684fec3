//! Binding.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    follow::{Messages, SETTLE, Said, WAIT, first, follow_under},
    status,
};
use crate::{
    Bound, Delegation, Dtab, NameTree, Path, State,
    delegate::Step,
    mesh::{
        Budget, Levels,
        name::{read_dtab, write_bound},
        proto::{BindReq, BoundTreeRsp, interpreter_server::Interpreter},
    },
    store::Namespace,
};

#[async_trait]
impl Interpreter for Api {
    type StreamBoundTreeStream = Messages<BoundTreeRsp>;

    /// Waits for all namers, within reason: a binding without those that have not answered is no wrong one, but it is the
    /// only one that this caller gets.
    async fn get_bound_tree(&self, request: Request<BindReq>) -> Result<Response<BoundTreeRsp>, Status> {
        let session = self.session(&request).once();
        let (namespace, dtab, name) = names(request.get_ref())?;
        let mut watched = session.delegate(&namespace, &dtab, &name)?;
        let said = match first(&mut watched, SETTLE, say_whole).await {
            Some(said) => Some(said),
            None => first(&mut watched, WAIT, say_known).await,
        };
        said.unwrap_or_else(|| Err(Status::deadline_exceeded("the name is still not bound"))).map(Response::new)
    }

    async fn stream_bound_tree(
        &self,
        request: Request<BindReq>,
    ) -> Result<Response<Self::StreamBoundTreeStream>, Status> {
        let session = self.session(&request);
        let (namespace, dtab, name) = names(request.get_ref())?;
        let (watched, table) = session.bind_under(&namespace, &dtab, &name)?;
        Ok(follow_under(&session, table, watched, say))
    }
}

/// What is asked for.
fn names(BindReq { root, name, dtab }: &BindReq) -> Result<(Namespace, Dtab, Path), Status> {
    if root.is_some() && name.is_none() {
        return Err(status::no_name());
    }
    let namespace = status::namespace(root.as_ref())?;
    let name = status::name(name.as_ref())?;
    Ok((namespace, read_dtab(dtab.as_ref(), &mut Budget::default())?, name))
}

fn say_whole(explained: State<Delegation>) -> Said<BoundTreeRsp> {
    match &explained {
        State::Ok(delegation) if delegation.nodes().any(|node| matches!(node.step, Step::Pending)) => None,
        _ => say_known(explained),
    }
}

fn say_known(explained: State<Delegation>) -> Said<BoundTreeRsp> {
    match explained {
        State::Pending => None,
        State::Failed(error) => say(State::Failed(error)),
        State::Ok(delegation) => say(delegation.outcome()),
    }
}

fn say(tree: State<NameTree<Bound>>) -> Said<BoundTreeRsp> {
    match tree {
        State::Pending => None,
        State::Failed(error) => Some(Err(status::failed(&error))),
        State::Ok(tree) => Some(match write_bound(&tree, Levels::of_field()) {
            Ok(tree) => Ok(BoundTreeRsp { tree: Some(tree) }),
            Err(error) => Err(error.into()),
        }),
    }
}

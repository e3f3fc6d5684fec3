//! Resolving.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    follow::{Messages, WAIT, first, follow, only},
};
use crate::{
    Addr, Path, State,
    mesh::{
        name::read_path,
        proto::{self, Replicas, ReplicasReq, resolver_server::Resolver},
        replicas::write_replicas,
    },
};

#[async_trait]
impl Resolver for Api {
    type StreamReplicasStream = Messages<Replicas>;

    /// Waits for something to be known, unlike namerd 1.7.5, which asks others and answers `pending`.
    async fn get_replicas(&self, request: Request<ReplicasReq>) -> Result<Response<Replicas>, Status> {
        let Some(id) = id(request.get_ref())? else { return Ok(Response::new(no_id())) };
        let mut watched = self.session(&request).once().addr(&id)?;
        let say = |state: State<Addr>| match state {
            State::Pending => None,
            state => Some(Ok(write_replicas(&state))),
        };
        first(&mut watched, WAIT, say).await.unwrap_or_else(|| Ok(write_replicas(&State::Pending))).map(Response::new)
    }

    async fn stream_replicas(
        &self,
        request: Request<ReplicasReq>,
    ) -> Result<Response<Self::StreamReplicasStream>, Status> {
        let Some(id) = id(request.get_ref())? else {
            return Ok(Response::new(only(no_id())));
        };
        let session = self.session(&request);
        let watched = session.addr(&id)?;
        Ok(follow(&session, watched, |state| Some(Ok(write_replicas(&state)))))
    }
}

/// The id that is asked about, if there is one.
fn id(ReplicasReq { id }: &ReplicasReq) -> Result<Option<Path>, Status> {
    let id = read_path(id.as_ref())?;
    Ok(Some(id).filter(|id| !id.is_empty()))
}

fn no_id() -> Replicas {
    let failed = proto::replicas::Failed { message: "No ID provided".to_owned() };
    Replicas { result: Some(proto::replicas::Result::Failed(failed)) }
}

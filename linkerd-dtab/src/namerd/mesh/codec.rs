//! Text for clients that neither read nor write it.

use tonic::{Request, Response, Status, async_trait};

use super::{Api, status};
use crate::{
    Dtab, Path,
    mesh::{
        Budget, Levels,
        name::{read_dtab, read_path, write_dtab},
        proto::{
            ReadDtabReq, ReadDtabRsp, ReadPathReq, ReadPathRsp, ShowDtabReq, ShowDtabRsp, ShowPathReq, ShowPathRsp,
            codec_server::Codec,
        },
    },
};

#[async_trait]
impl Codec for Api {
    async fn read_dtab(&self, request: Request<ReadDtabReq>) -> Result<Response<ReadDtabRsp>, Status> {
        let dtab: Dtab = request.get_ref().text.parse().map_err(|error| status::unparsable(&error))?;
        let dtab = write_dtab(&dtab, Levels::of_field())?;
        Ok(Response::new(ReadDtabRsp { dtab: Some(dtab) }))
    }

    async fn show_dtab(&self, request: Request<ShowDtabReq>) -> Result<Response<ShowDtabRsp>, Status> {
        let dtab = request.get_ref().dtab.as_ref();
        let dtab = read_dtab(dtab, &mut Budget::default())?;
        Ok(Response::new(ShowDtabRsp { text: format!("{dtab:#}") }))
    }

    async fn read_path(&self, request: Request<ReadPathReq>) -> Result<Response<ReadPathRsp>, Status> {
        let path: Path = request.get_ref().text.parse().map_err(|error| status::unparsable(&error))?;
        Ok(Response::new(ReadPathRsp { path: Some((&path).into()) }))
    }

    async fn show_path(&self, request: Request<ShowPathReq>) -> Result<Response<ShowPathRsp>, Status> {
        let path = read_path(request.get_ref().path.as_ref())?;
        Ok(Response::new(ShowPathRsp { text: path.to_string() }))
    }
}

//! `/delegator.json`: how a name is bound, step by step.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use linkerd_dtab::{
    Dtab, Path,
    delegate::{Unsettled, settled},
};
use serde_json::Value;

use super::{
    Pages,
    params::{Params, read},
    reply::{self, Kind},
};
use crate::Body;

/// A name that is not explained after this time is not explained.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked for.
struct Question {
    namespace: Option<String>,
    dtab: Dtab,
    path: Path,
}

pub(super) async fn serve(pages: &Pages, req: Request<Body>) -> Response<Body> {
    match ask(req).await {
        Ok(question) => answer(pages, question).await,
        Err(rsp) => rsp,
    }
}

async fn ask(req: Request<Body>) -> Result<Question, Response<Body>> {
    if req.method() == Method::GET || req.method() == Method::HEAD {
        let params = Params::query(req.uri()).map_err(|error| error.answer())?;
        let namespace = params.get("namespace").map(str::to_owned);
        return parse(namespace, params.get("dtab").unwrap_or(""), params.get("path"));
    }
    if req.method() != Method::POST {
        return Err(reply::not_allowed("GET, POST"));
    }
    // As Linkerd: not even a charset beside it.
    if req.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return Err(reply::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let body = read(req.into_body()).await.map_err(|error| error.answer())?;
    let malformed = || malformed(&body);
    let Ok(Value::Object(json)) = serde_json::from_slice(&body) else { return Err(malformed()) };
    let text = |name| match json.get(name) {
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(Value::Null) | None => Ok(None),
        Some(_) => Err(malformed()),
    };
    let (Some(dtab), Some(path)) = (text("dtab")?, text("path")?) else { return Err(malformed()) };
    parse(text("namespace")?.map(str::to_owned), dtab, Some(path))
}

fn malformed(body: &Bytes) -> Response<Body> {
    let body = String::from_utf8_lossy(body);
    reply::error(StatusCode::BAD_REQUEST, format!("Malformed delegation request: {body}"))
}

fn parse(namespace: Option<String>, dtab: &str, path: Option<&str>) -> Result<Question, Response<Body>> {
    let bad = |text: String| reply::error(StatusCode::BAD_REQUEST, text);
    let dtab = dtab.parse().map_err(|error| bad(format!("Invalid dtab: {error}")))?;
    let path = path.ok_or_else(|| bad("Invalid path: parameter path is missing".to_owned()))?;
    let path = path.parse().map_err(|error| bad(format!("Invalid path: {error}")))?;
    Ok(Question { namespace, dtab, path })
}

async fn answer(pages: &Pages, question: Question) -> Response<Body> {
    let Question { namespace, dtab, path } = question;
    let interpreter = match &namespace {
        Some(label) => pages.routers.iter().find(|router| router.label == *label).map(|router| &router.interpreter),
        None => pages.global.as_ref(),
    };
    let Some(interpreter) = interpreter else {
        let name = namespace.as_deref().unwrap_or("no namespace");
        let text = format!("Name Interpreter for {name} cannot show delegations");
        return reply::error(StatusCode::NOT_IMPLEMENTED, text);
    };
    match settled(interpreter.delegate(&dtab, &path), TIMEOUT).await {
        Ok(delegation) => match delegation.to_json() {
            Ok(json) => reply::page(Kind::Json, json),
            // The name delegates without end. As Linkerd, which says so only of branches.
            Err(_) => reply::empty(StatusCode::INTERNAL_SERVER_ERROR),
        },
        Err(Unsettled::Pending { .. }) => reply::error(StatusCode::SERVICE_UNAVAILABLE, "Request timed out."),
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.extend([": ", &cause.to_string()]);
                source = cause.source();
            }
            reply::error(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

//! `/delegator.json`: how a name is bound, step by step.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use linkerd_dtab::{
    Dtab, ParseError, Path,
    delegate::{Unsettled, settled},
};
use serde_json::Value;

use super::{
    Pages,
    params::{BadParams, Params, read},
    reply::{self, Kind},
};
use crate::Body;

/// A name that is not explained after this time is not explained.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked for.
struct Question {
    namespace: Option<String>,
    dtab: Dtab,
    path: Path,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// Neither GET nor POST.
    #[error("method not allowed")]
    Method,
    /// A POST that does not say that it is JSON.
    #[error("not application/json")]
    NotJson,
    /// A parameter, or the body, cannot be read.
    #[error(transparent)]
    Params(#[from] BadParams),
    /// The body is not what it should be.
    #[error("Malformed delegation request: {}", String::from_utf8_lossy(.0))]
    Malformed(Bytes),
    /// The table does not parse.
    #[error("Invalid dtab: {0}")]
    Dtab(ParseError),
    /// The name does not parse.
    #[error("Invalid path: {0}")]
    Path(ParseError),
    /// There is no name.
    #[error("Invalid path: parameter path is missing")]
    NoPath,
}

pub(super) async fn serve(pages: &Pages, req: Request<Body>) -> Response<Body> {
    match ask(req).await {
        Ok(question) => answer(pages, question).await,
        Err(refused) => refused.answer(),
    }
}

async fn ask(req: Request<Body>) -> Result<Question, Refused> {
    if req.method() == Method::GET || req.method() == Method::HEAD {
        let params = Params::query(req.uri())?;
        let namespace = params.get("namespace").map(str::to_owned);
        return Question::parse(namespace, params.get("dtab").unwrap_or(""), params.get("path"));
    }
    if req.method() != Method::POST {
        return Err(Refused::Method);
    }
    // As Linkerd: not even a charset beside it.
    if req.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return Err(Refused::NotJson);
    }
    let body = read(req.into_body()).await?;
    let malformed = || Refused::Malformed(body.clone());
    let Ok(Value::Object(json)) = serde_json::from_slice(&body) else { return Err(malformed()) };
    let text = |name| match json.get(name) {
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(Value::Null) | None => Ok(None),
        Some(_) => Err(malformed()),
    };
    let (Some(dtab), Some(path)) = (text("dtab")?, text("path")?) else { return Err(malformed()) };
    Question::parse(text("namespace")?.map(str::to_owned), dtab, Some(path))
}

impl Question {
    fn parse(namespace: Option<String>, dtab: &str, path: Option<&str>) -> Result<Self, Refused> {
        let dtab = dtab.parse().map_err(Refused::Dtab)?;
        let path = path.ok_or(Refused::NoPath)?.parse().map_err(Refused::Path)?;
        Ok(Self { namespace, dtab, path })
    }
}

impl Refused {
    fn answer(&self) -> Response<Body> {
        match self {
            Self::Method => reply::not_allowed("GET, POST"),
            Self::NotJson => reply::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::Params(error) => error.answer(),
            Self::Malformed(_) | Self::Dtab(_) | Self::Path(_) | Self::NoPath => {
                reply::error(StatusCode::BAD_REQUEST, self.to_string())
            }
        }
    }
}

async fn answer(pages: &Pages, question: Question) -> Response<Body> {
    let Question { namespace, dtab, path } = question;
    let interpreter = match &namespace {
        Some(label) => {
            let router = pages.routers.iter().find(|router| router.label == *label);
            let router = router.map(|router| Arc::clone(&router.interpreter));
            router.or_else(|| pages.namespaces.as_ref().and_then(|namespaces| namespaces(label)))
        }
        None => pages.global.clone(),
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

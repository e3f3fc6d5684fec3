//! `/api/1/{history,diff,rollback,plan,check}/NS`: what has been changed, and what would be.

use std::sync::Arc;

use http::{Method, Response, StatusCode, header, request::Parts};
use serde_json::{Value, json};

use super::{
    dtab_body::Form,
    params::{self, Params},
    reply::{self, Answer, Problem, told},
    route::Change,
    tags,
};
use crate::{
    Path,
    namerd::{
        PastError, Record, Session, Written,
        plan::{Count, Elsewhere, Plan, Share},
    },
    store::Namespace,
    transport::Body,
};

/// The header that says why a change is made.
pub(super) const REASON: &str = "l5d-reason";

const JSON: &str = "application/json";

/// So many records are shown unless `limit` says otherwise.
const DEFAULT_RECORDS: usize = 100;

pub(super) async fn serve(session: &Session, head: &Parts, change: Change, namespace: &str, body: &[u8]) -> Answer {
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    if is_read != matches!(change, Change::History | Change::Diff) || !(is_read || head.method == Method::POST) {
        let allow = if matches!(change, Change::History | Change::Diff) { "GET, HEAD" } else { "POST" };
        return Ok(reply::not_allowed(allow, ""));
    }
    let (namespace, params) = (params::namespace(namespace)?, Params::of(&head.uri)?);
    match change {
        Change::History => history(session, &namespace, &params),
        Change::Diff => diff(session, &namespace, &params),
        Change::Rollback => rollback(session, head, &namespace, &params).await,
        Change::Plan => plan(session, head, &namespace, &params, body).await,
        Change::Check => check(session, head, &namespace, body).await,
    }
}

fn history(session: &Session, namespace: &Namespace, params: &Params) -> Answer {
    let limit = number(params, "limit")?.map_or(DEFAULT_RECORDS, |limit| limit as usize);
    let Some(past) = session.composed_history(namespace, limit)? else {
        let records = session.history(namespace, limit)?;
        return Ok(document(&records.iter().map(|record| record.to_json()).collect()));
    };
    let of_part = |(part, record): &(Namespace, Arc<Record>)| {
        let mut json = record.to_json();
        json["namespace"] = part.as_str().into();
        json
    };
    let mut rsp = document(&past.changes.iter().map(of_part).collect());
    if let Some(note) = reply::warning(&past.note) {
        rsp.headers_mut().insert(header::WARNING, note);
    }
    Ok(rsp)
}

fn diff(session: &Session, namespace: &Namespace, params: &Params) -> Answer {
    let text = session.diff(namespace, needed(params, "from")?, number(params, "to")?)?;
    Ok(reply::document(Some("text/plain"), text))
}

async fn rollback(session: &Session, head: &Parts, namespace: &Namespace, params: &Params) -> Answer {
    let (to, expect) = (needed(params, "to")?, tags::expected(&head.headers)?);
    let session = if params.get("automatic") == Some("true") { session.automatic() } else { session.clone() };
    let written = session.rollback(namespace, to, &expect).await.map_err(Problem::of_condition)?;
    Ok(done(&written, true))
}

async fn check(session: &Session, head: &Parts, namespace: &Namespace, body: &[u8]) -> Answer {
    // What does not parse is an answer here.
    let form = Form::given(&head.headers)?;
    let (errors, warnings) = match form.read(body) {
        Err(problem) => (vec![problem.reason().to_owned()], Vec::new()),
        Ok(dtab) => {
            let checked = form.placed(session, body).check(namespace, &dtab).await?;
            (checked.errors, checked.warnings)
        }
    };
    Ok(document(&json!({"errors": errors, "warnings": warnings})))
}

async fn plan(session: &Session, head: &Parts, namespace: &Namespace, params: &Params, body: &[u8]) -> Answer {
    let form = Form::given(&head.headers)?;
    let dtab = form.read(body)?;
    let names = params.get("names").unwrap_or("").split(',').map(str::trim).filter(|name| !name.is_empty());
    let names = names.map(|name| params::path("parameter names", Some(name))).collect::<Result<Vec<Path>, _>>()?;
    let plan = form.placed(session, body).plan(namespace, &dtab, &names).await?;
    Ok(document(&shown(namespace, &plan)))
}

fn shown(namespace: &Namespace, plan: &Plan) -> Value {
    let shares = |shares: &[Share]| -> Value {
        let one = |share: &Share| {
            let endpoints: Vec<_> = share.endpoints.iter().map(ToString::to_string).collect();
            json!({"id": share.id.as_ref().map(ToString::to_string), "share": share.share, "endpoints": endpoints})
        };
        shares.iter().map(one).collect()
    };
    let names = plan.moves.iter().map(|found| {
        let mut name = json!({
            "name": found.name.to_string(),
            "moved": found.moved,
            "before": shares(&found.before),
            "after": shares(&found.after),
        });
        if found.lost > 0.0 {
            name["lost"] = found.lost.into();
        }
        if found.tables > 1 {
            name["tables"] = found.tables.into();
        }
        if !found.extra.is_empty() {
            name["dtab"] = format!("{:#}", found.extra).into();
        }
        if found.namespace != *namespace {
            name["namespace"] = found.namespace.as_str().into();
        }
        name
    });
    let mut json = json!({
        "namespace": namespace.as_str(),
        "names": names.collect::<Value>(),
        "looked_at": plan.names,
        "errors": plan.checked.errors,
        "warnings": plan.checked.warnings,
    });
    match plan.elsewhere {
        Elsewhere::None => {}
        Elsewhere::Untold => json["elsewhere"] = json!({"moved": null, "lost": null, "partly": null}),
        Elsewhere::Counted(Count { moved, lost, partly_lost, own, .. }) => {
            json["elsewhere"] = json!({"moved": moved, "lost": lost, "partly": partly_lost});
            if !plan.owns.is_empty() {
                json["elsewhere"]["own"] = own.into();
                json["elsewhere"]["owns"] = plan.owns.iter().map(ToString::to_string).collect();
            }
        }
    }
    json
}

/// The answer to a change: the version that results, if it is wanted, and a `Warning` for each oddity, at most twenty.
pub(super) fn done(written: &Written, with_version: bool) -> Response<Body> {
    const MAX: usize = 20;
    let mut rsp = reply::empty(StatusCode::NO_CONTENT);
    let headers = rsp.headers_mut();
    // Of what was deleted there is none.
    if with_version
        && !written.version.as_bytes().is_empty()
        && let Ok(tag) = header::HeaderValue::from_str(&tags::show(&written.version))
    {
        headers.insert(header::ETAG, tag);
    }
    for warning in written.warnings.iter().take(MAX).filter_map(|warning| reply::warning(warning)) {
        headers.append(header::WARNING, warning);
    }
    rsp
}

fn document(json: &Value) -> Response<Body> {
    reply::document(Some(JSON), format!("{json}\n"))
}

fn number(params: &Params, name: &str) -> Result<Option<u64>, Problem> {
    let bad = |text| Problem::bad(format!("invalid parameter {name}: '{text}' is no number"));
    params.get(name).map(|text| text.parse().map_err(|_| bad(text))).transpose()
}

fn needed(params: &Params, name: &str) -> Result<u64, Problem> {
    number(params, name)?.ok_or_else(|| Problem::bad(format!("the parameter {name} is missing")))
}

impl From<PastError> for Problem {
    fn from(error: PastError) -> Self {
        match error {
            PastError::Refused(refused) => refused.into(),
            PastError::Missing { .. } | PastError::Composed(_) => Self::new(StatusCode::NOT_FOUND, told(&error)),
        }
    }
}

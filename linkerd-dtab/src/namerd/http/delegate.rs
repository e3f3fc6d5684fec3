//! `/api/1/delegate`: how a name is bound, step by step.

use std::{future::pending, pin::Pin};

use super::{
    DELEGATE_TIMEOUT,
    params::{self, Params},
    reply::{self, Answer, Problem, told},
    stream::Documents,
};
use crate::{
    Activity, Bound, Delegation, Dtab, Interpreter, Path, State,
    delegate::{Step, Unsettled, settled},
    namerd::{Namerd, Session},
};
use futures::future::join_all;
use http::{Method, StatusCode, request::Parts};
use serde_json::Value;

pub(super) const JSON: &str = "application/json";

/// What is to be explained.
struct Question {
    namespace: Option<String>,
    dtab: Dtab,
    path: Path,
}

/// In a namespace.
pub(super) async fn serve(namerd: &Namerd, session: &Session, head: &Parts, namespace: &str) -> Answer {
    let params = Params::of(&head.uri)?;
    let question = Question { namespace: Some(namespace.to_owned()), dtab: params.dtab()?, path: params.path()? };
    answer(namerd, session, question, params.watch()).await
}

/// In a table of the request's own, on top of that of a namespace if it names one.
pub(super) async fn ask(namerd: &Namerd, session: &Session, head: &Parts, body: &[u8]) -> Answer {
    if head.method == Method::GET || head.method == Method::HEAD {
        let params = Params::of(&head.uri)?;
        let namespace = params.get("namespace").map(str::to_owned);
        let question = Question { namespace, dtab: params.dtab()?, path: params.path()? };
        return answer(namerd, session, question, params.watch()).await;
    }
    if head.method != Method::POST {
        return Ok(reply::not_allowed("GET, HEAD, POST", ""));
    }
    answer(namerd, session, posted(body)?, false).await
}

fn posted(body: &[u8]) -> Result<Question, Problem> {
    let json: Value = serde_json::from_slice(body).map_err(|error| {
        let shown = reply::shown(&String::from_utf8_lossy(body));
        Problem::bad(format!("Malformed delegation request: {shown}")).noting(format!("the body is no JSON: {error}"))
    })?;
    let malformed = |reason: &str| Problem::bad(format!("Malformed delegation request: {reason}"));
    let Value::Object(json) = json else { return Err(malformed("it is no object")) };
    let text = |name| match json.get(name) {
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(Value::Null) | None => Ok(None),
        Some(_) => Err(malformed(&format!("the member {name} is no text"))),
    };
    let dtab = text("dtab")?.ok_or_else(|| malformed("the member dtab is missing"))?;
    let path = text("path")?.ok_or_else(|| malformed("the member path is missing"))?;
    let namespace = text("namespace")?.map(str::to_owned);
    Ok(Question { namespace, dtab: params::dtab("member dtab", dtab)?, path: params::path("member path", Some(path))? })
}

async fn answer(namerd: &Namerd, session: &Session, question: Question, is_watch: bool) -> Answer {
    let Question { namespace, dtab, path } = question;
    let Some(namespace) = namespace else {
        if is_watch {
            return Err(Problem::bad("a name is watched in a namespace, and there is none"));
        }
        let _counted = session.everything()?;
        return once(namerd.bare().delegate(&dtab, &path)).await;
    };
    let delegation = session.delegate(&params::namespace(&namespace)?, &dtab, &path)?;
    if !is_watch {
        return once(delegation.clone()).await;
    }
    let shown = |delegation: &Delegation| Some(format!("{}\n", delegation.to_json().ok()?));
    let documents = Documents::new(delegation.clone(), delegation, shown).when(is_settled);
    Ok(reply::body(Some(JSON), documents.body()))
}

async fn once(delegation: Activity<Delegation>) -> Answer {
    match settled(delegation, DELEGATE_TIMEOUT).await {
        Ok(delegation) => match delegation.to_json() {
            Ok(json) => Ok(reply::document(Some(JSON), json)),
            Err(error) => {
                let failed = delegation.nodes().find_map(|node| match &node.step {
                    Step::Failed(failure) => Some(told(&**failure)),
                    _ => None,
                });
                let text = failed.unwrap_or_else(|| error.to_string());
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text))
            }
        },
        Err(Unsettled::Pending { .. }) => Err(Problem::timed_out()),
        Err(error) => Err(Problem::failed(&error)),
    }
}

/// Waits until everything is known. What is pending in it is so for good: there is another explanation after it.
fn is_settled(delegation: &Delegation) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    if delegation.nodes().any(|node| matches!(node.step, Step::Pending)) {
        return Box::pin(pending());
    }
    let leaves = delegation.nodes().filter_map(|node| match &node.step {
        Step::Leaf(Bound { addr, .. }) => Some(addr.clone()),
        _ => None,
    });
    let mut unknown: Vec<_> = leaves.filter(|addr| matches!(addr.sample(), State::Pending)).collect();
    Box::pin(async move {
        join_all(unknown.iter_mut().map(Activity::ready)).await;
    })
}

//! `/api/1/dtabs`: the namespaces and their tables.

use std::collections::BTreeSet;

use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::{
    TIMEOUT,
    changes::done,
    dtab_body::Form,
    params::{self, Params},
    reply::{self, Answer, Problem, told},
    stream::Documents,
    tags,
};
use crate::{
    Activity,
    namerd::Session,
    store::{Expect, Namespace, Stored, Version},
    transport::Body,
};

const JSON: &str = "application/json";

/// The namespaces. A `POST` is answered with them, too, as namerd 1.7.5 does; but what would write or delete a table whose name
/// was forgotten is an error.
pub(super) async fn list(session: &Session, head: &Parts) -> Answer {
    let has_slash = head.uri.path().ends_with('/');
    match head.method {
        Method::GET | Method::HEAD => {}
        Method::POST if !has_slash => {}
        _ => {
            let allow = if has_slash { "GET, HEAD" } else { "GET, HEAD, POST" };
            return Ok(reply::not_allowed(allow, "the name of a namespace is missing: /api/1/dtabs/NAME"));
        }
    }
    let mut names = session.namespaces()?;
    if !Params::of(&head.uri)?.watch() {
        let names = known(&mut names).await?;
        return Ok(reply::document(Some(JSON), listed(&names)));
    }
    let activity = names.clone();
    let documents = Documents::new(activity, names, |names| Some(listed(names)));
    Ok(reply::body(Some(JSON), documents.body()))
}

fn listed(names: &BTreeSet<Namespace>) -> String {
    let names: Vec<_> = names.iter().map(Namespace::as_str).collect();
    format!("{}\n", serde_json::json!(names))
}

pub(super) async fn serve(session: &Session, head: &Parts, namespace: &str, body: &[u8]) -> Answer {
    match head.method {
        Method::GET | Method::HEAD => {
            // A name that none can have is one that none has.
            let namespace = namespace.parse().map_err(|_| Problem::silent(StatusCode::NOT_FOUND))?;
            get(session, head, &namespace).await
        }
        Method::POST => {
            let form = Form::given(&head.headers)?;
            let dtab = form.read(body)?;
            if let Expect::Version(_) = tags::expected(&head.headers)? {
                return Err(Problem::hinted(StatusCode::PRECONDITION_FAILED, "what is created has no version before"));
            }
            let written =
                form.placed(session, body).put(&params::namespace(namespace)?, &dtab, &Expect::Absent).await?;
            Ok(done(&written, tags::is_wanted(&head.headers)))
        }
        Method::PUT => {
            let form = Form::given(&head.headers)?;
            let dtab = form.read(body)?;
            let namespace = params::namespace(namespace)?;
            let expect = tags::expected(&head.headers)?;
            let written = form.placed(session, body).put(&namespace, &dtab, &expect).await;
            let written = written.map_err(Problem::of_condition)?;
            Ok(done(&written, tags::is_wanted(&head.headers)))
        }
        Method::DELETE => {
            let namespace = namespace.parse().map_err(|_| Problem::silent(StatusCode::NOT_FOUND))?;
            let expect = tags::expected_to_delete(&head.headers)?;
            let written = session.delete(&namespace, &expect).await.map_err(Problem::of_condition)?;
            let mut rsp = done(&written, false);
            if let Some(warning) = tags::unheeded_by_deletion(&head.headers).and_then(reply::warning) {
                rsp.headers_mut().append(header::WARNING, warning);
            }
            Ok(rsp)
        }
        _ => Ok(reply::empty(StatusCode::NOT_FOUND)),
    }
}

async fn get(session: &Session, head: &Parts, namespace: &Namespace) -> Answer {
    let form = Form::accepted(&head.headers);
    let mut table = session.dtab(namespace)?;
    if Params::of(&head.uri)?.watch() {
        return Ok(follow(form, table.clone(), table));
    }
    let Some(stored) = known(&mut table).await? else { return Ok(reply::empty(StatusCode::NOT_FOUND)) };
    if tags::if_match(&head.headers).is_some_and(|version| version != stored.version) {
        return Err(Problem::silent(StatusCode::PRECONDITION_FAILED));
    }
    let tag = tags::show(&stored.version);
    let mut rsp = if tags::is_known(&head.headers, &tag) {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        reply::document(Some(form.kind()), form.show(&stored.dtab))
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        rsp.headers_mut().insert(header::ETAG, tag);
    }
    Ok(rsp)
}

/// A document for each version. While there is no such namespace nothing is said.
fn follow(form: Form, table: Activity<Stored>, held: impl Send + 'static) -> Response<Body> {
    let mut last: Option<Version> = None;
    let documents = Documents::new(table, held, move |stored: &Stored| {
        let Some(stored) = stored else {
            last = None;
            return None;
        };
        if last.replace(stored.version.clone()).as_ref() == Some(&stored.version) {
            return None;
        }
        Some(form.show(&stored.dtab))
    });
    reply::body(Some(form.kind()), documents.with_repeats().body())
}

/// The first thing that is known, or why nothing is.
pub(super) async fn known<T: Clone + Send + Sync + 'static>(activity: &mut Activity<T>) -> Result<T, Problem> {
    match tokio::time::timeout(TIMEOUT, activity.ready()).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, told(&*error))),
        Err(_) => Err(Problem::timed_out()),
    }
}

//! `/delegator`: how a router binds a name, for people.

use std::fmt::Write;

use http::{Request, Response};
use linkerd_dtab::{
    Dtab, Path,
    delegate::{Unsettled, settled},
};

use super::{
    Pages, Router,
    delegator::TIMEOUT,
    home::{Escaped, document},
    params::Params,
    reply::{self, Kind},
};
use crate::Body;

/// A form for a router, a table and a name; below it, as a tree, how the name is bound by them. Without a table it is the
/// router's own.
pub(super) async fn serve(pages: &Pages, req: Request<Body>) -> Response<Body> {
    let params = match Params::query(req.uri()) {
        Ok(params) => params,
        Err(error) => return error.answer(),
    };
    let label = params.get("router");
    let router = match label {
        Some(label) => pages.routers.iter().find(|router| router.label == *label),
        None => pages.routers.first(),
    };
    let own = router.map(|router| router.dtab.to_string());
    let dtab = params.get("dtab").filter(|dtab| !dtab.trim().is_empty()).or(own.as_deref()).unwrap_or("");
    let path = params.get("path").unwrap_or("");
    let mut body = String::from("<h1>dtab playground</h1>\n<p><a href=\"/\">back</a></p>\n");
    form(&mut body, &pages.routers, router, dtab, path);
    let text = match router {
        None => Some(label.map_or("There are no routers.".to_owned(), |label| format!("There is no router {label}."))),
        Some(_) if path.is_empty() => None,
        Some(router) => Some(explain(router, dtab, path).await),
    };
    if let Some(text) = text {
        let _ = writeln!(body, "<pre>{}</pre>", Escaped(text));
    }
    reply::page(Kind::Html, document("linkerd admin: dtab playground", &body))
}

fn form(body: &mut String, routers: &[Router], chosen: Option<&Router>, dtab: &str, path: &str) {
    body.push_str("<form action=\"/delegator\">\n<p><select name=\"router\">");
    for router in routers {
        let is_chosen = chosen.is_some_and(|chosen| chosen.label == router.label);
        let _ = write!(body, "<option{}>{}</option>", if is_chosen { " selected" } else { "" }, Escaped(&router.label));
    }
    let _ = write!(
        body,
        "</select> <input name=\"path\" size=\"60\" placeholder=\"/svc/web\" value=\"{}\"> <button>bind</button></p>\n\
         <p><textarea name=\"dtab\" cols=\"100\" rows=\"8\">{}</textarea></p>\n</form>\n",
        Escaped(path),
        Escaped(dtab.replace(';', ";\n")),
    );
}

async fn explain(router: &Router, dtab: &str, path: &str) -> String {
    let dtab: Dtab = match dtab.parse() {
        Ok(dtab) => dtab,
        Err(error) => return format!("Invalid dtab: {error}"),
    };
    let path: Path = match path.parse() {
        Ok(path) => path,
        Err(error) => return format!("Invalid path: {error}"),
    };
    match settled(router.interpreter.delegate(&dtab, &path), TIMEOUT).await {
        Ok(delegation) => delegation.to_string(),
        Err(Unsettled::Pending { .. }) => "Request timed out.".to_owned(),
        Err(error) => error.to_string(),
    }
}

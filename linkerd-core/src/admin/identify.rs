//! How each router would name a request: what `httpIdentifierPort` serves.

use std::sync::Arc;

use http::{Request, Response};
use linkerd_dtab::Dtab;
use serde_json::{Map, Value, json};
use tower::service_fn;

use super::reply::{self, Kind};
use crate::{Body, BoxError, Svc, identify::Identifier};

/// Answers every request with how each router would name it, as the `httpIdentifierPort` of Linkerd 1.x does: by the
/// router's label its `path` and base `dtab`, or the `error`.
#[derive(Clone, Default)]
#[must_use]
pub struct Identify {
    routers: Vec<(String, Arc<dyn Identifier>, Dtab)>,
}

impl Identify {
    /// Without a router.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more router, with its base table.
    pub fn router(mut self, label: impl Into<String>, identifier: Arc<dyn Identifier>, dtab: Dtab) -> Self {
        self.routers.push((label.into(), identifier, dtab));
        self
    }

    /// The answers as a service.
    #[must_use]
    pub fn into_svc(self) -> Svc {
        let routers = Arc::new(self);
        Svc::new(service_fn(move |req: Request<Body>| {
            let rsp = routers.answer(req);
            async move { Ok::<_, BoxError>(rsp) }
        }))
    }

    fn answer(&self, req: Request<Body>) -> Response<Body> {
        let (head, _) = req.into_parts();
        let answers: Map<_, _> = self
            .routers
            .iter()
            .map(|(label, identifier, dtab)| {
                let answer = match identifier.identify(&head) {
                    Ok(name) => json!({"path": name.path.to_string(), "dtab": dtab.to_string()}),
                    Err(error) => json!({"error": error.reason}),
                };
                (label.clone(), answer)
            })
            .collect();
        reply::json(Kind::Json, &Value::Object(answers))
    }
}

impl std::fmt::Debug for Identify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.routers.iter().map(|(label, ..)| label)).finish()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::identify::{Identified, Unidentified};

    struct ByHost;
    struct Never;

    impl Identifier for ByHost {
        fn identify(&self, req: &http::request::Parts) -> Result<Identified, Unidentified> {
            let host = req.headers["host"].to_str().unwrap();
            Ok(Identified { path: format!("/svc/{host}").parse().unwrap(), target: None })
        }
    }

    impl Identifier for Never {
        fn identify(&self, _: &http::request::Parts) -> Result<Identified, Unidentified> {
            Err(Unidentified { reason: "not enough segments in path".to_owned(), is_final: false })
        }
    }

    #[tokio::test]
    async fn every_router_answers() {
        let svc = Identify::new()
            .router("http", Arc::new(ByHost), "/svc => /#/io.l5d.fs ; /x => 3 * /y & /z".parse().unwrap())
            .router("path", Arc::new(Never), Dtab::empty())
            .into_svc();
        let req = Request::get("/a/b/c").header("host", "Web:80").body(Body::empty()).unwrap();
        let rsp = svc.send(req).await.unwrap();
        assert_eq!(rsp.headers()["content-type"], "application/json");
        let body = rsp.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!({
                "http": {"path": "/svc/Web:80", "dtab": "/svc=>/#/io.l5d.fs;/x=>3.00*/y & /z"},
                "path": {"error": "not enough segments in path"},
            })
        );
    }
}

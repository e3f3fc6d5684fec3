//! `/admin/breakers`: forces circuit breakers open, closed, or back to what they know, and keeps who did.

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{Method, Request, Response, StatusCode};
use linkerd_dtab::Path;
use serde_json::{Value, json};

use super::{
    control::duration,
    params::{BadParams, Params},
    reply::{self, Kind},
};
use crate::{Body, Force};

/// What is to be forced, and on which endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forced {
    /// The router's label. `None`: all routers.
    pub router: Option<String>,
    /// The bound name.
    pub client: Path,
    /// The endpoint. `None`: all of the client's.
    pub endpoint: Option<SocketAddr>,
    /// What.
    pub force: Force,
}

/// What was forced of late.
pub(super) struct Breakers {
    force: Arc<dyn Fn(&Forced) -> usize + Send + Sync>,
    // The latest at the end; what is beyond the bound is in the log only.
    audit: Mutex<VecDeque<Value>>,
}

/// So many entries are kept.
const AUDIT: usize = 100;
const DEFAULT_TTL: Duration = Duration::from_mins(1);

impl Breakers {
    pub(super) fn new(force: impl Fn(&Forced) -> usize + Send + Sync + 'static) -> Self {
        Self { force: Arc::new(force), audit: Mutex::default() }
    }

    pub(super) async fn serve(&self, req: Request<Body>) -> Response<Body> {
        if req.method() == Method::GET || req.method() == Method::HEAD {
            let audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
            return reply::json(Kind::Json, &audit.iter().cloned().collect());
        }
        if req.method() != Method::POST {
            return reply::not_allowed("GET, POST");
        }
        match Params::of(req).await.and_then(|params| self.post(&params)) {
            Ok(rsp) => rsp,
            Err(error) => error.answer(),
        }
    }

    fn post(&self, params: &Params) -> Result<Response<Body>, BadParams> {
        let unexpected =
            |name, expected, value: &str| BadParams::Unexpected { name, expected, value: value.to_owned() };
        params.only(&["client", "action", "ttl", "endpoint", "router", "by"])?;
        let name = params.required("client")?;
        let client = name.parse().map_err(|_| unexpected("client", "a bound name such as /#/io.l5d.fs/web", name))?;
        let endpoint = params
            .get("endpoint")
            .map(|text| text.parse().map_err(|_| unexpected("endpoint", "an address such as 10.0.0.1:8080", text)));
        let ttl = params.get("ttl").map(|text| {
            let ttl = duration(text).filter(|ttl| !ttl.is_zero() && *ttl <= Force::MAX);
            ttl.ok_or_else(|| unexpected("ttl", "a duration such as 5.minutes, up to 24.hours", text))
        });
        let ttl = ttl.transpose()?.unwrap_or(DEFAULT_TTL);
        let action = params.required("action")?;
        let force = match action {
            "open" => Force::Open(ttl),
            "closed" => Force::Closed(ttl),
            "reset" => Force::Reset,
            _ => return Err(unexpected("action", "open, closed or reset", action)),
        };
        let router = params.get("router").map(str::to_owned);
        let forced = Forced { router, client, endpoint: endpoint.transpose()?, force };
        let breakers = (self.force)(&forced);
        if breakers == 0 {
            let text = "no such client is in use, or no such endpoint of it, or it has no breaker";
            return Ok(reply::error(StatusCode::NOT_FOUND, text));
        }
        let by = params.get("by").unwrap_or("unknown");
        let Forced { router, client, endpoint, .. } = &forced;
        let endpoint = endpoint.map_or_else(|| "all".to_owned(), |addr| addr.to_string());
        let ttl = (force != Force::Reset).then_some(ttl);
        tracing::warn!(%client, endpoint, action, ttl = ttl.map(tracing::field::debug), by, breakers, "circuit breakers are forced");
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut entry = json!({
            "atMs": at.as_millis() as u64,
            "by": by,
            "action": action,
            "router": router,
            "client": client.to_string(),
            "endpoint": endpoint,
            "breakers": breakers,
        });
        if let Some(ttl) = ttl {
            entry["ttlMs"] = (ttl.as_millis() as u64).into();
        }
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        if audit.len() == AUDIT {
            audit.pop_front();
        }
        audit.push_back(entry.clone());
        drop(audit);
        Ok(reply::json(Kind::Json, &entry))
    }
}

impl fmt::Debug for Breakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breakers").finish_non_exhaustive()
    }
}

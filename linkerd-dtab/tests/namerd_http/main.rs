//! namerd's HTTP interface, against what namerd 1.7.5 answered to the same requests.
#![cfg(all(feature = "namerd", feature = "fs"))]

mod changes;
mod ours;
mod recorded;
mod session;

use std::{collections::HashMap, convert::Infallible, fs, net::IpAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use linkerd_dtab::{
    Activity, Addr,
    namer::{self, Resolve},
    namerd::{Builder, Namerd, http::Controller},
    store::{Memory, Namespace},
    transport::Body,
};
use tempfile::TempDir;
use tokio::time::timeout;
use tower::ServiceExt;

/// Whatever has not happened by then does not happen.
const PATIENCE: Duration = Duration::from_mins(2);

/// Knows addresses, and no name; what `pending` is it never says.
struct Addresses;

impl Resolve for Addresses {
    fn resolve(&self, host: &str, port: &str) -> Activity<Addr> {
        self.resolve_once(host, port)
    }

    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr> {
        if host == "pending" {
            return Activity::channel().1;
        }
        let (Ok(ip), Ok(port)) = (host.parse::<IpAddr>(), port.parse::<u16>()) else {
            return Activity::value(Addr::Neg);
        };
        Activity::value(Addr::of([(ip, port).into()]))
    }
}

/// A namerd in this process, over a store in memory and a folder of endpoint files.
struct Server {
    controller: Controller,
    folder: TempDir,
}

impl Server {
    fn new(namespaces: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::with(namespaces, |namerd| namerd)
    }

    fn with(namespaces: impl IntoIterator<Item = (String, String)>, set: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("disco")).unwrap();
        let table = |(name, dtab): (String, String)| (name.parse::<Namespace>().unwrap(), dtab.parse().unwrap());
        let builder = Namerd::builder(Memory::new(namespaces.into_iter().map(table)))
            .namer("/#/io.l5d.fs".parse().unwrap(), namer::fs::Namer::new(folder.path().join("disco")))
            .resolve(Addresses);
        Self { controller: Controller::new(set(builder).build()), folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn send<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Send + 'static,
    {
        let answered: Result<_, Infallible> = self.controller.clone().oneshot(request).await;
        answered.unwrap()
    }

    async fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Said {
        Said::of(self.send(request(method, target, headers, body)).await).await
    }

    async fn watch(&self, target: &str) -> Body {
        let rsp = self.send(request("GET", target, &[], "")).await;
        assert_eq!(rsp.status(), StatusCode::OK, "{target}");
        rsp.into_body()
    }
}

/// What a watch tells next; `None`: it has ended.
async fn next(body: &mut Body) -> Option<String> {
    let frame = timeout(PATIENCE, body.frame()).await.expect("a document");
    frame.map(|frame| String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

/// A response that is whole.
#[derive(Debug)]
struct Said {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Said {
    async fn of(rsp: Response<Body>) -> Self {
        let (head, body) = rsp.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.expect("the body ends").unwrap().to_bytes();
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        Self {
            status: head.status.as_u16(),
            headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}

/// A request as a client without a `Host` sends it.
fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    // The one byte that clients send as it is and `Uri` does not take.
    let target = target.replace('>', "%3E");
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body.to_owned())).unwrap()
}

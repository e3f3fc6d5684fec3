//! The future may move between threads, and this one holds something that must not.

use std::rc::Rc;

use http::Request;
use linkerd_core::{Body, Mesh, Svc};
use tower::{layer::layer_fn, service_fn};

fn main() {
    let _ = Mesh::builder().path_layer(layer_fn(|inner: Svc| {
        service_fn(move |req: Request<Body>| {
            let inner = inner.clone();
            async move {
                let path = Rc::new(req.uri().path().to_owned());
                let rsp = inner.send(req).await;
                println!("{path}");
                rsp
            }
        })
    }));
}

//! A layer that fails with what is no error.

use linkerd_core::{Error, Mesh};
use tower::util::MapErrLayer;

struct Refused;

fn main() {
    let _ = Mesh::builder().client_layer(MapErrLayer::new(|_: Error| Refused));
}

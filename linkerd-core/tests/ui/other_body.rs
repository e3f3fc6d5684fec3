//! A layer that answers with a body of its own type.

use linkerd_core::{Body, Mesh};
use tower::ServiceBuilder;
use tower_http::map_response_body::MapResponseBodyLayer;

/// Counts what passes.
struct Counted(#[allow(dead_code)] Body);

fn main() {
    let _ = Mesh::builder().endpoint_layer(ServiceBuilder::new().layer(MapResponseBodyLayer::new(Counted)));
}

//! A seam clones the service for each request, and this one cannot be.

use std::time::Duration;

use linkerd_core::Mesh;
use tower::limit::RateLimitLayer;

fn main() {
    let _ = Mesh::builder().path_layer(RateLimitLayer::new(100, Duration::from_secs(1)));
}

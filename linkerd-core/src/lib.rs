//! linkerd-core.

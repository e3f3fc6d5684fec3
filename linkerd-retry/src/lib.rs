//! linkerd-retry.

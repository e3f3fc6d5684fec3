//! linkerd-dtab.

//! linkerd-balance.

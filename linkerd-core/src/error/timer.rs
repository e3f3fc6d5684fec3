//! Which timer ended a request.

use std::time::Duration;

/// What limits how long something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timer {
    /// Until a name is bound, and until the first address of what it is bound to.
    Binding,
    /// A whole request: naming, connecting, all attempts and the waits between them.
    Total,
    /// The deadline that came with a request.
    Deadline,
    /// The time that came with a gRPC call.
    GrpcTimeout,
    /// One attempt.
    Attempt,
    /// A request in a server, from when its head is here.
    Server,
    /// Connecting to an endpoint.
    Connect,
    /// Until a request is let in by the limit of its name.
    Queue,
    /// Without a sign of life on a connection of HTTP/2 that an answer is waited for on, and no answer to a ping either.
    Silence,
}

/// A timer that was over: why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimedOut {
    /// Which.
    pub timer: Timer,
    /// How long it ran; of a deadline, how much was left of it when its request came.
    pub limit: Duration,
    /// The key or the header that set it.
    pub set_by: &'static str,
}

impl Timer {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Binding,
        Self::Total,
        Self::Deadline,
        Self::GrpcTimeout,
        Self::Attempt,
        Self::Server,
        Self::Connect,
        Self::Queue,
        Self::Silence,
    ];

    /// A short name, as metrics and the details of an error have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Total => "total",
            Self::Deadline => "deadline",
            Self::GrpcTimeout => "grpc_timeout",
            Self::Attempt => "attempt",
            Self::Server => "server",
            Self::Connect => "connect",
            Self::Queue => "queue",
            Self::Silence => "silence",
        }
    }

    /// What sets it, unless something else does: a key of a file, or a header.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Binding => "bindingTimeoutMs",
            Self::Total => "service.totalTimeoutMs",
            Self::Deadline => "l5d-ctx-deadline",
            Self::GrpcTimeout => "grpc-timeout",
            Self::Attempt => "client.requestAttemptTimeoutMs",
            Self::Server => "servers.timeoutMs",
            Self::Connect => "client.connectTimeout",
            Self::Queue => "service.limit.queueWaitMs",
            Self::Silence => "client.h2.silence",
        }
    }

    pub(crate) const fn after(self, limit: Duration) -> TimedOut {
        TimedOut { timer: self, limit, set_by: self.key() }
    }
}

//! What layers have in common that call a service later than their own `call`, or more than once.

use std::{
    mem,
    task::{Context, Poll},
};

/// Takes the service that was made ready out, and leaves a clone, which is not, in its place.
pub(crate) fn take_ready<S: Clone>(service: &mut S) -> S {
    let fresh = service.clone();
    mem::replace(service, fresh)
}

/// Gives up what the readiness of a service has reserved: a clone, which is not ready, takes its place.
pub(crate) fn give_up<S: Clone>(service: &mut S) {
    drop(take_ready(service));
}

/// Once round the executor, so that attempts which fail at once cannot starve the timers above.
pub(crate) fn give_way<T>(cx: &mut Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

//! Interim responses (1xx) on their way back: from an endpoint's stream to the client's.
//!
//! Both are polled by one task, so what came is left with the task: no request pays for it.

use std::{
    cell::RefCell,
    task::{Context, Poll},
};

use h2::client::ResponseFuture;
use http::{Response, StatusCode};

/// So many may come before an answer; more are dropped.
const MAX: usize = 16;

tokio::task_local! {
    static CAME: RefCell<Came>;
}

#[derive(Default)]
struct Came {
    heads: Vec<Response<()>>,
    count: usize,
}

/// Lets a future leave interim responses that are [taken](take) by what is around it.
#[cfg(feature = "server")]
pub(super) fn scope<F: Future>(future: F) -> impl Future<Output = F::Output> {
    CAME.scope(RefCell::default(), future)
}

/// What has come since the last time that this was asked.
#[cfg(feature = "server")]
pub(super) fn take() -> Vec<Response<()>> {
    CAME.with(|came| std::mem::take(&mut came.borrow_mut().heads))
}

/// Passes an interim response back, if there is a client that can be told.
pub(crate) fn pass(head: Response<()>) -> bool {
    // There is none in HTTP/2.
    if head.status() == StatusCode::SWITCHING_PROTOCOLS {
        return false;
    }
    let passed = CAME.try_with(|came| {
        let mut came = came.borrow_mut();
        came.count += 1;
        if came.count > MAX {
            return false;
        }
        came.heads.push(head);
        true
    });
    passed.unwrap_or(false)
}

/// Passes back what has come before the head of a response: how many were dropped.
pub(super) fn receive(response: &mut ResponseFuture, cx: &mut Context<'_>) -> u64 {
    let mut dropped = 0;
    // What is beyond that is passed over by the response itself.
    for _ in 0..=MAX {
        let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) else { break };
        dropped += u64::from(!pass(head));
    }
    dropped
}

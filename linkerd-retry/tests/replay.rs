//! Uploads through retries: streamed while they are kept, sent again if they are whole, and never by accident.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use linkerd_retry::{
    Budget, BudgetSettings, Safety, Sent, Verdict,
    replay::{ReplayBody, ReplayMemory},
    retry::{ClonedWhile, RetryLayer},
};
use proptest::prelude::*;
use tower::{BoxError, Layer, ServiceExt, service_fn};

/// An upload of which nobody knows the length, one frame at a time.
#[derive(Debug)]
struct Upload(VecDeque<Bytes>);

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

#[derive(Clone)]
struct Call {
    idempotent: bool,
    body: ReplayBody<Upload>,
}

/// What an attempt does: reads so many frames and then fails, or has never been sent, or reads all and succeeds.
#[derive(Clone, Copy, Debug)]
enum Fate {
    NeverSent,
    FailsAfter(usize),
    Succeeds,
}

/// How far a request had got when it failed.
type Failed = Sent;

#[derive(Clone, Default)]
struct Origin {
    fates: Arc<Mutex<VecDeque<Fate>>>,
    /// Bytes of each attempt that got here.
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Origin {
    async fn serve(self, call: Call) -> Result<usize, Failed> {
        let fate = self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Succeeds);
        let frames = match fate {
            Fate::NeverSent => return Err(Sent::Never),
            Fate::FailsAfter(frames) => frames,
            Fate::Succeeds => usize::MAX,
        };
        let mut body = call.body;
        self.received.lock().unwrap().push(Vec::new());
        let mut read = 0;
        while read < frames {
            match body.frame().await {
                Some(Ok(frame)) => {
                    self.received.lock().unwrap().last_mut().unwrap().extend(frame.into_data().unwrap());
                }
                Some(Err(_)) => return Err(Sent::Possibly),
                None => break,
            }
            read += 1;
        }
        if matches!(fate, Fate::Succeeds) { Ok(read) } else { Err(Sent::Possibly) }
    }
}

fn verdict(call: &Call, rsp: Result<&usize, &Failed>) -> Verdict {
    match rsp {
        Ok(_) => Verdict::SUCCESS,
        Err(sent) => Verdict::failure(Safety::of(*sent, call.idempotent)),
    }
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![Just(Fate::NeverSent), (0..20_usize).prop_map(Fate::FailsAfter)];
    prop::collection::vec(fate, 0..6)
}

proptest! {
    /// An unsafe request gets to the origin at most once, and whatever succeeds was received whole.
    #[test]
    fn unsafe_requests_reach_the_origin_at_most_once_and_successes_are_whole(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
        fates in fates(),
        idempotent in any::<bool>(),
        cap in 0..2000_usize,
        room in 0..5000_usize,
    ) {
        let sent = chunks.concat();
        let counted = sent.len() + chunks.len() * ReplayMemory::FRAME_COST;
        let memory = ReplayMemory::new(room);
        let upload = Upload(chunks.into_iter().map(Bytes::from).collect());
        let call = Call { idempotent, body: ReplayBody::new(upload, cap, &memory) };
        let origin = Origin::default();
        origin.fates.lock().unwrap().extend(fates.clone());
        let serve = origin.clone();
        let layer = RetryLayer::new(verdict)
            .budget(Budget::new(BudgetSettings::share(100.0)).unwrap())
            .copy_with(ClonedWhile(|call: &Call| call.body.is_whole()));
        let svc = layer.layer(service_fn(move |call| serve.clone().serve(call)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(svc.oneshot(call));

        let received = origin.received.lock().unwrap();
        if !idempotent {
            prop_assert!(received.len() <= 1);
        }
        if outcome.is_ok() {
            prop_assert_eq!(received.last(), Some(&sent));
        }
        for attempt in &*received {
            prop_assert!(sent.starts_with(attempt));
        }
        // What fits is retried: nothing but the limits, and the safety of the request, ends it.
        if sent.len() <= cap && counted <= room && idempotent {
            prop_assert!(outcome.is_ok());
        }
        prop_assert_eq!(memory.held(), 0);
    }
}

/// Through retries, and in each attempt: the origin gets the very bytes that came, and no others that are like them.
#[tokio::test(start_paused = true)]
async fn a_streamed_upload_is_never_copied_however_often_it_is_sent() {
    let frames: VecDeque<_> = (1..=8).map(|i| Bytes::from(vec![i; 1000])).collect();
    let memory = ReplayMemory::default();
    let call = Call { idempotent: true, body: ReplayBody::new(Upload(frames.clone()), 64 * 1024, &memory) };
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let noted = attempts.clone();
    let origin = service_fn(move |call: Call| {
        let noted = noted.clone();
        async move {
            let (mut body, mut got) = (call.body, Vec::new());
            let wanted = noted.lock().unwrap().len() * 4;
            while got.len() < wanted
                && let Some(frame) = body.frame().await
            {
                got.push(frame.unwrap().into_data().unwrap().as_ptr().addr());
            }
            let read = got.len();
            noted.lock().unwrap().push(got);
            if read == 8 { Ok(read) } else { Err(Sent::Possibly) }
        }
    });
    let layer = RetryLayer::new(verdict).copy_with(ClonedWhile(|call: &Call| call.body.is_whole()));
    assert_eq!(layer.layer(origin).oneshot(call).await, Ok(8));
    let whole: Vec<_> = frames.iter().map(|data| data.as_ptr().addr()).collect();
    assert_eq!(*attempts.lock().unwrap(), [&whole[..0], &whole[..4], &whole[..]]);
}

#[tokio::test(start_paused = true)]
async fn an_upload_over_the_cap_streams_on_and_its_failure_is_passed_on() {
    const KIB: usize = 1024;
    for (kib, attempts) in [(64, 2), (65, 1)] {
        let memory = ReplayMemory::default();
        let upload = Upload((0..kib).map(|_| Bytes::from(vec![1; KIB])).collect());
        let call = Call { idempotent: true, body: ReplayBody::new(upload, 64 * KIB, &memory) };
        let origin = Origin::default();
        origin.fates.lock().unwrap().push_back(Fate::FailsAfter(usize::MAX));
        let serve = origin.clone();
        let layer = RetryLayer::new(verdict).copy_with(ClonedWhile(|call: &Call| call.body.is_whole()));
        let outcome = layer.layer(service_fn(move |call| serve.clone().serve(call))).oneshot(call).await;
        assert_eq!(outcome, if attempts == 2 { Ok(kib) } else { Err(Sent::Possibly) });
        let received: Vec<_> = origin.received.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(received, vec![kib * KIB; attempts]);
        assert_eq!(memory.too_long(), u64::from(attempts == 1));
    }
}

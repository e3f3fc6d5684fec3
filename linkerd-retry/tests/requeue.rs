//! A large upload to an endpoint that refuses goes to another, and nobody keeps any of it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use linkerd_retry::requeue::{RequeueLayer, Unsent};
use tower::{BoxError, Layer, ServiceExt, service_fn};

const MIB: usize = 1024 * 1024;

/// A GiB, a MiB at a time, that knows how much of it is alive.
#[derive(Debug)]
struct Upload {
    left: usize,
    alive: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Chunk(Arc<AtomicUsize>, &'static [u8]);

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.1
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

static ZEROS: [u8; MIB] = [0; MIB];

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let alive = self.alive.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(alive, Ordering::SeqCst);
        let data = Bytes::from_owner(Chunk(self.alive.clone(), &ZEROS));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

#[derive(Debug)]
enum Failed {
    Refused(Upload),
    Sent,
}

impl Unsent<Upload> for Failed {
    fn is_unsent(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    fn take_unsent(self) -> Result<Upload, Self> {
        match self {
            Self::Refused(upload) => Ok(upload),
            Self::Sent => Err(self),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_gibibyte_whose_first_endpoint_refuses_is_not_buffered() {
    let (alive, most) = (Arc::default(), Arc::<AtomicUsize>::default());
    let upload = Upload { left: 1024, alive, most: most.clone() };
    let endpoints = Arc::new(AtomicUsize::new(0));
    let picked = endpoints.clone();
    let pick = service_fn(move |mut upload: Upload| {
        let refuses = picked.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if refuses {
                return Err(Failed::Refused(upload));
            }
            let mut received = 0;
            while let Some(frame) = upload.frame().await {
                let data = frame.ok().and_then(|frame| frame.into_data().ok()).ok_or(Failed::Sent)?;
                assert_eq!(data.as_ptr(), ZEROS.as_ptr());
                received += data.len();
            }
            Ok(received)
        }
    });
    let layer = RequeueLayer::new();
    assert_eq!(layer.layer(pick).oneshot(upload).await.unwrap(), 1024 * MIB);
    assert_eq!((endpoints.load(Ordering::SeqCst), layer.stats().requeues()), (2, 1));
    // Never more than the one that is being sent.
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

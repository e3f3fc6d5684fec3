//! Bodies that stream are sent again, as long as they are short enough to be kept.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use linkerd_core::{BoxError, Svc, dtab::Endpoint, http::Connect, retry::replay::ReplayMemory};

use super::*;

const KIB: usize = 1024;

/// The data of a body, and its trailers.
type Sent = (Vec<Bytes>, Option<HeaderMap>);

/// An endpoint that reads what it gets, up to a length, and answers with the next status.
#[derive(Clone, Default)]
struct Reader {
    statuses: Arc<Mutex<VecDeque<u16>>>,
    seen: Arc<Mutex<Vec<Sent>>>,
    up_to: Option<usize>,
}

impl Connect for Reader {
    fn connect(&self, _: &Endpoint) -> Svc {
        let reader = self.clone();
        Svc::new(tower::service_fn(move |req: Request<Body>| {
            let reader = reader.clone();
            async move {
                let (mut frames, mut trailers, mut len) = (Vec::new(), None, 0);
                let mut body = req.into_body();
                while reader.up_to.is_none_or(|most| len < most)
                    && let Some(Ok(frame)) = body.frame().await
                {
                    match frame.into_data() {
                        Ok(data) => {
                            len += data.len();
                            frames.push(data);
                        }
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    }
                }
                reader.seen.lock().unwrap().push((frames, trailers));
                let status = reader.statuses.lock().unwrap().pop_front().unwrap_or(200);
                Ok::<_, Infallible>(Response::builder().status(status).body(Body::empty()).unwrap())
            }
        }))
    }
}

/// A world whose only endpoint is `reader`, and which keeps so many bytes of a stream.
fn world(reader: &Reader, retry_buffer_bytes: usize, memory: &ReplayMemory) -> (World, Client) {
    let namer = FakeNamer::new();
    namer.endpoints("/users", [ep(1)]);
    let policy =
        ServicePolicy { retry_buffer_bytes, replay_memory: memory.clone(), ..service(HttpClassifier::RetryableAll5xx) };
    let world = World::with(|builder| {
        let builder = builder.namer("/#/reader", namer).dtab("/svc => /#/reader".parse().unwrap());
        builder.connect(reader.clone()).policies(Uniform { service: policy, client: steady() })
    });
    let client = world.client("/svc/users");
    (world, client)
}

/// A POST of so many frames of a KiB, whose length nobody tells, with trailers; and where its bytes are.
fn upload(kib: usize) -> (Request<Body>, Vec<Bytes>) {
    let frames: Vec<_> = (0..kib).map(|n| Bytes::from(vec![n as u8; KIB])).collect();
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("sum"), "42".parse().unwrap())]);
    let stream = frames.clone().into_iter().map(Frame::data).chain([Frame::trailers(trailers)]);
    let body = Body::new(StreamBody::new(futures::stream::iter(stream.map(Ok::<_, BoxError>))));
    (Request::post("/").body(body).unwrap(), frames)
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_sent_again_up_to_its_cap_with_trailers_and_without_a_copy() {
    for (kib, attempts) in [(1, 2), (63, 2), (64, 1), (65, 1)] {
        let reader = Reader::default();
        reader.statuses.lock().unwrap().push_back(503);
        let memory = ReplayMemory::default();
        // The trailers count too.
        let (_world, client) = world(&reader, 64 * KIB, &memory);
        let (req, frames) = upload(kib);
        let rsp = client.send(req).await.unwrap();
        assert_eq!(rsp.status().as_u16(), if attempts == 2 { 200 } else { 503 }, "{kib} KiB");
        drop(rsp);
        let seen = reader.seen.lock().unwrap();
        assert_eq!(seen.len(), attempts, "{kib} KiB");
        for (data, trailers) in &*seen {
            assert_eq!(data.concat(), frames.concat());
            assert_eq!(trailers.as_ref().unwrap()["sum"], "42");
            assert!(data.iter().zip(&frames).all(|(sent, ours)| sent.as_ptr() == ours.as_ptr()), "not a copy");
        }
        assert_eq!((memory.held(), memory.too_long()), (0, u64::from(attempts == 1)), "{kib} KiB");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_early_gets_the_whole_again() {
    let reader = Reader { up_to: Some(KIB), ..Reader::default() };
    reader.statuses.lock().unwrap().push_back(503);
    let (_world, client) = world(&reader, 64 * KIB, &ReplayMemory::default());
    let (req, frames) = upload(8);
    assert_eq!(client.send(req).await.unwrap().status(), 200);
    let seen = reader.seen.lock().unwrap();
    assert_eq!(seen.iter().map(|(data, _)| data.concat()).collect::<Vec<_>>(), [&frames[0][..]; 2]);
}

#[tokio::test(start_paused = true)]
async fn with_the_memory_of_all_used_up_requests_flow_and_are_not_retried() {
    let reader = Reader::default();
    reader.statuses.lock().unwrap().push_back(503);
    let memory = ReplayMemory::new(4 * KIB);
    let (_world, client) = world(&reader, 64 * KIB, &memory);
    let (req, frames) = upload(8);
    assert_eq!(client.send(req).await.unwrap().status(), 503);
    assert_eq!(reader.seen.lock().unwrap()[0].0.concat(), frames.concat());
    assert_eq!((memory.refused(), memory.held()), (1, 0));
    // What fits is.
    reader.statuses.lock().unwrap().push_back(503);
    assert_eq!(client.send(upload(2).0).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn without_a_buffer_a_stream_is_passed_on_as_it_is() {
    let reader = Reader::default();
    reader.statuses.lock().unwrap().push_back(503);
    let (_world, client) = world(&reader, 0, &ReplayMemory::default());
    assert_eq!(client.send(upload(1).0).await.unwrap().status(), 503);
    assert_eq!(reader.seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_by_itself_is_not_sent_again() {
    let reader = Reader::default();
    reader.statuses.lock().unwrap().extend([503, 503]);
    let (_world, client) = world(&reader, 64 * KIB, &ReplayMemory::default());
    let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(BoxError::from("lost"))];
    let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
    assert_eq!(client.send(Request::post("/").body(body).unwrap()).await.unwrap().status(), 503);
    assert_eq!(reader.seen.lock().unwrap().len(), 1);
}

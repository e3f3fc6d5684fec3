use std::{collections::VecDeque, convert::Infallible};

use http::HeaderValue;
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tokio_test::{assert_pending, assert_ready, task};

use super::*;

const KIB: usize = 1024;

type Item = Result<Frame<Bytes>, &'static str>;

/// A body of these frames, of which it says nothing beforehand. `None` is a frame that is not there yet.
#[derive(Debug, Default)]
struct Script {
    frames: VecDeque<Option<Item>>,
    claims: u64,
    /// Whether nobody is told when a frame is there.
    silent: bool,
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        match self.frames.pop_front() {
            Some(None) => {
                if !self.silent {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            frame => Poll::Ready(frame.flatten()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.claims);
        hint
    }
}

fn script(chunks: &[usize], trailers: bool) -> Script {
    let data = |len: &usize| Some(Ok(Frame::data(Bytes::from(vec![b'x'; *len]))));
    let mut frames: VecDeque<_> = chunks.iter().map(data).collect();
    if trailers {
        frames.push_back(Some(Ok(Frame::trailers(checksum()))));
    }
    Script { frames, ..Script::default() }
}

fn checksum() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("0123456789abcdef"))])
}

fn body<B>(body: B, cap: usize) -> (ReplayBody<B>, ReplayMemory) {
    let memory = ReplayMemory::default();
    (ReplayBody::new(body, cap, &memory), memory)
}

/// What so many frames of a KiB count.
fn kept(frames: usize) -> usize {
    frames * (KIB + ReplayMemory::FRAME_COST)
}

/// All that is left of a body.
async fn rest<B>(body: ReplayBody<B>) -> Result<(Vec<u8>, Option<HeaderMap>), ReplayError<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let all = body.collect().await?;
    let trailers = all.trailers().cloned();
    Ok((all.to_bytes().to_vec(), trailers))
}

#[tokio::test]
async fn a_cap_of_64_kib_keeps_63_and_64_and_not_65() {
    for (kib, fits) in [(63, true), (64, true), (65, false)] {
        let (first, memory) = body(script(&vec![KIB; kib], false), 64 * KIB);
        let again = first.clone();
        assert_eq!(rest(first).await.unwrap().0.len(), kib * KIB);
        assert_eq!(again.is_whole(), fits, "{kib}");
        if fits {
            assert_eq!(memory.held(), kept(kib));
            assert_eq!(rest(again).await.unwrap().0.len(), kib * KIB);
        } else {
            assert_eq!((memory.held(), memory.too_long()), (0, 1));
            assert_eq!(rest(again).await.unwrap_err(), ReplayError::Lost);
        }
        assert_eq!(memory.held(), 0);
    }
}

#[tokio::test]
async fn trailers_are_sent_again_and_count() {
    for (cap, kept) in [(64, true), (24, true), (23, false)] {
        let (first, _memory) = body(script(&[2, 2], true), cap);
        let again = first.clone();
        let expected = (b"xxxx".to_vec(), Some(checksum()));
        assert_eq!(rest(first).await.unwrap(), expected);
        assert_eq!(again.is_whole(), kept, "{cap}");
        if kept {
            let third = again.clone();
            assert_eq!(rest(again).await.unwrap(), expected);
            assert_eq!(rest(third).await.unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn trailers_outlive_whoever_is_dropped_before_they_are_sent_again() {
    let (mut first, memory) = body(script(&[2], true), 64);
    let mut last = first.clone();
    while first.frame().await.is_some() {}
    assert_eq!(last.frame().await.unwrap().unwrap().into_data().unwrap(), "xx");
    // Its connection lets go of it only now.
    drop(first);
    assert_eq!(last.frame().await.unwrap().unwrap().into_trailers().unwrap(), checksum());
    assert!(last.frame().await.is_none());
    drop(last);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn no_byte_is_copied() {
    let data = Bytes::from(vec![7; 10 * KIB]);
    let (mut first, _memory) = body(Full::new(data.clone()), 64 * KIB);
    let mut again = first.clone();
    for body in [&mut first, &mut again] {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((frame.as_ptr(), frame.len()), (data.as_ptr(), data.len()));
        assert!(body.is_end_stream());
    }
}

#[tokio::test]
async fn a_server_that_answers_early_leaves_the_rest_to_the_next_attempt() {
    let mut script = script(&[1, 2], false);
    script.silent = true;
    script.frames.extend([None, Some(Ok(Frame::data(Bytes::from_static(b"end"))))]);
    let (mut first, _memory) = body(script, KIB);
    let again = first.clone();
    for len in [1, 2] {
        assert_eq!(first.frame().await.unwrap().unwrap().data_ref().unwrap().len(), len);
    }
    let mut stuck = task::spawn(first.frame());
    assert_pending!(stuck.poll());
    assert!(!stuck.is_woken());
    // The connection of the first attempt still has its body, and waits for more of it.
    assert_eq!(rest(again).await.unwrap().0, b"xxxend");
    assert!(stuck.is_woken());
    assert_eq!(assert_ready!(stuck.poll()).unwrap().unwrap_err(), ReplayError::Superseded);
    drop(stuck);
    assert!(!first.is_end_stream());
}

#[tokio::test]
async fn nothing_is_kept_for_nobody() {
    let (only, memory) = body(script(&[KIB; 4], false), 64 * KIB);
    assert_eq!(rest(only).await.unwrap().0.len(), 4 * KIB);
    assert_eq!((memory.held(), memory.too_long(), memory.refused()), (0, 0, 0));

    // The response was a success: from here on the body only passes through.
    let (mut first, memory) = body(script(&[KIB; 4], false), 64 * KIB);
    let again = first.clone();
    first.frame().await.unwrap().unwrap();
    assert_eq!(memory.held(), kept(1));
    drop(again);
    assert_eq!(memory.held(), 0);
    assert_eq!(rest(first).await.unwrap().0.len(), 3 * KIB);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn what_was_sent_again_to_the_last_is_freed_before_the_rest_is_read() {
    let (mut first, memory) = body(script(&[KIB; 4], false), 64 * KIB);
    let mut last = first.clone();
    first.frame().await.unwrap().unwrap();
    first.frame().await.unwrap().unwrap();
    drop(first);
    assert_eq!(memory.held(), kept(2));
    for held in [kept(2), kept(2), 0, 0] {
        assert_eq!(last.frame().await.unwrap().unwrap().data_ref().unwrap().len(), KIB);
        assert_eq!(memory.held(), held);
    }
    assert!(last.frame().await.is_none());
}

#[tokio::test]
async fn at_the_cap_of_the_process_bodies_flow_and_are_not_kept() {
    let memory = ReplayMemory::new(10 * KIB);
    let bodies: Vec<_> = (0..3).map(|_| ReplayBody::new(script(&[4 * KIB], false), 64 * KIB, &memory)).collect();
    let copies: Vec<_> = bodies.iter().map(ReplayBody::clone).collect();
    for body in bodies {
        assert_eq!(rest(body).await.unwrap().0.len(), 4 * KIB);
    }
    assert_eq!(copies.iter().map(ReplayBody::is_whole).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!((memory.held(), memory.refused()), (8 * KIB + 2 * ReplayMemory::FRAME_COST, 1));
    drop(copies);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn what_says_that_it_is_too_long_is_not_kept_at_all() {
    let script = Script { claims: 64 * KIB as u64, ..script(&[1], false) };
    let (mut first, memory) = body(script, 64 * KIB);
    let again = first.clone();
    assert!(again.is_whole());
    first.frame().await.unwrap().unwrap();
    assert_eq!((again.is_whole(), memory.held(), memory.too_long()), (false, 0, 1));
}

#[tokio::test]
async fn a_body_of_which_nothing_was_read_is_whole_whatever_its_length() {
    let (first, memory) = body(script(&[KIB; 1000], false), 0);
    let again = first.clone();
    drop(first);
    assert!(again.is_whole());
    assert_eq!(rest(again).await.unwrap().0.len(), 1000 * KIB);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn more_frames_than_can_be_kept_are_too_many_however_short() {
    for (frames, kept) in [(MAX_FRAMES, true), (MAX_FRAMES + 1, false)] {
        let (first, memory) = body(script(&vec![1; frames], false), 64 * KIB);
        let again = first.clone();
        assert_eq!(rest(first).await.unwrap().0.len(), frames);
        assert_eq!((again.is_whole(), memory.too_long()), (kept, u64::from(!kept)));
    }
}

#[tokio::test]
async fn small_frames_are_counted_as_what_they_take() {
    let memory = ReplayMemory::new(100 * KIB);
    let bodies: Vec<_> = (0..4).map(|_| ReplayBody::new(script(&[1; 300], false), 64 * KIB, &memory)).collect();
    let copies: Vec<_> = bodies.iter().map(ReplayBody::clone).collect();
    for body in bodies {
        rest(body).await.unwrap();
    }
    assert_eq!(copies.iter().map(ReplayBody::is_whole).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!((memory.held(), memory.refused()), (600 * (1 + ReplayMemory::FRAME_COST), 2));
}

#[tokio::test]
async fn a_body_that_failed_cannot_be_sent_again() {
    let mut script = script(&[1], false);
    script.frames.push_back(Some(Err("reset")));
    let (first, memory) = body(script, KIB);
    let again = first.clone();
    assert_eq!(rest(first).await.unwrap_err(), ReplayError::Body("reset"));
    assert_eq!((again.is_whole(), memory.held()), (false, 0));
    assert_eq!(rest(again).await.unwrap_err(), ReplayError::Lost);
}

#[tokio::test]
async fn a_lost_one_does_not_disturb_the_one_that_streams() {
    let (mut first, _memory) = body(script(&[KIB, KIB], false), KIB);
    let again = first.clone();
    first.frame().await.unwrap().unwrap();
    first.frame().await.unwrap().unwrap();
    assert_eq!(rest(again).await.unwrap_err(), ReplayError::Lost);
    assert!(first.frame().await.is_none());
}

#[tokio::test]
async fn it_says_how_long_it_is() {
    let (first, _memory) = body(Full::new(Bytes::from_static(b"hello")), KIB);
    let (again, empty) = (first.clone(), body(Full::new(Bytes::new()), KIB).0);
    assert_eq!((first.size_hint().exact(), first.is_end_stream()), (Some(5), false));
    rest(first).await.unwrap();
    assert_eq!((again.size_hint().exact(), again.is_end_stream()), (Some(5), false));
    assert!(empty.is_end_stream());
}

#[test]
fn errors_say_what_happened() {
    let error: ReplayError<std::io::Error> = ReplayError::Body(std::io::ErrorKind::BrokenPipe.into());
    assert_eq!(error.to_string(), "the body failed");
    assert!(error::Error::source(&error).is_some());
    assert!(error::Error::source(&ReplayError::<std::io::Error>::Lost).is_none());
    let never: ReplayError<Infallible> = ReplayError::Superseded;
    assert_eq!(never.to_string(), "another attempt has taken the body over");
}

proptest! {
    /// However it is cut into frames, and wherever the attempts end: what the last one sends is what was to be sent.
    #[test]
    fn replayed_bytes_equal_sent_bytes(
        data in prop::collection::vec(any::<u8>(), 0..2000),
        cuts in prop::collection::vec(0..2000_usize, 0..20),
        stops in prop::collection::vec((0..25_usize, any::<bool>()), 0..5),
        not_yet in any::<u32>(),
        trailers in any::<bool>(),
        cap in 0..2500_usize,
        gone_at in 0..25_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(data.len())).chain([0, data.len()]).collect();
        cuts.sort_unstable();
        let whole = Bytes::from(data.clone());
        let mut frames: VecDeque<Option<Item>> = VecDeque::new();
        for (i, cut) in cuts.windows(2).enumerate() {
            if not_yet >> (i % 32) & 1 == 1 {
                frames.push_back(None);
            }
            frames.push_back(Some(Ok(Frame::data(whole.slice(cut[0]..cut[1])))));
        }
        if trailers {
            frames.push_back(Some(Ok(Frame::trailers(checksum()))));
        }
        let (mut next, memory) = body(Script { frames, ..Script::default() }, cap);
        let mut given_up = Vec::new();
        for (frames, kept_by_its_connection) in stops {
            let again = next.clone();
            let mut attempt = std::mem::replace(&mut next, again);
            let sent: Vec<u8> = runtime.block_on(async {
                let mut sent = Vec::new();
                for _ in 0..frames {
                    let Some(Ok(frame)) = attempt.frame().await else { break };
                    sent.extend(frame.into_data().unwrap_or_default());
                }
                sent
            });
            prop_assert!(data.starts_with(&sent) || !attempt.is_whole());
            prop_assert!(memory.held() <= cap + (cuts.len() + 1) * ReplayMemory::FRAME_COST);
            if kept_by_its_connection && frames > 0 {
                given_up.push(attempt);
            }
        }
        let is_whole = next.is_whole();
        prop_assert!(is_whole || data.len() + 20 * usize::from(trailers) > cap, "it would have fitted");
        let last: Result<_, ReplayError<&str>> = runtime.block_on(async {
            let (mut sent, mut sent_trailers) = (Vec::new(), None);
            for i in 0.. {
                if i == gone_at {
                    // The connections of some attempts end while the last one is under way.
                    given_up.truncate(given_up.len() / 2);
                }
                let Some(frame) = next.frame().await else { break };
                match frame?.into_data() {
                    Ok(data) => sent.extend(data),
                    Err(frame) => sent_trailers = frame.into_trailers().ok(),
                }
            }
            drop(next);
            Ok((sent, sent_trailers))
        });
        match last {
            Ok((sent, sent_trailers)) => {
                prop_assert!(is_whole);
                prop_assert_eq!(sent, data);
                prop_assert_eq!(sent_trailers.is_some(), trailers);
            }
            Err(error) => {
                prop_assert!(!is_whole);
                prop_assert_eq!(error, ReplayError::Lost);
            }
        }
        for mut attempt in given_up {
            let rest = runtime.block_on(attempt.frame());
            let is_over = matches!(rest, None | Some(Err(ReplayError::Superseded | ReplayError::Lost)));
            prop_assert!(is_over || !is_whole, "{rest:?}");
        }
        prop_assert_eq!(memory.held(), 0);
    }
}

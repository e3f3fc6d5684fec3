//! Frames: whatever arrives, in whatever pieces.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::*;
use crate::transport::Heartbeat;

/// Reads all that is in these bytes, which arrive in pieces of these sizes.
fn read(bytes: &[u8], pieces: &[usize]) -> (Vec<Message>, Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let mut input = Input::new(theirs);
        let mut messages = Vec::new();
        let mut rest = bytes;
        let mut pieces = pieces.iter().copied().cycle();
        loop {
            let size = pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len().max(1)).min(rest.len());
            let (piece, next) = rest.split_at(size);
            ours.write_all(piece).await.unwrap();
            if next.is_empty() {
                break;
            }
            rest = next;
            // What is there is taken, and what is begun is left half read.
            while let Some(message) = futures::FutureExt::now_or_never(input.next()) {
                match message {
                    Ok(message) => messages.extend(message),
                    Err(error) => return (messages, Err(error.to_string())),
                }
            }
        }
        drop(ours);
        loop {
            match input.next().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, Ok(())),
                Err(error) => return (messages, Err(error.to_string())),
            }
        }
    })
}

fn written(messages: &[Message], max: usize) -> BytesMut {
    let mut out = BytesMut::new();
    for message in messages {
        fragment::write(message, max, &mut out);
    }
    out
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn message() -> impl Strategy<Value = Message> {
    let tag = 1..=MAX_TAG;
    let status = prop_oneof![Just(Status::Ok), Just(Status::Error), Just(Status::Nack)];
    let init =
        || (any::<u16>(), vec((bytes(), bytes()), 0..4)).prop_map(|(version, headers)| Init { version, headers });
    prop_oneof![
        (tag.clone(), bytes()).prop_map(|(tag, payload)| Message::Tdispatch { tag, payload }),
        (tag.clone(), status, bytes()).prop_map(|(tag, status, payload)| Message::Rdispatch { tag, status, payload }),
        (tag.clone(), init()).prop_map(|(tag, init)| Message::Tinit { tag, init }),
        (tag.clone(), init()).prop_map(|(tag, init)| Message::Rinit { tag, init }),
        tag.clone().prop_map(|tag| Message::Tping { tag }),
        tag.clone().prop_map(|tag| Message::Rping { tag }),
        tag.clone().prop_map(|tag| Message::Tdrain { tag }),
        tag.clone().prop_map(|tag| Message::Rdrain { tag }),
        (tag.clone(), bytes()).prop_map(|(which, reason)| Message::Tdiscarded { which, reason }),
        tag.clone().prop_map(|tag| Message::Rdiscarded { tag }),
        any::<u64>().prop_map(|millis| Message::Tlease { millis }),
        (tag.clone(), bytes(), any::<bool>()).prop_map(|(tag, text, is_old)| Message::Rerr { tag, text, is_old }),
        (3..60_i8, tag).prop_map(|(kind, tag)| Message::Unknown { kind, tag }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_survive_any_frames_and_pieces(
        messages in vec(message(), 0..8),
        max in 5..400_usize,
        pieces in vec(1..200_usize, 1..5),
    ) {
        let bytes = written(&messages, max);
        prop_assert_eq!(read(&bytes, &pieces), (messages, Ok(())));
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..300), pieces in vec(1..50_usize, 1..5)) {
        let whole = read(&bytes, &[usize::MAX]);
        prop_assert_eq!(read(&bytes, &pieces), whole);
    }

    #[test]
    fn no_change_of_a_good_stream_does_harm(
        messages in vec(message(), 1..5),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        pieces in vec(1..50_usize, 1..5),
    ) {
        let mut bytes = written(&messages, 100);
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        prop_assert_eq!(read(&bytes, &pieces), read(&bytes, &[usize::MAX]));
    }
}

#[test]
fn bytes_are_as_recorded() {
    let text = include_str!("../../tests/data/namerd/thrift-session.json");
    let recorded: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    for frame in recorded.iter().filter_map(|entry| entry["frame"].as_str()) {
        let bytes: Vec<u8> =
            (0..frame.len()).step_by(2).map(|i| u8::from_str_radix(&frame[i..i + 2], 16).unwrap()).collect();
        let (messages, end) = read(&bytes, &[usize::MAX]);
        assert_eq!((messages.len(), end), (1, Ok(())));
        kinds.insert(bytes[4].cast_signed());
        // Finagle's requests have contexts, which are left out.
        if bytes[4] != 2 {
            assert_eq!(written(&messages, MAX_FRAME), bytes);
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [-68, -66, -65, -64, -62, -2, 2, 64, 65, 68, 127]);
}

#[test]
fn a_stream_that_ends_in_the_middle_is_an_error() {
    let bytes = written(&[Message::Tping { tag: 1 }], MAX_FRAME);
    for end in 1..bytes.len() {
        assert_eq!(
            read(&bytes[..end], &[3]).1.unwrap_err(),
            "the peer does not speak mux as it should: a frame ends in the middle"
        );
    }
}

#[test]
fn lengths_are_bounded() {
    for length in [0, 3, (MAX_FRAME + 1) as u32, u32::MAX] {
        let error = read(&length.to_be_bytes(), &[4]).1.unwrap_err();
        assert!(error.ends_with(&format!("a frame of {length} bytes, of at least 4 and at most 16777216")), "{error}");
    }
}

#[test]
fn only_requests_and_answers_come_in_fragments() {
    for kind in i8::MIN..=i8::MAX {
        let frame = Bytes::from(vec![kind.cast_unsigned(), 0x80, 0, 5]);
        let expected = if [2, -2].contains(&kind) { Ok(None) } else { Err(Malformed::Fragment(kind)) };
        assert_eq!(fragment::Fragments::new(MAX_FRAME).add(frame), expected);
    }
}

#[test]
fn unfinished_messages_are_bounded() {
    let fragment = |tag: u32, size: usize| -> Bytes {
        let mut frame = vec![2, (tag >> 16) as u8 | 0x80, (tag >> 8) as u8, tag as u8];
        frame.resize(4 + size, 0);
        frame.into()
    };
    let mut fragments = fragment::Fragments::new(MAX_FRAME);
    for _ in 0..16 {
        assert_eq!(fragments.add(fragment(5, (1 << 20) - 8)), Ok(None));
    }
    assert_eq!(fragments.add(fragment(5, 1 << 20)), Err(Malformed::Fragments));

    // Empty ones cost, too.
    let mut fragments = fragment::Fragments::new(MAX_FRAME);
    let first_refused = (1..1 << 20).find(|tag| fragments.add(fragment(*tag, 0)).is_err());
    assert_eq!(first_refused, Some(1 + (MAX_FRAME / 64) as u32));

    // What is discarded makes room.
    let mut fragments = fragment::Fragments::new(MAX_FRAME);
    for _ in 0..100 {
        assert_eq!(fragments.add(fragment(5, 1 << 20)), Ok(None));
        let discard = Bytes::from_static(&[66, 0, 0, 0, 0, 0, 5]);
        assert!(fragments.add(discard).unwrap().is_some());
    }
}

#[test]
fn heartbeats_keep_their_times() {
    let ms = Duration::from_millis;
    let start = Instant::now();
    let mut pulse = Pulse::new(Heartbeat { period: ms(50), timeout: ms(40) }, start);
    assert_eq!(pulse.due(), Some(start + ms(50)));
    // What comes unasked changes nothing.
    pulse.alive(start + ms(20));
    assert_eq!(pulse.due(), Some(start + ms(50)));

    assert_eq!(pulse.beat(start + ms(50)), Beat::Ping);
    assert_eq!(pulse.due(), Some(start + ms(90)));
    pulse.alive(start + ms(60));
    assert_eq!(pulse.due(), Some(start + ms(110)));
    assert_eq!(pulse.beat(start + ms(110)), Beat::Ping);
    assert_eq!(pulse.beat(start + ms(150)), Beat::Dead);

    pulse.refused();
    assert_eq!(pulse.due(), None);
}

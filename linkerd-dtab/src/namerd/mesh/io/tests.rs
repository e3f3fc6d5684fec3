use std::{collections::VecDeque, pin::pin};

use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio_test::task;

use super::*;

const INDEXED: &[u8] = &[0x81];
const METHOD: &[u8] = &[0x83];

/// A reader of these pieces, one for each read.
#[derive(Debug)]
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn read(pieces: impl IntoIterator<Item = Vec<u8>>, at_once: usize) -> Vec<u8> {
    let mut io = pin!(Io::new(Pieces(pieces.into_iter().filter(|piece| !piece.is_empty()).collect())));
    let (mut all, mut buf) = (Vec::new(), vec![0; at_once]);
    loop {
        let mut reading = task::spawn(io.read(&mut buf));
        let read = loop {
            match reading.poll() {
                Poll::Ready(read) => break read,
                Poll::Pending => assert!(reading.is_woken(), "nobody goes on to read"),
            }
        };
        match read.unwrap() {
            0 => return all,
            read => all.extend_from_slice(&buf[..read]),
        }
    }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 3]);
    frame.extend(payload);
    frame
}

fn headers(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, payload)
}

/// What becomes of these frames behind the preface.
fn passed(frames: &[Vec<u8>]) -> Vec<u8> {
    let all = read([[PREFACE, &frames.concat()].concat()], 64 << 10);
    assert!(all.starts_with(PREFACE));
    all[PREFACE.len()..].to_vec()
}

#[test]
fn an_empty_authority_is_taken_out_however_it_is_written() {
    let huffman = [&[0x10, 0x88][..], &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f], &[0x80]].concat();
    let fields: [&[u8]; 6] = [
        INDEXED,
        // Without indexing, the value in Huffman code or not; never indexed; the name as a text.
        &[0x01, 0x00],
        &[0x01, 0x80],
        &[0x11, 0x00],
        b"\x00\x0a:authority\x00",
        &huffman,
    ];
    for field in fields {
        let block = [METHOD, field, &[0x86, 0xbf]].concat();
        let expected = headers(END_HEADERS, &[METHOD, &[0x86, 0xbf]].concat());
        assert_eq!(passed(&[headers(END_HEADERS, &block)]), expected, "{field:02x?}");
    }
}

#[test]
fn all_else_passes_as_it_came() {
    let with_authority = [METHOD, b"\x01\x03web"].concat();
    let indexed = [METHOD, &[0x41, 0x00]].concat();
    let of_another_name = [METHOD, b"\x00\x07:author\x00\x04\x00"].concat();
    let cut = [INDEXED, &[0x0f]].concat();
    let endless = [INDEXED, &[0xff, 0xff, 0xff, 0xff, 0xff]].concat();
    let cases = [
        headers(END_HEADERS, &with_authority),
        headers(END_HEADERS, &indexed),
        headers(END_HEADERS, &of_another_name),
        // Malformed: a length without its text, an integer without an end, more padding than there is.
        headers(END_HEADERS, &cut),
        headers(END_HEADERS, &endless),
        headers(END_HEADERS | 0x8, &[200, 0x81, 0x00]),
        headers(END_HEADERS, b""),
        // No headers, or too long ones.
        frame(0, 1, INDEXED),
        frame(CONTINUATION, END_HEADERS, INDEXED),
        headers(END_HEADERS, &INDEXED.repeat(MAX_BLOCK - HEAD + 1)),
    ];
    for case in cases {
        assert_eq!(passed(std::slice::from_ref(&case)), case, "{:02x?}", &case[..case.len().min(32)]);
    }
    let not_http2 = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    assert_eq!(read([not_http2.clone()], 7), not_http2);
}

#[test]
fn a_block_of_the_greatest_length_is_looked_into() {
    let long = METHOD.repeat(MAX_BLOCK - HEAD - 1);
    let block = [&long, INDEXED].concat();
    assert_eq!(passed(&[headers(END_HEADERS, &block)]), headers(END_HEADERS, &long));
}

#[test]
fn padding_and_priority_stay() {
    let block = [&[2][..], &[0, 0, 0, 0, 16], METHOD, INDEXED, &[0x86], &[0, 0]].concat();
    let expected = [&[2][..], &[0, 0, 0, 0, 16], METHOD, &[0x86], &[0, 0]].concat();
    let flags = END_HEADERS | 0x8 | 0x20;
    assert_eq!(passed(&[headers(flags, &block)]), headers(flags, &expected));
}

#[test]
fn a_field_may_lie_in_two_frames() {
    let frames =
        [headers(1, &[0x83, 0x01]), frame(CONTINUATION, 0, &[]), frame(CONTINUATION, END_HEADERS, &[0x00, 0x86])];
    let expected = [headers(1, &[0x83]), frame(CONTINUATION, 0, &[]), frame(CONTINUATION, END_HEADERS, &[0x86])];
    assert_eq!(passed(&frames), expected.concat());
}

#[test]
fn frames_between_those_of_a_block_pass_and_so_does_the_block() {
    let frames = [headers(0, &[0x83, 0x81]), frame(6, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, &[0x81])];
    assert_eq!(passed(&frames), frames.concat());
}

#[test]
fn what_follows_a_block_that_is_too_long_is_looked_into_again() {
    let long = [headers(0, &METHOD.repeat(16 << 10)), frame(CONTINUATION, END_HEADERS, INDEXED)].concat();
    let frames = [long.clone(), headers(END_HEADERS, &[0x83, 0x81])];
    assert_eq!(passed(&frames), [long, headers(END_HEADERS, &[0x83])].concat());
}

#[test]
fn a_connection_that_ends_in_a_frame_loses_nothing() {
    let whole = [PREFACE, &headers(END_HEADERS, &[0x83, 0x81])].concat();
    for end in 0..whole.len() {
        assert_eq!(read([whole[..end].to_vec()], 64), whole[..end], "{end}");
    }
}

#[test]
fn nothing_is_kept_while_nothing_comes() {
    let frames = [PREFACE, &headers(END_HEADERS, &INDEXED.repeat(8000))].concat();
    let mut io = Io::new(Pieces(VecDeque::from([frames])));
    let mut buf = vec![0; 64 << 10];
    while !matches!(task::spawn(pin!(io.read(&mut buf))).poll(), Poll::Ready(Ok(0))) {}
    assert_eq!([io.held.bytes.capacity(), io.ahead.bytes.capacity(), io.out.bytes.capacity()], [0; 3]);
}

#[test]
fn what_requests_came_with_at_once_is_given_a_frame_at_a_time() {
    let (request, ping) = (headers(END_HEADERS, METHOD), frame(6, 0, &[0; 8]));
    let frames = [request.clone(), frame(DATA, 0, b"data"), ping.clone(), request.clone(), ping, request];
    let mut io = Io::new(Pieces(VecDeque::from([[PREFACE, &frames.concat()].concat()])));
    let (mut given, mut buf) = (vec![0], [0; 64]);
    loop {
        let mut reading = task::spawn(io.read(&mut buf));
        match reading.poll() {
            Poll::Ready(Ok(0)) => break,
            Poll::Ready(read) => *given.last_mut().unwrap() += read.unwrap(),
            Poll::Pending => {
                assert!(reading.is_woken());
                given.push(0);
            }
        }
    }
    // In between it is said twice that nothing is there.
    given.retain(|&given| given > 0);
    assert_eq!(given, [PREFACE.len() + 10, 13 + 17, 10 + 17, 10]);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        Just(INDEXED.to_vec()),
        Just(METHOD.to_vec()),
        Just(b"\x01\x00".to_vec()),
        Just(b"\x01\x03web".to_vec()),
        Just(b"\x41\x00".to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    let block = prop::collection::vec(field, 0..6).prop_map(|fields| fields.concat());
    prop_oneof![
        block.clone().prop_map(|block| headers(END_HEADERS, &block)),
        (block.clone(), block.clone())
            .prop_map(|(a, b)| [headers(0, &a), frame(CONTINUATION, END_HEADERS, &b)].concat()),
        (any::<u8>(), any::<u8>(), block.clone()).prop_map(|(kind, flags, block)| frame(kind, flags, &block)),
        prop::collection::vec(any::<u8>(), 0..3000).prop_map(|data| frame(0, 0, &data)),
    ]
}

proptest! {
    #[test]
    fn every_split_gives_the_same(
        frames in prop::collection::vec(any_frame(), 0..6),
        has_preface in any::<bool>(),
        mut splits in prop::collection::vec(0_usize..4000, 0..20),
        at_once in 1_usize..2000,
    ) {
        let whole = [if has_preface { PREFACE } else { b"" }, &frames.concat()].concat();
        let at_once_read = read([whole.clone()], 64 << 10);
        splits.retain(|&split| split < whole.len());
        splits.extend([0, whole.len()]);
        splits.sort_unstable();
        let pieces: Vec<_> = splits.windows(2).map(|pair| whole[pair[0]..pair[1]].to_vec()).collect();
        prop_assert_eq!(&read(pieces, at_once), &at_once_read);
        let bytes = whole.iter().map(|&byte| vec![byte]);
        prop_assert_eq!(read(bytes, 1), at_once_read);
    }
}

//! The names of headers as their sender wrote them.
//!
//! To HTTP the case of a name means nothing, and `http` keeps none. hyper can keep it, in a map beside the map of headers,
//! which costs a quarter of all that a small request takes here: it is made for each message, hashed for each name, and
//! copied with each request that may have to go out again. But only letters differ, and names are as long as they were: so
//! it is done on the bytes of a connection. What is read is looked at where a head begins, and of a head that is written
//! the names are spelled as in the head that it was made of. Nothing else of it is changed, and nothing that is not in a
//! head: what is no head by its first line goes out as it is.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use http::Extensions;
use memchr::{memchr, memchr2};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{RequestContext, io::forward};

/// Of heads that are longer, and of what is behind them, no names are kept.
const MAX_HEAD: usize = 64 * 1024;

/// No more than so many bytes of names are kept for the next head, and as much room for it: that of some twenty headers.
const MAX_KEPT: usize = 512;

/// So many names are compared for a head before the rest of its names stay as they are: sixty-four headers in any order.
const MAX_LOOKS: usize = 4096;

/// So many buffers are written with a head at once; more come with the next write.
const MAX_BUFS: usize = 8;

/// How a message spells the names of its headers. It goes with all copies of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spelling(Names);

/// One name after the other: its length, the name in lower case, and as it was spelled.
type Names = Arc<[u8]>;

/// What the two ends of a message know of a connection: who sends and receives messages, and the [connection](Spelled) itself.
#[derive(Debug, Default)]
pub(crate) struct Spellings(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    heads: Heads,
    /// What is here of heads that were not told of.
    begun: Vec<u8>,
    /// Whether `names` are those of a head that was not told of.
    is_heard: bool,
    names: Vec<u8>,
    has_body: bool,
    /// Whether they are those of `told` again, which then are not in `names`.
    is_told: bool,
    /// Those of the head before, if they are short: mostly the next one has the same.
    told: Option<Told>,
    /// How the next head that is written spells its names.
    next: Option<Spelling>,
}

/// The names of a head that was told of.
#[derive(Debug)]
struct Told {
    spelling: Spelling,
    /// None has an upper-case letter.
    is_plain: bool,
    has_body: bool,
}

/// Which of the bytes that come are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Heads {
    /// Not these: they are a body's.
    #[default]
    None,
    /// One head, after those of interim answers.
    One,
    /// Head after head, until one says that it has a body.
    #[cfg(feature = "server")]
    All,
}

impl Spellings {
    /// What is read next is the head of an answer. The next head that is written is that of its request.
    pub(super) fn exchange(&self, request: Option<Spelling>) {
        let mut state = self.lock();
        state.await_heads(Heads::One);
        state.next = request;
    }

    /// What is read next is the head of a request, unless it was read before, in part or whole.
    #[cfg(feature = "server")]
    pub(super) fn await_request(&self) {
        let mut state = self.lock();
        if state.heads == Heads::None && !state.is_heard {
            state.await_heads(Heads::All);
        }
    }

    /// How the next head is spelled that is written.
    #[cfg(feature = "server")]
    pub(super) fn answer(&self, answer: Spelling) {
        self.lock().next = Some(answer);
    }

    /// What comes now is not HTTP/1 any more.
    #[cfg(feature = "server")]
    pub(super) fn leave(&self) {
        self.lock().await_heads(Heads::None);
    }

    /// How the head is spelled that came, if any name of it has an upper-case letter and it was seen from its beginning.
    pub(super) fn heard(&self) -> Option<Spelling> {
        self.lock().heard()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn await_heads(&mut self, heads: Heads) {
        self.heads = heads;
        self.begun = Vec::new();
        self.is_heard = false;
    }

    /// Looks at what was read.
    fn read(&mut self, bytes: &[u8]) {
        if self.heads == Heads::None || bytes.is_empty() {
            return;
        }
        if self.begun.is_empty() && !self.is_heard {
            // Mostly all of the head, and nothing else.
            let taken = self.take(bytes);
            return self.keep(&bytes[taken..]);
        }
        self.keep(bytes);
        // Nothing ends without the end of a line.
        if !self.is_heard && memchr(b'\n', bytes).is_some() {
            self.go_on();
        }
    }

    /// Looks at what was kept.
    fn go_on(&mut self) {
        let begun = std::mem::take(&mut self.begun);
        let taken = self.take(&begun);
        if taken == 0 {
            self.begun = begun;
        } else {
            self.keep(&begun[taken..]);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.heads == Heads::None || bytes.is_empty() {
            return;
        }
        if self.begun.len() + bytes.len() > MAX_HEAD {
            self.heads = Heads::None;
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    /// Takes what is here of whole heads up to one that is to be told of.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(head) = self.read_head(&bytes[taken..]) {
            taken += head.len;
            if head.is_interim {
                continue;
            }
            self.is_heard = true;
            self.has_body = head.has_body;
            if self.heads == Heads::One || head.has_body {
                self.heads = Heads::None;
            }
            break;
        }
        taken
    }

    /// Reads the names of a head, if it is whole.
    fn read_head(&mut self, bytes: &[u8]) -> Option<Head> {
        if let Some(told) = &self.told
            && let Some(len) = told.spelling.len_of(bytes)
        {
            self.is_told = true;
            return Some(Head { len, is_interim: false, has_body: told.has_body });
        }
        self.is_told = false;
        read_head(bytes, &mut self.names)
    }

    fn heard(&mut self) -> Option<Spelling> {
        if !std::mem::take(&mut self.is_heard) {
            return None;
        }
        let spelling = match &self.told {
            Some(told) if self.is_told => (!told.is_plain).then(|| told.spelling.clone()),
            _ => self.tell(),
        };
        if !self.begun.is_empty() {
            self.go_on();
        }
        spelling
    }

    /// Tells of `names`.
    fn tell(&mut self) -> Option<Spelling> {
        let is_plain = !self.names.iter().any(u8::is_ascii_uppercase);
        let is_kept = self.names.len() <= MAX_KEPT;
        let spelling = (is_kept || !is_plain).then(|| Spelling(Arc::from(&*self.names)));
        if self.names.capacity() > MAX_KEPT {
            self.names = Vec::new();
        }
        let told = |spelling| Told { spelling, is_plain, has_body: self.has_body };
        self.told = spelling.clone().filter(|_| is_kept).map(told);
        spelling.filter(|_| !is_plain)
    }
}

/// What is known of a head that was read.
struct Head {
    len: usize,
    is_interim: bool,
    has_body: bool,
}

/// Reads the names of a head, if it is whole.
fn read_head(bytes: &[u8], names: &mut Vec<u8>) -> Option<Head> {
    names.clear();
    if names.capacity() == 0 {
        names.reserve_exact(bytes.len().min(MAX_KEPT));
    }
    let mut has_body = false;
    let mut at = 0;
    // Lines before a message are not part of it.
    while let Some(len) = memchr(b'\n', &bytes[at..]).filter(|&len| is_blank(&bytes[at..at + len])) {
        at += len + 1;
    }
    let is_interim = is_interim(&bytes[at..]);
    at += memchr(b'\n', &bytes[at..])? + 1;
    loop {
        let len = memchr(b'\n', &bytes[at..])?;
        let line = &bytes[at..at + len];
        at += len + 1;
        if is_blank(line) {
            return Some(Head { len: at, is_interim, has_body });
        }
        let name = name_of(line);
        if let Ok(len) = u8::try_from(name.len())
            && len > 0
        {
            names.push(len);
            names.extend_from_slice(name);
            names.extend_from_slice(name);
            let lower = names.len() - 2 * name.len();
            names[lower..][..name.len()].make_ascii_lowercase();
            has_body |= name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding");
        }
    }
}

fn is_blank(line: &[u8]) -> bool {
    matches!(line, [] | [b'\r'])
}

/// What is before the colon of a line.
fn name_of(line: &[u8]) -> &[u8] {
    match memchr2(b':', b'\n', line) {
        Some(len) if line[len] == b':' => line[..len].trim_ascii_end(),
        _ => &[],
    }
}

/// Whether a head is of an answer after which another one comes.
fn is_interim(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.") && head.get(9) == Some(&b'1') && head.get(9..12) != Some(b"101")
}

impl Spelling {
    /// How a request is spelled that has these extensions: those of an attempt, or what a server knows of a request that
    /// came here without being routed.
    pub(super) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().or_else(|| extensions.get::<RequestContext>()?.spelling.as_ref()).cloned()
    }

    /// How long the head is that is here, if it is an answer or a request with these names and no others, in this order and
    /// spelled like this.
    fn len_of(&self, bytes: &[u8]) -> Option<usize> {
        if is_interim(bytes) {
            return None;
        }
        let line = memchr(b'\n', bytes).filter(|&len| !is_blank(&bytes[..len]))?;
        let (mut at, mut names) = (line + 1, &self.0[..]);
        while let Some((&len, rest)) = names.split_first() {
            let (name, rest) = rest.split_at_checked(2 * usize::from(len))?;
            let (_, spelled) = name.split_at(name.len() / 2);
            let value = bytes[at..].strip_prefix(spelled)?.strip_prefix(b":")?;
            at = bytes.len() - value.len() + memchr(b'\n', value)? + 1;
            names = rest;
        }
        match bytes[at..] {
            [b'\n', ..] => Some(at + 1),
            [b'\r', b'\n', ..] => Some(at + 2),
            _ => None,
        }
    }

    /// Writes into `head` what is about to be written, up to the last name that is spelled anew. `None` if it is no head.
    fn spell(&self, bytes: &[u8], head: &mut Vec<u8>) -> Option<()> {
        let mut at = 0;
        while is_interim(&bytes[at..]) {
            at += memchr::memmem::find(&bytes[at..], b"\r\n\r\n")? + 4;
        }
        let line = memchr(b'\n', &bytes[at..])?;
        if !is_first_line(&bytes[at..at + line]) {
            return None;
        }
        at += line + 1;
        let mut finder = Finder::new(&self.0);
        // What a proxy adds comes last, so the rest of the head is seldom of interest.
        while !finder.is_done() {
            let line = &bytes[at..];
            let len = memchr(b'\n', line)?;
            if is_blank(&line[..len]) {
                break;
            }
            if let Some(spelled) = finder.find(line) {
                if head.capacity() == 0 {
                    head.reserve_exact(bytes.len());
                }
                head.extend_from_slice(&bytes[head.len()..at]);
                head.extend_from_slice(spelled);
            }
            at += len + 1;
        }
        Some(())
    }
}

/// Whether this is how a message begins: `GET / HTTP/1.1`, or `HTTP/1.1 200 OK`.
fn is_first_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.starts_with(b"HTTP/1.") || line.len() > 9 && line[line.len() - 9..].starts_with(b" HTTP/1.")
}

/// Finds names one after the other, in about the order in which they are asked for.
struct Finder<'a> {
    names: &'a [u8],
    next: usize,
    looks: usize,
    /// Whether all names before `next` were asked for, and no other twice.
    is_in_order: bool,
    /// Which lengths there are, modulo 64, once that was asked: most that are not there have another one.
    lengths: Option<u64>,
}

/// A name of a [`Finder`], and where the next one is.
struct Found<'a> {
    lower: &'a [u8],
    spelled: &'a [u8],
    end: usize,
}

impl<'a> Finder<'a> {
    fn new(names: &'a [u8]) -> Self {
        Self { names, next: 0, looks: MAX_LOOKS, is_in_order: true, lengths: None }
    }

    fn has_length(&mut self, len: usize) -> bool {
        let lengths = self.lengths.unwrap_or_else(|| {
            let (mut lengths, mut at) = (0, 0);
            while at < self.names.len() {
                let Found { lower, end, .. } = self.at(at);
                lengths |= 1 << (lower.len() % 64);
                at = end;
            }
            lengths
        });
        self.lengths = Some(lengths);
        lengths >> (len % 64) & 1 != 0
    }

    fn at(&self, at: usize) -> Found<'a> {
        let (len, names) = (usize::from(self.names[at]), &self.names[at + 1..]);
        let (lower, names) = names.split_at(len);
        Found { lower, spelled: &names[..len], end: at + 1 + 2 * len }
    }

    /// Whether all were asked for.
    fn is_done(&self) -> bool {
        self.is_in_order && self.next == self.names.len()
    }

    /// How the name of a line is spelled, which is in lower case there.
    fn find(&mut self, line: &[u8]) -> Option<&'a [u8]> {
        if self.next < self.names.len() {
            // Mostly it is this one.
            let Found { lower, spelled, end } = self.at(self.next);
            if line.get(lower.len()) == Some(&b':') && line.starts_with(lower) {
                self.next = end;
                return Some(spelled);
            }
        }
        let name = name_of(line);
        if !self.has_length(name.len()) {
            return None;
        }
        let next = self.next;
        self.find_within(next, self.names.len(), name).or_else(|| self.find_within(0, next, name))
    }

    fn find_within(&mut self, from: usize, to: usize, name: &[u8]) -> Option<&'a [u8]> {
        let mut at = from;
        while at < to && self.looks > 0 {
            self.looks -= 1;
            let Found { lower, spelled, end } = self.at(at);
            if lower == name {
                self.is_in_order = false;
                self.next = end;
                return Some(spelled);
            }
            at = end;
        }
        None
    }
}

/// A connection on which heads are looked at when they are read, and spelled when they are written.
#[derive(Debug)]
pub(super) struct Spelled<I> {
    inner: I,
    spellings: Option<Arc<Spellings>>,
    /// A head that is being written in place of the one that is given to be, from here on.
    head: Vec<u8>,
    written: usize,
}

impl<I> Spelled<I> {
    /// Does nothing without `spellings`.
    pub(super) fn of(inner: I, spellings: Option<Arc<Spellings>>) -> Self {
        Self { inner, spellings, head: Vec::new(), written: 0 }
    }

    /// Makes the head that is written in place of what is given.
    fn begin(&mut self, bytes: &[u8]) {
        let Some(spellings) = &self.spellings else { return };
        let Some(next) = spellings.lock().next.take() else { return };
        if next.spell(bytes, &mut self.head).is_none() {
            self.done();
        }
    }

    /// What is written in place of the first so many bytes that are given.
    fn instead(&mut self, bytes: &[u8]) -> &[u8] {
        if self.head.is_empty() && !bytes.is_empty() {
            self.begin(bytes);
        }
        // What was given before and was not taken is given again.
        let left = self.head.len() - self.written;
        if self.written > 0
            && !bytes.get(..left).is_some_and(|same| same.eq_ignore_ascii_case(&self.head[self.written..]))
        {
            self.done();
        }
        &self.head[self.written..]
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.head.len() {
            self.done();
        }
    }

    /// Makes room for the next one.
    fn done(&mut self) {
        self.head.clear();
        self.written = 0;
        if self.head.capacity() > MAX_KEPT {
            self.head = Vec::new();
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Spelled<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Some(spellings) = &self.spellings
            && buf.filled().len() > before
        {
            spellings.lock().read(&buf.filled()[before..]);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Spelled<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    forward!(inner: poll_flush, poll_shutdown, is_write_vectored);

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let skipped = bufs.iter().take_while(|buf| buf.is_empty()).count();
        let bufs = &bufs[skipped..];
        let given = bufs.first().map_or(&[][..], |buf| buf);
        let is_new = this.head.is_empty();
        let left = this.instead(given).len();
        if left == 0 {
            return Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        }
        let mut all = [IoSlice::new(&[]); MAX_BUFS];
        all[0] = IoSlice::new(&this.head[this.written..]);
        all[1] = IoSlice::new(&given[left..]);
        let mut len = 2;
        for (place, buf) in all[2..].iter_mut().zip(&bufs[1..]) {
            *place = IoSlice::new(buf);
            len += 1;
        }
        // The next head is in the same buffer if there is no body in between.
        let has_next = !is_new && this.spellings.as_ref().is_some_and(|spellings| spellings.lock().next.is_some());
        let all = &all[..if has_next { 1 } else { len }];
        let n = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, all))?;
        this.wrote(n.min(left));
        Poll::Ready(Ok(n))
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_test::io::Builder;

    use super::*;

    impl Spellings {
        fn read(&self, bytes: &str) {
            self.lock().read(bytes.as_bytes());
        }

        /// The names that were heard, with a comma behind each.
        fn names(&self) -> Option<String> {
            self.heard().map(|Spelling(names)| {
                let (mut text, mut at) = (String::new(), 0);
                let finder = Finder::new(&names);
                while at < names.len() {
                    let Found { spelled, end, .. } = finder.at(at);
                    text += std::str::from_utf8(spelled).unwrap();
                    text.push(',');
                    at = end;
                }
                text
            })
        }
    }

    fn spelling(names: &[&str]) -> Spelling {
        let mut bytes = Vec::new();
        let head = names.iter().map(|name| format!("{name}: a\r\n")).collect::<Vec<_>>().concat();
        read_head(format!("GET / HTTP/1.1\r\n{head}\r\n").as_bytes(), &mut bytes).unwrap();
        Spelling(bytes.into())
    }

    fn spell(names: &[&str], head: &str) -> Option<String> {
        let mut spelled = Vec::new();
        spelling(names).spell(head.as_bytes(), &mut spelled)?;
        let rest = &head[spelled.len()..];
        Some(String::from_utf8(spelled).unwrap() + rest)
    }

    #[test]
    fn requests_are_heard_whole_in_parts_and_one_behind_the_other() {
        let first = "GET / HTTP/1.1\r\nHost: a\r\nX-A:b\r\n\r\n";
        let second = "GET / HTTP/1.1\r\nHOST: a\r\n\r\n";
        let all = format!("{first}{second}");
        for step in 1..=all.len() {
            let spellings = Spellings::default();
            spellings.await_request();
            for part in all.as_bytes().chunks(step) {
                spellings.read(std::str::from_utf8(part).unwrap());
            }
            assert_eq!(spellings.names().as_deref(), Some("Host,X-A,"), "{step}");
            // hyper has it already.
            spellings.await_request();
            assert_eq!(spellings.names().as_deref(), Some("HOST,"), "{step}");
            assert_eq!(spellings.names(), None);
        }
    }

    #[test]
    fn a_body_is_no_head() {
        let spellings = Spellings::default();
        spellings.await_request();
        spellings.read("POST / HTTP/1.1\r\nContent-Length: 25\r\n\r\nGET / HTTP/1.1\r\n");
        assert_eq!(spellings.names().as_deref(), Some("Content-Length,"));
        spellings.read("X-A: b\r\n\r\n");
        assert_eq!(spellings.names(), None);
        assert!(spellings.lock().begun.is_empty());
        spellings.await_request();
        spellings.read("GET / HTTP/1.1\r\nX-B: b\r\n\r\n");
        assert_eq!(spellings.names().as_deref(), Some("X-B,"));
    }

    #[test]
    fn an_answer_is_heard_after_interim_ones() {
        let spellings = Spellings::default();
        for _ in 0..2 {
            spellings.exchange(None);
            spellings.read("HTTP/1.1 103 X\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nETag: a\r\n\r\nX-Body: yes\r\n\r\n");
            assert_eq!(spellings.names().as_deref(), Some("ETag,"));
            spellings.read("X-More: yes\r\n\r\n");
            assert_eq!(spellings.names(), None);
            assert!(spellings.lock().begun.is_empty());
        }
        spellings.exchange(None);
        spellings.read("HTTP/1.1 101 X\r\nUpgrade: a\r\n\r\n");
        assert_eq!(spellings.names().as_deref(), Some("Upgrade,"));
        // What nobody asked how it is spelled is not taken for what comes next.
        spellings.exchange(None);
        spellings.read("HTTP/1.1 200 OK\r\nA: b\r\n\r\n");
        spellings.exchange(None);
        assert_eq!(spellings.names(), None);
    }

    #[test]
    fn a_head_that_only_begins_like_the_one_before_has_other_names() {
        let heads = [
            ("", "Host: a\r\nX-A: b\r\n", Some("Host,X-A,")),
            ("", "Host: bb\r\nX-A:\r\n", Some("Host,X-A,")),
            ("", "Host: a\r\n", Some("Host,")),
            ("", "Host: a\r\nX-A: b\r\n", Some("Host,X-A,")),
            ("", "Host: a\r\nX-Ab: b\r\n", Some("Host,X-Ab,")),
            ("", "host: a\r\nx-ab: b\r\n", None),
            ("", "Host: a\r\nx-ab: b\r\n", Some("Host,x-ab,")),
            ("", "", None),
            ("\r\n\r\n", "Host: a\r\n", Some("Host,")),
            ("", "", None),
        ];
        for step in [1, 7, 1000] {
            let spellings = Spellings::default();
            for (before, lines, names) in heads {
                spellings.await_request();
                for part in format!("{before}GET / HTTP/1.1\r\n{lines}\r\n").as_bytes().chunks(step) {
                    spellings.read(std::str::from_utf8(part).unwrap());
                }
                assert_eq!(spellings.names().as_deref(), names, "{lines} {step}");
            }
        }
    }

    #[test]
    fn the_same_names_are_kept_once_and_plain_ones_are_not_told_of() {
        let spellings = Spellings::default();
        let hear = |head: &str| {
            spellings.exchange(None);
            spellings.read(head);
            spellings.heard()
        };
        let first = hear("HTTP/1.1 200 OK\r\nETag: a\r\n\r\n").unwrap();
        let second = hear("HTTP/1.1 200 OK\r\nETag: b\r\n\r\n").unwrap();
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert_eq!(hear("HTTP/1.1 200 OK\r\netag: b\r\n\r\n"), None);
    }

    #[test]
    fn an_idle_connection_keeps_a_kilobyte_at_most() {
        let spellings = Spellings::default();
        for (headers, is_kept) in [(10, true), (200, false), (10, true)] {
            spellings.await_request();
            let lines = (0..headers).map(|n| format!("X-Header-{n}: a\r\n")).collect::<Vec<_>>().concat();
            spellings.read(&format!("GET / HTTP/1.1\r\n{lines}\r\n"));
            assert_eq!(spellings.names().map(|names| names.matches(',').count()), Some(headers));
            let state = spellings.lock();
            assert_eq!(state.told.is_some(), is_kept);
            assert!(state.names.capacity() <= MAX_KEPT && state.begun.capacity() == 0);
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let spellings = Spellings::default();
        spellings.await_request();
        spellings.read("GET / HTTP/1.1\r\nX-A: ");
        for _ in 0..=MAX_HEAD / 1024 {
            spellings.read(&"a".repeat(1024));
        }
        spellings.read("\r\n\r\n");
        assert_eq!(spellings.names(), None);
        assert_eq!(spellings.lock().begun.capacity(), 0);
        // The next one is.
        spellings.await_request();
        spellings.read("GET / HTTP/1.1\r\nX-B: b\r\n\r\n");
        assert_eq!(spellings.names().as_deref(), Some("X-B,"));
    }

    #[test]
    fn heads_are_spelled_and_nothing_else() {
        for (names, head, expected) in [
            (
                &["Host", "X-A"][..],
                "GET / HTTP/1.1\r\nhost: x-a\r\nvia: 1\r\nx-a: b\r\n\r\n",
                "Host: x-a\r\nvia: 1\r\nX-A: b\r\n",
            ),
            (&["X-A", "x-A"], "GET / HTTP/1.1\r\nx-a: 1\r\nx-a: 2\r\nx-a: 3\r\n\r\n", "X-A: 1\r\nx-A: 2\r\nx-a: 3\r\n"),
            (&["B", "A"], "GET / HTTP/1.1\r\na: 1\r\nb: 2\r\n\r\nb: 3\r\n\r\n", "A: 1\r\nB: 2\r\n\r\nb: 3\r\n"),
            (&["A", "B"], "GET / HTTP/1.1\r\na: 1\r\na: 2\r\nb: 3\r\n\r\n", "A: 1\r\nA: 2\r\nB: 3\r\n"),
            (&["A", "Gone", "B"], "GET / HTTP/1.1\r\na: 1\r\nb: 3\r\n\r\nb", "A: 1\r\nB: 3\r\n"),
        ] {
            let body = if head.ends_with('b') { "b" } else { "" };
            let expected = format!("GET / HTTP/1.1\r\n{expected}\r\n{body}");
            assert_eq!(spell(names, head).as_deref(), Some(&*expected), "{head}");
        }
        let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\na: b\r\n\r\n";
        assert_eq!(spell(&["A"], answer).as_deref(), Some(&*answer.replace('a', "A")));
        let other = "HTTP/1.1 200 OK\r\nb: a\r\n\r\n";
        assert_eq!(spell(&["A"], other).as_deref(), Some(other));
        for none in ["a: b\r\na: b\r\n\r\n", "", "HTTP/1.1 100 Continue\r\n\r\n"] {
            assert_eq!(spell(&["A"], none), None, "{none}");
        }
    }

    #[test]
    fn names_in_any_order_are_looked_for_so_often_and_no_more() {
        let names: Vec<String> = (0..1000).map(|n| format!("X-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let lines = names.iter().rev().map(|name| name.to_ascii_lowercase() + ": 1\r\n").collect::<Vec<_>>().concat();
        let head = spell(&names, &format!("GET / HTTP/1.1\r\n{lines}\r\n")).unwrap();
        assert_eq!(head.matches("X-").count(), 4);
        assert!(head.eq_ignore_ascii_case(&format!("GET / HTTP/1.1\r\n{lines}\r\n")));
    }

    #[tokio::test]
    async fn a_head_is_written_in_any_number_of_parts() {
        let head = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let written = "GET / HTTP/1.1\r\nHost: a\r\n\r\nhost: body";
        for split in 1..written.len() {
            let spellings = Arc::new(Spellings::default());
            let io = Builder::new().write(&written.as_bytes()[..split]).write(&written.as_bytes()[split..]).build();
            let mut conn = Spelled::of(io, Some(Arc::clone(&spellings)));
            spellings.exchange(Some(spelling(&["Host"])));
            conn.write_all(format!("{head}host: body").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_head_goes_out_as_it_is() {
        let spellings = Arc::new(Spellings::default());
        let (rest, head) = ("host: rest of a body\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let io = Builder::new().write(rest.as_bytes()).write(head.as_bytes()).read(b"").build();
        let mut conn = Spelled::of(io, Some(Arc::clone(&spellings)));
        spellings.exchange(Some(spelling(&["Host"])));
        conn.write_all(rest.as_bytes()).await.unwrap();
        // That was the write that it was for.
        conn.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(conn.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

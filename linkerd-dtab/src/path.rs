//! Paths: the names that everything else is about.

use std::{
    cmp::Ordering,
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
    sync::Arc,
};

/// A sequence of non-empty elements, each any bytes: `/svc/users`.
///
/// The elements lie one after another in a single shared buffer, so a path costs one allocation to make and none to
/// clone. Two paths are equal if their elements are, byte for byte: nothing is folded or normalised.
///
/// ```
/// # use linkerd_dtab::Path;
/// let path: Path = "/svc/users".parse()?;
/// assert_eq!(path.size(), 2);
/// assert_eq!(path.drop_first(1).to_string(), "/users");
/// # Ok::<(), linkerd_dtab::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Path {
    // Each element as its length (LEB128), then its bytes.
    buf: Arc<[u8]>,
}

/// An element of a path was empty, which no path may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path element is empty")]
pub struct EmptyElement;

/// The elements of a [`Path`], in order.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

/// Collects the elements of a [`Path`]; short paths are built on the stack.
#[derive(Debug, Default)]
pub struct PathBuilder {
    buf: smallvec::SmallVec<[u8; 128]>,
}

impl Path {
    /// The path of no elements, `/`.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Makes a path of these elements.
    ///
    /// # Errors
    ///
    /// [`EmptyElement`] if one of them has no bytes.
    pub fn from_elements<I>(elements: I) -> Result<Self, EmptyElement>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut builder = PathBuilder::default();
        for element in elements {
            builder.push(element.as_ref())?;
        }
        Ok(builder.build())
    }

    /// How many elements there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// The elements in order.
    #[must_use]
    pub fn iter(&self) -> Elements<'_> {
        Elements { rest: &self.buf }
    }

    /// The element at `index`, counted from zero.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.iter().nth(index)
    }

    /// The first `n` elements, or all if there are fewer.
    #[must_use]
    pub fn take_first(&self, n: usize) -> Self {
        let end = self.offset(n);
        if end == self.buf.len() {
            return self.clone();
        }
        Self { buf: self.buf[..end].into() }
    }

    /// All but the first `n` elements; none if there are no more.
    #[must_use]
    pub fn drop_first(&self, n: usize) -> Self {
        let start = self.offset(n);
        if start == 0 {
            return self.clone();
        }
        Self { buf: self.buf[start..].into() }
    }

    /// The elements of this path followed by those of `other`.
    #[must_use]
    pub fn concat(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        let mut buf = smallvec::SmallVec::<[u8; 256]>::with_capacity(self.buf.len() + other.buf.len());
        buf.extend_from_slice(&self.buf);
        buf.extend_from_slice(&other.buf);
        Self { buf: buf.as_slice().into() }
    }

    /// Whether the elements of `prefix` are the first ones of this path, compared whole.
    #[must_use]
    pub fn starts_with(&self, prefix: &Self) -> bool {
        // Lengths are part of the buffer, so equal bytes are equal elements.
        self.buf.starts_with(&prefix.buf)
    }

    /// What follows `prefix`, if this path starts with it.
    #[must_use]
    pub fn strip_prefix(&self, prefix: &Self) -> Option<Self> {
        let rest = self.buf.strip_prefix(&*prefix.buf)?;
        if prefix.is_empty() {
            return Some(self.clone());
        }
        Some(Self { buf: rest.into() })
    }

    /// The elements as text, malformed UTF-8 replaced by U+FFFD.
    #[must_use]
    pub fn to_utf8(&self) -> Vec<String> {
        self.iter().map(|element| String::from_utf8_lossy(element).into_owned()).collect()
    }

    /// A builder that already holds these elements.
    #[must_use]
    pub fn to_builder(&self) -> PathBuilder {
        PathBuilder { buf: smallvec::SmallVec::from_slice(&self.buf) }
    }

    /// How much memory the elements take.
    pub(crate) fn byte_len(&self) -> usize {
        self.buf.len()
    }

    fn offset(&self, n: usize) -> usize {
        let mut elements = self.iter();
        for _ in 0..n {
            if elements.next().is_none() {
                break;
            }
        }
        self.buf.len() - elements.rest.len()
    }
}

impl PathBuilder {
    /// Adds an element at the end.
    ///
    /// # Errors
    ///
    /// [`EmptyElement`] if it has no bytes; the builder stays as it was.
    pub fn push(&mut self, element: &[u8]) -> Result<(), EmptyElement> {
        if element.is_empty() {
            return Err(EmptyElement);
        }
        let mut len = element.len();
        while len >= 0x80 {
            self.buf.push((len as u8 & 0x7f) | 0x80);
            len >>= 7;
        }
        self.buf.push(len as u8);
        self.buf.extend_from_slice(element);
        Ok(())
    }

    /// Adds the elements of `path` at the end.
    pub fn extend(&mut self, path: &Path) {
        self.buf.extend_from_slice(&path.buf);
    }

    /// The path of all elements so far.
    #[must_use]
    pub fn build(&self) -> Path {
        Path { buf: self.buf.as_slice().into() }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (mut len, mut shift, mut at) = (0_usize, 0, 0);
        loop {
            let byte = *self.rest.get(at)?;
            at += 1;
            len |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        let (element, rest) = self.rest[at..].split_at(len);
        self.rest = rest;
        Some(element)
    }
}

impl<'a> IntoIterator for &'a Path {
    type Item = &'a [u8];
    type IntoIter = Elements<'a>;

    fn into_iter(self) -> Elements<'a> {
        self.iter()
    }
}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.buf.hash(state);
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether a byte stands for itself in a printed element.
pub(crate) const fn is_showable(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b':' | b'.' | b'#' | b'$' | b'%' | b'-')
}

/// Prints one element as the canonical form has it: as it is, or every byte escaped if one has to be.
pub(crate) fn show_element(element: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if element.iter().copied().all(is_showable) {
        for &byte in element {
            f.write_char(char::from(byte))?;
        }
        return Ok(());
    }
    element.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

/// One element as it is printed.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_element(self.0, f)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_char('/');
        }
        for element in self {
            f.write_char('/')?;
            show_element(element, f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

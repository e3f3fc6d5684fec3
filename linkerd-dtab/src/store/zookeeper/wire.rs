//! What goes over a connection to ZooKeeper: frames of a length in four bytes and as many bytes, with numbers big-endian,
//! texts and bytes after their lengths.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Acl;
use crate::{
    Failure,
    store::follow::{MAX_ANSWER, failure},
};

// The numbers of operations, and of what is no operation.
pub(super) const CREATE: i32 = 1;
pub(super) const DELETE: i32 = 2;
pub(super) const EXISTS: i32 = 3;
pub(super) const GET_DATA: i32 = 4;
pub(super) const SET_DATA: i32 = 5;
pub(super) const GET_CHILDREN: i32 = 8;
pub(super) const SYNC: i32 = 9;
pub(super) const PING: i32 = 11;
pub(super) const AUTH: i32 = 100;
pub(super) const NOTICE_XID: i32 = -1;
pub(super) const PING_XID: i32 = -2;
pub(super) const AUTH_XID: i32 = -4;

// The numbers of errors.
pub(super) const NO_NODE: i32 = -101;
pub(super) const NO_AUTH: i32 = -102;
pub(super) const BAD_VERSION: i32 = -103;
pub(super) const NODE_EXISTS: i32 = -110;

/// A frame that is being written.
pub(super) struct Frame(BytesMut);

/// A frame that is being read.
pub(super) struct Fields(Bytes);

/// What a server says to begin with.
pub(super) struct Greeting {
    /// In milliseconds; zero if there is no session.
    pub(super) timeout: i32,
}

/// What every answer and every notice begins with.
pub(super) struct Head {
    pub(super) xid: i32,
    /// The last transaction that the server knew.
    pub(super) position: i64,
    pub(super) error: i32,
}

impl Frame {
    /// The frame of a request, which has no number yet.
    pub(super) fn ask(operation: i32) -> Self {
        Self::new().int(0).int(operation)
    }

    /// The frame that asks for a new session.
    pub(super) fn greeting(timeout_ms: i32) -> Self {
        // Version, the last change seen, timeout, no session, no password, not read only.
        Self::new().int(0).long(0).int(timeout_ms).long(0).bytes(&[0; 16]).flag(false)
    }

    fn new() -> Self {
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        Self(frame)
    }

    pub(super) fn int(mut self, value: i32) -> Self {
        self.0.put_i32(value);
        self
    }

    fn long(mut self, value: i64) -> Self {
        self.0.put_i64(value);
        self
    }

    pub(super) fn flag(mut self, value: bool) -> Self {
        self.0.put_u8(value.into());
        self
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.put_i32(counted(value.len()));
        self.0.put_slice(value);
        self
    }

    pub(super) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    pub(super) fn acls(self, acls: &[Acl]) -> Self {
        let count = self.int(counted(acls.len()));
        acls.iter().fold(count, |frame, acl| frame.int(acl.perms.bits()).text(&acl.scheme).text(&acl.id))
    }

    /// The same request by this number.
    pub(super) fn numbered(mut self, xid: i32) -> Self {
        self.0[4..8].copy_from_slice(&xid.to_be_bytes());
        self
    }

    /// The frame with its length.
    pub(super) fn finish(mut self) -> Bytes {
        let len = counted(self.0.len() - 4);
        self.0[..4].copy_from_slice(&len.to_be_bytes());
        self.0.freeze()
    }
}

/// Takes a whole frame from what was read, if there is one.
pub(super) fn take_frame(read: &mut BytesMut) -> Result<Option<Fields>, Failure> {
    let Some(len) = read.first_chunk() else { return Ok(None) };
    let len = usize::try_from(i32::from_be_bytes(*len)).ok().filter(|len| *len <= MAX_ANSWER);
    let len = len.ok_or_else(|| failure("ZooKeeper sent something that is no frame"))?;
    if read.len() < 4 + len {
        return Ok(None);
    }
    read.advance(4);
    Ok(Some(Fields(read.split_to(len).freeze())))
}

impl Fields {
    /// The same fields, to be read once more.
    pub(super) fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    pub(super) fn greeting(mut self) -> Result<Greeting, Failure> {
        let _version = self.int()?;
        let timeout = self.int()?;
        let _session = self.long()?;
        let _password = self.bytes()?;
        Ok(Greeting { timeout })
    }

    pub(super) fn head(&mut self) -> Result<Head, Failure> {
        let xid = self.int()?;
        let position = self.long()?;
        Ok(Head { xid, position, error: self.int()? })
    }

    /// The path of a notice.
    pub(super) fn notice(mut self) -> Result<String, Failure> {
        let _kind = self.int()?;
        let _state = self.int()?;
        self.text()
    }

    pub(super) fn texts(mut self) -> Result<Vec<String>, Failure> {
        let count = self.int()?;
        // Each has four bytes at least: what claims to be more is not believed.
        let count = usize::try_from(count).ok().filter(|count| *count <= self.0.len() / 4);
        (0..count.ok_or_else(short)?).map(|_| self.text()).collect()
    }

    /// The bytes of a node, and its version.
    pub(super) fn data(mut self) -> Result<(Bytes, i32), Failure> {
        let data = self.bytes()?;
        Ok((data, self.version()?))
    }

    /// The version among what is told of a node.
    pub(super) fn version(mut self) -> Result<i32, Failure> {
        // Two transactions and two times come before it.
        for _ in 0..4 {
            self.long()?;
        }
        self.int()
    }

    fn int(&mut self) -> Result<i32, Failure> {
        self.0.try_get_i32().map_err(|_| short())
    }

    fn long(&mut self) -> Result<i64, Failure> {
        self.0.try_get_i64().map_err(|_| short())
    }

    fn bytes(&mut self) -> Result<Bytes, Failure> {
        match self.int()? {
            -1 => Ok(Bytes::new()),
            len => match usize::try_from(len) {
                Ok(len) if len <= self.0.len() => Ok(self.0.split_to(len)),
                _ => Err(short()),
            },
        }
    }

    fn text(&mut self) -> Result<String, Failure> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.into()).map_err(|_| failure("ZooKeeper sent a text that is none"))
    }
}

/// As ZooKeeper counts. A table has far less.
fn counted(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn short() -> Failure {
    failure("ZooKeeper sent less than it has to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_frame_is_waited_for_and_none_is_refused() {
        let whole = Frame::ask(SYNC).text("/dtabs").finish();
        for cut in 0..whole.len() {
            let mut read = BytesMut::from(&whole[..cut]);
            assert!(take_frame(&mut read).unwrap().is_none());
        }
        let mut read = BytesMut::from(&whole[..]);
        assert!(take_frame(&mut read).unwrap().is_some() && read.is_empty());
        for len in [-1_i32, counted(MAX_ANSWER + 1)] {
            assert!(take_frame(&mut BytesMut::from(&len.to_be_bytes()[..])).is_err());
        }
    }

    #[test]
    fn fields_that_claim_more_than_there_is_are_refused() {
        let fields = |frame: Frame| Fields(frame.finish().slice(4..));
        assert!(fields(Frame::new().int(1 << 30)).texts().is_err());
        assert!(fields(Frame::new().int(-5)).texts().is_err());
        assert!(fields(Frame::new().int(7)).data().is_err());
        assert!(fields(Frame::new().int(-2)).data().is_err());
        assert!(fields(Frame::new()).greeting().is_err());
        assert!(fields(Frame::new().int(1)).head().is_err());
        let texts = fields(Frame::new().int(2).text("a").text("b")).texts().unwrap();
        assert_eq!(texts, ["a", "b"]);
    }
}

//! How messages are read and written.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What is read of a request at first.
const READ: usize = 256;

/// What a stream has of memory before anything is sent; then it keeps what its last message took. Streams are many, and
/// messages few and small.
const WRITE: usize = 16;

/// How much is encoded before it is sent.
const YIELD: usize = 32 << 10;

/// Prost's codec, with small buffers, which takes bytes that are no message for the peer's fault.
#[derive(Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

/// The reading half.
#[derive(Debug)]
pub(crate) struct Reader<U>(ProstDecoder<U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(WRITE, YIELD))
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader(ProstCodec::<T, U>::raw_decoder(BufferSettings::new(READ, YIELD)))
    }
}

impl<U: Message + Default> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        self.0.decode(buf).map_err(|status| Status::invalid_argument(status.message()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

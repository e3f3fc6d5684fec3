//! One connection of a client: from its streams to tasks of their own, and an orderly end.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason,
    server::{Builder, Connection},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    H2Config,
    serve::answer,
    watched::{Seen, Watched},
};
use crate::http::{
    drain::{Stage, Watch},
    serve::{Late, Peer},
    server::Limits,
};

/// For how long, and how often, more is read of a client that is told that it broke the protocol.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

/// Serves the streams of one connection until it ends.
///
/// When it is to leave and has had a stream, at the end of the server, or of its time, the client is told to open no further streams; those that are open finish.
pub(in crate::http) async fn serve<I>(
    stream: I,
    peer: Arc<Peer>,
    config: &H2Config,
    watch: Watch,
    limits: Option<Pin<Box<Limits>>>,
    late: Late,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let remote = peer.ends().remote;
    let (mut stream, seen) = Watched::of(stream, &peer, late);
    let served = async {
        let mut watch = watch;
        let mut handshake = config.server().handshake(&mut stream);
        let shaking = poll_fn(|cx| {
            match Pin::new(&mut handshake).poll(cx) {
                // Nothing is lost with a connection on which nothing came.
                Poll::Pending if seen.is_late() || watch.is_ending(cx) => Poll::Ready(None),
                polled => polled.map(Some),
            }
        });
        let Some(conn) = shaking.await else { return Ok(seen.is_late()) };
        let conn = conn?;
        Serving { conn, peer, seen, watch, limits, has_served: false, is_ending: false, is_late: false }.await?;
        Ok::<_, h2::Error>(false)
    };
    match served.await {
        Ok(false) => {}
        Ok(true) => {
            tracing::debug!(%remote, "a client did not begin in time");
            // Seldom, and large, here and below: not part of every connection's future.
            Box::pin(give_up(stream)).await;
        }
        Err(error) => {
            tracing::debug!(%error, %remote, "a client's connection failed");
            if !error.is_io() {
                Box::pin(linger(stream)).await;
            }
        }
    }
}

/// Ends a connection that did not begin in time, which h2 has no word for.
async fn give_up<I>(mut stream: Watched<I>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    /// Of no stream, with `ENHANCE_YOUR_CALM`.
    const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    if stream.may_write_frame() && !matches!(tokio::time::timeout(LINGER, stream.write_all(&GO_AWAY)).await, Ok(Ok(())))
    {
        return;
    }
    linger(stream).await;
}

/// Ends a connection so that its client hears why: the system would cut off one of which something was not read, and
/// what was written with it.
async fn linger<I>(mut stream: I)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let read_on = async {
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        for _ in 0..LINGER_READS {
            if stream.read(&mut unread).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // It is over, whatever comes of it.
    let _ = tokio::time::timeout(LINGER, read_on).await;
}

impl H2Config {
    fn server(&self) -> Builder {
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(self.max_concurrent_streams)
            .max_pending_accept_reset_streams(self.max_pending_resets)
            .max_local_error_reset_streams(Some(self.max_error_resets))
            .initial_window_size(self.initial_stream_window_bytes)
            .initial_connection_window_size(self.connection_window(self.max_concurrent_streams))
            .header_table_size(self.header_table_bytes)
            .max_frame_size(self.max_frame_bytes)
            .max_header_list_size(self.max_header_list_bytes);
        builder
    }
}

struct Serving<I> {
    conn: Connection<I, Bytes>,
    peer: Arc<Peer>,
    seen: Seen,
    watch: Watch,
    limits: Option<Pin<Box<Limits>>>,
    has_served: bool,
    is_ending: bool,
    is_late: bool,
}

impl<I> Serving<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    /// Tells the client, once, to open no further streams.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.is_ending, true) {
            self.conn.graceful_shutdown();
        }
    }
}

impl<I> Future for Serving<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let stage = this.watch.poll(cx);
        if !this.is_ending {
            let is_over = this.limits.as_mut().is_some_and(|limits| limits.as_mut().poll(cx).is_ready());
            if stage == Stage::Ending || is_over {
                this.end();
            }
        }
        loop {
            // Not before its first stream: whoever came in vain comes again.
            if stage == Stage::Leaving && this.has_served {
                this.end();
            }
            match this.conn.poll_accept(cx) {
                Poll::Ready(Some(Ok((req, respond)))) => {
                    this.has_served = true;
                    let turn = this.seen.accepted(respond.stream_id());
                    tokio::spawn(answer(Arc::clone(&this.peer), req, respond, turn));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                // Nothing else is read until it ends.
                Poll::Pending if this.seen.is_late() && !std::mem::replace(&mut this.is_late, true) => {
                    this.conn.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

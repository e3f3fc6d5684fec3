//! Whether a server takes the certificate that it is shown, for who sends it nothing.

use std::{
    future::poll_fn,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout},
};

use super::{Connector, HandshakeError, refusal};
use crate::http::io::forward;

/// How long a server is given after a handshake to refuse this side's certificate, or its absence; or as long as the
/// handshake took, if that is more: it was a round trip at least, and so is this.
const REFUSED_WITHIN: Duration = Duration::from_millis(50);

impl Connector {
    /// Makes a connection secure only to find out whether it can be made, and closes it.
    ///
    /// In TLS 1.3 a client is done before the server looks at its certificate. So it waits for what the server says then:
    /// most send tickets or settings at once, and one that is silent is waited for no longer than [`REFUSED_WITHIN`].
    ///
    /// # Errors
    ///
    /// The handshake failed, took too long, or the server refused this side's certificate in that time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub(crate) async fn probe<I>(&self, addr: IpAddr, stream: I) -> Result<(), HandshakeError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let (begun, has_said) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let stream = Heard { stream, has_said: Arc::clone(&has_said) };
        let (stream, negotiated) = self.connect(addr, stream).await?;
        if !negotiated.is_looked_at_later {
            return Ok(());
        }
        has_said.store(false, Ordering::Relaxed);
        let mut stream = pin!(stream);
        let answer = poll_fn(|cx| {
            let mut byte = [0];
            match stream.as_mut().poll_read(cx, &mut ReadBuf::new(&mut byte)) {
                Poll::Ready(answer) => Poll::Ready(answer),
                // Nothing for us, but something: it went on.
                Poll::Pending if has_said.load(Ordering::Relaxed) => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        });
        match timeout(begun.elapsed().max(REFUSED_WITHIN), answer).await {
            Ok(Err(error)) if refusal(&error).is_some() => Err(HandshakeError::Failed(error)),
            // It may have hung up, as any connection may that nobody uses.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// A stream, and whether anything came on it.
struct Heard<I> {
    stream: I,
    // Relaxed: one task has it.
    has_said: Arc<AtomicBool>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.has_said.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    forward!(stream: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, server::WebPkiClientVerifier, version};
    use tokio::io::duplex;
    use tokio_rustls::TlsAcceptor;

    use super::{
        super::{ClientSettings, Metrics, choice},
        *,
    };

    /// A server that sends so many tickets, and may ask for a certificate that this side has not.
    fn server(version: &'static SupportedProtocolVersion, tickets: usize, asks: bool) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(["web".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = choice::provider().unwrap();
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]).unwrap();
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(cert.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = key.serialize_der().try_into().unwrap();
        let mut config = builder.with_single_cert(vec![cert.der().clone()], key).unwrap();
        config.send_tls13_tickets = tickets;
        TlsAcceptor::from(Arc::new(config))
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_heard_and_only_who_is_silent_is_waited_for() {
        let settings = ClientSettings { disable_validation: true, ..ClientSettings::default() };
        let client = Connector::load(settings, &Metrics::default()).unwrap();
        let (old, new) = (&version::TLS12, &version::TLS13);
        for (version, tickets, asks, expected, waited) in [
            (new, 2, false, None, Duration::ZERO),
            (new, 0, false, None, REFUSED_WITHIN),
            (new, 2, true, Some("refused_by_peer"), Duration::ZERO),
            (old, 0, false, None, Duration::ZERO),
            (old, 0, true, Some("refused_by_peer"), Duration::ZERO),
        ] {
            let (near, far) = duplex(1 << 14);
            let accepting = server(version, tickets, asks).accept(far);
            // It stays open.
            let server = tokio::spawn(async move {
                let accepted = accepting.await;
                std::future::pending::<()>().await;
                drop(accepted);
            });
            let begun = Instant::now();
            let found = client.probe(Ipv4Addr::LOCALHOST.into(), near).await;
            let case = format!("{version:?}, {tickets} tickets, asks: {asks}: {found:?}");
            assert_eq!(found.err().map(|error| error.reason()), expected, "{case}");
            assert_eq!(begun.elapsed().as_millis(), waited.as_millis(), "{case}");
            server.abort();
        }
    }
}

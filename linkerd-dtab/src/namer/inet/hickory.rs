//! DNS by hickory, which tells times to live.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};

use super::lookup::{Answer, Lookup, LookupFuture, is_invalid};
use crate::Failure;

/// DNS asked for directly, with the times to live of its answers.
///
/// Unlike [`System`](super::System) it takes no thread a question. The hosts file is honoured; other sources of names
/// that the system may have (`nsswitch.conf`) are not.
#[derive(Clone)]
pub struct Hickory {
    resolver: TokioResolver,
}

/// A DNS configuration cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot use the DNS configuration")]
pub struct BadConfiguration {
    source: Failure,
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no name server to ask")]
struct NoServers;

impl Hickory {
    /// Asks the name servers that the system is configured with.
    ///
    /// # Errors
    ///
    /// The system's configuration (`/etc/resolv.conf`) cannot be read.
    pub fn from_system() -> Result<Self, BadConfiguration> {
        let resolver = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
        resolver.map(|resolver| Self { resolver }).map_err(|error| BadConfiguration { source: Arc::new(error) })
    }

    /// Asks these name servers, by UDP and, where an answer is too long for that, by TCP.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn from_name_servers(servers: &[SocketAddr]) -> Result<Self, BadConfiguration> {
        let servers = servers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            config
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        if config.name_servers().is_empty() {
            return Err(BadConfiguration { source: Arc::new(NoServers) });
        }
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build();
        resolver.map(|resolver| Self { resolver }).map_err(|error| BadConfiguration { source: Arc::new(error) })
    }
}

impl Lookup for Hickory {
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a> {
        Box::pin(async move {
            if is_invalid(host) {
                return Ok(Answer::NotFound);
            }
            match self.resolver.lookup_ip(host).await {
                Ok(found) => {
                    // hickory dates its answers by the wall's clock, whatever the runtime's says.
                    #[allow(clippy::disallowed_methods)]
                    let ttl = found.valid_until().saturating_duration_since(Instant::now());
                    Ok(Answer::Found { ips: found.iter().collect(), ttl: Some(ttl) })
                }
                Err(error) if error.is_no_records_found() => Ok(Answer::NotFound),
                Err(error) => Err(Arc::new(error) as Failure),
            }
        })
    }
}

impl std::fmt::Debug for Hickory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hickory").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{net::UdpSocket, time::timeout};

    use super::*;

    /// A name server that knows `web.example` at 10.0.0.7 for 30 s, and no IPv6.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buf = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buf).await {
                // One question: the name, then two bytes of type and two of class.
                let end = 12 + buf[12..len].iter().position(|byte| *byte == 0).unwrap() + 5;
                let is_known = buf[12..end].starts_with(b"\x03web\x07example\x00");
                let is_ipv4 = buf[end - 3] == 1;
                let mut answer = buf[..end].to_vec();
                // A response, authoritative, to one question; 3 is no such name.
                answer[2..12].copy_from_slice(&[0x84, if is_known { 0 } else { 3 }, 0, 1, 0, 0, 0, 0, 0, 0]);
                if is_known && is_ipv4 {
                    answer[7] = 1;
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 7]);
                }
                _ = socket.send_to(&answer, from).await;
            }
        });
        addr
    }

    #[tokio::test]
    async fn an_answer_has_its_time_to_live_and_a_sure_no_is_not_found() {
        let dns = Hickory::from_name_servers(&[name_server().await]).unwrap();
        let ask = async {
            let Answer::Found { ips, ttl } = dns.lookup("web.example.").await.unwrap() else { panic!("not found") };
            assert_eq!(ips, ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]);
            assert!((1..=30).contains(&ttl.unwrap().as_secs()), "{ttl:?}");
            assert_eq!(dns.lookup("nope.example.").await.unwrap(), Answer::NotFound);
        };
        timeout(Duration::from_mins(2), ask).await.unwrap();
    }

    #[test]
    fn without_a_name_server_there_is_no_resolver() {
        assert!(Hickory::from_name_servers(&[]).is_err());
    }
}

//! What is to listen, and how.

use std::{net::SocketAddr, time::Duration};

use super::{CHECKED, Wire};
use crate::{
    config::{self, AddForwardedHeader, Labeler, Server, Session},
    http::{self, Forwarded, ForwardedLabel, PerRequest, ServerConfig, SocketOptions, respond::ErrorLimits},
    telemetry::RouterStats,
};

pub(super) fn server_config(server: &Server, wire: &Wire, stats: &RouterStats, grace: Duration) -> ServerConfig {
    let Server {
        port,
        ip,
        label: _,
        tls: _, // Of the builder, which tells what is wrong with it.
        socket_options: options,
        max_concurrent_requests,
        max_connections,
        max_headers,
        header_read_timeout,
        announce: _,
        timeout,
        session: Session { life_time, idle_time },
        clear_context,
        per_request,
        flavours,
        error_detail,
        add_forwarded_header,
        timestamp_header,
        max_call_depth,
        upgrades,
        h2,
        http1,
        max_concurrent_streams,
        max_pending_resets,
        max_error_resets,
        thrift_framed: _,
    } = server;
    let spoken = match wire.speaks(h2, Some(*max_concurrent_streams)) {
        http::Wire::H2(config) => {
            let (max_pending_resets, max_error_resets) = (*max_pending_resets, *max_error_resets);
            let config = http::H2Config { max_pending_resets, max_error_resets, ..config };
            if *http1 { http::Wire::Either(config) } else { http::Wire::H2(config) }
        }
        spoken => spoken,
    };
    ServerConfig {
        addr: SocketAddr::new(*ip, *port),
        socket: socket_options(options),
        wire: spoken,
        max_initial_line_bytes: wire.max_initial_line_bytes.unwrap_or_else(|| wire.head_bytes(h2)),
        max_header_bytes: wire.head_bytes(h2),
        error_limits: ErrorLimits {
            // Those of h2 are cut by nobody.
            max_header_bytes: wire.max_header_bytes,
            max_body_bytes: wire.max_error_bytes,
            detail: *error_detail,
        },
        aggregate_up_to: wire.aggregate_up_to,
        aggregate_unknown: wire.aggregate_unknown,
        preserve_header_case: wire.preserve_header_case,
        max_call_depth: *max_call_depth,
        max_headers: *max_headers,
        header_read_timeout: *header_read_timeout,
        max_connections: *max_connections,
        max_concurrent_requests: *max_concurrent_requests,
        timeout: *timeout,
        clear_context: *clear_context,
        per_request: per_request.as_ref().map(|bounds| PerRequest {
            max_timeout: bounds.max_timeout,
            max_retries: bounds.max_retries,
            criticality: bounds.criticality,
        }),
        propagation: wire.propagation,
        flavours: flavours.clone(),
        timestamp_header: timestamp_header.as_ref().map(|name| name.0.parse().expect(CHECKED)),
        forwarded: add_forwarded_header.as_ref().map(|header| forwarded(header, stats.label())),
        upgrades: *upgrades,
        idle_time: *idle_time,
        life_time: *life_time,
        #[cfg(feature = "compression")]
        compression: wire.compression,
        grace,
        stats: Some(stats.clone()),
        ..ServerConfig::default()
    }
}

fn forwarded(header: &AddForwardedHeader, router: &str) -> Forwarded {
    let label = |labeler: &Labeler| match labeler {
        Labeler::Ip => ForwardedLabel::Ip,
        Labeler::IpPort => ForwardedLabel::IpPort,
        Labeler::ConnectionRandom => ForwardedLabel::ConnectionRandom,
        Labeler::RequestRandom => ForwardedLabel::RequestRandom,
        Labeler::Router => ForwardedLabel::Fixed(router.to_owned()),
        Labeler::Static(label) => ForwardedLabel::Fixed(label.clone()),
    };
    Forwarded { by: label(&header.by), for_: label(&header.for_) }
}

/// The socket options of a section, as the engine has them.
pub fn socket_options(options: &config::SocketOptions) -> SocketOptions {
    let config::SocketOptions {
        no_delay,
        reuse_addr,
        reuse_port,
        write_timeout,
        read_timeout,
        keep_alive,
        user_timeout,
        backlog,
    } = *options;
    let backlog = backlog.unwrap_or(SocketOptions::default().backlog);
    SocketOptions { no_delay, keep_alive, user_timeout, reuse_addr, reuse_port, backlog, read_timeout, write_timeout }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn each_limit_is_what_the_file_says() {
        let built = |keys: &str| {
            let text = format!("routers:\n- {{protocol: http, servers: [{{port: 0{keys}}}]}}\n");
            let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
            let plan = config.build(&crate::telemetry::Registry::new()).unwrap();
            let ServerConfig { max_connections, max_headers, header_read_timeout, .. } = plan.routers[0].servers[0];
            (max_connections, max_headers, header_read_timeout)
        };
        assert_eq!(built(""), (None, None, Some(Duration::from_secs(30))));
        let keys = ", maxConnections: 5, maxHeaders: 16384, headerReadTimeoutMs: 7";
        assert_eq!(built(keys), (Some(5), Some(16_384), Some(Duration::from_millis(7))));
        assert_eq!(built(", headerReadTimeoutMs: 0").2, None);
        for (keys, found) in
            [("maxConnections: 0", "at least 1"), ("maxHeaders: 0", "1"), ("maxHeaders: 16385", "16384")]
        {
            let text = format!("routers: [{{protocol: http, servers: [{{{keys}}}]}}]");
            let errors = Config::parse("f", &text).unwrap_err().to_string();
            assert!(errors.contains(found), "{errors}");
        }
    }

    #[test]
    fn each_labeler_is_what_it_says() {
        let text = "
routers:
- protocol: http
  servers:
  - addForwardedHeader: {by: {kind: router}, for: {kind: static, label: x}}
  - {port: 1, addForwardedHeader: {}}
";
        let config = Config::parse("f", text).unwrap();
        let built = |i: usize| forwarded(config.routers[0].servers[i].add_forwarded_header.as_ref().unwrap(), "edge");
        let fixed = |label: &str| ForwardedLabel::Fixed(label.to_owned());
        assert_eq!(built(0), Forwarded { by: fixed("edge"), for_: fixed("x") });
        let random = ForwardedLabel::RequestRandom;
        assert_eq!(built(1), Forwarded { by: random.clone(), for_: random });
    }
}

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
        thrift_framed: _,
    } = server;
    ServerConfig {
        addr: SocketAddr::new(*ip, *port),
        socket: socket_options(options),
        wire: match (wire.speaks(h2, Some(*max_concurrent_streams)), http1) {
            (http::Wire::H2(config), true) => http::Wire::Either(config),
            (spoken, _) => spoken,
        },
        max_initial_line_bytes: wire.max_initial_line_bytes.min(wire.head_bytes(h2)),
        max_header_bytes: wire.head_bytes(h2),
        error_limits: ErrorLimits {
            // Those of h2 are cut by nobody.
            max_header_bytes: wire.max_header_bytes,
            max_body_bytes: wire.max_error_bytes,
            detail: *error_detail,
        },
        aggregate_up_to: wire.aggregate_up_to,
        aggregate_unknown: wire.aggregate_unknown,
        max_call_depth: *max_call_depth,
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

//! What the servers and the clients of a router have in common.

use crate::{
    config::{H2Router, H2Settings, HttpRouter, ProtocolKind},
    http::{self, H2Config, Propagation, respond::ErrorLimits},
};

/// What the servers and the clients of a router have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    pub(super) max_header_bytes: usize,
    /// If it is not bounded by what bounds the rest of the head.
    pub(super) max_initial_line_bytes: Option<usize>,
    pub(super) max_error_bytes: usize,
    pub(super) aggregate_up_to: usize,
    pub(super) propagation: Propagation,
    pub(super) aggregate_unknown: bool,
    pub(super) preserve_header_case: bool,
    #[cfg(feature = "compression")]
    pub(super) compression: crate::http::Compression,
    pub(super) protocol: ProtocolKind,
}

impl Wire {
    pub(super) fn of(http: &HttpRouter) -> Self {
        let HttpRouter {
            // Built once, for all servers.
            identifiers: _,
            access_log: _,
            max_headers_kb,
            max_initial_line_kb,
            max_err_response_kb,
            streaming_enabled,
            aggregate_up_to_kb,
            stream_after_content_length_kb,
            compression_level,
            preserve_header_case,
            trace_propagator,
        } = http;
        // Refused, or the default.
        #[cfg(not(feature = "compression"))]
        let _ = compression_level;
        Self {
            max_header_bytes: max_headers_kb * 1024,
            max_initial_line_bytes: Some(max_initial_line_kb * 1024),
            max_error_bytes: max_err_response_kb * 1024,
            propagation: trace_propagator.propagation(),
            aggregate_up_to: 1024
                * if *streaming_enabled { stream_after_content_length_kb } else { aggregate_up_to_kb },
            aggregate_unknown: !streaming_enabled,
            preserve_header_case: *preserve_header_case,
            #[cfg(feature = "compression")]
            compression: crate::http::Compression::from_level(*compression_level),
            protocol: ProtocolKind::Http,
        }
    }

    /// What bounds headers and bodies there are keys of HTTP/2's own, or none.
    pub(super) fn h2(h2: &H2Router) -> Self {
        Self {
            max_header_bytes: usize::MAX,
            max_initial_line_bytes: h2.max_initial_line_kb.map(|kb| kb * 1024),
            max_error_bytes: ErrorLimits::default().max_body_bytes,
            aggregate_up_to: 0,
            aggregate_unknown: false,
            preserve_header_case: false,
            propagation: h2.trace_propagator.propagation(),
            #[cfg(feature = "compression")]
            compression: crate::http::Compression::Off,
            protocol: ProtocolKind::H2,
        }
    }

    /// How many bytes of headers a message may have.
    pub(super) fn head_bytes(&self, h2: &H2Settings) -> usize {
        let h2_bytes = h2.max_header_list_bytes.unwrap_or(H2Config::default().max_header_list_bytes);
        if self.protocol == ProtocolKind::H2 { h2_bytes as usize } else { self.max_header_bytes }
    }

    /// What is spoken, with these settings if they are about it.
    pub(super) fn speaks(&self, h2: &H2Settings, max_concurrent_streams: Option<u32>) -> http::Wire {
        if self.protocol != ProtocolKind::H2 {
            return http::Wire::Http1;
        }
        let H2Settings {
            initial_stream_window_bytes,
            header_table_bytes,
            max_frame_bytes,
            max_header_list_bytes,
            keep_alive,
            // Warned of.
            window_update_ratio: _,
        } = *h2;
        let default = H2Config::default();
        http::Wire::H2(H2Config {
            initial_stream_window_bytes: initial_stream_window_bytes.unwrap_or(default.initial_stream_window_bytes),
            header_table_bytes: header_table_bytes.unwrap_or(default.header_table_bytes),
            max_frame_bytes: max_frame_bytes.unwrap_or(default.max_frame_bytes),
            max_header_list_bytes: max_header_list_bytes.unwrap_or(default.max_header_list_bytes),
            max_concurrent_streams: max_concurrent_streams.unwrap_or(default.max_concurrent_streams),
            keep_alive,
            ..default
        })
    }
}

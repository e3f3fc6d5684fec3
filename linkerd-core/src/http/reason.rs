//! Reason phrases as Linkerd 1 writes them, whatever the endpoint said.

use http::Response;
use hyper::ext::ReasonPhrase;

/// Sets the phrase of a status for which hyper has another one, or none.
pub(crate) fn set<B>(rsp: &mut Response<B>) {
    let phrase: &'static [u8] = match rsp.status().as_u16() {
        100..=101
        | 200..=207
        | 300..=305
        | 307
        | 308
        | 400..=412
        | 415
        | 417
        | 421..=424
        | 426
        | 428
        | 429
        | 431
        | 500..=507
        | 510
        | 511 => return,
        413 => b"Request Entity Too Large",
        414 => b"Request-URI Too Long",
        416 => b"Requested Range Not Satisfiable",
        425 => b"Unordered Collection",
        status => return set_class(rsp, status),
    };
    rsp.extensions_mut().insert(ReasonPhrase::from_static(phrase));
}

fn set_class<B>(rsp: &mut Response<B>, status: u16) {
    let class = match status / 100 {
        1 => "Informational",
        2 => "Success",
        3 => "Redirection",
        4 => "Client Error",
        5 => "Server Error",
        _ => "Unknown Status",
    };
    if let Ok(phrase) = ReasonPhrase::try_from(format!("{class} ({status})")) {
        rsp.extensions_mut().insert(phrase);
    }
}

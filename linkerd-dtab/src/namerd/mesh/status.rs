//! What calls fail with.

use tonic::{Code, Status};

use crate::{
    Failure, Path,
    mesh::{Malformed, Unfit, name::read_path, proto},
    namerd::{Reason, Refused},
    parse::ParseError,
    store::Namespace,
};

/// The longest text of a status, in bytes. It is sent in a header.
const MAX_TEXT: usize = 1024;

/// The namespace that is asked about.
pub(super) fn namespace(root: Option<&proto::Path>) -> Result<Namespace, Status> {
    let root = root.ok_or_else(|| Status::invalid_argument("No namespace specified"))?;
    let root = read_path(Some(root))?;
    let only = root.get(0).filter(|_| root.get(1).is_none()).and_then(|element| std::str::from_utf8(element).ok());
    let Some(text) = only else {
        let shown = bounded(root.to_string());
        return Err(Status::invalid_argument(format!("Invalid root: `{shown}` must have exactly one segment")));
    };
    text.parse().map_err(|error| Status::invalid_argument(format!("Invalid root: {error}")))
}

/// The name that is asked about.
pub(super) fn name(name: Option<&proto::Path>) -> Result<Path, Status> {
    Ok(read_path(Some(name.ok_or_else(no_name)?))?)
}

pub(super) fn no_name() -> Status {
    Status::not_found("No name given")
}

pub(super) fn no_root() -> Status {
    Status::not_found("Root not found")
}

pub(super) fn unknown_method() -> Status {
    Status::unimplemented("there is no such method")
}

/// A source that has no answer.
pub(super) fn failed(error: &Failure) -> Status {
    Status::internal(bounded(error.to_string()))
}

/// A text that is not a table or a name: Linkerd's message, unless the text is too long to be in it.
pub(super) fn unparsable(error: &ParseError) -> Status {
    let text = error.to_string();
    Status::invalid_argument(if text.len() > MAX_TEXT { error.summary().to_string() } else { text })
}

impl From<Malformed> for Status {
    fn from(error: Malformed) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<Unfit> for Status {
    fn from(error: Unfit) -> Self {
        Self::out_of_range(error.to_string())
    }
}

pub(super) fn refused(error: &Refused) -> Status {
    let text = bounded(error.to_string());
    match error {
        Refused::Forbidden { .. } => Status::permission_denied(text),
        Refused::UnknownToken => Status::unauthenticated(text),
        Refused::Limit { .. } => Status::resource_exhausted(text),
    }
}

impl From<Refused> for Status {
    fn from(error: Refused) -> Self {
        refused(&error)
    }
}

/// Why a call failed that ends so, if it did.
pub(super) fn reason(code: Code) -> Option<Reason> {
    Some(match code {
        Code::Ok | Code::Cancelled => return None,
        Code::InvalidArgument | Code::Unimplemented => Reason::BadRequest,
        Code::PermissionDenied | Code::Unauthenticated => Reason::Forbidden,
        Code::NotFound => Reason::Missing,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Reason::Conflict,
        Code::OutOfRange => Reason::TooLarge,
        Code::ResourceExhausted => Reason::Limit,
        Code::DeadlineExceeded => Reason::Late,
        Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss => Reason::Failed,
    })
}

fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Dtab;

    #[test]
    fn what_a_peer_may_not_and_what_is_too_much_are_different_statuses() {
        let namespace: Namespace = "default".parse().unwrap();
        let forbidden = Status::from(Refused::Forbidden { who: "linkerd-1".into(), what: "read", namespace });
        assert_eq!(forbidden.code(), Code::PermissionDenied);
        assert_eq!(forbidden.message(), "linkerd-1 may not read namespace default");
        let limit = Status::from(Refused::Limit { what: "watches", limit: 10, is_own: true });
        assert_eq!(limit.code(), Code::ResourceExhausted);
    }

    #[test]
    fn a_text_that_does_not_fit_into_a_header_is_cut_or_summed_up() {
        let error = format!("/a => /{} ;;; x", "b".repeat(2000)).parse::<Dtab>().unwrap_err();
        let status = unparsable(&error);
        assert_eq!(status.message(), error.summary().to_string());
        let error: Failure = Arc::new(std::io::Error::other("ü".repeat(1000)));
        assert_eq!(failed(&error).message(), "ü".repeat(512));
    }
}

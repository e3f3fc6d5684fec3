//! What calls fail with.

use tonic::Status;

use crate::{
    Failure, Path,
    mesh::{Malformed, Unfit, name::read_path, proto},
    namerd::Refused,
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

impl From<Refused> for Status {
    fn from(error: Refused) -> Self {
        let text = bounded(error.to_string());
        match error {
            Refused::Forbidden { .. } => Self::permission_denied(text),
            Refused::Limit { .. } => Self::resource_exhausted(text),
        }
    }
}

fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Code;

    use super::*;
    use crate::Dtab;

    #[test]
    fn what_a_peer_may_not_and_what_is_too_much_are_different_statuses() {
        let namespace: Namespace = "default".parse().unwrap();
        let forbidden = Status::from(Refused::Forbidden { who: "linkerd-1".into(), what: "read", namespace });
        assert_eq!(forbidden.code(), Code::PermissionDenied);
        assert_eq!(forbidden.message(), "linkerd-1 may not read namespace default");
        let limit = Status::from(Refused::Limit { what: "watches", limit: 10, offender: "linkerd-1".into() });
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

//! Paths and dtabs inside the file.

use linkerd_dtab::{Dtab, Path};

use super::decode::At;

/// Reads a path such as `/svc/web`.
pub(crate) fn path(at: &At<'_>) -> Option<Path> {
    let text = at.text()?;
    let elements = text.strip_prefix('/')?.split('/').filter(|e| !e.is_empty());
    Path::from_elements(elements).ok()
}

/// Reads a delegation table.
pub(crate) fn dtab(at: &At<'_>) -> Option<Dtab> {
    at.text()?;
    Some(Dtab::default())
}

//! The names of headers as their sender wrote them.
//!
//! To HTTP the case of a name means nothing, and `http` keeps none. hyper can: it puts what it read on the wire into the
//! extensions of a message, in a type of its own that nobody else sees, and writes by it what it finds there. So the
//! extensions are kept that a request came with, and go out with it; those of a response are on it all the way.

use std::sync::Arc;

use http::Extensions;

/// How a request spells the names of its headers: it goes with all copies of the request.
#[derive(Clone, Debug)]
pub(super) struct HeaderCase(Arc<Extensions>);

impl HeaderCase {
    /// Puts what hyper keeps of a request's names where it is found again. First of all: what else is among the extensions
    /// is kept too.
    #[cfg(feature = "server")]
    pub(super) fn keep(extensions: &mut Extensions) {
        if !extensions.is_empty() {
            let case = Self(Arc::new(std::mem::take(extensions)));
            extensions.insert(case);
        }
    }

    /// What hyper finds on a request that goes out, of one with these extensions.
    pub(super) fn of(extensions: &Extensions) -> Extensions {
        extensions.get::<Self>().map(|case| (*case.0).clone()).unwrap_or_default()
    }
}

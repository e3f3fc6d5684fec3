//! Joins the errors of the leaves' layers to [`Error`], so that those layers can stand on a [`Svc`](crate::Svc) as they
//! are.

use std::convert::Infallible;

use http::Request;
use linkerd_balance::{NotConnected, Unavailable};
use linkerd_dtab::naming::NamingError;
use linkerd_retry::{requeue::Unsent, timeout::Elapsed};

use crate::{Body, Error, ErrorKind};

/// [`ErrorKind::NoEndpoints`] if none is known, [`ErrorKind::AllConnecting`] if they only lack connections, else
/// [`ErrorKind::AllTripped`].
impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        let kind = match error {
            Unavailable::NoEndpoints => ErrorKind::NoEndpoints,
            _ if error.is_connecting() => ErrorKind::AllConnecting,
            _ => ErrorKind::AllTripped,
        };
        Self::new(kind).with_source(error)
    }
}

/// [`ErrorKind::Connect`]: nothing was sent.
impl From<NotConnected> for Error {
    fn from(error: NotConnected) -> Self {
        Self::new(ErrorKind::Connect).with_never_sent(true).with_source(error)
    }
}

/// [`ErrorKind::NoSuchName`] if the name stands for nothing, else [`ErrorKind::Binding`].
impl From<NamingError> for Error {
    fn from(error: NamingError) -> Self {
        let (kind, path) = match &error {
            NamingError::NoSuchName { path } => (ErrorKind::NoSuchName, path.clone()),
            NamingError::Pending { path, .. } | NamingError::Failed { path, .. } => (ErrorKind::Binding, path.clone()),
            _ => return Self::new(ErrorKind::Binding).with_source(error),
        };
        Self::new(kind).with_dst(&path).with_source(error)
    }
}

/// [`ErrorKind::TotalTimeout`].
impl From<Elapsed> for Error {
    fn from(error: Elapsed) -> Self {
        Self::new(ErrorKind::TotalTimeout).with_source(error)
    }
}

/// Of what cannot fail: a constructor of services, mostly.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// By [`never_sent`](Error::never_sent), if the request came back with the error.
impl Unsent<Request<Body>> for Error {
    fn is_unsent(&self) -> bool {
        self.never_sent() && self.has_request()
    }

    fn take_unsent(mut self) -> Result<Request<Body>, Self> {
        if !self.never_sent() {
            return Err(self);
        }
        self.take_request().ok_or(self)
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, time::Duration};

    use linkerd_dtab::Path;

    use super::*;

    #[test]
    fn each_has_a_kind_and_is_the_cause() {
        let path: Path = "/svc/users".parse().unwrap();
        let error = Error::from(Unavailable::NoEndpoints);
        assert_eq!(error.kind(), ErrorKind::NoEndpoints);
        assert!(error.source().unwrap().is::<Unavailable>());
        for (unconnected, kind) in [(3, ErrorKind::AllConnecting), (2, ErrorKind::AllTripped)] {
            let all = Unavailable::FailFast { size: 3, open: 0, busy: 3, closed: 0, unconnected, probe_in: None };
            assert_eq!(Error::from(all).kind(), kind);
        }
        let error = Error::from(NamingError::NoSuchName { path: path.clone() });
        assert_eq!((error.kind(), error.dst()), (ErrorKind::NoSuchName, Some(&path)));
        let error = Error::from(NamingError::Pending { path: path.clone(), after: Duration::from_secs(10) });
        assert_eq!((error.kind(), error.dst()), (ErrorKind::Binding, Some(&path)));
        let error =
            Error::from(NamingError::Failed { path, source: std::sync::Arc::from(crate::BoxError::from("gone")) });
        assert_eq!(error.kind(), ErrorKind::Binding);
        let error = Error::from(Elapsed(Duration::from_secs(2)));
        assert_eq!(error.kind(), ErrorKind::TotalTimeout);
        assert_eq!(error.source().unwrap().downcast_ref(), Some(&Elapsed(Duration::from_secs(2))));
    }

    #[test]
    fn what_is_unsent_hands_its_request_back() {
        let unsent = Error::new(ErrorKind::Connect).with_request(Request::new(Body::from("x")));
        assert!(unsent.is_unsent());
        assert_eq!(unsent.take_unsent().unwrap().body().as_bytes().unwrap(), "x");
        let lost = Error::new(ErrorKind::Connect);
        assert!(!lost.is_unsent());
        assert_eq!(lost.take_unsent().unwrap_err().kind(), ErrorKind::Connect);
        let sent = Error::new(ErrorKind::Closed).with_request(Request::new(Body::empty()));
        assert!(!sent.is_unsent());
        assert!(sent.take_unsent().is_err());
    }
}

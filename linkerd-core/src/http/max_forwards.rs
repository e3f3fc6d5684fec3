//! `TRACE` and `Max-Forwards`: how far a request goes that asks for its own way.

use http::{HeaderValue, Method, Request, header::MAX_FORWARDS};

use super::headers;

/// What becomes of a `TRACE`. It rides in the request's extensions, so that each attempt knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trace {
    /// `Max-Forwards` is no number.
    Invalid,
    /// It goes no further: it is answered here.
    Answer {
        /// Whether the answer tells what is known here.
        tells: bool,
    },
    /// It goes on, and what is known here is added to the answer.
    Append,
}

impl Trace {
    /// Decides it, and takes one from `Max-Forwards` if the request goes on. `None` for what goes on as it is.
    pub(crate) fn of<B>(req: &mut Request<B>) -> Option<Self> {
        if req.method() != Method::TRACE {
            return None;
        }
        let tells = headers::is_true(req.headers(), &headers::L5D_ADD_CONTEXT);
        let appends = tells.then_some(Self::Append);
        let Some(max) = req.headers().get(MAX_FORWARDS) else { return appends };
        let Some(max) = max.to_str().ok().and_then(|max| max.trim().parse::<u64>().ok()) else {
            return Some(Self::Invalid);
        };
        let Some(left) = max.checked_sub(1) else { return Some(Self::Answer { tells }) };
        req.headers_mut().insert(MAX_FORWARDS, HeaderValue::from(left));
        appends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(method: Method, max: &'static str, context: &'static str) -> (Option<Trace>, String) {
        let mut req = Request::builder().method(method).body(()).unwrap();
        if !max.is_empty() {
            req.headers_mut().insert(MAX_FORWARDS, HeaderValue::from_static(max));
        }
        req.headers_mut().insert(headers::L5D_ADD_CONTEXT, HeaderValue::from_static(context));
        let trace = Trace::of(&mut req);
        let left = req.headers().get(MAX_FORWARDS).map(|left| left.to_str().unwrap().to_owned());
        (trace, left.unwrap_or_default())
    }

    #[test]
    fn a_trace_goes_as_far_as_it_says() {
        for (max, context, trace, left) in [
            ("", "", None, ""),
            ("", "True", Some(Trace::Append), ""),
            ("2", "no", None, "1"),
            ("1", "true", Some(Trace::Append), "0"),
            ("0", "true", Some(Trace::Answer { tells: true }), "0"),
            ("0", "", Some(Trace::Answer { tells: false }), "0"),
            ("-1", "", Some(Trace::Invalid), "-1"),
            ("many", "true", Some(Trace::Invalid), "many"),
        ] {
            assert_eq!(decided(Method::TRACE, max, context), (trace, left.to_owned()), "{max} {context}");
        }
    }

    #[test]
    fn other_methods_are_left_alone() {
        assert_eq!(decided(Method::GET, "1", "true"), (None, "1".to_owned()));
    }
}

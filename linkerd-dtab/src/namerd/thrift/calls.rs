//! The calls.

use std::{
    future::ready,
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    select,
    time::{Instant, timeout_at},
};

use super::explain;
use crate::{
    Dtab, ParseError, State,
    delegate::Step,
    mux::{
        idl::{self, BadCall, Call, NameRef, Stamped},
        server::{Answer, Answering, Leave},
        thrift::{Fault, Reader},
    },
    namerd::{Meter, Reason, Refused, Session, Watched},
    store::{BadNamespace, Namespace},
};

/// How long an explanation waits for names that nobody has answered for, as over HTTP.
const EXPLAIN: Duration = Duration::from_secs(2);

/// The longest value that is sent. A frame may have 16 MiB.
const MAX_VALUE: usize = 15 << 20;

/// Why a call is not answered with a value.
enum Unanswered {
    /// The method's own kind of failure.
    Failure(String),
    /// What the caller sent is wrong; namerd 1.7.5 has no failure for that.
    Illegal(String),
    /// The caller is not allowed to.
    Refused(Refused),
    /// It is to be made elsewhere.
    Elsewhere,
}

/// Answers one call.
// Decoded at once: the message is as long as a frame, perhaps, and the call may wait for days. A block, and not an `async fn`,
// which has room for its arguments twice: calls that wait are many.
pub(super) fn answer(session: Session, message: &Bytes, leave: Leave) -> Answering {
    session.meter().request();
    match Call::decode(message) {
        Ok((call, sequence)) => Box::pin(async move { answered(&session, &call, sequence, &leave).await }),
        Err(error) => {
            session.meter().failed(Reason::BadRequest);
            Box::pin(ready(Some(refuse(message, &error).freeze())))
        }
    }
}

async fn answered(session: &Session, call: &Call, sequence: i32, leave: &Leave) -> Answer {
    let meter = session.meter();
    let answered = match value(session, call, leave).await {
        Ok(value) => Ok(value),
        Err(Unanswered::Failure(reason)) => {
            meter.failed(Reason::Failed);
            Err(reason)
        }
        Err(Unanswered::Refused(refused)) => {
            meter.failed(Reason::from(&refused));
            Err(refused.to_string())
        }
        Err(Unanswered::Illegal(reason)) => {
            meter.failed(Reason::BadRequest);
            let method = call.method();
            // The words of namerd 1.7.5, by which its clients' logs are searched.
            let text = format!("Internal error processing {method}: 'java.lang.IllegalArgumentException: {reason}'");
            return Some(idl::fault(method, sequence, &Fault { text, kind: Fault::INTERNAL_ERROR }).freeze());
        }
        Err(Unanswered::Elsewhere) => return None,
    };
    Some(call.answer(sequence, &answered).freeze())
}

fn refuse(message: &[u8], error: &BadCall) -> BytesMut {
    match error {
        BadCall::Method { method, sequence } => {
            let text = format!("Invalid method name: '{method}'");
            idl::fault(method, *sequence, &Fault { text, kind: Fault::UNKNOWN_METHOD })
        }
        BadCall::Malformed(error) => {
            let head = Reader::new(message).head();
            let (method, sequence) = head.map_or(("", 0), |head| (head.method, head.sequence));
            idl::fault(method, sequence, &Fault { text: error.to_string(), kind: Fault::PROTOCOL_ERROR })
        }
    }
}

// What is held for long is passed by reference: a future has room for each place that a value is moved to.
async fn value(session: &Session, call: &Call, leave: &Leave) -> Result<Stamped<BytesMut>, Unanswered> {
    match call {
        Call::Bind { dtab, name: NameRef { stamp, name, namespace }, .. } => {
            let mut tree = session.bind(&namespace.parse()?, &dtab.parse()?, name)?;
            next(session.meter(), &mut tree, stamp, leave, |tree| {
                idl::bound_tree(tree, |bound| (&bound.id, &bound.residual))
            })
            .await
        }
        Call::Addr { name: NameRef { stamp, name, namespace }, .. } => {
            session.may_read(namespace)?;
            let mut addr = session.addr(name)?;
            next(session.meter(), &mut addr, stamp, leave, idl::address).await
        }
        Call::Delegate { dtab, path, namespace, .. } => {
            let Some(path) = path else {
                let reason = "only names are explained: the tree's root has to be a pathLeaf";
                return Err(Unanswered::Failure(reason.to_owned()));
            };
            // Boxed: the many calls that are held for long are smaller for it.
            Box::pin(explained(&session.once(), &namespace.parse()?, &dtab.parse()?, path)).await
        }
        Call::Dtab { stamp, namespace, .. } => {
            let mut table = session.dtab(&namespace.parse()?)?;
            next(session.meter(), &mut table, stamp, leave, |table| {
                idl::dtab(&table.as_ref().map_or_else(String::new, |stored| format!("{:#}", stored.dtab)))
            })
            .await
        }
    }
}

/// Waits for a value that has another stamp than this.
async fn next<T: Clone + Send + Sync + 'static>(
    meter: &Meter,
    watched: &mut Watched<T>,
    known: &[u8],
    leave: &Leave,
    encode: impl Fn(&T) -> BytesMut,
) -> Result<Stamped<BytesMut>, Unanswered> {
    let mut is_held = None;
    loop {
        match watched.sample_and_update() {
            State::Ok(value) => {
                let value = stamped(encode(&value))?;
                if value.stamp != known {
                    return Ok(value);
                }
                is_held.get_or_insert_with(|| meter.stream());
            }
            State::Failed(error) => return Err(Unanswered::Failure(error.to_string())),
            State::Pending => {}
        }
        select! {
            () = watched.changed() => {}
            () = leave.agreed(), if is_held.is_some() => return Err(Unanswered::Elsewhere),
        }
    }
}

async fn explained(
    session: &Session,
    namespace: &Namespace,
    dtab: &Dtab,
    path: &crate::Path,
) -> Result<Stamped<BytesMut>, Unanswered> {
    let mut watched = session.delegate(namespace, dtab, path)?;
    let deadline = Instant::now() + EXPLAIN;
    loop {
        let is_late = Instant::now() >= deadline;
        match watched.sample_and_update() {
            State::Failed(error) => return Err(Unanswered::Failure(error.to_string())),
            State::Ok(delegation) if is_late || !delegation.nodes().any(|node| matches!(node.step, Step::Pending)) => {
                let explained = explain::explained(&delegation).map_err(Unanswered::Failure)?;
                return stamped(idl::explanation(&explained));
            }
            State::Pending if is_late => return Err(Unanswered::Failure(format!("no explanation in {EXPLAIN:?}"))),
            State::Ok(_) | State::Pending => {}
        }
        // At the deadline what is known then is said.
        let _ = timeout_at(deadline, watched.changed()).await;
    }
}

fn stamped(value: BytesMut) -> Result<Stamped<BytesMut>, Unanswered> {
    if value.len() > MAX_VALUE {
        return Err(Unanswered::Failure(format!("the answer takes {} bytes, of at most {MAX_VALUE}", value.len())));
    }
    // Not random: two namerds that say the same have the same stamp for it.
    let mut hasher = DefaultHasher::new();
    hasher.write(&value);
    Ok(Stamped { stamp: hasher.finish().to_be_bytes().to_vec(), value })
}

impl From<Refused> for Unanswered {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<BadNamespace> for Unanswered {
    fn from(error: BadNamespace) -> Self {
        Self::Failure(error.to_string())
    }
}

impl From<ParseError> for Unanswered {
    fn from(error: ParseError) -> Self {
        Self::Illegal(error.to_string())
    }
}

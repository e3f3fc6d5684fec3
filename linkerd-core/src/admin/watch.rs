//! What a watch knows, for people.

use std::error::Error;

use linkerd_dtab::{Activity, Addr, Failure, Name, NameTree, Snapshot, State, Weighted};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// A watch as `/state.json` shows it.
///
/// | member | what |
/// |---|---|
/// | `source` | as given |
/// | `state` | `ok`, `pending` or `failed` |
/// | `value` | what `show` makes of the value, if there is one |
/// | `ageMs` | since when the value, or the failure without a value, is so |
/// | `lastContactMs` | how long ago the source last answered, `null` if it never did |
/// | `stale` | whether the value is from before a failure |
/// | `error` | why there is no value, or no newer one; with its causes |
pub fn watch_state<T>(source: &str, watch: &Activity<T>, show: impl FnOnce(&T) -> Value) -> Value
where
    T: Clone + Send + Sync + 'static,
{
    snapshot_state(source, &watch.snapshot(), show)
}

/// What a watch knew at one moment, as [`watch_state`] shows it.
pub fn snapshot_state<T>(source: &str, snapshot: &Snapshot<T>, show: impl FnOnce(&T) -> Value) -> Value {
    let now = Instant::now();
    let &Snapshot { ref state, since, contact, ref stale } = snapshot;
    let ago = |then: Instant| Value::from(now.saturating_duration_since(then).as_millis() as u64);
    let mut all = Map::new();
    all.insert("source".to_owned(), source.into());
    let (name, value, error) = match state {
        State::Ok(value) => ("ok", Some(show(value)), stale.as_ref()),
        State::Pending => ("pending", None, stale.as_ref()),
        State::Failed(error) => ("failed", None, Some(error)),
    };
    all.insert("state".to_owned(), name.into());
    if let Some(value) = value {
        all.insert("value".to_owned(), value);
    }
    all.insert("ageMs".to_owned(), ago(since));
    all.insert("lastContactMs".to_owned(), contact.map_or(Value::Null, ago));
    all.insert("stale".to_owned(), stale.is_some().into());
    if let Some(error) = error {
        all.insert("error".to_owned(), causes(error).into());
    }
    Value::Object(all)
}

/// A namer's answer, each bound leaf with its address.
#[must_use]
pub fn answer_state(tree: &NameTree<Name>) -> Value {
    match tree {
        NameTree::Neg => "~".into(),
        NameTree::Fail => "!".into(),
        NameTree::Empty => "$".into(),
        NameTree::Leaf(Name::Path(path)) => path.to_string().into(),
        NameTree::Leaf(Name::Bound(bound)) => {
            let show = |addr: &Addr| addr_state(&State::Ok(addr.clone()));
            let mut shown = watch_state("namer", &bound.addr, show);
            shown["id"] = bound.id.to_string().into();
            shown["residual"] = bound.residual.to_string().into();
            shown
        }
        NameTree::Alt(trees) => trees.iter().map(answer_state).collect(),
        NameTree::Union(branches) => {
            let branch = |branch: &Weighted<Name>| json!({"weight": branch.weight, "tree": answer_state(&branch.tree)});
            branches.iter().map(branch).collect()
        }
    }
}

/// Addresses as `/client_state.json` shows those of a client.
#[must_use]
pub fn addr_state(addr: &State<Addr>) -> Value {
    let (state, addresses) = match addr {
        State::Ok(Addr::Bound(endpoints)) => {
            ("bound".to_owned(), endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect())
        }
        State::Ok(Addr::Neg) => ("Neg".to_owned(), Vec::new()),
        State::Pending => ("Pending".to_owned(), Vec::new()),
        State::Failed(error) => (format!("Failed: {}", causes(error)), Vec::new()),
    };
    json!({"state": state, "addresses": addresses})
}

fn causes(error: &Failure) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.extend([": ", &cause.to_string()]);
        source = Error::source(cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stale_value_is_shown_with_its_age_and_the_error() {
        let (publisher, watch) = Activity::channel();
        let show = |n: &u32| Value::from(*n);
        assert_eq!(
            watch_state("disco/web", &watch, show),
            json!({"source": "disco/web", "state": "pending", "ageMs": 0, "lastContactMs": null, "stale": false})
        );
        publisher.ok(7);
        tokio::time::advance(Duration::from_secs(2)).await;
        publisher.contact();
        tokio::time::advance(Duration::from_secs(3)).await;
        publisher.failed(Arc::new(std::io::Error::other("gone")));
        assert_eq!(
            watch_state("disco/web", &watch, show),
            json!({
                "source": "disco/web", "state": "ok", "value": 7, "ageMs": 5000, "lastContactMs": 3000,
                "stale": true, "error": "gone"
            })
        );
    }

    #[test]
    fn addresses_are_shown_by_state() {
        let bound = Addr::of(["127.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()]);
        assert_eq!(addr_state(&State::Ok(bound)), json!({"state": "bound", "addresses": ["127.0.0.1:80", "[::1]:81"]}));
        assert_eq!(addr_state(&State::Pending), json!({"state": "Pending", "addresses": []}));
        assert_eq!(addr_state(&State::Ok(Addr::Neg)), json!({"state": "Neg", "addresses": []}));
        let failed = State::Failed(Arc::new(std::io::Error::other("no")) as Failure);
        assert_eq!(addr_state(&failed), json!({"state": "Failed: no", "addresses": []}));
    }
}

//! `/admin/timeouts.json`: every timer, its value, and where it was set.

use serde_json::{Value, json};

use crate::config::{Config, TimerSetting, TimerSource};

/// Every timer of a proxy as JSON, in the order of its file: `timer`, `router` and `scope` (where it has one), `ms`
/// (nothing: unlimited, or said by each request), `source` (`default`, `fixed`, `header`, or `FILE:LINE:COLUMN` beside
/// its `key`), and `ends`, what an error says when it is over.
pub fn timeouts(config: &Config) -> Value {
    let shown = config.timers().into_iter().map(|setting| {
        let TimerSetting { timer, router, scope, value, source, ends } = setting;
        let mut shown = json!({ "timer": timer, "ms": value.map(|value| value.as_millis() as u64) });
        let (source, key) = match source {
            TimerSource::Default => ("default".to_owned(), None),
            TimerSource::Fixed => ("fixed".to_owned(), None),
            TimerSource::Header => ("header".to_owned(), None),
            TimerSource::File { key, position } => (format!("{}:{position}", config.file()), Some(key)),
        };
        shown["source"] = source.into();
        let ends = ends.map(|timer| timer.name().to_owned());
        for (name, value) in [("router", router), ("scope", scope), ("key", key), ("ends", ends)] {
            if let Some(value) = value {
                shown[name] = value.into();
            }
        }
        shown
    });
    json!({ "timers": shown.collect::<Vec<_>>() })
}

//! The keys `httpAccessLog...` and `h2AccessLog...`.

use std::path::PathBuf;

use crate::access_log::{AccessLogFormat, AccessLogSettings, BadTemplate, Roll};

use super::decode::{At, Decode, MAX_INT, Section};

/// Where requests are logged, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// `httpAccessLog`, `h2AccessLog`: the file.
    pub file: PathBuf,
    /// `...RollPolicy`: when a new file is begun. Default: never.
    pub roll_policy: RollPolicy,
    /// `...Append` to a file that exists, rather than replace it. Default: true.
    pub append: bool,
    /// `...Format`: `combined`, `json`, or a [template](crate::access_log::Template). Default: combined, Linkerd 1.x's.
    ///
    /// Not a key of Linkerd 1.x.
    pub format: AccessLogFormat,
    /// `...RotateCount`: how many old files are kept. Default: all of them, -1 in the file.
    pub rotate_count: Option<u32>,
}

/// When a log file is rolled; written in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RollPolicy {
    /// `never`.
    #[default]
    Never,
    /// `hourly`.
    Hourly,
    /// `daily`.
    Daily,
    /// `weekly(n)`: on day n of the week, 1 (Sunday) to 7.
    Weekly(u8),
    /// A size such as `10.megabytes`, in bytes.
    MaxSize(u64),
}

/// The keys of a protocol's access log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) file: &'static str,
    pub(super) roll_policy: &'static str,
    pub(super) append: &'static str,
    pub(super) format: &'static str,
    pub(super) rotate_count: &'static str,
}

/// The keys of what speaks HTTP/2.
pub(super) const H2_LOG: Keys = Keys {
    file: "h2AccessLog",
    roll_policy: "h2AccessLogRollPolicy",
    append: "h2AccessLogAppend",
    format: "h2AccessLogFormat",
    rotate_count: "h2AccessLogRotateCount",
};

impl AccessLog {
    /// What is to be opened.
    pub(crate) fn settings(&self, is_h2: bool) -> AccessLogSettings {
        let Self { file, roll_policy, append, format, rotate_count } = self;
        let roll = match *roll_policy {
            RollPolicy::Never => Roll::Never,
            RollPolicy::Hourly => Roll::Hourly,
            RollPolicy::Daily => Roll::Daily,
            RollPolicy::Weekly(day) => Roll::Weekly(day),
            RollPolicy::MaxSize(bytes) => Roll::Size(bytes),
        };
        let (append, keep) = (*append, *rotate_count);
        AccessLogSettings { file: file.clone(), roll, append, keep, format: format.clone(), is_h2 }
    }

    pub(super) fn decode(s: &mut Section<'_>, keys: Keys) -> Option<Self> {
        let file = s.get(keys.file);
        let roll_policy = s.or(keys.roll_policy, RollPolicy::Never);
        let append = s.or(keys.append, true);
        let format = s.or(keys.format, AccessLogFormat::Combined);
        let rotate_count = s.int(keys.rotate_count, -1..=MAX_INT).and_then(|n| u32::try_from(n).ok());
        Some(Self { file: file?, roll_policy, append, format, rotate_count })
    }
}

impl Decode for AccessLogFormat {
    fn decode(at: &At<'_>) -> Option<Self> {
        let parsed = at.text()?.parse();
        parsed.map_err(|error: BadTemplate| at.problem(error.to_string())).ok()
    }
}

impl Decode for RollPolicy {
    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?.to_ascii_lowercase();
        let policy = match text.as_str() {
            "never" => Some(Self::Never),
            "hourly" => Some(Self::Hourly),
            "daily" => Some(Self::Daily),
            other => weekly(other).or_else(|| size(other)),
        };
        if policy.is_some() {
            return policy;
        }
        at.expected("never, hourly, daily, weekly(1) to weekly(7), or a size such as 10.megabytes")
    }
}

fn weekly(text: &str) -> Option<RollPolicy> {
    let day = text.strip_prefix("weekly(")?.strip_suffix(')')?.parse().ok()?;
    (1..=7).contains(&day).then_some(RollPolicy::Weekly(day))
}

fn size(text: &str) -> Option<RollPolicy> {
    let (number, unit) = text.split_once('.')?;
    let shift = match unit.strip_suffix('s').unwrap_or(unit) {
        "byte" => 0,
        "kilobyte" => 10,
        "megabyte" => 20,
        "gigabyte" => 30,
        "terabyte" => 40,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0).then_some(RollPolicy::MaxSize(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_days() {
        assert_eq!(size("10.megabytes"), Some(RollPolicy::MaxSize(10 << 20)));
        assert_eq!(size("1.kilobyte"), Some(RollPolicy::MaxSize(1024)));
        assert_eq!(size("0.bytes"), None);
        assert_eq!(size("99999999999.terabytes"), None);
        assert_eq!(weekly("weekly(3)"), Some(RollPolicy::Weekly(3)));
        assert_eq!(weekly("weekly(8)"), None);
    }
}

//! The process's own metrics, by the names that dashboards for Linkerd 1.x ask for.

use std::{fs, num::NonZeroUsize, thread, time::SystemTime};

use tokio::time::Instant;

use super::Registry;

/// Registers `jvm/*`: what this process has of what a JVM shows.
///
/// | name | what |
/// |---|---|
/// | `jvm/uptime` | milliseconds since this call |
/// | `jvm/start_time` | milliseconds from 1970 to this call |
/// | `jvm/num_cpus` | threads that can run at once |
/// | `jvm/heap/used` | resident bytes |
/// | `jvm/heap/max` | bytes that the control group, else the machine, allows |
/// | `jvm/thread/count` | threads |
/// | `jvm/fd_count`, `jvm/fd_limit` | open files, and how many may be |
///
/// The last five are read from `/proc` when they are looked at, and are not there where it is not.
pub fn register(registry: &Registry) {
    let scope = registry.root().scope("jvm");
    let begun = Instant::now();
    scope.gauge_fn("uptime", move || begun.elapsed().as_millis() as f64);
    let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as f64;
    scope.gauge_fn("start_time", move || start);
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get) as f64;
    scope.gauge_fn("num_cpus", move || cpus);
    if field("/proc/self/status", "VmRSS:").is_some() {
        let heap = scope.scope("heap");
        heap.gauge_fn("used", || field("/proc/self/status", "VmRSS:").unwrap_or(0.0) * 1024.0);
        if let Some(max) = memory_limit() {
            heap.gauge_fn("max", move || max);
        }
        let threads = || field("/proc/self/status", "Threads:").unwrap_or(0.0);
        scope.scope("thread").gauge_fn("count", threads);
        scope.gauge_fn("fd_count", open_files);
        if let Some(limit) = open_file_limit() {
            scope.gauge_fn("fd_limit", move || limit as f64);
        }
    }
}

/// The first number after `name` at the beginning of a line.
fn field(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn memory_limit() -> Option<f64> {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    group
        .and_then(|text| text.trim().parse().ok())
        .or_else(|| field("/proc/meminfo", "MemTotal:").map(|kib| kib * 1024.0))
}

/// How many files this process may have open, where `/proc` tells.
pub(crate) fn open_file_limit() -> Option<u64> {
    field("/proc/self/limits", "Max open files").map(|limit| limit as u64)
}

fn open_files() -> f64 {
    // Linux tells the number of entries as the size since 6.2; listing many takes its time.
    match fs::metadata("/proc/self/fd").map_or(0, |meta| meta.len()) {
        0 => fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64,
        n => n as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Reading, *};

    #[tokio::test(start_paused = true)]
    async fn the_dashboards_names_are_there() {
        let registry = Registry::new();
        register(&registry);
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        let mut all = std::collections::BTreeMap::new();
        registry.visit(|path, reading| {
            if let Reading::Gauge(value) = reading {
                all.insert(path.join("/"), value);
            }
        });
        assert_eq!(all["jvm/uptime"], 2000.0);
        assert!(all["jvm/num_cpus"] >= 1.0);
        if cfg!(target_os = "linux") {
            for name in ["jvm/heap/used", "jvm/heap/max", "jvm/thread/count", "jvm/fd_count", "jvm/fd_limit"] {
                assert!(all[name] >= 1.0, "{name}");
            }
        }
    }
}

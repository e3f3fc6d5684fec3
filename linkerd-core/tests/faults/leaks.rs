//! A proxy, and what it holds.

use std::{fs, net::SocketAddr, time::Duration};

use linkerd_core::{config::Config, proxy::Proxy};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::peers::Wire;

/// Whatever has not happened by then does not happen.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// File descriptors are the process's: one test at a time opens any.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Two routers: one that waits for long, and one that gives up soon.
pub(crate) struct Served {
    pub(crate) patient: SocketAddr,
    pub(crate) hasty: SocketAddr,
    admin: SocketAddr,
    serving: JoinHandle<std::io::Result<linkerd_core::http::Drained>>,
    _alone: MutexGuard<'static, ()>,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Holds {
    tasks: usize,
    fds: usize,
}

impl Served {
    pub(crate) async fn new(protocol: &str) -> Self {
        let alone = ALONE.lock().await;
        let router = |label: &str, service: &str| {
            // Few places: a permit that is lost is missed soon. Nothing is sent twice: each answer is the first attempt's.
            format!(
                "- protocol: {protocol}\n  label: {label}\n  dtab: /svc => /$/inet/127.0.0.1\n  \
                 servers: [{{port: 0, maxConcurrentRequests: 4}}]\n  \
                 client: {{failureAccrual: {{kind: none}}, requeueBudget: {{percentCanRetry: 0, minRetriesPerSec: 0}}}}\n  \
                 service: {{{service}}}\n"
            )
        };
        let patient = router("patient", "totalTimeoutMs: 60000");
        let hasty = router("hasty", "totalTimeoutMs: 300, idleTimeoutMs: 300");
        let text = format!("admin: {{port: 0}}\nrouters:\n{patient}{hasty}");
        let config = Config::parse("faults.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
        let proxy = Proxy::builder(&config).build().unwrap_or_else(|errors| panic!("{errors}")).bind().unwrap();
        let admin = proxy.admin_addr();
        let servers: Vec<_> = proxy.servers().map(|(_, addr)| addr).collect();
        let serving = tokio::spawn(proxy.serve());
        Self { patient: servers[0], hasty: servers[1], admin, serving, _alone: alone }
    }

    /// What it holds when no request is under way, and no more comes to an end.
    pub(crate) async fn at_rest(&self) -> Holds {
        self.idle(&["pending", "loadbalancer/load"]).await;
        let (mut last, mut same) = (Holds::now(), 0);
        for _ in 0..1000 {
            sleep(Duration::from_millis(10)).await;
            let now = Holds::now();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            if same == 30 {
                break;
            }
        }
        last
    }

    /// Waits until it holds no more than it did before.
    pub(crate) async fn returns_to(&self, before: Holds) {
        let begun = Instant::now();
        loop {
            let now = Holds::now();
            if now.tasks <= before.tasks && now.fds <= before.fds {
                return;
            }
            assert!(begun.elapsed() < LONG, "{now:?}, and it was {before:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until these gauges are zero everywhere.
    pub(crate) async fn idle(&self, gauges: &[&str]) {
        let begun = Instant::now();
        loop {
            let left = self.held(gauges).await;
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < LONG, "still held: {left:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn held(&self, gauges: &[&str]) -> Vec<String> {
        let mut wire = Wire::connect(self.admin).await;
        let rsp = wire.ask("GET /admin/metrics.json HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
        let metrics: Value = serde_json::from_slice(&rsp.body).unwrap();
        let is_gauge = |name: &str| gauges.iter().any(|gauge| name.ends_with(&format!("/{gauge}")));
        let metrics = metrics.as_object().unwrap();
        let seen: Vec<_> = metrics.iter().filter(|(name, _)| name.starts_with("rt/") && is_gauge(name)).collect();
        assert!(seen.len() > gauges.len(), "{seen:?}");
        let held = seen.into_iter().filter(|(_, value)| value.as_f64() != Some(0.0));
        held.map(|(name, value)| format!("{name}: {value}")).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Holds {
    fn now() -> Self {
        let tasks = Handle::current().metrics().num_alive_tasks();
        Self { tasks, fds: fs::read_dir("/proc/self/fd").unwrap().count() }
    }
}

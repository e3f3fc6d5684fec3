//! namerd's configuration file: from YAML or JSON to checked, typed values.
//!
//! The rules are those of [the proxy's](super), and so are the sections that both have.
//!
//! ```
//! use linkerd_core::config::namerd::Namerd;
//!
//! let config = Namerd::parse("namerd.yaml", "
//! storage:
//!   kind: io.l5d.inMemory
//!   namespaces:
//!     default: /svc => /#/io.l5d.fs
//! interfaces:
//! - kind: io.l5d.httpController
//! ")?;
//! assert_eq!(config.interfaces[0].port, 4180);
//! # Ok::<(), linkerd_core::config::Errors>(())
//! ```

mod access;
mod bounds;
mod guard;
mod interface;
mod safety;
mod storage;

use std::path::Path;

pub use access::{Access, Caller, Secret};
pub use bounds::{HistorySettings, NameCache};
pub use guard::{Compose, ComposedPart, Protect};
pub use interface::{Interface, InterfaceKind};
pub use safety::Safety;
pub use storage::{ConsulStorage, EtcdApi, EtcdStorage, Storage, StorageKind, ZkAuth, ZkStorage};

use super::{
    Admin, Config, Errors, Namer, Problem, Reload, Shutdown, Telemeter, Usage, claim_admin,
    conflict::Claims,
    decode::{At, Section},
    life, node,
};
use linkerd_retry::replay::ReplayMemory;

pub(crate) use access::roles;

/// The port of namerd's admin pages, if the file says none.
const ADMIN_PORT: u16 = 9991;

/// A whole configuration file of a namerd.
#[derive(Clone, Debug, PartialEq)]
pub struct Namerd {
    /// `storage`: where tables are kept. Required.
    pub storage: Storage,
    /// `interfaces`: how it is asked, at least one.
    pub interfaces: Vec<Interface>,
    /// What the file says beyond Linkerd 1.x.
    pub safety: Safety,
    /// What is as in a proxy's file: `admin`, `namers`, `telemetry`, `workers`, and where it all stands. It has no routers.
    pub common: Config,
}

struct Sections {
    storage: Option<Storage>,
    interfaces: Vec<Interface>,
    safety: Safety,
    admin: Admin,
    namers: Vec<Namer>,
    telemetry: Vec<Telemeter>,
    workers: Option<usize>,
}

const NO_NAMES: &str =
    "has no effect: no interface has `tls` with `requireClientAuth: true`, so that nobody shows a certificate";

const NO_INTERFACES: &str = "One or more interfaces must be specified";

impl Namerd {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, or why it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Errors> {
        let (file, bytes) = super::read(path.as_ref())?;
        Self::parse_bytes(&file, &bytes)
    }

    /// Checks the bytes of a file; `file` is what problems call it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<Self, Errors> {
        Self::parse(file, super::text(file, bytes)?)
    }

    /// Checks the text of a file; `file` is what problems call it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it. If it is not even YAML or JSON, where that ends.
    pub fn parse(file: &str, text: &str) -> Result<Self, Errors> {
        let (sections, tree) = super::parse(file, text, Sections::decode)?;
        let Sections { storage, interfaces, safety, admin, namers, telemetry, workers } = sections;
        let common = Config {
            routers: Vec::new(),
            namers,
            telemetry,
            admin,
            usage: Usage::default(),
            retry_buffer_bytes: ReplayMemory::DEFAULT,
            shutdown: Shutdown::default(),
            reload: Reload::default(),
            workers,
            file: file.into(),
            tree,
        };
        // Without one there was a problem, and the file was refused.
        let storage = storage.ok_or_else(|| common.problem("storage", "is required"))?;
        Ok(Self { storage, interfaces, safety, common })
    }

    /// What is accepted but worth a warning at start-up: keys without effect, names in `access` that nobody can show, and
    /// what fragments of a composed namespace own together.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        let mut warnings = self.common.warnings();
        let asks = |interface: &Interface| interface.tls.as_ref().is_some_and(|tls| tls.require_client_auth);
        if !self.interfaces.iter().any(asks) {
            let callers = self.safety.access.iter().map(|access| &access.caller).enumerate();
            let named = callers.filter(|(_, caller)| matches!(caller, Caller::Name(_)));
            warnings.extend(named.map(|(index, _)| self.common.problem(&format!("access[{index}].name"), NO_NAMES)));
        }
        for (index, compose) in self.safety.compose.iter().enumerate() {
            let place = |key: &str| format!("compose[{index}].{key}");
            warnings.extend(compose.oddities().map(|(key, oddity)| self.common.problem(&place(&key), oddity)));
        }
        warnings
    }

    /// How many names and addresses are followed, for all interfaces together.
    #[must_use]
    pub fn cache(&self) -> NameCache {
        let of_interfaces = self.interfaces.iter().filter_map(|interface| match interface.kind {
            InterfaceKind::Thrift { cache } => cache,
            _ => None,
        });
        self.safety.cache.or_else(|| of_interfaces.reduce(NameCache::larger)).unwrap_or(NameCache::UNSAID)
    }

    /// The file as JSON, for `/config.json`: as [`Config::to_json`] has it, but for the tokens in `access`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = self.common.to_json();
        for entry in json.get_mut("access").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
            if let Some(token) = entry.get_mut("token") {
                *token = "***".into();
            }
        }
        json
    }
}

impl Sections {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "namerd file")?;
        let claims = Claims::default();
        let default = Admin { port: ADMIN_PORT, ..Admin::default() };
        let admin = s.with("admin", |at| Admin::decode_or(at, default.clone())).unwrap_or(default);
        claim_admin(at, &claims, &admin);
        let storage = s.require("storage");
        let given = s.has("interfaces");
        let interfaces = s.with("interfaces", |at| {
            let interfaces = at.list(|at| Interface::decode(at, &claims))?;
            if matches!(&at.node.value, node::Value::List(items) if items.is_empty()) {
                at.problem(NO_INTERFACES);
            }
            Some(interfaces)
        });
        if !given {
            at.problem(format!("{NO_INTERFACES}: 'interfaces' is required"));
        }
        let namers = s.with("namers", namers).unwrap_or_default();
        let telemetry = s.or("telemetry", Vec::new());
        let workers = s.int("workers", 1..=life::MAX_WORKERS).map(|n| n as usize);
        let interfaces = interfaces.unwrap_or_default();
        let safety = Safety::decode(&mut s, storage.as_ref(), &interfaces);
        s.finish();
        Some(Self { storage, interfaces, safety, admin, namers, telemetry, workers })
    }
}

/// The namers, whose prefixes must not overlap: unlike a proxy's, namerd's are not asked one after another.
fn namers(at: &At<'_>) -> Option<Vec<Namer>> {
    let mut before: Vec<linkerd_dtab::Path> = Vec::new();
    at.list(|at| {
        let namer = <Namer as super::decode::Decode>::decode(at)?;
        if namer.prefix.is_empty() {
            at.problem("Namers must not have an empty prefix");
        }
        let overlaps =
            |other: &&linkerd_dtab::Path| other.starts_with(&namer.prefix) || namer.prefix.starts_with(other);
        if let Some(other) = before.iter().find(overlaps) {
            at.problem(format!("Namers must not have overlapping prefixes: {} & {}", other, namer.prefix));
        }
        before.push(namer.prefix.clone());
        Some(namer)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> String {
        Namerd::parse("n.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = errors("admin: {port: 0}");
        assert!(text.contains("storage: is required"), "{text}");
        assert!(text.contains("One or more interfaces must be specified"), "{text}");
        let text = errors("storage: {kind: io.l5d.inMemory}\ninterfaces: []\n");
        assert!(text.contains("One or more interfaces must be specified"), "{text}");
    }

    #[test]
    fn namers_must_not_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().display();
        let file = |a: &str, b: &str| {
            format!(
                "storage: {{kind: io.l5d.inMemory}}\ninterfaces: [{{kind: io.l5d.mesh}}]\nnamers:\n\
                 - {{kind: io.l5d.fs, rootDir: {dir}, prefix: {a}}}\n- {{kind: io.l5d.fs, rootDir: {dir}, prefix: {b}}}\n"
            )
        };
        let text = errors(&file("/a", "/a/b"));
        assert_eq!(text, "n.yaml:5:3: namers[1]: Namers must not have overlapping prefixes: /a & /a/b");
        assert!(Namerd::parse("n.yaml", &file("/a", "/ab")).is_ok());
        assert!(errors(&file("/a", "/")).contains("Namers must not have an empty prefix"));
    }

    #[test]
    fn ports_must_not_collide() {
        let text = errors(
            "storage: {kind: io.l5d.inMemory}\ninterfaces:\n- {kind: io.l5d.mesh, port: 4180}\n- kind: io.l5d.httpController\n",
        );
        assert!(text.contains("interfaces[1]"), "{text}");
    }

    #[test]
    fn a_bad_table_is_refused_with_its_place() {
        let text = errors(
            "storage:\n  kind: io.l5d.inMemory\n  namespaces:\n    a: /svc => \n    'b c': /svc => /x\ninterfaces: [{kind: io.l5d.mesh}]\n",
        );
        assert!(text.contains("storage.namespaces.a") && text.contains("storage.namespaces.b c"), "{text}");
    }
}

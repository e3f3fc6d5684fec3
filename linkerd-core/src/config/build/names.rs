//! What binds names: namers, interpreters, and what transforms what they say.

use std::{num::NonZeroU16, sync::Arc};

use linkerd_dtab::{
    Interpreter as Interprets, Namer as Names, Path,
    interpreter::{Local, fs::DtabFile},
    namer::{self, fs},
    transformer::{self, TransformedInterpreter, TransformedNamer, Transformer as Transforms},
};

use super::{Builder, Namerds, remote::Reach};
use crate::{
    config::{Interpreter, InterpreterKind, Namer, NamerKind, Router, Transformer, TransformerKind},
    telemetry::Registry,
};

/// A transformer with a prefix of its own, if the file gives it one.
macro_rules! prefixed {
    ($built:expr, $prefix:expr) => {
        match $prefix {
            Some(prefix) => Arc::new($built.with_prefix(prefix)) as Arc<dyn Transforms>,
            None => Arc::new($built) as Arc<dyn Transforms>,
        }
    };
}

/// Namers in order of preference, each with the prefix that it is mounted at.
pub(crate) type Mounted = Vec<(Path, Arc<dyn Names>)>;

impl Builder<'_> {
    /// The file's namers, the last one first: it is asked first.
    pub(super) fn namers(&mut self) -> Mounted {
        if let Some(before) = self.before.filter(|before| before.same_namers) {
            self.fs_namers.clone_from(&before.plan.fs_namers);
            return before.plan.namers.clone();
        }
        let mut mounted = Mounted::new();
        for (i, namer) in self.config.namers.iter().enumerate() {
            if let Some((prefix, built)) = self.namer(i, namer, &mounted) {
                mounted.insert(0, (prefix, built));
            }
        }
        mounted
    }

    fn namer(&mut self, i: usize, namer: &Namer, before: &Mounted) -> Option<(Path, Arc<dyn Names>)> {
        // Whether it had to be `experimental` was checked.
        let Namer { prefix, experimental: _, transformers, kind } = namer;
        let prefix = under("#", prefix);
        let built: Arc<dyn Names> = match kind {
            NamerKind::Fs { root_dir } => {
                let fs = fs::Namer::new(&root_dir.0).with_resolver(Arc::clone(&self.resolve));
                self.fs_namers.push((prefix.clone(), fs.clone()));
                Arc::new(fs)
            }
            NamerKind::Rewrite { pattern, name } => Arc::new(namer::rewrite::Namer::new(pattern.pattern(), name)),
            _ => {
                self.problem(&format!("namers[{i}].kind"), "is not supported yet");
                return None;
            }
        };
        if transformers.is_empty() {
            return Some((prefix, built));
        }
        // A constant is bound by the other namers, without any table.
        let global: Arc<dyn Interprets> = Arc::new(Local::new(before.clone(), Arc::clone(&self.resolve)));
        let key = format!("namers[{i}].transformers");
        let transformers = self.transformers(&key, transformers, &global)?;
        Some((prefix.clone(), Arc::new(TransformedNamer::new(prefix, built, transformers))))
    }

    fn transformers(
        &mut self,
        key: &str,
        transformers: &[Transformer],
        global: &Arc<dyn Interprets>,
    ) -> Option<Vec<Arc<dyn Transforms>>> {
        let mut built: Vec<Arc<dyn Transforms>> = Vec::new();
        for (i, Transformer { prefix, kind }) in transformers.iter().enumerate() {
            let key = format!("{key}[{i}]");
            let one: Arc<dyn Transforms> = match kind {
                TransformerKind::Port { port } => {
                    let Some(port) = NonZeroU16::new(*port) else {
                        self.problem(&format!("{key}.port"), "must be from 1 to 65535, got 0");
                        return None;
                    };
                    prefixed!(transformer::Port::new(port), prefix)
                }
                TransformerKind::Localhost => match transformer::Localhost::new() {
                    Ok(localhost) => prefixed!(localhost, prefix),
                    Err(error) => {
                        self.problem(&key, format!("the addresses of this host are unknown: {error}"));
                        return None;
                    }
                },
                TransformerKind::SpecificHost { host } => {
                    prefixed!(transformer::SpecificHost::new(*host), prefix)
                }
                TransformerKind::Const { path } => {
                    prefixed!(transformer::Const::new(path.clone(), Arc::clone(global)), prefix)
                }
                TransformerKind::Replace { path } => {
                    prefixed!(transformer::Replace::new(path.clone(), Arc::clone(global)), prefix)
                }
                TransformerKind::LocalNode { .. } | TransformerKind::DaemonSet { .. } => {
                    self.problem(&format!("{key}.kind"), "is not supported yet");
                    return None;
                }
            };
            built.push(one);
        }
        Some(built)
    }

    pub(super) fn interpreter(
        &mut self,
        i: usize,
        router: &Router,
        namers: &Mounted,
    ) -> Option<(Arc<dyn Interprets>, Option<Namerds>)> {
        // Whether it had to be `experimental` was checked.
        let Interpreter { experimental: _, transformers, kind } = &router.interpreter;
        let local = Local::new(namers.clone(), Arc::clone(&self.resolve));
        let global: Arc<dyn Interprets> = Arc::new(local.clone());
        let mut remote = None;
        let bare: Arc<dyn Interprets> = match kind {
            InterpreterKind::Default => Arc::clone(&global),
            InterpreterKind::Fs { dtab_file } => Arc::new(local.with_dtab(DtabFile::watch(&dtab_file.0))),
            InterpreterKind::Namerd { .. } | InterpreterKind::NamerdHttp { .. } | InterpreterKind::Mesh { .. } => {
                let built = remote_of(kind, &router.label, &global, self.registry);
                match built {
                    Ok(built) => {
                        remote = Some(built.clone());
                        Arc::new(built.remote)
                    }
                    Err((key, error)) => {
                        self.problem(&format!("routers[{i}].interpreter.{key}"), error);
                        return None;
                    }
                }
            }
            InterpreterKind::ConfigMap { .. } | InterpreterKind::Consul(_) => {
                self.problem(&format!("routers[{i}].interpreter.kind"), "is not supported yet");
                return None;
            }
        };
        if transformers.is_empty() {
            return Some((bare, remote));
        }
        let key = format!("routers[{i}].interpreter.transformers");
        let transformers = self.transformers(&key, transformers, &global)?;
        Some((Arc::new(TransformedInterpreter::new(bare, transformers)), remote))
    }
}

/// An interpreter that asks a namerd, as the file has it.
fn remote_of(
    kind: &InterpreterKind,
    label: &str,
    names: &Arc<dyn Interprets>,
    registry: &Registry,
) -> Result<Namerds, (&'static str, String)> {
    let reach = |remote| Reach { remote, label, names: Arc::clone(names), registry };
    let (kind, namespace, remote) = match kind {
        InterpreterKind::Namerd { remote, tls } => {
            ("io.l5d.namerd", remote.namespace.clone(), reach(remote).thrift(tls.as_ref())?)
        }
        InterpreterKind::NamerdHttp { remote, tls } => {
            ("io.l5d.namerd.http", remote.namespace.clone(), reach(remote).http(tls.as_ref())?)
        }
        InterpreterKind::Mesh { remote, root, tls, initial_stream_window_size_kb } => {
            let namespace = root.to_string().trim_start_matches('/').to_owned();
            ("io.l5d.mesh", namespace, reach(remote).grpc(root, *initial_stream_window_size_kb, tls.as_ref())?)
        }
        _ => return Err(("kind", "asks no namerd".to_owned())),
    };
    Ok(Namerds { kind, namespace, remote })
}

/// `/mark/...path`
fn under(mark: &str, path: &Path) -> Path {
    let mut builder = linkerd_dtab::PathBuilder::default();
    // One character is no empty element.
    let _ = builder.push(mark.as_bytes());
    builder.extend(path);
    builder.build()
}

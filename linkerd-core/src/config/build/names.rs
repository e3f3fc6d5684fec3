//! What binds names: namers, interpreters, and what transforms what they say.

use std::{collections::BTreeSet, num::NonZeroU16, sync::Arc};

use linkerd_dtab::{
    Interpreter as Interprets, Namer as Names, Path,
    interpreter::{ByNamespace, Local, fs::DtabFile},
    namer::{self, fs},
    transformer::{self, TransformedInterpreter, TransformedNamer, Transformer as Transforms},
};

use super::{Builder, Namerds, remote::Reach};
use crate::config::{Interpreter, InterpreterKind, Namer, NamerKind, Router, Transformer, TransformerKind};

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
    ) -> Option<(Arc<dyn Interprets>, Vec<Namerds>)> {
        // Whether it had to be `experimental` was checked.
        let Interpreter { experimental: _, transformers, kind } = &router.interpreter;
        let local = Local::new(namers.clone(), Arc::clone(&self.resolve));
        let global: Arc<dyn Interprets> = Arc::new(local.clone());
        let mut remotes = Vec::new();
        let bare: Arc<dyn Interprets> = match kind {
            InterpreterKind::Default => Arc::clone(&global),
            InterpreterKind::Fs { dtab_file } => Arc::new(local.with_dtab(DtabFile::watch(&dtab_file.0))),
            InterpreterKind::Namerd { .. } | InterpreterKind::NamerdHttp { .. } | InterpreterKind::Mesh { .. } => {
                match self.remotes_of(kind, &router.label, &global) {
                    Ok((first, others)) => {
                        remotes.push(first.clone());
                        remotes.extend(others.iter().cloned());
                        by_namespace(first, others)
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
            return Some((bare, remotes));
        }
        let key = format!("routers[{i}].interpreter.transformers");
        let transformers = self.transformers(&key, transformers, &global)?;
        Some((Arc::new(TransformedInterpreter::new(bare, transformers)), remotes))
    }

    /// The interpreter that asks a namerd, as the file has it, and one for each other namespace that requests may choose.
    fn remotes_of(
        &self,
        kind: &InterpreterKind,
        label: &str,
        names: &Arc<dyn Interprets>,
    ) -> Result<(Namerds, Vec<Namerds>), (&'static str, String)> {
        let scope = format!("{label}/interpreter");
        let first = self.remote_of(kind, label, &scope, names)?;
        let allowed = kind.remote().and_then(|remote| remote.per_request_namespace.as_ref());
        let allowed: BTreeSet<&String> = allowed.map(|given| given.allow.iter().collect()).unwrap_or_default();
        let others = allowed.into_iter().filter(|namespace| **namespace != first.namespace);
        let others = others.map(|namespace| {
            let scope = format!("{scope}/{namespace}");
            self.remote_of(&kind.in_namespace(namespace), label, &scope, names)
        });
        let others = others.collect::<Result<_, _>>()?;
        Ok((first, others))
    }

    fn remote_of(
        &self,
        kind: &InterpreterKind,
        label: &str,
        scope: &str,
        names: &Arc<dyn Interprets>,
    ) -> Result<Namerds, (&'static str, String)> {
        #[cfg(not(feature = "tls"))]
        let _ = label;
        let reach = |remote| Reach {
            remote,
            #[cfg(feature = "tls")]
            label,
            scope,
            names: Arc::clone(names),
            builder: self,
        };
        let namespace = kind.namespace().unwrap_or_default();
        let (kind, remote) = match kind {
            InterpreterKind::Namerd { remote, tls } => ("io.l5d.namerd", reach(remote).thrift(tls.as_ref())?),
            InterpreterKind::NamerdHttp { remote, tls } => ("io.l5d.namerd.http", reach(remote).http(tls.as_ref())?),
            InterpreterKind::Mesh { remote, root, tls, initial_stream_window_size_kb } => {
                ("io.l5d.mesh", reach(remote).grpc(root, *initial_stream_window_size_kb, tls.as_ref())?)
            }
            _ => return Err(("kind", "asks no namerd".to_owned())),
        };
        Ok(Namerds { kind, namespace, remote })
    }
}

/// Binds names by the namespace that they say; those that say none by the first.
fn by_namespace(first: Namerds, others: Vec<Namerds>) -> Arc<dyn Interprets> {
    if others.is_empty() {
        return Arc::new(first.remote);
    }
    let first = ByNamespace::new(first.remote);
    Arc::new(others.into_iter().fold(first, |all, other| all.namespace(&other.namespace, other.remote)))
}

/// `/mark/...path`
fn under(mark: &str, path: &Path) -> Path {
    let mut builder = linkerd_dtab::PathBuilder::default();
    // One character is no empty element.
    let _ = builder.push(mark.as_bytes());
    builder.extend(path);
    builder.build()
}

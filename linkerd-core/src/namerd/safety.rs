//! What a file says of roles, guards, history and bounds, on to a namerd.

use linkerd_dtab::namerd::{Builder, History};

use crate::config::{
    Errors,
    namerd::{Compose, HistorySettings, Namerd, Protect, Safety, roles},
};

/// # Errors
///
/// The folder of the history cannot be used.
pub(super) fn apply(config: &Namerd, builder: Builder) -> Result<Builder, Errors> {
    let Safety { access, protect, compose, roots, history, limits, cache: _ } = &config.safety;
    let HistorySettings { directory, keep } = history;
    let history = match directory {
        Some(directory) => History::open(directory, *keep).map_err(|error| {
            let text = format!("cannot use the directory {}: {error}", directory.display());
            config.common.problem("history.directory", text)
        })?,
        None => History::in_memory(*keep),
    };
    let cache = config.cache();
    let builder = builder.roles(roles(access)).roots(roots.iter().cloned()).history(history).limits(*limits);
    let builder = builder.bindings(cache.of_bindings()).addrs(cache.of_addrs());
    let builder = protect.iter().flat_map(Protect::protections).fold(builder, Builder::protect);
    Ok(compose.iter().map(Compose::composition).fold(builder, Builder::compose))
}

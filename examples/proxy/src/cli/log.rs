//! What is logged, and how much of it: changed on the admin page.

use std::io::IsTerminal;

use linkerd_core::BoxError;
use linkerd_core::admin::Logging;
use tracing_subscriber::{Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use super::flags::Level;

/// The level of the log, while the program runs.
#[derive(Clone, Debug)]
pub struct Log(reload::Handle<LevelFilter, Registry>);

/// Logs to standard error from now on.
#[must_use]
pub fn init(level: Level) -> Log {
    let (filter, handle) = reload::Layer::new(level.0);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false);
    // Only a second logger could make this fail, and there is none in this program.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Log(handle)
}

impl Log {
    /// The one logger that there is, for `/logging.json`.
    #[must_use]
    pub fn pages(&self) -> Logging {
        let (levels, set) = (self.0.clone(), self.0.clone());
        Logging::new(
            move || {
                let level = levels.with_current(|level| name(*level)).unwrap_or("OFF");
                vec![("root".to_owned(), level.to_owned())]
            },
            move |logger, level| {
                let level: Level = level.parse().map_err(|_| "none of OFF, ERROR, WARNING, INFO, DEBUG, TRACE")?;
                if logger == "root" || logger.is_empty() {
                    set.reload(level.0).map_err(|error| BoxError::from(error.to_string()))?;
                }
                Ok(())
            },
        )
    }
}

fn name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::OFF => "OFF",
        LevelFilter::ERROR => "ERROR",
        LevelFilter::WARN => "WARNING",
        LevelFilter::INFO => "INFO",
        LevelFilter::DEBUG => "DEBUG",
        _ => "TRACE",
    }
}

//! Access logs: a line for each request, in a file that is rolled.
//!
//! Whoever logs waits for nothing: lines go through a bounded queue to a thread that writes them, and one that finds
//! the queue full, at 8192 lines or 4 MiB, is dropped and counted. The metrics are `access_log/lines`, `dropped` and
//! `errors` of the router.

mod asked;
mod combined;
mod escape;
mod record;
mod roll;
mod writer;

use std::{fmt, io, path::PathBuf, str::FromStr, sync::Arc};

#[cfg(feature = "namerd")]
use std::net::SocketAddr;

#[cfg(feature = "namerd")]
use http::request;
use http::{Request, Response};
use jiff::{Timestamp, Zoned, tz::TimeZone};

pub(crate) use self::{
    asked::Asked,
    record::{Record, Served},
};
pub use self::{
    record::{BadTemplate, Template},
    roll::Roll,
};
use self::{roll::RollingFile, writer::Writer};
use crate::{
    Body,
    http::RequestContext,
    telemetry::{RouterStats, Scope},
};

/// The access log of a router. A clone writes to the same file.
#[derive(Clone)]
pub struct AccessLog(Arc<Inner>);

struct Inner {
    format: AccessLogFormat,
    router: Arc<str>,
    is_h2: bool,
    zone: TimeZone,
    path: PathBuf,
    writer: Writer,
}

/// A request that is not answered yet.
#[cfg(feature = "namerd")]
pub(crate) enum Noted {
    Attempt(AccessLog, Box<Asked>),
    Request(Box<Record>),
}

#[cfg(feature = "namerd")]
impl Noted {
    pub(crate) fn answered(self, rsp: &mut Response<Body>) {
        match self {
            Self::Attempt(log, asked) => log.answered(&asked, rsp),
            Self::Request(record) => record.answered(rsp, None),
        }
    }
}

/// What an access log is like.
#[derive(Clone, Debug)]
pub struct AccessLogSettings {
    /// The file. Folders on the way to it are made.
    pub file: PathBuf,
    /// When a new file is begun. Never.
    pub roll: Roll,
    /// Whether what is in the file stays. Yes; otherwise it is lost with the first line.
    pub append: bool,
    /// How many old files are kept, beside the one that is written. All of them.
    pub keep: Option<u32>,
    /// What a line is like. Linkerd 1's.
    pub format: AccessLogFormat,
    /// Whether requests come by HTTP/2, which Linkerd 1 logs a little differently. No.
    pub is_h2: bool,
}

/// What a line of an access log is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// As Linkerd 1 has it: a line for each attempt that was answered. What could not be routed, took too long or could
    /// not connect is not in it.
    ///
    /// ```text
    /// web 10.0.0.1 - - [21/11/2026:13:02:39 UTC] "GET /p?q=1 HTTP/1.1" 200 5 "http://referer/" "agent/1"
    /// ```
    ///
    /// What others sent is escaped as Apache does it: `\"`, `\\`, `\t`, and `\xhh` for what is no printable ASCII; a space in
    /// a host or a length, too.
    #[default]
    Combined,
    /// A JSON object for each request, whatever became of it, when its answer is over. It has the fields of a
    /// [`Template`] that are known.
    Json,
    /// The same fields in a form of one's own.
    Template(Template),
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self {
            file: PathBuf::from("access.log"),
            roll: Roll::Never,
            append: true,
            keep: None,
            format: AccessLogFormat::Combined,
            is_h2: false,
        }
    }
}

impl AccessLog {
    /// Opens the file, and begins a thread that writes to it until the last clone is gone.
    ///
    /// # Errors
    ///
    /// The file cannot be made or written, or the thread not begun.
    pub fn open(settings: AccessLogSettings, stats: &RouterStats) -> io::Result<Self> {
        let log = Self::prepare(settings, stats)?;
        log.start()?;
        Ok(log)
    }

    /// Opens the file, whose lines wait until it [starts](Self::start). If it never does, a new file is removed again.
    pub(crate) fn prepare(settings: AccessLogSettings, stats: &RouterStats) -> io::Result<Self> {
        Self::prepare_for(settings, Arc::clone(stats.label()), stats.scope())
    }

    /// The same for what is no router: its label, and where its metrics are.
    pub(crate) fn prepare_for(settings: AccessLogSettings, label: Arc<str>, scope: &Scope) -> io::Result<Self> {
        let AccessLogSettings { file: path, roll, append, keep, format, is_h2 } = settings;
        let zone = TimeZone::system();
        let file = RollingFile::open(&path, roll, keep, zone.clone(), Timestamp::now())?;
        let writer = Writer::new(file, append, &scope.scope("access_log"));
        Ok(Self(Arc::new(Inner { format, router: label, is_h2, zone, path, writer })))
    }

    /// Begins the thread that writes, the first time.
    pub(crate) fn start(&self) -> io::Result<()> {
        self.0.writer.begin()
    }

    /// Waits until what was logged is in the file, for a second at most: dropping the last clone does so only where it
    /// holds up no runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn flush(&self) {
        self.0.writer.flush().await;
    }

    /// Opens the file by its name again before the next line, and makes it anew if it is gone. Without that, one that was
    /// moved away or removed is noticed within a second.
    pub fn reopen(&self) {
        self.0.writer.reopen();
    }

    /// Notes an attempt, if attempts are logged.
    pub(crate) fn asked(&self, req: &Request<Body>, cx: Option<&RequestContext>) -> Option<Box<Asked>> {
        matches!(self.0.format, AccessLogFormat::Combined).then(|| {
            let remote = cx.and_then(|cx| cx.remote);
            Box::new(Asked::of(req.method(), req.uri(), req.version(), req.headers(), remote))
        })
    }

    /// Notes a request that nothing routes, in whichever form the log has.
    #[cfg(feature = "namerd")]
    pub(crate) fn note(&self, parts: &request::Parts, remote: SocketAddr, peer: Option<String>) -> Noted {
        let asked = || Box::new(Asked::of(&parts.method, &parts.uri, parts.version, &parts.headers, Some(remote)));
        match self.begin(parts, remote, || peer, tokio::time::Instant::now().into_std()) {
            Some(record) => Noted::Request(record),
            None => Noted::Attempt(self.clone(), asked()),
        }
    }

    /// Logs an attempt.
    pub(crate) fn answered(&self, asked: &Asked, rsp: &Response<Body>) {
        self.0.writer.line(asked.line(rsp, &self.now(), self.0.is_h2).into_bytes());
    }

    /// Whether requests are logged, and not attempts.
    pub(crate) fn is_by_request(&self) -> bool {
        !matches!(self.0.format, AccessLogFormat::Combined)
    }

    fn record(&self, record: &Record) {
        let mut line = match &self.0.format {
            AccessLogFormat::Combined => return,
            AccessLogFormat::Json => record.json(&self.0.router),
            AccessLogFormat::Template(template) => record.fill(template, &self.0.router),
        };
        line.push('\n');
        self.0.writer.line(line.into_bytes());
    }

    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn now(&self) -> Zoned {
        Timestamp::now().to_zoned(self.0.zone.clone())
    }
}

/// `combined`, `json`, or a [`Template`].
impl FromStr for AccessLogFormat {
    type Err = BadTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "combined" => Ok(Self::Combined),
            "json" => Ok(Self::Json),
            template => template.parse().map(Self::Template),
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("file", &self.0.path).field("format", &self.0.format).finish_non_exhaustive()
    }
}

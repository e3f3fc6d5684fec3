//! `watch`: each state of a table, or of the list of names, as it comes.

use std::{
    io::{self, Write},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::IgnoredAny;

use crate::{
    cli::WatchArgs,
    client::told,
    diff::{diff, text},
    error::{Error, Outcome},
    namerd::Namerd,
    note,
    table::{Entry, canonical, pretty},
};

/// How long to wait before namerd is asked again, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The longest state that is read, in bytes.
const MAX_LINE: usize = 16 << 20;

/// Prints what comes. Ends after so many states, or when nobody reads what it prints.
pub(super) async fn watch(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &WatchArgs,
    as_json: bool,
) -> Result<Outcome, Error> {
    if !args.of.rest.is_empty() {
        return Err(Error::Words("watch takes a name argument, or none"));
    }
    let name = args.of.name.as_deref();
    let namerd = connect()?;
    let mut states = States { as_json, is_table: name.is_some(), last: None, left: args.count, table: Vec::new() };
    let mut backoff = BACKOFF.0;
    let mut body = namerd.watch(name).await?;
    while states.wants_more() {
        let before = states.last.clone();
        let why = states.follow(body).await?;
        if !states.wants_more() {
            break;
        }
        if states.last != before {
            backoff = BACKOFF.0;
        }
        body = loop {
            note(&format!("namerctl: {why}; asking again in {backoff:?}"));
            tokio::time::sleep(backoff).await;
            backoff = BACKOFF.1.min(backoff * 2);
            match namerd.watch(name).await {
                Ok(body) => break body,
                Err(error) => note(&format!("namerctl: {error}")),
            }
        };
    }
    Ok(Outcome::ok(""))
}

struct States {
    as_json: bool,
    is_table: bool,
    /// The line that was printed last: a new connection begins with what may be known.
    last: Option<Vec<u8>>,
    left: Option<u64>,
    table: Vec<Entry>,
}

impl States {
    fn wants_more(&self) -> bool {
        self.left != Some(0)
    }

    /// Prints the states until the stream ends, and says how it did.
    async fn follow(&mut self, mut body: Incoming) -> Result<String, Error> {
        let mut buffer: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Ok(format!("the connection broke ({})", told(&error))),
            };
            let Some(data) = frame.data_ref() else { continue };
            let mut lines = data.split(|&byte| byte == b'\n');
            let last = lines.next_back().unwrap_or_default();
            for line in lines {
                buffer.extend_from_slice(line);
                if self.print(buffer.trim_ascii())? {
                    return Ok(String::new());
                }
                buffer.clear();
            }
            buffer.extend_from_slice(last);
            if buffer.len() > MAX_LINE {
                return Ok(format!("a state of more than {MAX_LINE} bytes"));
            }
        }
        let end = buffer.trim_ascii();
        if end.is_empty() {
            return Ok("the connection was closed".into());
        }
        if serde_json::from_slice::<IgnoredAny>(end).is_err() {
            return Ok("the connection was closed in the middle of a state".into());
        }
        // Who sends no more than one may leave out its end.
        self.print(end)?;
        Ok("the connection was closed".into())
    }

    /// Whether that is enough.
    fn print(&mut self, line: &[u8]) -> Result<bool, Error> {
        if line.is_empty() || self.last.as_deref() == Some(line) {
            return Ok(false);
        }
        let shown = if self.as_json { String::from_utf8_lossy(line).into_owned() + "\n" } else { self.shown(line)? };
        self.last = Some(line.to_vec());
        let mut out = io::stdout();
        if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
            // Nobody reads on.
            self.left = Some(0);
            return Ok(true);
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(!self.wants_more())
    }

    /// The table at first, then what changed of it; or the names. An empty line below.
    fn shown(&mut self, line: &[u8]) -> Result<String, Error> {
        let bad = |error: serde_json::Error| Error::BadAnswer(format!("a state that is not as expected: {error}"));
        if !self.is_table {
            let names: Vec<String> = serde_json::from_slice(line).map_err(bad)?;
            return Ok(names.join("\n") + "\n\n");
        }
        let table: Option<Vec<Entry>> = serde_json::from_slice(line).map_err(bad)?;
        let table = canonical(&table.unwrap_or_default())?;
        let shown = if self.last.is_none() { pretty(&table) } else { text(&diff(&self.table, &table)) };
        self.table = table;
        Ok(shown + "\n")
    }
}

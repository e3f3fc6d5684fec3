//! Tables as namerd answers them, as files have them, and as they are printed.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use linkerd_dtab::{Dentry, Dtab};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, of_file, plain},
    namerd::Body,
};

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// One rule, as text.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) struct Entry {
    #[serde(default)]
    pub(crate) prefix: String,
    #[serde(default)]
    pub(crate) dst: String,
}

/// A table and which version of it this is.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Versioned {
    #[serde(default)]
    pub(crate) version: String,
    pub(crate) dtab: Option<Vec<Entry>>,
}

/// A table that was read from a file or from standard input.
#[derive(Debug)]
pub(crate) struct Source {
    /// `None` for standard input.
    path: Option<String>,
    text: String,
    form: Form,
    /// The rules in their canonical form.
    pub(crate) entries: Vec<Entry>,
    /// Which version it was made from, if it says so.
    pub(crate) version: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Dtab,
    Array,
    Object,
}

/// The line above a table that says its version.
const VERSION: &str = "# version ";

/// JSON as Go writes it, in which no character means anything to HTML.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("strings, numbers and lists of them");
    // Outside of strings JSON has none of these.
    text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// One entry a line, the arrows below each other.
pub(crate) fn pretty(entries: &[Entry]) -> String {
    lines("", entries.iter().map(|entry| ("", entry)))
}

/// The same with something before each entry.
pub(crate) fn lines<'a>(margin: &str, entries: impl Iterator<Item = (&'a str, &'a Entry)> + Clone) -> String {
    let width = entries.clone().map(|(_, entry)| entry.prefix.len()).max().unwrap_or_default();
    let line = |(mark, Entry { prefix, dst }): (&str, &Entry)| {
        let gap = " ".repeat(width - prefix.len());
        format!("{margin}{mark}{prefix}{gap}  => {dst} ;\n")
    };
    entries.map(line).collect()
}

/// All on one line, without a space.
pub(crate) fn compact(entries: &[Entry]) -> String {
    let shown = |Entry { prefix, dst }: &Entry| format!("{prefix}=>{dst};");
    entries.iter().map(shown).collect()
}

/// The version, if there is one, and the entries.
pub(crate) fn listing(version: &str, entries: &[Entry]) -> String {
    let version = if version.is_empty() { String::new() } else { format!("{VERSION}{version}\n") };
    version + &pretty(entries)
}

/// The same rules as they would be written by who parsed them, so that equal ones are equal as text.
pub(crate) fn canonical(entries: &[Entry]) -> Result<Vec<Entry>, Error> {
    entries.iter().map(canonical_entry).collect()
}

fn canonical_entry(entry: &Entry) -> Result<Entry, Error> {
    let bad = |reason: String| Error::BadTable(format!("{} => {}: {reason}", entry.prefix, entry.dst));
    let prefix = entry.prefix.parse().map_err(|error: linkerd_dtab::ParseError| bad(error.summary().to_string()))?;
    let dst = entry.dst.parse().map_err(|error: linkerd_dtab::ParseError| bad(error.summary().to_string()))?;
    Ok(shown(&Dentry { prefix, dst }))
}

fn shown(entry: &Dentry) -> Entry {
    Entry { prefix: entry.prefix.to_string(), dst: entry.dst.to_string() }
}

/// Whether the original takes this text for JSON.
pub(crate) fn is_json(text: &str) -> bool {
    text.starts_with(['{', '['])
}

/// The text of a file, or of standard input for `-`.
pub(crate) fn read_text(path: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    match path {
        "" => return Err(Error::File("empty dtab path".into())),
        "-" => {
            io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| of_file("read", "stdin", &error))?
        }
        _ => {
            let file = fs::File::open(path).map_err(|error| of_file("open", path, &error))?;
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| of_file("read", path, &error))?
        }
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::File(format!("{path}: more than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Error::File(format!("{path}: not UTF-8")))
}

impl Source {
    /// Reads a table: its text, or JSON with or without a version.
    pub(crate) fn read(path: &str) -> Result<Self, Error> {
        let text = read_text(path)?;
        let named = if path == "-" { "stdin" } else { path };
        Self::parse(text, named).map(|source| Self { path: (path != "-").then(|| path.to_owned()), ..source })
    }

    fn parse(text: String, named: &str) -> Result<Self, Error> {
        let bad = |reason: &dyn std::fmt::Display| Error::BadTable(format!("{named}: {reason}"));
        let start = text.trim_start();
        let (form, entries, version) = if start.starts_with('{') {
            let Versioned { version, dtab } = serde_json::from_str(&text).map_err(|error| bad(&error))?;
            let entries = dtab.ok_or_else(|| bad(&"no \"dtab\" in it"))?;
            (Form::Object, canonical(&entries).map_err(|error| bad(&error))?, Some(version))
        } else if start.starts_with('[') {
            let entries: Vec<Entry> = serde_json::from_str(&text).map_err(|error| bad(&error))?;
            (Form::Array, canonical(&entries).map_err(|error| bad(&error))?, None)
        } else {
            let dtab: Dtab = text.parse().map_err(|error: linkerd_dtab::ParseError| bad(&error.summary()))?;
            let version = text.lines().find_map(|line| line.strip_prefix(VERSION)).map(|of| of.trim().to_owned());
            (Form::Dtab, dtab.entries().iter().map(shown).collect(), version)
        };
        let version = version.filter(|version| !version.is_empty());
        Ok(Self { path: None, text, form, entries, version })
    }

    /// What is sent to be looked at: text as it is, so that places in it are those of the file.
    pub(crate) fn body(&self) -> Body {
        match self.form {
            Form::Dtab => Body::dtab(self.text.clone()),
            Form::Array | Form::Object => Body::json(Some(&self.entries)),
        }
    }

    /// Puts this version in place of the one that the file says it was made from, if it says so at all.
    ///
    /// The file is replaced whole: who reads it meanwhile sees the old one or the new one.
    pub(crate) fn record(&self, version: &str) -> Result<(), Error> {
        let (Some(path), Some(old)) = (&self.path, &self.version) else { return Ok(()) };
        if old == version {
            return Ok(());
        }
        let text = match self.form {
            Form::Array => return Ok(()),
            Form::Object => {
                let dtab = Some(self.entries.clone());
                json(&Versioned { version: version.into(), dtab }) + "\n"
            }
            Form::Dtab => {
                let mut replaced = false;
                let lines = self.text.split_inclusive('\n').map(|line| {
                    let is_it = !replaced && line.starts_with(VERSION);
                    replaced |= is_it;
                    if is_it { format!("{VERSION}{version}\n") } else { line.to_owned() }
                });
                lines.collect()
            }
        };
        replace(Path::new(path), &text).map_err(|error| Error::File(format!("write {path}: {}", plain(&error))))
    }
}

/// Writes a file beside, and puts it in place of this one. A link stays one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&beside)?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    })();
    if written.is_err() {
        // What is left to do if this fails too? The error that is told is the first.
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(prefix: &str, dst: &str) -> Entry {
        Entry { prefix: prefix.into(), dst: dst.into() }
    }

    fn source(text: &str) -> Result<Source, String> {
        Source::parse(text.into(), "f").map_err(|error| error.to_string())
    }

    #[test]
    fn arrows_stand_two_columns_after_the_longest_prefix() {
        let table = [entry("/srv", "/#/x"), entry("/host/world", "/srv/world-v1")];
        let text = "# version MzU4MQ==\n/srv         => /#/x ;\n/host/world  => /srv/world-v1 ;\n";
        assert_eq!(listing("MzU4MQ==", &table), text);
        assert_eq!(compact(&table), "/srv=>/#/x;/host/world=>/srv/world-v1;");
        assert_eq!(listing("", &[]), "");
    }

    #[test]
    fn json_is_that_of_go() {
        assert_eq!(json(&[entry("/a", "/b & /<c>")]), r#"[{"prefix":"/a","dst":"/b \u0026 /\u003cc\u003e"}]"#);
    }

    #[test]
    fn each_form_reads_as_the_same_table() {
        let text = source("# version V1=\n/a=>/b;\n\n/c => 1*/d & 2 * /e ; # why\n").expect("a table");
        assert_eq!(text.version.as_deref(), Some("V1="));
        assert_eq!(text.entries, [entry("/a", "/b"), entry("/c", "/d & 2.00*/e")]);
        let array = r#"[{"prefix":"/a","dst":"/b"},{"prefix":"/c","dst":"1*/d \u0026 2*/e"}]"#;
        assert_eq!(source(array).expect("a table").entries, text.entries);
        let object = source(&format!(r#"{{"version":"V1=","dtab":{array}}}"#)).expect("a table");
        assert_eq!((object.entries, object.version), (text.entries, text.version));
    }

    #[test]
    fn what_is_no_table_is_said_with_its_place() {
        assert_eq!(source("/a => /b;\n/c -> /d").unwrap_err(), "f: line 2, column 4: '=' expected but '-' found");
        let bad = source(r#"[{"prefix":"/a","dst":"b"}]"#).unwrap_err();
        assert!(bad.starts_with("f: /a => b: line 1, column 1: "), "{bad}");
        assert_eq!(source(r#"{"version":"1"}"#).unwrap_err(), "f: no \"dtab\" in it");
        assert!(source("[").is_err() && source(r#"{"dtab":1}"#).is_err());
    }

    #[test]
    fn the_version_in_a_file_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.dtab").display().to_string();
        let written = |text: &str| {
            fs::write(&path, text).expect("writes");
            Source::read(&path).expect("a table").record("new").expect("records");
            fs::read_to_string(&path).expect("reads")
        };
        assert_eq!(written("# mine\n# version old\n/a=>/b # x\n"), "# mine\n# version new\n/a=>/b # x\n");
        assert_eq!(written("/a=>/b\n"), "/a=>/b\n");
        assert_eq!(written(r#"{"version":"old","dtab":[]}"#), "{\"version\":\"new\",\"dtab\":[]}\n");
        assert_eq!(written("[]"), "[]");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    }
}

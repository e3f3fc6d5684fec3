//! Histories in files: one for each namespace, a record a line, and the file before it in `~old`.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Keep, Record};
use crate::store::Namespace;

// No namespace has a tilde.
const OLD: &str = "~old";
/// The file that has the highest number that was forgotten.
const FORGOTTEN: &str = "~forgotten";
const FORGOTTEN_NEW: &str = "~forgotten-new";

/// A line is longer than this only if it is none of ours: a table's text has at most 1 MiB, and JSON may double it.
const MAX_LINE: usize = 4 << 20;

fn file_name(namespace: &Namespace) -> String {
    namespace.as_str().replace('/', "~")
}

/// Appends a record, on disk when this returns.
pub(super) fn append(folder: &Path, namespace: &Namespace, record: &Record, keep: Keep) -> io::Result<()> {
    let path = folder.join(file_name(namespace));
    let line = record.to_line();
    let len = fs::metadata(&path).map_or(0, |metadata| metadata.len());
    if len > 0 && len + line.len() as u64 > keep.file_bytes {
        fs::rename(&path, folder.join(OLD).join(file_name(namespace)))?;
    }
    let is_new = !path.exists();
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let len = file.metadata()?.len();
    if let Err(error) = file.write_all(line.as_bytes()).and_then(|()| file.sync_data()) {
        // Half a line would spoil the next one.
        let _ = file.set_len(len);
        return Err(error);
    }
    if is_new { sync_folder(folder) } else { Ok(()) }
}

/// The records of all namespaces, oldest first.
pub(super) fn read_all(folder: &Path, keep: Keep) -> io::Result<Vec<(Namespace, VecDeque<Arc<Record>>)>> {
    fs::create_dir_all(folder.join(OLD))?;
    sync_folder(folder)?;
    let mut names: Vec<_> = Vec::new();
    for folder in [folder.to_owned(), folder.join(OLD)] {
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            // What is named otherwise is not ours.
            let namespace = name.to_str().and_then(|name| name.replace('~', "/").parse::<Namespace>().ok());
            names.extend(namespace);
        }
    }
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for namespace in names {
        let mut records = VecDeque::new();
        for path in [folder.join(OLD).join(file_name(&namespace)), folder.join(file_name(&namespace))] {
            read(&path, &mut records, keep)?;
        }
        found.push((namespace, records));
    }
    Ok(found)
}

fn read(path: &PathBuf, records: &mut VecDeque<Arc<Record>>, keep: Keep) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut lines = BufReader::new(&file);
    let (mut line, mut offset, mut number) = (Vec::new(), 0_u64, 0);
    loop {
        line.clear();
        let len = io::Read::take(&mut lines, MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if len == 0 {
            return Ok(());
        }
        number += 1;
        if line.last() != Some(&b'\n') && lines.fill_buf()?.is_empty() {
            tracing::warn!(path = %path.display(), line = number, "a record was cut short, and is taken off");
            return truncate(&file, offset);
        }
        offset += len as u64;
        let Some(record) = std::str::from_utf8(&line).ok().and_then(Record::of_line) else {
            tracing::warn!(path = %path.display(), line = number, "this is no record, and is skipped");
            continue;
        };
        records.push_back(Arc::new(record));
        if records.len() > keep.records.max(1) {
            records.pop_front();
        }
    }
}

/// The highest number of the namespaces that were forgotten, zero if none were.
pub(super) fn read_forgotten(folder: &Path) -> io::Result<u64> {
    let path = folder.join(FORGOTTEN);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let bad = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{} has no number", path.display()));
            text.trim().parse().map_err(bad)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Writes that number, on disk when this returns.
pub(super) fn write_forgotten(folder: &Path, last: u64) -> io::Result<()> {
    let new = folder.join(FORGOTTEN_NEW);
    let mut file = File::create(&new)?;
    writeln!(file, "{last}")?;
    file.sync_all()?;
    fs::rename(new, folder.join(FORGOTTEN))?;
    sync_folder(folder)
}

/// Removes all records of a namespace.
pub(super) fn remove(folder: &Path, namespace: &Namespace) -> io::Result<()> {
    for path in [folder.join(OLD).join(file_name(namespace)), folder.join(file_name(namespace))] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn truncate(mut file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)?;
    file.rewind()?;
    file.sync_all()
}

/// What is in a folder is there after a crash only when the folder is synced, too.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

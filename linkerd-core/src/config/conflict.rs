//! Labels, ports and files that may be taken once.

use std::{
    cell::RefCell,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{decode::At, error::Position};

/// What was taken so far.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    labels: RefCell<Vec<(String, Position)>>,
    ports: RefCell<Vec<Listener>>,
    snapshots: RefCell<Vec<Snapshot>>,
}

/// A file that an interpreter writes.
#[derive(Debug)]
struct Snapshot {
    file: PathBuf,
    router: String,
    at: Position,
}

/// Something that listens.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) reuse_port: bool,
    /// `a server` or `the admin server`.
    pub(crate) what: &'static str,
    pub(crate) at: Position,
}

impl Claims {
    /// Takes a router's label, or records that another router has it. `at` is the label, or the router without one.
    pub(crate) fn label(&self, at: &At<'_>, label: &str) {
        let mut labels = self.labels.borrow_mut();
        match labels.iter().find(|(l, _)| l == label) {
            Some((_, first)) => {
                at.problem(format!("Multiple routers with the label {label} (the first on line {})", first.line));
            }
            None => labels.push((label.to_owned(), at.node.at)),
        }
    }

    /// Takes a port, or records that another server has it. `at` is the port, or what listens on a default one.
    pub(crate) fn port(&self, at: &At<'_>, listener: Listener) {
        let mut ports = self.ports.borrow_mut();
        if let Some(other) = ports.iter().find(|other| other.conflicts_with(&listener)) {
            let (port, what, line) = (listener.port, other.what, other.at.line);
            let (ip, other_ip) = (listener.ip, other.ip);
            at.problem(if ip == other_ip {
                format!("Server conflict on port {port} ({what} on line {line} has it)")
            } else {
                format!(
                    "Server conflict on port {port} ({what} on line {line} has it on {other_ip}, this one is on {ip})"
                )
            });
        }
        ports.push(listener);
    }

    /// Takes the files of a router's snapshots, or records that another router has one of them. `at` is where they are named.
    pub(crate) fn snapshots(&self, at: &At<'_>, router: &str, files: impl IntoIterator<Item = PathBuf>) {
        let mut taken = self.snapshots.borrow_mut();
        for file in files {
            let whole = whole(&file);
            let other = taken.iter().find(|other| other.file == whole && other.router != router);
            if let Some(Snapshot { router: other, at: first, .. }) = other {
                let (file, line) = (file.display(), first.line);
                at.problem(format!("router '{router}' may not have the file {file} of router '{other}' (line {line})"));
                return;
            }
            taken.push(Snapshot { file: whole, router: router.to_owned(), at: at.node.at });
        }
    }
}

/// The same file, however it is written; links are not followed.
fn whole(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

impl Listener {
    /// Equal addresses conflict always, as in Linkerd 1.x; all addresses and one of them, unless both share ports.
    fn conflicts_with(&self, other: &Self) -> bool {
        if self.port != other.port || self.port == 0 {
            return false;
        }
        let (a, b) = (self.ip, other.ip);
        let overlap = a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
        a == b || overlap && !(self.reuse_port && other.reuse_port)
    }
}

//! A namerd in this process, as the recorded one was configured.

use std::{fs, path::Path as FilePath};

use linkerd_dtab::{
    Dtab,
    namer::fs::Namer,
    namerd::{Namerd, Peer, Session, mesh::Mesh},
    store::{Expect, Memory, Namespace},
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Server {
    pub(crate) namerd: Namerd,
    pub(crate) mesh: Mesh,
    dir: TempDir,
}

impl Server {
    /// With these tables, and files for the fs namer below `disco`.
    pub(crate) fn new<'a>(
        tables: impl IntoIterator<Item = (&'a str, &'a str)>,
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disco")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let tables = tables.into_iter().map(|(name, dtab)| (name.parse().unwrap(), dtab.parse().unwrap()));
        let namer = Namer::new(dir.path().join("disco"));
        let namerd = Namerd::builder(Memory::new(tables)).namer("/#/io.l5d.fs".parse().unwrap(), namer).build();
        Self { mesh: Mesh::new(namerd.clone()), namerd, dir }
    }

    /// As the recorded cases say.
    pub(crate) fn of(suite: &Value) -> Self {
        let texts = |key: &str| -> Vec<(String, String)> {
            let map = suite[key].as_object().unwrap();
            map.iter().map(|(name, text)| (name.clone(), text.as_str().unwrap().to_owned())).collect()
        };
        let (tables, files) = (texts("namespaces"), texts("files"));
        Self::new(tables.iter().map(pair), files.iter().map(pair))
    }

    pub(crate) fn dir(&self) -> &FilePath {
        self.dir.path()
    }

    pub(crate) fn session(&self) -> Session {
        self.namerd.session(Peer::default())
    }

    pub(crate) async fn put(&self, namespace: &str, dtab: &str) {
        let (namespace, dtab): (Namespace, Dtab) = (namespace.parse().unwrap(), dtab.parse().unwrap());
        self.session().put(&namespace, &dtab, &Expect::Any).await.unwrap();
    }

    pub(crate) async fn delete(&self, namespace: &str) {
        self.session().delete(&namespace.parse().unwrap(), &Expect::Any).await.unwrap();
    }
}

fn pair((a, b): &(String, String)) -> (&str, &str) {
    (a, b)
}

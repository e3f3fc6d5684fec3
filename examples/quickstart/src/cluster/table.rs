//! The tables of a namerd, by its HTTP API.

use std::net::SocketAddr;

use http::Request;
use linkerd_core::{
    BoxError,
    dtab::{NameTree, Path},
};
use serde_json::Value;

use crate::traffic::Traffic;

/// How often a change is tried that others come before.
const TRIES: usize = 3;

/// An entry of a table, with the version of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The table's version.
    pub version: String,
    /// What the entry's prefix stands for.
    pub dst: String,
}

#[derive(Debug)]
pub(super) struct Tables(Traffic);

impl Tables {
    pub(super) fn at(namerd: SocketAddr) -> Result<Self, BoxError> {
        Ok(Self(Traffic::to(namerd, "namerd")?))
    }

    pub(super) async fn create(&self, namespace: &str, table: &str) -> Result<(), BoxError> {
        let req = Request::post(uri(namespace)).header("content-type", "application/dtab");
        let answer = self.0.send(req, table.to_owned()).await?;
        if answer.status == 204 { Ok(()) } else { Err(format!("{namespace} is not created: {answer:?}").into()) }
    }

    pub(super) async fn rule(&self, namespace: &str, prefix: &str) -> Result<Rule, BoxError> {
        let (version, mut table) = self.read(namespace).await?;
        let dst = entry(&mut table, prefix)?.as_str().unwrap_or_default().to_owned();
        Ok(Rule { version, dst })
    }

    pub(super) async fn set(&self, namespace: &str, prefix: &str, dst: &str) -> Result<(), BoxError> {
        let mut refused = String::new();
        for _ in 0..TRIES {
            let (version, mut table) = self.read(namespace).await?;
            *entry(&mut table, prefix)? = dst.into();
            let req =
                Request::put(uri(namespace)).header("content-type", "application/json").header("if-match", version);
            let answer = self.0.send(req, table.to_string()).await?;
            match answer.status {
                204 => return Ok(()),
                412 => refused = format!("{answer:?}"),
                _ => return Err(format!("{prefix} => {dst} is refused: {answer:?}").into()),
            }
        }
        Err(format!("{prefix} => {dst} is refused: {refused}").into())
    }

    async fn read(&self, namespace: &str) -> Result<(String, Value), BoxError> {
        let req = Request::get(uri(namespace)).header("accept", "application/json");
        let answer = self.0.send(req, String::new()).await?;
        match (answer.status, answer.version) {
            (200, Some(version)) => Ok((version, serde_json::from_str(&answer.body)?)),
            (status, _) => Err(format!("{namespace} cannot be read: {status} {}", answer.body).into()),
        }
    }
}

fn uri(namespace: &str) -> String {
    format!("/api/1/dtabs/{namespace}")
}

fn entry<'a>(table: &'a mut Value, prefix: &str) -> Result<&'a mut Value, BoxError> {
    let entries = table.as_array_mut().into_iter().flatten();
    let found = entries.filter(|entry| entry["prefix"] == prefix).last();
    Ok(found.and_then(|entry| entry.get_mut("dst")).ok_or_else(|| format!("there is no rule for {prefix}"))?)
}

/// What a rule's destination is bound to, as a proxy prints it: of alternatives the [first](first).
pub(super) fn bound(dst: &str) -> Result<String, BoxError> {
    let tree: NameTree<Path> = dst.parse()?;
    Ok(first(&tree.to_string()).replace("/tmp/", "/#/io.l5d.fs/").replace("/srv/", "/#/io.l5d.fs/"))
}

/// The first of alternatives: one that is there may hide the others.
pub(super) fn first(tree: &str) -> &str {
    tree.split(" | ").next().unwrap_or_default()
}

//! Every recorded case, replayed in this process.

use std::{collections::HashMap, fs};

use bytes::Bytes;
use linkerd_dtab::mesh::proto::{Replicas, replicas::Result as Outcome};
use prost::Message;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    call::{Answer, call},
    data,
    follow::PATIENCE,
    hex,
    server::Server,
    unhex,
};

#[tokio::test(start_paused = true)]
async fn every_recorded_case_is_answered_as_by_namerd() {
    let suite = data("cases.json");
    let mut failures = Vec::new();
    let cases = suite["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 42);
    for case in cases {
        let server = Server::of(&suite);
        if let Err(difference) = replay(&server, case).await {
            failures.push(format!("{}: {difference}", case["id"]));
        }
    }
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

async fn replay(server: &Server, case: &Value) -> Result<(), String> {
    let mut streams = HashMap::new();
    let expected = case["expect"]["steps"].as_array().unwrap();
    for (step, expected) in case["steps"].as_array().unwrap().iter().zip(expected) {
        let text = |key: &str| step[key].as_str().unwrap();
        if step.get("rpc").is_some() {
            let mut answer = call(&server.mesh, text("rpc"), &unhex(text("req_hex"))).await;
            let messages = answer.messages().await;
            match case.get("deviation") {
                Some(_) => differs_as_meant(case["id"].as_str().unwrap(), &answer, &messages)?,
                None => same(expected, &messages, &answer)?,
            }
        } else if step.get("open").is_some() {
            let answer = call(&server.mesh, text("stream"), &unhex(text("req_hex"))).await;
            streams.insert(
                text("open"),
                Stream { answer, last: None, repeats: text("stream").ends_with("/StreamBoundTree") },
            );
        } else if step.get("messages").is_some() {
            streams.get_mut(text("messages")).unwrap().expect(expected).await?;
        } else if let Some(file) = step.get("file") {
            fs::write(server.dir().join(file[0].as_str().unwrap()), file[1].as_str().unwrap()).unwrap();
        } else if step.get("delete").is_some() {
            fs::remove_file(server.dir().join(text("delete"))).unwrap();
        } else {
            let path = step["call"][1].as_str().unwrap();
            let namespace = path.strip_prefix("/api/1/dtabs/").unwrap();
            match step["call"][0].as_str().unwrap() {
                "DELETE" => server.delete(namespace).await,
                _ => server.put(namespace, text("body")).await,
            }
        }
    }
    Ok(())
}

fn same(expected: &Value, messages: &[Bytes], answer: &Answer) -> Result<(), String> {
    let expected_messages: Vec<_> = texts(&expected["messages"]).collect();
    let messages: Vec<_> = messages.iter().map(|message| hex(message)).collect();
    if messages != expected_messages {
        return Err(format!("expected {expected_messages:?}, got {messages:?}"));
    }
    let (code, message) = answer.status();
    if expected["status"] != code || expected["message"] != message {
        return Err(format!("expected {} {}, got {code} {message}", expected["status"], expected["message"]));
    }
    Ok(())
}

/// Where a recording is not to be copied, and what is answered instead.
fn differs_as_meant(id: &str, answer: &Answer, messages: &[Bytes]) -> Result<(), String> {
    // namerd says that replicas nobody watches are pending; ours are known once they are.
    let replicas = || Replicas::decode(&*messages[0]).unwrap().result.unwrap();
    let is_as_meant = match id {
        "mesh.replicas.one" | "mesh.replicas.transformed" => {
            matches!(replicas(), Outcome::Bound(bound) if bound.endpoints[0].port == Some(1111))
        }
        "mesh.replicas.missing" => matches!(replicas(), Outcome::Neg(_)),
        "mesh.replicas.badfile" => {
            matches!(replicas(), Outcome::Failed(failed) if failed.message.contains("what is this"))
        }
        // As recorded, and with a status that says why.
        "mesh.unknown.method" => answer.http == 400 && answer.status().0 == 12,
        id => return Err(format!("{id} is not known to differ")),
    };
    if is_as_meant { Ok(()) } else { Err(format!("got {messages:?}")) }
}

struct Stream {
    answer: Answer,
    last: Option<String>,
    // Whether what is the same is sent again.
    repeats: bool,
}

impl Stream {
    /// What has come since the last look: the last of what was recorded, once. namerd repeats itself, ours does so
    /// when the table has changed under which a name is bound.
    async fn expect(&mut self, expected: &Value) -> Result<(), String> {
        let last = texts(&expected["messages"]).last().map(str::to_owned);
        if last.is_some() && (self.repeats || last != self.last) {
            let message = timeout(PATIENCE, self.answer.message()).await;
            let message = message.map_err(|_| format!("expected {last:?}, got nothing"))?;
            let message = message.map(|message| hex(&message));
            if message != last {
                return Err(format!("expected {last:?}, got {message:?}"));
            }
            self.last = last;
        }
        let Some(done) = expected["done"].as_array() else { return Ok(()) };
        let end = timeout(PATIENCE, self.answer.message()).await.map_err(|_| "the stream goes on".to_owned())?;
        let (code, message) = self.answer.status();
        if end.is_some() || done[0] != code || done[1] != message {
            return Err(format!("expected the end with {done:?}, got {end:?}, {code} {message}"));
        }
        Ok(())
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

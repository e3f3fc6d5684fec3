//! The recorded calls, answer by answer and byte by byte. Only stamps differ, and what is marked as not to be copied.

use std::collections::HashMap;

use serde_json::Value;

use super::{Rig, Wire, data, namespace, unhex, unstamped};
use crate::{
    Path,
    mux::idl::{Call, NameRef},
    store::Expect,
};

#[tokio::test(start_paused = true)]
async fn what_was_recorded_of_namerd_is_answered() {
    let cases = data(include_str!("../../../../tests/data/namerd/thriftmux.json"));
    assert_eq!(cases.len(), 30);
    let rig = Rig::new();
    for case in &cases {
        let mut replay =
            Replay { rig: &rig, wire: rig.connect(), tag: 0, stamps: HashMap::new(), calls: HashMap::new() };
        for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let place = format!("{}, step {i}", case["id"].as_str().unwrap());
            replay.step(&place, &step["do"], &step["expect"], case.get("deviation").is_some()).await;
        }
    }
}

struct Replay<'a> {
    rig: &'a Rig,
    wire: Wire,
    tag: u32,
    // By the names that steps give them.
    stamps: HashMap<String, Vec<u8>>,
    calls: HashMap<String, (u32, Option<String>)>,
}

impl Replay<'_> {
    async fn step(&mut self, place: &str, step: &Value, expect: &Value, is_deviation: bool) {
        if let Some(mux) = step["mux"].as_str() {
            match mux {
                "ping" => self.wire.send(65, 9, &[]).await,
                _ => self.wire.raw(&unhex(step["hex"].as_str().unwrap())).await,
            }
            let frame = self.wire.next().await.unwrap();
            let found = (i64::from(frame.kind), u64::from(frame.tag), frame.body);
            let body = unhex(expect["body_hex"].as_str().unwrap());
            let expected = (expect["mux_type"].as_i64().unwrap(), expect["tag"].as_u64().unwrap(), body);
            assert_eq!(found, expected, "{place}");
        } else if let Some(method) = step["thrift"].as_str() {
            let mut call = call(method, &step["args"], &self.stamps).encode().to_vec();
            if let Some(request) = expect["request_hex"].as_str() {
                let request = unhex(request);
                // Explanations were asked for by other entries than Linkerd's and ours.
                if method != "delegate" {
                    assert_eq!(call, request, "{place}: our client makes another call of it");
                }
                call = request;
            }
            self.tag += 1;
            self.wire.call(self.tag, &call).await;
            let save = step["save"].as_str().map(str::to_owned);
            match step["start"].as_str() {
                Some(name) => _ = self.calls.insert(name.to_owned(), (self.tag, save)),
                None => self.answer(place, self.tag, save, expect, is_deviation).await,
            }
        } else if let Some(name) = step["await"].as_str() {
            let (tag, save) = self.calls[name].clone();
            self.answer(place, tag, save, expect, is_deviation).await;
        } else if let Some(file) = step["file"].as_array() {
            self.rig.file(file[0].as_str().unwrap().trim_start_matches("disco/"), file[1].as_str().unwrap());
        } else if let Some(file) = step["delete"].as_str() {
            self.rig.delete(file.trim_start_matches("disco/"));
        } else {
            let [verb, uri] = [&step["call"][0], &step["call"][1]].map(|text| text.as_str().unwrap());
            let name = uri.trim_start_matches("/api/1/dtabs/");
            match verb {
                "DELETE" => drop(self.rig.session.delete(&namespace(name), &Expect::Any).await.unwrap()),
                _ => self.rig.put(name, step["body"].as_str().unwrap()).await,
            }
        }
    }

    async fn answer(&mut self, place: &str, tag: u32, save: Option<String>, expect: &Value, is_deviation: bool) {
        if expect["timeout"] == true {
            assert!(self.wire.is_quiet().await, "{place}: there is an answer");
            return;
        }
        let frame = self.wire.next().await.unwrap();
        assert_eq!((frame.kind, frame.tag, frame.body[0]), (-2, tag, 0), "{place}");
        let payload = &frame.body[3..];
        if let Some(range) = super::stamp(payload) {
            self.stamps.extend(save.map(|name| (name, payload[range].to_vec())));
        }
        if is_deviation {
            assert_eq!(payload[3], 2, "{place}: it is answered well");
            return;
        }
        let expected = unhex(expect["payload_hex"].as_str().unwrap());
        let [found, expected] = [payload, &expected].map(|payload| unstamped(payload).escape_ascii().to_string());
        assert_eq!(found, expected, "{place}");
    }
}

fn call(method: &str, args: &Value, stamps: &HashMap<String, Vec<u8>>) -> Call {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let elements = |value: &Value| -> Path {
        let elements = value.as_array().unwrap().iter().map(|element| element.as_str().unwrap());
        Path::from_elements(elements).unwrap()
    };
    let stamp = |value: &Value| match value.as_str().unwrap() {
        "" => Vec::new(),
        name => stamps[name.trim_start_matches("{stamp.").trim_end_matches('}')].clone(),
    };
    let name = |value: &Value| NameRef {
        stamp: stamp(&value["stamp"]),
        name: elements(&value["name"]),
        namespace: text(&value["ns"]),
    };
    let client = elements(&args["clientId"]);
    match method {
        "bind" => Call::Bind { dtab: text(&args["dtab"]), name: name(&args["name"]), client },
        "addr" => Call::Addr { name: name(&args["name"]), client },
        "dtab" => Call::Dtab { stamp: stamp(&args["stamp"]), namespace: text(&args["ns"]), client },
        _ => {
            let question = &args["delegation"];
            Call::Delegate {
                dtab: text(&args["dtab"]),
                stamp: stamp(&question["stamp"]),
                path: Some(elements(&question["tree"]["root"]["path"])),
                namespace: text(&question["ns"]),
                client,
            }
        }
    }
}

//! The file as JSON, for `/config.json`.

use serde_json::{Map, Value as Json, json};

use super::node::{Node, Plain, Value};

/// The tree as JSON in Linkerd 1.x's form: dtabs in canonical form, `identifier` always a list, the kind of a `service`
/// or `client` spelt out, `127.0.0.1` called `localhost`. Keys without a value are left out, defaults not filled in.
pub(crate) fn to_json(tree: &Node) -> Json {
    render(tree, "")
}

/// `place` is the key with indices left out.
fn render(node: &Node, place: &str) -> Json {
    match &node.value {
        Value::Scalar(scalar) => match (scalar.resolve(), place.rsplit('.').next()) {
            (_, Some("dtab")) => canonical(&scalar.text),
            (_, Some("ip")) if scalar.text == "127.0.0.1" => json!("localhost"),
            (Plain::Null, _) => Json::Null,
            // Norway is a zone too.
            (Plain::Text, _) | (_, Some("local" | "fallback" | "clientId" | "cookie")) => json!(scalar.text),
            (Plain::Bool(b), _) => json!(b),
            (Plain::Int(n), _) => json!(n),
            (Plain::Float(x), _) => json!(x),
        },
        Value::List(items) => items.iter().map(|item| render(item, place)).collect(),
        Value::Map(entries) => {
            let mut map = Map::new();
            for entry in entries.iter().filter(|e| !e.value.is_null()) {
                let dot = if place.is_empty() { "" } else { "." };
                let place = format!("{place}{dot}{}", entry.key);
                let mut value = render(&entry.value, &place);
                if place == "routers.identifier" && value.is_object() {
                    value = Json::Array(vec![value]);
                }
                map.insert(entry.key.clone(), value);
            }
            if matches!(place, "routers.service" | "routers.client") && !map.contains_key("kind") {
                map.insert("kind".to_owned(), json!("io.l5d.global"));
            }
            Json::Object(map)
        }
    }
}

fn canonical(dtab: &str) -> Json {
    match dtab.parse::<linkerd_dtab::Dtab>() {
        Ok(dtab) => json!(dtab.to_string()),
        Err(_) => json!(dtab),
    }
}

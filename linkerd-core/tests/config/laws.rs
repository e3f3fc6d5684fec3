//! What holds for every input.

use linkerd_core::config::{Config, check_supported};
use proptest::prelude::*;

const VALID: &str = include_str!("everything.yaml");

/// Text out of the pieces that files are made of.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("routers:".to_owned()),
        Just("\n".to_owned()),
        Just("\n  ".to_owned()),
        Just("\n- ".to_owned()),
        Just("protocol: http".to_owned()),
        Just("servers: [{port: 0}]".to_owned()),
        Just("kind: ".to_owned()),
        Just("dtab: |".to_owned()),
        Just("dtab: >-\n".to_owned()),
        "[-?:,\\[\\]{}#&*!|>'\"%@` \t\r\n~a-z0-9/.=$\\\\]{1,6}",
        Just("&a ".to_owned()),
        Just("*a ".to_owned()),
        Just("!!str ".to_owned()),
        Just("%YAML 1.2\n---\n".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("é\u{2028}".to_owned()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn look_at(text: &str) {
    match Config::parse("f", text) {
        Ok(config) => {
            let _ = (check_supported(&config), config.to_json(), config.warnings());
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        look_at(&text);
        look_at(&format!("{{{text}"));
    }

    #[test]
    fn no_yaml_panics(text in pieces()) {
        look_at(&text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse_bytes("f", &bytes);
    }

    #[test]
    fn no_edit_of_a_file_panics(at in 0..VALID.len(), len in 0..20_usize, with in pieces()) {
        let cut = |i: usize| (0..=i.min(VALID.len())).rev().find(|i| VALID.is_char_boundary(*i)).unwrap_or(0);
        look_at(&format!("{}{with}{}", &VALID[..cut(at)], &VALID[cut(at + len)..]));
    }
}

//! What others sent, in a line of which they can make neither two nor other fields.

use std::fmt::Write;

/// Adds a value as Apache writes it to its logs: `\"` and `\\`, `\b`, `\n`, `\r`, `\t` and `\v`, and `\xhh` for each other
/// byte that is no printable ASCII.
pub(super) fn escape(line: &mut String, value: &[u8]) {
    for &byte in value {
        match byte {
            b'"' | b'\\' => line.extend(['\\', byte.into()]),
            b' '..=b'~' => line.push(byte.into()),
            0x08 => line.push_str("\\b"),
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            0x0b => line.push_str("\\v"),
            // Writing to a string does not fail.
            _ => drop(write!(line, "\\x{byte:02x}")),
        }
    }
}

/// The same of a value that has no quotes around it: a space would begin another field.
pub(super) fn escape_word(line: &mut String, value: &[u8]) {
    for (at, word) in value.split(|&byte| byte == b' ').enumerate() {
        if at > 0 {
            line.push_str("\\x20");
        }
        escape(line, word);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What was escaped.
    pub(in crate::access_log) fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = text.bytes();
        let mut value = Vec::new();
        while let Some(byte) = bytes.next() {
            assert!((b' '..=b'~').contains(&byte) && byte != b'"', "{text}");
            value.push(match byte {
                b'\\' => match bytes.next().unwrap() {
                    b'b' => 0x08,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 0x0b,
                    b'x' => {
                        let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    quoted => quoted,
                },
                byte => byte,
            });
        }
        value
    }

    fn escaped(value: &[u8]) -> String {
        let mut line = String::new();
        escape(&mut line, value);
        line
    }

    #[test]
    fn it_is_apaches_way() {
        assert_eq!(escaped(b"curl/8 (x; y)"), "curl/8 (x; y)");
        assert_eq!(escaped(b"a\"b\\c"), r#"a\"b\\c"#);
        assert_eq!(escaped(b"\x08\n\r\t\x0b\0\x1b\x7f\x85\xff"), r"\b\n\r\t\v\x00\x1b\x7f\x85\xff");
        let mut word = String::new();
        escape_word(&mut word, b"a b ");
        assert_eq!(word, r"a\x20b\x20");
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_printable_and_reads_back(value: Vec<u8>) {
            prop_assert_eq!(unescape(&escaped(&value)), &value[..]);
            let mut word = String::new();
            escape_word(&mut word, &value);
            prop_assert!(!word.contains(' '));
            prop_assert_eq!(unescape(&word), value);
        }
    }
}

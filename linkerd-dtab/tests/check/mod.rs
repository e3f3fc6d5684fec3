// What holds for every text. Shared by the fuzz target and the test that walks its corpus.

use linkerd_dtab::{Dentry, Dtab, NameTree, ParseError, Path, Prefix};

/// Parses `data` by every rule; what parses must print to something that parses to the same print.
#[allow(unreachable_pub)]
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    round_trip::<Path>(&text);
    round_trip::<Prefix>(&text);
    // Weights lose digits and may print as `Infinity`, so trees round-trip only from their print on, if at all.
    if let Some(tree) = parsed::<NameTree<Path>>(&text) {
        let simple = tree.clone().simplify();
        assert_eq!(simple.clone().simplify(), simple, "{tree}");
        assert_eq!(simple.eval(), tree.eval(), "{tree}");
    }
    let _ = parsed::<Dentry>(&text);
    if let Some(dtab) = parsed::<Dtab>(&text) {
        let shown = dtab.to_string();
        if !shown.contains("Infinity") && shown.len() <= linkerd_dtab::parse::MAX_LEN {
            let again: Dtab = shown.parse().expect("a printed table parses");
            assert_eq!(again.to_string(), shown);
            assert_eq!(again.len(), dtab.len());
        }
        let _ = dtab.lookup(&Path::empty());
    }
}

fn round_trip<T: std::str::FromStr<Err = ParseError> + ToString + PartialEq + std::fmt::Debug>(text: &str) {
    let Some(value) = parsed::<T>(text) else { return };
    let shown = value.to_string();
    // Escapes can make a print four times as long.
    if shown.len() <= linkerd_dtab::parse::MAX_LEN {
        assert_eq!(shown.parse::<T>().expect("a print parses"), value);
    }
}

fn parsed<T: std::str::FromStr<Err = ParseError>>(text: &str) -> Option<T> {
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.offset() <= text.len() && text.is_char_boundary(error.offset()));
            assert!(error.line() >= 1 && error.column() >= 1);
            assert!(error.to_string().len() <= text.len() + 100);
            None
        }
    }
}

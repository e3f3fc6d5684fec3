use super::*;

fn dtab(text: &str) -> Result<Dtab, ParseError> {
    text.parse()
}

#[test]
fn an_error_says_line_and_column_in_characters() {
    let error = dtab("/a => /b ; # \u{fc}\n/c => \u{2003}/d ; /e \u{fc}").unwrap_err();
    assert_eq!((error.line(), error.column()), (2, 16));
    assert_eq!(error.summary().to_string(), "line 2, column 16: '=' expected but '\u{fc}' found");
    assert_eq!((error.expected(), error.found()), (Some(Expected::Char('=')), Some('\u{fc}')));
    assert!(error.to_string().ends_with("/e [\u{fc}]'"));
    assert_eq!(error.limit(), None);
}

#[test]
fn the_end_of_the_text_is_a_place_too() {
    let error = dtab("/a =>\n").unwrap_err();
    assert_eq!(error.summary().to_string(), "line 2, column 1: simple expected but end of input found");
    assert_eq!(error.to_string(), "simple expected but end of input found at '/a =>\n[]'");
    assert_eq!(error.offset(), 6);
}

#[test]
fn a_text_may_be_a_mebibyte_long_and_no_longer() {
    let mut text = "/a=>/b".to_owned();
    text.extend(std::iter::repeat_n(' ', MAX_LEN - text.len()));
    assert_eq!(dtab(&text).unwrap().len(), 1);
    text.push(' ');
    let error = dtab(&text).unwrap_err();
    assert_eq!(error.limit(), Some(Limit::Length));
    assert_eq!(error.to_string(), "a text of 1048577 bytes, of at most 1048576");
    assert_eq!(error.summary().to_string(), error.to_string());
}

#[test]
fn parentheses_nest_as_deep_as_allowed_and_no_deeper() {
    let nested = |depth| format!("{}/a{}", "(".repeat(depth), ")".repeat(depth)).parse::<NameTree<Path>>();
    assert_eq!(nested(MAX_NESTING).unwrap().to_string(), "/a");
    let error = nested(MAX_NESTING + 1).unwrap_err();
    assert_eq!(error.limit(), Some(Limit::Nesting));
    assert_eq!(error.to_string(), "parentheses more than 200 deep at line 1, column 201");
    assert_eq!(nested(MAX_LEN / 2).unwrap_err().limit(), Some(Limit::Length));
    assert_eq!("(".repeat(MAX_LEN).parse::<NameTree<Path>>().unwrap_err().limit(), Some(Limit::Nesting));
}

#[test]
fn a_text_has_as_many_names_as_allowed_and_no_more() {
    let names = |count: usize| vec!["/"; count].join("&").parse::<NameTree<Path>>();
    assert_eq!(names(MAX_OPERANDS).unwrap().leaves().len(), MAX_OPERANDS);
    assert_eq!(names(MAX_OPERANDS + 1).unwrap_err().limit(), Some(Limit::Operands));
    assert_eq!(dtab(&"/=>!;".repeat(MAX_OPERANDS + 1)).unwrap_err().limit(), Some(Limit::Operands));
}

#[test]
fn time_is_linear_in_the_text() {
    let repeated = [
        "(",
        ")",
        "/",
        "/a",
        "/a/",
        "/\\x61",
        "/*",
        " ",
        "#",
        "#\n",
        "# (",
        "\u{2003}",
        "1",
        ".",
        "1*",
        "~",
        "/a&",
        "/a|",
        "(/a|",
        "1*(",
        "/=>!;",
        "/a=>/b;\n",
        "/a => 1 * /b & /c # x\n;",
        "\u{fc}",
        ";",
        "=",
        "=>",
    ];
    for unit in repeated {
        for lead in ["", "/a=>", "/a => (", "/a=>1", "#"] {
            let text = lead.to_owned() + &unit.repeat((1 << 18) / unit.len());
            let mut parser = Parser::new(&text);
            let _ = parser.run(Parser::dtab);
            let looks = parser.looks.get();
            assert!(looks <= 12 * text.len() + 100, "{looks} looks at {} bytes of {unit:?}", text.len());
            if let Err(error) = dtab(&text) {
                assert!(error.to_string().len() <= text.len() + 100, "the context once");
            }
        }
    }
}

#[test]
fn weights_print_as_linkerd_prints_them() {
    let shown = |weight: &str| format!("{weight}*/a & /b").parse::<NameTree<Path>>().unwrap().to_string();
    let cases = [
        ("0.994", "0.99*/a & /b"),
        ("0.995", "1.00*/a & /b"),
        ("9.995", "10.00*/a & /b"),
        ("99.999", "100.00*/a & /b"),
        ("0.005", "0.01*/a & /b"),
        ("0.0049999", "0.00*/a & /b"),
    ];
    for (weight, expected) in cases {
        assert_eq!(shown(weight), expected, "{weight}");
    }
    assert_eq!(shown(&"9".repeat(400)), "Infinity*/a & /b");
}

//! What the program prints.

use std::process::Command;

#[test]
fn the_second_service_sees_what_the_first_one_was_sent() {
    let output = Command::new(env!("CARGO_BIN_EXE_context")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "200 OK",
        "span     0000000000000001 of trace 0000000000000003",
        "class    critical_plus",
        "tenant   acme",
        "streamed 3 lines of 3 in the same trace",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line}:\n{text}");
    }
}

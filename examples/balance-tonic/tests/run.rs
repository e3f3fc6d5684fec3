//! The program as it stands.

use std::time::Duration;

use tokio::{process::Command, time::timeout};

#[tokio::test]
async fn no_call_fails_although_one_of_three_refuses() {
    let program = Command::new(env!("CARGO_BIN_EXE_balance-tonic")).kill_on_drop(true).output();
    let output = timeout(Duration::from_mins(1), program).await.expect("it ends").expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let line = |name| stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{stdout}"));
    let share = |name| line(name).trim().trim_end_matches(" %").parse::<f64>().unwrap();
    // By latency, which differs by chance between two that are alike.
    assert!((share("one") + share("two") - 100.0).abs() < 1e-9, "{stdout}");
    assert_eq!(share("refusing"), 0.0, "{stdout}");
    assert_eq!(stdout.lines().last(), Some("0 errors in 1000 calls"));
}

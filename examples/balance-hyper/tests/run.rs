//! The program as it stands.

use std::{process::Output, time::Duration};

use tokio::{process::Command, time::timeout};

async fn run() -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_balance-hyper")).kill_on_drop(true).output();
    timeout(Duration::from_mins(1), program).await.expect("it ends").expect("it starts")
}

#[tokio::test]
async fn most_go_to_the_server_that_is_well() {
    let output = run().await;
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let line = |name| stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{stdout}"));
    let share = |name| line(name).trim().trim_end_matches(" %").parse::<f64>().unwrap();
    assert!(share("well") > 90.0, "{stdout}");
    assert!(share("slow") < 5.0, "{stdout}");
    assert!(share("failing") < 1.0, "{stdout}");
    let succeeded: u32 = stdout.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(succeeded >= 990, "{stdout}");
}

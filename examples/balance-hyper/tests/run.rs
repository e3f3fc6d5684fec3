//! The program as it stands.

use std::{process::Output, time::Duration};

use tokio::{process::Command, time::timeout};

async fn run() -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_balance-hyper")).kill_on_drop(true).output();
    timeout(Duration::from_mins(1), program).await.expect("it ends").expect("it starts")
}

#[tokio::test]
async fn most_go_to_the_server_that_is_well() {
    // By their times, which are anybody's on a machine that is busy with something else: one run of three has to tell them apart.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let output = run().await;
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |name| stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{stdout}"));
        let share = |name| line(name).trim().trim_end_matches(" %").parse::<f64>().unwrap();
        let succeeded: u32 = stdout.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
        if share("well") > 90.0 && share("slow") < 5.0 && share("failing") < 1.0 && succeeded >= 990 {
            return;
        }
        seen.push(stdout);
    }
    panic!("{seen:#?}");
}

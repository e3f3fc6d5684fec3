use std::{future::ready, time::Duration};

use linkerd_dtab::{
    Failure,
    namerd::{
        Session, WriteError,
        revert::{AutoRevert, Sample, Watched},
    },
    store::{Expect, StoreError},
};

use crate::support::{Counted, builder, dtab, ns, session};

const SETTINGS: AutoRevert = AutoRevert {
    watch_for: Duration::from_mins(1),
    window: Duration::from_secs(10),
    min_success: 0.9,
    min_requests: 20,
    every: Duration::from_secs(1),
};

fn table(session: &Session) -> String {
    session.dtab(&ns("default")).unwrap().sample().ok().flatten().unwrap().dtab.to_string()
}

fn down<T>() -> Result<T, Failure> {
    Err(Failure::from(Box::<dyn std::error::Error + Send + Sync>::from("down")))
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_is_taken_back_and_the_history_says_so() {
    let namerd = builder(&Counted::new()).build();
    let session = session(&namerd);
    session.put(&ns("default"), &dtab("/svc => /good"), &Expect::Any).await.unwrap();
    let written = session.put(&ns("default"), &dtab("/svc => /bad"), &Expect::Any).await.unwrap();
    let mut ticks = 0;
    let rates = || {
        ticks += 1;
        // What is not known decides nothing.
        ready(if ticks == 1 { down() } else { Ok(Sample { requests: 10, failures: ticks }) })
    };
    let watched = session.watch_change(&ns("default"), &written, SETTINGS, rates).await;
    assert!(matches!(watched, Watched::Reverted(_)), "{watched:?}");
    assert_eq!((ticks, table(&session)), (3, "/svc=>/good".to_owned()));
    let last = &session.history(&ns("default"), 1).unwrap()[0];
    assert_eq!(last.who, format!("auto-revert for {}", session.who()));
    let why = last.why.as_deref().unwrap();
    assert!(why.ends_with("taken back by itself: 75.0 % of the requests succeeded"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_holds_or_of_which_nothing_is_known_is_kept() {
    let namerd = builder(&Counted::new()).build();
    let session = session(&namerd);
    let written = session.put(&ns("default"), &dtab("/svc => /new"), &Expect::Any).await.unwrap();
    let good = || ready(Ok(Sample { requests: 100, failures: 1 }));
    assert!(matches!(session.watch_change(&ns("default"), &written, SETTINGS, good).await, Watched::Kept));
    let silent = std::future::pending::<Result<Sample, Failure>>;
    assert!(matches!(session.watch_change(&ns("default"), &written, SETTINGS, silent).await, Watched::Kept));
    assert_eq!(table(&session), "/svc=>/new");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_since_is_not_taken_back() {
    let namerd = builder(&Counted::new()).build();
    let session = session(&namerd);
    session.put(&ns("default"), &dtab("/svc => /good"), &Expect::Any).await.unwrap();
    let written = session.put(&ns("default"), &dtab("/svc => /bad"), &Expect::Any).await.unwrap();
    session.put(&ns("default"), &dtab("/svc => /mended"), &Expect::Any).await.unwrap();
    let bad = || ready(Ok(Sample { requests: 100, failures: 100 }));
    let watched = session.watch_change(&ns("default"), &written, SETTINGS, bad).await;
    let Watched::Failed(rate, WriteError::Store(StoreError::Mismatch(_))) = watched else { panic!("{watched:?}") };
    assert_eq!((rate, table(&session)), (0.0, "/svc=>/mended".to_owned()));
}

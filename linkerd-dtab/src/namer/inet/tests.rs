use std::{collections::VecDeque, net::IpAddr};

use tokio::time::{Instant, sleep};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Answers in this order, the last one for ever, and counts the questions.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<(VecDeque<Line>, Vec<Instant>)>>);

type Line = Result<Answer, &'static str>;

impl Lookup for Script {
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a> {
        assert_eq!(host, "web.example");
        let mut script = self.0.lock().unwrap();
        script.1.push(Instant::now());
        let answer = if script.0.len() > 1 { script.0.pop_front() } else { script.0.front().cloned() };
        Box::pin(async move {
            match answer {
                Some(answer) => answer.map_err(|text| Arc::new(std::io::Error::other(text)) as Failure),
                None => std::future::pending().await,
            }
        })
    }
}

impl Script {
    fn asked(&self) -> usize {
        self.0.lock().unwrap().1.len()
    }
}

#[allow(clippy::unnecessary_wraps)] // A line of a script.
fn found(ips: &[&str], ttl: Option<u64>) -> Line {
    let ips = ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect();
    Ok(Answer::Found { ips, ttl: ttl.map(Duration::from_secs) })
}

fn inet(script: impl IntoIterator<Item = Line>) -> (Script, Inet) {
    let script = Script(Arc::new(Mutex::new((script.into_iter().collect(), Vec::new()))));
    (script.clone(), Inet::new(script))
}

fn addr(text: &[&str]) -> Addr {
    Addr::of(text.iter().map(|addr| addr.parse().unwrap()))
}

/// Lets everything due happen, and stops just after.
async fn pass(time: Duration) {
    sleep(time + MS).await;
}

#[tokio::test]
async fn a_literal_address_is_there_at_once_for_good() {
    let (script, inet) = inet([]);
    for (host, port, expected) in [
        ("127.0.0.1", "8080", "127.0.0.1:8080"),
        ("127.1", "+80", "127.0.0.1:80"),
        ("::1", "0080", "[::1]:80"),
        ("[::1]", "80", "[::1]:80"),
    ] {
        let activity = inet.resolve(host, port);
        assert_eq!(activity.sample().ok(), Some(addr(&[expected])), "{host}");
        assert!(activity.is_final());
    }
    assert_eq!(script.asked(), 0);
}

#[tokio::test]
async fn what_is_no_host_or_no_port_says_so() {
    let (_, inet) = inet([]);
    for (host, port, expected) in [
        ("a..b", "80", r#""a..b" is not a host name or an IP address"#),
        ("1.2.3.4.5", "80", r#""1.2.3.4.5" is not a host name or an IP address"#),
        ("web", "0", r#""0" is not a port from 1 to 65535, for host web"#),
        ("127.0.0.1", "65536", r#""65536" is not a port from 1 to 65535, for host 127.0.0.1"#),
        ("web", "-1", r#""-1" is not a port from 1 to 65535, for host web"#),
    ] {
        assert_eq!(inet.resolve(host, port).ready().await.unwrap_err().to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_every_five_seconds_and_only_a_change_is_told() {
    let (script, inet) = inet([
        found(&["10.0.0.2", "10.0.0.1"], None),
        found(&["10.0.0.1", "10.0.0.2"], None),
        found(&["10.0.0.3"], None),
    ]);
    let mut activity = inet.resolve("WEB.example", "80");
    assert_eq!(activity.ready().await.unwrap(), addr(&["10.0.0.1:80", "10.0.0.2:80"]));
    let since = activity.snapshot().since;
    pass(Duration::from_millis(4998)).await;
    assert_eq!(script.asked(), 1);
    pass(2 * MS).await;
    assert_eq!(script.asked(), 2);
    assert_eq!(activity.snapshot().since, since);
    assert!(activity.snapshot().contact > Some(since));
    activity.changed().await;
    assert_eq!(activity.sample().ok(), Some(addr(&["10.0.0.3:80"])));
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_counts_between_floor_and_ceiling() {
    let ips = &["10.0.0.1"][..];
    let (script, inet) = inet([found(ips, Some(0)), found(ips, Some(60)), found(ips, Some(86_400)), found(ips, None)]);
    let _activity = inet.resolve("web.example", "80");
    for pause in [Duration::ZERO, MIN_TTL, Duration::from_mins(1), MAX_TTL, INTERVAL] {
        sleep(pause).await;
    }
    pass(Duration::ZERO).await;
    let asked = script.0.lock().unwrap().1.clone();
    let pauses: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [1, 60, 300, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_last_answer_and_fails_without_one() {
    let (_, inet) = inet([Err("refused"), found(&["10.0.0.1"], None), Err("refused"), Ok(Answer::NotFound)]);
    let mut activity = inet.resolve("web.example", "80");
    let error = activity.ready().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot resolve host web.example");
    assert_eq!(std::error::Error::source(&*error).unwrap().to_string(), "refused");
    activity.changed().await;
    for _ in 0..2 {
        pass(INTERVAL).await;
        assert_eq!(activity.sample().ok(), Some(addr(&["10.0.0.1:80"])));
        assert!(activity.snapshot().stale.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_exist_is_negative_until_it_does() {
    let (_, inet) = inet([Ok(Answer::NotFound), Err("refused"), found(&["10.0.0.1"], None)]);
    let mut activity = inet.resolve("web.example", "80");
    assert_eq!(activity.ready().await.unwrap(), Addr::Neg);
    activity.changed().await;
    assert_eq!(activity.sample().ok(), Some(addr(&["10.0.0.1:80"])));
}

#[tokio::test(start_paused = true)]
async fn equal_names_share_a_watch_that_ends_when_nobody_reads_it() {
    let (script, inet) = inet([found(&["10.0.0.1"], None)]);
    let (one, two) = (inet.resolve("web.example", "80"), inet.resolve("Web.Example", "080"));
    assert!(one.same_source(&two) && !one.same_source(&inet.resolve("web.example", "81")));
    pass(INTERVAL).await;
    drop((one, two));
    pass(Duration::ZERO).await;
    assert!(inet.inner.watches().is_empty());
    let asked = script.asked();
    pass(10 * INTERVAL).await;
    assert_eq!(script.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn once_is_until_the_first_answer_which_stands() {
    let (script, inet) = inet([Err("refused"), found(&["10.0.0.1"], None), found(&["10.0.0.2"], None)]);
    let mut activity = inet.resolve_once("web.example", "80");
    assert!(activity.ready().await.is_err());
    activity.changed().await;
    drop(activity);
    pass(10 * INTERVAL).await;
    let again = inet.resolve_once("web.example", "80");
    assert_eq!(again.sample().ok(), Some(addr(&["10.0.0.1:80"])));
    assert_eq!(script.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_a_failure_after_ten_seconds() {
    let (script, inet) = inet([]);
    let mut activity = inet.resolve("web.example", "80");
    let begun = Instant::now();
    assert_eq!(activity.ready().await.unwrap_err().to_string(), "no answer for host web.example within 10s");
    assert_eq!(begun.elapsed().as_secs(), 10);
    drop(activity);
    pass(INTERVAL).await;
    assert_eq!((script.asked(), inet.inner.watches().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_new_name_fails_and_unread_answers_make_room() {
    let (_, inet) = inet([found(&["10.0.0.1"], None)]);
    let inet = inet.with_max_watches(NonZeroUsize::MIN);
    let mut first = inet.resolve_once("web.example", "80");
    first.ready().await.unwrap();
    let error = inet.resolve("web.example", "81").ready().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot resolve web.example: 1 hosts are watched already");
    drop(first);
    assert_eq!(inet.resolve("web.example", "81").ready().await.unwrap(), addr(&["10.0.0.1:81"]));
}

//! What hops tell each other of retries, so that these do not multiply.

use http_body_util::BodyExt;
use linkerd_core::{
    ErrorKind, GrpcClassifier, HedgePolicy, Svc,
    dtab::Endpoint,
    http::{
        Connect,
        respond::{ErrorLimits, error_response},
    },
    retry::{Budget, BudgetSettings, Stop, hedge::HedgeDelay},
    testing::Reply,
};
use tower::service_fn;

use super::*;

fn hinting(classifier: HttpClassifier, budget: Budget) -> ServicePolicy {
    ServicePolicy { retry_budget: budget, retry_hints: true, ..service(classifier) }
}

fn share(percent: f64) -> Budget {
    Budget::new(BudgetSettings::share(percent)).unwrap()
}

fn reserve(retries: u32) -> Budget {
    Budget::new(BudgetSettings { min_per_sec: retries, percent: 0.0, ttl: SEC }).unwrap()
}

fn proxy(service: ServicePolicy, client: ClientPolicy) -> World {
    let world = World::with(|builder| builder.policies(Uniform { service, client }).proxy(true));
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    world
}

/// A request that came as this attempt.
fn attempt(number: &str) -> Request<&'static str> {
    Request::get("/").header("l5d-ctx-attempt", number).body("").unwrap()
}

/// Which attempts all endpoints saw, in the order of their numbers; those without are the first.
fn attempts(world: &World) -> Vec<String> {
    let seen = [1, 2].map(|n| world.endpoints.seen(ep(n)));
    let number = |headers: &http::HeaderMap| match headers.get("l5d-ctx-attempt") {
        Some(value) => value.to_str().unwrap().to_owned(),
        None => "none".to_owned(),
    };
    let mut numbers: Vec<_> = seen.iter().flatten().map(|seen| number(&seen.headers)).collect();
    numbers.sort();
    numbers
}

fn script(world: &World, replies: &[Reply]) {
    for n in [1, 2] {
        world.endpoints.script(ep(n), replies.iter().cloned());
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_numbered_over_all_hops_and_requeues_count() {
    let world = proxy(hinting(HttpClassifier::RetryableRead5xx, reserve(3)), steady());
    script(&world, &[Reply::unsent(), Reply::status(500)]);
    let rsp = world.client("/svc/users").send(get()).await.unwrap();
    assert_eq!((rsp.status().as_u16(), &rsp.headers()["l5d-retryable"]), (500, &"false".parse().unwrap()));
    // Two that were not sent, one of them requeued; the reserve paid for three of those that were.
    let sent = world.service("retries/total") + world.bound("retries/requeues") + 1;
    let expected: Vec<_> = ["2", "3", "4", "5", "6", "7", "8"].into_iter().take(sent as usize - 1).collect();
    let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
    expected.push("none".to_owned());
    assert_eq!(attempts(&world), expected);
    assert!(sent > 4, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn without_hints_nothing_is_written_nor_obeyed_and_what_comes_passes() {
    let policy = ServicePolicy { retry_budget: reserve(2), ..service(HttpClassifier::RetryableRead5xx) };
    let world = proxy(policy, steady());
    script(&world, &[Reply::status(500).header("l5d-retryable", "false")]);
    let rsp = world.client("/svc/users").send(attempt("3")).await.unwrap();
    assert_eq!(rsp.headers()["l5d-retryable"], "false");
    assert_eq!(attempts(&world), ["3", "3", "3"]);
    script(&world, &[Reply::status(500)]);
    let rsp = world.client("/svc/users").send(get()).await.unwrap();
    assert!(!rsp.headers().contains_key("l5d-retryable"));
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_was_retried_enough_is_not_retried_and_says_so_further_up() {
    for method in ["GET", "POST"] {
        let world = proxy(hinting(HttpClassifier::RetryableRead5xx, reserve(5)), steady());
        script(&world, &[Reply::status(503).header("l5d-retryable", "FALSE")]);
        let req = Request::builder().method(method).uri("/").body("").unwrap();
        let rsp = world.client("/svc/users").send(req).await.unwrap();
        assert_eq!(rsp.headers().get_all("l5d-retryable").iter().count(), 1);
        assert!(rsp.headers()["l5d-retryable"].as_bytes().eq_ignore_ascii_case(b"false"));
        assert_eq!(attempts(&world), ["none"]);
        assert_eq!(world.service("retries/pushed_back"), u64::from(method == "GET"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_as_a_retry_earns_nothing_and_is_left_to_the_hop_before() {
    let world = proxy(hinting(HttpClassifier::RetryableRead5xx, share(1.0)), steady());
    script(&world, &[Reply::status(500)]);
    let client = world.client("/svc/users");
    let rsp = client.send(attempt("2")).await.unwrap();
    assert_eq!((rsp.status().as_u16(), rsp.headers().contains_key("l5d-retryable")), (500, false));
    assert_eq!(attempts(&world), ["2"]);
    assert_eq!((world.metric("service/svc/users/retries/budget"), world.service("retries/is_retry")), (Some(0.0), 1));
    // What was not sent is sent elsewhere all the same.
    world.endpoints.script(ep(1), [Reply::unsent(), Reply::ok("")]);
    world.endpoints.script(ep(2), [Reply::unsent(), Reply::ok("")]);
    assert_eq!(client.send(attempt("2")).await.unwrap().status(), 200);
    assert!(attempts(&world).contains(&"3".to_owned()));
    script(&world, &[Reply::closed()]);
    let error = client.send(attempt("2")).await.unwrap_err();
    assert_eq!(error.attempts().unwrap().stop(), Some(Stop::IsRetry));
    assert!(!error.is_final());
}

#[tokio::test(start_paused = true)]
async fn only_who_retried_says_that_it_was_enough() {
    // One that never retries leaves it to others, and so does one whose classifier says no.
    for policy in
        [hinting(HttpClassifier::RetryableRead5xx, Budget::off()), hinting(HttpClassifier::NonRetryable5xx, reserve(5))]
    {
        let world = proxy(policy, steady());
        script(&world, &[Reply::closed()]);
        let error = error(&world.client("/svc/users")).await;
        assert!(!error.is_final());
        assert!(!error_response(&error, ErrorLimits::default()).headers().contains_key("l5d-retryable"));
    }
    // One whose budget is used up, at its first attempt or later.
    for retries in [0.5, 1.0] {
        let world = proxy(hinting(HttpClassifier::RetryableRead5xx, share(retries)), steady());
        script(&world, &[Reply::closed()]);
        let error = error(&world.client("/svc/users")).await;
        assert!(error.is_final());
        assert_eq!(error_response(&error, ErrorLimits::default()).headers()["l5d-retryable"], "false");
    }
    // One whose time was over while it retried.
    let policy = hinting(HttpClassifier::RetryableRead5xx, reserve(5));
    let world = proxy(ServicePolicy { total_timeout: Some(SEC), ..policy }, steady());
    script(&world, &[Reply::status(500), Reply::hang()]);
    let error = error(&world.client("/svc/users")).await;
    assert_eq!((error.kind(), error.is_final()), (ErrorKind::TotalTimeout, true));
    // One that may be tried once never retries either.
    let policy = hinting(HttpClassifier::RetryableRead5xx, reserve(5));
    let world = proxy(ServicePolicy { max_attempts: std::num::NonZeroU32::new(1), ..policy }, steady());
    script(&world, &[Reply::status(500)]);
    let rsp = world.client("/svc/users").send(get()).await.unwrap();
    assert!(!rsp.headers().contains_key("l5d-retryable"));
}

#[tokio::test(start_paused = true)]
async fn what_was_requeued_was_not_retried() {
    let (mut requeues, mut numbers) = (0, Vec::new());
    for _ in 0..20 {
        let world = proxy(hinting(HttpClassifier::NonRetryable5xx, reserve(5)), steady());
        world.endpoints.script(ep(1), [Reply::unsent()]);
        world.endpoints.script(ep(2), [Reply::status(500)]);
        let rsp = world.client("/svc/users").send(Request::post("/").body("").unwrap()).await.unwrap();
        assert_eq!((rsp.status().as_u16(), rsp.headers().contains_key("l5d-retryable")), (500, false));
        requeues += world.bound("retries/requeues");
        numbers.extend(attempts(&world));
    }
    assert!(requeues > 0 && numbers.contains(&"2".to_owned()), "it has its number all the same");
    // With a retry beside it, it was.
    let world = proxy(hinting(HttpClassifier::RetryableRead5xx, reserve(1)), steady());
    world.endpoints.script(ep(1), [Reply::unsent(), Reply::status(500)]);
    world.endpoints.script(ep(2), [Reply::unsent(), Reply::status(500)]);
    let rsp = world.client("/svc/users").send(get()).await.unwrap();
    assert_eq!(rsp.headers()["l5d-retryable"], "false");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_a_retry_if_it_got_to_an_endpoint() {
    let hedge = HedgePolicy::new(HedgeDelay::Fixed(50 * MS)).unwrap().share(1.0).unwrap();
    let policy = ServicePolicy { hedge: Some(hedge), ..hinting(HttpClassifier::NonRetryable5xx, reserve(5)) };
    for (reply, expected) in [(Reply::status(503), true), (Reply::unsent(), false)] {
        let world = proxy(policy.clone(), steady());
        script(&world, &[Reply::status(500).after(SEC)]);
        let client = world.client("/svc/users");
        let sent = tokio::spawn(async move { client.send(get()).await });
        settle().await;
        let other = if world.endpoints.count(ep(1)) == 0 { ep(1) } else { ep(2) };
        world.endpoints.script(other, [reply]);
        let rsp = sent.await.unwrap().unwrap();
        assert_eq!((rsp.status().as_u16(), world.endpoints.count(other) > 0), (500, true));
        assert_eq!(rsp.headers().contains_key("l5d-retryable"), expected);
    }
    // When the time is over, by where its legs are.
    for (reply, expected) in [(Reply::hang(), true), (Reply::unsent(), false)] {
        let world = proxy(ServicePolicy { total_timeout: Some(SEC), ..policy.clone() }, steady());
        script(&world, &[Reply::hang()]);
        let client = world.client("/svc/users");
        let sent = tokio::spawn(async move { client.send(get()).await });
        settle().await;
        let other = if world.endpoints.count(ep(1)) == 0 { ep(1) } else { ep(2) };
        world.endpoints.script(other, [reply]);
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.is_final()), (ErrorKind::TotalTimeout, expected));
    }
}

/// A hop as the endpoint of another one: its errors are answers, as its server makes them.
struct Hop(Client);

impl Connect for Hop {
    fn connect(&self, _: &Endpoint) -> Svc {
        let client = self.0.clone();
        Svc::new(service_fn(move |req: Request<Body>| {
            let client = client.clone();
            async move {
                let rsp = client.send(req).await;
                Ok::<_, Error>(rsp.unwrap_or_else(|error| error_response(&error, ErrorLimits::default())))
            }
        }))
    }
}

/// What a backend that fails everything sees of 400 requests a second, through so many hops.
async fn amplification(hops: usize, hints: bool, reply: Reply, secs: u32) -> f64 {
    amplified(hops, service(HttpClassifier::RetryableRead5xx), get, (hints, reply), secs).await
}

async fn amplified(
    hops: usize,
    policy: ServicePolicy,
    ask: fn() -> Request<&'static str>,
    (hints, reply): (bool, Reply),
    secs: u32,
) -> f64 {
    let policy = ServicePolicy { retry_hints: hints, retry_budget: share(0.2), ..policy };
    let last = proxy(policy.clone(), steady());
    script(&last, &[reply]);
    let mut worlds = vec![last];
    for _ in 1..hops {
        let below = worlds[worlds.len() - 1].client("/svc/users");
        let policies = Uniform { service: policy.clone(), client: steady() };
        let world = World::with(|builder| builder.connect(Hop(below)).policies(policies).proxy(true));
        world.namer.endpoints("/users", [ep(1)]);
        worlds.push(world);
    }
    let client = worlds[worlds.len() - 1].client("/svc/users");
    let requests = 400 * secs;
    for i in 0..requests {
        if i % 2 == 0 {
            tokio::time::sleep(5 * MS).await;
        }
        if let Ok(rsp) = client.send(ask()).await {
            drop(rsp.into_body().collect().await);
        }
    }
    let seen = worlds[0].endpoints.count(ep(1)) + worlds[0].endpoints.count(ep(2));
    seen as f64 / f64::from(requests)
}

#[tokio::test(start_paused = true)]
async fn three_hops_that_all_retry_do_not_multiply() {
    let one = amplification(1, false, Reply::status(500), 30).await;
    assert!((1.15..=1.25).contains(&one), "{one}");
    let three = amplification(3, true, Reply::status(500), 30).await;
    assert!((1.15..=1.25).contains(&three), "{three}");
    let unanswered = amplification(3, true, Reply::closed(), 5).await;
    assert!((1.15..=1.25).contains(&unanswered), "{unanswered}");
    // As they would without.
    let three = amplification(3, false, Reply::status(500), 5).await;
    assert!(three > 1.6, "{three}");
}

#[tokio::test(start_paused = true)]
async fn nor_if_it_is_the_end_of_an_answer_that_says_so() {
    let call = || Request::post("/pkg.Svc/Method").header("content-type", "application/grpc").body("m").unwrap();
    let unavailable = || Reply::ok("message").trailer("grpc-status", "14");
    let policy = ServicePolicy { classifier: std::sync::Arc::new(GrpcClassifier::new()), ..ServicePolicy::default() };
    let three = amplified(3, policy.clone(), call, (true, unavailable()), 5).await;
    assert!((1.15..=1.25).contains(&three), "{three}");
    let three = amplified(3, policy, call, (false, unavailable()), 5).await;
    assert!(three > 1.6, "{three}");
}

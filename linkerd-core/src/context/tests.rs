use std::{convert::Infallible, time::Duration};

use http::Response;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;

type Sent = HeaderMap;

/// Answers with the headers that it was sent.
fn echo()
-> impl Service<Request<()>, Response = Response<Sent>, Error = Infallible, Future: Send> + Clone + Send + 'static {
    ClientLayer::new()
        .layer(service_fn(|req: Request<()>| async move { Ok::<_, Infallible>(Response::new(req.headers().clone())) }))
}

async fn send(req: Request<()>) -> Sent {
    echo().oneshot(req).await.unwrap().into_body()
}

async fn serve<F>(req: Request<()>, handler: impl Fn() -> F + Clone) -> Sent
where
    F: Future<Output = Sent>,
{
    let handler = service_fn(move |_req: Request<()>| {
        let sent = handler();
        async move { Ok::<_, Infallible>(Response::new(sent.await)) }
    });
    ServerLayer::new().layer(handler).oneshot(req).await.unwrap().into_body().into_inner()
}

fn request(headers: &[(&'static str, &str)]) -> Request<()> {
    let mut req = Request::new(());
    for (name, value) in headers {
        req.headers_mut().append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    req
}

fn pairs(sent: &Sent) -> Vec<(&str, &[u8])> {
    let mut pairs: Vec<_> = sent.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    pairs.sort_unstable();
    pairs
}

#[tokio::test(start_paused = true)]
async fn context_headers_go_out_byte_for_byte_and_no_others() {
    let req = request(&[
        ("l5d-ctx-trace", "abc"),
        ("l5d-ctx-dtab", "/a=>/b"),
        ("l5d-ctx-dtab", "/c => /d \u{e9}"),
        ("l5d-ctx-unknown", ""),
        ("l5d-dtab", "/x=>/y"),
        ("x-other", "1"),
    ]);
    let sent = serve(req, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        send(Request::new(())).await
    });
    assert_eq!(
        pairs(&sent.await),
        [
            ("l5d-ctx-dtab", b"/a=>/b".as_slice()),
            ("l5d-ctx-dtab", "/c => /d \u{e9}".as_bytes()),
            ("l5d-ctx-trace", b"abc"),
            ("l5d-ctx-unknown", b""),
        ]
    );
}

#[tokio::test]
async fn a_spawned_task_carries_the_context_only_if_told_to() {
    let req = || request(&[("l5d-ctx-trace", "abc")]);
    let with = serve(req(), || async { spawn_with_context(send(Request::new(()))).await.unwrap() }).await;
    assert_eq!(with["l5d-ctx-trace"], "abc");
    let without = serve(req(), || async { tokio::spawn(send(Request::new(()))).await.unwrap() }).await;
    assert!(without.is_empty());
    assert!(spawn_with_context(send(Request::new(()))).await.unwrap().is_empty());
}

#[tokio::test]
async fn requests_do_not_see_each_others_context() {
    let (first, second) = tokio::join!(
        serve(request(&[("l5d-ctx-trace", "1")]), || async {
            tokio::task::yield_now().await;
            send(Request::new(())).await
        }),
        serve(request(&[("l5d-ctx-trace", "2")]), || async {
            tokio::task::yield_now().await;
            send(Request::new(())).await
        })
    );
    assert_eq!((&first["l5d-ctx-trace"], &second["l5d-ctx-trace"]), (&"1".parse().unwrap(), &"2".parse().unwrap()));
    // A request without context inside of one with it.
    let inner = serve(request(&[("l5d-ctx-trace", "1")]), || serve(Request::new(()), || send(Request::new(()))));
    assert!(inner.await.is_empty());
}

#[tokio::test]
async fn a_header_of_the_senders_own_wins() {
    let sent = serve(request(&[("l5d-ctx-trace", "1"), ("l5d-ctx-trace", "2"), ("l5d-ctx-x", "3")]), || {
        send(request(&[("l5d-ctx-trace", "mine")]))
    });
    assert_eq!(pairs(&sent.await), [("l5d-ctx-trace", b"mine".as_slice()), ("l5d-ctx-x", b"3")]);
}

#[tokio::test]
async fn what_is_carried_has_bounds() {
    let many: Vec<_> = (0..=MAX_VALUES).map(|_| ("l5d-ctx-n", "1")).collect();
    let sent = serve(request(&many), || send(Request::new(()))).await;
    assert_eq!(sent.len(), MAX_VALUES);

    let fits = "x".repeat(MAX_BYTES - "l5d-ctx-a".len());
    let sent = serve(request(&[("l5d-ctx-a", &fits), ("l5d-ctx-b", "1")]), || send(Request::new(()))).await;
    assert_eq!(pairs(&sent), [("l5d-ctx-a", fits.as_bytes())]);
    let over = "x".repeat(MAX_BYTES);
    let sent = serve(request(&[("l5d-ctx-a", &over), ("l5d-ctx-b", "1")]), || send(Request::new(()))).await;
    assert_eq!(pairs(&sent), [("l5d-ctx-b", b"1".as_slice())]);
}

#[tokio::test(start_paused = true)]
async fn what_is_joined_selected_or_streamed_carries_it_too() {
    let req = || request(&[("l5d-ctx-trace", "abc")]);
    let joined = serve(req(), || async {
        let nap = || tokio::time::sleep(Duration::from_millis(1));
        let (one, two) = tokio::join!(
            async {
                nap().await;
                send(Request::new(())).await
            },
            send(Request::new(()))
        );
        assert_eq!(one, two);
        tokio::select! {
            sent = async { nap().await; send(Request::new(())).await } => sent,
            () = tokio::time::sleep(Duration::from_secs(1)) => HeaderMap::new(),
        }
    });
    assert_eq!(joined.await["l5d-ctx-trace"], "abc");

    // A body that asks somebody else for each of its frames.
    let handler = service_fn(|_: Request<()>| async {
        let frames = futures::stream::unfold(0, |n| async move {
            tokio::task::yield_now().await;
            let sent = send(Request::new(())).await;
            let value = sent.get("l5d-ctx-trace").map_or("none", |value| value.to_str().unwrap()).to_owned();
            let frame = Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::from(value)));
            (n < 2).then_some((frame, n + 1))
        });
        Ok::<_, Infallible>(Response::new(http_body_util::StreamBody::new(frames)))
    });
    let rsp = ServerLayer::new().layer(handler).oneshot(req()).await.unwrap();
    let read = tokio::spawn(http_body_util::BodyExt::collect(Box::pin(rsp.into_body())));
    assert_eq!(read.await.unwrap().unwrap().to_bytes(), "abcabc");
}

#[tokio::test]
async fn what_it_holds_can_be_read_and_changed() {
    let trace = "AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=";
    let req = request(&[
        ("l5d-ctx-trace", trace),
        ("l5d-ctx-dtab", "/a=>/b"),
        ("l5d-ctx-deadline", "1500000000000000000 4000000000000000000"),
        ("l5d-ctx-criticality", "sheddable"),
        ("l5d-ctx-key-tenant", "acme"),
        ("traceparent", "as it came"),
    ]);
    let sent = serve(req, || async {
        let cx = Context::current();
        assert_eq!(cx.trace().unwrap().span(), 1);
        assert_eq!(cx.dtab().to_string(), "/a=>/b");
        assert_eq!(cx.criticality(), Some(Criticality::Sheddable));
        assert_eq!((cx.get("Tenant"), cx.get("user")), (Some("acme"), None));
        let cx = cx.with_criticality(Criticality::CriticalPlus).unwrap().with("user", "42").unwrap();
        let cx = cx.with_dtab(&"/c=>/d".parse().unwrap()).unwrap().with("tenant", "other").unwrap();
        let cx = cx.expiring_after(Duration::from_secs(5)).unwrap();
        assert!(cx.deadline().unwrap().remaining(std::time::SystemTime::now()) <= Duration::from_secs(5));
        let later = cx.expiring_after(Duration::from_mins(1)).unwrap();
        assert_eq!(
            later.deadline().unwrap().remaining(std::time::UNIX_EPOCH),
            cx.deadline().unwrap().remaining(std::time::UNIX_EPOCH),
            "the earlier one counts"
        );
        let sent = cx.scope(send(Request::new(()))).await;
        assert_eq!(Context::current().get("user"), None, "only in its scope");
        sent
    });
    let mut sent = sent.await;
    assert!(sent.remove("l5d-ctx-deadline").unwrap().as_bytes().starts_with(b"1"));
    assert_eq!(
        pairs(&sent),
        [
            ("l5d-ctx-criticality", b"critical_plus".as_slice()),
            ("l5d-ctx-dtab", b"/a=>/b;/c=>/d"),
            ("l5d-ctx-key-tenant", b"other"),
            ("l5d-ctx-key-user", b"42"),
            ("l5d-ctx-trace", trace.as_bytes()),
            ("traceparent", b"as it came"),
        ]
    );
}

#[tokio::test]
async fn only_a_caller_who_is_trusted_says_that_a_request_matters_more_than_others() {
    let sent = async |layer: ServerLayer, class: &'static str, by_ours: bool| {
        let mut req = request(&[("l5d-ctx-criticality", class), ("l5d-ctx-x", "1")]);
        if by_ours {
            req.extensions_mut().insert(RequestContext::default());
        }
        let handler = service_fn(|req: Request<()>| async move {
            let (seen, sent) = (req.headers().clone(), send(Request::new(())).await);
            let class =
                |headers: &Sent| headers.get("l5d-ctx-criticality").map(|class| class.to_str().unwrap().to_owned());
            assert_eq!(class(&seen), class(&sent));
            assert_eq!(sent["l5d-ctx-x"], "1");
            Ok::<_, Infallible>(Response::new(class(&sent)))
        });
        layer.layer(handler).oneshot(req).await.unwrap().into_body().into_inner()
    };
    for (class, untrusted) in [
        ("critical_plus", None),
        ("3", None),
        ("critical", Some("critical")),
        ("sheddable", Some("sheddable")),
        ("whatever", Some("whatever")),
    ] {
        assert_eq!(sent(ServerLayer::new(), class, false).await.as_deref(), untrusted, "{class}");
        let trusted = ServerLayer::new().criticality(true);
        assert_eq!(sent(trusted, class, false).await.as_deref(), Some(class));
        // Of one behind a server of ours that server decides.
        assert_eq!(sent(ServerLayer::new(), class, true).await.as_deref(), Some(class));
    }
}

#[tokio::test]
async fn a_handler_finds_it_in_its_request() {
    let handler = service_fn(|req: Request<()>| async move {
        assert_eq!(req.extensions().get::<Context>().unwrap().get("a"), Some("1"));
        Ok::<_, Infallible>(Response::new(()))
    });
    ServerLayer::new().layer(handler).oneshot(request(&[("l5d-ctx-key-a", "1")])).await.unwrap();
    assert!(Context::current().is_empty());
}

#[test]
fn keys_of_ones_own_have_bounds_and_say_so() {
    let none = Context::default();
    for key in ["", "a b", "caf\u{e9}", &"k".repeat(129)] {
        assert_eq!(none.with(key, "1").unwrap_err(), ContextError::Key(key.to_owned()));
    }
    assert_eq!(none.with("a", "1\n2").unwrap_err(), ContextError::Value("a".to_owned()));
    let large = none.with("a", &"x".repeat(MAX_BYTES - 100)).unwrap();
    let error = large.with("b", &"x".repeat(100)).unwrap_err();
    assert_eq!(error, ContextError::TooLarge("l5d-ctx-key-b".to_owned()));
    assert_eq!(large.with("a", "1").unwrap().get("a"), Some("1"), "in place of the large one");
    let mut cx = none;
    for key in 0..MAX_VALUES {
        cx = cx.with(&key.to_string(), "").unwrap();
    }
    assert!(matches!(cx.with("more", ""), Err(ContextError::TooLarge(_))));
}

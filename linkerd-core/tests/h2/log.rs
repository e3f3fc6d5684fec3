//! The access log of a router of HTTP/2, as its file asks for it.

use std::fs;

use h2::Reason;
use linkerd_core::telemetry::Registry;
use tempfile::TempDir;

use super::peers::{Answer, Backend, Client, get, serve_file, until};

/// A client of a proxy in front of an endpoint, and the proxy's log.
struct World {
    backend: Backend,
    client: Client,
    folder: TempDir,
}

impl World {
    async fn new(keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::new().await;
        let text = format!(
            "routers:\n- protocol: h2\n  dtab: /svc/web => /$/inet/127.0.0.1/{}; /svc/shut => !\n  \
             h2AccessLog: {}\n{keys}  servers: [{{port: 0, ip: 127.0.0.1, maxConcurrentRequests: 1}}]\n",
            backend.addr.port(),
            folder.path().join("h2.log").display(),
        );
        let addr = serve_file(&text, &Registry::new());
        Self { backend, client: Client::connect(addr).await, folder }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.folder.path().join("h2.log")).unwrap_or_default()
    }

    /// The lines of the log, once there are so many.
    async fn lines(&self, count: usize) -> Vec<String> {
        until(|| self.text().lines().count() >= count).await;
        self.text().lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_line_is_as_linkerd_has_it() {
    let mut world = World::new("").await;
    let mut req = get("http://web/p?q=1");
    req.headers_mut().insert("referer", "http://r/".parse().unwrap());
    let (response, _) = world.client.open(req, true).await;
    world.backend.accept().await.answer(200, "body");
    Answer::read(response).await.unwrap();
    let line = &world.lines(1).await[0];
    let (before, after) = line.split_once('[').unwrap();
    let (time, after) = after.split_once(']').unwrap();
    assert_eq!((before, after), ("web 127.0.0.1 - - ", " \"GET /p?q=1 HTTP/2\" 200 - \"http://r/\" \"-\""));
    assert!(time.contains(" +") || time.contains(" -"), "an offset: {time}");
}

#[tokio::test]
async fn every_request_has_a_line_of_ones_own_form_however_it_is_answered() {
    let keys = "  h2AccessLogFormat: '{method} {host} {uri} {version} {status} {flag} {end} {service}'\n";
    let mut world = World::new(keys).await;
    let ask = async |world: &World, target: &str| world.client.ask(get(target)).await;
    // Answered, from the first byte to the last.
    let (response, _) = world.client.open(get("http://web/p?q"), true).await;
    world.backend.accept().await.answer(200, "body");
    Answer::read(response).await.unwrap();
    world.lines(1).await;
    // An error that has a response.
    assert_eq!(ask(&world, "http://shut/").await.unwrap().head.status(), 502);
    world.lines(2).await;
    // A reset by the endpoint.
    let (response, _) = world.client.open(get("http://web/reset"), true).await;
    world.backend.accept().await.respond.send_reset(Reason::INTERNAL_ERROR);
    assert!(Answer::read(response).await.is_err());
    world.lines(3).await;
    // One too many, while another one is served, which is then no longer wanted.
    let (held, _) = world.client.open(get("http://web/held"), true).await;
    let _held = world.backend.accept().await;
    assert_eq!(ask(&world, "http://web/more").await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
    world.lines(4).await;
    drop(held);
    assert_eq!(
        world.lines(5).await,
        [
            "GET web /p?q HTTP/2.0 200 - complete /svc/web",
            "GET shut / HTTP/2.0 502 no_such_name complete /svc/shut",
            "GET web /reset HTTP/2.0 - closed none /svc/web",
            "GET web /more HTTP/2.0 - refused none -",
            "GET web /held HTTP/2.0 - - none -",
        ]
    );
}

#[tokio::test]
async fn the_keys_of_rolling_and_replacing_are_heeded() {
    let keys = "  h2AccessLogRollPolicy: 1.bytes\n  h2AccessLogAppend: false\n  h2AccessLogRotateCount: 1\n  \
                h2AccessLogFormat: '{uri}'\n";
    let world = World::new(keys).await;
    for n in 1..=4 {
        let target = format!("http://shut/{n}");
        assert_eq!(world.client.ask(get(&target)).await.unwrap().head.status(), 502);
    }
    until(|| world.text() == "/4\n").await;
    let files = fs::read_dir(world.folder.path()).unwrap().count();
    assert_eq!(files, 2, "the one that is written and one old one");
}

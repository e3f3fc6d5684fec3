//! The files in `config`: each is valid as it stands, starts, and does what its comment says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
};

use helloworld::Running;
use http::Request;
use tokio::{process::Command, time::timeout};

use crate::harness::{Answer, Conn, Folder, LONG, Linkerd, lines, server};

/// Where the files are, from the root of the repository.
const CONFIG: &str = "examples/proxy/config";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn has_type(name: &str, wanted: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == wanted)
}

/// The names of all files.
fn names() -> Vec<String> {
    let entries = fs::read_dir(root().join(CONFIG)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| has_type(name, "yaml") || has_type(name, "json")).collect();
    names.sort_unstable();
    assert!(names.len() >= 16, "{names:?}");
    names
}

#[tokio::test]
async fn each_file_is_valid_from_the_root_of_the_repository() {
    for name in names() {
        let file = format!("{CONFIG}/{name}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_linkerd"));
        let run = command.args(["-validate", &file]).current_dir(root()).kill_on_drop(true).output();
        let Output { status, stderr, .. } = timeout(LONG, run).await.unwrap().unwrap();
        assert!(status.success() && stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&stderr));
    }
}

#[test]
fn each_file_says_what_it_shows() {
    for name in names().into_iter().filter(|name| has_type(name, "yaml")) {
        let text = fs::read_to_string(root().join(CONFIG).join(&name)).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("# ") && first.len() > 20, "{name}: {first}");
    }
}

/// The files' services, and a folder as if it were the repository's root.
struct World {
    folder: Arc<Folder>,
    _services: Vec<Running>,
}

impl World {
    async fn new() -> Self {
        let folder = Folder::new();
        fs::create_dir_all(folder.path(&format!("{CONFIG}/disco/eu"))).unwrap();
        fs::copy(root().join(CONFIG).join("rules.dtab"), folder.path(&format!("{CONFIG}/rules.dtab"))).unwrap();
        fs::create_dir(folder.path(&format!("{CONFIG}/tls"))).unwrap();
        for entry in fs::read_dir(root().join(CONFIG).join("tls")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let text = fs::read_to_string(root().join(CONFIG).join("tls").join(&name)).unwrap();
            folder.write(&format!("{CONFIG}/tls/{name}"), &text);
        }
        let mut services = Vec::new();
        for (file, text) in
            [("web", "web"), ("web-v2", "v2"), ("users", "users"), ("default", "default"), ("eu/web", "eu")]
        {
            let service = server(text).await;
            folder.write(&format!("{CONFIG}/disco/{file}"), &lines(&[service.addr()]));
            services.push(service);
        }
        Self { folder, _services: services }
    }

    /// Starts the proxy with a file as it stands, but for its ports.
    async fn start(&self, name: &str) -> Linkerd {
        let text = fs::read_to_string(root().join(CONFIG).join(name)).unwrap();
        Linkerd::start(&self.folder, &on_free_ports(&text)).await
    }
}

/// The same file on free ports, but for the one that a transformer puts into addresses.
fn on_free_ports(text: &str) -> String {
    if text.starts_with('{') {
        return text.replace("9990", "0").replace("4140", "0");
    }
    let mut free = String::new();
    if !text.contains("\nadmin:") {
        free.push_str("admin: {port: 0}\n");
    }
    let mut before = "";
    for line in text.lines() {
        let (head, value) = line.split_once(':').unwrap_or((line, ""));
        let key = head.trim_start_matches([' ', '-']);
        let is_port = ["port", "httpIdentifierPort"].contains(&key) && !before.ends_with("kind: io.l5d.port");
        let value = if is_port { " 0" } else { value };
        let colon = if line.contains(':') { ":" } else { "" };
        free.extend([head, colon, value, "\n"]);
        before = line;
    }
    free
}

#[tokio::test]
async fn each_file_starts() {
    let world = World::new().await;
    for name in names() {
        let linkerd = world.start(&name).await;
        assert_eq!(linkerd.page("/admin/metrics.json").await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn requests_go_where_the_comments_say() {
    let world = World::new().await;
    for (file, host, body) in [
        ("fs.yaml", "web", "web!"),
        ("fs.json", "users", "users!"),
        ("http-proxy.yaml", "web", "web!"),
        ("static.yaml", "whoever", "web!"),
        ("rewrite.yaml", "web.eu", "eu!"),
        ("dtab.yaml", "users", "users!"),
        ("dtab.yaml", "nobody", "default!"),
        ("prometheus.yaml", "web", "web!"),
        ("limits.yaml", "web", "web!"),
        ("retries.yaml", "web", "web!"),
        ("overload.yaml", "web", "web!"),
        ("overload.yaml", "users", "users!"),
        ("balancing.yaml", "web", "web!"),
        ("static-configs.yaml", "users", "users!"),
        ("identifiers.yaml", "web", "web!"),
        ("identifiers.yaml", "", "default!"),
    ] {
        let answer = world.start(file).await.get(host).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, body), "{file}: {answer:?}");
    }
}

#[tokio::test]
async fn other_requests_go_where_the_comments_say() {
    let world = World::new().await;

    let linkerd = world.start("identifiers.yaml").await;
    assert_eq!(linkerd.get_with("nobody", &[("x-service", "/users")]).await.body, "users!");
    let mut by_method = Conn::open(linkerd.servers[1]).await;
    let post = Request::post("/").header("host", "web").body(String::new()).unwrap();
    assert_eq!(by_method.send(post).await.body, "web!");

    let linkerd = world.start("path.yaml").await;
    let mut conn = Conn::open(linkerd.servers[0]).await;
    assert_eq!(conn.get("/users/7", "any", &[]).await.body, "users!");

    let linkerd = world.start("http-proxy.yaml").await;
    let mut conn = Conn::open(linkerd.servers[0]).await;
    // To the network, which is this host's here: the port of `users`, read from its file.
    let users = fs::read_to_string(world.folder.path(&format!("{CONFIG}/disco/users"))).unwrap();
    let authority = users.trim().replace(' ', ":");
    assert_eq!(conn.get(&format!("http://{authority}/"), &authority, &[]).await.body, "users!");

    let linkerd = world.start("dtab.yaml").await;
    assert_eq!(linkerd.get("internal").await.status, 502);

    let linkerd = world.start("admin-security.yaml").await;
    assert_eq!(linkerd.page("/").await.status, 404);
    assert_eq!(linkerd.post("/admin/shutdown", "text/plain", "").await.status, 404);

    let linkerd = world.start("prometheus.yaml").await;
    assert!(linkerd.page("/metrics").await.body.contains("\nl5d_"));

    // A static identifier and a server that drops what outsiders say.
    let linkerd = world.start("static.yaml").await;
    let moved = linkerd.get_with("any", &[("l5d-dtab", "/svc/web => /#/io.l5d.fs/users")]).await;
    assert_eq!(moved.body, "web!");
}

#[tokio::test]
async fn weights_are_as_written() {
    let world = World::new().await;
    for file in ["dtab.yaml", "fs-interpreter.yaml"] {
        let linkerd = world.start(file).await;
        let mut conn = Conn::open(linkerd.servers[0]).await;
        let mut bodies = BTreeSet::new();
        // That 200 requests miss one in ten: less often than once in 10^9 times.
        for _ in 0..200 {
            let Answer { status, body, .. } = conn.get("/", "web", &[]).await;
            assert_eq!(status, 200, "{file}: {body}");
            bodies.insert(body);
        }
        assert!(bodies.iter().eq(["v2!", "web!"]), "{file}: {bodies:?}");
    }
}

#[tokio::test]
async fn minimal_sends_everything_to_one_address() {
    let world = World::new().await;
    let service = server("one").await;
    let text = fs::read_to_string(root().join(CONFIG).join("minimal.yaml")).unwrap();
    let text = on_free_ports(&text).replace("8080", &service.addr().port().to_string());
    let linkerd = Linkerd::start(&world.folder, &text).await;
    assert_eq!(linkerd.get("anything").await.body, "one!");
    assert_eq!(linkerd.get("else").await.body, "one!");
}

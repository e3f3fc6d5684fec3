//! The suite over real servers, where they are installed: Debian's `etcd-server` and `zookeeper`.

use std::{
    fs,
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use linkerd_dtab::{
    Failure,
    store::{Backoff, DtabStore, Etcd, KeyPrefix, ZooKeeper, etcd::Api},
    transport::{Body, Dial, Dialling, Io, Sending, Transport, full},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::suite::{self, Done, Fault, Read, Rig};

const BACKOFF: Backoff = Backoff { min: Duration::from_millis(20), max: Duration::from_millis(200) };
/// Busy machines start servers slowly: so long for one that starts, and for one that is to answer what the tests ask.
const STARTED: Duration = Duration::from_mins(2);
const TICK: Duration = Duration::from_millis(20);
/// For one answer to what the tests themselves ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// For all that is done over one server. A test that waits for what never comes ends, and says where it was.
const WHOLE: Duration = Duration::from_mins(15);
/// Ports that were taken before the server came to them.
const TRIES: usize = 5;

/// A server at an address of this machine.
#[derive(Clone, Copy)]
struct At(SocketAddr);

impl Transport for At {
    fn send(&self, mut request: Request<Body>) -> Sending {
        let addr = self.0;
        Box::pin(async move {
            let io = TcpStream::connect(addr).await.map_err(|error| Arc::new(error) as Failure)?;
            let failed = |error: hyper::Error| Arc::new(error) as Failure;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
            tokio::spawn(connection);
            request.headers_mut().insert(header::HOST, addr.to_string().parse().unwrap());
            let rsp = sender.send_request(request).await.map_err(failed)?;
            Ok(rsp.map(|body| body.map_err(failed).boxed_unsync()))
        })
    }
}

impl Dial for At {
    fn dial(&self) -> Dialling {
        let addr = self.0;
        Box::pin(async move { Ok(Box::new(TcpStream::connect(addr).await?) as Box<dyn Io>) })
    }
}

/// Addresses that nothing listens at.
///
/// Each time of another loopback address, which only one server and its clients use. Of the usual one any connection and any
/// other test may take a port between here and the start of a server, or while it is down: then what answers is no server,
/// or another one.
fn free<const N: usize>() -> [SocketAddr; N] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | high & 63, low, NEXT.fetch_add(1, Ordering::Relaxed));
    // At once, or two may be the same.
    let listeners: [_; N] = std::array::from_fn(|_| TcpListener::bind((ip, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// A server that can be killed and started again on the same data.
struct Server {
    command: Mutex<Command>,
    child: Mutex<Option<Child>>,
    at: At,
    _data: tempfile::TempDir,
}

impl Server {
    /// Starts what is made for some free addresses.
    async fn start<const N: usize>(make: impl Fn(&Path, [SocketAddr; N]) -> Command) -> Self {
        for _ in 0..TRIES {
            let (data, at) = (tempfile::tempdir().unwrap(), free());
            let mut command = make(data.path(), at);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let server = Self { command: Mutex::new(command), child: Mutex::new(None), at: At(at[0]), _data: data };
            if server.is_up().await {
                return server;
            }
        }
        panic!("the server does not start");
    }

    /// Starts it; `false` if it ended.
    async fn is_up(&self) -> bool {
        *self.child.lock().unwrap() = Some(self.command.lock().unwrap().spawn().unwrap());
        let listens = async {
            loop {
                if TcpStream::connect(self.at.0).await.is_ok() {
                    return true;
                }
                if self.child.lock().unwrap().as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                sleep(TICK).await;
            }
        };
        timeout(STARTED, listens).await.expect("the server listens")
    }

    async fn set(&self, is_up: bool) {
        if is_up {
            assert!(self.is_up().await, "the server does not start again");
        } else if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Tries until it gets an answer.
async fn at_last<T, F: Future<Output = Option<T>>>(attempt: impl Fn() -> F) -> T {
    let tries = async {
        loop {
            // A server that is starting may take a connection and forget it.
            if let Ok(Some(answer)) = timeout(PATIENCE, attempt()).await {
                return answer;
            }
            sleep(TICK).await;
        }
    };
    timeout(STARTED, tries).await.expect("the server is ready")
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = self.child.get_mut().unwrap() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn skip(what: &str) {
    eprintln!("SKIPPED: {what} is not installed, so the suite was not run over it");
}

/// Each test has a prefix of its own.
async fn conforms<R: Rig>(rig: impl Fn(KeyPrefix) -> R) {
    timeout(WHOLE, conforms_at_last(rig)).await.expect("all of it takes a few seconds, unless something hangs");
}

async fn conforms_at_last<R: Rig>(rig: impl Fn(KeyPrefix) -> R) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = || rig(format!("/suite/{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap());
    suite::a_table_is_created_changed_and_deleted(&next()).await;
    suite::changes_are_made_only_to_what_is_expected(&next()).await;
    suite::of_two_writers_one_succeeds(&next()).await;
    suite::no_update_is_lost(&next()).await;
    suite::who_writes_reads_it_at_once(&next()).await;
    suite::changes_of_others_are_seen(&next()).await;
    suite::names_with_slashes_and_dots_are_kept_apart(&next()).await;
    suite::a_table_is_kept_as_namerd_writes_it(&next()).await;
    suite::a_small_share_is_kept(&next()).await;
    suite::what_is_no_table_leaves_the_last_good_one(&next()).await;
    suite::a_store_that_is_away_at_the_start_is_found_later(&next()).await;
    suite::what_was_read_outlives_every_fault(&next()).await;
    suite::a_watch_outlives_the_store_value(&next()).await;
}

async fn etcd() -> Server {
    Server::start(|data, [client, peer]| {
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(data).arg("--enable-v2");
        for (names, at) in [
            (["listen-client-urls", "advertise-client-urls"], client),
            (["listen-peer-urls", "initial-advertise-peer-urls"], peer),
        ] {
            command.args(names.map(|name| format!("--{name}=http://{at}")));
        }
        command.arg(format!("--initial-cluster=default=http://{peer}"));
        command
    })
    .await
}

struct EtcdRig<'a> {
    server: &'a Server,
    prefix: KeyPrefix,
    api: Api,
}

impl EtcdRig<'_> {
    /// Asks until the server is ready to answer: it listens before it is.
    async fn ask(&self, method: Method, uri: &str, body: &str, kind: &str) -> (StatusCode, Value) {
        at_last(|| async {
            let request = Request::builder().method(method.clone()).uri(uri).header(header::CONTENT_TYPE, kind);
            let rsp = self.server.at.send(request.body(full(Bytes::from(body.to_owned()))).unwrap()).await.ok()?;
            if rsp.status().is_server_error() {
                return None;
            }
            let status = rsp.status();
            let body = rsp.into_body().collect().await.ok()?.to_bytes();
            Some((status, serde_json::from_slice(&body).unwrap()))
        })
        .await
    }

    async fn v3(&self, what: &str, request: Value) -> Value {
        self.ask(Method::POST, &format!("/v3/kv/{what}"), &request.to_string(), "application/json").await.1
    }

    fn key(&self, namespace: &str) -> String {
        BASE64_STANDARD.encode(format!("{}/{namespace}", self.prefix))
    }

    fn uri(&self, namespace: &str) -> String {
        format!("/v2/keys{}/{}", self.prefix, namespace.replace('/', "%252F"))
    }
}

impl Rig for EtcdRig<'_> {
    fn open(&self) -> Arc<dyn DtabStore> {
        let etcd = Etcd::new(self.server.at).with_prefix(self.prefix.clone()).with_api(self.api);
        Arc::new(etcd.with_backoff(BACKOFF).open())
    }

    fn write<'a>(&'a self, namespace: &'a str, text: &'a str) -> Done<'a> {
        Box::pin(async move {
            match self.api {
                Api::V3 => {
                    self.v3("put", json!({"key": self.key(namespace), "value": BASE64_STANDARD.encode(text)})).await;
                }
                Api::V2 => {
                    let escaped = text.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
                    let form = "application/x-www-form-urlencoded";
                    let (status, _) =
                        self.ask(Method::PUT, &self.uri(namespace), &format!("value={escaped}"), form).await;
                    assert!(status.is_success());
                }
            }
        })
    }

    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a> {
        Box::pin(async move {
            match self.api {
                Api::V3 => _ = self.v3("deleterange", json!({"key": self.key(namespace)})).await,
                Api::V2 => _ = self.ask(Method::DELETE, &self.uri(namespace), "", "").await,
            }
        })
    }

    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a> {
        Box::pin(async move {
            match self.api {
                Api::V3 => {
                    let range = self.v3("range", json!({"key": self.key(namespace)})).await;
                    let value = BASE64_STANDARD.decode(range["kvs"][0]["value"].as_str()?).unwrap();
                    Some(String::from_utf8(value).unwrap())
                }
                Api::V2 => {
                    let (_, event) = self.ask(Method::GET, &self.uri(namespace), "", "").await;
                    Some(event["node"]["value"].as_str()?.to_owned())
                }
            }
        })
    }

    fn faults(&self) -> Vec<Fault> {
        vec![Fault::Away]
    }

    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        Box::pin(self.server.set(fault.is_none()))
    }
}

#[tokio::test]
async fn real_etcd_conforms_by_version_3() {
    if !is_installed("etcd") {
        return skip("etcd");
    }
    let server = etcd().await;
    conforms(|prefix| EtcdRig { server: &server, prefix, api: Api::V3 }).await;
}

#[tokio::test]
async fn real_etcd_conforms_by_version_2() {
    if !is_installed("etcd") {
        return skip("etcd");
    }
    let server = etcd().await;
    conforms(|prefix| EtcdRig { server: &server, prefix, api: Api::V2 }).await;
}

const ZOOKEEPER: [&str; 2] = ["/etc/zookeeper/conf", "/usr/share/java/zookeeper.jar"];

async fn zookeeper() -> Server {
    Server::start(|data, [at]| {
        let config = data.join("zoo.cfg");
        let lines = [
            "tickTime=2000".to_owned(),
            format!("dataDir={}", data.display()),
            format!("clientPort={}", at.port()),
            format!("clientPortAddress={}", at.ip()),
            "admin.enableServer=false".to_owned(),
        ];
        fs::write(&config, lines.join("\n")).unwrap();
        let mut command = Command::new("java");
        command.args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp"]).arg(ZOOKEEPER.join(":"));
        command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(config);
        command
    })
    .await
}

struct ZkRig<'a> {
    server: &'a Server,
    prefix: KeyPrefix,
}

impl ZkRig<'_> {
    fn node(&self, namespace: &str) -> String {
        format!("{}/{}", self.prefix, namespace.replace('/', "%2F"))
    }

    /// One operation in a session of its own: its error, and what is behind that.
    async fn ask(&self, operation: i32, fields: &[u8]) -> (i32, Vec<u8>) {
        at_last(|| async { self.try_ask(operation, fields).await.ok() }).await
    }

    async fn try_ask(&self, operation: i32, fields: &[u8]) -> std::io::Result<(i32, Vec<u8>)> {
        let mut io = TcpStream::connect(self.server.at.0).await?;
        // Version, the last change seen, a timeout of 10 s, no session, a password of 16 bytes.
        let greeting = [&[0; 12][..], &10_000_i32.to_be_bytes(), &[0; 8], &16_i32.to_be_bytes(), &[0; 16]].concat();
        let request = [&1_i32.to_be_bytes()[..], &operation.to_be_bytes(), fields].concat();
        let mut answer = Vec::new();
        for frame in [greeting, request] {
            io.write_all(&(frame.len() as u32).to_be_bytes()).await?;
            io.write_all(&frame).await?;
            let len = usize::try_from(io.read_i32().await?).ok().filter(|len| *len <= 1 << 20);
            answer = vec![0; len.ok_or(std::io::ErrorKind::InvalidData)?];
            io.read_exact(&mut answer).await?;
        }
        let error = answer[12..16].try_into().unwrap();
        Ok((i32::from_be_bytes(error), answer.split_off(16)))
    }

    async fn create(&self, path: &str) {
        let acl = [&1_i32.to_be_bytes()[..], &31_i32.to_be_bytes(), &text("world"), &text("anyone")].concat();
        self.ask(1, &[text(path), text(""), acl, vec![0; 4]].concat()).await;
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

const ANY_VERSION: [u8; 4] = [0xff; 4];

impl Rig for ZkRig<'_> {
    fn open(&self) -> Arc<dyn DtabStore> {
        let zookeeper = ZooKeeper::new(self.server.at).with_prefix(self.prefix.clone());
        Arc::new(zookeeper.with_backoff(BACKOFF).open())
    }

    fn write<'a>(&'a self, namespace: &'a str, table: &'a str) -> Done<'a> {
        Box::pin(async move {
            let node = self.node(namespace);
            // Those that are there already are an error that does not matter.
            for (end, _) in node.match_indices('/').skip(1) {
                self.create(&node[..end]).await;
            }
            self.create(&node).await;
            let (error, _) = self.ask(5, &[text(&node), text(table), ANY_VERSION.to_vec()].concat()).await;
            assert_eq!(error, 0);
        })
    }

    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a> {
        Box::pin(async move {
            let (error, _) = self.ask(2, &[text(&self.node(namespace)), ANY_VERSION.to_vec()].concat()).await;
            assert_eq!(error, 0);
        })
    }

    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a> {
        Box::pin(async move {
            let (error, answer) = self.ask(4, &[text(&self.node(namespace)), vec![0]].concat()).await;
            let (len, rest) = answer.split_first_chunk().filter(|_| error == 0)?;
            Some(String::from_utf8(rest[..i32::from_be_bytes(*len) as usize].to_vec()).unwrap())
        })
    }

    fn faults(&self) -> Vec<Fault> {
        vec![Fault::Away]
    }

    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        Box::pin(self.server.set(fault.is_none()))
    }
}

#[tokio::test]
async fn real_zookeeper_conforms() {
    if !is_installed("java") || !ZOOKEEPER.iter().all(|path| Path::new(path).exists()) {
        return skip("ZooKeeper");
    }
    let server = zookeeper().await;
    conforms(|prefix| ZkRig { server: &server, prefix }).await;
}

//! The original's commands: what the real client sends and prints, byte for byte.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::{
    Ctl,
    fake::{Fake, Said},
};

const TUTORIAL: &str = "/srv => /#/io.l5d.k8s/default/http; /host => /srv; /tmp => /srv; /svc => /host; \
                        /host/world => /srv/world-v1";

/// A namerd with the tutorial's two tables.
async fn tutorial() -> (Fake, Ctl, String) {
    let namerd = Fake::start().await;
    let version = namerd.put("internal", TUTORIAL);
    namerd.put("external", "/host => /#/io.l5d.k8s/default/http/hello; /svc/* => /host");
    let ctl = Ctl::at(&namerd.url());
    (namerd, ctl, version)
}

/// An address that refuses connections as long as the socket is there.
fn closed() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let addr = socket.local_addr().expect("is bound");
    (socket, addr)
}

#[tokio::test]
async fn list_prints_a_name_a_line() {
    let (namerd, ctl, _) = tutorial().await;
    for command in ["dtab list", "dtab ls", "dtab list --json=false"] {
        assert_eq!(ctl.run(command).await.ok(), "external\ninternal\n");
        let asked = namerd.one();
        assert_eq!((asked.line(), asked.header("accept")), ("GET /api/1/dtabs".into(), "application/json"));
        assert_eq!((asked.header("if-match"), asked.header("content-type")), ("", ""));
    }
    assert_eq!(ctl.run("dtab list --json").await.ok(), "[\"external\",\"internal\"]\n");
    namerd.say("GET /api/1/dtabs", Said::ok("[]"));
    assert_eq!(ctl.run("dtab list").await.ok(), "\n");
    assert_eq!(ctl.run("dtab list --json").await.ok(), "[]\n");
}

#[tokio::test]
async fn get_prints_what_the_tutorial_shows() {
    let (namerd, ctl, version) = tutorial().await;
    let listing = "\
/srv         => /#/io.l5d.k8s/default/http ;
/host        => /srv ;
/tmp         => /srv ;
/svc         => /host ;
/host/world  => /srv/world-v1 ;
";
    for command in ["dtab get internal", "dtab cat internal", "dtab --json=f get --pretty=true internal"] {
        assert_eq!(ctl.run(command).await.ok(), format!("# version {version}\n{listing}"));
        let asked = namerd.one();
        assert_eq!((asked.line(), asked.header("accept")), ("GET /api/1/dtabs/internal".into(), "application/json"));
    }
    assert_eq!(
        ctl.run("dtab get internal --pretty=false").await.ok(),
        "/srv=>/#/io.l5d.k8s/default/http;/host=>/srv;/tmp=>/srv;/svc=>/host;/host/world=>/srv/world-v1;\n"
    );
    // A server without versions.
    namerd.say("GET /api/1/dtabs/internal", Said::ok(r#"[{"prefix":"/a","dst":"/b"}]"#));
    assert_eq!(ctl.run("dtab get internal").await.ok(), "/a  => /b ;\n");
}

#[tokio::test]
async fn get_prints_json_as_go_does() {
    let (namerd, ctl, _) = tutorial().await;
    let version = namerd.put("shift", "/host/world => 1 * /tmp/v2 & 9 * /tmp/v1");
    let json = format!(
        "{{\"version\":\"{version}\",\"dtab\":[{{\"prefix\":\"/host/world\",\"dst\":\"/tmp/v2 \\u0026 9.00*/tmp/v1\"}}]}}\n"
    );
    assert_eq!(ctl.run("dtab get shift --json").await.ok(), json);
    assert_eq!(ctl.run("dtab --json get shift --pretty=false").await.ok(), json);

    // What was printed is taken back, and only that version of it is replaced.
    let file = ctl.write("shift.dtab", &json);
    namerd.asked();
    assert_eq!(ctl.run(&format!("dtab update shift {file} --json")).await.ok(), "Updated shift\n");
    let asked = namerd.one();
    assert_eq!(asked.body, "[{\"prefix\":\"/host/world\",\"dst\":\"/tmp/v2 \\u0026 9.00*/tmp/v1\"}]");
    assert_eq!((asked.header("content-type"), asked.header("if-match")), ("application/json", &*version));
    let ran = ctl.run(&format!("dtab update shift {file}")).await;
    assert_eq!((ran.code, &*ran.out), (255, "unexpected response: 412 Precondition Failed\n"));
}

#[tokio::test]
async fn create_sends_text_as_it_is() {
    let (namerd, ctl, _) = tutorial().await;
    let text = "# mine\n/a  => /b ;\n/c => 1 * /d & 2 * /e;\n";
    let file = ctl.write("new.dtab", text);
    for (i, command) in ["create", "new"].into_iter().enumerate() {
        assert_eq!(ctl.run(&format!("dtab {command} n{i} {file}")).await.ok(), format!("Created n{i}\n"));
        let asked = namerd.one();
        assert_eq!(asked.line(), format!("POST /api/1/dtabs/n{i}"));
        assert_eq!((asked.header("content-type"), &*asked.body), ("application/dtab", text));
        assert_eq!(asked.header("content-length"), text.len().to_string());
        assert_eq!((asked.header("accept"), asked.header("if-match")), ("", ""));
    }
    assert_eq!(ctl.run_with_input("dtab create piped -", text).await.ok(), "Created piped\n");
    assert_eq!(namerd.table("piped").expect("is there"), "/a=>/b;/c=>/d & 2.00*/e");
    let ran = ctl.run(&format!("dtab create internal {file}")).await;
    assert_eq!((ran.code, &*ran.out), (255, "unexpected response: 409 Conflict\n"));
}

#[tokio::test]
async fn create_sends_the_table_of_json_alone() {
    let (namerd, ctl, _) = tutorial().await;
    let file = ctl.write("new.json", r#"{"dtab":[{"dst":"/b","prefix":"/a"}],"version":"OLD=","more":1}"#);
    assert_eq!(ctl.run(&format!("dtab create n {file}")).await.ok(), "Created n\n");
    let asked = namerd.one();
    assert_eq!(asked.body, r#"[{"prefix":"/a","dst":"/b"}]"#);
    assert_eq!((asked.header("content-type"), asked.header("if-match")), ("application/json", ""));
}

#[tokio::test]
async fn update_replaces_what_it_was_told_to() {
    let (namerd, ctl, version) = tutorial().await;
    let file = ctl.write("new.dtab", "/a => /b");
    for command in ["update", "up"] {
        assert_eq!(ctl.run(&format!("dtab {command} internal {file}")).await.ok(), "Updated internal\n");
        let asked = namerd.one();
        assert_eq!(asked.line(), "PUT /api/1/dtabs/internal");
        assert_eq!((asked.header("content-type"), &*asked.body), ("application/dtab", "/a => /b"));
        assert_eq!(asked.header("if-match"), "");
    }
    let ran = ctl.run(&format!("dtab update internal {file} --version {version}")).await;
    assert_eq!((ran.code, &*ran.out), (255, "unexpected response: 412 Precondition Failed\n"));
    assert_eq!(namerd.one().header("if-match"), version);
    // The version of the file goes before that of the flag.
    let json = ctl.write("new.json", r#"{"version":"FILE=","dtab":[]}"#);
    ctl.run(&format!("dtab update internal {json} --version FLAG=")).await;
    assert_eq!(namerd.one().header("if-match"), "FILE=");
    let json = ctl.write("new.json", r#"{"dtab":[]}"#);
    ctl.run(&format!("dtab update internal {json} --version=FLAG=")).await;
    assert_eq!(namerd.one().header("if-match"), "FLAG=");
}

#[tokio::test]
async fn what_get_printed_can_be_edited_and_sent_back() {
    let (namerd, ctl, version) = tutorial().await;
    let printed = ctl.run("dtab get internal").await.ok().to_owned();
    let edited = printed.replace("/srv/world-v1", "3 * /srv/world-v2 & 7 * /srv/world-v1");
    ctl.write("mydtab.txt", &edited);
    assert_eq!(ctl.run("dtab update internal ./mydtab.txt").await.ok(), "Updated internal\n");
    let asked = namerd.asked().pop().expect("was asked");
    assert!(asked.body.starts_with(&format!("# version {version}\n/srv         => ")), "{}", asked.body);
    let shown = ctl.run("dtab get internal").await;
    assert!(shown.ok().ends_with("/host/world  => 3.00*/srv/world-v2 & 7.00*/srv/world-v1 ;\n"), "{}", shown.out);
}

#[tokio::test]
async fn delete_deletes() {
    let (namerd, ctl, _) = tutorial().await;
    for command in ["delete", "del", "rm"] {
        namerd.put("gone", "/a => /b");
        assert_eq!(ctl.run(&format!("dtab {command} gone")).await.ok(), "Deleted gone\n");
        assert_eq!(namerd.one().line(), "DELETE /api/1/dtabs/gone");
        assert_eq!(namerd.table("gone"), None);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_way() {
    let (_namerd, ctl, _) = tutorial().await;
    let file = ctl.write("new.json", r#"{"version":"V=","dtab":[]}"#);
    for command in ["get no".to_owned(), "delete no".into(), format!("update no {file}")] {
        let ran = ctl.run(&format!("dtab {command}")).await;
        assert_eq!((ran.code, &*ran.out), (255, "resource was not found by ID or name\n"), "{command}");
        assert!(
            ran.err.starts_with("Error: resource was not found by ID or name\nUsage:\n  namerctl dtab "),
            "{}",
            ran.err
        );
    }
}

#[tokio::test]
async fn successes_are_200_201_and_204_and_200_alone_for_reads() {
    let (namerd, ctl, _) = tutorial().await;
    let file = ctl.write("new.dtab", "/a => /b");
    let commands = [format!("create x {file}"), format!("update x {file}"), "delete x".into()];
    for status in [200, 201, 204] {
        for method in ["POST", "PUT", "DELETE"] {
            namerd.say(method, Said::status(status, ""));
        }
        for command in &commands {
            assert_eq!(ctl.run(&format!("dtab {command}")).await.code, 0, "{status} {command}");
        }
    }
    for (status, text) in [(202, "202 Accepted"), (403, "403 Forbidden"), (500, "500 Internal Server Error")] {
        for method in ["POST", "PUT", "DELETE", "GET"] {
            namerd.say(method, Said::status(status, ""));
        }
        for command in commands.iter().map(|command| &**command).chain(["list", "get x"]) {
            let ran = ctl.run(&format!("dtab {command}")).await;
            assert_eq!((ran.code, ran.out), (255, format!("unexpected response: {text}\n")), "{command}");
        }
    }
    namerd.say("GET", Said::status(204, ""));
    assert_eq!(ctl.run("dtab get x").await.out, "unexpected response: 204 No Content\n");
    namerd.say("POST", Said::status(404, ""));
    assert_eq!(ctl.run(&format!("dtab {}", commands[0])).await.out, "unexpected response: 404 Not Found\n");
}

#[tokio::test]
async fn an_explanation_of_the_server_s_is_told_before_the_error() {
    let (_namerd, ctl, _) = tutorial().await;
    let file = ctl.write("new.dtab", "/a -> /b");
    let ran = ctl.run(&format!("dtab update internal {file}")).await;
    assert_eq!((ran.code, &*ran.out), (255, "unexpected response: 400 Bad Request\n"));
    let start =
        "namerd: '=' expected but '-' found at '/a [-]> /b'\nError: unexpected response: 400 Bad Request\nUsage:\n";
    assert!(ran.err.starts_with(start), "{}", ran.err);
}

#[tokio::test]
async fn warnings_of_accepted_writes_are_told() {
    let (namerd, ctl, _) = tutorial().await;
    namerd.say("PUT", Said::status(204, "").with("warning", r#"299 namerd "nobody reaches /a""#));
    let file = ctl.write("new.dtab", "/a => /b");
    let ran = ctl.run(&format!("dtab update internal {file}")).await;
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "Updated internal\n", "warning: nobody reaches /a\n"));
}

/// The layout of the original's flag library.
const GET_USAGE: &str = "\
Usage:
  namerctl dtab get [name] [flags]

Aliases:
  get, cat

Flags:
  -h, --help     help for get
      --pretty   pretty-print dtabs (default true)

Global Flags:
      --base-url string   namer location (e.g. http://namerd.example.com:4080)
";

#[tokio::test]
async fn mistakes_are_told_with_the_usage_and_again_on_stdout() {
    let (_closed, addr) = closed();
    let ctl = Ctl::at(&format!("http://{addr}"));
    let refused = format!("Get \"http://{addr}/api/1/dtabs/a\": dial tcp {addr}: connect: connection refused");
    for (line, text) in [
        ("dtab get", "get requires a name argument"),
        ("dtab get a b", "get requires a name argument"),
        ("dtab cat a --nope", "unknown flag: --nope"),
        ("dtab get a --nope=1", "unknown flag: --nope"),
        ("dtab get -x a", "unknown shorthand flag: 'x' in -x"),
        ("dtab get a --base-url", "flag needs an argument: --base-url"),
        (
            "dtab get a --pretty=5",
            "invalid argument \"5\" for \"--pretty\" flag: strconv.ParseBool: parsing \"5\": invalid syntax",
        ),
        ("dtab get a", &*refused),
    ] {
        let ran = ctl.run(line).await;
        assert_eq!((ran.code, ran.out), (255, format!("{text}\n")), "{line}");
        assert!(ran.err.starts_with(&format!("Error: {text}\n{GET_USAGE}")), "{line}: {}", ran.err);
        assert!(ran.err.ends_with("\n\n"), "{line}: {:?}", ran.err);
    }
    for (line, text) in [
        ("dtab list x", "list does not take arguments"),
        ("dtab create a", "create requires a name and file path"),
        ("dtab update a b c", "update requires a name and file path"),
        ("dtab delete", "delete requires one argument"),
        ("dtab create a nofile", "open nofile: no such file or directory"),
        ("dtab create a /", "read /: is a directory"),
    ] {
        let ran = ctl.run(line).await;
        assert_eq!((ran.code, ran.out), (255, format!("{text}\n")), "{line}");
        assert!(ran.err.starts_with(&format!("Error: {text}\nUsage:\n  namerctl dtab ")), "{line}: {}", ran.err);
    }
    let ran = ctl.run_args(&["dtab", "create", "a", ""]).await;
    assert_eq!((ran.code, &*ran.out), (255, "empty dtab path\n"));
}

#[tokio::test]
async fn files_that_are_not_what_they_begin_as_are_not_sent() {
    let (namerd, ctl, _) = tutorial().await;
    for (text, start) in [
        (r#"[{"prefix":"/a","dst":"/b"}]"#, "json: cannot unmarshal array into Go value of type namer.VersionedDtab\n"),
        ("{", "EOF"),
        (r#"{"dtab":7}"#, "invalid type"),
    ] {
        let file = ctl.write("bad.json", text);
        let ran = ctl.run(&format!("dtab create x {file}")).await;
        assert!(ran.code == 255 && ran.out.starts_with(start), "{ran:?}");
    }
    assert_eq!(namerd.lines(), [""; 0]);
    // Only the first character counts.
    let file = ctl.write("text.dtab", " {");
    assert_eq!(ctl.run(&format!("dtab create x {file}")).await.out, "unexpected response: 400 Bad Request\n");
}

#[tokio::test]
async fn commands_that_are_not_there() {
    let ctl = Ctl::new();
    let ran = ctl.run("foo").await;
    assert_eq!((ran.code, &*ran.out), (255, "unknown command \"foo\" for \"namerctl\"\n"));
    assert_eq!(ran.err, "Error: unknown command \"foo\" for \"namerctl\"\nRun 'namerctl --help' for usage.\n");
    let ran = ctl.run("dta").await;
    let text = "unknown command \"dta\" for \"namerctl\"\n\nDid you mean this?\n\tdtab\n\n";
    assert_eq!((ran.code, &*ran.out), (255, text));
    assert_eq!(ran.err, format!("Error: {text}Run 'namerctl --help' for usage.\n"));
    // Where the original prints its help and ends well: a typing error in a script should not.
    let ran = ctl.run("dtab aply x y").await;
    assert_eq!(ran.code, 255);
    assert!(ran.err.contains("Did you mean this?\n\tapply\n"), "{}", ran.err);
}

#[tokio::test]
async fn help_is_on_stdout() {
    let ctl = Ctl::new();
    let get = ctl.run("dtab get --help").await;
    assert!(get.ok().starts_with(&format!("Get a delegation table by name\n\n{GET_USAGE}")), "{}", get.out);
    for line in ["help dtab get", "dtab cat -h", "dtab get a b c --help"] {
        assert_eq!(ctl.run(line).await.ok(), get.out);
    }
    let dtab = ctl.run("dtab").await;
    assert!(dtab.ok().starts_with("Control namerd's delegation tables\n\nUsage:\n  namerctl dtab [command]\n"));
    let commands =
        dtab.out.split("Available Commands:\n").nth(1).expect("commands").split("\n\n").next().expect("a list");
    let names: Vec<_> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let all = "apply check create delegate delete diff get history list plan rollback update watch";
    assert_eq!(names.join(" "), all);
    for line in ["dtab help", "dtab --help", "help dtab"] {
        assert_eq!(ctl.run(line).await.ok(), dtab.out);
    }
    let root = ctl.run("").await;
    assert!(
        root.ok().contains("\nUsage:\n  namerctl [command]\n\nAvailable Commands:\n  completion  "),
        "{}",
        root.out
    );
    assert!(root.out.ends_with("Use \"namerctl [command] --help\" for more information about a command.\n"));
}

#[tokio::test]
async fn the_base_url_is_the_flag_s_or_the_environment_s_or_a_file_s() {
    let (namerd, _, _) = tutorial().await;
    let url = namerd.url();
    let ctl = Ctl::new();
    let ran = ctl.run("dtab list").await;
    assert_eq!((ran.code, &*ran.out), (255, "empty base URL\n"));

    let listed = "external\ninternal\n";
    let above = ctl.write(".namerctl.yaml", &format!("base-url: {url}\n"));
    let below = ctl.path("a/b");
    std::fs::create_dir_all(&below).expect("makes folders");
    let in_below = |ctl: &Ctl| {
        let mut command = ctl.command(&["dtab", "list"]);
        command.current_dir(&below);
        command
    };
    let out = in_below(&ctl).output().await.expect("runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), listed);
    // The nearest counts; a flag names another.
    ctl.write("a/.namerctl.json", r#"{"base-url":"namerd"}"#);
    let out = in_below(&ctl).output().await.expect("runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "invalid base URL: namerd\n");
    assert_eq!(ctl.run(&format!("dtab list --config {above}")).await.ok(), listed);
    let toml = ctl.write("my.toml", &format!("base-url = \"{url}\"\n"));
    assert_eq!(ctl.run(&format!("--config={toml} dtab list")).await.ok(), listed);
    let hcl = ctl.write("my.hcl", "");
    let ran = ctl.run(&format!("--config={hcl} dtab list")).await;
    assert!(
        ran.out.ends_with("my.hcl: files of settings in hcl are not read: write it in json, toml or yaml\n"),
        "{ran:?}"
    );

    let (_closed, addr) = closed();
    let ctl = ctl.with("NAMERCTL_BASE_URL", &format!("http://{addr}"));
    assert_eq!(ctl.run("dtab list").await.code, 255);
    assert_eq!(ctl.run(&format!("dtab list --base-url {url}")).await.ok(), listed);
}

#[tokio::test]
async fn a_path_in_the_base_url_is_kept() {
    let namerd = Fake::start().await;
    namerd.say("GET /team/a/api/1/dtabs", Said::ok("[]"));
    for end in ["", "/"] {
        let ctl = Ctl::at(&format!("{}/team/a{end}", namerd.url()));
        assert_eq!(ctl.run("dtab list").await.ok(), "\n");
        assert_eq!(namerd.one().header("host"), namerd.addr.to_string());
    }
    let ctl = Ctl::new();
    for (url, text) in [("namerd:4180", "invalid base URL: namerd:4180"), ("http:///x", "invalid base URL: http:///x")]
    {
        let ran = ctl.run(&format!("dtab list --base-url {url}")).await;
        assert_eq!((ran.code, ran.out), (255, format!("{text}\n")));
    }
}

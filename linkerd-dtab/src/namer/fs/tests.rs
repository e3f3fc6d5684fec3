use std::{
    fs::{self, File},
    io::Write,
    net::SocketAddr,
    path::Path as FilePath,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{Endpoint, Namer as _};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_mins(2);

/// So long that a writer is not given up, which takes 50 times as long, by a test that is kept from running.
const UNHURRIED: Duration = Duration::from_millis(400);

fn disco() -> (TempDir, Namer) {
    let dir = tempfile::tempdir().unwrap();
    let namer = Namer::new(dir.path());
    (dir, namer)
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

/// Waits for the first state that `f` takes.
async fn until<T: Clone + Send + Sync + 'static, R>(
    activity: &mut Activity<T>,
    mut f: impl FnMut(State<T>) -> Option<R>,
) -> R {
    let wait = async {
        loop {
            if let Some(found) = f(activity.sample_and_update()) {
                return found;
            }
            activity.changed().await;
        }
    };
    timeout(LONG, wait).await.expect("did not happen")
}

async fn leaf(tree: &mut Activity<NameTree<Name>>) -> Bound {
    until(tree, |state| match state {
        State::Ok(NameTree::Leaf(Name::Bound(bound))) => Some(bound),
        _ => None,
    })
    .await
}

async fn neg(tree: &mut Activity<NameTree<Name>>) {
    until(tree, |state| matches!(state, State::Ok(NameTree::Neg)).then_some(())).await;
}

async fn ports(addr: &mut Activity<Addr>, expected: &[u16]) {
    until(addr, |state| {
        let State::Ok(Addr::Bound(endpoints)) = state else { return None };
        let ports: Vec<_> = endpoints.iter().map(|endpoint| endpoint.addr.port()).collect();
        (ports == expected).then_some(())
    })
    .await;
}

/// Waits until the value is marked as stale, which is no change of the value.
async fn stale(addr: &Activity<Addr>) -> Failure {
    let wait = async {
        loop {
            if let Some(failure) = addr.snapshot().stale {
                return failure;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, wait).await.expect("never stale")
}

fn replace(file: &FilePath, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn a_file_is_a_bound_leaf_and_what_follows_it_is_residual() {
    let (dir, namer) = disco();
    fs::create_dir(dir.path().join("eu")).unwrap();
    fs::write(dir.path().join("web"), "127.0.0.1 1\n").unwrap();
    fs::write(dir.path().join("eu/web"), "127.0.0.1 2").unwrap();
    for (name, id, residual, port) in
        [("/web", "/web", "/", 1), ("/web/a/../b", "/web", "/a/../b", 1), ("/eu/web/a", "/eu/web", "/a", 2)]
    {
        let mut bound = leaf(&mut namer.lookup(&path(name))).await;
        assert_eq!((bound.id, bound.residual), (path(id), path(residual)), "{name}");
        ports(&mut bound.addr, &[port]).await;
    }
}

#[tokio::test]
async fn what_is_no_file_below_the_folder_is_negative() {
    let (dir, outer) = disco();
    fs::write(dir.path().join("secret"), "127.0.0.1 1\n").unwrap();
    fs::create_dir_all(dir.path().join("disco/sub")).unwrap();
    drop(outer);
    let namer = Namer::new(dir.path().join("disco"));
    #[cfg(unix)]
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("disco/socket")).unwrap();
    let out = Path::from_elements(["../secret"]).unwrap();
    let nul = Path::from_elements(["a\0b"]).unwrap();
    let long = Path::from_elements(["x".repeat(300)]).unwrap();
    for name in [path("/nope"), path("/sub"), path("/../secret"), path("/./sub"), path("/socket"), out, nul, long] {
        neg(&mut namer.lookup(&name)).await;
    }
    neg(&mut namer.lookup(&Path::empty())).await;
}

#[tokio::test]
async fn a_name_appears_and_disappears_live() {
    let (dir, namer) = disco();
    let file = dir.path().join("web");
    let mut tree = namer.lookup(&path("/web"));
    neg(&mut tree).await;
    fs::write(&file, "127.0.0.1 1\n").unwrap();
    ports(&mut leaf(&mut tree).await.addr, &[1]).await;
    fs::remove_file(&file).unwrap();
    neg(&mut tree).await;
    fs::create_dir(&file).unwrap();
    fs::write(file.join("sub"), "127.0.0.1 2\n").unwrap();
    ports(&mut leaf(&mut namer.lookup(&path("/web/sub"))).await.addr, &[2]).await;
}

#[tokio::test]
async fn a_folder_may_appear_after_its_names_were_looked_up() {
    let (dir, namer) = disco();
    let mut tree = namer.lookup(&path("/a/b/web"));
    neg(&mut tree).await;
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/web"), "127.0.0.1 1\n").unwrap();
    ports(&mut leaf(&mut tree).await.addr, &[1]).await;
}

#[tokio::test]
async fn a_file_without_endpoints_is_an_empty_set_once_that_is_sure() {
    let (dir, namer) = disco();
    let file = dir.path().join("web");
    fs::write(&file, "# nothing here\n\n").unwrap();
    let mut addr = leaf(&mut namer.lookup(&path("/web"))).await.addr;
    ports(&mut addr, &[]).await;
    fs::write(&file, "127.0.0.1 1\n").unwrap();
    ports(&mut addr, &[1]).await;
    fs::write(&file, "").unwrap();
    ports(&mut addr, &[]).await;
}

#[tokio::test]
async fn a_malformed_file_fails_its_address_and_not_its_name() {
    let (dir, namer) = disco();
    let file = dir.path().join("web");
    fs::write(&file, "127.0.0.1 1\ngarbage here too many words # and why\n").unwrap();
    let mut addr = leaf(&mut namer.lookup(&path("/web"))).await.addr;
    let error = timeout(LONG, addr.ready()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "malformed address: garbage here too many words");
    assert_eq!(error.downcast_ref::<BadFile>().unwrap().line(), Some(2));
    fs::write(&file, "127.0.0.1 1\n").unwrap();
    ports(&mut addr, &[1]).await;
}

#[tokio::test]
async fn bad_content_keeps_the_last_good_set_and_says_why() {
    let (dir, namer) = disco();
    let file = dir.path().join("web");
    fs::write(&file, "127.0.0.1 1\n").unwrap();
    let mut addr = leaf(&mut namer.lookup(&path("/web"))).await.addr;
    ports(&mut addr, &[1]).await;
    let large = vec![b'#'; MAX_FILE_BYTES + 1];
    for (content, line, text) in [
        (&b"\n127.0.0.1 0\n"[..], Some(2), "malformed address: 127.0.0.1 0".to_owned()),
        (b"127.0.0.1 1\n\n\xff", Some(3), format!("{} is not UTF-8", file.display())),
        (&large, None, format!("{} is larger than 512000 bytes", file.display())),
    ] {
        fs::write(&file, content).unwrap();
        let failure = stale(&addr).await;
        let kept = failure.downcast_ref::<Kept>().unwrap();
        assert_eq!((kept.line, kept.source.to_string()), (line, text));
        ports(&mut addr, &[1]).await;
        replace(&file, "127.0.0.1 1\n");
        while addr.snapshot().stale.is_some() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn no_step_of_an_edit_is_ever_seen() {
    let (dir, namer) = disco();
    // So long that no scheduler holds the writer up for longer between two steps.
    let namer = namer.with_settle_time(LONG);
    let file = dir.path().join("web");
    let content = |port: u16| format!("127.0.0.1 {port} * 0.5\n127.0.0.2 {port}\n");
    fs::write(&file, content(1)).unwrap();
    let mut tree = namer.lookup(&path("/web"));
    let mut addr = leaf(&mut tree).await.addr;
    ports(&mut addr, &[1, 1]).await;

    let watcher = tokio::spawn({
        let (mut addr, mut tree) = (addr.clone(), tree.clone());
        async move {
            let mut sets = 0;
            loop {
                assert!(matches!(tree.sample(), State::Ok(NameTree::Leaf(_))), "{tree:?}");
                let State::Ok(Addr::Bound(endpoints)) = addr.sample_and_update() else { panic!("{addr:?}") };
                let ports: Vec<_> = endpoints.iter().map(|endpoint| endpoint.addr.port()).collect();
                assert!(ports.len() == 2 && ports[0] == ports[1], "{endpoints:?}");
                assert!(addr.snapshot().stale.is_none(), "{:?}", addr.snapshot().stale);
                sets += 1;
                if ports == [200, 200] {
                    return sets;
                }
                tokio::select! {
                    () = addr.changed() => {}
                    () = tree.changed() => {}
                }
            }
        }
    });
    tokio::task::spawn_blocking(move || {
        for port in 2..=200 {
            let text = content(port);
            match port % 4 {
                0 => replace(&file, &text),
                1 => fs::write(&file, &text).unwrap(),
                2 => {
                    let mut open = File::create(&file).unwrap();
                    for half in [&text[..12], &text[12..]] {
                        open.write_all(half.as_bytes()).unwrap();
                    }
                }
                _ => {
                    fs::remove_file(&file).unwrap();
                    fs::write(&file, &text).unwrap();
                }
            }
        }
    })
    .await
    .unwrap();
    assert!(timeout(LONG, watcher).await.unwrap().unwrap() > 1);
}

#[tokio::test]
async fn bad_news_takes_its_time_even_if_it_is_the_first() {
    let (dir, namer) = disco();
    let namer = namer.with_settle_time(LONG);
    for (name, bad) in [("/empty", ""), ("/malformed", "127.0.0.1 80 80 80\n")] {
        let file = dir.path().join(&name[1..]);
        fs::write(&file, bad).unwrap();
        let mut addr = leaf(&mut namer.lookup(&path(name))).await.addr;
        fs::write(&file, "127.0.0.1 1\n").unwrap();
        let first = timeout(LONG, addr.ready()).await.unwrap().unwrap();
        assert_eq!(first.endpoints()[0].addr.port(), 1, "{name}: {first:?}");
    }
}

#[tokio::test]
async fn what_takes_the_place_of_nothing_counts_at_once() {
    let (dir, namer) = disco();
    let namer = namer.with_settle_time(UNHURRIED);
    let file = dir.path().join("web");
    fs::write(&file, "").unwrap();
    let mut addr = leaf(&mut namer.lookup(&path("/web"))).await.addr;
    ports(&mut addr, &[]).await;
    let before = tokio::time::Instant::now();
    let mut open = File::create(&file).unwrap();
    open.write_all(b"127.0.0.1 1\n").unwrap();
    ports(&mut addr, &[1]).await;
    // Before the writer would be given up.
    assert!(before.elapsed() < 50 * UNHURRIED, "{:?}", before.elapsed());
    drop(open);
}

/// Closes are told there.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod writers {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    /// One file with the endpoints 1 and 2.
    async fn web(namer: &Namer) -> (Activity<Addr>, std::path::PathBuf) {
        let file = namer.root().join("web");
        fs::write(&file, "127.0.0.1 1\n127.0.0.1 2\n").unwrap();
        let mut addr = leaf(&mut namer.lookup(&path("/web"))).await.addr;
        ports(&mut addr, &[1, 2]).await;
        (addr, file)
    }

    /// Waits until a file that was emptied and closed just now counts as empty: what was done before it has settled too.
    async fn settled(namer: &Namer) {
        for name in ["one", "two"] {
            let file = namer.root().join(name);
            fs::write(&file, "127.0.0.1 1\n").unwrap();
            let mut addr = leaf(&mut namer.lookup(&path(&format!("/{name}")))).await.addr;
            ports(&mut addr, &[1]).await;
            fs::write(&file, "").unwrap();
            ports(&mut addr, &[]).await;
        }
    }

    #[tokio::test]
    async fn a_writer_is_waited_for_until_he_closes_the_file() {
        let (_dir, namer) = disco();
        let namer = namer.with_settle_time(UNHURRIED);
        let (mut addr, file) = web(&namer).await;
        let mut writer = File::create(&file).unwrap();
        for text in ["", "127.0.0.1 1\n", "127.0"] {
            writer.write_all(text.as_bytes()).unwrap();
            settled(&namer).await;
            ports(&mut addr, &[1, 2]).await;
            assert!(addr.snapshot().stale.is_none(), "{text:?}: {addr:?}");
        }
        writer.write_all(b".0.1 3\n").unwrap();
        drop(writer);
        ports(&mut addr, &[1, 3]).await;
        // As soon as he closes it, an empty file is one.
        drop(File::create(&file).unwrap());
        ports(&mut addr, &[]).await;
    }

    #[tokio::test]
    async fn a_name_is_there_when_its_writer_closes_the_file() {
        let (_dir, namer) = disco();
        let namer = namer.with_settle_time(UNHURRIED);
        let mut tree = namer.lookup(&path("/web"));
        neg(&mut tree).await;
        let mut writer = File::create(namer.root().join("web")).unwrap();
        settled(&namer).await;
        neg(&mut tree).await;
        writer.write_all(b"127.0.0.1 1\n").unwrap();
        drop(writer);
        ports(&mut leaf(&mut tree).await.addr, &[1]).await;
    }

    #[tokio::test]
    async fn a_writer_who_never_closes_the_file_is_not_waited_for_for_ever() {
        let (_dir, namer) = disco();
        let (mut addr, file) = web(&namer.with_settle_time(SHORT)).await;
        let _writer = File::create(&file).unwrap();
        ports(&mut addr, &[]).await;
    }

    #[tokio::test]
    async fn a_writer_who_never_rests_is_not_waited_for_for_ever() {
        let (_dir, namer) = disco();
        let (addr, file) = web(&namer.with_settle_time(SHORT)).await;
        let mut writer = File::create(&file).unwrap();
        let until = tokio::time::Instant::now() + LONG;
        // Within the largest file that is read.
        for round in 0_usize.. {
            assert!(tokio::time::Instant::now() < until, "{addr:?} after {round} rounds");
            if round % 1000 == 0 {
                writer.set_len(0).unwrap();
                std::io::Seek::rewind(&mut writer).unwrap();
            }
            writeln!(writer, "127.0.0.1 {}", round % 1000 + 3).unwrap();
            tokio::task::yield_now().await;
            if matches!(addr.sample(), State::Ok(addr) if addr.endpoints().iter().all(|known| known.addr.port() > 2)) {
                break;
            }
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_config_map_is_switched_by_its_link() {
    use std::os::unix::fs::symlink;

    let (dir, namer) = disco();
    let version = |name: &str, content: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("web"), content).unwrap();
        symlink(name, dir.path().join("..new")).unwrap();
        fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    };
    version("..1", "127.0.0.1 1\n");
    symlink("..data/web", dir.path().join("web")).unwrap();
    let mut tree = namer.lookup(&path("/web"));
    let mut addr = leaf(&mut tree).await.addr;
    ports(&mut addr, &[1]).await;
    for round in 2..6_u16 {
        version(&format!("..{round}"), &format!("127.0.0.1 {round}\n"));
        fs::remove_dir_all(dir.path().join(format!("..{}", round - 1))).unwrap();
        ports(&mut addr, &[round]).await;
    }
    // The file behind the link, edited in place, in a folder that was not there at first.
    fs::write(dir.path().join("..5/web"), "127.0.0.1 9\n").unwrap();
    ports(&mut addr, &[9]).await;
    assert_eq!(namer.names().unwrap(), [path("/web")]);
}

#[tokio::test]
async fn a_folder_that_is_gone_keeps_its_sets_and_one_that_comes_back_has_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("disco");
    let namer = Namer::new(&root);
    let mut tree = namer.lookup(&path("/web"));
    let error = timeout(LONG, tree.ready()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}", root.display()));

    fs::create_dir(&root).unwrap();
    fs::write(root.join("web"), "127.0.0.1 1\n").unwrap();
    let mut addr = leaf(&mut tree).await.addr;
    ports(&mut addr, &[1]).await;

    // In one step: `remove_dir_all` would remove the file first, which counts.
    fs::rename(&root, dir.path().join("away")).unwrap();
    stale(&addr).await;
    assert!(matches!(tree.sample(), State::Ok(NameTree::Leaf(_))));
    ports(&mut addr, &[1]).await;

    fs::create_dir(&root).unwrap();
    fs::write(root.join("web"), "127.0.0.1 2\n").unwrap();
    ports(&mut addr, &[2]).await;
    // The new folder is watched, not the old one.
    fs::write(root.join("web"), "127.0.0.1 3\n").unwrap();
    ports(&mut addr, &[3]).await;
    assert!(addr.snapshot().stale.is_none());
}

#[tokio::test(start_paused = true)]
async fn equal_names_share_a_watch_that_ends_when_nobody_reads_it() {
    let (dir, namer) = disco();
    fs::write(dir.path().join("web"), "127.0.0.1 1\n").unwrap();
    let mut tree = namer.lookup(&path("/web"));
    assert!(namer.lookup(&path("/web")).same_source(&tree));
    let mut other = namer.lookup(&path("/web/residual"));
    let (one, two) = (leaf(&mut tree).await, leaf(&mut other).await);
    assert!(one.addr.same_source(&two.addr));

    drop((tree, other, two));
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(namer.state().is_empty(), "{:?}", namer.state());
    // The address is still read, so it is still live.
    let mut addr = one.addr;
    fs::write(dir.path().join("web"), "127.0.0.1 2\n").unwrap();
    ports(&mut addr, &[2]).await;
    drop(addr);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(lock(&namer.inner.files).is_empty());
    // And it begins anew.
    ports(&mut leaf(&mut namer.lookup(&path("/web"))).await.addr, &[2]).await;
}

#[tokio::test]
async fn at_the_limit_a_new_name_fails_until_an_old_one_is_not_read() {
    let (_dir, namer) = disco();
    let namer = namer.with_max_names(NonZeroUsize::MIN);
    let mut first = namer.lookup(&path("/a"));
    neg(&mut first).await;
    let error = namer.lookup(&path("/b")).ready().await.unwrap_err();
    assert!(error.to_string().starts_with("cannot watch /b in "), "{error}");
    assert!(error.to_string().ends_with(": 1 names are watched already"), "{error}");
    drop(first);
    neg(&mut namer.lookup(&path("/b"))).await;
}

#[tokio::test]
async fn names_that_are_asked_for_once_are_soon_forgotten() {
    let (_dir, namer) = disco();
    let mut kept = namer.lookup(&path("/kept"));
    for n in 0..1000 {
        neg(&mut namer.lookup(&path(&format!("/nobody{n}")))).await;
    }
    let names = namer.state();
    assert!(names.len() < 300, "{}", names.len());
    assert!(names.iter().any(|name| name.path == path("/kept")));
    neg(&mut kept).await;
}

#[tokio::test]
async fn the_state_names_the_file_and_the_age_of_each_name() {
    let (dir, namer) = disco();
    fs::write(dir.path().join("web"), "127.0.0.1 1\n").unwrap();
    let mut there = namer.lookup(&path("/web/x"));
    let mut missing = namer.lookup(&path("/nope"));
    leaf(&mut there).await;
    neg(&mut missing).await;
    let state = namer.state();
    let names: Vec<_> = state.iter().map(|watched| (watched.path.to_string(), watched.file.clone())).collect();
    assert_eq!(names, [("/nope".into(), dir.path().join("nope")), ("/web/x".into(), dir.path().join("web"))]);
    assert!(state.iter().all(|watched| watched.tree.contact.is_some()));
}

/// Answers what it was told to, for any port.
struct Names(Activity<Addr>);

impl Resolve for Names {
    fn resolve(&self, host: &str, port: &str) -> Activity<Addr> {
        assert_eq!((host, port), ("web.example", "80"));
        self.0.clone()
    }

    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr> {
        self.resolve(host, port)
    }
}

#[tokio::test]
async fn names_in_a_file_are_resolved_live_with_the_weight_of_their_line() {
    let (dir, namer) = disco();
    let (dns, activity) = Activity::channel();
    let namer = namer.with_resolver(Arc::new(Names(activity)));
    let file = dir.path().join("web");
    fs::write(&file, "web.example 80 * 2 zone=a\n").unwrap();
    let mut addr = leaf(&mut namer.lookup(&path("/web"))).await.addr;
    let ip: SocketAddr = "10.0.0.1:80".parse().unwrap();
    dns.ok(Addr::of([ip]));
    let expected = Endpoint::new(ip).with_weight(2.0).with_zone("a");
    until(&mut addr, |state| state.ok().filter(|addr| addr.endpoints() == [expected.clone()])).await;
    dns.ok(Addr::of([ip, "10.0.0.2:80".parse().unwrap()]));
    ports(&mut addr, &[80, 80]).await;
    // An edit that adds a line does not lose the answer meanwhile.
    fs::write(&file, "web.example 80 * 2 zone=a\n127.0.0.1 1\n").unwrap();
    ports(&mut addr, &[1, 80, 80]).await;
    fs::write(&file, "127.0.0.1 1\n").unwrap();
    ports(&mut addr, &[1]).await;
    dns.ok(Addr::of([ip]));
    tokio::task::yield_now().await;
    ports(&mut addr, &[1]).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_systems_help_files_are_polled() {
    let dir = tempfile::tempdir().unwrap();
    let namer = Namer::new(dir.path());
    namer.inner.folder.tell_nothing();
    let file = dir.path().join("web");
    fs::write(&file, "127.0.0.1 1\n").unwrap();
    let mut tree = namer.lookup(&path("/web"));
    let mut addr = leaf(&mut tree).await.addr;
    ports(&mut addr, &[1]).await;
    let before = tokio::time::Instant::now();
    fs::write(&file, "127.0.0.1 2\n").unwrap();
    ports(&mut addr, &[2]).await;
    assert!(before.elapsed() <= Duration::from_secs(2), "{:?}", before.elapsed());
    fs::remove_file(&file).unwrap();
    neg(&mut tree).await;
}

#[tokio::test]
async fn many_names_are_watched_as_well_as_one() {
    let (dir, namer) = disco();
    let names: Vec<_> = (0..300).map(|i| path(&format!("/web-{i}"))).collect();
    let file = |name: &Path| dir.path().join(&name.to_string()[1..]);
    for name in &names {
        fs::write(file(name), "127.0.0.1 1\n").unwrap();
    }
    let mut trees: Vec<_> = names.iter().map(|name| namer.lookup(name)).collect();
    for (name, tree) in names.iter().zip(&mut trees) {
        let mut addr = leaf(tree).await.addr;
        ports(&mut addr, &[1]).await;
        replace(&file(name), "127.0.0.1 2\n");
        ports(&mut addr, &[2]).await;
    }
    assert_eq!(namer.names().unwrap().len(), names.len());
}

//! The sections that Linkerd 1.x does not have.

use linkerd_dtab::{Path, namerd::Limits};

use super::{
    super::{
        decode::{At, Section},
        node,
    },
    Access, Compose, HistorySettings, Interface, InterfaceKind, NameCache, Protect, Storage, StorageKind, access,
    bounds, guard,
};

/// The sections that Linkerd 1.x does not have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Safety {
    /// `access`: who may do what. Default: none, everybody may do everything.
    pub access: Vec<Access>,
    /// `protect`: what guards namespaces against mistakes. Default: none.
    pub protect: Vec<Protect>,
    /// `compose`: namespaces that are made of others. Default: none.
    pub compose: Vec<Compose>,
    /// `roots`: how the names begin that clients ask for. Default: none, nothing is known of that.
    pub roots: Vec<Path>,
    /// `history`: what is recorded of changes.
    pub history: HistorySettings,
    /// `limits`: what clients may have open.
    pub limits: Limits,
    /// `cache`: how many names are followed. Default: [`NameCache::UNSAID`], or what the interfaces' own `cache` says.
    pub cache: Option<NameCache>,
}

impl Safety {
    pub(super) fn decode(s: &mut Section<'_>, storage: Option<&Storage>, interfaces: &[Interface]) -> Self {
        let safety = Self {
            access: s.with("access", access::all).unwrap_or_default(),
            protect: s.or("protect", Vec::new()),
            compose: s.with("compose", guard::compositions).unwrap_or_default(),
            roots: s.or("roots", Vec::new()),
            history: s.get("history").unwrap_or_default(),
            limits: s.with("limits", bounds::limits).unwrap_or_default(),
            cache: s.get("cache"),
        };
        let is_empty = |at: &At<'_>| matches!(&at.node.value, node::Value::List(items) if items.is_empty());
        if s.with("access", |at| is_empty(at).then_some(())).is_some() {
            s.problem("access", "must have an entry; without the section everybody may do everything");
        }
        let has_own = |interface: &Interface| matches!(interface.kind, InterfaceKind::Thrift { cache: Some(_) });
        if safety.cache.is_some() && interfaces.iter().any(has_own) {
            s.problem("cache", "cannot be set together with the `cache` of an interface: it is one for all");
        }
        // Its files would be taken for tables.
        if let (Some(Storage { kind: StorageKind::Files { directory, .. }, .. }), Some(history)) =
            (storage, &safety.history.directory)
            && history.starts_with(directory)
        {
            s.problem("history", format!("its directory must not be in that of the storage, {}", directory.display()));
        }
        safety
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use linkerd_dtab::namerd::{Limits, Peer, Role};

    use super::super::{Caller, NameCache, Namerd, Protect, roles};

    const REST: &str = "storage: {kind: io.l5d.inMemory}\ninterfaces: [{kind: io.l5d.mesh}]\n";

    fn parse(text: &str) -> Result<Namerd, String> {
        Namerd::parse("n.yaml", &format!("{text}{REST}")).map_err(|errors| errors.to_string())
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err()
    }

    #[test]
    fn access_grants_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "from-a-file\n").unwrap();
        let text = format!(
            "access:\n- {{anyone: true, role: read, namespaces: [public]}}\n- {{name: '*.ops.example', role: admin}}\n\
             - {{tokenFile: '{}', label: ci, role: write, namespaces: ['team/*', public]}}\n",
            file.display()
        );
        let config = parse(&text).unwrap();
        let roles = roles(&config.safety.access);
        let of = |peer: &Peer, namespace: &str| roles.of(peer, &namespace.parse().unwrap());
        let nobody = Peer::default();
        assert_eq!((of(&nobody, "public"), of(&nobody, "team/web")), (Some(Role::Read), None));
        let named = Peer { name: Some("a.ops.example".into()), ..Peer::default() };
        assert_eq!(of(&named, "prod"), Some(Role::Admin));
        let ci = Peer { token: Some("from-a-file".into()), ..Peer::default() };
        assert_eq!(
            (of(&ci, "team/web"), of(&ci, "public"), of(&ci, "prod")),
            (Some(Role::Write), Some(Role::Write), None)
        );
        assert!(matches!(&config.safety.access[2].caller, Caller::Token { label, .. } if label == "ci"));
    }

    #[test]
    fn tokens_are_not_shown() {
        let config = parse("access: [{token: s3cret, label: ci, role: write}]\n").unwrap();
        assert!(!format!("{config:?}").replace(&format!("{:?}", config.common), "").contains("s3cret"));
        let json = config.to_json().to_string();
        assert!(json.contains("***") && !json.contains("s3cret"), "{json}");
        let error = refused("access: [{token: \"s3\\ncret\", label: ci, role: write}]\n");
        assert!(error.starts_with("n.yaml:1:18: access[0].token: must be a token of 1 to 4096"), "{error}");
        assert!(!error.contains("cret"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_access_is_told_with_its_place() {
        for (text, expected) in [
            ("access: []", "n.yaml:1:9: access: must have an entry; without the section everybody may do everything"),
            ("access: [{role: read}]", "n.yaml:1:10: access[0]: must have one of name, token, tokenFile and anyone"),
            ("access: [{name: a, anyone: true, role: read}]", "n.yaml:1:10: access[0]: must have one of"),
            ("access: [{name: a, role: owner}]", "n.yaml:1:26: access[0].role: "),
            ("access: [{name: a}]", "access[0].role: is required: one of read, write, admin"),
            ("access: [{name: 'a*', role: read}]", "n.yaml:1:17: access[0].name: must be a name, in which a star"),
            ("access: [{name: '*', role: read}]", "access[0].name: must be a name; `anyone: true` is everybody"),
            ("access: [{token: t, role: read}]", "access[0].label: is required"),
            ("access: [{name: a, label: b, role: read}]", "access[0].label: is for a token alone"),
            ("access: [{anyone: false, role: read}]", "access[0].anyone: can only be true"),
            ("access: [{tokenFile: /nowhere, label: a, role: read}]", "access[0].tokenFile: '/nowhere' cannot be read"),
            (
                "access:\n- {token: s3cret, label: ci, role: read}\n- {token: other, label: b, role: read}\n\
                 - {role: write, label: deploy, token: s3cret}",
                "n.yaml:4:24: access[2].label: 'deploy' is for the token that access[0] calls 'ci', and a token has one label",
            ),
            (
                "access: [{name: a, role: read, namespaces: ['a b']}]",
                "n.yaml:1:45: access[0].namespaces[0]: invalid pattern",
            ),
            ("access: [{name: a, role: read, namespaces: []}]", "access[0].namespaces: must be at least one pattern"),
            ("access: [{name: a, roles: read}]", "access[0].roles: "),
        ] {
            let error = refused(&format!("{text}\n"));
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }

    #[test]
    fn guards_and_compositions_are_read() {
        let config = parse(
            "protect:\n- {namespaces: [prod, 'prod/*'], adminOnly: true, needsVersion: true}\n\
             - {namespaces: ['*'], strict: true, noDelete: true}\n\
             compose:\n- namespace: prod\n  parts:\n  - fragments: base\n  - {fragments: 'team/*', owns: ['/svc/{}', '/svc/{}*']}\n\
             roots: [/svc]\n",
        )
        .unwrap();
        let protections: Vec<_> = config.safety.protect.iter().flat_map(Protect::protections).collect();
        assert_eq!(protections.len(), 3);
        assert!(protections[1].admin_only && protections[1].needs_version && !protections[1].strict);
        assert!(protections[2].strict && protections[2].no_delete && !protections[2].admin_only);
        let composition = config.safety.compose[0].composition();
        assert_eq!(composition.namespace.as_str(), "prod");
        assert_eq!(composition.parts.iter().map(|part| part.owns.len()).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(config.safety.roots[0].to_string(), "/svc");
    }

    #[test]
    fn one_token_may_have_one_label_and_one_label_several_tokens() {
        let access = |text: &str| parse(&format!("access: [{text}]\n")).map(|config| config.safety.access.len());
        let same = "{token: s3cret, label: ci, role: read}, {token: s3cret, label: ci, role: write, namespaces: [a]}";
        assert_eq!(access(same), Ok(2));
        assert_eq!(access("{token: old, label: ci, role: read}, {token: new, label: ci, role: read}"), Ok(2));
        let error =
            access("{token: s3cret, label: ci, role: read}, {token: s3cret, label: cd, role: read}").unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "s3cret\n").unwrap();
        let file = file.display();
        let error =
            access(&format!("{{token: s3cret, label: ci, role: read}}, {{tokenFile: {file}, label: cd, role: read}}"));
        assert!(error.unwrap_err().contains("access[1].label: 'cd' is for the token that access[0] calls 'ci'"));
    }

    #[test]
    fn what_fragments_own_together_is_warned_of() {
        let warnings = |parts: &str| {
            let config = parse(&format!("compose: [{{namespace: all, parts: [{parts}]}}]\n")).unwrap();
            config.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            warnings("{fragments: base, owns: [/svc]}, {fragments: 'team/*', owns: ['/svc/{}', '/svc/{}-*']}"),
            [""; 0]
        );
        assert_eq!(
            warnings("{fragments: base}, {fragments: 'team/*', owns: [/svc]}"),
            ["n.yaml:1:84: compose[0].parts[1].owns[0]: has no {}: all namespaces that are team/* own the same"]
        );
        assert_eq!(
            warnings("{fragments: '*/web-*', owns: ['/svc/{}']}"),
            [
                "n.yaml:1:66: compose[0].parts[0].owns[0]: {} is the last star of */web-*: namespaces that differ in another \
              one own the same"
            ]
        );
        assert_eq!(
            warnings("{fragments: base, owns: ['/svc/a', '/svc/a*/b', '/svc/a*', '/svc/a*']}"),
            [
                "n.yaml:1:61: compose[0].parts[0].owns[0]: has no effect: /svc/a* owns that already",
                "n.yaml:1:71: compose[0].parts[0].owns[1]: has no effect: /svc/a* owns that already",
                "n.yaml:1:95: compose[0].parts[0].owns[3]: has no effect: /svc/a* owns that already",
            ]
        );
    }

    #[test]
    fn a_star_passes_over_what_is_composed() {
        let text = "compose:\n- {namespace: team/all, parts: [{fragments: 'team/*'}]}\n\
                    - {namespace: b, parts: [{fragments: '*'}]}\n";
        assert_eq!(parse(text).unwrap().safety.compose.len(), 2);
    }

    #[test]
    fn names_that_no_interface_asks_for_are_warned_of() {
        let access = "access:\n- {anyone: true, role: read}\n- {name: a.example, role: write}\n";
        let warnings = |interfaces: &str| {
            let text = format!("{access}storage: {{kind: io.l5d.inMemory}}\ninterfaces: [{interfaces}]\n");
            let warnings = Namerd::parse("n.yaml", &text).unwrap().warnings();
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let warning = "n.yaml:3:10: access[1].name: has no effect: no interface has `tls` with `requireClientAuth: true`, \
                       so that nobody shows a certificate";
        assert_eq!(warnings("{kind: io.l5d.mesh}"), [warning]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.pem");
        fs::write(&file, "").unwrap();
        let file = file.display();
        let tls = format!("tls: {{certPath: {file}, keyPath: {file}");
        assert_eq!(warnings(&format!("{{kind: io.l5d.mesh, {tls}}}}}")), [warning]);
        let asks = format!("{{kind: io.l5d.mesh, {tls}, caCertPath: {file}, requireClientAuth: true}}}}");
        assert_eq!(warnings(&format!("{{kind: io.l5d.httpController}}, {asks}")), [""; 0]);
        assert_eq!(parse("access: [{anyone: true, role: read}]\n").unwrap().warnings(), []);
    }

    #[test]
    fn what_is_wrong_with_guards_is_told_with_its_place() {
        for (text, expected) in [
            ("protect: [{strict: true}]", "protect[0].namespaces: is required"),
            ("protect: [{namespaces: [a], strict: soon}]", "n.yaml:1:37: protect[0].strict: must be true or false"),
            ("protect: [{namespaces: [a], admin: true}]", "protect[0].admin: "),
            ("compose: [{namespace: a, parts: []}]", "n.yaml:1:33: compose[0].parts: must be at least one part"),
            ("compose: [{namespace: 'a b', parts: [{fragments: c}]}]", "compose[0].namespace: invalid namespace 'a b'"),
            ("compose: [{namespace: a, parts: [{owns: [/svc]}]}]", "compose[0].parts[0].fragments: is required"),
            (
                "compose: [{namespace: a, parts: [{fragments: b, owns: [svc]}]}]",
                "parts[0].owns[0]: invalid owned prefix",
            ),
            (
                "compose: [{namespace: a, parts: [{fragments: b, owns: []}]}]",
                "n.yaml:1:55: compose[0].parts[0].owns: must be at least one prefix; without the key a fragment may define everything",
            ),
            (
                "compose: [{namespace: a, parts: [{fragments: b, owns: ['/svc/x**']}]}]",
                "parts[0].owns[0]: invalid owned prefix",
            ),
            (
                "compose: [{namespace: a, parts: [{fragments: b, owns: ['/svc/{x}']}]}]",
                "parts[0].owns[0]: invalid owned prefix",
            ),
            (
                "compose: [{namespace: a, parts: [{fragments: b}, {fragments: 'c/*'}, {fragments: b}]}]",
                "n.yaml:1:82: compose[0].parts[2].fragments: b is a part above already",
            ),
            (
                "compose: [{namespace: a, parts: [{fragments: 'c/*'}, {fragments: c/web}]}]",
                "n.yaml:1:66: compose[0].parts[1].fragments: c/web belongs to the part c/* above already, so that nothing is left \
                 for this one",
            ),
            (
                "compose: [{namespace: a, parts: [{fragments: '*'}, {fragments: 'c-*'}]}]",
                "compose[0].parts[1].fragments: c-* belongs to the part * above already",
            ),
            (
                "compose:\n- {namespace: a, parts: [{fragments: b}]}\n- {namespace: a, parts: [{fragments: c}]}",
                "n.yaml:3:3: compose[1]: namespace a is made of others above already",
            ),
            (
                "compose: [{namespace: a, parts: [{fragments: b}, {fragments: a}]}]",
                "n.yaml:1:62: compose[0].parts[1].fragments: namespace a cannot be made of itself",
            ),
            (
                "compose:\n- {namespace: a, parts: [{fragments: b}]}\n- {namespace: b, parts: [{fragments: c}]}",
                "n.yaml:2:38: compose[0].parts[0].fragments: namespace b is composed itself, and a part has to be a \
                 namespace that is written",
            ),
            (
                "compose:\n- {namespace: a, parts: [{fragments: b}]}\n- {namespace: b, parts: [{fragments: a}]}",
                "n.yaml:3:38: compose[1].parts[0].fragments: namespace a is composed itself",
            ),
            ("roots: [svc]", "roots[0]"),
        ] {
            let error = refused(&format!("{text}\n"));
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }

    #[test]
    fn history_and_bounds_are_read_and_checked() {
        let config =
            parse("history: {directory: past, records: 7, fileBytes: 9}\nlimits: {clients: 5, clientsPerPeer: 3}\n");
        let safety = config.unwrap().safety;
        assert_eq!((safety.history.keep.records, safety.history.keep.file_bytes), (7, 9));
        assert_eq!(safety.history.directory, Some("past".into()));
        assert_eq!((safety.limits.clients, safety.limits.clients_per_peer), (5, 3));
        assert_eq!(safety.limits.watches, Limits::default().watches);
        let text = "limits: {namesPerPeerPercent: 0, questions: 9, questionsPerPeer: 8, readingBytes: 3000000, readingBytesPerPeer: 2000000}\n";
        let limits = parse(text).unwrap().safety.limits;
        assert_eq!((limits.names_per_peer_percent, limits.questions, limits.questions_per_peer), (0, 9, 8));
        assert_eq!((limits.reading_bytes, limits.reading_bytes_per_peer), (3_000_000, 2_000_000));
        for (text, expected) in [
            ("history: {fileBytes: 9}", "n.yaml:1:22: history.fileBytes: is for a history in a directory"),
            ("history: {records: 0}", "history.records: must be at least 1, got 0"),
            (
                "limits: {clients: 5, clientsPerPeer: 6}",
                "limits.clientsPerPeer: must be at most what all peers may have",
            ),
            ("limits: {watch: 5}", "limits.watch: "),
            ("limits: {namesPerPeerPercent: 101}", "limits.namesPerPeerPercent: must be "),
            ("limits: {readingBytes: 9}", "limits.readingBytes: must be at least 1048576, got 9"),
            (
                "limits: {readingBytes: 2000000, readingBytesPerPeer: 3000000}",
                "limits.readingBytesPerPeer: must be at most what all peers may have together, 2000000, got 3000000",
            ),
        ] {
            let error = refused(&format!("{text}\n"));
            assert!(error.contains(expected), "{text}\n{error}");
        }
        let text = "storage: {kind: io.l5d.fs, directory: tables}\ninterfaces: [{kind: io.l5d.mesh}]\n\
                    history: {directory: tables/past}\n";
        let error = Namerd::parse("n.yaml", text).unwrap_err().to_string();
        assert_eq!(error, "n.yaml:3:10: history: its directory must not be in that of the storage, tables");
    }

    #[test]
    fn one_cache_holds_for_all_interfaces() {
        let with = |text: &str, interfaces: &str| {
            let text = format!("storage: {{kind: io.l5d.inMemory}}\n{text}interfaces: [{interfaces}]\n");
            Namerd::parse("n.yaml", &text).map(|config| config.cache()).map_err(|errors| errors.to_string())
        };
        let thrift = "{kind: io.l5d.thriftNameInterpreter, port: 0, cache: {addrCacheActive: 7, bindingCacheInactiveTTLSecs: 3}}";
        assert_eq!(with("", "{kind: io.l5d.mesh}"), Ok(NameCache::UNSAID));
        assert_eq!(with("", "{kind: io.l5d.thriftNameInterpreter}"), Ok(NameCache::UNSAID));
        let cache = with("", thrift).unwrap();
        assert_eq!((cache.bindings, cache.addrs, cache.binding_idle_time), (1000, 7, Duration::from_secs(3)));
        let two = format!("{thrift}, {{kind: io.l5d.thriftNameInterpreter, port: 0, cache: {{addrCacheActive: 9}}}}");
        let cache = with("", &two).unwrap();
        assert_eq!((cache.addrs, cache.binding_idle_time), (9, Duration::from_mins(10)));
        assert_eq!(with("cache: {bindingCacheActive: 5}\n", "{kind: io.l5d.mesh}").unwrap().bindings, 5);
        let error = with("cache: {bindingCacheActive: 5}\n", thrift).unwrap_err();
        assert!(error.contains("cache: cannot be set together with the `cache` of an interface"), "{error}");
    }
}

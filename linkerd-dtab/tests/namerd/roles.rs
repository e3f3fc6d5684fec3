use linkerd_dtab::{
    namerd::{Grant, Namerd, Peer, Refused, Role, Roles, Session, Who, WriteError},
    store::{Expect, Memory},
};

use crate::support::{dtab, named, ns, path, value};

fn namerd() -> Namerd {
    let tables = ["public", "team/web", "prod"].map(|name| (ns(name), dtab("/svc => /$/inet/1")));
    let grant = |who, namespaces: &str, role| Grant { who, namespaces: namespaces.parse().unwrap(), role };
    let token = Who::Token { label: "deploy".into(), secret: "s3cret".into() };
    let roles = Roles::new([
        grant(Who::Anyone, "public", Role::Read),
        grant(Who::Name("web".into()), "team/*", Role::Write),
        grant(token, "*", Role::Write),
    ]);
    Namerd::builder(Memory::new(tables)).roles(roles).build()
}

/// Whether a session may see, bind under, and change a namespace.
async fn may(session: &Session, name: &str) -> [bool; 5] {
    let (namespace, none) = (ns(name), dtab(""));
    let allowed = |result: Result<(), Refused>| match result {
        Ok(()) => true,
        Err(Refused::Forbidden { namespace: refused, .. }) => {
            assert_eq!(refused, namespace);
            false
        }
        Err(Refused::UnknownToken) => {
            assert_eq!(session.peer().token.as_deref(), Some("other"));
            false
        }
        Err(other) => panic!("{other}"),
    };
    let put = match session.put(&namespace, &dtab("/svc => /$/inet/2"), &Expect::Any).await {
        Ok(_) => true,
        Err(WriteError::Refused(Refused::Forbidden { .. } | Refused::UnknownToken)) => false,
        Err(other) => panic!("{other}"),
    };
    [
        allowed(session.dtab(&namespace).map(drop)),
        allowed(session.bind(&namespace, &none, &path("/svc")).map(drop)),
        allowed(session.delegate(&namespace, &none, &path("/svc")).map(drop)),
        allowed(session.history(&namespace, 1).map(drop)),
        put,
    ]
}

#[tokio::test]
async fn each_peer_may_do_in_each_namespace_what_its_role_says_and_no_more() {
    const NONE: [bool; 5] = [false; 5];
    const READ: [bool; 5] = [true, true, true, true, false];
    const WRITE: [bool; 5] = [true; 5];
    let token = Peer { token: Some("s3cret".into()), ..Peer::default() };
    let matrix = [
        (Peer::default(), [READ, NONE, NONE]),
        (named("web"), [READ, WRITE, NONE]),
        (Peer { is_read_only: true, ..named("web") }, [READ, READ, NONE]),
        (token.clone(), [WRITE, WRITE, WRITE]),
        (Peer { is_read_only: true, ..token }, [READ, READ, READ]),
        (Peer { token: Some("other".into()), ..Peer::default() }, [READ, NONE, NONE]),
    ];
    for (peer, expected) in matrix {
        let session = namerd().session(peer.clone());
        let names = ["public", "team/web", "prod"];
        for (name, expected) in names.into_iter().zip(expected) {
            assert_eq!(may(&session, name).await, expected, "{peer:?} {name}");
        }
        let seen = value(&mut session.namespaces().unwrap()).await.unwrap();
        let expected: Vec<_> = names.iter().zip(expected).filter(|(_, may)| may[0]).map(|(name, _)| *name).collect();
        let seen: Vec<_> = seen.iter().map(linkerd_dtab::store::Namespace::as_str).collect();
        let mut sorted = expected.clone();
        sorted.sort_unstable();
        assert_eq!(seen, sorted, "{peer:?}");
    }
}

#[tokio::test]
async fn who_has_no_role_at_all_sees_nothing() {
    let roles = [Grant { who: Who::Name("web".into()), namespaces: "*".parse().unwrap(), role: Role::Admin }];
    let namerd = Namerd::builder(Memory::default()).roles(Roles::new(roles)).build();
    let stranger = namerd.session(Peer::default());
    let refused = stranger.addr(&path("/$/inet/1")).unwrap_err();
    assert_eq!(refused.to_string(), "somebody may not read namespace *");
    assert!(stranger.namespaces().is_err());
    assert!(namerd.session(named("web")).addr(&path("/$/inet/1")).is_ok());
}

#[tokio::test]
async fn a_read_only_listener_allows_no_change_where_everything_is_allowed() {
    let namerd = Namerd::builder(Memory::default()).build();
    let session = namerd.session(Peer { is_read_only: true, ..Peer::default() });
    let refused = session.put(&ns("a"), &dtab(""), &Expect::Any).await.unwrap_err();
    assert_eq!(refused.to_string(), "somebody may not write namespace a");
    assert!(session.dtab(&ns("a")).is_ok());
}

#[tokio::test]
async fn a_history_says_what_a_token_is_called() {
    let namerd = namerd();
    let peer = Peer { token: Some("s3cret".into()), addr: Some(([10, 0, 0, 1], 99).into()), ..Peer::default() };
    let session = namerd.session(peer);
    session.put(&ns("prod"), &dtab(""), &Expect::Any).await.unwrap();
    assert_eq!(session.history(&ns("prod"), 1).unwrap()[0].who, "deploy at 10.0.0.1:99");
}

use linkerd_dtab::{
    namerd::{Grant, Namerd, Protection, Role, Roles, Who, WriteError},
    store::{Expect, Memory, Namespace},
};

use crate::support::{Counted, builder, dtab, named, ns, session};

fn rejected<T: std::fmt::Debug>(result: Result<T, WriteError>) -> String {
    match result {
        Err(WriteError::Rejected(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn needs_version<T: std::fmt::Debug>(result: Result<T, WriteError>) -> String {
    match result {
        Err(WriteError::NeedsVersion(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn protection(pattern: &str) -> Protection {
    Protection::new(pattern.parse().unwrap())
}

#[tokio::test]
async fn a_table_that_is_odd_is_written_with_warnings_and_refused_where_it_is_strict() {
    let strict = Protection { strict: true, ..protection("prod*") };
    let namerd = builder(&Counted::new()).protect(strict).build();
    let session = session(&namerd);
    let odd = dtab("/loop => /loop; /svc => /#/nowhere; /a => /#/fixed; /a => !");
    let written = session.put(&ns("dev"), &odd, &Expect::Any).await.unwrap();
    assert_eq!(
        written.warnings,
        [
            "entry 1 (/loop=>/loop): names go round: /loop -> /loop",
            "entry 2 (/svc=>/#/nowhere): no namer is configured for /#/nowhere",
            "entry 3 (/a=>/#/fixed): it has no effect, as entry 4 decides for all of its names",
        ]
    );
    let refused = rejected(session.put(&ns("prod-eu"), &odd, &Expect::Any).await);
    assert_eq!(refused.lines().collect::<Vec<_>>(), written.warnings[..2], "and what has no effect does no harm");
    assert!(session.dtab(&ns("prod-eu")).unwrap().sample().ok().unwrap().is_none());
    let checked = session.check(&ns("prod-eu"), &odd).await.unwrap();
    assert_eq!((checked.errors.len(), checked.warnings.len()), (2, 1));
    let good = session.put(&ns("prod-eu"), &dtab("/svc => /#/fixed"), &Expect::Any).await.unwrap();
    assert!(good.warnings.is_empty());
}

#[tokio::test]
async fn a_protected_namespace_is_changed_by_administrators_who_know_what_they_change() {
    let grant = |name: &str, role| Grant { who: Who::Name(name.into()), namespaces: "*".parse().unwrap(), role };
    let roles = Roles::new([grant("writer", Role::Write), grant("admin", Role::Admin)]);
    let namerd = Namerd::builder(Memory::new([(ns("prod"), dtab("/a => /b"))]))
        .roles(roles)
        .protect(Protection { admin_only: true, no_delete: true, ..protection("prod") })
        .protect(Protection { needs_version: true, ..protection("*") })
        .build();
    let (writer, admin) = (namerd.session(named("writer")), namerd.session(named("admin")));
    let (prod, new) = (ns("prod"), dtab("/a => /c"));
    let version = |namespace: &Namespace| {
        let stored = admin.dtab(namespace).unwrap().sample().ok().flatten().unwrap();
        Expect::Version(stored.version.clone())
    };
    let refused = writer.put(&prod, &new, &version(&prod)).await.unwrap_err();
    assert_eq!(refused.to_string(), "writer may not administer namespace prod");
    // Also one who may not write it may ask what a write would be refused for, and what it would do.
    let checked = writer.check(&prod, &new).await.unwrap();
    assert_eq!((&checked.errors[..], &*checked.warnings[0]), (&[][..], "writer may not administer namespace prod"));
    assert_eq!(admin.check(&prod, &new).await.unwrap().errors, [""; 0]);
    assert_eq!(writer.plan(&prod, &new, &[]).await.unwrap().checked.errors, [""; 0]);
    let refused = needs_version(admin.put(&prod, &new, &Expect::Any).await);
    assert_eq!(refused, "namespace prod is protected: a change has to say which version it is based on (If-Match)");
    admin.put(&prod, &new, &version(&prod)).await.unwrap();
    let refused = rejected(admin.delete(&prod, &version(&prod)).await);
    assert_eq!(refused, "namespace prod is protected: it may not be deleted");

    let dev = ns("dev");
    writer.put(&dev, &new, &Expect::Absent).await.unwrap();
    assert!(needs_version(writer.delete(&dev, &Expect::Any).await).contains("If-Match"));
    writer.delete(&dev, &version(&dev)).await.unwrap();
}

//! The same as the program, as tests.

type Checked = Result<(), tower::BoxError>;

#[tokio::test]
async fn a_client_of_parts() -> Checked {
    stack::parts::run().await.map(drop)
}

#[tokio::test]
async fn a_mesh_with_layers() -> Checked {
    stack::mesh::run().await.map(drop)
}

#[tokio::test]
async fn a_server_with_a_stack_of_its_own() -> Checked {
    stack::server::run().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hands_on_its_context() -> Checked {
    stack::context::run().await.map(drop)
}

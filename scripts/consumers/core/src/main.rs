//! A client by name, with the crate that users import and nothing beside it.

use linkerd_core::Mesh;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
        std::io::Result::Ok(head)
    });

    let mesh = Mesh::builder().dtab(format!("/svc/users => /$/inet/127.0.0.1/{port}").parse()?).build()?;
    let req = http::Request::get("/users/7").body("")?;
    let rsp = mesh.client("/svc/users")?.send(req).await?;
    assert_eq!(rsp.status(), 204);
    assert!(server.await??.starts_with(b"GET /users/7 HTTP/1.1\r\n"));
    println!("core: ok");
    Ok(())
}

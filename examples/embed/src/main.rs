//! Sends one request to whatever the file `disco/users` lists, one `host port` a line.

use linkerd_core::{Mesh, namer::fs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mesh =
        Mesh::builder().namer("/#/io.l5d.fs", fs::Namer::new("disco")).dtab("/svc => /#/io.l5d.fs".parse()?).build()?;
    let users = mesh.client("/svc/users")?;
    let req = http::Request::get("/users/7").body("")?;
    let rsp = users.send(req).await?;
    println!("{}", rsp.status());
    Ok(())
}

//! Runs each of the compositions, which check what they show. Ends by itself.

#[tokio::main]
async fn main() -> Result<(), tower::BoxError> {
    println!("parts:   {}", stack::parts::run().await?);
    println!("mesh:    {}", stack::mesh::run().await?);
    println!("server:  {}", stack::server::run().await?);
    println!("context: {}", stack::context::run().await?);
    Ok(())
}

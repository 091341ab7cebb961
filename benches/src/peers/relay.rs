//! The floor: a relay that reads nothing of what it carries. What a proxy costs above this is its own doing.
//!
//! Except where each request has a new connection: the relay then needs a new one to the upstream too, which a proxy
//! takes from its pool.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
};

const BUFFER_BYTES: usize = 64 << 10;

/// Relays every connection to `upstream` until the process ends.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A broken pair is an error that the load generator counts.
            let _ = relay(client, upstream).await;
        });
    }
}

async fn relay(mut client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}

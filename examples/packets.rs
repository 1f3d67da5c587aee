//! Ends TCP that arrives as a bare stream of packets, as the server of a VPN does.
//!
//! ```sh
//! cargo run --example packets
//! ```
//!
//! It needs no privileges: the client of the VPN is a second stack, and the tunnel between them
//! only carries packets. In a real VPN the tunnel encrypts them and sends them over the network.

use std::{error::Error, io, process::ExitCode, time::Duration};

use synack::{
    Stack,
    device::{self, channel::ChannelEnd},
    net::TcpListener,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("packets: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    // Each stack has a device whose other end is a stream and a sink of `Bytes`.
    let (server_device, server_end) = device::channel(1420, 256);
    let (client_device, client_end) = device::channel(1420, 256);
    let server = Stack::builder()
        .address("10.8.0.1/24".parse()?)
        .spawn(server_device)?;
    let client = Stack::builder()
        .address("10.8.0.2/24".parse()?)
        .spawn(client_device)?;
    let tunnel = tokio::spawn(tunnel(client_end, server_end));

    let listener = server.listen("10.8.0.1:7").await?;
    let service = tokio::spawn(answer(listener));
    let mut stream = client.connect("10.8.0.1:7").await?;
    stream.write_all(b"packets in, a stream out").await?;
    stream.shutdown().await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    println!("{text}");
    service.await??;

    client.shutdown(Duration::from_secs(1)).await;
    server.shutdown(Duration::from_secs(1)).await;
    let (up, down) = tunnel.await?;
    println!("{up} packets to the server, {down} to the client");
    Ok(())
}

/// Carries packets both ways until the stacks are gone, and counts them.
async fn tunnel(mut client: ChannelEnd, mut server: ChannelEnd) -> (u64, u64) {
    let (mut up, mut down) = (0, 0);
    loop {
        tokio::select! {
            Some(packet) = client.recv() => {
                up += 1;
                // A network may lose packets, so a stack that is gone is no error.
                let _ = server.send(packet).await;
            }
            Some(packet) = server.recv() => {
                down += 1;
                let _ = client.send(packet).await;
            }
            else => return (up, down),
        }
    }
}

/// Reads what one client sends and gives it back in capitals.
async fn answer(listener: TcpListener) -> io::Result<()> {
    let (mut stream, _peer) = listener.accept().await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    stream.write_all(text.to_uppercase().as_bytes()).await?;
    stream.shutdown().await
}

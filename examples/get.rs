//! Fetches a page over a TUN device, with synack as the client.
//!
//! ```sh
//! sudo -E cargo run --example get -- 10.7.0.1:8000 /    # Linux's side of the device
//! ```
//!
//! With forwarding and address translation set up on the machine, the address may be anywhere.

use std::{env, error::Error, io, process::ExitCode};

use synack::{Stack, device::Tun, net::TcpStream};
use tokio::io::AsyncWriteExt;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match args.as_slice() {
        [server] => run(server, "/").await,
        [server, path] => run(server, path).await,
        _ => Err("usage: get HOST:PORT [PATH]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("get: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(server: &str, path: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tun = Tun::builder().address("10.7.0.1/24".parse()?).build()?;
    let stack = Stack::builder()
        .address("10.7.0.2/24".parse()?)
        .spawn(tun)?;
    stack.scope(get(server, path)).await?;
    Ok(())
}

/// HTTP in its simplest form: one request, and the answer up to the end of the connection.
async fn get(server: &str, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    tracing::info!("{} to {}", stream.local_addr()?, stream.peer_addr()?);
    let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut stdout = tokio::io::stdout();
    tokio::io::copy(&mut stream, &mut stdout).await?;
    stdout.flush().await
}

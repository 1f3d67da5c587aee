//! An echo server on a TUN device.
//!
//! ```sh
//! sudo -E cargo run --example echo     # or, without root: unshare -rn cargo run --example echo
//! nc 10.7.0.2 7
//! ```

use std::{error::Error, io, process::ExitCode};

use synack::{
    Stack,
    device::Tun,
    net::{TcpListener, TcpStream},
};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let tun = Tun::builder().address("10.7.0.1/24".parse()?).build()?;
    let stack = Stack::builder()
        .address("10.7.0.2/24".parse()?)
        .spawn(tun)?;
    // From here on it is written as for tokio's own types.
    stack.scope(serve()).await?;
    Ok(())
}

async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("10.7.0.2:7").await?;
    tracing::info!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        tokio::spawn(async move {
            match echo(stream).await {
                Ok(bytes) => tracing::info!("{peer}: {bytes} bytes"),
                Err(error) => tracing::warn!("{peer}: {error}"),
            }
        });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<u64> {
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await
}

//! An axum server on a TUN device.
//!
//! ```sh
//! sudo -E cargo run --example http
//! curl http://10.7.0.2/
//! ```

use std::{error::Error, io, net::SocketAddr, process::ExitCode, time::Duration};

use axum::{Router, routing};
use synack::{Stack, device::Tun, net};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let tun = Tun::builder().address("10.7.0.1/24".parse()?).build()?;
    let stack = Stack::builder()
        .address("10.7.0.2/24".parse()?)
        .spawn(tun)?;
    let listener = Listener(stack.listen("10.7.0.2:80").await?);
    let app = Router::new()
        .route("/", routing::get("Hello from TCP in user space.\n"))
        .route(
            "/sockets",
            routing::get(async move || netstat(&stack).await),
        );
    tracing::info!("listening on http://10.7.0.2/");
    axum::serve(listener, app).await?;
    Ok(())
}

async fn netstat(stack: &Stack) -> String {
    match stack.sockets().await {
        Ok(sockets) => sockets
            .iter()
            .map(|socket| format!("{socket:?}\n"))
            .collect(),
        Err(error) => format!("{error}\n"),
    }
}

/// synack's listener as axum wants it.
struct Listener(net::TcpListener);

impl axum::serve::Listener for Listener {
    type Io = net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

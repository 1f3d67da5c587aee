//! An axum server on a TUN device: HTTP/1.1 and HTTP/2, with or without TLS.
//!
//! ```sh
//! sudo -E cargo run --example http            # or: unshare -rn cargo run ...
//! curl http://10.7.0.2/sockets
//! curl --http2-prior-knowledge http://10.7.0.2/
//!
//! sudo -E cargo run --example http -- --tls   # a certificate signed by itself
//! curl --insecure https://10.7.0.2/
//! ```

use std::{env, error::Error, io, process::ExitCode, sync::Arc};

use axum::{Router, routing};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use synack::{Stack, device::Tun, net::TcpListener};
use tokio_rustls::{TlsAcceptor, rustls};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let tls = env::args().any(|arg| arg == "--tls");
    match run(tls).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(tls: bool) -> Result<()> {
    let tun = Tun::builder().address("10.7.0.1/24".parse()?).build()?;
    let stack = Stack::builder()
        .address("10.7.0.2/24".parse()?)
        .spawn(tun)?;
    if tls {
        let listener = stack.listen("10.7.0.2:443").await?;
        tracing::info!("listening on https://10.7.0.2/");
        serve_tls(listener, app(stack), self_signed("10.7.0.2")?).await?;
    } else {
        let listener = stack.listen("10.7.0.2:80").await?;
        tracing::info!("listening on http://10.7.0.2/");
        // axum tells HTTP/1.1 and HTTP/2 apart by the first bytes.
        axum::serve(listener, app(stack)).await?;
    }
    Ok(())
}

/// What is served: a greeting, and the netstat view of the stack that serves it.
pub fn app(stack: Stack) -> Router {
    Router::new()
        .route("/", routing::get("Hello from TCP in user space.\n"))
        .route(
            "/sockets",
            routing::get(async move || match stack.sockets().await {
                Ok(sockets) => sockets
                    .iter()
                    .map(|socket| format!("{socket:?}\n"))
                    .collect(),
                Err(error) => format!("{error}\n"),
            }),
        )
}

/// Serves over TLS: a handshake that takes long delays nobody else's.
pub async fn serve_tls(listener: TcpListener, app: Router, tls: TlsAcceptor) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        let (app, tls) = (app.clone(), tls.clone());
        tokio::spawn(async move {
            let answer = async {
                let io = TokioIo::new(tls.accept(stream).await?);
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection(io, TowerToHyperService::new(app))
                    .await
            };
            if let Err(error) = answer.await {
                tracing::info!("{peer}: {error}");
            }
        });
    }
}

/// TLS with a certificate for one name, made anew at each start and signed by nobody else.
pub fn self_signed(name: &str) -> Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

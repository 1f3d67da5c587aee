//! A web server on synack, an ordinary client on Linux's TCP, and a gigabyte each way between them.
//!
//! ```sh
//! cargo run --release --example quickstart
//! cargo run --release --example quickstart -- --bytes 64M
//! ```
//!
//! All of it happens in a private network namespace, which needs no root where user namespaces are
//! allowed. Where they are not, two stacks are joined in memory instead.

use std::{
    convert::Infallible,
    env,
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{StatusCode, header::CONTENT_LENGTH},
    routing,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use synack::{
    Stack,
    device::{self, Tun, netns},
    info::SocketInfo,
    net,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LINUX: &str = "10.7.0.1/24";
const SYNACK: &str = "10.7.0.2/24";
const SERVER: &str = "10.7.0.2:80";
const CHUNK: usize = 64 << 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let bytes = bytes_to_move()?;
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    // A namespace belongs to threads, so this comes before the runtime starts its own.
    let private = netns::enter_private_namespace();
    tokio::runtime::Runtime::new()?.block_on(async {
        let content = Content::new(bytes);
        match private.and_then(|()| tun()) {
            Ok(tun) => over_tun(tun, content).await,
            Err(error) => {
                println!("{error}");
                println!(
                    "Two stacks, joined in memory, take the place of Linux and a TUN device.\n"
                );
                in_memory(content).await
            }
        }
    })
}

/// Linux's client against synack, then against Linux's own server.
async fn over_tun(tun: Tun, content: Content) -> Result<()> {
    let stack = Stack::builder().address(SYNACK.parse()?).spawn(tun)?;
    let listener = stack.listen(SERVER).await?;
    let serving = axum::serve(Listener(listener), server(content.clone()));
    let serving = tokio::spawn(serving.into_future());
    println!("A web server on synack at http://{SERVER}, a client on Linux's TCP:");
    let client = tokio::net::TcpStream::connect(SERVER).await?;
    let ours = fetch(client, &content, Some(&stack)).await?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, server(content.clone())).into_future());
    println!("The same with Linux's TCP on both ends, over loopback:");
    let client = tokio::net::TcpStream::connect(address).await?;
    let linux = fetch(client, &content, None).await?;

    println!(
        "{:24}{:>16}{:>16}{:>8}",
        "Gbit/s", "synack", "Linux", "ratio"
    );
    for (way, ours, linux) in [
        ("server to client", ours.down, linux.down),
        ("client to server", ours.up, linux.up),
    ] {
        println!("{way:24}{ours:>16.1}{linux:>16.1}{:>8.2}", ours / linux);
    }
    serving.abort();
    stack.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// One stack fetches from another.
async fn in_memory(content: Content) -> Result<()> {
    let (near, far) = device::pair(1500);
    let (near, far) = (near.offload(true), far.offload(true));
    let stack = Stack::builder().address(SYNACK.parse()?).spawn(near)?;
    let client = Stack::builder().address(LINUX.parse()?).spawn(far)?;
    let listener = stack.listen(SERVER).await?;
    tokio::spawn(axum::serve(Listener(listener), server(content.clone())).into_future());
    println!("A web server on one stack at http://{SERVER}, a client on the other:");
    let rates = fetch(client.connect(SERVER).await?, &content, Some(&stack)).await?;
    println!(
        "server to client {:.1} Gbit/s, client to server {:.1} Gbit/s",
        rates.down, rates.up
    );
    Ok(())
}

/// The kernel's end of the device.
fn tun() -> io::Result<Tun> {
    let address = LINUX.parse().map_err(io::Error::other)?;
    Tun::builder().name("syn0").address(address).build()
}

/// `GET /bytes` sends the content, `POST /hash` hashes what it is sent.
fn server(content: Content) -> Router {
    let length = [(CONTENT_LENGTH, content.len)];
    Router::new()
        .route(
            "/bytes",
            routing::get(async move || (length, Body::from_stream(content.stream()))),
        )
        .route("/hash", routing::post(hash))
}

async fn hash(body: Body) -> std::result::Result<String, StatusCode> {
    let mut hasher = blake3::Hasher::new();
    let mut body = body.into_data_stream();
    while let Some(chunk) = body.next().await {
        hasher.update(&chunk.map_err(|_| StatusCode::BAD_REQUEST)?);
    }
    Ok(hasher.finalize().to_string())
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

/// What is moved: slices of one random block, each from another place, so that none repeats soon.
#[derive(Clone)]
struct Content {
    block: Bytes,
    len: u64,
    hash: blake3::Hash,
}

impl Content {
    fn new(len: u64) -> Self {
        let mut block = vec![0; 16 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut block);
        let hash = blake3::Hash::from_bytes([0; 32]);
        let mut content = Self {
            block: block.into(),
            len,
            hash,
        };
        let mut hasher = blake3::Hasher::new();
        content.chunks().for_each(|chunk| {
            hasher.update(&chunk);
        });
        content.hash = hasher.finalize();
        content
    }

    fn chunks(&self) -> impl Iterator<Item = Bytes> + Send + 'static {
        let Self { block, len, .. } = self.clone();
        (0..len).step_by(CHUNK).map(move |at| {
            let place = (at / 13) as usize % (block.len() - CHUNK);
            block.slice(place..place + (len - at).min(CHUNK as u64) as usize)
        })
    }

    fn stream(
        &self,
    ) -> impl Stream<Item = std::result::Result<Bytes, Infallible>> + Send + 'static {
        stream::iter(self.chunks().map(Ok))
    }
}

/// Gbit/s each way.
struct Rates {
    down: f64,
    up: f64,
}

/// Moves the content from the server and to it, and checks what arrived.
async fn fetch<S>(stream: S, content: &Content, watch: Option<&Stack>) -> Result<Rates>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);

    let request = Request::get("/bytes")
        .header("host", SERVER)
        .body(Body::empty())?;
    let progress = Progress::new("server to client", content.len, watch);
    let mut body = client.send_request(request).await?.into_body();
    let mut hasher = blake3::Hasher::new();
    while let Some(frame) = body.frame().await {
        if let Ok(chunk) = frame?.into_data() {
            hasher.update(&chunk);
            progress.advance(chunk.len());
        }
    }
    let down = progress.finish(hasher.finalize() == content.hash)?;

    let progress = Progress::new("client to server", content.len, watch);
    let counter = progress.clone();
    let chunks = content.stream().inspect(move |chunk| {
        counter.advance(chunk.as_ref().map_or(0, Bytes::len));
    });
    let request = Request::post("/hash")
        .header("host", SERVER)
        .header(CONTENT_LENGTH, content.len)
        .body(Body::from_stream(chunks))?;
    let answer = client
        .send_request(request)
        .await?
        .into_body()
        .collect()
        .await?;
    let up = progress.finish(answer.to_bytes() == content.hash.to_string())?;
    Ok(Rates { down, up })
}

/// A bar on a terminal and a few lines elsewhere; half way, the sockets of the stack.
#[derive(Clone)]
struct Progress {
    what: &'static str,
    bar: ProgressBar,
    started: Instant,
    watch: Option<Stack>,
}

impl Progress {
    fn new(what: &'static str, len: u64, watch: Option<&Stack>) -> Self {
        let bar = if io::stderr().is_terminal() {
            ProgressBar::new(len)
        } else {
            ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::hidden())
        };
        let style = ProgressStyle::with_template(
            "  {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        Self {
            what,
            bar,
            started: Instant::now(),
            watch: watch.cloned(),
        }
    }

    fn advance(&self, bytes: usize) {
        let len = self.bar.length().unwrap_or(0);
        let before = self.bar.position();
        self.bar.inc(bytes as u64);
        if before < len / 2
            && self.bar.position() >= len / 2
            && let Some(stack) = self.watch.clone()
        {
            let bar = self.bar.clone();
            tokio::spawn(async move {
                if let Ok(sockets) = stack.sockets().await {
                    bar.suspend(|| show(&sockets));
                }
            });
        }
    }

    /// The rate in Gbit/s; an error if what arrived is not what was sent.
    fn finish(&self, is_right: bool) -> Result<f64> {
        let (time, len) = (
            self.started.elapsed().as_secs_f64(),
            self.bar.length().unwrap_or(0),
        );
        self.bar.finish_and_clear();
        let rate = len as f64 * 8e-9 / time;
        let verdict = if is_right {
            "the hash is right"
        } else {
            "the hash is wrong"
        };
        println!(
            "  {}: {} in {time:.2} s, {rate:.1} Gbit/s, {verdict}",
            self.what,
            HumanBytes(len)
        );
        if is_right {
            Ok(rate)
        } else {
            Err(format!("{}: {verdict}", self.what).into())
        }
    }
}

/// What `netstat` would show.
fn show(sockets: &[SocketInfo]) {
    println!(
        "    {:12}{:>10}{:>10}  {:18}{:22}timer",
        "state", "recv-q", "send-q", "local", "peer"
    );
    for socket in sockets {
        let peer = socket
            .peer
            .map_or_else(|| "*".to_owned(), |peer| peer.to_string());
        let timer = socket.timer.map_or_else(String::new, |(kind, time)| {
            format!("{kind:?} in {time:.0?}")
        });
        println!(
            "    {:12}{:>10}{:>10}  {:18}{peer:22}{timer}",
            socket.state.to_string(),
            socket.recv_queue,
            socket.send_queue,
            socket.local.to_string(),
        );
    }
}

/// `--bytes` with K, M or G behind it; a gigabyte without.
fn bytes_to_move() -> Result<u64> {
    let usage = "usage: quickstart [--bytes N[K|M|G]]";
    let mut args = env::args().skip(1);
    let text = match (args.next().as_deref(), args.next()) {
        (None, _) => return Ok(1 << 30),
        (Some("--bytes"), Some(text)) => text,
        _ => return Err(usage.into()),
    };
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        _ => (&text[..], 0),
    };
    let number: u64 = digits.parse().map_err(|_| usage)?;
    Ok(number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number)
        .ok_or(usage)?)
}

//! axum serves on our listener.

use std::{future, io, net::SocketAddr};

use super::{TcpListener, TcpStream};

/// `axum::serve(listener, app)` takes the listener as it takes tokio's.
///
/// For `ConnectInfo<SocketAddr>`, which axum knows of its own listener only, wrap it:
/// `listener.tap_io(|_| {})` of `axum::serve::ListenerExt`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, extract::ConnectInfo, routing, serve::ListenerExt};
/// use std::net::SocketAddr;
/// # let (device, _other) = synack::device::pair(1500);
/// # let stack = synack::Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
///
/// let app = Router::new().route(
///     "/",
///     routing::get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("hello, {peer}")),
/// );
/// let listener = stack.listen("10.7.0.2:80").await?.tap_io(|stream| {
///     let _ = stream.set_nodelay(true);
/// });
/// let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
///     .with_graceful_shutdown({
///         let stack = stack.clone();
///         async move { drop(stack.closed().await) }
///     });
/// # tokio::spawn(async move { stack.shutdown(std::time::Duration::ZERO).await });
/// server.await?;
/// # Ok(()) }
/// ```
impl axum::serve::Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    /// Waits for ever once the stack has ended, since that is the only error there is. To end the
    /// server then, give `stack.closed()` to `with_graceful_shutdown`.
    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        match Self::accept(self).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "no more connections for axum");
                future::pending().await
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

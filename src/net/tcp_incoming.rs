//! A listener as a stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;

use super::{TcpListener, TcpStream};

/// The connections of a listener, one after the other: see [`TcpListener::into_stream`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let gateway = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// use futures::StreamExt;
///
/// let mut incoming = gateway.listen("10.0.0.1:80").await?.into_stream();
/// let (accepted, connected) = tokio::join!(incoming.next(), client.connect("10.0.0.1:80"));
/// assert_eq!(accepted.expect("it has no end")?.peer_addr()?, connected?.local_addr()?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TcpIncoming(TcpListener);

impl TcpIncoming {
    /// The listener again.
    pub fn into_inner(self) -> TcpListener {
        self.0
    }
}

impl TcpListener {
    /// The connections as a [`Stream`]: what `TcpListenerStream` is to tokio's listener, and what
    /// `serve_with_incoming` of hyper's relatives takes. It never ends; once the stack has, each
    /// item is an error.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::{StreamExt, TryStreamExt};
    /// # let (device, _other) = synack::device::pair(1500);
    /// # let stack = synack::Stack::builder().address("10.7.0.2/24".parse()?).spawn(device)?;
    ///
    /// let incoming = stack.listen("10.7.0.2:80").await?.into_stream();
    /// let client = stack.connect("10.7.0.2:80").await?;
    /// let streams: Vec<_> = incoming.take(1).try_collect().await?;
    /// assert_eq!(streams[0].peer_addr()?, client.local_addr()?);
    /// # Ok(()) }
    /// ```
    pub fn into_stream(self) -> TcpIncoming {
        TcpIncoming(self)
    }
}

impl From<TcpListener> for TcpIncoming {
    fn from(listener: TcpListener) -> Self {
        Self(listener)
    }
}

impl AsRef<TcpListener> for TcpIncoming {
    fn as_ref(&self) -> &TcpListener {
        &self.0
    }
}

impl Stream for TcpIncoming {
    type Item = io::Result<TcpStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = self.0.poll_accept(cx).map_ok(|(stream, _)| stream);
        accepted.map(Some)
    }
}

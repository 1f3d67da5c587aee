//! Connections to any destination.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc;

use crate::{
    error::Unreachable,
    link::{Arrival, Command, ConnId, Decision, StreamLink},
};

use super::{Stack, TcpStream};

/// What peers behind the device want to reach, whatever its address: see [`Stack::incoming`].
///
/// A [`Stream`] that never ends before the stack does.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let gateway = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// let mut incoming = gateway.incoming()?;
/// tokio::spawn(async move {
///     while let Some(wanted) = incoming.next().await {
///         wanted.reject();
///     }
/// });
/// // Nobody is at 192.0.2.1: the gateway answers in its place.
/// let error = client.connect("192.0.2.1:80").await.unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct IncomingStream {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    stack: Stack,
}

impl IncomingStream {
    pub(super) fn new(stack: &Stack) -> io::Result<Self> {
        let (sender, arrivals) = mpsc::unbounded_channel();
        stack.send(Command::Incoming(sender))?;
        Ok(Self {
            arrivals,
            stack: stack.clone(),
        })
    }

    /// The next connection that somebody wants to open; `None` when the stack has ended.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for IncomingStream {
    type Item = Incoming;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let arrival = self.arrivals.poll_recv(cx);
        arrival.map(|arrival| arrival.map(|arrival| Incoming::new(arrival, self.stack.clone())))
    }
}

/// A connection that a peer wants to open, and that has not been answered yet.
///
/// Accept it, reject it, or drop it: then the peer hears nothing, and its next SYN comes as a new
/// one. While it is undecided, repetitions of the SYN are absorbed. After
/// [`Config::incoming_timeout`](crate::Config::incoming_timeout) it is too late.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use synack::{Stack, device};
/// # let (one, other) = device::pair(1500);
/// # let gateway = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
/// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
/// let mut incoming = gateway.incoming()?;
/// let (wanted, connected) = tokio::join!(
///     async { incoming.next().await.expect("the stack lives").accept().await },
///     client.connect("192.0.2.1:80"),
/// );
/// assert_eq!(wanted?.local_addr()?, connected?.peer_addr()?);
/// # Ok(()) }
/// ```
#[must_use = "dropped without an answer, it is ignored"]
pub struct Incoming {
    id: ConnId,
    local: SocketAddr,
    peer: SocketAddr,
    /// `None` once it is decided.
    stack: Option<Stack>,
}

impl Incoming {
    fn new(arrival: Arrival, stack: Stack) -> Self {
        let Arrival { id, local, peer } = arrival;
        Self {
            id,
            local,
            peer,
            stack: Some(stack),
        }
    }

    /// Where the peer wants to go: an address that need not be the stack's.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Who wants to.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Answers with a SYN-ACK, and waits for the handshake to be complete.
    ///
    /// Dropping the future abandons the connection.
    ///
    /// # Errors
    /// `TimedOut`: the peer has given up, does not answer any more, or the decision came too late.
    /// `ConnectionReset`: it has reset. Or the stack has ended.
    pub async fn accept(mut self) -> io::Result<TcpStream> {
        let Some(stack) = self.stack.take() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (bell, options) = (stack.doorbell().clone(), stack.default_options());
        let link = StreamLink::sized(bell, self.local, self.peer, options, stack.config());
        let stream = TcpStream::new(link.clone(), stack);
        stream
            .stack
            .send(Command::Decide(self.id, Decision::Accept(link)))?;
        poll_fn(|cx| stream.link.poll_connected(cx)).await?;
        Ok(stream)
    }

    /// Answers with a reset: the peer's `connect` is refused.
    pub fn reject(mut self) {
        self.decide(Decision::Reset);
    }

    /// Answers with an ICMP error.
    pub fn reject_with(mut self, unreachable: Unreachable) {
        self.decide(Decision::Report(unreachable));
    }

    fn decide(&mut self, decision: Decision) {
        if let Some(stack) = self.stack.take() {
            // A stack that has ended answers nobody.
            let _ = stack.send(Command::Decide(self.id, decision));
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.decide(Decision::Ignore);
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

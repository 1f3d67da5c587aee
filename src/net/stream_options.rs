//! What can be set on a connection, and what can be seen of it.

use std::{io, time::Duration};

use crate::{
    config::{Congestion, KeepAlive, SocketOptions},
    info::TcpInfo,
    link::Command,
};

use super::{TcpStream, options};

options::common_options!(TcpStream);

impl TcpStream {
    /// Whether data is acknowledged at once (`TCP_QUICKACK`). Default: true.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn quickack(&self) -> io::Result<bool> {
        Ok(self.options().quickack)
    }

    /// Acknowledges data at once, or (false) as late as the rules allow.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        self.change(|options| options.quickack = quickack);
        Ok(())
    }

    /// The time to live, or hop limit, of packets sent (`IP_TTL`). Default: 64.
    ///
    /// # Errors
    /// None; `io::Result` is for the likeness to `tokio::net`.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.options().ttl.into())
    }

    /// Sets the time to live of packets sent: 1 to 255.
    ///
    /// # Errors
    /// `InvalidInput`: outside of the range.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = options::ttl(ttl)?;
        self.change(|options| options.ttl = ttl);
        Ok(())
    }

    /// When probes are sent to find out whether a silent peer is still there (`SO_KEEPALIVE`).
    /// Default: `None`, never.
    pub fn keepalive(&self) -> Option<KeepAlive> {
        self.options().keepalive
    }

    /// Sends keep-alive probes, or none. Times are 1 ms to 32,767 s, the count is 1
    /// to 127.
    ///
    /// # Errors
    /// `InvalidInput`: outside of these ranges.
    pub fn set_keepalive(&self, probes: Option<KeepAlive>) -> io::Result<()> {
        let probes = probes.map(options::keepalive).transpose()?;
        self.change(|options| options.keepalive = probes);
        Ok(())
    }

    /// Bytes received and not yet read (`SIOCINQ`).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use synack::{Stack, device};
    /// # let (one, other) = device::pair(1500);
    /// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
    /// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
    /// # let listener = server.listen("10.0.0.1:80").await?;
    /// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
    /// # let (mut accepted, mut stream) = (accepted?.0, connected?);
    /// use tokio::io::AsyncWriteExt;
    ///
    /// accepted.write_all(b"waiting").await?;
    /// stream.readable().await?;
    /// assert_eq!(stream.unread(), 7);
    /// # Ok(()) }
    /// ```
    pub fn unread(&self) -> usize {
        self.link.unread()
    }

    /// Bytes written and not yet acknowledged by the peer (`SIOCOUTQ`).
    pub fn unsent(&self) -> usize {
        self.link.unsent()
    }

    /// The state of the connection: what `TCP_INFO` tells. Cancel safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use synack::{Stack, device};
    /// # let (one, other) = device::pair(1500);
    /// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
    /// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
    /// # let listener = server.listen("10.0.0.1:80").await?;
    /// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
    /// # let (mut accepted, mut stream) = (accepted?.0, connected?);
    /// let info = stream.info().await?;
    /// println!("{:?} round trip, window {} bytes", info.srtt, info.cwnd);
    /// # assert_eq!(info.peer, stream.peer_addr()?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `NotConnected`: the connection, or the stack, is gone.
    pub async fn info(&self) -> io::Result<TcpInfo> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection is gone");
        let id = self.link.id().ok_or_else(gone)?;
        let info = self.stack.ask(|answer| Command::Info(id, answer)).await?;
        info.ok_or_else(gone)
    }

    /// Resets the connection now. What was not sent is discarded; calls that wait, here and at the
    /// peer, fail.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use synack::{Stack, device};
    /// # let (one, other) = device::pair(1500);
    /// # let server = Stack::builder().address("10.0.0.1/24".parse()?).spawn(one)?;
    /// # let client = Stack::builder().address("10.0.0.2/24".parse()?).spawn(other)?;
    /// # let listener = server.listen("10.0.0.1:80").await?;
    /// # let (accepted, connected) = tokio::join!(listener.accept(), client.connect("10.0.0.1:80"));
    /// # let (mut accepted, mut stream) = (accepted?.0, connected?);
    /// use tokio::io::AsyncReadExt;
    ///
    /// stream.abort();
    /// let error = accepted.read(&mut [0; 9]).await.unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    /// # Ok(()) }
    /// ```
    pub fn abort(&self) {
        if let Some(id) = self.link.id() {
            // An error means that the stack has ended, and the connection with it.
            let _ = self.stack.send(Command::Abort(id));
        }
    }

    fn options(&self) -> SocketOptions {
        self.link.options()
    }

    fn change(&self, change: impl FnOnce(&mut SocketOptions)) {
        self.link.set_options(change);
    }
}

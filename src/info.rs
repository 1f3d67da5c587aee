//! What can be seen of a stack from outside: states, queues, timers, counters.

use std::{fmt, io, net::SocketAddr, time::Duration};

/// The states of RFC 9293 §3.3.2.
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
/// use synack::info::State;
///
/// stream.abort();
/// tokio::time::sleep(std::time::Duration::from_secs(1)).await;
/// let sockets = server.sockets().await?;
/// let states: Vec<State> = sockets.iter().map(|socket| socket.state).collect();
/// assert_eq!(states, [State::Listen]);
/// assert_eq!(State::TimeWait.to_string(), "TIME-WAIT");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum State {
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed => "CLOSED",
        })
    }
}

/// Which timer of a connection fires next.
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
/// use synack::info::TimerKind;
/// use tokio::io::AsyncWriteExt;
///
/// accepted.write_all(b"on its way").await?;
/// accepted.shutdown().await?;
/// let sockets = server.sockets().await?;
/// let timers: Vec<TimerKind> = sockets.iter().filter_map(|s| Some(s.timer?.0)).collect();
/// assert!(timers.iter().all(|timer| *timer != TimerKind::KeepAlive));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum TimerKind {
    /// Retransmission (RFC 6298).
    Retransmit,
    /// Tail loss probe (RFC 8985 §7).
    LossProbe,
    /// The reordering timer (RFC 8985 §6).
    Reorder,
    /// Zero-window probe (RFC 9293 §3.8.6.1).
    ZeroWindowProbe,
    /// Delayed acknowledgement.
    DelayedAck,
    /// Keep-alive.
    KeepAlive,
    /// A limit of FIN-WAIT-2, of lingering, or of the user timeout.
    Limit,
    /// 2 MSL.
    TimeWait,
    /// Pacing.
    Pacing,
}

/// What a socket speaks.
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
/// use synack::info::Protocol;
///
/// let socket = client.bind_udp("10.0.0.2:5353").await?;
/// let sockets = client.sockets().await?;
/// let udp = sockets.iter().find(|socket| socket.protocol == Protocol::Udp);
/// assert_eq!(udp.map(|udp| udp.local), Some(socket.local_addr()?));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Protocol {
    /// A listener or a connection.
    Tcp,
    /// A datagram socket.
    Udp,
}

/// A line of the netstat view.
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
/// accepted.write_all(b"not read yet").await?;
/// tokio::time::sleep(std::time::Duration::from_secs(1)).await;
/// for socket in client.sockets().await? {
///     println!("{} {} {:?} {}", socket.state, socket.local, socket.peer, socket.recv_queue);
///     assert_eq!(socket.recv_queue, 12);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SocketInfo {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its state. As on Linux, one of UDP is ESTABLISHED when it is connected, and CLOSED when not.
    pub state: State,
    /// Our address.
    pub local: SocketAddr,
    /// The peer's; `None` for a listener, and for UDP that is not connected.
    pub peer: Option<SocketAddr>,
    /// Bytes received and not yet read; for a listener, connections not yet accepted.
    pub recv_queue: usize,
    /// Bytes written and not yet acknowledged; for a listener, its backlog.
    pub send_queue: usize,
    /// For a listener, its half-open connections.
    pub half_open: usize,
    /// The timer that fires next, and in what time.
    pub timer: Option<(TimerKind, Duration)>,
    /// Whether a handle to it exists. An orphan has none and goes by itself.
    pub owned: bool,
}

/// The state of one connection: the fields of Linux's `TCP_INFO`.
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
/// assert!(info.sack && info.timestamps);
/// assert_eq!((info.congestion, info.in_flight), ("cubic", 0));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the RFCs'")]
pub struct TcpInfo {
    pub state: State,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Payload bytes of the largest segment that we send.
    pub snd_mss: u32,
    /// The largest payload received in one segment so far.
    pub rcv_mss: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
    pub snd_shift: u8,
    pub rcv_shift: u8,
    pub sack: bool,
    pub timestamps: bool,
    pub ecn: bool,
    pub cwnd: u32,
    pub ssthresh: u32,
    pub srtt: Option<Duration>,
    pub rttvar: Option<Duration>,
    pub min_rtt: Option<Duration>,
    pub rto: Duration,
    /// Bytes in flight (RFC 6675 *pipe*).
    pub in_flight: u64,
    /// Bytes marked as lost and not yet retransmitted.
    pub lost: u64,
    /// Bytes retransmitted so far.
    pub retransmitted: u64,
    /// Bytes acknowledged so far.
    pub acked: u64,
    /// Bytes received in order so far.
    pub received: u64,
    /// Bytes received out of order and held.
    pub out_of_order: u64,
    pub segments_sent: u64,
    pub segments_received: u64,
    /// Consecutive retransmission timeouts.
    pub backoff: u8,
    /// Bytes a second by the last delivery rate sample.
    pub delivery_rate: Option<u64>,
    pub congestion: &'static str,
    /// `open`, `cwr` (the window is on its way down for an echoed mark), `recovery` or `loss`.
    pub recovery: &'static str,
    pub path_mtu: u32,
    /// Bytes up to the end of the peer's urgent data that were not read yet; `None` when there is
    /// no such data. They are in line with all others. Whenever it grows `readable()` is woken.
    pub urgent: Option<u64>,
    /// What is wrong with the path, although the connection is kept: an ICMP error, or
    /// `TimedOut` from the third retransmission in a row on (R1, RFC 9293 §3.8.3).
    #[cfg_attr(feature = "serde", serde(serialize_with = "kind_as_text"))]
    pub soft_error: Option<io::ErrorKind>,
}

/// An error kind has no form of its own to be written down in.
#[cfg(feature = "serde")]
fn kind_as_text<S: serde::Serializer>(
    kind: &Option<io::ErrorKind>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match kind {
        Some(kind) => to.collect_str(kind),
        None => to.serialize_none(),
    }
}

/// Declares the counters with their names.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a stack: one for each kind of event, and one for each reason to drop.
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
        /// let counters = client.counters().await?;
        /// assert_eq!(counters.active_opens, 1);
        /// for (name, count) in counters.iter().filter(|(_, count)| *count > 0) {
        ///     println!("{name} {count}");
        /// }
        /// # Ok(()) }
        /// ```
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// All counters with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Packets taken from the device.
    packets_received,
    /// Packets given to the device.
    packets_sent,
    /// TCP segments received; a super-segment counts once.
    segments_received,
    /// TCP segments sent; a super-segment counts once.
    segments_sent,
    /// Segments sent again.
    segments_retransmitted,
    /// Connections that we opened.
    active_opens,
    /// Connections that listeners took.
    passive_opens,
    /// Resets sent.
    resets_sent,
    /// Resets received and acted upon.
    resets_received,
    /// Challenge ACKs sent (RFC 5961).
    challenge_acks,
    /// SYN cookies sent.
    cookies_sent,
    /// SYN cookies that came back and were right.
    cookies_accepted,
    /// UDP datagrams received that a socket took.
    datagrams_received,
    /// UDP datagrams sent.
    datagrams_sent,
    /// ICMP echo requests answered.
    echo_replies,
    /// ICMP errors received and acted upon.
    icmp_errors,
    /// Retransmission timeouts.
    timeouts,
    /// Loss recoveries that turned out to be for nothing.
    spurious_recoveries,
    /// Tail loss probes sent.
    loss_probes,
    /// Times that pacing held back what the window would have let out.
    paced,
    /// Connections ended by a time limit.
    timed_out,
    /// Dropped: no IP packet, or lengths that contradict each other.
    drop_malformed_ip,
    /// Dropped: the checksum of an IPv4 header was wrong.
    drop_ip_checksum,
    /// Dropped: a fragment.
    drop_fragment,
    /// Dropped: not to one of our addresses.
    drop_not_ours,
    /// Dropped: a source address that nobody can have.
    drop_martian,
    /// Dropped: a protocol that we do not serve.
    drop_protocol,
    /// Dropped: a TCP header that contradicts itself.
    drop_malformed_tcp,
    /// Dropped: the TCP checksum was wrong.
    drop_tcp_checksum,
    /// Dropped: a UDP header that contradicts itself.
    drop_malformed_udp,
    /// Dropped: the UDP checksum was wrong.
    drop_udp_checksum,
    /// Dropped: a datagram for which the receive queue of its socket had no room.
    drop_datagram,
    /// Not sent: a datagram that no longer fits the device, whose MTU was lowered.
    drop_datagram_size,
    /// Dropped: ICMP that was malformed, or an error that fits none of our connections.
    drop_icmp,
    /// Dropped: a segment for no connection and no listener, or a datagram for no socket.
    drop_no_socket,
    /// Dropped: a segment that no state accepts (flags, ports).
    drop_bad_flags,
    /// Dropped: outside of the receive window.
    drop_out_of_window,
    /// Dropped: an acknowledgement of what was never sent, or far too old.
    drop_bad_ack,
    /// Dropped: an old timestamp (PAWS, RFC 7323 §5).
    drop_paws,
    /// Dropped: a last ACK of a handshake for which the accept queue had no room.
    drop_accept_queue,
    /// Dropped: a SYN for which the half-open table or a limit had no room.
    drop_syn,
    /// Dropped: out-of-order data for which there was no room.
    drop_out_of_order,
    /// Dropped: received for want of memory.
    drop_memory,
    /// Not sent: a reset or an ICMP message that its rate limit held back.
    limited,
    /// Dropped by the device.
    drop_device,
    /// TIME-WAIT records that were recycled early for want of room.
    time_wait_recycled,
    /// Connections that were reset for want of room for one more orphan.
    orphans_reset,
}

//! Everything that can be set, with its unit, its default and its limits.

use std::{ops::RangeInclusive, time::Duration};

use crate::congestion::{CongestionControl, Factory};

/// Which congestion control algorithm decides how much may be in flight.
///
/// ```
/// use synack::config::{Config, Congestion, SocketOptions};
///
/// let mut config = Config::default();
/// config.options(SocketOptions { congestion: Congestion::Bbr, ..SocketOptions::default() });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Congestion {
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406).
    #[default]
    Cubic,
    /// NewReno (RFC 5681, RFC 6582), with HyStart++ where packets overtake each other.
    Reno,
    /// BBR: paces by a model of the path, and does not take every loss for congestion.
    Bbr,
    /// What [`Config::congestion_factory`] makes; CUBIC where there is none.
    Custom,
}

/// How a connection finds out that its peer is gone although nothing is to be sent.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (device, _other) = synack::device::pair(1500);
/// # let stack = synack::Stack::builder().address("10.0.0.1/24".parse()?).spawn(device)?;
/// # let listener = stack.listen("10.0.0.1:80").await?;
/// # let stream = stack.connect("10.0.0.1:80").await?;
/// use std::time::Duration;
/// use synack::config::KeepAlive;
///
/// // A peer that says nothing for a minute, and then leaves three questions unanswered, is gone.
/// stream.set_keepalive(Some(KeepAlive {
///     idle: Duration::from_secs(60),
///     interval: Duration::from_secs(10),
///     count: 3,
/// }))?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct KeepAlive {
    /// Silence before the first probe: 2 h, 1 ms to 32,767 s. Linux: `tcp_keepalive_time`,
    /// `TCP_KEEPIDLE`.
    pub idle: Duration,
    /// Time between probes: 75 s, 1 ms to 32,767 s. Linux: `tcp_keepalive_intvl`, `TCP_KEEPINTVL`.
    pub interval: Duration,
    /// Probes without an answer after which the connection has timed out: 9, 1 to 127. Linux:
    /// `tcp_keepalive_probes`, `TCP_KEEPCNT`.
    pub count: u8,
}

impl KeepAlive {
    /// Linux's limits, but for the least, which is a second there.
    pub(crate) const TIMES: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(32_767);
    /// Linux's limits.
    pub(crate) const COUNTS: RangeInclusive<u8> = 1..=127;

    fn clamped(self) -> Self {
        let time = |time: Duration| time.clamp(*Self::TIMES.start(), *Self::TIMES.end());
        Self {
            idle: time(self.idle),
            interval: time(self.interval),
            count: self.count.clamp(*Self::COUNTS.start(), *Self::COUNTS.end()),
        }
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(7200),
            interval: Duration::from_secs(75),
            count: 9,
        }
    }
}

/// What is set for one socket: on a `TcpSocket` before it connects or listens, on a stream at any
/// time. Connections inherit it from their listener. What is out of range here is clamped where it is
/// used.
///
/// ```
/// use std::time::Duration;
/// use synack::config::{Config, SocketOptions};
///
/// // What all sockets of a stack start with.
/// let mut config = Config::default();
/// config.options(SocketOptions {
///     nodelay: true,
///     user_timeout: Some(Duration::from_secs(30)),
///     ..SocketOptions::default()
/// });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct SocketOptions {
    /// Nagle's algorithm off (`TCP_NODELAY`): no, so it is on.
    pub nodelay: bool,
    /// Only full-sized segments, until it is switched off again (`TCP_CORK`), but for what has
    /// waited for 200 ms: no.
    pub cork: bool,
    /// Acknowledge at once (`TCP_QUICKACK`) until we answer what we receive, or late from now on:
    /// yes. Like on Linux it does not last: set it again to have it again.
    pub quickack: bool,
    /// Time to live or hop limit of packets sent (`IP_TTL`): 64, 1 to 255.
    pub ttl: u8,
    /// DSCP of packets of IPv4 (`IP_TOS`): 0. The two ECN bits in it are TCP's own.
    pub tos: u8,
    /// Traffic class of packets of IPv6 (`IPV6_TCLASS`): 0. The two ECN bits in it are TCP's own.
    pub tclass: u8,
    /// What dropping the last handle does (`SO_LINGER`): `None`, the default, sends what is left in the
    /// background, zero resets. Any other time is kept and does as `None`: it would say how long
    /// closing blocks, which dropping never does, and not how long sending goes on.
    pub linger: Option<Duration>,
    /// Keep-alive probes (`SO_KEEPALIVE`), off unless set.
    pub keepalive: Option<KeepAlive>,
    /// How long data may stay unacknowledged (`TCP_USER_TIMEOUT`); `None`, the default, or zero:
    /// until R2, which [`Config::retries`] sets.
    pub user_timeout: Option<Duration>,
    /// The algorithm (`TCP_CONGESTION`): CUBIC.
    pub congestion: Congestion,
    /// Upper limit of the MSS announced and used (`TCP_MAXSEG`): `None`, for what the MTU allows,
    /// or 88 to 32,767 bytes.
    pub mss: Option<u16>,
    /// A fixed size for the receive buffer in bytes (`SO_RCVBUF`), in place of autotuning: 1,152 to
    /// 2^30. One that is to be larger than what buffers grow to must be set before connecting or
    /// listening, when the window scale is agreed on.
    pub recv_buffer: Option<usize>,
    /// A fixed size for the send buffer in bytes (`SO_SNDBUF`), in place of autotuning: 2,304 to
    /// 2^30.
    pub send_buffer: Option<usize>,
}

impl SocketOptions {
    /// Linux's limits for a segment size that is set.
    pub(crate) const MSS: RangeInclusive<u16> = 88..=32_767;
    /// The least that a buffer holds: half of what Linux reports then.
    pub(crate) const RECV_BUFFER_MIN: usize = 2304 / 2;
    pub(crate) const SEND_BUFFER_MIN: usize = 4608 / 2;

    /// The DSCP byte of a packet of IPv4 or of IPv6.
    pub(crate) const fn class(&self, v6: bool) -> u8 {
        // The ECN bits are not the user's, as on Linux.
        (if v6 { self.tclass } else { self.tos }) & !3
    }
    pub(crate) const BUFFER_MAX: usize = 1 << 30;

    /// The same with every value in its range.
    pub(crate) fn clamped(self) -> Self {
        let buffer = |min| move |bytes: usize| bytes.clamp(min, Self::BUFFER_MAX);
        let mss = |mss: u16| mss.clamp(*Self::MSS.start(), *Self::MSS.end());
        Self {
            ttl: self.ttl.max(1),
            keepalive: self.keepalive.map(KeepAlive::clamped),
            user_timeout: self.user_timeout.filter(|time| !time.is_zero()),
            mss: self.mss.map(mss),
            recv_buffer: self.recv_buffer.map(buffer(Self::RECV_BUFFER_MIN)),
            send_buffer: self.send_buffer.map(buffer(Self::SEND_BUFFER_MIN)),
            ..self
        }
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: false,
            cork: false,
            quickack: true,
            ttl: 64,
            tos: 0,
            tclass: 0,
            linger: None,
            keepalive: None,
            user_timeout: None,
            congestion: Congestion::default(),
            mss: None,
            recv_buffer: None,
            send_buffer: None,
        }
    }
}

/// No limit for `per_source_max`: more connections than there may be.
pub(crate) const PER_SOURCE_UNLIMITED: usize = 1 << 24;

/// Parameters of a stack. Every setter clamps what it is given to the range that it names.
///
/// ```
/// use std::time::Duration;
/// use synack::Config;
///
/// let mut config = Config::default();
/// config.recv_buffer_max(1 << 20).rto_min(Duration::from_millis(5));
/// # let (device, _other) = synack::device::pair(1500);
/// let builder = synack::Stack::builder().config(config);
/// # drop((builder, device));
/// ```
///
/// With the feature `serde` it can be read from a file: what is left out has its default, what is
/// out of range is clamped, and an unknown name is an error.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(remote = "Self", default, deny_unknown_fields)
)]
pub struct Config {
    pub(crate) recv_buffer: usize,
    pub(crate) recv_buffer_max: usize,
    pub(crate) send_buffer: usize,
    pub(crate) send_buffer_max: usize,
    pub(crate) memory: usize,
    pub(crate) udp_recv_buffer: usize,
    pub(crate) udp_send_buffer: usize,
    pub(crate) connections_max: usize,
    pub(crate) per_source_max: usize,
    pub(crate) half_open_max: usize,
    pub(crate) time_wait_max: usize,
    pub(crate) orphans_max: usize,
    pub(crate) incoming_max: usize,
    pub(crate) incoming_per_source_max: usize,
    pub(crate) incoming_timeout: Duration,
    pub(crate) initial_window: u32,
    pub(crate) rto_min: Duration,
    pub(crate) rto_max: Duration,
    pub(crate) syn_retries: u8,
    pub(crate) syn_ack_retries: u8,
    pub(crate) retries: u8,
    pub(crate) orphan_retries: u8,
    pub(crate) time_wait: Duration,
    pub(crate) fin_timeout: Duration,
    pub(crate) delayed_ack: Duration,
    pub(crate) sack: bool,
    pub(crate) timestamps: bool,
    pub(crate) window_scaling: bool,
    pub(crate) ecn: bool,
    pub(crate) pacing: bool,
    pub(crate) echo_reply: bool,
    pub(crate) reset_half_open: bool,
    pub(crate) reset_closed_ports: bool,
    pub(crate) options: SocketOptions,
    /// Code, which no file can hold.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) congestion_factory: Option<Factory>,
    pub(crate) seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            recv_buffer: 128 << 10,
            recv_buffer_max: 6 << 20,
            send_buffer: 128 << 10,
            send_buffer_max: 6 << 20,
            memory: 1 << 30,
            udp_recv_buffer: 212_992,
            udp_send_buffer: 212_992,
            connections_max: 1 << 20,
            per_source_max: PER_SOURCE_UNLIMITED,
            half_open_max: 4096,
            time_wait_max: 28_672,
            orphans_max: 4096,
            incoming_max: 4096,
            incoming_per_source_max: 4096,
            incoming_timeout: Duration::from_secs(30),
            initial_window: 10,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            syn_retries: 6,
            syn_ack_retries: 5,
            retries: 15,
            orphan_retries: 8,
            time_wait: Duration::from_secs(60),
            fin_timeout: Duration::from_secs(60),
            delayed_ack: Duration::from_millis(40),
            sack: true,
            timestamps: true,
            window_scaling: true,
            ecn: false,
            pacing: false,
            echo_reply: true,
            reset_half_open: false,
            reset_closed_ports: true,
            options: SocketOptions::default(),
            congestion_factory: None,
            seed: None,
        }
    }
}

/// Writes a setter that clamps to a range.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty = |$value:ident| $clamp:expr;)*) => {
        impl Config {
            $($(#[$doc])*
            pub fn $name(&mut self, $name: $type) -> &mut Self {
                let $value = $name;
                self.$name = $clamp;
                self
            })*

            /// The same with every value in its range.
            #[cfg(feature = "serde")]
            fn clamped(mut self) -> Self {
                $(self.$name(self.$name);)*
                self
            }
        }
    };
}

setters! {
    /// Bytes that a connection's receive buffer starts with: 128 KiB, 4 KiB to 1 GiB. Linux:
    /// `tcp_rmem[1]`.
    recv_buffer: usize = |bytes| bytes.clamp(4 << 10, 1 << 30);
    /// Bytes that the receive buffer of a connection may grow to: 6 MiB, 4 KiB to 1 GiB. It fixes
    /// the window scale of a connection when it opens, unless its buffer is larger already. Linux:
    /// `tcp_rmem[2]`.
    recv_buffer_max: usize = |bytes| bytes.clamp(4 << 10, 1 << 30);
    /// Bytes that a connection's send buffer starts with: 128 KiB, 4 KiB to 1 GiB. Linux:
    /// `tcp_wmem[1]`.
    send_buffer: usize = |bytes| bytes.clamp(4 << 10, 1 << 30);
    /// Bytes that the send buffer of a connection may grow to: 6 MiB, 4 KiB to 1 GiB. Linux:
    /// `tcp_wmem[2]`.
    send_buffer_max: usize = |bytes| bytes.clamp(4 << 10, 1 << 30);
    /// Bytes that all buffers of all connections and UDP sockets may hold together: 1 GiB, 1 MiB at
    /// least. Linux: `tcp_mem`, `udp_mem`.
    memory: usize = |bytes| bytes.max(1 << 20);
    /// Bytes of the datagrams that a UDP socket has received and nobody has read, each with 256 bytes
    /// for itself: 212,992, 4 KiB to 1 GiB. What comes when there is no room is dropped. Linux:
    /// `rmem_default`.
    udp_recv_buffer: usize = |bytes| bytes.clamp(4 << 10, 1 << 30);
    /// The same for datagrams that wait to be sent: 212,992, 4 KiB to 1 GiB. Sending waits when there
    /// is no room. Linux: `wmem_default`.
    udp_send_buffer: usize = |bytes| bytes.clamp(4 << 10, 1 << 30);
    /// Connections that may exist at one time: 1,048,576, 1 to 2^24.
    connections_max: usize = |count| count.clamp(1, 1 << 24);
    /// Connections that may exist with one peer, or one /64 of IPv6, half-open ones included: no
    /// limit, 1 at least. More of them are refused; connections to the peer are never.
    per_source_max: usize = |count| count.clamp(1, PER_SOURCE_UNLIMITED);
    /// Half-open connections before SYN cookies are used: 4,096, 1 to 2^20. Linux:
    /// `tcp_max_syn_backlog`.
    half_open_max: usize = |count| count.clamp(1, 1 << 20);
    /// Connections remembered in TIME-WAIT, of which the oldest goes first: 28,672, 0 to 2^24.
    /// Linux: `tcp_max_tw_buckets`.
    time_wait_max: usize = |count| count.min(1 << 24);
    /// Connections without an owner that still send what is left: 4,096, 0 to 2^24. Linux:
    /// `tcp_max_orphans`.
    orphans_max: usize = |count| count.min(1 << 24);
    /// Connections to any address that may wait for a decision: 4,096, 1 to 2^20. A SYN beyond is
    /// dropped, and comes again.
    incoming_max: usize = |count| count.clamp(1, 1 << 20);
    /// The same for one source address: 4,096, 1 to 2^20. Less where peers have addresses of their
    /// own, so that none can take all places.
    incoming_per_source_max: usize = |count| count.clamp(1, 1 << 20);
    /// Time to decide about a connection to any address: 30 s, 1 s to 1 h. Then it is forgotten
    /// without a word, and the peer's next SYN begins anew.
    incoming_timeout: Duration = |time| time.clamp(Duration::from_secs(1), Duration::from_secs(3600));
    /// Segments that may be sent before the first acknowledgement (RFC 6928): 10, 1 to 64.
    initial_window: u32 = |segments| segments.clamp(1, 64);
    /// Least retransmission timeout: 200 ms, 1 ms to 60 s. RFC 6298 §2.4 asks for 1 s; Linux uses
    /// 200 ms (`TCP_RTO_MIN`).
    rto_min: Duration = |rto| rto.clamp(Duration::from_millis(1), Duration::from_secs(60));
    /// Greatest retransmission timeout: 120 s, 1 s to 1 h. Linux: `TCP_RTO_MAX`.
    rto_max: Duration = |rto| rto.clamp(Duration::from_secs(1), Duration::from_secs(3600));
    /// Retransmissions of a SYN before `connect` has timed out: 6, 0 to 127. Linux:
    /// `tcp_syn_retries`.
    syn_retries: u8 = |count| count.min(127);
    /// Retransmissions of a SYN-ACK before the half-open connection is forgotten: 5, 0 to 15.
    /// Linux: `tcp_synack_retries`.
    syn_ack_retries: u8 = |count| count.min(15);
    /// Retransmissions of data, as R2 counts them (RFC 9293 §3.8.3): 15, 1 to 127. Linux:
    /// `tcp_retries2`.
    retries: u8 = |count| count.clamp(1, 127);
    /// The same for connections that nobody owns any more: 8, 1 to 127. Linux:
    /// `tcp_orphan_retries`.
    orphan_retries: u8 = |count| count.clamp(1, 127);
    /// Time in TIME-WAIT, 2 MSL (RFC 9293 §3.6.1): 60 s, 0 to 1 h.
    time_wait: Duration = |time| time.min(Duration::from_secs(3600));
    /// Time that a connection without an owner waits in FIN-WAIT-2: 60 s, 0 to 1 h. Linux:
    /// `tcp_fin_timeout`.
    fin_timeout: Duration = |time| time.min(Duration::from_secs(3600));
    /// Longest delay of an acknowledgement: 40 ms, 0 to 499 ms (RFC 9293 §3.8.6.3 wants less than
    /// half a second).
    delayed_ack: Duration = |delay| delay.min(Duration::from_millis(499));
    /// Selective acknowledgement (RFC 2018): on. Linux: `tcp_sack`.
    sack: bool = |on| on;
    /// Timestamps (RFC 7323): on. Linux: `tcp_timestamps`.
    timestamps: bool = |on| on;
    /// Window scaling (RFC 7323): on. Linux: `tcp_window_scaling`.
    window_scaling: bool = |on| on;
    /// Asks for explicit congestion notification (RFC 3168) on connections that it opens: off; a
    /// peer that asks is always answered. Linux: `tcp_ecn`.
    ecn: bool = |on| on;
    /// Spreads what is sent over the round trip also with CUBIC and Reno: off. BBR does so always.
    /// Linux: the `fq` queueing discipline.
    pacing: bool = |on| on;
    /// Answers ICMP echo requests: on.
    echo_reply: bool = |on| on;
    /// Sends a reset when a half-open connection is forgotten because nobody answered its SYN-ACKs:
    /// off, as on Linux. A peer whose last acknowledgements were lost learns of it then without
    /// having to send anything.
    reset_half_open: bool = |on| on;
    /// Answers segments for ports where nobody listens with a reset, and datagrams with an ICMP error:
    /// on. Off is for a stack that shares its addresses with others.
    reset_closed_ports: bool = |on| on;
    /// What new sockets start with.
    options: SocketOptions = |options| options.clamped();
}

impl Config {
    /// What [`Congestion::Custom`] stands for: called with the SMSS and the
    /// [initial window](Self::initial_window) in segments, for each connection that asks for it.
    pub fn congestion_factory(
        &mut self,
        make: impl Fn(u32, u32) -> Box<dyn CongestionControl> + Send + Sync + 'static,
    ) -> &mut Self {
        self.congestion_factory = Some(Factory::new(make));
        self
    }

    /// Makes a whole run repeatable: sequence numbers, ports and timers come from this seed instead
    /// of the system's random source. For tests only: whoever knows it can guess all of these.
    pub fn seed(&mut self, seed: u64) -> &mut Self {
        self.seed = Some(seed);
        self
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Config {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Config {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The derived function, which knows nothing of ranges.
        Self::deserialize(deserializer).map(Self::clamped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_clamped() {
        let mut config = Config::default();
        config
            .recv_buffer(1)
            .rto_min(Duration::ZERO)
            .initial_window(1000);
        assert_eq!(config.recv_buffer, 4096);
        assert_eq!(config.rto_min, Duration::from_millis(1));
        assert_eq!(config.initial_window, 64);
    }

    #[test]
    fn options_out_of_range_are_clamped_wherever_they_come_from() {
        let out_of_range = SocketOptions {
            ttl: 0,
            keepalive: Some(KeepAlive {
                idle: Duration::ZERO,
                interval: Duration::MAX,
                count: 0,
            }),
            user_timeout: Some(Duration::ZERO),
            mss: Some(1),
            recv_buffer: Some(0),
            send_buffer: Some(usize::MAX),
            ..SocketOptions::default()
        };
        let clamped = SocketOptions {
            ttl: 1,
            keepalive: Some(KeepAlive {
                idle: Duration::from_millis(1),
                interval: Duration::from_secs(32_767),
                count: 1,
            }),
            user_timeout: None,
            mss: Some(88),
            recv_buffer: Some(1152),
            send_buffer: Some(1 << 30),
            ..SocketOptions::default()
        };
        let mut config = Config::default();
        assert_eq!(config.options(out_of_range).options, clamped);
        assert_eq!(clamped.clamped(), clamped);
    }
}

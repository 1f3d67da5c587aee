//! SYN-RECEIVED after a passive open.

use std::time::Duration;

use super::{INITIAL_RTO, first_window};
use crate::{
    config::{Config, SocketOptions},
    seq::SeqNum,
    tcp::{
        Context, Segment,
        connection::{Established, TsClock},
        negotiated::{Negotiated, receive_shift},
        path_mtu::Path,
    },
    time::Time,
    wire::tcp::{Flags, TcpHeader},
};

/// What deserves no better gets one answer in this time, and each handshake counts for itself
/// (Linux: `tcp_invalid_ratelimit`).
const ANSWER_INTERVAL: Duration = Duration::from_millis(500);

/// SYN-RECEIVED after a passive open: what a peer that only sent a SYN is worth.
#[derive(Clone, Debug)]
pub(crate) struct HalfOpen {
    pub(crate) iss: SeqNum,
    pub(crate) irs: SeqNum,
    pub(super) ts_offset: u32,
    ts_recent: u32,
    /// When the SYN came, in microseconds modulo 2^32: a handshake takes less than that.
    since: u32,
    /// When a segment that deserved no better last got an answer, counted like `since`.
    answered_at: u32,
    peer_wnd: u16,
    peer_mss: u16,
    shift: u8,
    flags: u8,
    /// SYN-ACKs sent again.
    pub(crate) retries: u8,
}

const SCALED: u8 = 1;
const SACK: u8 = 2;
const TIMESTAMPS: u8 = 4;
const ECN: u8 = 8;
/// `answered_at` means something.
const ANSWERED: u8 = 16;
/// The SYN-ACK went out again because the SYN came again.
const REPEATED: u8 = 32;

/// What becomes of a segment in SYN-RECEIVED.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Drop,
    /// The same SYN again: the same SYN-ACK.
    Repeat,
    /// Out of window: an acknowledgement.
    Acknowledge,
    /// It acknowledges what was never sent: a reset with its number.
    Reset,
    /// The peer has reset.
    Forget,
    /// The handshake is complete; the segment may carry more.
    Complete,
}

impl HalfOpen {
    /// A listener has received a SYN.
    pub(crate) fn new(
        seg: &Segment,
        iss: SeqNum,
        ts_offset: u32,
        path: Path,
        cx: &Context<'_>,
    ) -> Self {
        let header = &seg.header;
        // RFC 3168 §6.1.1: both bits ask, in a packet that is not ECN-capable itself; what marks it
        // on its way cannot be trusted (Linux: `tcp_ecn_create_request`).
        let ecn = header.flags.has(Flags::ECE | Flags::CWR) && !seg.ect;
        // Our own shift is the listener's, who knows it later too.
        let agreed = Negotiated::new(&header.options, ecn, path.is_v6, 0, cx.config);
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        Self {
            iss,
            irs: header.seq,
            ts_offset,
            ts_recent: header.options.timestamps.map_or(0, |ts| ts.val),
            since: cx.now.as_micros() as u32,
            answered_at: 0,
            peer_wnd: header.wnd,
            peer_mss: agreed.peer_mss,
            shift: agreed.shifts.map_or(0, |(snd, _)| snd),
            flags: flag(agreed.shifts.is_some(), SCALED)
                | flag(agreed.sack, SACK)
                | flag(agreed.timestamps, TIMESTAMPS)
                | flag(agreed.ecn, ECN),
            retries: 0,
        }
    }

    /// One whose SYN we did not keep: everything comes back in the cookie and in the last ACK.
    pub(crate) fn from_cookie(
        seg: &Segment,
        agreed: Negotiated,
        ts_offset: u32,
        now: Time,
    ) -> Option<Self> {
        let ack = seg.header.ack?;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        Some(Self {
            iss: ack - 1,
            irs: seg.header.seq - 1,
            ts_offset,
            ts_recent: seg.header.options.timestamps.map_or(0, |ts| ts.val),
            since: now.as_micros() as u32,
            answered_at: 0,
            peer_wnd: seg.header.wnd,
            peer_mss: agreed.peer_mss,
            shift: agreed.shifts.map_or(0, |(snd, _)| snd),
            flags: flag(agreed.shifts.is_some(), SCALED)
                | flag(agreed.sack, SACK)
                | flag(agreed.timestamps, TIMESTAMPS),
            // A round trip that was not measured must not be taken for one.
            retries: 1,
        })
    }

    fn agreed(&self, options: &SocketOptions, config: &Config) -> Negotiated {
        let has = |bit: u8| self.flags & bit != 0;
        let rcv = receive_shift(options, config);
        Negotiated {
            peer_mss: self.peer_mss,
            shifts: has(SCALED).then_some((self.shift, rcv)),
            sack: has(SACK),
            timestamps: has(TIMESTAMPS),
            ecn: has(ECN),
        }
    }

    fn clock(&self, now: Time) -> TsClock {
        let age = micros_since(self.since, now);
        TsClock {
            offset: self.ts_offset,
            recent: self.ts_recent,
            recent_at: Time::from_start(now.since_start().saturating_sub(age)),
        }
    }

    /// Whether a segment that deserves no better may be answered now. Text and FIN make no loop of
    /// acknowledgements.
    pub(crate) fn may_answer(&mut self, seg: &Segment, now: Time) -> bool {
        let flags = seg.header.flags;
        if seg.seq_len() > 0 && !flags.has(Flags::SYN) && !flags.has(Flags::RST) {
            return true;
        }
        let answered = self.flags & ANSWERED != 0;
        if answered && micros_since(self.answered_at, now) < ANSWER_INTERVAL {
            return false;
        }
        self.answered_at = now.as_micros() as u32;
        self.flags |= ANSWERED;
        true
    }

    /// The SYN came again, and so the SYN-ACK goes out again.
    pub(crate) fn set_repeated(&mut self) {
        self.flags |= REPEATED;
    }

    /// The SYN-ACK, with the options that the SYN had.
    pub(crate) fn syn_ack(
        &self,
        options: &SocketOptions,
        path: Path,
        config: &Config,
        now: Time,
    ) -> TcpHeader {
        let agreed = self.agreed(options, config);
        let flags = Flags::SYN | Flags::ACK | if agreed.ecn { Flags::ECE } else { Flags::NONE };
        let mss = path.announced_mss(options);
        TcpHeader {
            seq: self.iss,
            ack: Some(self.irs + 1),
            wnd: first_window(options, config),
            flags,
            options: agreed.syn_options(mss, self.clock(now).option(now)),
            ..TcpHeader::default()
        }
    }

    /// An acknowledgement for what is out of the window.
    pub(crate) fn acknowledgement(
        &self,
        options: &SocketOptions,
        config: &Config,
        now: Time,
    ) -> TcpHeader {
        let agreed = self.agreed(options, config);
        let mut header = TcpHeader {
            seq: self.iss + 1,
            ack: Some(self.irs + 1),
            wnd: first_window(options, config) >> agreed.shifts.map_or(0, |(_, rcv)| rcv),
            flags: Flags::ACK,
            ..TcpHeader::default()
        };
        header.options.timestamps = agreed.timestamps.then(|| self.clock(now).option(now));
        header
    }

    /// RFC 9293 §3.10.7.4 for SYN-RECEIVED.
    pub(crate) fn on_segment(&self, seg: &Segment, window: u16, now: Time) -> Reaction {
        let header = &seg.header;
        let rcv_nxt = self.irs + 1;
        let window = u32::from(window);
        if header.flags.has(Flags::RST) {
            // RFC 5961 §3.2.
            return match header.seq {
                seq if seq == rcv_nxt => Reaction::Forget,
                seq if seq.in_window(rcv_nxt, window) => Reaction::Acknowledge,
                _ => Reaction::Drop,
            };
        }
        let ts = header
            .options
            .timestamps
            .filter(|_| self.flags & TIMESTAMPS != 0);
        let old = ts.is_some_and(|ts| self.clock(now).is_old(ts.val, now));
        let syn = header.flags.has(Flags::SYN);
        if syn && header.ack.is_none() && header.seq == self.irs && !old {
            return Reaction::Repeat;
        }
        // Before the window is looked at, as Linux does it: the peer may never have had this one.
        if header.ack.is_some_and(|ack| ack != self.iss + 1) {
            return Reaction::Reset;
        }
        let last = header.seq + seg.seq_len().saturating_sub(1);
        let in_window =
            header.seq.in_window(rcv_nxt, window.max(1)) || last.in_window(rcv_nxt, window);
        if old || syn || !in_window {
            return Reaction::Acknowledge;
        }
        match header.ack {
            None => Reaction::Drop,
            Some(_) => Reaction::Complete,
        }
    }

    /// What the connection starts from.
    pub(crate) fn established(
        &self,
        options: &SocketOptions,
        path: Path,
        cx: &Context<'_>,
    ) -> Established {
        let once = self.retries == 0 && self.flags & REPEATED == 0;
        let rtt = micros_since(self.since, cx.now).max(Duration::from_micros(1));
        Established {
            iss: self.iss,
            irs: self.irs,
            agreed: self.agreed(options, cx.config),
            ts: self.clock(cx.now),
            wnd: u32::from(self.peer_wnd),
            max_wnd: 0,
            advertised: first_window(options, cx.config),
            rtt: once.then_some(rtt),
            path,
        }
    }

    /// The window that our SYN-ACK advertised.
    pub(crate) fn window(options: &SocketOptions, config: &Config) -> u16 {
        first_window(options, config)
    }

    /// When the SYN-ACK is to be sent again, `None` when that was done often enough.
    pub(crate) fn next_repeat(&self, config: &Config) -> Option<Duration> {
        let delay = INITIAL_RTO * (1 << self.retries.min(15));
        (self.retries <= config.syn_ack_retries).then_some(delay.min(config.rto_max))
    }
}

/// Time since a moment that was noted in microseconds modulo 2^32.
fn micros_since(noted: u32, now: Time) -> Duration {
    Duration::from_micros(u64::from((now.as_micros() as u32).wrapping_sub(noted)))
}

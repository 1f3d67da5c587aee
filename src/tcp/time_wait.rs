//! TIME-WAIT: what is left of a connection for 2 MSL (RFC 9293 §3.6.1).

use std::num::NonZeroU32;

use crate::{
    seq::SeqNum,
    tcp::{Segment, connection::TsClock},
    time::Time,
    wire::{
        options::TcpOptions,
        tcp::{Flags, TcpHeader},
    },
};

/// A connection in TIME-WAIT: enough to acknowledge again, and to tell a new SYN from an old one.
#[derive(Clone, Debug)]
pub(crate) struct TimeWait {
    snd_nxt: SeqNum,
    rcv_nxt: SeqNum,
    wnd: u16,
    /// When what deserves no better may get an answer again, in tenths of a second modulo 2^16,
    /// which is longer than TIME-WAIT; zero: at once.
    silent_until: u16,
    ts_offset: u32,
    ts_recent: u32,
    /// In seconds, and one; `NO_TIMESTAMPS` when none were agreed on. It cannot be zero, which is
    /// what an empty place in a table is told by.
    recent_at: NonZeroU32,
}

const NO_TIMESTAMPS: NonZeroU32 = NonZeroU32::MAX;

/// What deserves no better gets one acknowledgement in so many tenths of a second, and each record
/// counts for itself (Linux: `tcp_invalid_ratelimit`).
const ANSWER_INTERVAL: u16 = 5;

/// What becomes of a segment for a connection in TIME-WAIT.
#[derive(Debug)]
pub(crate) enum Reaction {
    Drop,
    /// Acknowledge; `restart`: the peer repeats its FIN, so the 2 MSL begin again.
    Acknowledge {
        restart: bool,
    },
    /// A new connection may take its place (RFC 6191).
    Reuse,
}

impl TimeWait {
    pub(crate) fn new(
        (snd_nxt, rcv_nxt, wnd, ts, timestamps): (SeqNum, SeqNum, u16, TsClock, bool),
    ) -> Self {
        Self {
            snd_nxt,
            rcv_nxt,
            wnd,
            silent_until: 0,
            ts_offset: ts.offset,
            ts_recent: ts.recent,
            recent_at: if timestamps {
                let seconds = (ts.recent_at.as_millis() / 1000).min(u64::from(u32::MAX - 2));
                NonZeroU32::MIN.saturating_add(seconds as u32)
            } else {
                NO_TIMESTAMPS
            },
        }
    }

    fn has_timestamps(&self) -> bool {
        self.recent_at != NO_TIMESTAMPS
    }

    fn clock(&self) -> TsClock {
        let recent_at = Time::from_millis(u64::from(self.recent_at.get() - 1) * 1000);
        TsClock {
            offset: self.ts_offset,
            recent: self.ts_recent,
            recent_at,
        }
    }

    /// A sequence number for our side of a new connection that is above all of this one's.
    pub(crate) fn next_iss(&self) -> SeqNum {
        self.snd_nxt + 65_535 + 2
    }

    /// RFC 9293 §3.10.7.4, with RFC 1337 (a reset changes nothing) and RFC 6191 (reuse).
    pub(crate) fn on_segment(&self, seg: &Segment, now: Time) -> Reaction {
        let header = &seg.header;
        let ts = header.options.timestamps.filter(|_| self.has_timestamps());
        if header.flags.has(Flags::RST) {
            return Reaction::Drop;
        }
        if header.flags.has(Flags::SYN) {
            // Nor does a listener take a SYN that is a FIN as well.
            if header.flags.has(Flags::ACK) || header.flags.has(Flags::FIN) {
                return Reaction::Acknowledge { restart: false };
            }
            let newer = match ts {
                Some(ts) if ts.val != self.ts_recent => !self.clock().is_old(ts.val, now),
                _ => header.seq.is_after(self.rcv_nxt),
            };
            return if newer {
                Reaction::Reuse
            } else {
                Reaction::Acknowledge { restart: false }
            };
        }
        let old = ts.is_some_and(|ts| self.clock().is_old(ts.val, now));
        let fin = header.flags.has(Flags::FIN)
            && (header.seq + seg.seq_len()).is_at_or_before(self.rcv_nxt);
        if seg.seq_len() == 0 && header.seq == self.rcv_nxt && !old {
            return Reaction::Drop;
        }
        Reaction::Acknowledge {
            restart: fin && !old,
        }
    }

    /// Whether a segment without text may be answered now: two ends that both think the other's
    /// acknowledgement wrong must not go on for ever. Text and FIN make no such loop.
    pub(crate) fn may_answer(&mut self, seg: &Segment, now: Time) -> bool {
        if seg.seq_len() > 0 && !seg.header.flags.has(Flags::SYN) {
            return true;
        }
        let tenths = (now.as_millis() / 100) as u16;
        let left = self.silent_until.wrapping_sub(tenths);
        if self.silent_until != 0 && (1..=ANSWER_INTERVAL).contains(&left) {
            return false;
        }
        self.silent_until = tenths.wrapping_add(ANSWER_INTERVAL).max(1);
        true
    }

    /// The acknowledgement of everything.
    pub(crate) fn acknowledgement(&self, now: Time) -> TcpHeader {
        TcpHeader {
            src_port: 0,
            dst_port: 0,
            seq: self.snd_nxt,
            ack: Some(self.rcv_nxt),
            wnd: self.wnd,
            flags: Flags::ACK,
            urgent: 0,
            options: TcpOptions {
                timestamps: self.has_timestamps().then(|| self.clock().option(now)),
                ..TcpOptions::default()
            },
            header_len: 0,
        }
    }
}

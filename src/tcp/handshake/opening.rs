//! SYN-SENT, and SYN-RECEIVED after both ends have sent a SYN.

use std::{sync::Arc, time::Duration};

use super::{HalfOpen, INITIAL_RTO, Reaction, first_window};
use crate::{
    config::SocketOptions,
    error::Failure,
    info::{Protocol, SocketInfo, State, TimerKind},
    link::StreamLink,
    seq::SeqNum,
    tcp::{
        Context, Segment,
        connection::{Connection, Established, TsClock},
        negotiated::{Negotiated, receive_shift},
        path_mtu::Path,
    },
    time::Time,
    wire::{
        options::Timestamps,
        tcp::{Flags, TcpHeader},
    },
};

/// When a SYN goes out again that met an older connection (Linux: `TCP_TIMEOUT_MIN`, two ticks).
const AGAIN_SOON: Duration = Duration::from_millis(2);

/// SYN-SENT, and SYN-RECEIVED after a simultaneous open.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) link: Arc<StreamLink>,
    pub(crate) options: SocketOptions,
    pub(crate) path: Path,
    iss: SeqNum,
    ts: TsClock,
    /// The peer's SYN, if it crossed ours.
    crossed: Option<HalfOpen>,
    started_at: Time,
    /// The peer opened, and we agreed.
    pub(crate) passive: bool,
    /// SYNs sent again.
    retries: u8,
    pub(crate) deadline: Time,
    /// Something is to be sent: our SYN or SYN-ACK, or an acknowledgement.
    send: Option<Send>,
    soft_error: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Send {
    Syn,
    Ack,
}

/// How a segment or a timeout moves an opening on.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Still opening.
    Wait,
    /// Answer with a reset (RFC 9293 §3.10.7.3).
    Reset,
    /// Synchronized; the segment may carry more.
    Established(Box<Connection>),
    /// It is over, and the handle knows.
    Failed,
}

impl Opening {
    /// OPEN (RFC 9293 §3.10.1).
    pub(crate) fn new(
        link: Arc<StreamLink>,
        options: SocketOptions,
        iss: SeqNum,
        ts_offset: u32,
        path: Path,
        now: Time,
    ) -> Self {
        let limit = options.user_timeout.unwrap_or(INITIAL_RTO);
        Self {
            link,
            options,
            path,
            iss,
            ts: TsClock {
                offset: ts_offset,
                recent: 0,
                recent_at: now,
            },
            crossed: None,
            started_at: now,
            passive: false,
            retries: 0,
            deadline: now + INITIAL_RTO.min(limit),
            send: Some(Send::Syn),
            soft_error: None,
        }
    }

    /// Somebody has decided to take a connection whose SYN came a while ago.
    pub(crate) fn accepting(
        link: Arc<StreamLink>,
        options: SocketOptions,
        half: HalfOpen,
        path: Path,
        now: Time,
    ) -> Self {
        let mut opening = Self::new(link, options, half.iss, half.ts_offset, path, now);
        opening.crossed = Some(half);
        opening.passive = true;
        opening
    }

    pub(crate) fn state(&self) -> State {
        if self.crossed.is_some() {
            State::SynReceived
        } else {
            State::SynSent
        }
    }

    /// Whether an ICMP error's quote is of our SYN.
    pub(crate) fn sent(&self, seq: SeqNum) -> bool {
        seq == self.iss
    }

    /// ICMP says that it is in vain: at once if `hard`, else when the time is over.
    pub(crate) fn on_icmp(
        &mut self,
        failure: Failure,
        hard: bool,
        cx: &mut Context<'_>,
    ) -> Progress {
        if hard {
            self.link.fail(failure, cx.wakes);
            return Progress::Failed;
        }
        self.soft_error = Some(failure);
        Progress::Wait
    }

    /// The next segment to send.
    pub(crate) fn poll_segment(&mut self, cx: &Context<'_>) -> Option<TcpHeader> {
        let send = self.send.take()?;
        if let Some(crossed) = &self.crossed {
            return Some(match send {
                Send::Syn => crossed.syn_ack(&self.options, self.path, cx.config, cx.now),
                Send::Ack => crossed.acknowledgement(&self.options, cx.config, cx.now),
            });
        }
        // RFC 3168 §6.1.1.1: a SYN that gets no answer is sent again without ECN.
        let ecn = cx.config.ecn && self.retries == 0;
        let mss = self.path.announced_mss(&self.options);
        let ts = Timestamps {
            val: self.ts.val(cx.now),
            ecr: 0,
        };
        Some(TcpHeader {
            seq: self.iss,
            ack: None,
            wnd: first_window(&self.options, cx.config),
            flags: Flags::SYN
                | if ecn {
                    Flags::ECE | Flags::CWR
                } else {
                    Flags::NONE
                },
            options: Negotiated::wanted(&self.options, cx.config).syn_options(mss, ts),
            ..TcpHeader::default()
        })
    }

    /// RFC 9293 §3.10.7.3, or §3.10.7.4 after a simultaneous open.
    pub(crate) fn on_segment(&mut self, seg: &Segment, cx: &mut Context<'_>) -> Progress {
        match self.crossed.take() {
            None => self.in_syn_sent(seg, cx),
            Some(crossed) => self.in_syn_received(crossed, seg, cx),
        }
    }

    fn in_syn_sent(&mut self, seg: &Segment, cx: &mut Context<'_>) -> Progress {
        let header = &seg.header;
        let rst = header.flags.has(Flags::RST);
        if header.ack.is_some_and(|ack| ack != self.iss + 1) {
            // The peer has an older connection, which our reset ends: the SYN need not wait for
            // its whole timeout (Linux: `tcp_rcv_synsent_state_process`).
            if self.retries == 0 {
                self.deadline = self.deadline.min(cx.now + AGAIN_SOON);
            }
            return if rst { Progress::Wait } else { Progress::Reset };
        }
        // An echo of what we never sent: an answer to an older connection's SYN (RFC 7323 §5; as
        // on Linux).
        let echo = header.options.timestamps.map_or(0, |ts| ts.ecr);
        if header.ack.is_some() && echo != 0 && cx.config.timestamps {
            let first = self.ts.val(self.started_at);
            if echo.wrapping_sub(first) > self.ts.val(cx.now).wrapping_sub(first) {
                cx.counters.drop_paws += 1;
                return if rst { Progress::Wait } else { Progress::Reset };
            }
        }
        if rst {
            if header.ack.is_none() {
                return Progress::Wait;
            }
            cx.counters.resets_received += 1;
            self.link.fail(Failure::Refused, cx.wakes);
            return Progress::Failed;
        }
        if !header.flags.has(Flags::SYN) {
            return Progress::Wait;
        }
        if header.ack.is_none() {
            // Simultaneous open (RFC 9293 §3.5): both SYNs crossed.
            let mut crossed = HalfOpen::new(seg, self.iss, self.ts.offset, self.path, cx);
            crossed.retries = self.retries;
            self.crossed = Some(crossed);
            self.send = Some(Send::Syn);
            return Progress::Wait;
        }
        // RFC 3168 §6.1.1: ECE without CWR agrees.
        let ecn = cx.config.ecn && header.flags.has(Flags::ECE) && !header.flags.has(Flags::CWR);
        let ts = header.options.timestamps.filter(|_| cx.config.timestamps);
        if let Some(ts) = ts {
            (self.ts.recent, self.ts.recent_at) = (ts.val, cx.now);
        }
        let from = Established {
            iss: self.iss,
            irs: header.seq,
            agreed: Negotiated::new(
                &header.options,
                ecn,
                self.path.is_v6,
                receive_shift(&self.options, cx.config),
                cx.config,
            ),
            ts: self.ts,
            wnd: u32::from(header.wnd),
            max_wnd: u32::from(header.wnd),
            advertised: first_window(&self.options, cx.config),
            rtt: (self.retries == 0)
                .then(|| cx.now.since(self.started_at).max(Duration::from_micros(1))),
            path: self.path,
        };
        let mut connection = Connection::new(Arc::clone(&self.link), self.options, &from, cx);
        connection.acknowledge();
        Progress::Established(Box::new(connection))
    }

    fn in_syn_received(
        &mut self,
        mut crossed: HalfOpen,
        seg: &Segment,
        cx: &mut Context<'_>,
    ) -> Progress {
        let header = &seg.header;
        let window = first_window(&self.options, cx.config);
        // The peer's SYN-ACK repeats its SYN, which is before the window, and acknowledges ours.
        let answer = header.flags.has(Flags::SYN | Flags::ACK)
            && !header.flags.has(Flags::RST)
            && header.seq == crossed.irs
            && header.ack == Some(crossed.iss + 1);
        let reaction = if answer {
            Reaction::Complete
        } else {
            crossed.on_segment(seg, window, cx.now)
        };
        let progress = match reaction {
            Reaction::Complete => {
                let from = crossed.established(&self.options, self.path, cx);
                let mut connection =
                    Connection::new(Arc::clone(&self.link), self.options, &from, cx);
                // Our SYN-ACK may be lost; this completes the peer's handshake too.
                if answer {
                    connection.acknowledge();
                }
                return Progress::Established(Box::new(connection));
            }
            Reaction::Forget => {
                cx.counters.resets_received += 1;
                let failure = if self.passive {
                    Failure::Reset
                } else {
                    Failure::Refused
                };
                self.link.fail(failure, cx.wakes);
                return Progress::Failed;
            }
            Reaction::Reset => Progress::Reset,
            Reaction::Repeat | Reaction::Acknowledge if !crossed.may_answer(seg, cx.now) => {
                cx.counters.limited += 1;
                Progress::Wait
            }
            Reaction::Repeat => {
                crossed.set_repeated();
                self.send = Some(Send::Syn);
                Progress::Wait
            }
            Reaction::Acknowledge => {
                cx.counters.challenge_acks += 1;
                self.send = Some(Send::Ack);
                Progress::Wait
            }
            Reaction::Drop => Progress::Wait,
        };
        self.crossed = Some(crossed);
        progress
    }

    /// The retransmission timer of our SYN or SYN-ACK.
    pub(crate) fn on_timeout(&mut self, cx: &mut Context<'_>) -> Progress {
        let user_limit = self
            .options
            .user_timeout
            .is_some_and(|limit| cx.now.since(self.started_at) >= limit);
        let limit = if self.passive {
            cx.config.syn_ack_retries
        } else {
            cx.config.syn_retries
        };
        if self.retries >= limit || user_limit {
            cx.counters.timed_out += 1;
            self.link
                .fail(self.soft_error.unwrap_or(Failure::TimedOut), cx.wakes);
            return Progress::Failed;
        }
        self.retries += 1;
        cx.counters.segments_retransmitted += 1;
        if let Some(crossed) = &mut self.crossed {
            crossed.retries = self.retries;
        }
        self.send = Some(Send::Syn);
        let rto = INITIAL_RTO * 2_u32.saturating_pow(u32::from(self.retries.min(16)));
        self.deadline = cx.now + rto.min(cx.config.rto_max);
        if let Some(limit) = self.options.user_timeout {
            self.deadline = self.deadline.min(self.started_at + limit);
        }
        Progress::Wait
    }

    /// ABORT (RFC 9293 §3.10.5): a peer whose SYN came is told.
    pub(crate) fn abort_segment(&self) -> Option<TcpHeader> {
        let crossed = self.crossed.as_ref()?;
        Some(TcpHeader {
            seq: crossed.iss + 1,
            ack: Some(crossed.irs + 1),
            flags: Flags::RST | Flags::ACK,
            ..TcpHeader::default()
        })
    }

    /// A line of the netstat view.
    pub(crate) fn socket_info(&self, now: Time) -> SocketInfo {
        SocketInfo {
            protocol: Protocol::Tcp,
            state: self.state(),
            local: self.link.local_addr(),
            peer: Some(self.link.peer()),
            recv_queue: 0,
            send_queue: self.link.send.queued(),
            half_open: 0,
            timer: Some((TimerKind::Retransmit, self.deadline.since(now))),
            owned: true,
        }
    }
}

//! A connection on which nothing is going on: what must be remembered of it, and no more.

use std::sync::Arc;

use crate::{
    config::{Config, Congestion, SocketOptions},
    info::{SocketInfo, State, TcpInfo},
    link::StreamLink,
    seq::SeqNum,
    tcp::{
        congestion::{self, CongestionControl},
        connection::{Connection, Counts, EcnState, Pending, TsClock},
        liveness::Patience,
        negotiated::Negotiated,
        pacing::Pacer,
        path_mtu::PathMtu,
        recovery::{Recovery, Reordering},
        recv::Recv,
        rtt::RttEstimator,
        send::Send,
        timers::{Timer, Timers},
    },
    time::Time,
};

/// A connection with nothing in flight, nothing to send and nothing out of order.
///
/// Everything that concerns what is on its way has no meaning then, and is made anew when something
/// happens. A hundred thousand quiet connections need a third of the memory.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) link: Arc<StreamLink>,
    options: Arc<SocketOptions>,
    /// Always there, but for a copy that is only looked at.
    cc: Option<Box<dyn CongestionControl>>,
    rtt: RttEstimator,
    ts: TsClock,
    path: PathMtu,
    una: u64,
    /// What of the peer's window positions differs from `nxt` and `una`.
    wl1: u64,
    wl2: u64,
    nxt: u64,
    adv: u64,
    last_data: Time,
    heard_at: Time,
    data_sent_at: Time,
    challenged_at: Option<Time>,
    keepalive_at: Option<Time>,
    retransmitted: u64,
    segments_sent: u64,
    segments_received: u64,
    agreed: Negotiated,
    iss: SeqNum,
    irs: SeqNum,
    wnd: u32,
    max_wnd: u32,
    snd_mss: u16,
    rcv_mss: u16,
    overhead: u16,
    snd_shift: u8,
    rcv_shift: u8,
    quick: u8,
    unanswered: u8,
    reordering: Reordering,
    pub(crate) state: State,
    flags: u8,
}

const OUR_FIN: u8 = 1;
const PEERS_FIN: u8 = 2;
const INTERACTIVE: u8 = 4;
const ECN_ECHO: u8 = 8;
const ECN_REDUCED: u8 = 16;
const PACED: u8 = 32;

impl Connection {
    /// Whether nothing is going on.
    pub(crate) fn is_idle(&self) -> bool {
        let stays = matches!(
            self.state,
            State::Established | State::CloseWait | State::FinWait2
        );
        let timer = self.timers.next().map(|(timer, _)| timer);
        stays
            && !self.orphan
            && self.snd.flight_size() == 0
            && self.snd.unsent() == 0
            && !self.snd.fin_unsent()
            && self.recovery.is_open()
            && self.rcv.assembler.is_empty()
            && self.rcv.fin.is_none_or(|fin| fin < self.rcv.nxt)
            && self.rcv.ack.pending == 0
            && !self.rcv.ack.now
            && self.rcv.urgent.is_none()
            && self.soft_error.is_none()
            && !self.pending.is_any()
            && matches!(timer, None | Some(Timer::KeepAlive))
    }

    /// Whether nothing is to be expected any more that concerns what was on its way, such as a
    /// D-SACK.
    pub(crate) fn is_settled(&self, now: Time) -> bool {
        now >= self.data_sent_at.max(self.heard_at) + self.rtt.rto()
    }

    /// What is to be remembered of it. It must be idle.
    pub(crate) fn park(mut self) -> Idle {
        self.end_cwr(self.heard_at);
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let flags = flag(self.snd.fin.is_some(), OUR_FIN)
            | flag(self.rcv.fin.is_some(), PEERS_FIN)
            | flag(self.rcv.ack.interactive, INTERACTIVE)
            | flag(self.ecn.echo, ECN_ECHO)
            | flag(self.ecn.reduced, ECN_REDUCED)
            | flag(self.pacer.always, PACED);
        Idle {
            options: self.link.bell().share(self.options),
            link: self.link,
            cc: Some(self.cc),
            rtt: self.rtt,
            ts: self.ts,
            path: self.path,
            una: self.snd.una,
            wl1: self.snd.wl1,
            wl2: self.snd.wl2,
            nxt: self.rcv.nxt,
            adv: self.rcv.adv,
            last_data: self.rcv.ack.last_data,
            heard_at: self.heard_at,
            data_sent_at: self.data_sent_at,
            challenged_at: self.challenged_at,
            keepalive_at: self.timers.next().map(|(_, at)| at),
            retransmitted: self.counts.retransmitted,
            segments_sent: self.counts.segments_sent,
            segments_received: self.counts.segments_received,
            agreed: self.agreed,
            iss: self.snd.iss,
            irs: self.rcv.irs,
            wnd: self.snd.wnd,
            max_wnd: self.snd.max_wnd,
            snd_mss: self.snd.mss,
            rcv_mss: self.rcv.mss,
            overhead: self.overhead,
            snd_shift: self.snd.shift,
            rcv_shift: self.rcv.shift,
            quick: self.rcv.ack.quick,
            unanswered: self.patience.unanswered,
            reordering: self.recovery.reordering(),
            state: self.state,
            flags,
        }
    }
}

impl Idle {
    /// The connection that it was.
    pub(crate) fn wake(mut self) -> Connection {
        let cc = self.cc.take().expect("only a copy has none");
        self.with(cc)
    }

    /// A line of the netstat view.
    pub(crate) fn socket_info(&self, now: Time) -> SocketInfo {
        self.copy().socket_info(now)
    }

    /// The fields of `TCP_INFO`.
    pub(crate) fn tcp_info(&self) -> TcpInfo {
        let mut info = self.copy().tcp_info();
        if let Some(cc) = &self.cc {
            (info.cwnd, info.ssthresh, info.congestion) = (cc.window(), cc.ssthresh(), cc.name());
        }
        info
    }

    /// To look at, with a congestion window that is not its own.
    fn copy(&self) -> Connection {
        let mss = u32::from(self.snd_mss);
        self.with(congestion::new(Congestion::Reno, mss, &Config::default()))
    }

    fn with(&self, cc: Box<dyn CongestionControl>) -> Connection {
        let is = |bit: u8| self.flags & bit != 0;
        let mut snd = Send::new(self.iss);
        (snd.una, snd.nxt, snd.mss, snd.shift) = (self.una, self.una, self.snd_mss, self.snd_shift);
        (snd.wnd, snd.max_wnd, snd.wl1, snd.wl2) = (self.wnd, self.max_wnd, self.wl1, self.wl2);
        snd.fin = is(OUR_FIN).then(|| self.una - 1);
        snd.queue.start_at(self.una - 1 - u64::from(is(OUR_FIN)));
        let mut rcv = Recv::new(self.irs, self.last_data);
        (rcv.nxt, rcv.adv, rcv.shift, rcv.mss) = (self.nxt, self.adv, self.rcv_shift, self.rcv_mss);
        rcv.fin = is(PEERS_FIN).then(|| self.nxt - 1);
        (rcv.ack.quick, rcv.ack.interactive) = (self.quick, is(INTERACTIVE));
        rcv.ack.sent = self.nxt;
        rcv.tuning.consumed = self.link.recv.consumed();
        let mut timers = Timers::default();
        if let Some(at) = self.keepalive_at {
            timers.start(Timer::KeepAlive, at);
        }
        let mut recovery = Recovery::new(self.data_sent_at);
        recovery.board.high_delivered = self.una;
        recovery.set_reordering(self.reordering);
        Connection {
            options: *self.options,
            link: Arc::clone(&self.link),
            state: self.state,
            snd,
            rcv,
            agreed: self.agreed,
            rtt: self.rtt.clone(),
            recovery,
            cc,
            timers,
            ts: self.ts,
            overhead: self.overhead,
            path: self.path,
            black_hole: None,
            patience: Patience {
                unanswered: self.unanswered,
                since: self.heard_at,
                ..Patience::default()
            },
            heard_at: self.heard_at,
            data_sent_at: self.data_sent_at,
            challenged_at: self.challenged_at,
            soft_error: None,
            pending: Pending::default(),
            ecn: EcnState {
                echo: self.flags & ECN_ECHO != 0,
                reduced: self.flags & ECN_REDUCED != 0,
                // What was told is over, or a mark would not count before data does.
                reduced_until: self.una - u64::from(self.flags & ECN_REDUCED == 0),
            },
            cwnd_limited_until: 0,
            round_end: 0,
            counts: Counts {
                retransmitted: self.retransmitted,
                segments_sent: self.segments_sent,
                segments_received: self.segments_received,
                delivery_rate: None,
            },
            pacer: Pacer::new(self.flags & PACED != 0),
            orphan: false,
        }
    }
}

//! A connection in the synchronized states: its parts, and what its owner does to it.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{Config, SocketOptions},
    error::Failure,
    info::{Protocol, SocketInfo, State, TcpInfo},
    link::StreamLink,
    seq::SeqNum,
    tcp::{
        Context,
        congestion::{self, CongestionControl},
        liveness::Patience,
        negotiated::Negotiated,
        pacing::Pacer,
        path_mtu::{BlackHole, Path, PathMtu},
        recovery::{Mode, Recovery},
        recv::Recv,
        rtt::RttEstimator,
        send::Send,
        state::{self, Event},
        timers::{Timer, Timers},
    },
    time::Time,
    wire::options::Timestamps,
};

/// What the peer's segments are taken to hold before any has come (Linux: `tcp_initialize_rcv_mss`).
const RCV_MSS_INITIAL: u16 = 536;

/// The receive buffer grows no more often.
const TUNING_MIN: Duration = Duration::from_millis(1);

/// A path that is faster than this does not leave the machine.
const LOCAL_RTT: Duration = Duration::from_micros(100);

/// What autotuning gives the send buffer of such a connection: in 100 µs it is sent at 80 Gbit/s.
const LOCAL_SEND_BUFFER: usize = 1 << 20;

/// A connection in ESTABLISHED or a later state.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: Arc<StreamLink>,
    pub(crate) state: State,
    pub(super) snd: Send,
    pub(super) rcv: Recv,
    pub(super) agreed: Negotiated,
    pub(super) options: SocketOptions,
    pub(super) rtt: RttEstimator,
    pub(super) recovery: Recovery,
    pub(super) cc: Box<dyn CongestionControl>,
    pub(super) timers: Timers,
    pub(super) ts: TsClock,
    /// IP and TCP header bytes, without options.
    pub(super) overhead: u16,
    pub(super) path: PathMtu,
    pub(super) black_hole: Option<BlackHole>,
    pub(super) patience: Patience,
    /// When a segment of the peer's last came.
    pub(super) heard_at: Time,
    /// When data was last sent.
    pub(super) data_sent_at: Time,
    /// When a segment that deserved no better last got an acknowledgement (RFC 5961 §7).
    pub(super) challenged_at: Option<Time>,
    /// A soft error that ICMP told of (RFC 5461): what a timeout is reported as.
    pub(super) soft_error: Option<Failure>,
    pub(super) pending: Pending,
    pub(super) ecn: EcnState,
    /// cwnd was the limit up to this position.
    pub(super) cwnd_limited_until: u64,
    /// The end of the current round trip, by which cwnd growth is counted.
    pub(super) round_end: u64,
    pub(super) counts: Counts,
    pub(super) pacer: Pacer,
    /// No handle exists any more.
    pub(super) orphan: bool,
}

/// What is to be sent besides data.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The pipe may have more than we took.
    pub(super) pull: bool,
    /// What is queued goes out without waiting to become a full segment.
    pub(super) push: bool,
    /// A tail loss probe is due.
    pub(super) loss_probe: bool,
    /// A zero-window probe is due.
    pub(super) window_probe: bool,
    /// A keep-alive probe is due.
    pub(super) keepalive: bool,
    /// A reset goes behind what can be sent at once.
    pub(super) parting: bool,
    pub(super) reset: Option<Reset>,
}

impl Pending {
    /// Whether there is anything; a pull that found nothing is none.
    pub(super) const fn is_any(&self) -> bool {
        self.loss_probe
            || self.window_probe
            || self.keepalive
            || self.parting
            || self.reset.is_some()
    }
}

/// Which reset is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reset {
    /// We abort, at this sequence number.
    Abort(SeqNum),
    /// The answer to a segment with this acknowledgement.
    Refuse(SeqNum),
}

/// Explicit congestion notification (RFC 3168 §6.1).
#[derive(Debug, Default)]
pub(super) struct EcnState {
    /// We saw a mark and echo it until the peer has reduced its window.
    pub(super) echo: bool,
    /// We reduced ours and tell it on the next new data.
    pub(super) reduced: bool,
    /// No second reduction before something behind this position is acknowledged.
    pub(super) reduced_until: u64,
}

/// Totals for [`TcpInfo`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) retransmitted: u64,
    pub(super) segments_sent: u64,
    pub(super) segments_received: u64,
    pub(super) delivery_rate: Option<u64>,
}

/// The timestamp clock (RFC 7323 §3 to §5): milliseconds with an offset of the connection's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TsClock {
    pub(crate) offset: u32,
    /// TS.Recent.
    pub(crate) recent: u32,
    pub(crate) recent_at: Time,
}

impl TsClock {
    /// TSval at `now`.
    pub(crate) fn val(&self, now: Time) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.offset)
    }

    pub(crate) fn option(&self, now: Time) -> Timestamps {
        Timestamps {
            val: self.val(now),
            ecr: self.recent,
        }
    }

    /// Whether `val` is older than what came before (PAWS). After 24 days of silence nothing is
    /// known (§5.5).
    pub(crate) fn is_old(&self, val: u32, now: Time) -> bool {
        const OUTDATED: Duration = Duration::from_secs(24 * 24 * 3600);
        (self.recent.wrapping_sub(val) as i32) > 0 && now.since(self.recent_at) <= OUTDATED
    }

    /// The round-trip time that an echo tells, if it can be believed.
    pub(crate) fn rtt(&self, echo: u32, now: Time) -> Option<Duration> {
        let millis = self.val(now).wrapping_sub(echo);
        (millis < 1 << 24).then(|| Duration::from_millis(u64::from(millis.max(1))))
    }
}

/// What the handshake has found out.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) iss: SeqNum,
    pub(crate) irs: SeqNum,
    pub(crate) agreed: Negotiated,
    pub(crate) ts: TsClock,
    /// The peer's window, scaled as its segment was.
    pub(crate) wnd: u32,
    /// The largest window so far. A SYN that we answered does not count, as on Linux: the
    /// acknowledgement of our SYN-ACK tells.
    pub(crate) max_wnd: u32,
    /// The right edge of the window that our SYN advertised.
    pub(crate) advertised: u16,
    /// How long the handshake took, when nothing of it was sent twice.
    pub(crate) rtt: Option<Duration>,
    pub(crate) path: Path,
}

/// How long an orphan may wait for an acknowledgement: as long as so many retransmissions take from
/// the least timeout on, whatever this connection's is (Linux: `tcp_model_timeout`).
fn orphan_limit(config: &Config) -> Duration {
    const BASE: Duration = Duration::from_millis(200);
    const DOUBLINGS: u32 = 9;
    const LONGEST: Duration = Duration::from_secs(120);
    let retries = u32::from(config.orphan_retries);
    let doubled = BASE * ((2 << retries.min(DOUBLINGS)) - 1);
    doubled + LONGEST * retries.saturating_sub(DOUBLINGS)
}

impl Connection {
    /// A connection whose SYN and SYN-ACK are acknowledged, both ways.
    pub(crate) fn new(
        link: Arc<StreamLink>,
        options: SocketOptions,
        from: &Established,
        cx: &Context<'_>,
    ) -> Self {
        let (config, now) = (cx.config, cx.now);
        let mut snd = Send::new(from.iss);
        let mut rcv = Recv::new(from.irs, now);
        if let Some((snd_shift, rcv_shift)) = from.agreed.shifts {
            (snd.shift, rcv.shift) = (snd_shift, rcv_shift);
        }
        (snd.wnd, snd.max_wnd) = (from.wnd, from.max_wnd);
        rcv.adv = 1 + u64::from(from.advertised);
        let mut rtt = RttEstimator::new(config.rto_min, config.rto_max);
        match from.rtt {
            Some(sample) => rtt.on_sample(sample, now),
            None => rtt.on_syn_timeout(),
        }
        let mut connection = Self {
            link,
            state: State::Established,
            snd,
            rcv,
            agreed: from.agreed,
            options,
            rtt,
            recovery: Recovery::new(now),
            cc: congestion::new(options.congestion, 536, config),
            timers: Timers::default(),
            ts: from.ts,
            overhead: if from.path.is_v6 { 60 } else { 40 },
            path: from.path.mtu,
            black_hole: None,
            patience: Patience {
                since: now,
                ..Patience::default()
            },
            heard_at: now,
            data_sent_at: now,
            challenged_at: None,
            soft_error: None,
            pending: Pending::default(),
            ecn: EcnState::default(),
            cwnd_limited_until: 0,
            round_end: 0,
            counts: Counts::default(),
            pacer: Pacer::default(),
            orphan: false,
        };
        connection.set_mss();
        connection.cc =
            congestion::new(options.congestion, u32::from(connection.snd.mss), cx.config);
        connection.pacer.always = config.pacing;
        connection.rcv.mss = connection.snd.mss.min(RCV_MSS_INITIAL);
        connection.restart_keepalive(now);
        connection
    }

    /// Snd.Wind.Shift.
    pub(crate) fn send_shift(&self) -> u8 {
        self.snd.shift
    }

    /// The peer waits for the last acknowledgement of the handshake.
    pub(crate) fn acknowledge(&mut self) {
        self.rcv.ack.now = true;
    }

    /// Whether a segment with this number is in flight, as an ICMP error claims (RFC 5927 §4).
    pub(crate) fn has_in_flight(&self, seq: SeqNum) -> bool {
        let una = self.snd.seq(self.snd.una);
        let flight = self.snd.flight_size().min(u64::from(u32::MAX)) as u32;
        seq.in_window(una, flight)
    }

    /// What a timeout is reported as, since ICMP told of it (RFC 5461).
    pub(crate) fn set_soft_error(&mut self, failure: Failure) {
        self.soft_error = Some(failure);
    }

    /// The owner rang: options, data, shutdown, room in the receive buffer, or the end.
    pub(crate) fn on_rung(&mut self, cx: &mut Context<'_>) {
        if let Some(options) = self.link.take_options() {
            self.set_options(options, cx);
        }
        self.pending.pull = true;
        self.pull(cx);
        if let Some(closing) = self.link.closed_by_owner()
            && !self.orphan
        {
            self.on_close(closing.unread, cx);
        }
        self.tune_receive_buffer(cx.now, cx.config);
        if self.window_opened() || self.rcv.owes_ack_when_read() && self.link.recv.queued() == 0 {
            self.rcv.ack.now = true;
        }
    }

    fn set_options(&mut self, options: SocketOptions, cx: &mut Context<'_>) {
        let old = std::mem::replace(&mut self.options, options);
        if old.congestion != options.congestion {
            self.cc = congestion::new(options.congestion, u32::from(self.snd.mss), cx.config);
        }
        if old.mss != options.mss {
            self.set_mss();
        }
        if old.keepalive != options.keepalive {
            self.restart_keepalive(cx.now);
        }
        if options.nodelay && !old.nodelay {
            // It lets out what waits now, even behind a cork (Linux: `TCP_NODELAY`).
            self.pull(cx);
            self.pending.push = self.snd.unsent() > 0;
        }
        if old.quickack != options.quickack || old == options {
            // Set again it counts again: what we answer has us delay acknowledgements meanwhile.
            self.rcv.set_quickack(options.quickack);
        }
        if let Some(bytes) = options
            .recv_buffer
            .filter(|_| old.recv_buffer != options.recv_buffer)
        {
            self.link.recv.set_capacity(bytes);
        }
        if let Some(bytes) = options
            .send_buffer
            .filter(|_| old.send_buffer != options.send_buffer)
        {
            self.link.send.set_capacity(bytes, cx.wakes);
        }
    }

    /// Takes from the pipe what was written, and the FIN behind it.
    pub(super) fn pull(&mut self, cx: &mut Context<'_>) {
        if !self.pending.pull || self.snd.fin.is_some() {
            return;
        }
        // Small writes stay in the pipe, where they grow together, until they can be sent. After a
        // shutdown nothing comes behind them, and the state must change at once.
        let plenty = self.snd.unsent() >= 1 << 17;
        if plenty && !self.link.send.shutdown_requested() {
            return;
        }
        self.pending.pull = false;
        let segment = self.burst_limit(self.current_mss());
        self.link.send.take(segment, &mut self.snd.queue, cx.wakes);
        if self.link.send.is_shutdown() {
            self.snd.fin = Some(self.snd.data_end());
            self.transition(Event::FinQueued);
        }
    }

    /// CLOSE without anybody left who could read (RFC 9293 §3.6.1, RFC 2525 §2.17).
    fn on_close(&mut self, unread: bool, cx: &mut Context<'_>) {
        self.orphan = true;
        let linger_zero = self.options.linger == Some(Duration::ZERO);
        if linger_zero || unread {
            // What was written before is not lost for it, as far as windows let it out: Linux sends
            // it when it is written.
            self.pending.parting = self.snd.unsent() > 0 || self.snd.fin_unsent();
            if !self.pending.parting {
                self.abort(Failure::Aborted, cx);
            }
        } else if self.state == State::FinWait2 {
            self.timers
                .start(Timer::Limit, cx.now + cx.config.fin_timeout);
        } else if self.options.user_timeout.is_none() {
            self.timers
                .start(Timer::Limit, cx.now + orphan_limit(cx.config));
        }
    }

    /// An orphan's time is over, if nothing was acknowledged in it.
    fn on_limit(&mut self, cx: &mut Context<'_>) {
        let until = self.patience.since + orphan_limit(cx.config);
        if self.state != State::FinWait2 && until > cx.now {
            return self.timers.start(Timer::Limit, until);
        }
        cx.counters.timed_out += 1;
        self.fail(self.soft_error.unwrap_or(Failure::TimedOut), cx);
    }

    /// ABORT (RFC 9293 §3.10.5): a reset, and nothing more.
    pub(crate) fn abort(&mut self, failure: Failure, cx: &mut Context<'_>) {
        match self.state {
            State::Closed | State::TimeWait => return,
            // Both sides have said that they are done; if we have not really, the peer is told.
            State::Closing | State::LastAck if !self.snd.fin_unsent() => {}
            _ => self.pending.reset = Some(self.abort_reset()),
        }
        self.fail(failure, cx);
    }

    /// As [`abort`](Self::abort), behind what went out at the last: the peer is told in every state,
    /// for nothing of that will be sent again.
    pub(super) fn part(&mut self, cx: &mut Context<'_>) {
        self.pending.parting = false;
        self.pending.reset = Some(self.abort_reset());
        self.fail(Failure::Aborted, cx);
    }

    fn abort_reset(&self) -> Reset {
        Reset::Abort(self.snd.seq(self.snd.nxt.min(self.snd.right_edge())))
    }

    /// The peer sends more to somebody who has left: a reset that it must believe, whatever of
    /// ours is on its way (RFC 9293 §3.6.1, RFC 2525 §2.17).
    pub(super) fn refuse(&mut self, ack: SeqNum, cx: &mut Context<'_>) {
        self.pending.reset = Some(Reset::Refuse(ack));
        self.fail(Failure::Aborted, cx);
    }

    /// The connection ends with `failure`, without a word to the peer.
    pub(super) fn fail(&mut self, failure: Failure, cx: &mut Context<'_>) {
        self.transition(Event::Reset);
        self.link.fail(failure, cx.wakes);
    }

    pub(super) fn transition(&mut self, event: Event) {
        let next = state::next(self.state, event);
        if next == self.state {
            return;
        }
        tracing::debug!(from = %self.state, to = %next, "state");
        self.state = next;
        match next {
            State::Closed | State::TimeWait => {
                self.timers = Timers::default();
                self.snd.queue.clear();
                self.forget_out_of_order();
                self.link.set_closed();
            }
            _ => {}
        }
    }

    /// Whether the engine is to forget it: everything is sent and said.
    pub(crate) fn is_finished(&self) -> bool {
        self.state == State::Closed && self.pending.reset.is_none()
    }

    /// Nobody owns it any more: it goes by itself.
    pub(crate) fn is_orphan(&self) -> bool {
        self.orphan
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.timers.next().map(|(_, at)| at)
    }

    /// What it remembers when it enters TIME-WAIT.
    pub(crate) fn time_wait(&self) -> (SeqNum, SeqNum, u16, TsClock, bool) {
        let wnd = (self.rcv.wnd() >> self.rcv.shift).min(u64::from(u16::MAX)) as u16;
        (
            self.snd.seq(self.snd.nxt),
            self.rcv.seq(self.rcv.nxt),
            wnd,
            self.ts,
            self.agreed.timestamps,
        )
    }

    /// A timer is due.
    pub(crate) fn on_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some(timer) = self.timers.pop_due(cx.now) {
            match timer {
                Timer::Retransmit => self.on_retransmission_timeout(cx),
                Timer::LossProbe => self.on_probe_timeout(cx),
                Timer::Reorder => self.on_reorder_timeout(cx),
                Timer::ZeroWindowProbe => self.on_window_probe_timeout(cx),
                Timer::DelayedAck => self.rcv.on_ack_timeout(),
                Timer::KeepAlive => self.on_keepalive_timeout(cx),
                Timer::Limit => self.on_limit(cx),
                Timer::Pacing => {}
            }
        }
    }

    /// Dynamic right-sizing: the buffer holds twice what the application reads in a round trip.
    pub(super) fn tune_receive_buffer(&mut self, now: Time, config: &Config) {
        // The ticks of timestamps are as fine as Linux measures it: a faster sender is not held back
        // by the window then, and sends when it writes, not when we acknowledge.
        if now < self.rcv.tuning.since + TUNING_MIN || self.options.recv_buffer.is_some() {
            return;
        }
        let round = self.rtt.srtt().unwrap_or(Duration::from_millis(100));
        if now < self.rcv.tuning.since + round {
            return;
        }
        let look = self.link.recv.look();
        let tuning = &mut self.rcv.tuning;
        let copied = look.consumed - tuning.consumed;
        (tuning.since, tuning.consumed) = (now, look.consumed);
        if copied > tuning.space {
            let mss = u64::from(self.rcv.mss);
            // Twice what was read, for what is on its way meanwhile; and if that grew since, as
            // much more as the sender will have grown in two round trips, or it is the window that
            // ends its slow start (Linux: `tcp_rcv_space_adjust`).
            let before = tuning.space.max(10 * mss);
            let room = 2 * copied + 16 * mss;
            let growth = room.saturating_mul(copied.saturating_sub(before)) / before;
            let room = usize::try_from(room.saturating_add(2 * growth)).unwrap_or(usize::MAX);
            tuning.space = copied;
            let room = room.min(config.recv_buffer_max);
            if room > look.capacity {
                self.link.recv.set_capacity(room);
                self.rcv.on_growth(room - look.capacity);
            }
        }
    }

    /// The send buffer holds three windows. A loss keeps what is in flight from leaving it for a
    /// round trip, in which all but another window goes out; and a writer is woken no earlier than
    /// when a third is free. It never shrinks with the window: that is when it is needed.
    ///
    /// On a path within the machine a window says nothing, for it grows until the peer's buffer is
    /// full: there the limit is what stays in a processor's cache, which is more than such a path
    /// needs.
    pub(super) fn tune_send_buffer(&self, cx: &mut Context<'_>) {
        if self.options.send_buffer.is_none() {
            let room = 3 * self.cc.window() as usize;
            let is_local = self.rtt.min_rtt().is_some_and(|rtt| rtt < LOCAL_RTT);
            let max = if is_local {
                cx.config.send_buffer_max.min(LOCAL_SEND_BUFFER)
            } else {
                cx.config.send_buffer_max
            };
            let max = max.max(cx.config.send_buffer);
            self.link.send.grow_capacity(room, max, cx.wakes);
        }
    }

    /// Bytes up to the urgent mark that the application has not read (MUST-33).
    fn urgent_left(&self) -> Option<u64> {
        let mark = self.rcv.urgent?;
        let read = self.link.recv.consumed() + 1;
        mark.checked_sub(read).filter(|left| *left > 0)
    }

    /// A line of the netstat view.
    pub(crate) fn socket_info(&self, now: Time) -> SocketInfo {
        SocketInfo {
            protocol: Protocol::Tcp,
            state: self.state,
            local: self.link.local_addr(),
            peer: Some(self.link.peer()),
            recv_queue: self.link.recv.queued(),
            send_queue: self.link.send.queued(),
            half_open: 0,
            timer: self
                .timers
                .next()
                .map(|(timer, at)| (timer.kind(), at.since(now))),
            owned: !self.orphan,
        }
    }

    /// The fields of `TCP_INFO`.
    pub(crate) fn tcp_info(&self) -> TcpInfo {
        TcpInfo {
            state: self.state,
            local: self.link.local_addr(),
            peer: self.link.peer(),
            snd_mss: u32::from(self.snd.mss),
            rcv_mss: u32::from(self.rcv.mss),
            snd_wnd: self.snd.wnd,
            rcv_wnd: self.rcv.wnd().min(u64::from(u32::MAX)) as u32,
            snd_shift: self.snd.shift,
            rcv_shift: self.rcv.shift,
            sack: self.agreed.sack,
            timestamps: self.agreed.timestamps,
            ecn: self.agreed.ecn,
            cwnd: self.cc.window(),
            ssthresh: self.cc.ssthresh(),
            srtt: self.rtt.srtt(),
            rttvar: self.rtt.rttvar(),
            min_rtt: self.rtt.min_rtt(),
            rto: self.rtt.rto(),
            in_flight: self.recovery.in_flight(),
            lost: self.recovery.board.lost(),
            retransmitted: self.counts.retransmitted,
            acked: self.snd.una.saturating_sub(1),
            received: self.rcv.nxt.saturating_sub(1),
            out_of_order: self.rcv.assembler.len(),
            segments_sent: self.counts.segments_sent,
            segments_received: self.counts.segments_received,
            backoff: self.rtt.backoff(),
            delivery_rate: self.counts.delivery_rate,
            congestion: self.cc.name(),
            recovery: match self.recovery.mode {
                Mode::Open => "open",
                Mode::Cwr { .. } => "cwr",
                Mode::Fast { .. } => "recovery",
                Mode::Rto { .. } => "loss",
            },
            path_mtu: self.path.mtu,
            urgent: self.urgent_left(),
            soft_error: self
                .soft_error
                .map(|failure| std::io::Error::from(failure).kind()),
        }
    }
}

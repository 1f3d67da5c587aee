//! What an acknowledgement, or the absence of one, says about what we sent: the scoreboard, the
//! round-trip time, loss recovery, and the timers behind them.

use std::time::Duration;

use crate::{
    error::Failure,
    info::State,
    tcp::{
        Context, Segment,
        congestion::{Ack, Cause},
        connection::Connection,
        recovery::{DUP_THRESH, Delivery, Mode, Prr},
        state::Event,
        timers::Timer,
    },
    time::Time,
    wire::tcp::Flags,
};

/// A single segment in flight may meet a delayed acknowledgement (RFC 8985 §7.2).
const DELAYED_ACK_MAX: Duration = Duration::from_millis(200);

/// Probes of a zero window are at most this far apart.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// What one acknowledgement changed.
#[derive(Debug)]
struct Outcome {
    /// Bytes by which SND.UNA moved.
    acked: u64,
    /// FlightSize before.
    flight: u64,
    delivery: Delivery,
    /// It repeats the last one, and says nothing but that a segment arrived.
    duplicate: bool,
    dsack: Option<u64>,
}

impl Connection {
    /// An acceptable acknowledgement, of `una` or anything after it.
    pub(super) fn on_ack(
        &mut self,
        ack: u64,
        seg: &Segment,
        window_changed: bool,
        cx: &mut Context<'_>,
    ) {
        let outcome = self.mark_delivered(ack, seg, window_changed, cx);
        if outcome.acked > 0 {
            self.on_progress(&outcome, cx);
        }
        self.sample_rtt(&outcome, seg, cx.now);
        let rate = self.recovery.on_delivery(&outcome.delivery, cx.now);
        if let Some((rate, _)) = rate {
            self.counts.delivery_rate = Some(rate);
        }
        self.check_spurious(&outcome, seg, cx);
        self.check_probe(ack, &outcome, cx.now);
        self.check_ecn(seg, &outcome, cx.now);
        self.run_recovery(&outcome, cx);
        self.grow_window(&outcome, rate, cx);
        self.set_loss_timers(outcome.acked > 0, cx.now);
        self.check_fin_acked(cx);
    }

    /// Tells the scoreboard what arrived, by the number and by the SACK blocks.
    fn mark_delivered(
        &mut self,
        ack: u64,
        seg: &Segment,
        window_changed: bool,
        cx: &mut Context<'_>,
    ) -> Outcome {
        let (flight, una, now) = (self.snd.flight_size(), self.snd.una, cx.now);
        let mut delivery = Delivery::new(self.recovery.board.high_delivered, self.rtt.min_rtt());
        let echo = seg
            .header
            .options
            .timestamps
            .filter(|_| self.agreed.timestamps)
            .map(|ts| ts.ecr);
        let echo_is_old = echo.is_some_and(|echo| self.recovery.echo_tells_of_original(echo));
        let mut board = std::mem::take(&mut self.recovery.board);
        let recovery = &mut self.recovery;
        let mut bytes = board.ack_to(ack, |sent| {
            recovery.on_delivered(sent, &mut delivery, echo_is_old, now)
        });
        let mut dsack = None;
        if self.agreed.sack {
            for (index, (left, right)) in seg.header.options.sack.iter().copied().enumerate() {
                let (Some(start), Some(end)) = (self.snd.position(left), self.snd.position(right))
                else {
                    continue;
                };
                if index == 0 && is_dsack(start, end, ack, seg, &self.snd) {
                    dsack = Some(end - start);
                } else if ack < end && start < end && end <= self.snd.nxt && start >= ack.min(start)
                {
                    let block = start.max(ack)..end;
                    bytes += board.sack(block, |sent| {
                        recovery.on_delivered(sent, &mut delivery, echo_is_old, now)
                    });
                }
            }
        }
        self.recovery.board = board;
        delivery.bytes = bytes;
        self.snd.una = ack;
        let acked = ack - una;
        // RFC 5681 §2: outstanding data, no data in it, no SYN or FIN, same number, same window.
        let duplicate =
            acked == 0 && flight > 0 && seg.seq_len() == 0 && !window_changed && dsack.is_none();
        Outcome {
            acked,
            flight,
            delivery,
            duplicate,
            dsack,
        }
    }

    /// SND.UNA moved.
    fn on_progress(&mut self, outcome: &Outcome, cx: &mut Context<'_>) {
        let data_end = self.snd.data_end();
        let data_acked = self.snd.una.min(data_end) - 1;
        let released = data_acked.saturating_sub(self.snd.queue.start());
        // The slices go first, so that their blocks can be used again.
        self.snd.queue.advance_to(data_acked);
        self.link.send.release(released as usize, cx.wakes);
        self.rtt.reset_backoff();
        self.retries = 0;
        self.probes = 0;
        self.soft_error = None;
        self.stalled_since = cx.now;
        if self.recovery.dup_acked > 0 {
            let beyond = outcome.acked.saturating_sub(u64::from(self.snd.mss));
            self.recovery.dup_acked = self
                .recovery
                .dup_acked
                .saturating_sub(beyond.max(1))
                .min(self.max_dup_acked());
        }
    }

    /// RFC 6298 §3 and §4; Karn's rule: never from a segment that was sent twice, unless the
    /// timestamp tells which of the two it was.
    fn sample_rtt(&mut self, outcome: &Outcome, seg: &Segment, now: Time) {
        let sample = match outcome.delivery.oldest_sent_at {
            Some(sent_at) => Some(now.since(sent_at)),
            None if outcome.acked > 0 && self.agreed.timestamps => seg
                .header
                .options
                .timestamps
                .filter(|ts| ts.ecr != 0)
                .and_then(|ts| self.ts.rtt(ts.ecr, now)),
            None => None,
        };
        if let Some(sample) = sample {
            self.rtt.on_sample(sample, now);
        }
    }

    /// Whether what recovery did was for nothing: then it is undone.
    fn check_spurious(&mut self, outcome: &Outcome, seg: &Segment, cx: &mut Context<'_>) {
        let by_dsack = outcome.dsack.is_some_and(|bytes| {
            self.recovery
                .widen_reordering_window(self.snd.una, self.snd.nxt);
            self.recovery.on_dsack(bytes)
        });
        let echo = seg
            .header
            .options
            .timestamps
            .filter(|ts| self.agreed.timestamps && ts.ecr != 0);
        let by_echo = outcome.acked > 0
            && !self.recovery.is_open()
            && echo.is_some_and(|ts| self.recovery.echo_tells_of_original(ts.ecr));
        if !by_dsack && !by_echo {
            return;
        }
        tracing::debug!(by_dsack, by_echo, "spurious recovery undone");
        cx.counters.spurious_recoveries += 1;
        self.recovery.board.unmark_lost();
        self.recovery.undo = None;
        self.recovery.on_exit();
        self.cc.on_spurious(cx.now);
    }

    /// The end of a tail loss probe (RFC 8985 §7.4): whether it repaired a loss.
    fn check_probe(&mut self, ack: u64, outcome: &Outcome, now: Time) {
        let Some(probe) = self.recovery.probe else {
            return;
        };
        if ack < probe.end {
            return;
        }
        self.recovery.probe = None;
        let repaired = probe.retransmitted && outcome.dsack.is_none();
        if repaired && ack > probe.end && self.recovery.is_open() {
            self.cc
                .on_congestion(saturate(outcome.flight), Cause::Loss, now);
            self.cc.on_recovery_exit(now);
        }
    }

    /// RFC 3168 §6.1.2: an echoed mark counts like a loss, once in a window of data.
    fn check_ecn(&mut self, seg: &Segment, outcome: &Outcome, now: Time) {
        let echoed = self.agreed.ecn && seg.header.flags.has(Flags::ECE);
        if echoed
            && self.recovery.is_open()
            && self.snd.una > self.ecn.reduced_until
            && outcome.acked > 0
        {
            self.ecn.reduced_until = self.snd.nxt;
            self.ecn.reduced = true;
            self.cc
                .on_congestion(saturate(outcome.flight), Cause::Ecn, now);
            self.cc.on_recovery_exit(now);
        }
    }

    /// Looks for losses, begins, continues or ends an episode.
    fn run_recovery(&mut self, outcome: &Outcome, cx: &mut Context<'_>) {
        let before = self.recovery.board.lost();
        if self.agreed.sack {
            self.detect_loss(cx);
        } else {
            self.count_duplicate(outcome, cx.now);
        }
        let fresh_loss = self.recovery.board.lost() > before;
        match &mut self.recovery.mode {
            Mode::Open => {}
            Mode::Fast { recovery_point, .. } | Mode::Rto { recovery_point }
                if self.snd.una >= *recovery_point =>
            {
                self.recovery.on_exit();
                self.cc.on_recovery_exit(cx.now);
            }
            Mode::Rto { .. } => {}
            Mode::Fast { prr, .. } => {
                if !self.agreed.sack && outcome.acked > 0 {
                    // RFC 6582 §3.2: a partial acknowledgement shows the next hole.
                    self.recovery.board.mark_head_lost(u64::from(self.snd.mss));
                }
                let delivered = match (self.agreed.sack, outcome.duplicate) {
                    (false, true) => u64::from(self.snd.mss),
                    _ => outcome.delivery.bytes,
                };
                let in_flight = self
                    .recovery
                    .board
                    .in_flight()
                    .saturating_sub(self.recovery.dup_acked);
                prr.on_ack(
                    delivered,
                    in_flight,
                    outcome.acked > 0 && !fresh_loss,
                    u64::from(self.snd.mss),
                );
            }
        }
    }

    /// NewReno's way to find a loss: the third duplicate (RFC 5681 §3.2).
    fn count_duplicate(&mut self, outcome: &Outcome, now: Time) {
        if !outcome.duplicate {
            return;
        }
        let mss = u64::from(self.snd.mss);
        self.recovery.dup_acked = (self.recovery.dup_acked + mss).min(self.max_dup_acked());
        if self.recovery.is_open() && self.recovery.dup_acked >= DUP_THRESH * mss {
            self.recovery.board.mark_head_lost(mss);
            self.enter_fast_recovery(outcome.flight, now);
        }
    }

    /// Duplicates cannot stand for more than what is out, less the one that is missing
    /// (threat: duplicate-ACK spoofing).
    fn max_dup_acked(&self) -> u64 {
        self.recovery
            .board
            .in_flight()
            .saturating_sub(u64::from(self.snd.mss))
            .max(DUP_THRESH * u64::from(self.snd.mss))
    }

    /// RACK: marks what is lost by now, and looks again when more may be.
    pub(super) fn detect_loss(&mut self, cx: &mut Context<'_>) {
        let (lost, again) = self
            .recovery
            .detect_lost(&self.rtt, u64::from(self.snd.mss), cx.now);
        match again {
            Some(after) => self.timers.start(Timer::Reorder, cx.now + after),
            None => self.timers.stop(Timer::Reorder),
        }
        if lost && self.recovery.is_open() {
            self.enter_fast_recovery(self.snd.flight_size(), cx.now);
        }
    }

    fn enter_fast_recovery(&mut self, flight: u64, now: Time) {
        self.cc.on_congestion(saturate(flight), Cause::Loss, now);
        let prr = Prr::new(flight, u64::from(self.cc.ssthresh()));
        tracing::debug!(flight, ssthresh = self.cc.ssthresh(), "fast recovery");
        self.recovery.mode = Mode::Fast {
            recovery_point: self.snd.nxt,
            prr,
        };
        self.recovery.begin_episode(self.snd.una);
        if let Mode::Fast { prr, .. } = &mut self.recovery.mode {
            prr.on_ack(
                0,
                self.recovery.board.in_flight(),
                false,
                u64::from(self.snd.mss),
            );
        }
        self.ecn.reduced = self.agreed.ecn;
        self.ecn.reduced_until = self.snd.nxt;
    }

    /// cwnd grows by what was delivered, where it was the limit.
    fn grow_window(&mut self, outcome: &Outcome, rate: Option<(u64, bool)>, cx: &mut Context<'_>) {
        if outcome.delivery.bytes == 0 {
            return;
        }
        let round_start = self.snd.una > self.round_end;
        if round_start {
            self.round_end = self.snd.nxt;
        }
        let ack = Ack {
            delivered: saturate(outcome.delivery.bytes),
            flight_size: saturate(outcome.flight),
            rtt: outcome.delivery.newest_sent_at.map(|at| cx.now.since(at)),
            srtt: self.rtt.srtt(),
            min_rtt: self.rtt.min_rtt(),
            delivery_rate: rate.map(|(rate, _)| rate),
            app_limited: self.snd.una > self.cwnd_limited_until,
            round_start,
            in_recovery: matches!(self.recovery.mode, Mode::Fast { .. }),
        };
        self.cc.on_ack(&ack, cx.now);
        self.tune_send_buffer(cx);
    }

    /// The retransmission timer and the probe timer (RFC 6298 §5, RFC 8985 §7.2).
    pub(super) fn set_loss_timers(&mut self, restart: bool, now: Time) {
        if self.recovery.board.is_empty() {
            self.timers.stop(Timer::Retransmit);
            self.timers.stop(Timer::LossProbe);
            self.timers.stop(Timer::Reorder);
            return;
        }
        if restart || !self.timers.is_running(Timer::Retransmit) {
            self.timers.start(Timer::Retransmit, now + self.rtt.rto());
        }
        self.set_probe_timer(now);
    }

    fn set_probe_timer(&mut self, now: Time) {
        let wanted = self.agreed.sack
            && self.recovery.is_open()
            && self.recovery.probe.is_none()
            && !self.recovery.board.is_empty()
            && self.recovery.board.sacked() == 0
            && !self.timers.is_running(Timer::Reorder);
        if !wanted {
            return self.timers.stop(Timer::LossProbe);
        }
        let Some(srtt) = self.rtt.srtt() else {
            return self.timers.stop(Timer::LossProbe);
        };
        let mut pto = 2 * srtt;
        if self.snd.flight_size() <= u64::from(self.snd.mss) {
            pto += DELAYED_ACK_MAX;
        }
        // Linux: TCP_TIMEOUT_MIN, two ticks.
        let at = now + pto.max(Duration::from_millis(2));
        self.timers.start(Timer::LossProbe, at);
    }

    /// The probe timeout: the tail may be lost (RFC 8985 §7.3).
    pub(super) fn on_probe_timeout(&mut self, cx: &mut Context<'_>) {
        if !self.recovery.board.is_empty() && self.recovery.is_open() {
            self.pending.loss_probe = true;
            self.timers
                .start(Timer::Retransmit, cx.now + self.rtt.rto());
        }
    }

    /// RFC 6298 §5.4 to §5.6, RFC 9293 §3.8.3.
    pub(super) fn on_retransmission_timeout(&mut self, cx: &mut Context<'_>) {
        if self.recovery.board.is_empty() {
            return;
        }
        cx.counters.timeouts += 1;
        if self.retries == 0 {
            self.stalled_since = self.recovery.board.head_sent_at().unwrap_or(cx.now);
        }
        // SHLD-17: beyond a window that the peer took back nothing is expected to be acknowledged.
        let shrunk = self.snd.wnd == 0 && cx.now.since(self.heard_at) < Duration::from_secs(120);
        self.retries = self.retries.saturating_add(u8::from(!shrunk));
        if self.gives_up(cx) {
            cx.counters.timed_out += 1;
            return self.fail(self.soft_error.unwrap_or(Failure::TimedOut), cx);
        }
        self.rtt.back_off();
        let first = !matches!(self.recovery.mode, Mode::Rto { .. }) || self.retries <= 1;
        if first && !shrunk {
            self.cc.on_rto(saturate(self.snd.flight_size()), cx.now);
        }
        if !matches!(self.recovery.mode, Mode::Rto { .. }) {
            self.recovery.begin_episode(self.snd.una);
        }
        tracing::debug!(retries = self.retries, rto = ?self.rtt.rto(), "retransmission timeout");
        // RFC 2018 §8: if what comes first was SACKed, the peer has thrown it away.
        let reneged = self.recovery.board.first_is_sacked();
        self.recovery.board.mark_all_lost(reneged);
        self.recovery.mode = Mode::Rto {
            recovery_point: self.snd.nxt,
        };
        self.recovery.probe = None;
        self.recovery.dup_acked = 0;
        self.timers.stop(Timer::LossProbe);
        self.timers.stop(Timer::Reorder);
        self.timers
            .start(Timer::Retransmit, cx.now + self.rtt.rto());
    }

    /// R2 (RFC 9293 §3.8.3), or what the user set instead.
    fn gives_up(&self, cx: &Context<'_>) -> bool {
        let limit = if self.orphan {
            cx.config.orphan_retries
        } else {
            cx.config.retries
        };
        match self.options.user_timeout {
            Some(_) => self.user_timeout_is_over(cx.now),
            None => self.retries > limit,
        }
    }

    /// RFC 9293 §3.8.6.1: the window has been closed, or too small, for one interval.
    pub(super) fn on_window_probe_timeout(&mut self, cx: &mut Context<'_>) {
        if self.snd.unsent() == 0 && !self.snd.fin_unsent() || self.snd.flight_size() > 0 {
            return;
        }
        if self.probes == 0 {
            self.stalled_since = cx.now;
        }
        let silent = cx.now.since(self.heard_at) > PROBE_INTERVAL_MAX * 2;
        let limit = if self.orphan {
            cx.config.orphan_retries
        } else {
            cx.config.retries
        };
        let too_many = self.probes > limit && (silent || self.orphan);
        if too_many || self.user_timeout_is_over(cx.now) && self.probes > 0 {
            cx.counters.timed_out += 1;
            return self.abort(self.soft_error.unwrap_or(Failure::TimedOut), cx);
        }
        self.pending.window_probe = true;
        self.probes = self.probes.saturating_add(1);
        let interval = self.rtt.rto() * (1_u32 << self.probes.min(12));
        self.timers.start(
            Timer::ZeroWindowProbe,
            cx.now + interval.min(PROBE_INTERVAL_MAX),
        );
    }

    /// Our FIN, once acknowledged.
    fn check_fin_acked(&mut self, cx: &mut Context<'_>) {
        if !self.snd.fin.is_some_and(|fin| self.snd.una > fin) {
            return;
        }
        let before = self.state;
        self.transition(Event::FinAcked);
        if self.state == State::FinWait2 && before != State::FinWait2 && self.orphan {
            self.timers
                .start(Timer::Limit, cx.now + cx.config.fin_timeout);
        }
    }
}

/// RFC 2883 §4: the first block lies before the acknowledgement, or inside the second block.
fn is_dsack(start: u64, end: u64, ack: u64, seg: &Segment, snd: &crate::tcp::send::Send) -> bool {
    if start >= end {
        return false;
    }
    if end <= ack {
        return true;
    }
    let second = seg.header.options.sack.get(1).copied();
    second.is_some_and(|(left, right)| {
        snd.position(left).is_some_and(|left| left <= start)
            && snd.position(right).is_some_and(|right| end <= right)
    })
}

fn saturate(bytes: u64) -> u32 {
    bytes.min(u64::from(u32::MAX)) as u32
}

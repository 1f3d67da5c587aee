//! What an acknowledgement says about what we sent: the scoreboard, the round-trip time, and loss
//! recovery.

use std::time::Duration;

use crate::{
    info::State,
    tcp::{
        Context, Segment,
        congestion::{Ack, Cause, RateSample},
        connection::Connection,
        recovery::{DUP_THRESH, Delivery, Frto, Mode, Prr},
        state::Event,
        timers::Timer,
    },
    time::Time,
    wire::tcp::Flags,
};

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
    /// What the peer says it received twice.
    dsack: Option<(u64, u64)>,
    /// RecoverFS of RFC 9937, if recovery begins here: what was in flight before.
    recover_flight: u64,
    /// Bytes that duplicates had told of, before.
    dup_acked: u64,
    /// Bytes marked as lost so far, before.
    lost_before: u64,
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
        if self.is_told_nothing(ack, seg) {
            return;
        }
        let outcome = self.mark_delivered(ack, seg, window_changed, cx);
        if outcome.acked > 0 {
            self.on_progress(&outcome, cx);
        }
        self.sample_rtt(&outcome, seg, cx.now);
        let sample = self.recovery.on_delivery(&outcome.delivery, cx.now);
        if let Some(rate) = sample.and_then(|sample| sample.rate) {
            self.counts.delivery_rate = Some(rate);
        }
        let marked = self.is_marked(seg, &outcome);
        self.check_spurious(&outcome, seg, cx);
        self.check_probe(&outcome, cx.now);
        let again = self.end_episode(&outcome, cx.now);
        self.run_recovery(&outcome, marked, again, cx);
        self.grow_window(&outcome, sample, cx);
        let restart = outcome.acked > 0 || self.is_slow(&outcome, cx.now);
        self.set_loss_timers(restart, cx.now);
        self.check_reneging(&outcome, cx.now);
        self.check_fin_acked(cx);
    }

    /// Whether nothing of ours is on its way and nothing is said of it: so is nearly all that who
    /// only receives gets to hear.
    fn is_told_nothing(&self, ack: u64, seg: &Segment) -> bool {
        self.snd.nxt == ack
            && self.snd.una == ack
            && self.recovery.board.is_empty()
            && self.recovery.probe.is_none()
            && self.recovery.mode == Mode::Open
            && seg.header.options.sack.is_empty()
    }

    /// An acknowledgement that another one overtook: its blocks still say what arrived (Linux does
    /// the same), its number and its window do not count any more.
    pub(super) fn on_old_ack(&mut self, seg: &Segment, cx: &mut Context<'_>) {
        if self.agreed.sack && !seg.header.options.sack.is_empty() {
            self.on_ack(self.snd.una, seg, true, cx);
        }
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
        let echo = self.echo(seg).map(|echo| (echo, self.ts));
        let mut delivery = self.recovery.delivery(self.rtt.min_rtt(), echo);
        delivery.watched = self.black_hole_disproof();
        let recover_flight = flight - self.recovery.board.sacked();
        let dup_acked = self.recovery.dup_acked;
        let lost_before = self.recovery.lost_total;
        let mss = u64::from(self.snd.mss);
        let mut bytes = self.recovery.on_number(ack, &mut delivery, now);
        let mut dsack = None;
        if self.agreed.sack {
            for (index, (left, right)) in seg.header.options.sack.iter().copied().enumerate() {
                let (Some(start), Some(end)) = (self.snd.position(left), self.snd.position(right))
                else {
                    continue;
                };
                if index == 0 && is_dsack(start, end, ack, seg, &self.snd) {
                    dsack = Some((start, end));
                } else if ack < start && start < end && end <= self.snd.nxt {
                    // A block from SND.UNA on contradicts the number (Linux:
                    // `tcp_is_sackblock_valid`).
                    let whole = self.recovery.board.whole_segments(start..end, mss);
                    if whole.is_empty() {
                        continue;
                    }
                    let sacked = self.recovery.on_block(whole, &mut delivery, now);
                    delivery.sacked += sacked;
                    bytes += sacked;
                }
            }
        }
        delivery.bytes = bytes;
        self.snd.una = ack;
        let acked = ack - una;
        // RFC 5681 §2: outstanding data, no data in it, no SYN or FIN, same number, same window.
        let duplicate = acked == 0
            && flight > 0
            && seg.seq_len() == 0
            && !window_changed
            && dsack.is_none()
            && delivery.sacked == 0;
        Outcome {
            acked,
            flight,
            delivery,
            duplicate,
            dsack,
            recover_flight,
            dup_acked,
            lost_before,
        }
    }

    /// The timestamp that a segment echoes.
    fn echo(&self, seg: &Segment) -> Option<u32> {
        let ts = seg.header.options.timestamps?;
        (self.agreed.timestamps && ts.ecr != 0).then_some(ts.ecr)
    }

    /// SND.UNA moved.
    fn on_progress(&mut self, outcome: &Outcome, cx: &mut Context<'_>) {
        let data_end = self.snd.data_end();
        let data_acked = self.snd.una.min(data_end) - 1;
        let released = data_acked.saturating_sub(self.snd.queue.start());
        // The slices go first, so that their blocks can be used again.
        self.snd.queue.advance_to(data_acked);
        self.link.send.release(released as usize, cx.wakes);
        self.regain_patience(cx.now);
        self.judge_black_hole(outcome.delivery.large, cx.now);
        if self.recovery.dup_acked > 0 {
            // The segment that was missing brought no duplicate; the others each brought one.
            let mss = u64::from(self.snd.mss);
            let beyond = outcome.acked.saturating_sub(mss);
            let left = self.recovery.dup_acked.saturating_sub(beyond);
            self.recovery.dup_acked = left.min(self.max_dup_acked());
        }
    }

    /// RFC 6298 §3 and §4; Karn's rule: never from a segment that was sent twice, unless the
    /// timestamp tells which of the two it was.
    fn sample_rtt(&mut self, outcome: &Outcome, seg: &Segment, now: Time) {
        let by_echo = || {
            let echo = self.echo(seg).filter(|_| outcome.acked > 0)?;
            let rtt = self.ts.rtt(echo, now)?;
            let twice = outcome.dsack.is_some();
            outcome.delivery.believes(rtt, twice, now).then_some(rtt)
        };
        if let Some(sample) = outcome.delivery.rtt(now).or_else(by_echo) {
            let least = outcome.delivery.newest_rtt(now).unwrap_or(sample);
            self.rtt.on_samples(sample, least.min(sample), now);
            // The RTO is one of samples again (RFC 6298 §5.7; Linux: `tcp_ack_update_rtt`).
            self.rtt.reset_backoff();
        }
    }

    /// A SACK tells of a round trip that is longer than the oldest segment is on its way: its
    /// timeout begins anew, with that sample (Linux: `tcp_clean_rtx_queue`).
    fn is_slow(&self, outcome: &Outcome, now: Time) -> bool {
        let head = self.recovery.board.head_sent_at();
        outcome.delivery.sacked > 0
            && outcome
                .delivery
                .rtt(now)
                .zip(head)
                .is_some_and(|(rtt, head)| rtt > now.since(head))
    }

    /// Whether what recovery did was for nothing: then it is undone.
    fn check_spurious(&mut self, outcome: &Outcome, seg: &Segment, cx: &mut Context<'_>) {
        // The duplicate of a tail loss probe is its answer, and no sign of reordering.
        let probe_end = self.recovery.probe.map(|probe| probe.end);
        let retransmitted = self.counts.retransmitted;
        let by_dsack = outcome.dsack.is_some_and(|(start, end)| {
            let is_ours = self
                .recovery
                .is_of_retransmission(end - start, retransmitted)
                && (end <= self.snd.una || self.recovery.board.was_sent_again(start));
            is_ours && probe_end != Some(end) && {
                self.recovery
                    .widen_reordering_window(self.snd.una, self.snd.nxt);
                self.recovery.on_dsack(start, end - start)
            }
        });
        let by_echo = outcome.acked > 0
            && !self.recovery.is_open()
            && self
                .recovery
                .acked_original(&outcome.delivery, self.echo(seg));
        // RFC 5682 §3, step 3b: not everything that the timeout gave up is lost. Without SACK the
        // retransmission may have filled the one hole before it.
        let by_frto = outcome.delivery.given_up
            && (self.agreed.sack || !outcome.delivery.retransmitted)
            && matches!(self.recovery.mode, Mode::Rto { frto, .. } if frto != Frto::Off);
        if by_dsack || by_echo || by_frto {
            tracing::debug!(by_dsack, by_echo, by_frto, "spurious recovery undone");
            cx.counters.spurious_recoveries += 1;
            let window = self.recovery.undo.is_none_or(|undo| undo.window);
            self.recovery.undo(&outcome.delivery, cx.now);
            if window {
                self.cc.on_spurious(cx.now);
                self.ecn.reduced = false;
                self.ecn.reduced_until = self.snd.una - 1;
            } else {
                self.cc.on_recovery_exit(cx.now);
            }
        }
    }

    /// The end of a tail loss probe (RFC 8985 §7.4.2): whether it repaired a loss.
    fn check_probe(&mut self, outcome: &Outcome, now: Time) {
        let Some(probe) = self.recovery.probe else {
            return;
        };
        let una = self.snd.una;
        if una < probe.end {
            return;
        }
        let of_probe = outcome.dsack.is_some_and(|(_, end)| end == probe.end);
        // Both the original and the probe arrived: the probe's answer is a D-SACK or a duplicate.
        let both =
            of_probe || una == probe.end && outcome.acked == 0 && outcome.delivery.bytes == 0;
        let repaired = probe.retransmitted && !both && una > probe.end;
        if !probe.retransmitted || both || repaired {
            self.recovery.probe = None;
        }
        if repaired && self.recovery.is_open() {
            self.end_cwr(now);
            self.cc
                .on_congestion(saturate(outcome.flight), Cause::Loss, now);
            self.cc.on_recovery_exit(now);
            self.note_reduction();
        }
    }

    /// RFC 3168 §6.1.2: the peer is told of a smaller window, whatever the reason, and there is no
    /// second reduction for marks from before it.
    pub(super) fn note_reduction(&mut self) {
        self.ecn.reduced = self.agreed.ecn;
        self.ecn.reduced_until = self.snd.nxt;
    }

    /// RFC 3168 §6.1.2: whether a mark is echoed. Any acknowledgement tells while something is in
    /// flight (Linux: `tcp_ack_is_dubious`).
    fn is_marked(&mut self, seg: &Segment, outcome: &Outcome) -> bool {
        let marked = self.agreed.ecn && seg.header.flags.has(Flags::ECE) && outcome.flight > 0;
        if marked && let Some(undo) = &mut self.recovery.undo {
            // The loss may have been none, the mark is one (Linux: `tcp_fastretrans_alert`).
            undo.window = false;
        }
        marked
    }

    /// An echoed mark counts like a loss, once in a window of data.
    fn slow_down(&mut self, outcome: &Outcome, now: Time) {
        if !self.recovery.is_open() || self.snd.una <= self.ecn.reduced_until {
            return;
        }
        let window = u64::from(self.cc.window());
        self.cc
            .on_congestion(saturate(outcome.flight), Cause::Ecn, now);
        let ssthresh = u64::from(self.cc.ssthresh());
        tracing::debug!(ssthresh, "the peer tells of congestion");
        self.recovery.mode = Mode::Cwr {
            until: self.snd.nxt,
            prr: Prr::from_window(outcome.recover_flight, ssthresh, window),
        };
        self.recovery.undo = None;
        self.recovery.probe = None;
        self.note_reduction();
    }

    /// What reduced the window for a mark is over.
    pub(super) fn end_cwr(&mut self, now: Time) {
        if matches!(self.recovery.mode, Mode::Cwr { .. }) {
            self.recovery.mode = Mode::Open;
            self.cc.on_recovery_exit(now);
        }
    }

    /// Ends an episode whose end was acknowledged. Says whether the next begins with it: what was
    /// lost and sent again in it lies behind its end. Loss in two successive windows is two
    /// indications of congestion (RFC 5681 §4.3; Linux: `lost_out` in `tcp_time_to_recover`).
    fn end_episode(&mut self, outcome: &Outcome, now: Time) -> bool {
        let una = self.snd.una;
        match self.recovery.mode {
            // The CWR bit is on what lies behind.
            Mode::Cwr { until, .. } if una > until => self.end_cwr(now),
            Mode::Rto { .. } => self.judge_timeout(outcome),
            _ => {}
        }
        if let Mode::Fast { recovery_point, .. } | Mode::Rto { recovery_point, .. } =
            self.recovery.mode
            && una >= recovery_point
        {
            self.recovery.on_exit();
            self.cc.on_recovery_exit(now);
            return self.agreed.sack && self.recovery.board.has_sent_again();
        }
        false
    }

    /// Looks for losses and marks, begins an episode or continues one.
    fn run_recovery(&mut self, outcome: &Outcome, marked: bool, again: bool, cx: &mut Context<'_>) {
        // Nothing that the blocks said is to be relied on then.
        let reneged = self.is_reneged(outcome);
        match (self.agreed.sack, reneged) {
            (true, true) => {}
            (true, false) => {
                self.detect_loss(outcome.recover_flight, cx);
                if again && self.recovery.is_open() {
                    self.enter_fast_recovery(outcome.recover_flight, cx.now);
                }
            }
            (false, _) => self.count_duplicate(outcome, cx.now),
        }
        if marked {
            self.slow_down(outcome, cx.now);
        }
        let fresh_loss = self.recovery.lost_total > outcome.lost_before;
        let mss = u64::from(self.snd.mss);
        let delivered = match (self.agreed.sack, outcome.duplicate) {
            (false, true) => mss,
            _ => outcome.delivery.bytes,
        };
        match &mut self.recovery.mode {
            Mode::Open => {}
            Mode::Cwr { prr, .. } => {
                if delivered > 0 {
                    let in_flight = self.recovery.board.in_flight();
                    let in_flight = in_flight.saturating_sub(self.recovery.dup_acked);
                    prr.on_ack(delivered, in_flight, outcome.acked > 0, mss);
                }
            }
            Mode::Rto { spared, .. } => *spared = spared.saturating_sub(delivered),
            Mode::Fast { prr, .. } if reneged => prr.hold(self.recovery.board.in_flight()),
            Mode::Fast { prr, .. } => {
                if !self.agreed.sack && outcome.acked > 0 {
                    // RFC 6582 §3.2: a partial acknowledgement shows the next hole.
                    let bytes = self.recovery.board.mark_head_lost(mss);
                    self.recovery.lost_total += bytes;
                }
                if delivered > 0 {
                    let in_flight = self.recovery.board.in_flight();
                    let in_flight = in_flight.saturating_sub(self.recovery.dup_acked);
                    prr.on_ack(delivered, in_flight, outcome.acked > 0 && !fresh_loss, mss);
                    if !self.agreed.sack && outcome.acked > 0 {
                        prr.let_one_out(in_flight, mss);
                    }
                }
            }
        }
    }

    /// F-RTO (RFC 5682 §3.1, as Linux does it with and without SACK): whether the timeout was
    /// spurious is known when the second acknowledgement after it comes.
    fn judge_timeout(&mut self, outcome: &Outcome) {
        let can_send = self.snd.unsent() > 0 && self.snd.right_edge() > self.snd.nxt;
        let Mode::Rto {
            recovery_point,
            frto,
            ..
        } = &mut self.recovery.mode
        else {
            return;
        };
        if *frto == Frto::Off {
            return;
        }
        if self.snd.nxt > *recovery_point {
            if outcome.delivery.sacked > 0 || outcome.duplicate {
                // Step 3a: new data made the peer repeat itself, so there is a hole.
                *frto = Frto::Off;
            }
        } else if outcome.acked > 0 && self.snd.una < *recovery_point {
            // Step 2b.
            *frto = if can_send { Frto::Sending } else { Frto::Off };
        }
    }

    /// NewReno's way to find a loss: the third duplicate (RFC 5681 §3.2).
    fn count_duplicate(&mut self, outcome: &Outcome, now: Time) {
        // After a timeout duplicates tell of what was sent before it, and that is given up, unless
        // new data has gone out since (Linux: `tcp_process_loss`).
        let stale = match self.recovery.mode {
            Mode::Open | Mode::Cwr { .. } => self.recovery.is_after_episode(self.snd.una),
            Mode::Fast { .. } => false,
            Mode::Rto { recovery_point, .. } => self.snd.nxt <= recovery_point,
        };
        if !outcome.duplicate || stale {
            return;
        }
        let mss = u64::from(self.snd.mss);
        self.recovery.dup_acked = (self.recovery.dup_acked + mss).min(self.max_dup_acked());
        if self.recovery.is_open() && self.recovery.dup_acked >= DUP_THRESH * mss {
            let bytes = self.recovery.board.mark_head_lost(mss);
            self.recovery.lost_total += bytes;
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

    /// The reordering timer (RFC 8985 §6.2 step 5).
    pub(super) fn on_reorder_timeout(&mut self, cx: &mut Context<'_>) {
        // Of what told of the loss one segment counts, as if it came now (Linux:
        // `tcp_rack_reo_timeout`).
        let (mss, flight) = (u64::from(self.snd.mss), self.snd.flight_size());
        let flight = flight.min(flight - self.recovery.board.sacked() + mss);
        let was_open = self.recovery.is_open();
        self.detect_loss(flight, cx);
        let in_flight = self.recovery.in_flight();
        if let Mode::Fast { prr, .. } = &mut self.recovery.mode
            && was_open
        {
            prr.on_ack(mss, in_flight, false, mss);
        }
        self.set_loss_timers(false, cx.now);
    }

    /// RACK: marks what is lost by now, and looks again when more may be.
    fn detect_loss(&mut self, recover_flight: u64, cx: &mut Context<'_>) {
        let mss = u64::from(self.snd.mss);
        let (_, again) = self.recovery.detect_lost(&self.rtt, mss, cx.now);
        match again {
            Some(after) => self.timers.start(Timer::Reorder, cx.now + after),
            None => self.timers.stop(Timer::Reorder),
        }
        if self.recovery.board.lost() > 0 && self.recovery.is_open() {
            self.enter_fast_recovery(recover_flight, cx.now);
        }
    }

    /// `flight`: what was in flight before the acknowledgement that told of the loss.
    fn enter_fast_recovery(&mut self, flight: u64, now: Time) {
        tracing::debug!(flight, "fast recovery");
        self.recovery.probe = None;
        if let Mode::Cwr { until, prr } = self.recovery.mode {
            // In a window that was reduced for a mark (RFC 3168 §6.1.2: not twice).
            self.recovery.mode = Mode::Fast {
                recovery_point: until,
                prr,
            };
            return self.recovery.begin_episode(self.snd.una, false);
        }
        let flight_size = self.snd.flight_size().max(flight);
        self.cc
            .on_congestion(saturate(flight_size), Cause::Loss, now);
        let mut prr = Prr::new(flight, u64::from(self.cc.ssthresh()));
        prr.on_ack(0, self.recovery.in_flight(), false, u64::from(self.snd.mss));
        self.recovery.mode = Mode::Fast {
            recovery_point: self.snd.nxt,
            prr,
        };
        self.recovery.begin_episode(self.snd.una, true);
        self.note_reduction();
    }

    /// RFC 2018 §8: what now comes first was SACKed before, so the peer has thrown it away. It
    /// gets half a round trip to prove the contrary (Linux: `tcp_check_sack_reneging`).
    fn check_reneging(&mut self, outcome: &Outcome, now: Time) {
        if self.is_reneged(outcome) {
            let half = self.rtt.srtt().unwrap_or_default() / 2;
            let patience = half.max(Duration::from_millis(10));
            self.timers.start(Timer::Retransmit, now + patience);
            self.timers.stop(Timer::LossProbe);
        }
    }

    fn is_reneged(&self, outcome: &Outcome) -> bool {
        outcome.acked > 0 && self.recovery.board.first_is_sacked()
    }

    /// cwnd grows by what was delivered, where it was the limit.
    fn grow_window(&mut self, outcome: &Outcome, sample: Option<RateSample>, cx: &mut Context<'_>) {
        let lost = self.recovery.lost_total - outcome.lost_before;
        if outcome.delivery.bytes == 0 && lost == 0 {
            return;
        }
        // Not by the number: that stands still while something is late, and a round that begins
        // when it jumps has lost the acknowledgements that it begins with.
        let round_start = self.recovery.board.high_delivered > self.round_end;
        if round_start {
            self.round_end = self.snd.nxt;
        }
        // What brought duplicates was delivered then; of the rest a segment at least is news (Linux:
        // `tcp_remove_reno_sacks`).
        let news = (outcome.delivery.bytes)
            .saturating_sub(outcome.dup_acked)
            .max(u64::from(self.snd.mss).min(outcome.delivery.bytes));
        let ack = Ack {
            delivered: saturate(news),
            flight_size: saturate(outcome.flight),
            in_flight: saturate(self.recovery.in_flight()),
            lost: saturate(lost),
            rtt: outcome.delivery.newest_rtt(cx.now),
            srtt: self.rtt.srtt(),
            min_rtt: self.rtt.min_rtt(),
            sample,
            app_limited: self.snd.una > self.cwnd_limited_until,
            round_start,
            reordered: self.recovery.reordering_seen(),
            in_recovery: match self.recovery.mode {
                Mode::Fast { .. } => true,
                Mode::Cwr { .. } => !self.cc.controls_recovery(),
                // Nothing may be wrong but the order; wait until it is known (Linux:
                // `tcp_may_raise_cwnd`).
                Mode::Open | Mode::Rto { .. } => {
                    let mss = u64::from(self.snd.mss);
                    outcome.acked == 0 && !self.recovery.is_far_out_of_order(mss)
                }
            },
        };
        self.cc.on_ack(&ack, cx.now);
        self.tune_send_buffer(cx);
    }

    /// Our FIN, once acknowledged.
    fn check_fin_acked(&mut self, cx: &mut Context<'_>) {
        if self.snd.fin.is_none_or(|fin| self.snd.una <= fin) {
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

pub(super) fn saturate(bytes: u64) -> u32 {
    bytes.min(u64::from(u32::MAX)) as u32
}

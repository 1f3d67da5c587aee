//! What the absence of acknowledgements says: the retransmission timer (RFC 6298 §5) and the one of
//! the tail loss probe (RFC 8985 §7).

use std::time::Duration;

use crate::{
    error::Failure,
    tcp::{
        Context,
        ack::saturate,
        connection::Connection,
        recovery::{Frto, Mode},
        timers::Timer,
    },
    time::Time,
};

/// A single segment in flight may meet a delayed acknowledgement (RFC 8985 §7.2).
const DELAYED_ACK_MAX: Duration = Duration::from_millis(200);

impl Connection {
    /// The retransmission timer and the probe timer (RFC 6298 §5, RFC 8985 §7.2): `restart` when
    /// something new was acknowledged.
    pub(super) fn set_loss_timers(&mut self, restart: bool, now: Time) {
        if self.recovery.board.is_empty() {
            self.timers.stop(Timer::Retransmit);
            self.timers.stop(Timer::LossProbe);
            self.timers.stop(Timer::Reorder);
            return;
        }
        if restart || !self.timers.is_running(Timer::Retransmit) {
            self.timers.start(Timer::Retransmit, self.rto_at(now));
        }
        if !self.wants_probe() {
            self.timers.stop(Timer::LossProbe);
        } else if restart
            || self.recovery.probe.is_none() && !self.timers.is_running(Timer::LossProbe)
        {
            self.restart_probe_timer(now);
        }
    }

    /// RFC 8985 §7.2: whether the tail of what is in flight is to be probed for.
    fn wants_probe(&self) -> bool {
        self.agreed.sack
            && self.recovery.is_open()
            && !self.recovery.board.is_empty()
            && self.recovery.board.sacked() == 0
            && self.patience.retries == 0
            && !self.timers.is_running(Timer::Reorder)
    }

    /// For each new segment: the probe does not come later than the timeout of the oldest one is
    /// due, however often that was put off since (Linux: `tcp_rto_delta_us`).
    pub(super) fn postpone_probe(&mut self, now: Time) {
        self.restart_probe_timer(now);
        let head = self.recovery.board.head_sent_at();
        let due = head.map(|head| self.rto_at(head)).filter(|due| *due > now);
        if let Some((probe, due)) = self.timers.at(Timer::LossProbe).zip(due) {
            self.timers.start(Timer::LossProbe, probe.min(due));
        }
    }

    /// The probe comes two round trips after the last segment or acknowledgement, or when the
    /// retransmission timer would, and in its place.
    fn restart_probe_timer(&mut self, now: Time) {
        if !self.wants_probe() {
            return self.timers.stop(Timer::LossProbe);
        }
        let Some(srtt) = self.rtt.srtt() else {
            return self.timers.stop(Timer::LossProbe);
        };
        let mut pto = 2 * srtt;
        if self.recovery.board.is_single(self.current_mss()) {
            pto += DELAYED_ACK_MAX;
        }
        // Linux: TCP_TIMEOUT_MIN, two ticks.
        let at = now + pto.max(Duration::from_millis(2));
        let rto = self.timers.at(Timer::Retransmit).unwrap_or(Time::MAX);
        self.timers.start(Timer::LossProbe, at.min(rto));
    }

    /// The probe timeout: the tail may be lost (RFC 8985 §7.3).
    pub(super) fn on_probe_timeout(&mut self, cx: &mut Context<'_>) {
        let Some(head) = self.recovery.board.head_sent_at() else {
            return;
        };
        if !self.recovery.is_open() {
            return;
        }
        let timeout = if self.recovery.probe.is_none() {
            self.pending.loss_probe = true;
            self.rto_at(cx.now)
        } else {
            // There is one out, and no second one: what is left is the timeout, of the oldest
            // segment (Linux: `tcp_rearm_rto`).
            self.rto_at(head).max(cx.now)
        };
        self.timers.start(Timer::Retransmit, timeout);
    }

    /// RFC 6298 §5.4 to §5.6, RFC 9293 §3.8.3.
    pub(super) fn on_retransmission_timeout(&mut self, cx: &mut Context<'_>) {
        if self.recovery.board.is_empty() {
            return;
        }
        cx.counters.timeouts += 1;
        if self.lose_patience(cx) {
            cx.counters.timed_out += 1;
            return self.fail(self.soft_error.unwrap_or(Failure::TimedOut), cx);
        }
        self.rtt.back_off();
        let (was_open, was_rto) = match self.recovery.mode {
            Mode::Open | Mode::Cwr { .. } => (true, false),
            Mode::Fast { .. } => (false, false),
            Mode::Rto { .. } => (false, true),
        };
        let flight_size = saturate(self.snd.flight_size());
        // Until the end of its window a reduction for a mark is the one that counts.
        let marked = match self.recovery.mode {
            Mode::Cwr { until, .. } => self.snd.una < until,
            _ => false,
        };
        if !marked {
            self.end_cwr(cx.now);
        }
        if !was_rto || self.patience.retries == 1 {
            self.cc.on_rto(flight_size, cx.now);
            self.note_reduction();
        } else {
            self.cc.on_repeated_rto(flight_size, cx.now);
        }
        if was_open || self.recovery.undo.is_none() {
            self.recovery.begin_episode(self.snd.una, !marked);
        }
        tracing::debug!(retries = self.patience.retries, rto = ?self.rtt.rto(), "retransmission timeout");
        // Another timeout after progress is a loss (Linux: `tcp_enter_loss`).
        let again = was_rto && self.patience.retries > 1;
        self.give_up_flight(was_open || again, cx.now);
        self.timers.start(Timer::Retransmit, self.rto_at(cx.now));
    }

    /// Nothing in flight is believed to arrive, except for what was sent just now.
    fn give_up_flight(&mut self, watch: bool, now: Time) {
        let mss = u64::from(self.snd.mss);
        // RFC 2018 §8: if what comes first was SACKed, the peer has thrown it away.
        let reneged = self.recovery.board.first_is_sacked();
        let recent = if self.agreed.sack && !reneged {
            self.recovery.sent_recently(&self.rtt, mss, now)
        } else {
            None
        };
        let before = self.recovery.board.lost();
        self.recovery.board.mark_all_lost(reneged, recent);
        self.recovery.lost_total += self.recovery.board.lost() - before;
        self.recovery.mode = Mode::Rto {
            recovery_point: self.snd.nxt,
            frto: if watch && !reneged {
                Frto::Watching
            } else {
                Frto::Off
            },
            spared: self.recovery.board.in_flight(),
        };
        self.recovery.probe = None;
        self.recovery.dup_acked = 0;
        self.timers.stop(Timer::LossProbe);
        self.timers.stop(Timer::Reorder);
    }
}

//! Whether the peer is still there: zero-window probes, keep-alive, the thresholds R1 and R2, and
//! the user timeout (RFC 9293 §3.8.3, §3.8.4, §3.8.6.1; RFC 5482).

use std::time::Duration;

use crate::{
    error::Failure,
    tcp::{Context, connection::Connection, timers::Timer},
    time::Time,
};

/// Probes of a zero window are at most this far apart.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// No probe comes sooner: Linux counts from `TCP_RTO_MIN`, and so is a corked segment held back for
/// 200 ms at most.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(200);

/// R2 is a time: what so many timeouts would take that begin here and double (Linux: `TCP_RTO_MIN`).
const R2_BASE: Duration = Duration::from_millis(200);

/// No timer fires sooner than this because of the user timeout.
const TICK: Duration = Duration::from_millis(1);

/// R1 (SHLD-10): after so many timeouts in a row the path is suspected (Linux: `tcp_retries1`).
pub(super) const R1: u8 = 3;

/// How the waiting for a peer stands that does not let us go on.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Consecutive retransmission timeouts.
    pub(super) retries: u8,
    /// The last of them was at a window that the peer has taken back, and is not counted.
    pub(super) refused: bool,
    /// Probes sent that nothing answered.
    pub(super) unanswered: u8,
    /// Probes of the window sent since it was last open: how often the interval was doubled.
    pub(super) probes: u8,
    /// When the first of the timeouts or probes in a row was.
    pub(super) since: Time,
}

impl Connection {
    /// A retransmission timeout has come: counts it, and says whether it is the last.
    ///
    /// SHLD-17: beyond a window that the peer took back nothing is expected to be acknowledged,
    /// while it says anything at all.
    pub(super) fn lose_patience(&mut self, cx: &mut Context<'_>) -> bool {
        let refused = self.snd.wnd == 0 && !self.orphan;
        if self.patience.retries == 0 && !(refused && self.patience.refused) {
            self.patience.since = self.recovery.board.head_sent_at().unwrap_or(cx.now);
        }
        self.patience.refused = refused;
        if refused {
            return self.is_refused_too_long(cx);
        }
        self.patience.retries = self.patience.retries.saturating_add(1);
        // Never the first, however late it comes: the machine may have stood still, and not the peer
        // (Linux: `retransmits_timed_out`).
        if self.patience.retries > 1 && self.gives_up(cx) {
            return true;
        }
        if self.patience.retries == R1 {
            // SHLD-9, MUST-20: `TcpInfo` tells the owner, and the path is looked at.
            tracing::debug!(retries = R1, "the peer does not answer");
            self.soft_error.get_or_insert(Failure::TimedOut);
        }
        self.suspect_black_hole();
        false
    }

    /// Whether a peer that took back its window has said nothing for too long, or the user waits no
    /// longer (Linux: `tcp_rtx_probe0_timed_out`).
    fn is_refused_too_long(&self, cx: &Context<'_>) -> bool {
        let patience = 2 * cx.config.rto_max;
        let is_silent = [self.heard_at, self.patience.since]
            .into_iter()
            .all(|since| cx.now.since(since) > patience);
        is_silent || self.user_timeout_is_over(cx.now)
    }

    /// R2 (RFC 9293 §3.8.3), or what the user set instead.
    fn gives_up(&self, cx: &Context<'_>) -> bool {
        if self.options.user_timeout.is_some() {
            return self.user_timeout_is_over(cx.now);
        }
        let limit = if self.orphan {
            cx.config.orphan_retries
        } else {
            cx.config.retries
        };
        cx.now.since(self.patience.since) >= r2(limit, cx.config.rto_max)
    }

    /// When the retransmission timer has to fire.
    pub(super) fn rto_at(&self, now: Time) -> Time {
        let rto = self.rtt.rto();
        if self.patience.retries > 0 || self.patience.refused {
            self.within_user_timeout(rto, now)
        } else {
            now + rto
        }
    }

    /// When a timer that should fire after `delay` has to fire for the user timeout to be kept
    /// (Linux: `tcp_clamp_rto_to_user_timeout`).
    fn within_user_timeout(&self, delay: Duration, now: Time) -> Time {
        let end = self
            .options
            .user_timeout
            .map(|limit| (self.patience.since + limit).max(now + TICK));
        let at = now + delay;
        end.map_or(at, |end| end.min(at))
    }

    /// Whether what the user bounded has lasted too long.
    fn user_timeout_is_over(&self, now: Time) -> bool {
        let Some(limit) = self.options.user_timeout else {
            return false;
        };
        now.since(self.patience.since) >= limit
    }

    /// Something new was acknowledged.
    pub(super) fn regain_patience(&mut self, now: Time) {
        self.patience = Patience {
            since: now,
            ..Patience::default()
        };
        self.soft_error = None;
    }

    /// Nothing is in flight that could bring a window update, or make a corked segment go: the
    /// timer will.
    pub(super) fn watch_window(&mut self, now: Time) {
        let waiting =
            self.snd.flight_size() == 0 && (self.snd.unsent() > 0 || self.snd.fin_unsent());
        if waiting && !self.timers.is_running(Timer::ZeroWindowProbe) && !self.pending.window_probe
        {
            self.timers
                .start(Timer::ZeroWindowProbe, self.probe_at(now));
        }
    }

    /// New data was sent: the window is open.
    pub(super) fn unwatch_window(&mut self) {
        (self.patience.probes, self.patience.unanswered) = (0, 0);
        self.timers.stop(Timer::ZeroWindowProbe);
    }

    /// SHLD-29, SHLD-30: the first probe comes after one RTO, and each takes twice the time of the
    /// last.
    fn probe_interval(&self) -> Duration {
        let base = self.rtt.rto().max(PROBE_INTERVAL_MIN);
        (base * (1_u32 << self.patience.probes.min(12))).min(PROBE_INTERVAL_MAX)
    }

    /// When the next probe is due. The user timeout counts from the first of them.
    fn probe_at(&self, now: Time) -> Time {
        let interval = self.probe_interval();
        if self.patience.probes > 0 {
            self.within_user_timeout(interval, now)
        } else {
            now + interval
        }
    }

    /// An acceptable acknowledgement came: a probe was answered, and the next is counted from here
    /// (Linux: `tcp_ack_probe`).
    pub(super) fn on_probe_answer(&mut self, now: Time) {
        if std::mem::take(&mut self.patience.unanswered) == 0
            || !self.timers.is_running(Timer::ZeroWindowProbe)
        {
            return;
        }
        if self.snd.unsent() <= u64::from(self.snd.wnd) && self.snd.wnd > 0 {
            self.patience.probes = 0;
        }
        self.timers
            .start(Timer::ZeroWindowProbe, self.probe_at(now));
    }

    /// RFC 9293 §3.8.6.1: the window has been closed, or too small, for one interval.
    pub(super) fn on_window_probe_timeout(&mut self, cx: &mut Context<'_>) {
        let nothing = self.snd.unsent() == 0 && !self.snd.fin_unsent();
        if nothing || self.snd.flight_size() > 0 {
            self.patience.probes = 0;
            return;
        }
        if self.patience.probes == 0 {
            self.patience.since = cx.now;
        }
        // MUST-37: while probes are answered the connection stays, unless nobody owns it.
        let limit = if self.orphan {
            cx.config.orphan_retries
        } else {
            cx.config.retries
        };
        let counted = if self.orphan {
            self.patience.probes
        } else {
            self.patience.unanswered
        };
        let over = match self.options.user_timeout {
            Some(_) => self.patience.probes > 0 && self.user_timeout_is_over(cx.now),
            None => false,
        };
        if counted >= limit || over {
            cx.counters.timed_out += 1;
            return self.fail(self.soft_error.unwrap_or(Failure::TimedOut), cx);
        }
        self.pending.window_probe = true;
        self.patience.probes = self.patience.probes.saturating_add(1);
        self.patience.unanswered = self.patience.unanswered.saturating_add(1);
        self.timers
            .start(Timer::ZeroWindowProbe, self.probe_at(cx.now));
    }

    /// RFC 9293 §3.8.4: a probe when nothing was heard for the idle time.
    pub(super) fn on_keepalive_timeout(&mut self, cx: &mut Context<'_>) {
        let Some(keepalive) = self.options.keepalive else {
            return;
        };
        // MUST-26: not while anything is outstanding, which has its own timers.
        let waiting = self.snd.unsent() > 0 || self.snd.fin_unsent();
        if self.snd.flight_size() > 0 || waiting {
            return self.timers.start(Timer::KeepAlive, cx.now + keepalive.idle);
        }
        let silence = cx.now.since(self.heard_at);
        if silence < keepalive.idle {
            self.patience.unanswered = 0;
            return self
                .timers
                .start(Timer::KeepAlive, self.heard_at + keepalive.idle);
        }
        let unanswered = self.patience.unanswered;
        let over = match self.options.user_timeout {
            Some(limit) => silence >= limit && unanswered > 0,
            None => unanswered >= keepalive.count,
        };
        if over {
            cx.counters.timed_out += 1;
            return self.abort(self.soft_error.unwrap_or(Failure::TimedOut), cx);
        }
        self.patience.unanswered = unanswered.saturating_add(1);
        self.pending.keepalive = true;
        self.timers
            .start(Timer::KeepAlive, cx.now + keepalive.interval);
    }

    pub(super) fn restart_keepalive(&mut self, now: Time) {
        match self.options.keepalive {
            Some(keepalive) => self.timers.start(Timer::KeepAlive, now + keepalive.idle),
            None => self.timers.stop(Timer::KeepAlive),
        }
    }
}

/// The time that `retries` retransmissions take (Linux: `tcp_model_timeout`): 924.6 s for 15.
fn r2(retries: u8, rto_max: Duration) -> Duration {
    (0..=u32::from(retries))
        .map(|n| (R2_BASE * 2_u32.saturating_pow(n.min(20))).min(rto_max))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifteen_retransmissions_take_as_long_as_on_linux() {
        let rto_max = Duration::from_secs(120);
        assert_eq!(r2(15, rto_max), Duration::from_millis(924_600));
        assert_eq!(r2(8, rto_max), Duration::from_millis(102_200));
    }
}

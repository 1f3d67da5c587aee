//! Which segments are lost, when an episode of loss recovery begins, ends, or turns out to be for
//! nothing. How much may be sent is congestion control's business, but for the share that RFC 9937
//! hands out during an episode.

use std::time::Duration;

use crate::{
    tcp::{
        rtt::RttEstimator,
        scoreboard::{Scoreboard, Sent, Snapshot},
    },
    time::Time,
};

/// DupThresh (RFC 5681): duplicate acknowledgements, or segments' worth of SACKed bytes, that say
/// loss rather than reordering.
pub(crate) const DUP_THRESH: u64 = 3;

/// Recoveries after which a widened reordering window narrows again (RFC 8985 §6.2).
const REO_WND_PERSIST: u8 = 16;

/// What loss recovery is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing is known to be lost.
    Open,
    /// Fast recovery, until the position is acknowledged.
    Fast { recovery_point: u64, prr: Prr },
    /// After a retransmission timeout, until the position is acknowledged.
    Rto { recovery_point: u64 },
}

/// Proportional rate reduction (RFC 9937): how much an acknowledgement lets out in fast recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prr {
    /// Bytes delivered since recovery began.
    delivered: u64,
    /// Bytes sent since recovery began.
    out: u64,
    /// RecoverFS: what was in flight when it began.
    flight: u64,
    ssthresh: u64,
    /// What may be sent now.
    pub(crate) allowance: u64,
}

impl Prr {
    pub(crate) fn new(flight: u64, ssthresh: u64) -> Self {
        Self {
            delivered: 0,
            out: 0,
            flight: flight.max(1),
            ssthresh,
            allowance: 0,
        }
    }

    /// An acknowledgement delivered `delivered` bytes; `progress`: SND.UNA moved and nothing more
    /// was found lost (SafeACK).
    pub(crate) fn on_ack(&mut self, delivered: u64, in_flight: u64, progress: bool, mss: u64) {
        self.delivered += delivered;
        let allowance = if in_flight > self.ssthresh {
            // Proportional: ceil(prr_delivered * ssthresh / RecoverFS) - prr_out.
            let share = u128::from(self.delivered) * u128::from(self.ssthresh);
            (share.div_ceil(u128::from(self.flight)) as u64).saturating_sub(self.out)
        } else {
            // Slow start reduction bound, or conservative bound without progress.
            let mut limit = self.delivered.saturating_sub(self.out);
            if progress {
                limit = limit.max(delivered) + mss;
            }
            limit.min(self.ssthresh - in_flight)
        };
        // The first retransmission always goes out.
        self.allowance = if self.out == 0 {
            allowance.max(mss)
        } else {
            allowance
        };
    }

    pub(crate) fn on_sent(&mut self, bytes: u64) {
        self.out += bytes;
        self.allowance = self.allowance.saturating_sub(bytes);
    }
}

/// Recent acknowledgement (RFC 8985): the time order of what was delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Rack {
    /// RACK.xmit_ts and RACK.end_seq of the segment delivered that was sent last.
    newest: Option<(Time, u64)>,
    rtt: Duration,
    reordering_seen: bool,
    /// RACK.reo_wnd_mult, less one.
    widened: u8,
    persist: u8,
    /// No more widening until this position is acknowledged: once in a round trip.
    round_end: u64,
}

/// What it takes to find out that an episode was for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    /// Our timestamp clock when the first retransmission of the episode went out.
    pub(crate) first_ts: Option<u32>,
    /// Bytes sent again in the episode and not yet reported as received twice.
    pub(crate) retransmitted: u64,
    /// Something was sent again at all.
    pub(crate) any: bool,
    /// SND.UNA when the episode began.
    pub(crate) marker: u64,
}

/// A tail loss probe that is out (RFC 8985 §7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) end: u64,
    pub(crate) retransmitted: bool,
}

/// Loss recovery of one connection.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) board: Scoreboard,
    pub(crate) mode: Mode,
    rack: Rack,
    /// Bytes that duplicate acknowledgements of a peer without SACK stand for.
    pub(crate) dup_acked: u64,
    pub(crate) probe: Option<Probe>,
    pub(crate) undo: Option<Undo>,
    pub(crate) delivered: u64,
    pub(crate) delivered_at: Time,
    first_sent_at: Time,
    /// Everything before this position was sent while the application was the limit.
    app_limited_until: u64,
}

/// What one acknowledgement delivered, as the scoreboard told it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) bytes: u64,
    /// When the oldest and the newest of the segments that were sent only once were sent.
    pub(crate) oldest_sent_at: Option<Time>,
    pub(crate) newest_sent_at: Option<Time>,
    /// Of the newest segment: the state of delivery when it was sent, and when that was.
    sample: Option<(Snapshot, Time)>,
    /// The highest position delivered before (RACK.fack).
    high_before: u64,
    min_rtt: Duration,
}

impl Delivery {
    pub(crate) fn new(high_before: u64, min_rtt: Option<Duration>) -> Self {
        Self {
            high_before,
            min_rtt: min_rtt.unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl Recovery {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            board: Scoreboard::default(),
            mode: Mode::Open,
            rack: Rack::default(),
            dup_acked: 0,
            probe: None,
            undo: None,
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            app_limited_until: 0,
        }
    }

    /// Bytes believed to be in flight; a duplicate acknowledgement says that one segment is not.
    pub(crate) fn in_flight(&self) -> u64 {
        self.board.in_flight().saturating_sub(self.dup_acked)
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.mode, Mode::Open)
    }

    /// What to remember with a segment that is sent now.
    pub(crate) fn snapshot(&mut self, now: Time) -> Snapshot {
        if self.board.in_flight() == 0 {
            // A new flight: the sample must not span the pause before it.
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited_until > self.delivered,
        }
    }

    /// The application has nothing more to send although cwnd would let it.
    pub(crate) fn set_app_limited(&mut self) {
        self.app_limited_until = self.delivered + self.board.in_flight().max(1);
    }

    /// Notes a delivered segment: for RACK, for the RTT and for the delivery rate.
    pub(crate) fn on_delivered(
        &mut self,
        sent: &Sent,
        delivery: &mut Delivery,
        echo_is_old: bool,
        now: Time,
    ) {
        let rtt = now.since(sent.sent_at);
        if sent.retransmitted {
            // Which transmission arrived? Not the last one if the echoed timestamp is older, or
            // if it would have been faster than any (RFC 8985 §6.2 step 2).
            if !echo_is_old && rtt >= delivery.min_rtt {
                self.advance_rack(sent, rtt);
            }
        } else {
            self.advance_rack(sent, rtt);
            let at = sent.sent_at;
            delivery.oldest_sent_at =
                Some(delivery.oldest_sent_at.map_or(at, |oldest| oldest.min(at)));
            delivery.newest_sent_at =
                Some(delivery.newest_sent_at.map_or(at, |newest| newest.max(at)));
            if sent.end < delivery.high_before {
                self.rack.reordering_seen = true;
            }
        }
        if delivery.sample.is_none_or(|(_, at)| sent.sent_at >= at) {
            delivery.sample = Some((sent.snapshot, sent.sent_at));
        }
    }

    fn advance_rack(&mut self, sent: &Sent, rtt: Duration) {
        let this = (sent.sent_at, sent.end);
        if self.rack.newest.is_none_or(|newest| this > newest) {
            self.rack.newest = Some(this);
            self.rack.rtt = rtt;
        }
    }

    /// Closes the accounts of one acknowledgement and returns the delivery rate in bytes a second,
    /// with whether the application was the limit.
    pub(crate) fn on_delivery(&mut self, delivery: &Delivery, now: Time) -> Option<(u64, bool)> {
        if delivery.bytes == 0 {
            return None;
        }
        self.delivered += delivery.bytes;
        self.delivered_at = now;
        let (snapshot, sent_at) = delivery.sample?;
        self.first_sent_at = sent_at;
        let send_elapsed = sent_at.since(snapshot.first_sent_at);
        let interval = now
            .since(snapshot.delivered_at)
            .max(send_elapsed)
            .as_nanos();
        let bytes = u128::from(self.delivered - snapshot.delivered);
        let rate = (bytes * 1_000_000_000).checked_div(interval)?;
        Some((
            u64::try_from(rate).unwrap_or(u64::MAX),
            snapshot.app_limited,
        ))
    }

    /// RFC 8985 §6.2 steps 4 and 5. Returns whether anything was marked as lost, and in what time
    /// to look again.
    pub(crate) fn detect_lost(
        &mut self,
        rtt: &RttEstimator,
        mss: u64,
        now: Time,
    ) -> (bool, Option<Duration>) {
        let Some(newest) = self.rack.newest else {
            return (false, None);
        };
        let window = self.rack.rtt + self.reordering_window(rtt, mss);
        let (bytes, again) = self.board.detect_lost(newest, window, now);
        (bytes > 0, again)
    }

    /// RACK.reo_wnd.
    fn reordering_window(&self, rtt: &RttEstimator, mss: u64) -> Duration {
        let many = self.board.sacked() >= DUP_THRESH * mss;
        if !self.rack.reordering_seen && (!self.is_open() || many) {
            return Duration::ZERO;
        }
        let min_rtt = rtt.min_rtt().unwrap_or_default();
        let wide = min_rtt / 4 * (u32::from(self.rack.widened) + 1);
        wide.min(rtt.srtt().unwrap_or(Duration::MAX))
    }

    /// A D-SACK came: we retransmitted too early, so wait longer (once in a round trip).
    pub(crate) fn widen_reordering_window(&mut self, una: u64, nxt: u64) {
        // What was sent again arrived the first time: late, not lost.
        self.rack.reordering_seen = true;
        if una >= self.rack.round_end {
            self.rack.widened = self.rack.widened.saturating_add(1);
            self.rack.persist = REO_WND_PERSIST;
            self.rack.round_end = nxt;
        }
    }

    /// An episode ended.
    pub(crate) fn on_exit(&mut self) {
        self.mode = Mode::Open;
        self.dup_acked = 0;
        self.rack.persist = self.rack.persist.saturating_sub(1);
        if self.rack.persist == 0 {
            self.rack.widened = 0;
        }
    }

    /// Remembers what an undo needs, at the begin of an episode.
    pub(crate) fn begin_episode(&mut self, una: u64) {
        self.undo = Some(Undo {
            first_ts: None,
            retransmitted: 0,
            any: false,
            marker: una,
        });
    }

    /// Something was sent again, when our timestamp clock said `ts`.
    pub(crate) fn on_retransmission(&mut self, bytes: u64, ts: u32) {
        if let Some(undo) = &mut self.undo {
            undo.any = true;
            undo.first_ts.get_or_insert(ts);
            undo.retransmitted += bytes;
        }
    }

    /// A D-SACK block of `bytes`: whether everything that the episode sent again was for nothing.
    pub(crate) fn on_dsack(&mut self, bytes: u64) -> bool {
        let Some(undo) = &mut self.undo else {
            return false;
        };
        undo.retransmitted = undo.retransmitted.saturating_sub(bytes);
        undo.any && undo.retransmitted == 0
    }

    /// The peer echoes a timestamp from before our first retransmission: it has received the
    /// original (RFC 3522).
    pub(crate) fn echo_tells_of_original(&self, echo: u32) -> bool {
        let first = self.undo.and_then(|undo| undo.first_ts);
        first.is_some_and(|first| (echo.wrapping_sub(first) as i32) < 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9937_proportional_part_spreads_the_reduction_over_the_window() {
        // 20 segments in flight, ssthresh 10: one segment for every two delivered.
        let mss = 1000;
        let mut prr = Prr::new(20 * mss, 10 * mss);
        let mut sent = 0;
        for i in 0..10 {
            prr.on_ack(mss, (19 - i) * mss + sent, false, mss);
            sent += prr.allowance / mss * mss;
            prr.on_sent(prr.allowance / mss * mss);
        }
        assert_eq!(sent, 5 * mss);
    }

    #[test]
    fn rfc9937_slow_start_part_rebuilds_the_flight_up_to_ssthresh() {
        let mss = 1000;
        let mut prr = Prr::new(20 * mss, 10 * mss);
        prr.on_ack(mss, 4 * mss, true, mss);
        assert_eq!(prr.allowance, 2 * mss);
        prr.on_sent(2 * mss);
        prr.on_ack(mss, 9 * mss + mss / 2, true, mss);
        assert_eq!(prr.allowance, mss / 2);
    }
}

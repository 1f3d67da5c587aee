//! How much new data goes out now: what windows, Nagle's algorithm and the avoidance of silly windows
//! allow (RFC 9293 §3.7.4, §3.8.6.2.1).

use std::time::Duration;

use super::whole_segments;
use crate::{
    tcp::{
        Context, Outgoing,
        connection::Connection,
        recovery::{Frto, Mode},
    },
    time::Time,
};

/// Segments sent within this time are one burst.
const BURST_WITHIN: Duration = Duration::from_millis(1);

impl Connection {
    /// New data, as a super-segment as large as windows, Nagle and silly-window avoidance allow.
    pub(super) fn new_data(&mut self, cx: &mut Context<'_>) -> Option<Outgoing> {
        let unsent = self.snd.unsent();
        if unsent == 0 && !self.snd.fin_unsent() {
            return None;
        }
        let finds_out = matches!(
            self.recovery.mode,
            Mode::Rto {
                frto: Frto::Sending,
                ..
            }
        );
        if self.recovery.board.lost() > 0 && !finds_out {
            return None;
        }
        let window = self.snd.right_edge().saturating_sub(self.snd.nxt);
        if window > 0 {
            self.restart_after_idle(cx);
        }
        self.retry_path_mtu(cx.now);
        let mss = self.current_mss();
        let Some(len) = self.sendable(unsent, window, mss, cx.now) else {
            self.watch_window(cx.now);
            return None;
        };
        let mut range = self.new_range(len);
        range.fin = self.snd.fin == Some(range.end) && window > len;
        if range.end == range.start && !range.fin {
            self.watch_window(cx.now);
            return None;
        }
        self.unwatch_window();
        Some(self.send_new(range, mss, cx))
    }

    /// RFC 5681 §4.1: after a pause the old window says nothing about the path.
    fn restart_after_idle(&mut self, cx: &Context<'_>) {
        if self.snd.flight_size() > 0 {
            return;
        }
        let idle = cx.now.since(self.data_sent_at);
        if idle > self.rtt.rto() {
            self.cc.on_idle_restart(idle, self.rtt.rto());
        }
    }

    /// How many bytes of new data may go out now: zero for a FIN alone, `None` for nothing.
    fn sendable(&mut self, unsent: u64, window: u64, mss: u64, now: Time) -> Option<u64> {
        let allowance = self.allowance();
        let alone = self.recovery.in_flight() == 0;
        if unsent == 0 {
            return (window > 0).then_some(0);
        }
        let cwnd = if alone { allowance.max(mss) } else { allowance };
        // One segment may be larger, where the MTU is.
        let burst = self.burst_limit(mss);
        // The window goes out in two parts at least: while one is on its way the other is
        // acknowledged (Linux: `tcp_cwnd_test`).
        let half = whole_segments(u64::from(self.cc.window()) / 2, mss).max(mss);
        let limit = window.min(cwnd).min(burst).min(half);
        let cwnd_limited = cwnd < unsent.min(window);
        if cwnd_limited {
            self.cwnd_limited_until = self.snd.nxt.max(self.snd.una + 1);
        }
        if limit >= unsent {
            return self.without_small_tail(unsent, mss);
        }
        let whole = limit / mss * mss;
        if whole == 0 {
            // Only the window may be too small for a segment, and then it must be half of the
            // largest that we saw (RFC 9293 §3.8.6.2.1).
            let worth = window <= cwnd && limit > 0 && limit >= u64::from(self.snd.max_wnd) / 2;
            return worth.then_some(limit);
        }
        let waits = cwnd_limited && whole < burst && self.waits_for_more(whole, window, now);
        (!waits).then_some(whole)
    }

    /// More acknowledgements are on their way: a larger segment a little later costs both ends
    /// less (Linux: `tcp_tso_should_defer`). Only right after another: who is idle sends at once,
    /// and so does limited transmit (RFC 3042).
    fn waits_for_more(&self, len: u64, window: u64, now: Time) -> bool {
        let total = u64::from(self.cc.window()).min(window + self.recovery.in_flight());
        self.recovery.is_open()
            && self.recovery.board.sacked() + self.recovery.dup_acked == 0
            && self.recovery.in_flight() > 0
            && now.since(self.data_sent_at) < BURST_WITHIN
            && self.expects_ack_soon(now)
            && len < total / 3
    }

    /// The acknowledgement of the oldest segment in flight is due by its round trip: what waits for
    /// one that is farther away leaves a hole in the ACK clock (Linux since 6.18).
    fn expects_ack_soon(&self, now: Time) -> bool {
        let srtt = self.rtt.srtt().unwrap_or_default();
        let soon = BURST_WITHIN.min(srtt / 2);
        self.recovery
            .board
            .head_sent_at()
            .is_some_and(|at| at + srtt <= now + soon)
    }

    /// Nagle (RFC 9293 §3.7.4) in Minshall's variant: one small segment at a time is on its way.
    fn without_small_tail(&self, unsent: u64, mss: u64) -> Option<u64> {
        let tail = unsent % mss;
        let fin = self.snd.fin.is_some();
        let small_in_flight = self.snd.small_end > self.snd.una;
        let held = !fin
            && !self.pending.push
            && (self.options.cork || !self.options.nodelay && small_in_flight);
        match (tail > 0 && held, unsent - tail) {
            (false, _) => Some(unsent),
            (true, 0) => None,
            (true, whole) => Some(whole),
        }
    }
}

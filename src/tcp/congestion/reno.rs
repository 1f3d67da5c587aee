//! NewReno, with HyStart++ where packets overtake each other.

use std::time::Duration;

use super::{Ack, Cause, CongestionControl, HyStart, Restore, Window};
use crate::time::Time;

/// The congestion control of RFC 5681. What RFC 6582 adds is loss recovery.
///
/// Slow start ends with a loss, as Linux's. HyStart++ (RFC 9406) would spare that, but a window that
/// never was larger than the path is halved by the first loss that is none of the queue's, and takes
/// hundreds of round trips to come back: 10 MB over a path with bursts of loss take a quarter longer.
/// Where packets are late it is worth it: there an overflow hides among reductions for nothing, which
/// cannot be undone with it.
#[derive(Clone, Debug)]
pub(super) struct Reno {
    window: Window,
    /// Bytes acknowledged in congestion avoidance since cwnd last grew (RFC 3465 §2.1).
    bytes_acked: u32,
    hystart: HyStart,
    undo: Option<Restore>,
}

impl Reno {
    pub(super) fn new(mss: u32, initial_window: u32) -> Self {
        Self {
            window: Window::new(mss, initial_window),
            bytes_acked: 0,
            hystart: HyStart::default(),
            undo: None,
        }
    }

    /// One SMSS for each window of data that is acknowledged.
    fn avoid_congestion(&mut self, delivered: u32) {
        let window = &mut self.window;
        self.bytes_acked = self.bytes_acked.saturating_add(delivered);
        let windows = self.bytes_acked / window.cwnd;
        if windows > 0 {
            self.bytes_acked %= window.cwnd;
            window.grow(windows.saturating_mul(window.smss));
        }
    }

    /// Half of cwnd, in whole segments as Linux counts: no half of one is ever sent, but the window
    /// would take as much longer to grow. As Linux, of cwnd and not of FlightSize, which cwnd
    /// validation keeps close together.
    const fn half(&self) -> u32 {
        self.window.cwnd / self.window.smss / 2 * self.window.smss
    }
}

impl CongestionControl for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }

    fn window(&self) -> u32 {
        self.window.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.window.ssthresh
    }

    fn set_mss(&mut self, mss: u32) {
        self.window.set_mss(mss);
    }

    fn on_ack(&mut self, ack: &Ack, now: Time) {
        let may_grow = self.window.may_grow(ack);
        if ack.round_start {
            self.hystart.start_round(now);
        }
        if !may_grow {
            return;
        }
        let rest = if ack.reordered {
            self.hystart.slow_start(&mut self.window, ack, now)
        } else {
            self.window.slow_start(ack.delivered)
        };
        if rest > 0 && !ack.app_limited {
            self.avoid_congestion(rest);
        }
    }

    fn on_congestion(&mut self, _flight_size: u32, _cause: Cause, _now: Time) {
        self.undo = Some(self.window.restore());
        self.window.enter_recovery(self.half());
        self.bytes_acked = 0;
    }

    fn on_recovery_exit(&mut self, _now: Time) {
        self.window.exit_recovery();
    }

    fn on_rto(&mut self, _flight_size: u32, _now: Time) {
        if self.window.is_first_timeout() {
            self.undo = Some(self.window.restore());
        }
        self.window.enter_loss(self.half());
        self.bytes_acked = 0;
    }

    fn on_repeated_rto(&mut self, _flight_size: u32, _now: Time) {
        self.window.enter_loss_again();
    }

    fn on_spurious(&mut self, _now: Time) {
        if let Some(before) = self.undo.take() {
            self.window.undo(&before);
        }
    }

    fn on_idle_restart(&mut self, idle: Duration, rto: Duration) {
        self.window.restart(idle, rto);
        self.hystart = HyStart::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(delivered: u32) -> Ack {
        Ack {
            delivered,
            flight_size: u32::MAX,
            ..Ack::default()
        }
    }

    #[test]
    fn rfc5681_3_1_avoidance_adds_a_segment_a_round_trip_however_it_is_acknowledged() {
        for step in [1, 10, 1000, 2000, 10_000] {
            let mut reno = Reno::new(1000, 20);
            reno.on_congestion(20_000, Cause::Loss, Time::ZERO);
            reno.on_recovery_exit(Time::ZERO);
            for segments in 10..15 {
                assert_eq!(reno.window(), segments * 1000, "by {step}");
                let mut left = reno.window();
                while left > 0 {
                    let delivered = step.min(left);
                    reno.on_ack(&ack(delivered), Time::ZERO);
                    left -= delivered;
                }
            }
        }
    }

    #[test]
    fn rfc5681_3_2_congestion_halves_the_window() {
        let mut reno = Reno::new(1000, 20);
        reno.on_congestion(20_000, Cause::Loss, Time::ZERO);
        assert_eq!((reno.window(), reno.ssthresh()), (10_000, 10_000));
        reno.on_recovery_exit(Time::ZERO);
        reno.on_congestion(6000, Cause::Ecn, Time::ZERO);
        assert_eq!((reno.window(), reno.ssthresh()), (5000, 5000));
    }

    #[test]
    fn half_of_an_odd_window_is_whole_segments() {
        for reduce in [
            |reno: &mut Reno| reno.on_congestion(13_000, Cause::Loss, Time::ZERO),
            |reno: &mut Reno| reno.on_rto(13_000, Time::ZERO),
        ] {
            let mut reno = Reno::new(1000, 13);
            reduce(&mut reno);
            assert_eq!(reno.ssthresh(), 6000);
        }
        // Six segments are enough for the next.
        let mut reno = Reno::new(1000, 13);
        reno.on_congestion(13_000, Cause::Loss, Time::ZERO);
        reno.on_recovery_exit(Time::ZERO);
        reno.on_ack(&ack(6000), Time::ZERO);
        assert_eq!(reno.window(), 7000);
    }

    #[test]
    fn rfc5681_3_2_limited_transmit_does_not_count() {
        let mut reno = Reno::new(1000, 20);
        reno.on_congestion(22_000, Cause::Loss, Time::ZERO);
        assert_eq!(reno.window(), 10_000);
    }

    #[test]
    fn rfc5681_3_1_slow_start_after_a_timeout_ends_at_half_the_flight() {
        let mut reno = Reno::new(1000, 20);
        reno.on_rto(20_000, Time::ZERO);
        assert_eq!((reno.window(), reno.ssthresh()), (1000, 10_000));
        for window in [2000, 4000, 8000] {
            reno.on_ack(&ack(reno.window()), Time::ZERO);
            assert_eq!(reno.window(), window);
        }
        // Of these 8,000 bytes 2,000 reach ssthresh, the rest is less than a window.
        reno.on_ack(&ack(8000), Time::ZERO);
        assert_eq!(reno.window(), 10_000);
        reno.on_ack(&ack(4000), Time::ZERO);
        assert_eq!(reno.window(), 11_000);
    }

    #[test]
    fn rfc3522_undo_restores_the_window() {
        let mut reno = Reno::new(1000, 20);
        reno.on_congestion(20_000, Cause::Loss, Time::ZERO);
        reno.on_spurious(Time::ZERO);
        assert_eq!((reno.window(), reno.ssthresh()), (20_000, u32::MAX));
    }

    /// Acknowledgements of one segment each for half of a round trip and more.
    fn train(reno: &mut Reno, reordered: bool) {
        for millis in 0..=21 {
            let rtt = Some(Duration::from_millis(40));
            let ack = Ack {
                round_start: millis == 0,
                min_rtt: rtt,
                rtt,
                reordered,
                ..ack(1000)
            };
            reno.on_ack(&ack, Time::from_millis(1000 + millis));
        }
    }

    #[test]
    fn hystart_ends_slow_start_where_packets_overtake_each_other_and_nowhere_else() {
        let mut reno = Reno::new(1000, 16);
        train(&mut reno, false);
        assert_eq!((reno.window(), reno.ssthresh()), (38_000, u32::MAX));
        train(&mut reno, true);
        assert_eq!((reno.window(), reno.ssthresh()), (60_000, 60_000));
    }
}

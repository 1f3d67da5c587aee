//! CUBIC, with HyStart++ in the first slow start.

use std::time::Duration;

use super::{Ack, Cause, CongestionControl, HyStart, Restore, Window};
use crate::time::Time;

/// RFC 9438 §5: how fast the window grows, in segments per cubic second.
const C: f64 = 0.4;

/// RFC 9438 §4.6: what is left of the window after congestion.
const BETA: f64 = 0.7;

/// RFC 9438 §4.3: growth a round trip that is fair to Reno when the reduction is `BETA`.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The congestion control of RFC 9438 and RFC 9406.
///
/// Windows of the curve are in bytes and may be fractions, so that growth adds up to the same
/// however it is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Cubic {
    window: Window,
    /// What cwnd lacks of being exact: less than a byte.
    fraction: f64,
    curve: Curve,
    hystart: HyStart,
    /// Until when time has been counted as active or left out.
    counted: Time,
    /// In a box, for few connections have one.
    undo: Option<Box<(Restore, Curve)>>,
}

/// The cubic function of a congestion avoidance stage and the Reno window beside it.
#[derive(Clone, Copy, Debug)]
struct Curve {
    /// W_max; zero: to be the window at which the stage begins.
    w_max: f64,
    /// K in seconds.
    k: f64,
    /// t_epoch; `None` before the stage has begun.
    epoch: Option<Time>,
    /// W_est.
    w_est: f64,
    /// cwnd_prior; infinite before the first reduction: where HyStart++ ended slow start the path is
    /// all but full, and Linux grows no faster either.
    cwnd_prior: f64,
}

impl Cubic {
    pub(super) fn new(mss: u32, initial_window: u32) -> Self {
        Self {
            window: Window::new(mss, initial_window),
            fraction: 0.0,
            curve: Curve {
                w_max: 0.0,
                k: 0.0,
                epoch: None,
                w_est: 0.0,
                cwnd_prior: f64::INFINITY,
            },
            hystart: HyStart::default(),
            counted: Time::ZERO,
            undo: None,
        }
    }

    /// RFC 9438 §4.2 to §4.5.
    fn avoid_congestion(&mut self, delivered: u32, rtt: Duration, now: Time) {
        let smss = f64::from(self.window.smss);
        let cwnd = f64::from(self.window.cwnd) + self.fraction;
        let t = self.curve.begin(cwnd, smss, now);
        let windows = f64::from(delivered) / cwnd;
        let curve = &mut self.curve;
        // §4.3: once Reno would be back where it was, it grows like Reno.
        let alpha = if curve.w_est < curve.cwnd_prior {
            ALPHA
        } else {
            1.0
        };
        curve.w_est += alpha * windows * smss;
        let next = if curve.w_cubic(t, smss) < curve.w_est {
            curve.w_est.max(cwnd)
        } else {
            let in_a_round_trip = curve.w_cubic(t + rtt.as_secs_f64(), smss);
            let target = in_a_round_trip.clamp(cwnd, 1.5 * cwnd);
            cwnd + (target - cwnd) * windows.min(1.0)
        };
        self.set_window(next);
    }

    fn set_window(&mut self, exact: f64) {
        let cwnd = self.window.cwnd;
        self.window.grow((exact as u32).saturating_sub(cwnd));
        self.fraction = (exact - f64::from(self.window.cwnd)).clamp(0.0, 1.0);
    }

    /// RFC 9438 §5.8: time in which the window was not in use does not count.
    fn leave_out(&mut self, now: Time) {
        if let Some(epoch) = &mut self.curve.epoch {
            *epoch = (*epoch + now.since(self.counted)).min(now);
        }
    }

    fn multiplicative_decrease(&self) -> u32 {
        (f64::from(self.window.cwnd) * BETA) as u32
    }
}

impl CongestionControl for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
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

    fn on_sent(&mut self, _bytes: u32, flight_size: u32, now: Time) {
        if flight_size == 0 {
            self.leave_out(now);
            self.counted = now;
        }
    }

    fn on_ack(&mut self, ack: &Ack, now: Time) {
        let may_grow = self.window.may_grow(ack);
        if ack.round_start {
            self.hystart.start_round(now);
        }
        if ack.app_limited {
            self.leave_out(now);
        }
        self.counted = now;
        if !may_grow {
            return;
        }
        let rest = self.hystart.slow_start(&mut self.window, ack, now);
        if rest > 0 && !ack.app_limited {
            self.avoid_congestion(rest, ack.srtt.or(ack.rtt).unwrap_or_default(), now);
        }
    }

    fn on_congestion(&mut self, _flight_size: u32, _cause: Cause, _now: Time) {
        self.undo = Some(Box::new((self.window.restore(), self.curve)));
        self.curve.reduce(f64::from(self.window.cwnd));
        self.window.enter_recovery(self.multiplicative_decrease());
    }

    fn on_recovery_exit(&mut self, _now: Time) {
        self.window.exit_recovery();
    }

    fn on_rto(&mut self, _flight_size: u32, _now: Time) {
        if self.window.is_first_timeout() {
            self.undo = Some(Box::new((self.window.restore(), self.curve)));
            self.curve.reduce(f64::from(self.window.cwnd));
        }
        // §4.8: the next stage begins with K = 0 and W_max at the window of then.
        self.curve.w_max = 0.0;
        self.window.enter_loss(self.multiplicative_decrease());
    }

    fn on_repeated_rto(&mut self, _flight_size: u32, _now: Time) {
        self.window.enter_loss_again();
    }

    fn on_spurious(&mut self, _now: Time) {
        if let Some((window, curve)) = self.undo.take().map(|undo| *undo) {
            self.window.undo(&window);
            self.curve = curve;
        }
    }

    fn on_idle_restart(&mut self, idle: Duration, rto: Duration) {
        self.window.restart(idle, rto);
        self.hystart = HyStart::default();
    }
}

impl Curve {
    /// Begins the stage if it has not begun, and gives its age in seconds.
    fn begin(&mut self, cwnd: f64, smss: f64, now: Time) -> f64 {
        let epoch = *self.epoch.get_or_insert_with(|| {
            // §4.2: without a reduction before it (HyStart++), after a timeout, or above the old
            // maximum, the stage begins at its plateau.
            self.w_max = self.w_max.max(cwnd);
            self.k = ((self.w_max - cwnd) / (C * smss)).cbrt();
            self.w_est = cwnd;
            now
        });
        now.since(epoch).as_secs_f64()
    }

    /// W_cubic(t) of RFC 9438 §4.2.
    fn w_cubic(&self, t: f64, smss: f64) -> f64 {
        C * smss * (t - self.k).powi(3) + self.w_max
    }

    /// Ends the stage at a window of `cwnd`.
    fn reduce(&mut self, cwnd: f64) {
        // §4.7, fast convergence: whoever did not get back to the old maximum makes room.
        self.w_max = if cwnd < self.w_max {
            cwnd * (1.0 + BETA) / 2.0
        } else {
            cwnd
        };
        self.cwnd_prior = cwnd;
        self.epoch = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn ack(delivered: u32, rtt: Duration) -> Ack {
        Ack {
            delivered,
            flight_size: u32::MAX,
            rtt: Some(rtt),
            srtt: Some(rtt),
            ..Ack::default()
        }
    }

    /// After a loss at 100 segments: W_max = 100, cwnd = 70, K = cbrt(30 / 0.4) = 4.217 s.
    fn after_loss_at_100() -> Cubic {
        let mut cubic = Cubic::new(MSS, 100);
        cubic.on_congestion(100 * MSS, Cause::Loss, Time::ZERO);
        cubic.on_recovery_exit(Time::ZERO);
        assert_eq!((cubic.window(), cubic.ssthresh()), (70_000, 70_000));
        cubic
    }

    /// Acknowledges full windows, `step` bytes at a time, from `from` to `to`.
    fn run(cubic: &mut Cubic, rtt: Duration, step: u32, from: Time, to: Time) {
        let mut now = from;
        while now < to {
            let window = cubic.window();
            let mut left = window;
            while left > 0 {
                let delivered = step.min(left);
                left -= delivered;
                let share = rtt.mul_f64(f64::from(window - left) / f64::from(window));
                cubic.on_ack(&ack(delivered, rtt), now + share);
            }
            now = now + rtt;
        }
    }

    fn assert_near(bytes: u32, segments: f64, tolerance: f64) {
        let got = f64::from(bytes) / f64::from(MSS);
        assert!((got - segments).abs() <= tolerance, "{got}, not {segments}");
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Cubic>() <= 256, "{}", size_of::<Cubic>());
    }

    #[test]
    fn rfc9438_4_2_the_curve_has_the_values_computed_by_hand() {
        let mut curve = after_loss_at_100().curve;
        assert_eq!(curve.begin(70e3, 1e3, Time::from_millis(5)), 0.0);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 0.5, "{a}, not {b}");
        near(curve.k * 1e3, 4217.2);
        near(curve.w_cubic(0.0, 1e3), 70_000.0);
        // 0.4 (1 - 4.2172)^3 + 100 = 86.680
        near(curve.w_cubic(1.0, 1e3), 86_680.5);
        // 0.4 (3 - 4.2172)^3 + 100 = 99.279
        near(curve.w_cubic(3.0, 1e3), 99_278.7);
        near(curve.w_cubic(curve.k, 1e3), 100_000.0);
        // 0.4 (8 - 4.2172)^3 + 100 = 121.653
        near(curve.w_cubic(8.0, 1e3), 121_652.7);
        assert_eq!(curve.begin(70e3, 1e3, Time::from_millis(1005)), 1.0);
    }

    #[test]
    fn rfc9438_4_4_and_4_5_the_window_follows_the_curve_however_it_is_acknowledged() {
        for step in [100, 1000, 2000, 64_000] {
            let mut cubic = after_loss_at_100();
            let rtt = ms(100);
            let mut from = Time::ZERO;
            for (secs, segments) in [(1, 86.7), (3, 99.3), (4, 100.0), (8, 121.7)] {
                let to = Time::from_millis(secs * 1000);
                run(&mut cubic, rtt, step, from, to);
                // The stage begins with the first acknowledgement, up to a round trip late, and
                // the window aims a round trip ahead.
                assert_near(cubic.window(), segments, 2.5);
                from = to;
            }
        }
    }

    #[test]
    fn rfc9438_4_3_with_a_short_round_trip_it_grows_like_reno() {
        let mut cubic = after_loss_at_100();
        // 50 round trips in 50 ms: the curve stands still, W_est rises by 0.529 a round trip.
        run(&mut cubic, ms(1), 1000, Time::ZERO, Time::from_millis(50));
        assert_near(cubic.window(), 70.0 + 50.0 * 0.5294, 0.5);
        // Above the old window by 1.
        run(
            &mut cubic,
            ms(1),
            1000,
            Time::from_millis(50),
            Time::from_millis(107),
        );
        assert_near(cubic.window(), 150.0, 1.5);
    }

    #[test]
    fn rfc9438_4_4_growth_is_at_most_half_a_window_a_round_trip() {
        let mut cubic = after_loss_at_100();
        run(
            &mut cubic,
            ms(100),
            1000,
            Time::ZERO,
            Time::from_millis(100),
        );
        let before = cubic.window();
        let late = Time::from_millis(60_000);
        run(&mut cubic, ms(100), before, late, late + ms(100));
        assert_eq!(cubic.window(), before * 3 / 2);
    }

    #[test]
    fn rfc9438_4_6_congestion_leaves_seven_tenths() {
        let mut cubic = Cubic::new(MSS, 10);
        cubic.on_congestion(10_000, Cause::Ecn, Time::ZERO);
        assert_eq!((cubic.window(), cubic.ssthresh()), (7000, 7000));
        cubic.on_congestion(1000, Cause::Loss, Time::ZERO);
        assert_eq!((cubic.window(), cubic.ssthresh()), (4900, 4900));
    }

    #[test]
    fn rfc9438_4_7_fast_convergence_lowers_the_maximum() {
        let mut cubic = after_loss_at_100();
        cubic.on_congestion(70_000, Cause::Loss, Time::from_millis(10));
        assert_eq!(cubic.curve.w_max, 70e3 * 0.85);
        assert_eq!(cubic.curve.cwnd_prior, 70e3);
        assert_eq!(cubic.window(), 49_000);
    }

    #[test]
    fn rfc9438_4_8_after_a_timeout_the_curve_begins_at_its_plateau() {
        let mut cubic = after_loss_at_100();
        cubic.on_rto(70_000, Time::from_millis(1000));
        assert_eq!((cubic.window(), cubic.ssthresh()), (1000, 49_000));
        let now = Time::from_millis(2000);
        cubic.on_ack(&ack(48_000, ms(100)), now);
        assert_eq!(cubic.window(), 49_000);
        cubic.on_ack(&ack(1000, ms(100)), now);
        assert_eq!((cubic.curve.k, cubic.curve.w_max), (0.0, 49e3));
    }

    #[test]
    fn rfc9438_4_9_undo_restores_the_window_and_the_curve() {
        let rtt = ms(100);
        let mut cubic = after_loss_at_100();
        run(&mut cubic, rtt, 1000, Time::ZERO, Time::from_millis(2000));
        let before = cubic.clone();
        cubic.on_congestion(cubic.window(), Cause::Loss, Time::from_millis(2000));
        assert!(cubic.window() < before.window());
        cubic.on_rto(cubic.window(), Time::from_millis(2050));
        cubic.on_spurious(Time::from_millis(2100));
        assert_eq!(cubic.window(), before.window());
        assert_eq!(cubic.ssthresh(), before.ssthresh());
        let of = |c: &Cubic| (c.curve.w_max, c.curve.k, c.curve.epoch, c.curve.w_est);
        assert_eq!(of(&cubic), of(&before));
    }

    #[test]
    fn rfc9438_5_8_idle_and_limited_time_does_not_count() {
        let rtt = ms(100);
        let mut busy = after_loss_at_100();
        run(&mut busy, rtt, 1000, Time::ZERO, Time::from_millis(2000));
        let mut paused = busy.clone();
        run(
            &mut busy,
            rtt,
            1000,
            Time::from_millis(2000),
            Time::from_millis(4000),
        );
        // An hour of idleness, an hour of trickling.
        let later = Time::from_millis(2000) + ms(3_600_000);
        paused.on_sent(1000, 0, later);
        let limited = Ack {
            app_limited: true,
            ..ack(1000, rtt)
        };
        let trickle_end = later + ms(3_600_000);
        let mut now = later;
        while now < trickle_end {
            now = now + ms(1000);
            paused.on_ack(&limited, now);
        }
        run(&mut paused, rtt, 1000, now, now + ms(2000));
        assert_near(paused.window(), f64::from(busy.window()) / 1e3, 0.5);
    }

    #[test]
    fn rfc9406_4_2_where_hystart_ends_slow_start_the_curve_begins_at_its_plateau() {
        let mut cubic = Cubic::new(MSS, 10);
        for round in 0..9 {
            let rtt = ms(if round < 2 { 40 } else { 50 });
            for at in 0..20 {
                let ack = Ack {
                    round_start: at == 0,
                    ..ack(MSS, rtt)
                };
                cubic.on_ack(&ack, Time::ZERO);
            }
        }
        assert_ne!(cubic.ssthresh(), u32::MAX);
        assert!(cubic.curve.epoch.is_some());
        assert_eq!(cubic.curve.k, 0.0);
    }
}

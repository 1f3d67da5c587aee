//! Congestion control: how much may be in flight.

use std::time::Duration;

mod bbr;
mod cubic;
mod hystart;
mod reno;

use bbr::Bbr;
use cubic::Cubic;
use hystart::HyStart;
use reno::Reno;

use crate::config::{Config, Congestion};
pub(crate) use crate::congestion::{Ack, Cause, CongestionControl, RateSample};

/// The largest window: what a window scale of 14 can offer (RFC 7323 §2.3).
const MAX_WINDOW: u32 = 1 << 30;

/// SMSS stays within these.
const MSS_LIMITS: (u32, u32) = (1, 65_535);

/// The algorithm of this kind, with an initial window of `initial_window` segments of `mss` bytes.
pub(crate) fn new(kind: Congestion, mss: u32, config: &Config) -> Box<dyn CongestionControl> {
    let initial_window = config.initial_window;
    match (kind, &config.congestion_factory) {
        (Congestion::Reno, _) => Box::new(Reno::new(mss, initial_window)),
        (Congestion::Bbr, _) => Box::new(Bbr::new(mss, initial_window)),
        (Congestion::Custom, Some(factory)) => factory.make(mss, initial_window),
        (Congestion::Cubic | Congestion::Custom, _) => Box::new(Cubic::new(mss, initial_window)),
    }
}

/// cwnd and ssthresh, and what the algorithms of the RFC 5681 family do with them in the same way.
#[derive(Clone, Debug)]
struct Window {
    smss: u32,
    cwnd: u32,
    ssthresh: u32,
    initial: u32,
    /// The greatest FlightSize of this round trip.
    flight_max: u32,
    episode: Episode,
}

/// What the last reduction was about, as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Episode {
    None,
    /// Between congestion and the exit of recovery.
    Recovery,
    /// Between a timeout and the next acknowledgement.
    Timeout,
}

impl Window {
    fn new(mss: u32, initial_window: u32) -> Self {
        let smss = mss.clamp(MSS_LIMITS.0, MSS_LIMITS.1);
        let initial = smss.saturating_mul(initial_window.max(1)).min(MAX_WINDOW);
        Self {
            smss,
            cwnd: initial,
            ssthresh: u32::MAX,
            initial,
            flight_max: 0,
            episode: Episode::None,
        }
    }

    /// RFC 5681 §3.1: as many segments as before where they become smaller, and not a burst of
    /// more. Larger ones are as many bytes.
    fn set_mss(&mut self, mss: u32) {
        let (before, smss) = (self.smss, mss.clamp(MSS_LIMITS.0, MSS_LIMITS.1));
        self.smss = smss;
        if smss < before {
            let scaled =
                |bytes: u32| (u64::from(bytes) * u64::from(smss) / u64::from(before)) as u32;
            self.cwnd = scaled(self.cwnd);
            self.initial = scaled(self.initial);
            if self.ssthresh != u32::MAX {
                self.ssthresh = scaled(self.ssthresh).max(self.floor());
            }
        }
        self.cwnd = self.cwnd.max(smss);
    }

    const fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Takes note of an acknowledgement and says whether cwnd may grow by it.
    fn may_grow(&mut self, ack: &Ack) -> bool {
        self.flight_max = if ack.round_start {
            ack.flight_size
        } else {
            self.flight_max.max(ack.flight_size)
        };
        if ack.in_recovery || ack.delivered == 0 {
            return false;
        }
        self.episode = Episode::None;
        // As Linux: a window that is half used may still double in slow start, or a sender that
        // writes in bursts would never leave the initial window.
        !ack.app_limited || self.in_slow_start() && self.cwnd < self.flight_max.saturating_mul(2)
    }

    /// RFC 5681 §3.1, counting bytes without a limit per acknowledgement: a stretch ACK counts in
    /// full, and division of ACKs gains nothing. Returns what is left for congestion avoidance.
    fn slow_start(&mut self, delivered: u32) -> u32 {
        let room = self.ssthresh.saturating_sub(self.cwnd);
        let growth = delivered.min(room);
        self.grow(growth);
        delivered - growth
    }

    fn grow(&mut self, bytes: u32) {
        self.cwnd = self
            .cwnd
            .max(self.cwnd.saturating_add(bytes).min(MAX_WINDOW));
    }

    /// The least window after congestion.
    const fn floor(&self) -> u32 {
        self.smss.saturating_mul(2)
    }

    /// Begins a loss episode at a window of `ssthresh`.
    fn enter_recovery(&mut self, ssthresh: u32) {
        self.ssthresh = ssthresh.max(self.floor());
        self.cwnd = self.ssthresh;
        self.episode = Episode::Recovery;
    }

    /// Sets ssthresh, unless an earlier reduction was about the same data (RFC 5681 §3.1), and the
    /// loss window of one segment.
    fn enter_loss(&mut self, ssthresh: u32) {
        if self.is_first_timeout() {
            self.ssthresh = ssthresh.max(self.floor());
        }
        self.enter_loss_again();
    }

    /// The loss window, and ssthresh as it is.
    fn enter_loss_again(&mut self) {
        self.cwnd = self.smss;
        self.episode = Episode::Timeout;
    }

    /// Whether a timeout now would be the first reduction for the data in flight.
    fn is_first_timeout(&self) -> bool {
        self.episode == Episode::None
    }

    fn exit_recovery(&mut self) {
        self.episode = Episode::None;
    }

    /// Takes back what `before` was reduced to.
    fn undo(&mut self, before: &Restore) {
        self.cwnd = self.cwnd.max(before.cwnd);
        self.ssthresh = self.ssthresh.max(before.ssthresh);
        self.episode = Episode::None;
    }

    const fn restore(&self) -> Restore {
        Restore {
            cwnd: self.cwnd,
            ssthresh: self.ssthresh,
        }
    }

    /// Halves cwnd for each RTO of idleness, down to the restart window (RFC 5681 §4.1 sets it to
    /// that at once; this is RFC 2861, and Linux). ssthresh remembers what the path could carry.
    fn restart(&mut self, idle: Duration, rto: Duration) {
        let least = self.initial.min(self.cwnd);
        if self.ssthresh != u32::MAX {
            self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        }
        let rtos = idle.as_nanos() / rto.as_nanos().max(1);
        let halvings = u32::try_from(rtos).unwrap_or(u32::MAX).min(31);
        self.cwnd = (self.cwnd >> halvings).max(least);
        self.flight_max = 0;
    }
}

/// cwnd and ssthresh as they were before a reduction.
#[derive(Clone, Copy, Debug)]
struct Restore {
    cwnd: u32,
    ssthresh: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;

    fn new(kind: Congestion, mss: u32, initial_window: u32) -> Box<dyn CongestionControl> {
        let config = Config {
            initial_window,
            ..Config::default()
        };
        super::new(kind, mss, &config)
    }

    const BOTH: [Congestion; 2] = [Congestion::Reno, Congestion::Cubic];

    fn ack(delivered: u32, flight_size: u32) -> Ack {
        Ack {
            delivered,
            flight_size,
            srtt: Some(Duration::from_millis(100)),
            min_rtt: Some(Duration::from_millis(100)),
            ..Ack::default()
        }
    }

    #[test]
    fn rfc6928_the_window_starts_with_ten_segments() {
        for kind in BOTH {
            let cc = new(kind, 1000, 10);
            assert_eq!((cc.window(), cc.ssthresh()), (10_000, u32::MAX));
        }
    }

    #[test]
    fn rfc5681_3_1_slow_start_doubles_in_a_round_trip_however_it_is_acknowledged() {
        for kind in BOTH {
            for step in [1, 100, 1000, 2000, 10_000] {
                let mut cc = new(kind, 1000, 10);
                for _ in 0..10_000 / step {
                    cc.on_ack(&ack(step, 10_000), Time::ZERO);
                }
                assert_eq!(cc.window(), 20_000, "{kind:?} by {step}");
            }
        }
    }

    #[test]
    fn a_limited_application_stops_growth_but_for_a_half_used_window_in_slow_start() {
        for kind in BOTH {
            let mut cc = new(kind, 1000, 10);
            let limited = |flight_size| Ack {
                app_limited: true,
                ..ack(1000, flight_size)
            };
            cc.on_ack(&limited(5000), Time::ZERO);
            assert_eq!(cc.window(), 10_000);
            cc.on_ack(&limited(6000), Time::ZERO);
            assert_eq!(cc.window(), 11_000);
            cc.on_congestion(11_000, Cause::Loss, Time::ZERO);
            cc.on_recovery_exit(Time::ZERO);
            let after = cc.window();
            for at in 1..100 {
                cc.on_ack(&limited(after), Time::from_millis(at * 100));
            }
            assert_eq!(cc.window(), after);
        }
    }

    #[test]
    fn rfc5681_3_1_smaller_segments_are_as_many_and_larger_ones_are_as_many_bytes() {
        for kind in BOTH {
            let mut cc = new(kind, 1500, 10);
            cc.set_mss(1000);
            assert_eq!((cc.window(), cc.ssthresh()), (10_000, u32::MAX));
            cc.set_mss(2000);
            assert_eq!(cc.window(), 10_000);
            cc.on_rto(10_000, Time::ZERO);
            let ssthresh = cc.ssthresh();
            cc.set_mss(1000);
            assert_eq!((cc.window(), cc.ssthresh()), (1000, ssthresh / 2));
        }
    }

    #[test]
    fn windows_have_floors_and_a_ceiling() {
        for kind in BOTH {
            let mut cc = new(kind, 1000, 10);
            for _ in 0..20 {
                cc.on_congestion(cc.window(), Cause::Loss, Time::ZERO);
                cc.on_recovery_exit(Time::ZERO);
            }
            assert_eq!((cc.window(), cc.ssthresh()), (2000, 2000));
            cc.on_rto(0, Time::ZERO);
            assert_eq!((cc.window(), cc.ssthresh()), (1000, 2000));
            let mut cc = new(kind, u32::MAX, u32::MAX);
            for at in 0..10 {
                cc.on_ack(&ack(u32::MAX, u32::MAX), Time::from_millis(at));
                assert!(cc.window() <= MAX_WINDOW);
            }
            cc.set_mss(0);
            cc.on_rto(u32::MAX, Time::ZERO);
            assert_eq!(cc.window(), 1);
        }
    }

    #[test]
    fn rfc5681_3_1_repeated_timeouts_keep_ssthresh_and_what_undo_restores() {
        for kind in BOTH {
            let mut cc = new(kind, 1000, 10);
            cc.on_ack(&ack(10_000, 10_000), Time::ZERO);
            cc.on_rto(20_000, Time::ZERO);
            let ssthresh = cc.ssthresh();
            assert!(ssthresh >= 10_000);
            cc.on_rto(20_000, Time::from_millis(1000));
            assert_eq!((cc.window(), cc.ssthresh()), (1000, ssthresh));
            cc.on_spurious(Time::from_millis(1100));
            assert_eq!((cc.window(), cc.ssthresh()), (20_000, u32::MAX));
            cc.on_spurious(Time::from_millis(1200));
            assert_eq!(cc.window(), 20_000);
        }
    }

    #[test]
    fn a_timeout_in_recovery_does_not_reduce_twice() {
        for kind in BOTH {
            let mut cc = new(kind, 1000, 20);
            cc.on_congestion(20_000, Cause::Loss, Time::ZERO);
            let ssthresh = cc.ssthresh();
            cc.on_rto(20_000, Time::from_millis(300));
            assert_eq!((cc.window(), cc.ssthresh()), (1000, ssthresh));
            cc.on_spurious(Time::from_millis(400));
            assert_eq!((cc.window(), cc.ssthresh()), (20_000, u32::MAX));
        }
    }

    #[test]
    fn a_new_timeout_after_progress_reduces_again() {
        for kind in BOTH {
            let mut cc = new(kind, 1000, 20);
            cc.on_rto(20_000, Time::ZERO);
            for at in 1..5 {
                cc.on_ack(&ack(1000, 4000), Time::from_millis(at * 10));
            }
            cc.on_rto(4000, Time::from_millis(1000));
            assert!(cc.ssthresh() < 4000);
        }
    }

    #[test]
    fn in_recovery_the_window_does_not_grow() {
        for kind in BOTH {
            let mut cc = new(kind, 1000, 20);
            cc.on_congestion(20_000, Cause::Ecn, Time::ZERO);
            let window = cc.window();
            let in_recovery = Ack {
                in_recovery: true,
                ..ack(1000, 20_000)
            };
            (1..50).for_each(|at| cc.on_ack(&in_recovery, Time::from_millis(at)));
            assert_eq!(cc.window(), window);
        }
    }

    #[test]
    fn rfc5681_4_1_idleness_halves_the_window_down_to_the_initial_one() {
        let (rto, ms) = (Duration::from_millis(300), Duration::from_millis);
        for kind in BOTH {
            let grown = || {
                let mut cc = new(kind, 1000, 10);
                cc.on_ack(&ack(90_000, 100_000), Time::ZERO);
                assert_eq!(cc.window(), 100_000);
                cc
            };
            for (idle, window) in [(301, 50_000), (601, 25_000), (9000, 10_000)] {
                let mut cc = grown();
                cc.on_idle_restart(ms(idle), rto);
                assert_eq!((cc.window(), cc.ssthresh()), (window, u32::MAX));
            }
            let mut cc = grown();
            cc.on_idle_restart(Duration::MAX, Duration::ZERO);
            assert_eq!(cc.window(), 10_000);
        }
    }
}

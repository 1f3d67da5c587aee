//! BBR: a model of the path in place of a reaction to loss.

use std::time::Duration;

use super::{Ack, Cause, CongestionControl, MAX_WINDOW, MSS_LIMITS};
use crate::time::Time;

/// Gains are in 256ths. 2 / ln 2: the least that doubles the rate in a round trip.
const HIGH_GAIN: u64 = 739;
const UNIT: u64 = 256;
/// Takes what the queue got in startup out of it again in about a round trip.
const DRAIN_GAIN: u64 = UNIT * UNIT / HIGH_GAIN;
/// Two bandwidth-delay products, for acknowledgements that come late and in clumps.
const CWND_GAIN: u64 = 2 * UNIT;
/// A round trip of asking for more, one of giving back what that put into the queue, six of neither.
const CYCLE: [u64; 8] = [
    UNIT * 5 / 4,
    UNIT * 3 / 4,
    UNIT,
    UNIT,
    UNIT,
    UNIT,
    UNIT,
    UNIT,
];
/// Round trips for which a measured bandwidth counts.
const BW_ROUNDS: u64 = 10;
/// The pipe is full when the rate has grown by less than a quarter in three round trips.
const FULL_BW_GROWTH: u64 = UNIT * 5 / 4;
const FULL_BW_ROUNDS: u8 = 3;
/// How long the least round-trip time counts, and how long a new one is looked for.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Version 3, `BBR.LossThresh`: of what a round trip sent, so much (a fiftieth) may be lost before
/// what was in flight is taken to be too much.
const LOSS_THRESH: u64 = 50;
/// Version 3, `BBR.StartupFullLossCnt`: and at least so many segments.
const LOSS_COUNT: u64 = 6;
/// Version 3, `BBR.Beta`: what is left of the bound then.
const BETA: u64 = UNIT * 7 / 10;
/// Version 3, `BBR.Headroom`: what is left free below the bound while not probing.
const HEADROOM: u64 = UNIT * 85 / 100;
/// Paces a little below the estimate, which keeps the queue from growing for ever (Linux:
/// `bbr_pacing_margin_percent`).
const PACING_PERCENT: u64 = 99;
/// Bytes a second beyond which a sample is none; gains fit above it.
const RATE_MAX: u64 = 1 << 48;
/// Segments, at the least.
const WINDOW_MIN: u32 = 4;

/// BBR as Linux ships it (version 1 of the model), with version 3's answer to loss: a bound on what
/// is in flight that falls when a path with a short queue loses more than it should, and grows again
/// while nothing is lost.
///
/// Loss that does not come with a longer queue, as on radio links, is told apart: it lowers the bound
/// only when it is what probing has brought.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    smss: u32,
    cwnd: u32,
    initial: u32,
    phase: Phase,
    bandwidth: MaxFilter,
    /// Bytes delivered in all, when the current round trip began to be acknowledged.
    round_end: u64,
    rounds: u64,
    /// The same, now.
    delivered: u64,
    min_rtt: Option<Duration>,
    min_rtt_at: Time,
    full_bandwidth: u64,
    full_rounds: u8,
    full: bool,
    /// inflight_hi: more than this was lost. `u32::MAX` when there is no such bound.
    bound: u32,
    round: Round,
    /// cwnd before recovery, a timeout or the search for a new least round-trip time.
    prior_cwnd: u32,
    episode: Episode,
    pacing_rate: u64,
    was_idle: bool,
    srtt: Option<Duration>,
}

/// What a round trip has brought so far.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    delivered: u64,
    lost: u64,
    /// The most that was in flight when something was sent that was acknowledged since.
    in_flight: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Startup,
    Drain,
    ProbeBandwidth {
        index: usize,
        since: Time,
    },
    ProbeRtt {
        /// When enough has been seen; `None` until little enough is in flight.
        until: Option<Time>,
        round: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Episode {
    None,
    /// In the first round trip of recovery what was delivered is replaced, and nothing more.
    Conserving {
        until: u64,
    },
    Recovery,
    Timeout,
}

impl Bbr {
    pub(super) fn new(mss: u32, initial_window: u32) -> Self {
        let smss = mss.clamp(MSS_LIMITS.0, MSS_LIMITS.1);
        let initial = smss.saturating_mul(initial_window.max(1)).min(MAX_WINDOW);
        Self {
            smss,
            cwnd: initial,
            initial,
            phase: Phase::Startup,
            bandwidth: MaxFilter::default(),
            round_end: 0,
            rounds: 0,
            delivered: 0,
            min_rtt: None,
            min_rtt_at: Time::ZERO,
            full_bandwidth: 0,
            full_rounds: 0,
            full: false,
            bound: u32::MAX,
            round: Round::default(),
            prior_cwnd: 0,
            episode: Episode::None,
            pacing_rate: 0,
            was_idle: false,
            srtt: None,
        }
    }

    fn pacing_gain(&self) -> u64 {
        match self.phase {
            Phase::Startup => HIGH_GAIN,
            Phase::Drain => DRAIN_GAIN,
            Phase::ProbeBandwidth { index, .. } => CYCLE[index],
            Phase::ProbeRtt { .. } => UNIT,
        }
    }

    fn cwnd_gain(&self) -> u64 {
        match self.phase {
            // Version 3, `BBR.StartupCwndGain`: enough to double, and no more than a queue of one
            // product takes.
            Phase::Startup | Phase::Drain | Phase::ProbeBandwidth { .. } => CWND_GAIN,
            Phase::ProbeRtt { .. } => UNIT,
        }
    }

    fn floor(&self) -> u32 {
        self.smss.saturating_mul(WINDOW_MIN)
    }

    /// Bandwidth times least round-trip time times gain, in bytes.
    fn product(&self, gain: u64) -> u32 {
        let Some(min_rtt) = self.min_rtt else {
            return self.initial;
        };
        let bytes = u128::from(self.bandwidth.max()) * min_rtt.as_nanos() / 1_000_000_000;
        let bytes = bytes * u128::from(gain) / u128::from(UNIT);
        u32::try_from(bytes).unwrap_or(u32::MAX).min(MAX_WINDOW)
    }

    /// With room for the segments that offloads hold back at both ends (Linux:
    /// `bbr_quantization_budget`).
    fn target(&self, gain: u64) -> u32 {
        let quantum = ((self.pacing_rate / 1000).min(1 << 16) as u32).max(2 * self.smss);
        self.product(gain).saturating_add(3 * quantum)
    }

    fn update_round(&mut self, ack: &Ack) -> bool {
        let Some(sample) = ack.sample else {
            return false;
        };
        self.delivered = sample.delivered;
        self.round.delivered += u64::from(ack.delivered);
        self.round.in_flight = self.round.in_flight.max(sample.in_flight);
        if sample.prior_delivered < self.round_end {
            return false;
        }
        self.round_end = sample.delivered;
        self.rounds += 1;
        true
    }

    fn update_bandwidth(&mut self, ack: &Ack) {
        let Some(sample) = ack.sample else { return };
        let Some(rate) = sample.rate else { return };
        let rate = rate.min(RATE_MAX);
        if !sample.app_limited || rate >= self.bandwidth.max() {
            self.bandwidth.update(rate, self.rounds);
        }
    }

    /// Leaves startup when the rate does not grow any more, or too much is lost (version 3).
    fn check_full(&mut self, ack: &Ack) {
        if self.full || ack.sample.is_none_or(|sample| sample.app_limited) {
            return;
        }
        let max = self.bandwidth.max();
        if max * UNIT >= self.full_bandwidth * FULL_BW_GROWTH {
            (self.full_bandwidth, self.full_rounds) = (max, 0);
            return;
        }
        self.full_rounds += 1;
        self.full = self.full_rounds >= FULL_BW_ROUNDS;
    }

    /// Version 3's bound on what is in flight, once in a round trip.
    fn judge_round(&mut self) {
        let Round {
            delivered,
            lost,
            in_flight,
        } = std::mem::take(&mut self.round);
        let many = lost >= u64::from(self.smss) * LOSS_COUNT;
        let too_much = many && lost * LOSS_THRESH > delivered + lost;
        let probing = match self.phase {
            Phase::Startup => true,
            Phase::ProbeBandwidth { index, .. } => index == 0,
            Phase::Drain | Phase::ProbeRtt { .. } => false,
        };
        if too_much && self.overfilled(in_flight) {
            if self.phase == Phase::Startup && self.full_rounds > 0 {
                self.full = true;
            }
            let in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
            // Never below what fills the path without a queue, or loss that is not ours would pull
            // down the bandwidth that is measured, and that again the bound.
            let least = self.product(UNIT * 5 / 4).max(self.floor());
            let cut = (u64::from(self.bound.min(in_flight)) * BETA / UNIT) as u32;
            self.bound = cut.max(least);
        } else if !too_much && self.bound != u32::MAX && probing {
            let step = (self.bound / 8).max(self.smss);
            self.bound = self.bound.saturating_add(step).min(MAX_WINDOW);
        }
    }

    /// Whether so much in flight is more than the path holds without a queue: then the queue, and
    /// with it we, may be what loses.
    fn overfilled(&self, in_flight: u64) -> bool {
        in_flight > u64::from(self.product(UNIT))
    }

    fn advance_phase(&mut self, ack: &Ack, now: Time) {
        match self.phase {
            Phase::Startup if self.full => self.phase = Phase::Drain,
            _ => {}
        }
        if self.phase == Phase::Drain && ack.in_flight <= self.product(UNIT) {
            // Not with the phase that gives back, and not all flows with the same one.
            let index = 2 + (self.rounds % 6) as usize;
            self.phase = Phase::ProbeBandwidth { index, since: now };
        }
        if let Phase::ProbeBandwidth { index, since } = self.phase {
            let long = now.since(since) > self.min_rtt.unwrap_or_default();
            let next = match CYCLE[index] {
                gain if gain > UNIT => {
                    long && (ack.lost > 0 || ack.flight_size >= self.bounded(self.product(gain)))
                }
                gain if gain < UNIT => long || ack.in_flight <= self.product(UNIT),
                _ => long,
            };
            if next {
                let index = (index + 1) % CYCLE.len();
                self.phase = Phase::ProbeBandwidth { index, since: now };
            }
        }
    }

    /// The least round-trip time, which is looked for anew every ten seconds with little in flight.
    fn update_min_rtt(&mut self, ack: &Ack, round_start: bool, now: Time) {
        let expired = now.since(self.min_rtt_at) > MIN_RTT_WINDOW;
        if let Some(rtt) = ack.rtt
            && (expired || self.min_rtt.is_none_or(|min| rtt <= min))
        {
            self.min_rtt = Some(rtt);
            self.min_rtt_at = now;
        }
        if expired && !self.was_idle && !matches!(self.phase, Phase::ProbeRtt { .. }) {
            self.save_cwnd();
            self.phase = Phase::ProbeRtt {
                until: None,
                round: 0,
            };
        }
        if let Phase::ProbeRtt { until, round } = &mut self.phase {
            match *until {
                None if ack.in_flight <= self.smss.saturating_mul(WINDOW_MIN) => {
                    *until = Some(now + PROBE_RTT_TIME);
                    *round = self.rounds;
                }
                Some(at) if at <= now && (round_start || self.rounds > *round) => {
                    self.min_rtt_at = now;
                    self.cwnd = self.cwnd.max(self.prior_cwnd);
                    self.phase = if self.full {
                        Phase::ProbeBandwidth {
                            index: 2,
                            since: now,
                        }
                    } else {
                        Phase::Startup
                    };
                }
                None | Some(_) => {}
            }
        }
        self.was_idle = false;
    }

    fn save_cwnd(&mut self) {
        let whole = self.episode == Episode::None && !matches!(self.phase, Phase::ProbeRtt { .. });
        self.prior_cwnd = if whole {
            self.cwnd
        } else {
            self.prior_cwnd.max(self.cwnd)
        };
    }

    fn bounded(&self, window: u32) -> u32 {
        let bound = match self.phase {
            Phase::ProbeBandwidth { index: 0, .. } | Phase::Startup => self.bound,
            _ if self.bound == u32::MAX => u32::MAX,
            _ => (u64::from(self.bound) * HEADROOM / UNIT) as u32,
        };
        window.min(bound.max(self.floor()))
    }

    fn set_pacing_rate(&mut self) {
        let max = self.bandwidth.max();
        if self.pacing_rate == 0 {
            // The initial window in a round trip; the first acknowledgements of it are about a
            // segment or two, and would hold back what startup is to send (Linux:
            // `bbr_init_pacing_rate_from_rtt`).
            let srtt = self.srtt.unwrap_or(Duration::from_millis(1));
            let nanos = srtt.as_nanos().max(1);
            let bytes = u128::from(self.initial) * 1_000_000_000 / nanos;
            self.pacing_rate = self.paced(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        if max == 0 {
            return;
        }
        let rate = self.paced(max);
        if self.full || rate > self.pacing_rate {
            self.pacing_rate = rate;
        }
    }

    /// The rate at which to send where the path is believed to carry this one.
    fn paced(&self, rate: u64) -> u64 {
        let wide = u128::from(rate) * u128::from(self.pacing_gain() * PACING_PERCENT);
        let rate = u64::try_from(wide / u128::from(UNIT * 100)).unwrap_or(u64::MAX);
        rate.max(1)
    }

    fn set_cwnd(&mut self, ack: &Ack) {
        let mut cwnd = self.cwnd;
        if ack.lost > 0 {
            cwnd = cwnd.saturating_sub(ack.lost).max(self.smss);
        }
        match self.episode {
            Episode::Conserving { until } => {
                cwnd = cwnd.max(ack.in_flight.saturating_add(ack.delivered));
                if ack
                    .sample
                    .is_some_and(|sample| sample.prior_delivered >= until)
                {
                    self.episode = Episode::Recovery;
                }
            }
            Episode::None | Episode::Recovery | Episode::Timeout => {
                let target = self.bounded(self.target(self.cwnd_gain()));
                let grown = cwnd.saturating_add(ack.delivered);
                if self.full {
                    cwnd = grown.min(target);
                } else if cwnd < target || self.delivered < u64::from(self.initial) {
                    cwnd = grown;
                }
                cwnd = cwnd.max(self.floor());
            }
        }
        self.cwnd = cwnd.min(MAX_WINDOW);
        if matches!(self.phase, Phase::ProbeRtt { .. }) {
            self.cwnd = self.cwnd.min(self.floor());
        }
    }
}

impl CongestionControl for Bbr {
    fn name(&self) -> &'static str {
        "bbr"
    }

    fn window(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.bound
    }

    fn pacing_rate(&self) -> Option<u64> {
        (self.pacing_rate > 0).then_some(self.pacing_rate)
    }

    fn controls_recovery(&self) -> bool {
        true
    }

    fn set_mss(&mut self, mss: u32) {
        self.smss = mss.clamp(MSS_LIMITS.0, MSS_LIMITS.1);
        self.cwnd = self.cwnd.max(self.smss);
    }

    fn on_sent(&mut self, _bytes: u32, flight_size: u32, _now: Time) {
        if flight_size == 0 {
            self.was_idle = true;
        }
    }

    fn on_ack(&mut self, ack: &Ack, now: Time) {
        self.srtt = ack.srtt;
        self.round.lost += u64::from(ack.lost);
        let round_start = self.update_round(ack);
        self.update_bandwidth(ack);
        if round_start {
            self.check_full(ack);
            self.judge_round();
        }
        self.advance_phase(ack, now);
        self.update_min_rtt(ack, round_start, now);
        self.set_pacing_rate();
        self.set_cwnd(ack);
    }

    fn on_congestion(&mut self, _flight_size: u32, cause: Cause, _now: Time) {
        if cause == Cause::Loss {
            self.save_cwnd();
            // A round trip begins here.
            self.round_end = self.delivered;
            let until = self.delivered;
            self.episode = Episode::Conserving { until };
        }
    }

    fn on_recovery_exit(&mut self, _now: Time) {
        if self.episode != Episode::None {
            self.episode = Episode::None;
            self.cwnd = self.cwnd.max(self.prior_cwnd);
        }
    }

    fn on_rto(&mut self, _flight_size: u32, _now: Time) {
        self.save_cwnd();
        self.episode = Episode::Timeout;
        // What was lost with it does not say what the path can carry.
        self.round = Round::default();
        self.full_bandwidth = 0;
        self.cwnd = self.smss;
    }

    fn on_spurious(&mut self, _now: Time) {
        (self.full_bandwidth, self.full_rounds) = (0, 0);
        self.bound = u32::MAX;
        self.episode = Episode::None;
        self.cwnd = self.cwnd.max(self.prior_cwnd);
    }

    fn on_idle_restart(&mut self, _idle: Duration, _rto: Duration) {
        // It is paced, at a rate that was measured: there is no burst to be avoided.
        self.was_idle = true;
    }
}

/// The greatest of the samples of the last ten round trips (Kathleen Nichols' algorithm).
#[derive(Clone, Copy, Debug, Default)]
struct MaxFilter {
    /// Value and round of the best, the best since that one, and the best since the second.
    best: [(u64, u64); 3],
}

impl MaxFilter {
    fn max(&self) -> u64 {
        self.best[0].0
    }

    fn update(&mut self, value: u64, round: u64) {
        let best = &mut self.best;
        if value >= best[0].0 || round - best[2].1 > BW_ROUNDS {
            *best = [(value, round); 3];
            return;
        }
        if value >= best[1].0 {
            best[1] = (value, round);
            best[2] = (value, round);
        } else if value >= best[2].0 {
            best[2] = (value, round);
        }
        let age = round - best[0].1;
        if age > BW_ROUNDS {
            *best = [best[1], best[2], (value, round)];
            if round - best[0].1 > BW_ROUNDS {
                *best = [best[1], best[2], (value, round)];
            }
        } else if best[1].1 == best[0].1 && age > BW_ROUNDS / 4 {
            best[1] = (value, round);
            best[2] = (value, round);
        } else if best[2].1 == best[1].1 && age > BW_ROUNDS / 2 {
            best[2] = (value, round);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::congestion::RateSample;

    const MSS: u32 = 1000;
    /// Of the path: a megabyte a second and 100 ms, so 100 segments are one product of both.
    const RATE: u64 = 1_000_000;
    const RTT: Duration = Duration::from_millis(100);
    const PRODUCT: u32 = 100 * MSS;

    /// A path that delivers at a rate, and a sender that always fills its window.
    struct Drive {
        bbr: Bbr,
        now: Time,
        delivered: u64,
    }

    /// What one round trip is like.
    #[derive(Clone, Copy)]
    struct Trip {
        rate: u64,
        rtt: Duration,
        app_limited: bool,
        /// Bytes in flight when it was sent, and after it was acknowledged.
        sent: u32,
        left: u32,
        lost: u32,
    }

    const TRIP: Trip = Trip {
        rate: RATE,
        rtt: RTT,
        app_limited: false,
        sent: PRODUCT,
        left: PRODUCT,
        lost: 0,
    };

    impl Drive {
        fn new() -> Self {
            Self {
                bbr: Bbr::new(MSS, 10),
                now: Time::from_millis(1000),
                delivered: 0,
            }
        }

        /// A round trip in ten acknowledgements, of which the first one brings the losses.
        fn trip(&mut self, trip: Trip) {
            let prior_delivered = self.delivered;
            let delivered = (trip.rate * trip.rtt.as_millis() as u64 / 10_000) as u32;
            for n in 0..10 {
                self.now = self.now + trip.rtt / 10;
                self.delivered += u64::from(delivered);
                let lost = if n == 0 { trip.lost } else { 0 };
                let ack = Ack {
                    delivered,
                    flight_size: trip.sent,
                    in_flight: trip.left,
                    lost,
                    rtt: Some(trip.rtt),
                    srtt: Some(trip.rtt),
                    min_rtt: Some(trip.rtt),
                    sample: Some(RateSample {
                        rate: Some(trip.rate),
                        app_limited: trip.app_limited,
                        prior_delivered,
                        delivered: self.delivered,
                        lost: u64::from(trip.lost),
                        in_flight: u64::from(trip.sent),
                    }),
                    ..Ack::default()
                };
                self.bbr.on_ack(&ack, self.now);
            }
        }

        fn trips(&mut self, count: u32, trip: Trip) {
            (0..count).for_each(|_| self.trip(trip));
        }

        /// Through startup and drain.
        fn steady() -> Self {
            let mut drive = Self::new();
            drive.trips(6, TRIP);
            assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
            drive
        }

        fn rate_in_percent(&self) -> u64 {
            self.bbr.pacing_rate().unwrap() * 100 / RATE
        }
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Bbr>() <= 320, "{}", size_of::<Bbr>());
    }

    #[test]
    fn startup_paces_the_initial_window_by_the_first_round_trip_time() {
        let mut drive = Drive::new();
        assert_eq!(drive.bbr.pacing_rate(), None);
        let silent = Ack {
            srtt: Some(RTT),
            rtt: Some(RTT),
            ..Ack::default()
        };
        drive.bbr.on_ack(&silent, drive.now);
        // 10 segments in 100 ms, times 2.89, less a hundredth.
        assert_eq!(drive.bbr.pacing_rate(), Some(285_785));
        assert_eq!(drive.bbr.window(), 10 * MSS);
    }

    #[test]
    fn startup_goes_on_while_the_rate_grows_by_a_quarter_and_ends_three_rounds_later() {
        let mut drive = Drive::new();
        let mut rate = RATE / 8;
        while rate < RATE {
            drive.trip(Trip { rate, ..TRIP });
            assert_eq!(drive.bbr.phase, Phase::Startup);
            rate = rate * 13 / 10;
        }
        // A fifth a round is too little, three rounds in a row.
        let before = drive.bbr.full_bandwidth;
        for rounds in 1..=3 {
            assert!(!drive.bbr.full);
            drive.trip(Trip {
                rate: before + before / 5,
                ..TRIP
            });
            assert_eq!(drive.bbr.full_rounds, rounds);
        }
        assert!(drive.bbr.full);
    }

    #[test]
    fn drain_empties_the_queue_that_startup_built() {
        let mut drive = Drive::new();
        let queue = Trip {
            left: 3 * PRODUCT,
            ..TRIP
        };
        drive.trips(5, queue);
        assert_eq!(drive.bbr.phase, Phase::Drain);
        // 1 / 2.89.
        assert_eq!(drive.rate_in_percent(), 34);
        drive.trips(2, queue);
        assert_eq!(drive.bbr.phase, Phase::Drain);
        drive.trip(TRIP);
        assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
    }

    #[test]
    fn probing_for_bandwidth_asks_for_more_then_gives_back_then_cruises_for_six_rounds() {
        let mut drive = Drive::steady();
        let mut seen = Vec::new();
        for _ in 0..24 {
            // Enough in flight for the probe to be one.
            drive.trip(Trip {
                sent: 2 * PRODUCT,
                left: PRODUCT + MSS,
                ..TRIP
            });
            seen.push(drive.rate_in_percent());
        }
        let probe = seen.iter().position(|percent| *percent == 123).unwrap();
        assert_eq!(
            seen[probe..probe + 9],
            [123, 74, 99, 99, 99, 99, 99, 99, 123]
        );
        // Two products and room for three bursts.
        assert_eq!(drive.bbr.window(), 2 * PRODUCT + 3 * 2 * MSS);
    }

    #[test]
    fn a_probe_lasts_until_enough_is_in_flight() {
        let mut drive = Drive::steady();
        while drive.rate_in_percent() != 123 {
            drive.trip(TRIP);
        }
        drive.trips(3, TRIP);
        assert_eq!(drive.rate_in_percent(), 123);
        drive.trip(Trip {
            sent: PRODUCT * 5 / 4,
            ..TRIP
        });
        assert_ne!(drive.rate_in_percent(), 123);
    }

    #[test]
    fn bandwidth_is_the_greatest_of_ten_rounds() {
        let mut drive = Drive::steady();
        drive.trip(Trip {
            rate: 2 * RATE,
            ..TRIP
        });
        drive.trips(9, TRIP);
        assert_eq!(drive.bbr.bandwidth.max(), 2 * RATE);
        drive.trips(3, TRIP);
        assert_eq!(drive.bbr.bandwidth.max(), RATE);
    }

    #[test]
    fn a_limited_application_lowers_no_estimate_and_ends_no_startup() {
        let limited = Trip {
            rate: RATE / 10,
            app_limited: true,
            ..TRIP
        };
        let mut drive = Drive::new();
        drive.trip(TRIP);
        drive.trips(30, limited);
        assert_eq!(
            (drive.bbr.bandwidth.max(), drive.bbr.phase),
            (RATE, Phase::Startup)
        );
        // But what it shows to be possible is possible.
        drive.trip(Trip {
            rate: 2 * RATE,
            ..limited
        });
        assert_eq!(drive.bbr.bandwidth.max(), 2 * RATE);
    }

    #[test]
    fn every_ten_seconds_four_segments_in_flight_show_the_least_round_trip_time() {
        let mut drive = Drive::steady();
        let before = drive.bbr.window();
        let longer = RTT + Duration::from_millis(20);
        let queued = Trip {
            rtt: longer,
            left: 5 * MSS,
            ..TRIP
        };
        let mut trips = 0;
        while !matches!(drive.bbr.phase, Phase::ProbeRtt { .. }) {
            drive.trip(queued);
            trips += 1;
        }
        assert!((80..=84).contains(&trips), "{trips} of 120 ms");
        assert_eq!(drive.bbr.window(), 4 * MSS);
        // Not before so little is in flight, and then for 200 ms at the least.
        drive.trips(5, queued);
        assert_eq!(drive.bbr.window(), 4 * MSS);
        let empty = Trip {
            left: 4 * MSS,
            ..TRIP
        };
        drive.trip(empty);
        assert_eq!(drive.bbr.window(), 4 * MSS);
        drive.trips(2, empty);
        assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
        assert!(drive.bbr.window() >= before, "{}", drive.bbr.window());
        assert_eq!(drive.bbr.min_rtt, Some(RTT));
    }

    #[test]
    fn after_idleness_no_search_for_the_round_trip_time_begins() {
        let mut drive = Drive::steady();
        drive.now = drive.now + Duration::from_secs(11);
        drive.bbr.on_sent(MSS, 0, drive.now);
        drive.trip(TRIP);
        assert!(matches!(drive.bbr.phase, Phase::ProbeBandwidth { .. }));
    }

    #[test]
    fn loss_that_is_not_ours_leaves_rate_and_bound_alone() {
        let mut drive = Drive::steady();
        let rate = drive.rate_in_percent();
        for _ in 0..20 {
            // A tenth is lost of no more than the path holds without a queue.
            drive.bbr.on_congestion(PRODUCT, Cause::Loss, drive.now);
            drive.trip(Trip {
                lost: 10 * MSS,
                ..TRIP
            });
            drive.bbr.on_recovery_exit(drive.now);
        }
        assert_eq!(drive.bbr.ssthresh(), u32::MAX);
        assert!(drive.rate_in_percent() >= rate.min(74));
        assert!(drive.bbr.window() > PRODUCT);
    }

    #[test]
    fn loss_in_a_queue_bounds_what_is_in_flight_and_probing_lifts_the_bound() {
        let mut drive = Drive::steady();
        let full = Trip {
            sent: 2 * PRODUCT,
            lost: 10 * MSS,
            ..TRIP
        };
        drive.trips(2, full);
        // 0.7 of what was in flight, and never less than fills the path.
        assert!((125 * MSS..=140 * MSS).contains(&drive.bbr.ssthresh()));
        drive.trips(10, full);
        assert_eq!(drive.bbr.ssthresh(), 125 * MSS);
        let bound = drive.bbr.ssthresh();
        drive.trips(
            20,
            Trip {
                sent: 2 * PRODUCT,
                ..TRIP
            },
        );
        assert!(drive.bbr.ssthresh() > bound);
    }

    #[test]
    fn the_first_round_trip_of_recovery_conserves_packets_and_its_end_restores_the_window() {
        let mut drive = Drive::steady();
        let before = drive.bbr.window();
        drive.bbr.on_congestion(before, Cause::Loss, drive.now);
        let ack = Ack {
            delivered: MSS,
            in_flight: 50 * MSS,
            lost: before - 50 * MSS,
            rtt: Some(RTT),
            sample: Some(RateSample {
                prior_delivered: drive.delivered - 1,
                delivered: drive.delivered,
                ..RateSample::default()
            }),
            ..Ack::default()
        };
        drive.bbr.on_ack(&ack, drive.now);
        assert_eq!(drive.bbr.window(), 51 * MSS);
        drive.bbr.on_recovery_exit(drive.now);
        assert_eq!(drive.bbr.window(), before);
    }

    #[test]
    fn a_timeout_leaves_one_segment_and_keeps_the_model() {
        let mut drive = Drive::steady();
        let (before, bandwidth) = (drive.bbr.window(), drive.bbr.bandwidth.max());
        drive.bbr.on_rto(before, drive.now);
        assert_eq!(drive.bbr.window(), MSS);
        assert_eq!(drive.bbr.bandwidth.max(), bandwidth);
        drive.trip(TRIP);
        assert!(drive.bbr.window() >= PRODUCT);
        drive.bbr.on_rto(before, drive.now);
        drive.bbr.on_spurious(drive.now);
        assert!(drive.bbr.window() >= before);
    }

    #[test]
    fn no_sample_of_a_peer_makes_it_overflow() {
        let mut bbr = Bbr::new(u32::MAX, u32::MAX);
        for n in 0..50_u64 {
            let ack = Ack {
                delivered: u32::MAX,
                flight_size: u32::MAX,
                in_flight: u32::MAX,
                lost: u32::MAX,
                rtt: Some(Duration::from_nanos(n)),
                srtt: Some(Duration::ZERO),
                sample: Some(RateSample {
                    rate: Some(u64::MAX >> (n % 40)),
                    prior_delivered: n,
                    delivered: n + 1,
                    lost: u64::MAX >> 20,
                    in_flight: u64::MAX,
                    ..RateSample::default()
                }),
                ..Ack::default()
            };
            bbr.on_ack(&ack, Time::from_millis(n * 400));
            bbr.on_rto(u32::MAX, Time::from_millis(n * 400));
            assert!(bbr.window() <= MAX_WINDOW);
        }
    }
}

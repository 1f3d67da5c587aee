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
            Phase::Startup | Phase::Drain => HIGH_GAIN,
            Phase::ProbeBandwidth { .. } => CWND_GAIN,
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
        let rate = if max == 0 {
            // Nothing delivered yet: the initial window in a round trip.
            let srtt = self.srtt.unwrap_or(Duration::from_millis(1));
            let nanos = srtt.as_nanos().max(1);
            let bytes = u128::from(self.initial) * 1_000_000_000 / nanos;
            u64::try_from(bytes).unwrap_or(u64::MAX)
        } else {
            max
        };
        let wide = u128::from(rate) * u128::from(self.pacing_gain() * PACING_PERCENT);
        let rate = u64::try_from(wide / u128::from(UNIT * 100)).unwrap_or(u64::MAX);
        if self.full || rate > self.pacing_rate {
            self.pacing_rate = rate.max(1);
        }
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

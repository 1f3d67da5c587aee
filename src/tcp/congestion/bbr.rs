//! BBR: a model of the path in place of a reaction to loss.

use std::time::Duration;

use super::{Ack, Cause, CongestionControl, MAX_WINDOW, MSS_LIMITS, RateSample};
use crate::time::Time;

/// Gains are in 256ths. 2 / ln 2: the least that doubles the rate in a round trip.
const HIGH_GAIN: u64 = 739;
const UNIT: u64 = 256;
/// Takes what the queue got in startup out of it again in about a round trip.
const DRAIN_GAIN: u64 = UNIT * UNIT / HIGH_GAIN;
/// Two bandwidth-delay products, for acknowledgements that come late and in clumps.
const CWND_GAIN: u64 = 2 * UNIT;
/// The same in startup with a queue.
const QUEUED_GAIN: u64 = UNIT * 7 / 4;
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
/// The most that acknowledgements in clumps add to cwnd: what goes out in this time. Round trips for
/// which a clump counts, at least.
const CLUMP_TIME: Duration = Duration::from_millis(100);
const CLUMP_ROUNDS: u8 = 5;
/// Of the estimate. Linux takes a hundredth off, but paces payload at a rate that was measured in
/// packets with their headers, which makes it 102 percent of what is delivered. With 99, a flow that
/// shares a bottleneck with one of Linux's gets a third of it or less; with 101, one that is alone
/// keeps the queue full.
const PACING_PERCENT: u64 = 100;
/// After so many it is tried again where that did not empty it: others keep it full.
const FOREIGN_QUEUE_ROUNDS: u64 = 128;
/// For how many round trips at most a queue that was full is emptied.
const DRAIN_ROUNDS: u32 = 6;
/// Bytes a second beyond which a sample is none; gains fit above it.
const RATE_MAX: u64 = 1 << 48;
/// Segments, at the least.
const WINDOW_MIN: u32 = 4;

/// BBR as Linux ships it: version 1 of the model. Loss alone changes nothing but what is sent in the
/// first round trip of recovery; much of it from a queue that is full ends startup, and has the queue
/// emptied, unless others fill it.
///
/// Version 3 bounds what is in flight where a round trip loses more than a fiftieth. That was tried,
/// and gives way wherever Linux's version shares the bottleneck and in queues too short for any
/// burst.
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
    clumps: Clumps,
    /// Bytes delivered in all, when the search for the least round-trip time began, and when what was
    /// sent during it will be: too little was in flight for the rate to be the path's.
    searched: (u64, u64),
    /// cwnd before recovery, a timeout or the search for a new least round-trip time.
    prior_cwnd: u32,
    episode: Episode,
    /// The episode is over, unless this acknowledgement begins another one.
    ending: bool,
    pacing_rate: u64,
    was_idle: bool,
    srtt: Option<Duration>,
    drained: Drained,
}

/// How the queue was last emptied.
#[derive(Clone, Copy, Debug, Default)]
struct Drained {
    /// The phase that gives back goes on until it is.
    under_way: bool,
    /// In which round trip it began, and the least round-trip time since then.
    round: u64,
    rtt: Option<Duration>,
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
        /// Whether the first acknowledgement is still to come, which begins with what is in flight:
        /// less than cwnd, where pacing is the limit.
        fresh: bool,
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
            clumps: Clumps::default(),
            searched: (0, 0),
            prior_cwnd: 0,
            episode: Episode::None,
            ending: false,
            pacing_rate: 0,
            was_idle: false,
            srtt: None,
            drained: Drained::default(),
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
        let bytes = u128::from(bytes_in(self.bandwidth.max(), min_rtt)) * u128::from(gain)
            / u128::from(UNIT);
        u32::try_from(bytes).unwrap_or(u32::MAX).min(MAX_WINDOW)
    }

    /// What offloads hold back at both ends.
    fn held_back(&self) -> u32 {
        3 * ((self.pacing_rate / 1000).min(1 << 16) as u32).max(2 * self.smss)
    }

    /// With room for the segments that offloads hold back (Linux: `bbr_quantization_budget`).
    fn target(&self, gain: u64) -> u32 {
        self.product(gain).saturating_add(self.held_back())
    }

    /// What cwnd grows to. In startup, once packets wait in a queue, cwnd and not pacing is the
    /// limit: then it is a little less than a path and a queue of one product take, for clumps of
    /// acknowledgements make the bandwidth too large, and without what is added for offloads. All of
    /// that would be lost from the queue again and again.
    fn cwnd_target(&self, ack: &Ack) -> u32 {
        match self.phase {
            Phase::Startup if self.has_queue(ack) => {
                self.product(QUEUED_GAIN).max(self.held_back())
            }
            _ => self.target(self.cwnd_gain()),
        }
    }

    /// Whether what was acknowledged now had waited for a quarter of a round trip.
    fn has_queue(&self, ack: &Ack) -> bool {
        ack.rtt.is_some_and(|rtt| !self.is_short(rtt))
    }

    fn is_short(&self, rtt: Duration) -> bool {
        self.min_rtt
            .is_none_or(|min_rtt| rtt <= min_rtt.saturating_add(min_rtt / 4))
    }

    fn update_round(&mut self, ack: &Ack) -> bool {
        let Some(sample) = ack.sample else {
            return false;
        };
        self.delivered = sample.delivered;
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
        if !self.is_limited(&sample) || rate >= self.bandwidth.max() {
            self.bandwidth.update(rate, self.rounds);
        }
    }

    /// Whether something else than the path limited what was sent.
    fn is_limited(&self, sample: &RateSample) -> bool {
        let (from, until) = self.searched;
        sample.app_limited || (from..until).contains(&sample.prior_delivered)
    }

    /// How much more was acknowledged than the bandwidth explains: acknowledgements come in clumps.
    fn update_clumps(&mut self, ack: &Ack, round_start: bool, now: Time) {
        if ack.sample.is_none_or(|sample| sample.rate.is_none()) {
            return;
        }
        if round_start {
            self.clumps.on_round();
        }
        let expected = bytes_in(self.bandwidth.max(), now.since(self.clumps.since));
        self.clumps.add(ack.delivered, expected, self.cwnd, now);
    }

    /// Leaves startup when the rate does not grow any more.
    fn check_full(&mut self, ack: &Ack) {
        if self.full || ack.sample.is_none_or(|sample| self.is_limited(&sample)) {
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

    /// Whether the queue has just been full: what arrives had waited, and much was lost. Losses
    /// alone are no sign of it.
    fn has_overflowed(&self, ack: &Ack) -> bool {
        ack.lost > 0
            && self.has_queue(ack)
            && ack.sample.is_some_and(|sample| {
                let delivered = sample.delivered.saturating_sub(sample.prior_delivered);
                sample.lost.saturating_mul(50) > delivered.saturating_add(sample.lost)
            })
    }

    /// A queue that is full is as good a reason to leave startup as a rate that does not grow
    /// (version 3, `BBRCheckStartupHighLoss`, asks for less), and later to empty it as a whole: a
    /// bandwidth that is believed to be a little more than it is fills it again in every cycle.
    fn check_overflow(&mut self, ack: &Ack, now: Time) {
        if !self.has_overflowed(ack) {
            return;
        }
        self.full = true;
        let rounds = self.rounds - self.drained.round;
        let worth = self.drained.rtt.is_none_or(|rtt| self.is_short(rtt));
        let pause = if worth {
            CYCLE.len() as u64
        } else {
            FOREIGN_QUEUE_ROUNDS
        };
        if matches!(self.phase, Phase::ProbeBandwidth { .. }) && rounds >= pause {
            self.drained = Drained {
                round: self.rounds,
                rtt: Some(Duration::MAX),
                under_way: true,
            };
            let index = 1;
            self.phase = Phase::ProbeBandwidth { index, since: now };
        }
    }

    fn advance_phase(&mut self, ack: &Ack, now: Time) {
        match self.phase {
            Phase::Startup if self.full => self.phase = Phase::Drain,
            _ => {}
        }
        if self.phase == Phase::Drain && ack.in_flight <= self.target(UNIT) {
            // Not with the phase that gives back, and not all flows with the same one.
            let index = 2 + (self.rounds % 6) as usize;
            self.phase = Phase::ProbeBandwidth { index, since: now };
        }
        if let Phase::ProbeBandwidth { index, since } = self.phase {
            // What was in flight before this acknowledgement.
            let before = ack
                .in_flight
                .saturating_add(ack.delivered)
                .saturating_add(ack.lost);
            let long = now.since(since) > self.min_rtt.unwrap_or_default();
            let next = match CYCLE[index] {
                gain if gain > UNIT => long && (ack.lost > 0 || before >= self.target(gain)),
                gain if gain < UNIT => {
                    let most = self
                        .min_rtt
                        .unwrap_or_default()
                        .saturating_mul(DRAIN_ROUNDS);
                    let enough = if self.drained.under_way {
                        now.since(since) > most
                    } else {
                        long
                    };
                    enough || before <= self.target(UNIT)
                }
                _ => long,
            };
            if next {
                self.drained.under_way = false;
                let index = (index + 1) % CYCLE.len();
                self.phase = Phase::ProbeBandwidth { index, since: now };
            }
        }
    }

    /// The least round-trip time, which is looked for anew every ten seconds with little in flight.
    fn update_min_rtt(&mut self, ack: &Ack, round_start: bool, now: Time) {
        self.drained.rtt = self
            .drained
            .rtt
            .zip(ack.rtt)
            .map(|(least, rtt)| least.min(rtt))
            .or(self.drained.rtt);
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
        if matches!(self.phase, Phase::ProbeRtt { .. }) {
            let from = if self.searched.1 < self.delivered {
                self.delivered
            } else {
                self.searched.0
            };
            self.searched = (from, self.delivered + u64::from(ack.in_flight).max(1));
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

    /// Gives back what recovery took, once it is known to be over.
    fn end_episode(&mut self) {
        if std::mem::take(&mut self.ending) {
            self.episode = Episode::None;
            self.cwnd = self.cwnd.max(self.prior_cwnd);
        }
    }

    fn set_cwnd(&mut self, ack: &Ack) {
        self.end_episode();
        let mut cwnd = self.cwnd;
        if ack.lost > 0 {
            cwnd = cwnd.saturating_sub(ack.lost).max(self.smss);
        }
        match self.episode {
            Episode::Conserving { until, fresh } => {
                let kept = ack.in_flight.saturating_add(ack.delivered);
                cwnd = if fresh { kept } else { cwnd.max(kept) };
                self.episode = Episode::Conserving {
                    until,
                    fresh: false,
                };
                if ack
                    .sample
                    .is_some_and(|sample| sample.prior_delivered >= until)
                {
                    self.episode = Episode::Recovery;
                }
            }
            Episode::None | Episode::Recovery | Episode::Timeout => {
                let mut target = self.cwnd_target(ack);
                if self.full {
                    let most = bytes_in(self.bandwidth.max(), CLUMP_TIME);
                    let clump = u64::from(self.clumps.max()).min(most) as u32;
                    target = target.saturating_add(clump);
                }
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
        u32::MAX
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
        let round_start = self.update_round(ack);
        self.update_bandwidth(ack);
        if round_start {
            self.check_full(ack);
        }
        self.check_overflow(ack, now);
        self.update_clumps(ack, round_start, now);
        self.advance_phase(ack, now);
        self.update_min_rtt(ack, round_start, now);
        self.set_pacing_rate();
        self.set_cwnd(ack);
    }

    fn on_congestion(&mut self, _flight_size: u32, cause: Cause, _now: Time) {
        if cause == Cause::Loss {
            self.save_cwnd();
            // Where one recovery follows the other, as on every path that loses more than a packet
            // in a round trip, only the first of them begins with conservation: each would take
            // what is in flight in a lull between two bursts for all that may be (Linux:
            // `bbr_set_cwnd_to_recover_or_restore` sees the state before and after).
            if std::mem::take(&mut self.ending) && self.episode != Episode::Timeout {
                return;
            }
            // A round trip begins here.
            self.round_end = self.delivered;
            let until = self.delivered;
            self.episode = Episode::Conserving { until, fresh: true };
        }
    }

    fn on_recovery_exit(&mut self, _now: Time) {
        self.ending = self.episode != Episode::None;
    }

    fn on_rto(&mut self, _flight_size: u32, _now: Time) {
        self.save_cwnd();
        self.ending = false;
        self.episode = Episode::Timeout;
        self.full_bandwidth = 0;
        self.cwnd = self.smss;
    }

    fn on_spurious(&mut self, _now: Time) {
        (self.full_bandwidth, self.full_rounds) = (0, 0);
        self.ending = false;
        self.episode = Episode::None;
        self.cwnd = self.cwnd.max(self.prior_cwnd);
    }

    fn on_idle_restart(&mut self, _idle: Duration, _rto: Duration) {
        // It is paced, at a rate that was measured: there is no burst to be avoided.
        self.was_idle = true;
    }
}

/// What goes out at this rate in this time.
fn bytes_in(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// How much at most was acknowledged beyond what the bandwidth explains (Linux:
/// `bbr_update_ack_aggregation`).
#[derive(Clone, Copy, Debug, Default)]
struct Clumps {
    /// When it was last no more than that, and what was acknowledged since.
    since: Time,
    acked: u64,
    /// Of the last rounds, and of those before.
    most: [u32; 2],
    rounds: u8,
}

impl Clumps {
    fn max(&self) -> u32 {
        self.most[0].max(self.most[1])
    }

    fn on_round(&mut self) {
        self.rounds += 1;
        if self.rounds >= CLUMP_ROUNDS {
            self.rounds = 0;
            self.most = [0, self.most[0]];
        }
    }

    fn add(&mut self, delivered: u32, expected: u64, cwnd: u32, now: Time) {
        let mut expected = expected;
        if self.acked <= expected {
            (self.since, self.acked, expected) = (now, 0, 0);
        }
        self.acked = self.acked.saturating_add(u64::from(delivered));
        let extra = self.acked.saturating_sub(expected).min(u64::from(cwnd)) as u32;
        self.most[0] = self.most[0].max(extra);
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
        // 10 segments in 100 ms, times 2.89.
        assert_eq!(drive.bbr.pacing_rate(), Some(288_671));
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

    /// Packets wait for half a round trip, and a twentieth is lost.
    const FULL: Trip = Trip {
        rtt: Duration::from_millis(150),
        left: 2 * PRODUCT,
        lost: 8 * MSS,
        ..TRIP
    };

    #[test]
    fn startup_ends_where_the_queue_overflows_but_not_for_losses_or_a_queue_alone() {
        let mut drive = Drive::new();
        for rate in [RATE / 8, RATE / 4, RATE / 2] {
            let lossy = Trip {
                lost: 9 * MSS,
                rate,
                ..TRIP
            };
            drive.trip(lossy);
            assert_eq!(drive.bbr.phase, Phase::Startup);
        }
        drive.trip(Trip { lost: 0, ..FULL });
        drive.trip(Trip {
            lost: MSS / 10,
            ..FULL
        });
        assert_eq!(drive.bbr.phase, Phase::Startup);
        drive.trip(FULL);
        assert_eq!(drive.bbr.phase, Phase::Drain);
        assert_eq!(drive.bbr.bandwidth.max(), RATE);
    }

    #[test]
    fn startup_leaves_no_room_for_offloads_where_packets_wait() {
        let startup = |last: Trip| {
            let mut drive = Drive::new();
            drive.trip(TRIP);
            drive.trip(last);
            drive.trip(last);
            assert_eq!(drive.bbr.phase, Phase::Startup);
            drive.bbr.window()
        };
        assert!(startup(TRIP) >= 2 * PRODUCT + 3 * 2 * MSS);
        // What one acknowledgement of fifteen segments goes too far.
        let enough = PRODUCT * 7 / 4;
        let window = startup(Trip { lost: 0, ..FULL });
        assert!((enough..enough + 15 * MSS).contains(&window), "{window}");
    }

    #[test]
    fn a_queue_that_overflowed_is_emptied_as_a_whole() {
        let mut drive = Drive::steady();
        drive.trips(8, TRIP);
        drive.trip(FULL);
        let queue = Trip { lost: 0, ..FULL };
        for _ in 0..3 {
            assert_eq!(drive.rate_in_percent(), 75);
            drive.trip(queue);
        }
        drive.trip(TRIP);
        assert_eq!(drive.rate_in_percent(), 100);
        // Not in each round trip.
        drive.trip(FULL);
        assert_eq!(drive.rate_in_percent(), 100);
        // And not for ever, where that does not empty it.
        drive.trips(8, TRIP);
        drive.trip(FULL);
        assert_eq!(drive.rate_in_percent(), 75);
        drive.trips(DRAIN_ROUNDS, queue);
        assert_ne!(drive.rate_in_percent(), 75);
    }

    #[test]
    fn a_queue_that_others_keep_full_is_left_to_them() {
        let mut drive = Drive::steady();
        let mut drains = Vec::new();
        for round in 0..300_u64 {
            let before = drive.bbr.drained.round;
            // The least round-trip time is not looked for in between.
            drive.bbr.min_rtt_at = drive.now;
            drive.trip(FULL);
            if drive.bbr.drained.round != before {
                drains.push(round);
            }
        }
        assert_eq!(drains.len(), 3, "{drains:?}");
        assert!(drains.is_sorted_by(|a, b| b - a >= FOREIGN_QUEUE_ROUNDS - 1));
    }

    #[test]
    fn probing_for_bandwidth_asks_for_more_then_gives_back_then_cruises_for_six_rounds() {
        let mut drive = Drive::steady();
        let mut seen = Vec::new();
        for _ in 0..24 {
            // Enough in flight for the probe to be one.
            drive.trip(Trip {
                left: PRODUCT * 5 / 4,
                ..TRIP
            });
            seen.push(drive.rate_in_percent());
        }
        let probe = seen.iter().position(|percent| *percent == 125).unwrap();
        assert_eq!(
            seen[probe..probe + 9],
            [125, 75, 100, 100, 100, 100, 100, 100, 125]
        );
        // Two products, room for three bursts, and for acknowledgements that are for ten segments.
        assert_eq!(drive.bbr.window(), 2 * PRODUCT + 3 * 2 * MSS + 10 * MSS);
    }

    #[test]
    fn a_probe_lasts_until_enough_is_in_flight() {
        let mut drive = Drive::steady();
        while drive.rate_in_percent() != 125 {
            drive.trip(TRIP);
        }
        drive.trips(3, TRIP);
        assert_eq!(drive.rate_in_percent(), 125);
        drive.trip(Trip {
            left: PRODUCT * 5 / 4,
            ..TRIP
        });
        assert_ne!(drive.rate_in_percent(), 125);
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
    fn loss_leaves_the_rate_alone() {
        let mut drive = Drive::steady();
        let rate = drive.rate_in_percent();
        for _ in 0..20 {
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
    fn the_search_for_the_round_trip_time_lowers_no_bandwidth() {
        let mut drive = Drive::steady();
        let queued = Trip {
            rtt: RTT * 6 / 5,
            ..TRIP
        };
        while !matches!(drive.bbr.phase, Phase::ProbeRtt { .. }) {
            drive.trip(queued);
        }
        // Where round trips are short, there are many of them in 200 ms.
        let thin = Trip {
            rate: RATE / 25,
            rtt: RTT / 10,
            left: 4 * MSS,
            ..TRIP
        };
        for _ in 0..25 {
            drive.trip(thin);
        }
        assert!(!matches!(drive.bbr.phase, Phase::ProbeRtt { .. }));
        assert_eq!(drive.bbr.bandwidth.max(), RATE);
    }

    #[test]
    fn acknowledgements_in_clumps_add_to_the_window_and_are_forgotten_after_ten_rounds() {
        let mut clumps = Clumps::default();
        let expected = |clumps: &Clumps, now: Time| bytes_in(RATE, now.since(clumps.since));
        let mut now = Time::from_millis(1000);
        // As fast as the bandwidth: no more than what comes at once.
        for _ in 0..10 {
            now = now + Duration::from_millis(10);
            clumps.add(10 * MSS, expected(&clumps, now), u32::MAX, now);
        }
        assert_eq!(clumps.max(), 10 * MSS);
        // What took 40 ms comes within one.
        now = now + Duration::from_millis(30);
        for _ in 0..4 {
            clumps.add(10 * MSS, expected(&clumps, now), u32::MAX, now);
        }
        assert!((30 * MSS..=40 * MSS).contains(&clumps.max()));
        (0..9).for_each(|_| clumps.on_round());
        assert!(clumps.max() >= 30 * MSS);
        clumps.on_round();
        assert_eq!(clumps.max(), 0);
    }

    #[test]
    fn the_first_round_trip_of_recovery_conserves_packets_and_its_end_restores_the_window() {
        let mut drive = Drive::steady();
        let before = drive.bbr.window();
        drive.bbr.on_congestion(before, Cause::Loss, drive.now);
        let ack = Ack {
            delivered: MSS,
            in_flight: 50 * MSS,
            lost: MSS,
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
        drive.bbr.on_ack(&Ack { lost: 0, ..ack }, drive.now);
        assert_eq!(drive.bbr.window(), before);
    }

    #[test]
    fn a_recovery_right_behind_another_conserves_nothing() {
        let mut drive = Drive::steady();
        let before = drive.bbr.window();
        let lossy = Trip {
            left: 10 * MSS,
            lost: MSS,
            ..TRIP
        };
        drive.bbr.on_congestion(before, Cause::Loss, drive.now);
        drive.trips(2, lossy);
        let window = drive.bbr.window();
        assert!(window > 2 * PRODUCT, "{window}");
        for _ in 0..10 {
            drive.bbr.on_recovery_exit(drive.now);
            drive.bbr.on_congestion(before, Cause::Loss, drive.now);
            drive.trip(lossy);
            assert!(drive.bbr.window() > 2 * PRODUCT, "{}", drive.bbr.window());
        }
        // Behind one that is over, it does.
        drive.bbr.on_recovery_exit(drive.now);
        drive.trip(TRIP);
        drive.bbr.on_congestion(before, Cause::Loss, drive.now);
        drive.trip(lossy);
        assert!(drive.bbr.window() < 2 * PRODUCT, "{}", drive.bbr.window());
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

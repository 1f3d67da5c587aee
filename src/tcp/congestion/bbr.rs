//! BBR: a model of the path in place of a reaction to loss.

use std::time::Duration;

use self::filters::{Clumps, MaxFilter};
use super::{Ack, Cause, CongestionControl, MAX_WINDOW, MSS_LIMITS, RateSample};
use crate::time::Time;

mod filters;
mod phases;
#[cfg(test)]
mod tests;

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
/// The most that acknowledgements in clumps add to cwnd: what goes out in this time.
const CLUMP_TIME: Duration = Duration::from_millis(100);
/// Of the estimate. Linux takes a hundredth off, but paces payload at a rate that was measured in
/// packets with their headers, which makes it 102 percent of what is delivered. With 99, a flow that
/// shares a bottleneck with one of Linux's gets a third of it or less; with 101, one that is alone
/// keeps the queue full.
const PACING_PERCENT: u64 = 100;
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

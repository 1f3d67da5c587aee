//! From one phase of BBR to the next.

use std::time::Duration;

use super::{Bbr, CYCLE, Drained, Phase, UNIT, WINDOW_MIN};
use crate::{tcp::congestion::Ack, time::Time};

/// The pipe is full when the rate has grown by less than a quarter in three round trips.
const FULL_BW_GROWTH: u64 = UNIT * 5 / 4;
const FULL_BW_ROUNDS: u8 = 3;
/// How long the least round-trip time counts, and how long a new one is looked for.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Round trips after which a queue that stayed full is emptied again: others keep it full.
pub(super) const FOREIGN_QUEUE_ROUNDS: u64 = 128;
/// Round trips for which a queue that was full is emptied, at the most.
pub(super) const DRAIN_ROUNDS: u32 = 6;

impl Bbr {
    /// Leaves startup when the rate does not grow any more.
    pub(super) fn check_full(&mut self, ack: &Ack) {
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
    pub(super) fn check_overflow(&mut self, ack: &Ack, now: Time) {
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

    pub(super) fn advance_phase(&mut self, ack: &Ack, now: Time) {
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
    pub(super) fn update_min_rtt(&mut self, ack: &Ack, round_start: bool, now: Time) {
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
}

//! What BBR remembers of the path: the greatest of the last rates, and the largest of the last clumps.

use crate::time::Time;

/// Round trips for which a clump counts, at least.
const CLUMP_ROUNDS: u8 = 5;
/// Round trips for which a measured bandwidth counts.
const BW_ROUNDS: u64 = 10;

/// The greatest of the samples of the last ten round trips (Kathleen Nichols' algorithm).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MaxFilter {
    /// Value and round of the best, the best since that one, and the best since the second.
    best: [(u64, u64); 3],
}

impl MaxFilter {
    pub(super) fn max(&self) -> u64 {
        self.best[0].0
    }

    pub(super) fn update(&mut self, value: u64, round: u64) {
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

/// How much at most was acknowledged beyond what the bandwidth explains (Linux:
/// `bbr_update_ack_aggregation`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clumps {
    /// When it was last no more than that, and what was acknowledged since.
    pub(super) since: Time,
    acked: u64,
    /// Of the last rounds, and of those before.
    most: [u32; 2],
    rounds: u8,
}

impl Clumps {
    pub(super) fn max(&self) -> u32 {
        self.most[0].max(self.most[1])
    }

    pub(super) fn on_round(&mut self) {
        self.rounds += 1;
        if self.rounds >= CLUMP_ROUNDS {
            self.rounds = 0;
            self.most = [0, self.most[0]];
        }
    }

    pub(super) fn add(&mut self, delivered: u32, expected: u64, cwnd: u32, now: Time) {
        let mut expected = expected;
        if self.acked <= expected {
            (self.since, self.acked, expected) = (now, 0, 0);
        }
        self.acked = self.acked.saturating_add(u64::from(delivered));
        let extra = self.acked.saturating_sub(expected).min(u64::from(cwnd)) as u32;
        self.most[0] = self.most[0].max(extra);
    }
}

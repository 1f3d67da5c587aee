//! HyStart++: when slow start ends before anything is lost.

use std::{num::NonZeroU32, time::Duration};

use super::{Ack, Window};
use crate::time::Time;

/// RFC 9406 §4.3: least and greatest rise of the RTT that ends slow start, in microseconds.
const MIN_RTT_THRESH: u32 = 4_000;
const MAX_RTT_THRESH: u32 = 16_000;
/// A rise by an eighth ends it between these.
const MIN_RTT_DIVISOR: u32 = 8;
/// Samples of a round trip before its minimum means something.
const N_RTT_SAMPLE: u8 = 8;
/// Conservative slow start grows by a quarter of what slow start does, for five round trips.
const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;

/// Acknowledgements no further apart than this belong to one train (Linux: `hystart_ack_delta_us`).
const TRAIN_GAP: Duration = Duration::from_millis(2);
/// Segments, below which a train tells nothing (Linux: `hystart_low_window`).
const TRAIN_WINDOW_MIN: u32 = 16;

/// The modified slow start of RFC 9406: leaves it when round trips become longer. Or, as Linux does
/// in the HyStart that it was made from, when acknowledgements follow each other without a gap for
/// half of a round trip: then half of the path is full of what this window lets out, and the next
/// doubling fills the rest. Longer round trips show a round later, when the least of them is one that
/// waited behind twice the window already: a queue of one bandwidth-delay product overflows before
/// they are seen.
///
/// Where packets overtake each other, a window leaves in several bursts with gaps between them: what
/// was late is acknowledged later, so that what it lets out leaves later, and its share doubles with
/// the window. The path can be all but full then without a train that is half a round trip long.
/// Linux, to which one gap ends the only train of a round, overflows queues on such paths. Here a
/// train may begin anywhere in its round, and the trains of a round count together as well, if they
/// are most of a round trip.
#[derive(Clone, Debug, Default)]
pub(super) struct HyStart {
    /// When this round would have begun if there had been no gaps between its trains.
    round_began: Time,
    /// When the last of these began, and when its last acknowledgement came.
    train_began: Time,
    train: Time,
    /// lastRoundMinRTT.
    last_round: Option<Micros>,
    /// currentRoundMinRTT.
    this_round: Option<Micros>,
    /// rttSampleCount.
    samples: u8,
    phase: Phase,
}

#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    SlowStart,
    /// Conservative slow start: was that rise more than a hiccup?
    Conservative {
        /// cssBaselineMinRtt.
        baseline: Micros,
        rounds: u8,
        /// Bytes that did not yet make up one byte of growth.
        rest: u32,
    },
    Over,
}

/// A round trip in microseconds, and one more: idle connections keep these too, and a `Duration`
/// takes four times the room.
type Micros = NonZeroU32;

fn micros(rtt: Duration) -> Micros {
    let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
    Micros::MIN.saturating_add(micros)
}

impl HyStart {
    /// A round begins. Episodes have rounds too: if one is undone, slow start goes on.
    pub(super) fn start_round(&mut self, now: Time) {
        (self.round_began, self.train_began, self.train) = (now, now, now);
        self.last_round = self.this_round.take();
        self.samples = 0;
        if let Phase::Conservative { rounds, .. } = &mut self.phase {
            *rounds += 1;
            if *rounds >= CSS_ROUNDS {
                self.phase = Phase::Over;
            }
        }
    }

    /// Slow start, modified if it is the first one (RFC 9406 §4.3 asks for no more). Returns what is
    /// left for congestion avoidance.
    pub(super) fn slow_start(&mut self, window: &mut Window, ack: &Ack, now: Time) -> u32 {
        if window.ssthresh != u32::MAX {
            return window.slow_start(ack.delivered);
        }
        if window.cwnd / window.smss >= TRAIN_WINDOW_MIN {
            self.watch_train(ack, now);
        }
        // RFC 9406 §4.2: L is infinite, as in Linux. The limit of 8 segments for those who do not
        // pace would halve growth wherever the peer acknowledges 64 KiB at a time.
        let growth = self.on_ack(ack);
        window.grow(growth);
        if self.is_over() {
            window.ssthresh = window.cwnd;
        }
        0
    }

    /// The trains of acknowledgements of this round.
    fn watch_train(&mut self, ack: &Ack, now: Time) {
        let gap = now.since(self.train);
        if gap > TRAIN_GAP {
            self.round_began = self.round_began + gap;
            self.train_began = now;
        }
        self.train = now;
        let Some(rtt) = ack.min_rtt else {
            return;
        };
        // Not half of a round trip: of many short trains more is doubtful, as a gap of a millisecond
        // in a burst counts for busy like one between two of them.
        let trains = now.since(self.round_began);
        if now.since(self.train_began) > rtt / 2 || ack.reordered && trains > rtt / 4 * 3 {
            self.phase = Phase::Over;
        }
    }

    /// Takes a sample and says by how many bytes the window grows.
    fn on_ack(&mut self, ack: &Ack) -> u32 {
        if let Some(rtt) = ack.rtt.map(micros) {
            self.this_round = Some(self.this_round.map_or(rtt, |min| min.min(rtt)));
            self.samples = self.samples.saturating_add(1);
        }
        // The acknowledgement counts for the phase in which it came.
        let growth = match &mut self.phase {
            Phase::SlowStart | Phase::Over => ack.delivered,
            Phase::Conservative { rest, .. } => {
                let bytes = rest.saturating_add(ack.delivered);
                *rest = bytes % CSS_GROWTH_DIVISOR;
                bytes / CSS_GROWTH_DIVISOR
            }
        };
        if self.samples >= N_RTT_SAMPLE {
            self.judge();
        }
        growth
    }

    fn judge(&mut self) {
        let Some(this_round) = self.this_round else {
            return;
        };
        match &self.phase {
            Phase::SlowStart => {
                let Some(last_round) = self.last_round else {
                    return;
                };
                let eighth = last_round.get() / MIN_RTT_DIVISOR;
                let threshold = eighth.clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                if this_round >= last_round.saturating_add(threshold) {
                    self.phase = Phase::Conservative {
                        baseline: this_round,
                        rounds: 0,
                        rest: 0,
                    };
                }
            }
            Phase::Conservative { baseline, .. } if this_round < *baseline => {
                self.phase = Phase::SlowStart;
            }
            Phase::Conservative { .. } | Phase::Over => (),
        }
    }

    const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    /// A window that grows by slow start and nothing else.
    #[derive(Clone)]
    struct Start {
        hystart: HyStart,
        window: Window,
    }

    impl Start {
        fn new(initial_window: u32) -> Self {
            Self {
                hystart: HyStart::default(),
                window: Window::new(MSS, initial_window),
            }
        }

        fn on_ack(&mut self, ack: &Ack, now: Time) {
            if ack.round_start {
                self.hystart.start_round(now);
            }
            self.hystart.slow_start(&mut self.window, ack, now);
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn ack(rtt: Duration) -> Ack {
        Ack {
            delivered: MSS,
            rtt: Some(rtt),
            ..Ack::default()
        }
    }

    /// A round of `acks` acknowledgements of one segment each.
    fn round(start: &mut Start, acks: u32, rtt: Duration) -> u32 {
        let before = start.window.cwnd;
        for i in 0..acks {
            let ack = Ack {
                round_start: i == 0,
                ..ack(rtt)
            };
            start.on_ack(&ack, Time::ZERO);
        }
        start.window.cwnd - before
    }

    #[test]
    fn rfc9406_4_2_a_longer_round_trip_ends_slow_start_after_five_careful_rounds() {
        let mut start = Start::new(10);
        assert_eq!(round(&mut start, 10, ms(40)), 10_000);
        // A rise by an eighth: 5 ms. One millisecond less does not count.
        assert_eq!(round(&mut start, 20, ms(44)), 20_000);
        // Against 44 ms it takes 5.5: the eighth sample tells, and the other 32 count a quarter.
        assert_eq!(round(&mut start, 40, ms(50)), 8000 + 32_000 / 4);
        for _ in 0..4 {
            assert_eq!(round(&mut start, 40, ms(50)), 10_000);
            assert_eq!(start.window.ssthresh, u32::MAX);
        }
        let at = start.window.cwnd;
        round(&mut start, 1, ms(50));
        assert!((at..=at + MSS).contains(&start.window.ssthresh));
        assert_eq!(start.window.ssthresh, start.window.cwnd);
    }

    #[test]
    fn rfc9406_4_2_slow_start_resumes_when_the_rise_was_a_hiccup() {
        let mut start = Start::new(10);
        round(&mut start, 10, ms(40));
        round(&mut start, 20, ms(50));
        assert_eq!(round(&mut start, 16, ms(49)), 8000 / 4 + 8000);
        assert_eq!(round(&mut start, 16, ms(49)), 16_000);
    }

    #[test]
    fn rfc9406_4_2_the_threshold_lies_between_4_and_16_ms() {
        for (last, rise, ends) in [
            (1, 3, false),
            (1, 4, true),
            (400, 15, false),
            (400, 16, true),
        ] {
            let mut start = Start::new(10);
            round(&mut start, 10, ms(last));
            let growth = round(&mut start, 16, ms(last + rise));
            assert_eq!(growth < 16_000, ends, "{last} + {rise}");
        }
    }

    /// A round of acknowledgements that come at these milliseconds over a path of 40 ms.
    fn train(start: &mut Start, from: u64, at: impl IntoIterator<Item = u64>) {
        for (i, millis) in at.into_iter().enumerate() {
            let ack = Ack {
                round_start: i == 0,
                min_rtt: Some(ms(40)),
                ..ack(ms(40))
            };
            start.on_ack(&ack, Time::from_millis(from + millis));
        }
    }

    #[test]
    fn a_train_of_acknowledgements_for_half_a_round_trip_ends_slow_start() {
        let mut start = Start::new(16);
        train(&mut start, 1000, 0..=20);
        assert_eq!(start.window.ssthresh, u32::MAX);
        train(&mut start, 1040, 0..=20);
        assert_eq!(start.window.ssthresh, u32::MAX);
        // The one at 21 ms is too many.
        train(&mut start, 1080, 0..=21);
        assert_eq!(start.window.ssthresh, (16 + 2 * 21 + 22) * MSS);
    }

    #[test]
    fn a_gap_begins_another_train_and_a_small_window_has_none() {
        let mut start = Start::new(16);
        for round in 0..5 {
            train(&mut start, 1000 + round * 40, (0..10).chain(12..=32));
        }
        assert_eq!(start.window.ssthresh, u32::MAX);
        let mut after_a_gap = start.clone();
        train(&mut after_a_gap, 1200, (0..10).chain(12..=33));
        assert_ne!(after_a_gap.window.ssthresh, u32::MAX);
        train(&mut start, 1200, (0..10).chain(11..22));
        assert_ne!(start.window.ssthresh, u32::MAX);
        let mut start = Start::new(1);
        train(&mut start, 1000, (0..=28).step_by(2));
        assert_eq!(
            (start.window.cwnd, start.window.ssthresh),
            (16 * MSS, u32::MAX)
        );
    }

    #[test]
    fn short_trains_add_up_to_three_quarters_of_a_round_trip_where_packets_overtake_each_other() {
        // Bursts at 0, 14 and 28 ms, each too short for itself; together 30 ms, or one more.
        let bursts = |last| (0..=10).chain(14..=24).chain(28..=last);
        for (reordered, last, ends) in [(true, 38, false), (true, 39, true), (false, 39, false)] {
            let mut start = Start::new(16);
            for round in 0..3 {
                for (i, millis) in bursts(last).enumerate() {
                    let ack = Ack {
                        round_start: i == 0,
                        min_rtt: Some(ms(40)),
                        reordered,
                        ..ack(ms(40))
                    };
                    let ended = start.window.ssthresh != u32::MAX;
                    start.on_ack(&ack, Time::from_millis(1000 + round * 40 + millis));
                    assert!(!ended, "{reordered}, {last}");
                }
                if ends {
                    break;
                }
            }
            let ended = start.window.ssthresh != u32::MAX;
            assert_eq!(ended, ends, "{reordered}, {last}");
        }
    }

    #[test]
    fn rfc9406_4_2_fewer_than_eight_samples_say_nothing() {
        let mut start = Start::new(10);
        round(&mut start, 10, ms(40));
        assert_eq!(round(&mut start, 7, ms(400)), 7000);
        assert_eq!(round(&mut start, 7, ms(400)), 7000);
    }
}

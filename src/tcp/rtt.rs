//! Round-trip time and the retransmission timeout.

use std::{fmt, time::Duration};

use crate::time::Time;

/// RFC 6298 §2.1: the timeout before there is a sample.
const INITIAL_RTO: u8 = 1;

/// RFC 6298 §5.7: the same once the timer of a SYN has expired.
const INITIAL_RTO_AFTER_SYN_TIMEOUT: u8 = 3;

/// Samples above this are taken as this (8 minutes): it fits with its three fraction bits.
const MAX_SAMPLE: u32 = u32::MAX >> 3;

/// How long a sample counts for the minimum. Linux: `tcp_min_rtt_wlen`.
const MIN_RTT_WINDOW: u32 = 300_000;

/// SRTT, RTTVAR and RTO of RFC 6298, as Linux computes them, and the least RTT of late.
///
/// Every acknowledgement may bring a sample. With the gains of RFC 6298 that many samples in one
/// round trip would make RTTVAR forget everything older than a fraction of it. RFC 7323 appendix G
/// divides the gains by the expected number of samples; Linux, and so we, keep the gains and let
/// RTTVAR fall only once a round trip, and no lower than the greatest deviation seen in it. That
/// needs no guess at the number of samples, and it reacts to a rise at once.
///
/// Times are microseconds in 32 bits: there is one of these in each connection.
#[derive(Clone)]
pub(crate) struct RttEstimator {
    /// Eight times SRTT; zero while there is no sample.
    srtt8: u32,
    /// Four times the smoothed mean deviation.
    mdev4: u32,
    /// The greatest of those in this round trip, but at least `rto_min`.
    mdev4_max: u32,
    /// Four times RTTVAR, but at least `rto_min`.
    rttvar4: u32,
    /// When this round trip ends.
    round_end: Time,
    latest: u32,
    rto_min: u32,
    rto_max: u32,
    min: [MinSample; 3],
    backoff: u8,
    /// Seconds.
    initial_rto: u8,
}

impl RttEstimator {
    /// An estimator without a sample, whose RTO stays within `rto_min` and `rto_max`.
    pub(crate) fn new(rto_min: Duration, rto_max: Duration) -> Self {
        let rto_max = micros(rto_max).max(1);
        Self {
            srtt8: 0,
            mdev4: 0,
            mdev4_max: 0,
            rttvar4: 0,
            round_end: Time::ZERO,
            latest: 0,
            rto_min: micros(rto_min).clamp(1, rto_max),
            rto_max,
            min: [MinSample::default(); 3],
            backoff: 0,
            initial_rto: INITIAL_RTO,
        }
    }

    /// Takes a sample. It must not come from retransmitted data unless a timestamp proves which
    /// transmission was acknowledged (Karn; RFC 6298 §3).
    pub(crate) fn on_sample(&mut self, rtt: Duration, now: Time) {
        self.on_samples(rtt, rtt, now);
    }

    /// The same, of the oldest segment acknowledged; `least` is of the newest, which the peer's
    /// delay of acknowledgements made no longer.
    pub(crate) fn on_samples(&mut self, rtt: Duration, least: Duration, now: Time) {
        let rtt = micros(rtt).clamp(1, MAX_SAMPLE);
        self.update_min(micros(least).clamp(1, MAX_SAMPLE), now);
        self.latest = rtt;
        if self.srtt8 == 0 {
            self.srtt8 = rtt << 3;
            self.mdev4 = rtt << 1;
            self.rttvar4 = self.mdev4.max(self.rto_min);
            self.mdev4_max = self.rttvar4;
            self.start_round(now);
            return;
        }
        let deviation = i64::from(rtt) - i64::from(self.srtt8 >> 3);
        self.srtt8 = (i64::from(self.srtt8) + deviation).clamp(1, u32::MAX.into()) as u32;
        self.update_deviation(deviation);
        if now >= self.round_end {
            self.end_round(now);
        }
    }

    fn update_deviation(&mut self, deviation: i64) {
        let mut step = deviation.abs() - i64::from(self.mdev4 >> 2);
        if deviation < 0 && step > 0 {
            // A drop of the RTT is no reason for a longer timeout: Linux damps it (Eifel).
            step >>= 3;
        }
        self.mdev4 = (i64::from(self.mdev4) + step).clamp(0, u32::MAX.into()) as u32;
        if self.mdev4 > self.mdev4_max {
            self.mdev4_max = self.mdev4;
            self.rttvar4 = self.rttvar4.max(self.mdev4_max);
        }
    }

    fn end_round(&mut self, now: Time) {
        self.rttvar4 -= self.rttvar4.saturating_sub(self.mdev4_max) >> 2;
        self.mdev4_max = self.rto_min;
        self.start_round(now);
    }

    fn start_round(&mut self, now: Time) {
        self.round_end = now + Duration::from_micros((self.srtt8 >> 3).into());
    }

    /// The retransmission timeout, backed off. Linux: SRTT + max(4 RTTVAR, minimum).
    pub(crate) fn rto(&self) -> Duration {
        let base = match self.srtt8 {
            0 => u64::from(self.initial_rto) * 1_000_000,
            srtt8 => u64::from(srtt8 >> 3) + u64::from(self.rttvar4),
        };
        let (least, most) = (self.rto_min.into(), self.rto_max.into());
        let backed_off = base.clamp(least, most) << self.backoff.min(31);
        Duration::from_micros(backed_off.min(most))
    }

    /// RFC 6298 §5.5: the timer has expired; doubles the RTO.
    pub(crate) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// Something new was acknowledged: the RTO is that of the samples again.
    pub(crate) fn reset_backoff(&mut self) {
        self.backoff = 0;
    }

    /// Doublings of the RTO: timeouts in a row.
    pub(crate) const fn backoff(&self) -> u8 {
        self.backoff
    }

    /// RFC 6298 §5.7: a SYN had to be retransmitted. If the handshake then gives no sample, data
    /// starts with an RTO of 3 s.
    pub(crate) fn on_syn_timeout(&mut self) {
        self.initial_rto = INITIAL_RTO_AFTER_SYN_TIMEOUT;
    }

    /// SRTT.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        self.srtt_micros().map(duration)
    }

    /// The same in microseconds.
    pub(crate) fn srtt_micros(&self) -> Option<u32> {
        self.measured(self.srtt8 >> 3)
    }

    /// RTTVAR, without the floor that is part of the RTO.
    pub(crate) fn rttvar(&self) -> Option<Duration> {
        self.measured(self.mdev4 >> 2).map(duration)
    }

    /// The last sample.
    #[cfg(test)]
    pub(crate) fn latest(&self) -> Option<Duration> {
        self.measured(self.latest).map(duration)
    }

    /// The least sample of the last five minutes.
    pub(crate) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt_micros().map(duration)
    }

    /// The same in microseconds.
    pub(crate) fn min_rtt_micros(&self) -> Option<u32> {
        self.measured(self.min[0].rtt)
    }

    /// Nothing is, before the first sample.
    fn measured(&self, micros: u32) -> Option<u32> {
        (self.srtt8 != 0).then_some(micros)
    }

    /// Kathleen Nichols' windowed minimum: the best sample of the window, the best since that one,
    /// and the best since the second.
    fn update_min(&mut self, rtt: u32, now: Time) {
        let sample = MinSample {
            rtt,
            at: now.as_millis() as u32, // Modulo 2^32: only differences count.
        };
        let age = |old: MinSample| sample.at.wrapping_sub(old.at);
        let min = &mut self.min;
        if self.srtt8 == 0 || rtt <= min[0].rtt || age(min[2]) > MIN_RTT_WINDOW {
            *min = [sample; 3];
            return;
        }
        if rtt <= min[1].rtt {
            min[1] = sample;
            min[2] = sample;
        } else if rtt <= min[2].rtt {
            min[2] = sample;
        }
        if age(min[0]) > MIN_RTT_WINDOW {
            *min = [min[1], min[2], sample];
            if age(min[0]) > MIN_RTT_WINDOW {
                *min = [min[1], min[2], sample];
            }
        } else if min[1].at == min[0].at && age(min[0]) > MIN_RTT_WINDOW / 4 {
            min[1] = sample;
            min[2] = sample;
        } else if min[2].at == min[1].at && age(min[0]) > MIN_RTT_WINDOW / 2 {
            min[2] = sample;
        }
    }
}

/// A sample that may become the minimum.
#[derive(Clone, Copy, Debug, Default)]
struct MinSample {
    rtt: u32,
    /// Milliseconds, modulo 2^32.
    at: u32,
}

fn duration(micros: u32) -> Duration {
    Duration::from_micros(micros.into())
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl fmt::Debug for RttEstimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RttEstimator")
            .field("srtt", &self.srtt())
            .field("rttvar", &self.rttvar())
            .field("min_rtt", &self.min_rtt())
            .field("rto", &self.rto())
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn estimator() -> RttEstimator {
        RttEstimator::new(ms(200), ms(120_000))
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<RttEstimator>() <= 64);
    }

    #[test]
    fn rfc6298_2_1_without_a_sample_the_timeout_is_one_second() {
        let mut rtt = estimator();
        assert_eq!(
            (rtt.rto(), rtt.srtt(), rtt.min_rtt()),
            (ms(1000), None, None)
        );
        rtt.back_off();
        assert_eq!(rtt.rto(), ms(2000));
    }

    #[test]
    fn rfc6298_2_2_the_first_sample_sets_srtt_and_half_of_it_as_rttvar() {
        let mut rtt = estimator();
        rtt.on_sample(ms(400), Time::ZERO);
        assert_eq!(rtt.srtt(), Some(ms(400)));
        assert_eq!(rtt.rttvar(), Some(ms(200)));
        assert_eq!(rtt.rto(), ms(400 + 4 * 200));
    }

    #[test]
    fn rfc6298_2_3_later_samples_weigh_an_eighth_and_a_quarter() {
        let mut rtt = estimator();
        rtt.on_sample(ms(400), Time::ZERO);
        rtt.on_sample(ms(480), Time::from_millis(100));
        // SRTT = 7/8 400 + 1/8 480; RTTVAR = 3/4 200 + 1/4 80.
        assert_eq!(rtt.srtt(), Some(ms(410)));
        assert_eq!(rtt.rttvar(), Some(ms(170)));
        // The variance that counts does not fall within a round trip.
        assert_eq!(rtt.rto(), ms(410 + 800));
    }

    #[test]
    fn the_floor_is_above_srtt_as_in_linux() {
        let mut rtt = estimator();
        for sample in 0..200 {
            rtt.on_sample(ms(50), Time::from_millis(sample * 50));
        }
        assert_eq!(rtt.rto(), ms(250));
    }

    #[test]
    fn rfc7323_g_a_round_with_many_samples_counts_as_one() {
        let mut few = estimator();
        let mut many = estimator();
        few.on_sample(ms(400), Time::ZERO);
        many.on_sample(ms(400), Time::ZERO);
        for round in 0..3u64 {
            few.on_sample(ms(400), Time::from_millis(round * 400 + 400));
            for step in 1..=100 {
                many.on_sample(ms(400), Time::from_millis(round * 400 + step * 4));
            }
        }
        // Round by round, 800 ms of variance come a quarter closer to what the round had.
        let (few, many) = (few.rto(), many.rto());
        assert!(many >= ms(400 + 200 + 600 * 27 / 64), "{many:?}");
        assert!(few >= many, "{few:?} {many:?}");
    }

    #[test]
    fn a_rise_of_the_rtt_counts_at_once() {
        let mut rtt = RttEstimator::new(ms(1), ms(120_000));
        for sample in 0..100 {
            rtt.on_sample(ms(10), Time::from_millis(sample * 10));
        }
        assert!(rtt.rto() < ms(12));
        rtt.on_sample(ms(110), Time::from_millis(1001));
        // SRTT = 10 + 100/8, 4 RTTVAR = 100.
        assert!(rtt.rto() >= ms(120), "{:?}", rtt.rto());
    }

    #[test]
    fn rfc6298_5_5_backing_off_doubles_up_to_the_maximum_and_never_overflows() {
        let mut rtt = estimator();
        rtt.on_sample(ms(100), Time::ZERO);
        assert_eq!(rtt.rto(), ms(300));
        rtt.back_off();
        rtt.back_off();
        assert_eq!((rtt.rto(), rtt.backoff()), (ms(1200), 2));
        for _ in 0..300 {
            rtt.back_off();
        }
        assert_eq!((rtt.rto(), rtt.backoff()), (ms(120_000), 255));
        rtt.reset_backoff();
        assert_eq!(rtt.rto(), ms(300));
    }

    #[test]
    fn rfc6298_5_7_after_a_lost_syn_data_starts_with_three_seconds() {
        let mut rtt = estimator();
        rtt.on_syn_timeout();
        assert_eq!(rtt.rto(), ms(3000));
        rtt.on_sample(ms(100), Time::ZERO);
        assert_eq!(rtt.rto(), ms(300));
    }

    #[test]
    fn absurd_samples_are_clamped() {
        let mut rtt = estimator();
        rtt.on_sample(Duration::ZERO, Time::ZERO);
        assert_eq!(rtt.latest(), Some(Duration::from_micros(1)));
        for sample in 0..100 {
            rtt.on_sample(Duration::MAX, Time::from_millis(sample));
            rtt.on_sample(Duration::ZERO, Time::from_millis(sample));
        }
        assert!(rtt.rto() <= ms(120_000));
    }

    #[test]
    fn the_minimum_is_of_the_last_five_minutes() {
        let mut rtt = estimator();
        let mut naive = Vec::new();
        let minute = 60_000;
        let mut at = 0;
        for (sample, len) in [(10, 4), (30, 2), (20, 1), (40, 8), (25, 3), (50, 9)] {
            for _ in 0..len {
                at += minute / 2;
                rtt.on_sample(ms(sample), Time::from_millis(at));
                naive.push((at, ms(sample)));
                let window = naive.iter().filter(|(then, _)| at - then <= 5 * minute);
                let min = window.map(|(_, rtt)| *rtt).min();
                // Three samples approximate: never below the true minimum of the window.
                assert!(rtt.min_rtt() >= min);
            }
        }
        assert_eq!(rtt.min_rtt(), Some(ms(25)));
        at += 6 * minute;
        rtt.on_sample(ms(60), Time::from_millis(at));
        assert_eq!(rtt.min_rtt(), Some(ms(60)));
    }
}

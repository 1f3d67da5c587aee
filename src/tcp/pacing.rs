//! When the next segment may go out, where sending is spread over the round trip.

use std::time::Duration;

use crate::{
    tcp::{Context, connection::Connection, output::SUPER_SEGMENT_MAX, timers::Timer},
    time::Time,
};

/// How much lateness of the clock is made up for by sending more at a time: a tick of the runtime's.
const LATENESS: Duration = Duration::from_millis(1);

/// How many bursts a second a rate comes to, at the least; and where it is congestion control's: the
/// queue may then be one that no loss has taught it to spare.
const BURSTS: u64 = 1000;
const PACED_BURSTS: u64 = 2000;

/// A bucket that fills at the pacing rate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pacer {
    /// When everything sent so far has had its time.
    free_at: Time,
    /// Paces by cwnd and SRTT also where congestion control asks for no rate.
    pub(super) always: bool,
}

impl Pacer {
    pub(super) fn new(always: bool) -> Self {
        Self {
            always,
            ..Self::default()
        }
    }

    /// When something more may go out, if not at `now`.
    fn waits_until(&self, now: Time) -> Option<Time> {
        (self.free_at > now).then_some(self.free_at)
    }

    fn on_sent(&mut self, bytes: u64, rate: u64, now: Time) {
        let earliest = Time::from_start(now.since_start().saturating_sub(LATENESS));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let spent = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(earliest) + spent;
    }
}

impl Connection {
    /// Bytes a second at which to send, if they are paced.
    pub(super) fn pacing_rate(&self) -> Option<u64> {
        let asked = self.cc.pacing_rate();
        asked.or_else(|| self.pacer.always.then(|| self.natural_rate())?)
    }

    /// What cwnd and SRTT come to, and a little more, so that it is cwnd that limits (Linux:
    /// `tcp_update_pacing_rate`).
    fn natural_rate(&self) -> Option<u64> {
        let srtt = self.rtt.srtt_micros()?.max(1);
        let cwnd = u64::from(self.cc.window());
        let percent = if self.cc.window() < self.cc.ssthresh() / 2 {
            200
        } else {
            120
        };
        // No more than 2^32 * 200 * 10^4.
        let rate = cwnd * percent * 10_000 / u64::from(srtt);
        Some(rate.max(1))
    }

    /// Whether pacing lets something out now; if not, a timer tells when. What goes out alone, with
    /// nothing in flight before it, never waits.
    pub(super) fn pacing_allows(&mut self, cx: &mut Context<'_>) -> bool {
        if self.pacing_rate().is_none() || self.recovery.in_flight() == 0 {
            return true;
        }
        match self.pacer.waits_until(cx.now) {
            Some(at) => {
                cx.counters.paced += 1;
                self.timers.start(Timer::Pacing, at);
                false
            }
            None => true,
        }
    }

    pub(super) fn on_paced(&mut self, bytes: u64, now: Time) {
        if let Some(rate) = self.pacing_rate() {
            self.pacer.on_sent(bytes, rate, now);
        }
    }

    /// The largest super-segment for this path (Linux: `tcp_tso_autosize`): what goes out in a
    /// millisecond at the current rate, so that no burst fills a short queue; and more where the
    /// round trip is so short that the peer is next door.
    pub(super) fn burst_limit(&self, mss: u64) -> u64 {
        let max = SUPER_SEGMENT_MAX.max(mss);
        let Some(rate) = self.cc.pacing_rate().or_else(|| self.natural_rate()) else {
            return max;
        };
        let min_rtt = self.rtt.min_rtt_micros().unwrap_or_default() / 512;
        let near = SUPER_SEGMENT_MAX >> min_rtt.min(63);
        let bursts = if self.cc.pacing_rate().is_some() {
            PACED_BURSTS
        } else {
            BURSTS
        };
        let burst = (rate / bursts).saturating_add(near).max(2 * mss).min(max);
        burst / mss * mss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_takes_its_time_and_lateness_is_made_up_for() {
        let mut pacer = Pacer::default();
        let start = Time::from_millis(100);
        // A megabyte a second, that is a kilobyte each millisecond.
        pacer.on_sent(5000, 1_000_000, start);
        assert_eq!(pacer.waits_until(start), Some(Time::from_millis(104)));
        // A millisecond late: the next does not wait for it.
        pacer.on_sent(2000, 1_000_000, Time::from_millis(105));
        assert_eq!(
            pacer.waits_until(Time::from_millis(105)),
            Some(Time::from_millis(106))
        );
        // But not for a pause.
        pacer.on_sent(3000, 1_000_000, Time::from_millis(500));
        assert_eq!(
            pacer.waits_until(Time::from_millis(500)),
            Some(Time::from_millis(502))
        );
        assert_eq!(pacer.waits_until(Time::from_millis(502)), None);
    }
}

//! How much may be sent while losses are repaired (RFC 9937).

/// Proportional rate reduction (RFC 9937): how much an acknowledgement lets out in fast recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prr {
    /// Bytes delivered since recovery began.
    delivered: u64,
    /// Bytes sent since recovery began.
    out: u64,
    /// RecoverFS: what was in flight when it began.
    flight: u64,
    ssthresh: u64,
    /// What may be in flight now.
    cwnd: u64,
}

impl Prr {
    pub(crate) fn new(flight: u64, ssthresh: u64) -> Self {
        Self {
            delivered: 0,
            out: 0,
            flight: flight.max(1),
            ssthresh,
            cwnd: 0,
        }
    }

    /// The same, with all of the window still in use: nothing was delivered yet.
    pub(crate) fn from_window(flight: u64, ssthresh: u64, cwnd: u64) -> Self {
        Self {
            cwnd,
            ..Self::new(flight, ssthresh)
        }
    }

    /// An acknowledgement delivered `delivered` bytes and left `in_flight`; `safe`: SND.UNA moved
    /// and nothing more was found lost (SafeACK).
    pub(crate) fn on_ack(&mut self, delivered: u64, in_flight: u64, safe: bool, mss: u64) {
        self.delivered += delivered;
        let count = if in_flight > self.ssthresh {
            // Proportional: ceil(prr_delivered * ssthresh / RecoverFS) - prr_out, in whole segments
            // as Linux counts.
            let share = u128::from(self.delivered) * u128::from(self.ssthresh);
            let share = share.div_ceil(u128::from(self.flight)) as u64;
            (share.div_ceil(mss) * mss).saturating_sub(self.out)
        } else {
            // As much as was delivered, and with a good sign one segment more: slow start up to
            // ssthresh.
            let mut limit = self.delivered.saturating_sub(self.out).max(delivered);
            if safe {
                limit += mss;
            }
            limit.min(self.ssthresh - in_flight)
        };
        // The first retransmission always goes out.
        let count = if self.out == 0 { count.max(mss) } else { count };
        self.cwnd = in_flight + count;
    }

    /// One segment goes out whatever was delivered: the next hole that a partial acknowledgement
    /// has shown (RFC 6582 §3.2 step 3).
    pub(crate) fn let_one_out(&mut self, in_flight: u64, mss: u64) {
        self.cwnd = self.cwnd.max(in_flight + mss);
    }

    /// Nothing more goes out for now.
    pub(crate) fn hold(&mut self, in_flight: u64) {
        self.cwnd = self.cwnd.min(in_flight);
    }

    /// What may be sent now. More than the acknowledgement allowed if more was found lost since.
    pub(crate) fn allowance(&self, in_flight: u64) -> u64 {
        self.cwnd.saturating_sub(in_flight)
    }

    pub(crate) fn on_sent(&mut self, bytes: u64) {
        self.out += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9937_proportional_part_spreads_the_reduction_over_the_window() {
        // 20 segments in flight, ssthresh 10: one segment for every two delivered.
        let mss = 1000;
        let mut prr = Prr::new(20 * mss, 10 * mss);
        let (mut sent, mut when) = (0, Vec::new());
        for i in 1..=10 {
            let in_flight = (20 - i) * mss + sent;
            prr.on_ack(mss, in_flight, false, mss);
            let segments = prr.allowance(in_flight) / mss * mss;
            if segments > 0 {
                when.push(i);
            }
            sent += segments;
            prr.on_sent(segments);
        }
        assert_eq!((sent, when), (5 * mss, vec![1, 3, 5, 7, 9]));
    }

    #[test]
    fn rfc9937_slow_start_part_rebuilds_the_flight_up_to_ssthresh() {
        let mss = 1000;
        let mut prr = Prr::new(20 * mss, 10 * mss);
        prr.on_ack(mss, 4 * mss, true, mss);
        assert_eq!(prr.allowance(4 * mss), 2 * mss);
        prr.on_sent(2 * mss);
        prr.on_ack(mss, 9 * mss + mss / 2, true, mss);
        assert_eq!(prr.allowance(9 * mss + mss / 2), mss / 2);
    }

    #[test]
    fn rfc9937_conservative_part_sends_what_was_delivered_when_losses_go_on() {
        let mss = 1000;
        let mut prr = Prr::new(20 * mss, 10 * mss);
        prr.on_ack(mss, 4 * mss, false, mss);
        assert_eq!(prr.allowance(4 * mss), mss);
        prr.on_sent(mss);
        prr.on_ack(3 * mss, 2 * mss, false, mss);
        assert_eq!(prr.allowance(2 * mss), 3 * mss);
    }
}

//! Limits for packets that anybody can make us send.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::time::Time;

const SECOND: Duration = Duration::from_secs(1);

/// So many a second of one kind: resets, ICMP errors, challenge ACKs.
///
/// With a fixed quota, shared by all connections, an attacker who uses it up learns from what is
/// missing whether somebody else used some of it (CVE-2016-5696). So the quota is drawn anew for
/// each second: from half of the rate to one and a half of it.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    /// The mean quota.
    rate: u32,
    left: u32,
    /// When the quota is drawn again.
    until: Time,
}

impl Limiter {
    /// `rate` a second in the mean; none at all if that is zero.
    pub(crate) const fn new(rate: u32) -> Self {
        Self {
            rate,
            left: 0,
            until: Time::ZERO,
        }
    }

    /// Whether one more may be sent. To be asked before anything is made.
    pub(crate) fn allows(&mut self, now: Time, rng: &mut impl Rng) -> bool {
        if now >= self.until {
            self.until = now + SECOND;
            self.left = self.draw(rng);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }

    fn draw(&self, rng: &mut impl Rng) -> u32 {
        if self.rate == 0 {
            return 0;
        }
        let least = self.rate.div_ceil(2);
        least.saturating_add(rng.random_range(0..self.rate))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn in_a_second(limiter: &mut Limiter, second: u64, rng: &mut StdRng) -> usize {
        let asked = (0..1000).map(|step| Time::from_millis(second * 1000 + step));
        asked.filter(|now| limiter.allows(*now, rng)).count()
    }

    #[test]
    fn the_quota_is_around_the_rate_and_different_each_second() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut limiter = Limiter::new(100);
        let counts: Vec<_> = (0..200)
            .map(|second| in_a_second(&mut limiter, second, &mut rng))
            .collect();
        assert!(counts.iter().all(|count| (50..150).contains(count)));
        let mean = counts.iter().sum::<usize>() / counts.len();
        assert!((90..110).contains(&mean), "{mean}");
        assert!(counts.iter().collect::<HashSet<_>>().len() > 40);
    }

    #[test]
    fn the_extremes_of_the_rate_are_harmless() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut count = |rate| in_a_second(&mut Limiter::new(rate), 0, &mut rng);
        assert_eq!(count(0), 0);
        assert_eq!(count(1), 1);
        assert_eq!(count(u32::MAX), 1000);
    }
}

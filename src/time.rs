//! Time inside the engine.

use std::{fmt, ops, time::Duration};

/// A moment: nanoseconds since the engine was made. Arithmetic saturates (584 years).
///
/// Half the size of an `Instant`, it makes every timer and every sent segment smaller, and a test
/// can write it down.
///
/// ```
/// use std::time::Duration;
/// use synack::Time;
///
/// let time = Time::from_millis(1500);
/// assert_eq!(time.since(Time::from_millis(500)), Duration::from_secs(1));
/// assert_eq!(time.since_start(), Duration::from_millis(1500));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// When the engine was made.
    pub const ZERO: Self = Self(0);

    /// Later than everything.
    pub const MAX: Self = Self(u64::MAX);

    /// A moment `since_start` after the engine was made.
    pub fn from_start(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// A moment given in milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the engine was made.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds since the engine was made.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Milliseconds since the engine was made.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// As a duration since the engine was made.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The time passed since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06}s",
            self.0 / 1_000_000_000,
            self.0 / 1_000 % 1_000_000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let late = Time::from_start(Duration::MAX);
        assert_eq!(late + Duration::from_secs(1), late);
        assert_eq!(Time::ZERO.since(late), Duration::ZERO);
        assert_eq!(
            Time::from_millis(1500).since(Time::from_millis(500)),
            Duration::from_secs(1)
        );
    }
}

//! Sequence numbers and their arithmetic.

use std::fmt;

/// A TCP sequence number: a point on a circle of 2^32 bytes (RFC 9293 §3.4).
///
/// There is deliberately no `Ord`: on a circle "less than" is not transitive.
/// Ask [`is_before`](Self::is_before), or whether a number lies in a window.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct SeqNum(u32);

impl SeqNum {
    /// The number as it appears on the wire.
    pub(crate) const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number as it appears on the wire.
    pub(crate) const fn raw(self) -> u32 {
        self.0
    }

    /// `self < other` by the shorter way round.
    pub(crate) const fn is_before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// `self <= other` by the shorter way round.
    pub(crate) const fn is_at_or_before(self, other: Self) -> bool {
        !other.is_before(self)
    }

    /// `self > other` by the shorter way round.
    pub(crate) const fn is_after(self, other: Self) -> bool {
        other.is_before(self)
    }

    /// Bytes from `earlier` up to `self`.
    pub(crate) const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `start =< self < start + len`.
    pub(crate) const fn in_window(self, start: Self, len: u32) -> bool {
        self.since(start) < len
    }

    /// The later of the two.
    #[cfg(test)]
    #[must_use]
    pub(crate) const fn max(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }

    /// The earlier of the two.
    #[cfg(test)]
    #[must_use]
    pub(crate) const fn min(self, other: Self) -> Self {
        if other.is_before(self) { other } else { self }
    }
}

impl fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::ops::Add<u32> for SeqNum {
    type Output = Self;

    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl std::ops::AddAssign<u32> for SeqNum {
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl std::ops::Sub<u32> for SeqNum {
    type Output = Self;

    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_survives_wraparound() {
        let last = SeqNum::new(u32::MAX);
        assert!(last.is_before(last + 1));
        assert_eq!((last + 1).since(last), 1);
        assert!((last + 3).in_window(last, 4));
        assert!(!(last + 4).in_window(last, 4));
        assert_eq!(last.max(last + 1), SeqNum::new(0));
        assert_eq!(last.min(last + 1), last);
        assert!(last.is_at_or_before(last));
    }
}

//! The timers of one connection: a table, not a zoo.

use crate::{info::TimerKind, time::Time};

/// A timer of a connection; the discriminant indexes [`Timers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// RFC 6298.
    Retransmit,
    /// The probe timeout of RFC 8985 §7.
    LossProbe,
    /// The reordering timer of RFC 8985 §6.
    Reorder,
    /// RFC 9293 §3.8.6.1.
    ZeroWindowProbe,
    DelayedAck,
    KeepAlive,
    /// Of an orphan: in FIN-WAIT-2, or without an acknowledgement.
    Limit,
    Pacing,
}

impl Timer {
    /// Of two at the same time, the first of them fires first: the probe takes the place of the
    /// timeout (RFC 8985 §7.2).
    const ALL: [Self; 8] = [
        Self::LossProbe,
        Self::Retransmit,
        Self::Reorder,
        Self::ZeroWindowProbe,
        Self::DelayedAck,
        Self::KeepAlive,
        Self::Limit,
        Self::Pacing,
    ];

    pub(crate) const fn kind(self) -> TimerKind {
        match self {
            Self::Retransmit => TimerKind::Retransmit,
            Self::LossProbe => TimerKind::LossProbe,
            Self::Reorder => TimerKind::Reorder,
            Self::ZeroWindowProbe => TimerKind::ZeroWindowProbe,
            Self::DelayedAck => TimerKind::DelayedAck,
            Self::KeepAlive => TimerKind::KeepAlive,
            Self::Limit => TimerKind::Limit,
            Self::Pacing => TimerKind::Pacing,
        }
    }
}

const STOPPED: Time = Time::MAX;

/// When each timer of one connection fires, if it is running.
#[derive(Debug)]
pub(crate) struct Timers([Time; Timer::ALL.len()]);

impl Default for Timers {
    fn default() -> Self {
        Self([STOPPED; Timer::ALL.len()])
    }
}

impl Timers {
    pub(crate) fn start(&mut self, timer: Timer, at: Time) {
        self.0[timer as usize] = at;
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = STOPPED;
    }

    pub(crate) fn at(&self, timer: Timer) -> Option<Time> {
        Some(self.0[timer as usize]).filter(|at| *at != STOPPED)
    }

    pub(crate) fn is_running(&self, timer: Timer) -> bool {
        self.0[timer as usize] != STOPPED
    }

    /// The earliest of them: all that the engine needs to know.
    pub(crate) fn next(&self) -> Option<(Timer, Time)> {
        let earliest = Timer::ALL
            .into_iter()
            .min_by_key(|timer| self.0[*timer as usize])?;
        let at = self.0[earliest as usize];
        (at != STOPPED).then_some((earliest, at))
    }

    /// Stops and returns one timer that is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let (due, _) = self.next().filter(|(_, at)| *at <= now)?;
        self.stop(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_fires_first_and_once() {
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        timers.start(Timer::KeepAlive, Time::from_millis(9));
        timers.start(Timer::Retransmit, Time::from_millis(5));
        assert_eq!(timers.pop_due(Time::from_millis(4)), None);
        assert_eq!(
            timers.pop_due(Time::from_millis(9)),
            Some(Timer::Retransmit)
        );
        assert_eq!(timers.pop_due(Time::from_millis(9)), Some(Timer::KeepAlive));
        assert_eq!(timers.pop_due(Time::MAX), None);
    }
}

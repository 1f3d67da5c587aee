//! The state diagram of the synchronized states (RFC 9293 §3.3.2), and nothing else.

use crate::info::State;

/// What moves a connection from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Our FIN is queued behind the data: the user has closed.
    FinQueued,
    /// Our FIN was acknowledged.
    FinAcked,
    /// The peer's FIN came in order.
    FinReceived,
    /// Either side reset, or gave up.
    Reset,
}

/// The next state. An event that means nothing in a state changes nothing.
#[must_use]
pub(crate) fn next(state: State, event: Event) -> State {
    match (state, event) {
        (_, Event::Reset) => State::Closed,
        (State::Established | State::SynReceived, Event::FinQueued) => State::FinWait1,
        (State::Established, Event::FinReceived) => State::CloseWait,
        (State::FinWait1, Event::FinAcked) => State::FinWait2,
        (State::FinWait1, Event::FinReceived) => State::Closing,
        (State::FinWait2, Event::FinReceived) => State::TimeWait,
        (State::CloseWait, Event::FinQueued) => State::LastAck,
        (State::Closing, Event::FinAcked) => State::TimeWait,
        (State::LastAck, Event::FinAcked) => State::Closed,
        (same, _) => same,
    }
}

#[cfg(test)]
mod tests {
    use super::{Event::*, State::*, *};

    #[test]
    fn every_order_of_closing_ends_closed() {
        let run = |events: &[Event]| {
            events
                .iter()
                .fold(Established, |state, event| next(state, *event))
        };
        assert_eq!(run(&[FinQueued, FinAcked, FinReceived]), TimeWait);
        assert_eq!(run(&[FinQueued, FinReceived, FinAcked]), TimeWait);
        assert_eq!(run(&[FinReceived, FinQueued, FinAcked]), Closed);
        assert_eq!(run(&[FinReceived, Reset]), Closed);
    }
}

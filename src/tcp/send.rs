//! SND.*: what is sent, what may be sent, and the arithmetic on it.

use crate::{link::Rope, seq::SeqNum};

/// The sending half of a connection.
///
/// Inside, the stream is counted by 64-bit positions that never wrap: the SYN is 0, the first byte
/// 1, the FIN comes behind the last. [`seq`](Self::seq) and [`position`](Self::position) convert at
/// the border to the wire, so that only they know of wrap-around.
#[derive(Debug)]
pub(crate) struct Send {
    pub(crate) iss: SeqNum,
    /// Oldest unacknowledged.
    pub(crate) una: u64,
    /// Next to send for the first time; one more than the highest ever sent.
    pub(crate) nxt: u64,
    /// The peer's window, already scaled.
    pub(crate) wnd: u32,
    /// The largest window that the peer ever offered.
    pub(crate) max_wnd: u32,
    /// SEG.SEQ (a position of the peer's stream) and SEG.ACK of the last window update.
    pub(crate) wl1: u64,
    pub(crate) wl2: u64,
    /// Snd.Wind.Shift.
    pub(crate) shift: u8,
    /// Payload bytes of a full segment (Eff.snd.MSS), options subtracted.
    pub(crate) mss: u16,
    /// Where the last segment that was not full ends (the Minshall variant of Nagle).
    pub(crate) small_end: u64,
    /// Data from SND.UNA on; rope offset = position - 1.
    pub(crate) queue: Rope,
    /// The position of our FIN, once it is queued.
    pub(crate) fin: Option<u64>,
}

impl Send {
    pub(crate) fn new(iss: SeqNum) -> Self {
        Self {
            iss,
            una: 1,
            nxt: 1,
            wnd: 0,
            max_wnd: 0,
            wl1: 0,
            wl2: 0,
            shift: 0,
            mss: 536,
            small_end: 0,
            queue: Rope::default(),
            fin: None,
        }
    }

    /// The sequence number of a position.
    pub(crate) fn seq(&self, position: u64) -> SeqNum {
        self.iss + position as u32
    }

    /// The position nearest to SND.UNA that has this number; `None` if it lies before the stream.
    pub(crate) fn position(&self, seq: SeqNum) -> Option<u64> {
        nearest(self.una, self.seq(self.una), seq)
    }

    /// Where queued data ends: the position of the FIN, if there is one.
    pub(crate) fn data_end(&self) -> u64 {
        self.queue.end() + 1
    }

    /// Bytes queued and never sent.
    pub(crate) fn unsent(&self) -> u64 {
        self.data_end().saturating_sub(self.nxt)
    }

    /// The right edge of the peer's window.
    pub(crate) fn right_edge(&self) -> u64 {
        self.una + u64::from(self.wnd)
    }

    /// Whether our FIN is queued and was not sent.
    pub(crate) fn fin_unsent(&self) -> bool {
        self.fin.is_some_and(|fin| self.nxt <= fin)
    }

    /// FlightSize (RFC 5681): sent and not cumulatively acknowledged.
    pub(crate) fn flight_size(&self) -> u64 {
        self.nxt - self.una
    }
}

/// The position nearest to `near`, whose number is `near_seq`, that has the number `seq`.
pub(crate) fn nearest(near: u64, near_seq: SeqNum, seq: SeqNum) -> Option<u64> {
    let distance = i64::from(seq.since(near_seq) as i32);
    near.checked_add_signed(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_on_where_numbers_wrap() {
        let mut snd = Send::new(SeqNum::new(u32::MAX - 1));
        assert_eq!(snd.seq(1), SeqNum::new(u32::MAX));
        assert_eq!(snd.position(SeqNum::new(5)), Some(7));
        assert_eq!(snd.position(SeqNum::new(u32::MAX - 3)), None);
        snd.una = 5 << 32;
        assert_eq!(snd.position(snd.seq((5 << 32) + 9)), Some((5 << 32) + 9));
        assert_eq!(snd.position(snd.seq((5 << 32) - 9)), Some((5 << 32) - 9));
    }
}

//! The Internet checksum (RFC 1071).

use std::ops::Range;

use crate::packet::Packet;

/// A ones' complement sum of bytes so far, and whether their number is odd: then the next byte is
/// the second of its word. So slices of any length can be added one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Of words in the machine's order, which swaps the bytes of the result and nothing else
    /// (RFC 1071 §2 B).
    value: u16,
    odd: bool,
}

impl Sum {
    /// The sum of an even number of bytes, given as the sum of their words in the machine's order.
    pub(crate) const fn of_words(total: u64) -> Self {
        Self {
            value: fold(total),
            odd: false,
        }
    }

    /// Adds what follows.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        *self = self.combine(sum(bytes));
    }

    /// The sum of what `self` is the sum of, followed by what `next` is the sum of.
    #[must_use]
    pub(crate) const fn combine(self, next: Self) -> Self {
        let value = if self.odd {
            next.value.swap_bytes()
        } else {
            next.value
        };
        Self {
            value: fold(self.value as u64 + value as u64),
            odd: self.odd != next.odd,
        }
    }

    /// The checksum: what goes into the field, to be written with `to_be_bytes`.
    pub(crate) const fn finish(self) -> u16 {
        !self.partial()
    }

    /// The sum itself, not complemented: what a device that fills the checksum starts with.
    pub(crate) const fn partial(self) -> u16 {
        u16::from_be(self.value)
    }

    /// Whether a sum over everything, the checksum field included, is that of intact bytes. Zero
    /// has two forms, so comparing a computed field with the received one would not do.
    pub(crate) const fn is_valid(self) -> bool {
        matches!(self.value, 0 | 0xffff)
    }
}

/// The sum of some bytes.
pub(crate) fn sum(bytes: &[u8]) -> Sum {
    // Eight lanes of 64 bits, to each of which words of 32 are added: carries have 32 bits of room,
    // and the compiler uses vector instructions.
    let (blocks, tail) = bytes.as_chunks::<64>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (i, word) in words.iter().enumerate() {
            lanes[i % 8] += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, tail) = tail.as_chunks::<4>();
    let mut total: u64 = lanes.iter().sum();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    total += u64::from(u32::from_ne_bytes(last));
    Sum {
        value: fold(total),
        odd: !bytes.len().is_multiple_of(2),
    }
}

/// A checksum after one of the words that it covers has changed (RFC 1624 eqn. 3).
#[cfg(test)]
pub(crate) const fn update(check: u16, old: u16, new: u16) -> u16 {
    !fold(!check as u64 + !old as u64 + new as u64)
}

/// `initial` with the bytes of a packet in `range` added.
pub(crate) fn sum_packet(packet: &Packet, range: Range<usize>, initial: Sum) -> Sum {
    packet
        .slices(range)
        .fold(initial, |total, slice| total.combine(sum(slice)))
}

/// Adds the carries until 16 bits are left.
const fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    /// RFC 1071 word for word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0_u64;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            total += u64::from(u16::from_be_bytes([pair[0], low]));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).partial(), 0xddf2);
        assert_eq!(sum(&bytes).finish(), 0x220d);
    }

    #[test]
    fn every_length_agrees_with_the_naive_sum() {
        let mut rng = Rng::new(3);
        for len in 0..600 {
            let bytes = rng.bytes(len);
            assert_eq!(sum(&bytes).partial(), naive(&bytes), "{len}");
        }
        let ones = vec![0xff; 65_535];
        assert_eq!(sum(&ones).partial(), naive(&ones));
        let long = rng.bytes(65_535);
        assert_eq!(sum(&long).partial(), naive(&long));
    }

    #[test]
    fn a_sum_in_pieces_is_the_sum_of_the_whole() {
        let mut rng = Rng::new(4);
        for _ in 0..2000 {
            let len = rng.below(300);
            let bytes = rng.bytes(len);
            let (mut total, mut at) = (Sum::default(), 0);
            while at < len {
                let end = (at + rng.below(20)).min(len);
                total.add(&bytes[at..end]);
                at = end;
            }
            assert_eq!(total, sum(&bytes));
            let (left, right) = bytes.split_at(rng.below(len + 1));
            assert_eq!(sum(left).combine(sum(right)), sum(&bytes));
        }
    }

    #[test]
    fn both_forms_of_zero_are_valid() {
        let mut rng = Rng::new(5);
        for _ in 0..1000 {
            let mut bytes = rng.bytes(40);
            bytes[16..18].fill(0);
            // Make the sum of the rest all ones, so that the checksum is zero.
            let check = sum(&bytes).finish();
            let word = u16::from_be_bytes([bytes[0], bytes[1]]);
            let word = fold(u64::from(word) + u64::from(check));
            bytes[..2].copy_from_slice(&word.to_be_bytes());
            assert_eq!(sum(&bytes).finish(), 0);
            for field in [[0, 0], [0xff, 0xff]] {
                bytes[16..18].copy_from_slice(&field);
                assert!(sum(&bytes).is_valid());
            }
            bytes[16..18].copy_from_slice(&[0, 1]);
            assert!(!sum(&bytes).is_valid());
        }
    }

    #[test]
    fn an_updated_checksum_is_that_of_the_changed_bytes() {
        // RFC 1624 §4: the case that the older formula gets wrong.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0);
        let mut rng = Rng::new(6);
        for _ in 0..1000 {
            let mut bytes = rng.bytes(30);
            let check = sum(&bytes).finish();
            let (at, new) = (2 * rng.below(15), rng.next() as u16);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            assert_eq!(update(check, old, new), sum(&bytes).finish());
        }
    }
}

//! The options of TCP that we know: MSS, window scale, SACK, timestamps.

use std::ops::Deref;

use crate::seq::SeqNum;

/// Room for options in a header.
pub(crate) const OPTIONS_MAX: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

const MSS_LEN: u8 = 4;
const WINDOW_SCALE_LEN: u8 = 3;
const SACK_PERMITTED_LEN: u8 = 2;
const TIMESTAMPS_LEN: u8 = 10;

/// The options of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpOptions {
    /// The largest payload that the sender takes (RFC 9293 §3.7.1), raw.
    pub(crate) mss: Option<u16>,
    /// The shift of the sender's windows (RFC 7323 §2), raw: it may be more than 14.
    pub(crate) window_scale: Option<u8>,
    /// The sender understands SACK (RFC 2018 §2).
    pub(crate) sack_permitted: bool,
    /// RFC 7323 §3.
    pub(crate) timestamps: Option<Timestamps>,
    /// What the sender has received out of order (RFC 2018 §3), in its order, unchecked.
    pub(crate) sack: SackBlocks,
}

/// TSval and TSecr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamps {
    /// The sender's clock.
    pub(crate) val: u32,
    /// The clock of the receiver, as the sender last saw it.
    pub(crate) ecr: u32,
}

/// Up to four blocks of sequence space, each from its first number up to one past its last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SackBlocks {
    blocks: [(SeqNum, SeqNum); Self::MAX],
    len: u8,
}

impl SackBlocks {
    /// As many as fit in a header without timestamps.
    pub(crate) const MAX: usize = 4;

    /// Appends a block; says whether there was room for it.
    pub(crate) fn push(&mut self, left: SeqNum, right: SeqNum) -> bool {
        let Some(free) = self.blocks.get_mut(usize::from(self.len)) else {
            return false;
        };
        *free = (left, right);
        self.len += 1;
        true
    }
}

impl Deref for SackBlocks {
    type Target = [(SeqNum, SeqNum)];

    fn deref(&self) -> &Self::Target {
        &self.blocks[..usize::from(self.len)]
    }
}

impl PartialEq for SackBlocks {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SackBlocks {}

impl TcpOptions {
    /// Reads the options of a header.
    ///
    /// Nothing that can stand there makes a segment invalid: an option that we do not know, or that
    /// has the wrong length, is skipped; where a length makes no sense, reading ends and what came
    /// before counts. Of options that come twice the last one counts, as on Linux.
    pub(crate) fn parse(mut area: &[u8]) -> Self {
        let mut options = Self::default();
        // Nearly all segments carry this and nothing else, or SACK behind it.
        if let [NOP, NOP, TIMESTAMPS, TIMESTAMPS_LEN, rest @ ..] = area
            && let Some((timestamps, rest)) = rest.split_first_chunk()
        {
            options.timestamps = Some(Timestamps::parse(timestamps));
            area = rest;
        }
        while let Some((&kind, rest)) = area.split_first() {
            match kind {
                END => break,
                NOP => area = rest,
                _ => {
                    let len = rest.first().map_or(0, |len| usize::from(*len));
                    let Some((option, rest)) = area.split_at_checked(len) else {
                        break;
                    };
                    let Some(value) = option.get(2..) else {
                        break;
                    };
                    options.read(kind, value);
                    area = rest;
                }
            }
        }
        options
    }

    fn read(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift),
            (SACK_PERMITTED, &[]) => self.sack_permitted = true,
            (TIMESTAMPS, value) => {
                if let Ok(value) = value.try_into() {
                    self.timestamps = Some(Timestamps::parse(value));
                }
            }
            (SACK, value) => {
                if let (blocks @ [_, ..], []) = value.as_chunks::<8>() {
                    self.sack = SackBlocks::default();
                    for block in blocks {
                        let (left, right) = two_words(block);
                        self.sack.push(SeqNum::new(left), SeqNum::new(right));
                    }
                }
            }
            _ => {}
        }
    }

    /// Drops what means nothing in a segment with SYN, or in one without: the parameters of a
    /// connection are negotiated once, and before that there is nothing to acknowledge.
    pub(super) fn retain_for(&mut self, syn: bool) {
        if syn {
            self.sack = SackBlocks::default();
        } else {
            (self.mss, self.window_scale, self.sack_permitted) = (None, None, false);
        }
    }

    /// Bytes that [`emit`](Self::emit) writes, always a multiple of four.
    pub(crate) fn len(&self) -> usize {
        let blocks = self.sack_blocks().len();
        self.fixed_len() + if blocks == 0 { 0 } else { 4 + 8 * blocks }
    }

    /// The same without SACK blocks.
    fn fixed_len(&self) -> usize {
        let timestamps = if self.timestamps.is_some() { 12 } else { 0 };
        // Takes the place of the two bytes of padding in front of timestamps.
        let sack_permitted = if self.sack_permitted && timestamps == 0 {
            4
        } else {
            0
        };
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let window_scale = if self.window_scale.is_some() { 4 } else { 0 };
        mss + sack_permitted + timestamps + window_scale
    }

    /// The blocks for which there is room beside the other options, first come first.
    fn sack_blocks(&self) -> &[(SeqNum, SeqNum)] {
        let room = (OPTIONS_MAX - 4 - self.fixed_len()) / 8;
        &self.sack[..self.sack.len().min(room)]
    }

    /// Writes the options to the start of `out`, each group on a boundary of four bytes and in
    /// Linux's order, and returns their length. SACK blocks that do not fit are left out.
    ///
    /// # Panics
    /// If `out` is shorter than [`len`](Self::len).
    pub(crate) fn emit(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[MSS, MSS_LEN, high, low]);
        }
        if self.sack_permitted && self.timestamps.is_some() {
            put(&[SACK_PERMITTED, SACK_PERMITTED_LEN]);
        } else if self.sack_permitted {
            put(&[NOP, NOP, SACK_PERMITTED, SACK_PERMITTED_LEN]);
        } else if self.timestamps.is_some() {
            put(&[NOP, NOP]);
        }
        if let Some(Timestamps { val, ecr }) = self.timestamps {
            put(&[TIMESTAMPS, TIMESTAMPS_LEN]);
            put(&val.to_be_bytes());
            put(&ecr.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            put(&[NOP, WINDOW_SCALE, WINDOW_SCALE_LEN, shift]);
        }
        let blocks = self.sack_blocks();
        if !blocks.is_empty() {
            put(&[NOP, NOP, SACK, 2 + 8 * blocks.len() as u8]);
        }
        for (left, right) in blocks {
            put(&left.raw().to_be_bytes());
            put(&right.raw().to_be_bytes());
        }
        at
    }
}

impl Timestamps {
    fn parse(value: &[u8; 8]) -> Self {
        let (val, ecr) = two_words(value);
        Self { val, ecr }
    }
}

fn two_words(bytes: &[u8; 8]) -> (u32, u32) {
    let both = u64::from_be_bytes(*bytes);
    ((both >> 32) as u32, both as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    const NONE: TcpOptions = TcpOptions {
        mss: None,
        window_scale: None,
        sack_permitted: false,
        timestamps: None,
        sack: SackBlocks {
            blocks: [(SeqNum::new(0), SeqNum::new(0)); 4],
            len: 0,
        },
    };

    fn mss(mss: u16) -> TcpOptions {
        TcpOptions {
            mss: Some(mss),
            ..NONE
        }
    }

    fn scale(shift: u8) -> TcpOptions {
        TcpOptions {
            window_scale: Some(shift),
            ..NONE
        }
    }

    fn stamped(val: u32, ecr: u32) -> TcpOptions {
        TcpOptions {
            timestamps: Some(Timestamps { val, ecr }),
            ..NONE
        }
    }

    fn blocks(blocks: &[(u32, u32)]) -> TcpOptions {
        let mut options = NONE;
        for (left, right) in blocks {
            let pushed = options.sack.push(SeqNum::new(*left), SeqNum::new(*right));
            assert!(pushed);
        }
        options
    }

    #[test]
    fn odd_and_malformed_areas_give_what_can_be_read_of_them() {
        let ts = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let block = [0, 0, 0, 3, 0, 0, 0, 9];
        let cases: &[(&[&[u8]], TcpOptions)] = &[
            (&[], NONE),
            (&[&[0]], NONE),
            (&[&[0, 0, 0, 0]], NONE),
            (&[&[1, 1, 1, 1]], NONE),
            (&[&[1; 40]], NONE),
            // In order, out of step with words, and behind the end.
            (&[&[2, 4, 5, 0xb4]], mss(1460)),
            (&[&[1, 2, 4, 5, 0xb4, 1, 1, 1]], mss(1460)),
            (&[&[2, 4, 5, 0xb4, 0, 3, 3, 7]], mss(1460)),
            (&[&[0, 2, 4, 5, 0xb4]], NONE),
            (&[&[1, 3, 3, 7]], scale(7)),
            (&[&[3, 3, 255, 0]], scale(255)),
            (&[&[1, 1, 1, 1, 1], &ts, &[0]], stamped(1, 2)),
            (&[&[1, 1], &ts], stamped(1, 2)),
            (&[&ts, &[1, 1]], stamped(1, 2)),
            // A length of zero or one ends the list; what came before counts.
            (&[&[2, 0]], NONE),
            (&[&[2, 1]], NONE),
            (&[&[2, 0, 5, 0xb4]], NONE),
            (&[&[254, 0, 2, 4, 5, 0xb4]], NONE),
            (&[&[254, 1, 2, 4, 5, 0xb4]], NONE),
            (&[&[3, 3, 7, 9, 0, 2, 4, 5, 0xb4]], scale(7)),
            (&[&[3, 3, 7, 9, 1, 2, 4, 5, 0xb4]], scale(7)),
            (&[&[0xff, 0]], NONE),
            (&[&[8, 0, 0, 0]], NONE),
            (&[&[5, 0, 0, 0]], NONE),
            // So does a length past the end, or none.
            (&[&[2]], NONE),
            (&[&[1, 1, 1, 2]], NONE),
            (&[&[2, 4, 5]], NONE),
            (&[&[2, 255, 5, 0xb4]], NONE),
            (&[&[3, 3, 7, 254, 3]], scale(7)),
            (&[&[3, 3, 7, 254]], scale(7)),
            (&[&[1, 1], &ts[..9]], NONE),
            (&[&[1, 1, 8, 10]], NONE),
            (&[&[5, 10], &block[..7]], NONE),
            (&[&[5, 42], &block], NONE),
            // Wrong sizes: skipped, the rest is read.
            (&[&[2, 3, 5, 3, 3, 7]], scale(7)),
            (&[&[2, 2, 3, 3, 7]], scale(7)),
            (&[&[2, 5, 5, 0xb4, 0, 3, 3, 7]], scale(7)),
            (&[&[3, 2, 2, 4, 5, 0xb4]], mss(1460)),
            (&[&[3, 4, 7, 7, 2, 4, 5, 0xb4]], mss(1460)),
            (&[&[4, 3, 0, 2, 4, 5, 0xb4]], mss(1460)),
            (&[&[8, 9, 0, 0, 0, 1, 0, 0, 0, 3, 3, 7]], scale(7)),
            (&[&[8, 11, 0, 0, 0, 1, 0, 0, 0, 2, 0, 3, 3, 7]], scale(7)),
            (&[&[8, 2, 3, 3, 7]], scale(7)),
            (&[&[5, 2, 3, 3, 7]], scale(7)),
            (&[&[5, 9], &block[..7], &[3, 3, 7]], scale(7)),
            (&[&[5, 11], &block, &[0, 3, 3, 7]], scale(7)),
            (&[&[5, 6, 0, 0, 0, 3, 3, 3, 7]], scale(7)),
            // Unknown options: skipped by their length.
            (&[&[254, 4, 0xf9, 0x89, 2, 4, 5, 0xb4]], mss(1460)),
            (&[&[19, 18], &[7; 16], &[2, 4, 5, 0xb4]], mss(1460)),
            (&[&[34, 2, 2, 4, 5, 0xb4]], mss(1460)),
            // Twice: the last one counts.
            (&[&[2, 4, 0, 1, 2, 4, 5, 0xb4]], mss(1460)),
            (&[&[3, 3, 1, 3, 3, 2]], scale(2)),
            (
                &[&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 9], &ts],
                stamped(1, 2),
            ),
            (&[&[2, 4, 5, 0xb4, 2, 3, 0]], mss(1460)),
            // SACK.
            (&[&[5, 10], &block], blocks(&[(3, 9)])),
            (&[&[1, 1, 5, 18], &block, &block], blocks(&[(3, 9), (3, 9)])),
            (&[&[5, 34], &block.repeat(4)], blocks(&[(3, 9); 4])),
            (&[&[5, 10], &[0; 8], &[5, 10], &block], blocks(&[(3, 9)])),
        ];
        for (area, expected) in cases {
            let area = area.concat();
            assert_eq!(TcpOptions::parse(&area), *expected, "{area:?}");
        }
    }

    #[test]
    fn more_blocks_than_a_header_can_hold_are_cut() {
        // No header is that long, but nothing here relies on it.
        let area = [&[5, 82][..], &[0, 0, 0, 3, 0, 0, 0, 9].repeat(10)].concat();
        assert_eq!(TcpOptions::parse(&area).sack.len(), SackBlocks::MAX);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut rng = Rng::new(8);
        for _ in 0..5000 {
            let mut any = |options: &mut TcpOptions| {
                let chosen = rng.below(32);
                options.mss = (chosen & 1 != 0).then(|| rng.next() as u16);
                options.window_scale = (chosen & 2 != 0).then(|| rng.next() as u8);
                options.sack_permitted = chosen & 4 != 0;
                options.timestamps = (chosen & 8 != 0).then(|| Timestamps {
                    val: rng.next() as u32,
                    ecr: rng.next() as u32,
                });
                let blocks = if chosen & 16 != 0 { rng.below(5) } else { 0 };
                for _ in 0..blocks {
                    let [left, right] = [rng.next(), rng.next()];
                    let left = SeqNum::new(left as u32);
                    options.sack.push(left, SeqNum::new(right as u32));
                }
            };
            let mut options = NONE;
            any(&mut options);
            let mut out = [0xee; OPTIONS_MAX];
            let len = options.emit(&mut out);
            assert_eq!(len, options.len());
            assert_eq!(len % 4, 0);
            assert!(out[len..].iter().all(|byte| *byte == 0xee));
            let mut read = TcpOptions::parse(&out[..len]);
            let kept = read.sack.len();
            assert!(kept == options.sack.len() || len + 8 > OPTIONS_MAX);
            assert_eq!(read.sack[..], options.sack[..kept]);
            read.sack = options.sack;
            assert_eq!(read, options);
        }
    }

    #[test]
    fn three_blocks_fit_beside_timestamps_and_four_without() {
        let mut options = blocks(&[(1, 2), (3, 4), (5, 6), (7, 8)]);
        assert!(!options.sack.push(SeqNum::new(9), SeqNum::new(10)));
        assert_eq!(options.len(), 36);
        options.timestamps = Some(Timestamps { val: 1, ecr: 2 });
        assert_eq!(options.len(), OPTIONS_MAX);
        let mut out = [0; OPTIONS_MAX];
        options.emit(&mut out);
        let read = TcpOptions::parse(&out);
        assert_eq!(read.sack.len(), 3);
        assert_eq!(SackBlocks::MAX, 4);
    }

    #[test]
    fn a_syn_is_laid_out_like_linux_does() {
        let options = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { val: 1, ecr: 0 }),
            ..NONE
        };
        let mut out = [0; OPTIONS_MAX];
        let len = options.emit(&mut out);
        let expected = [
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        assert_eq!(out[..len], expected);
    }
}

//! What tests share.

use std::{env, ops::Range};

/// A generator for tests (xorshift64*): the same seed gives the same numbers.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// `SYNACK_SEED` alone is one, `SYNACK_SEEDS` so many, and both so many from that one on.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let number = |name: &str| {
        let text = env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let first = number("SYNACK_SEED");
    let alone = if first.is_some() { 1 } else { usual };
    let (first, count) = (first.unwrap_or(0), number("SYNACK_SEEDS"));
    first..first + count.unwrap_or(alone)
}

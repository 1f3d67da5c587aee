//! Ephemeral ports.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use rand::{Rng, RngExt};
use siphasher::sip::SipHasher24;

/// The range that Linux uses (`ip_local_port_range`).
pub(crate) const DEFAULT_RANGE: RangeInclusive<u16> = 32_768..=60_999;

/// RFC 6056 §3.3.4: counters that destinations share; more of them tell less.
const COUNTERS: usize = 256;

/// Rounds of the Feistel network, each on half of 16 bits.
const ROUNDS: u32 = 6;

/// Chooses the local ports of outgoing connections.
///
/// The double-hash algorithm of RFC 6056 §3.3.4: a keyed function of the destination says where a
/// port sequence begins, and one of a few counters, also found by a keyed hash, how far it is. Its
/// ports to one destination follow one another, though; ours go through a permutation of the range
/// that the destination's hash keys. So a port comes again as late as possible, and neither the
/// next one nor those to other destinations can be told from those seen.
pub(crate) struct EphemeralPorts {
    first: u16,
    count: u32,
    destinations: SipHasher24,
    counters: Box<[u16; COUNTERS]>,
}

impl EphemeralPorts {
    /// Ports of `range`, but never port 0.
    pub(crate) fn new(range: RangeInclusive<u16>, rng: &mut impl Rng) -> Self {
        let first = (*range.start()).max(1);
        let last = (*range.end()).max(first);
        let count = u32::from(last - first) + 1;
        let mut counters = Box::new([0; COUNTERS]);
        counters.fill_with(|| rng.random_range(0..count) as u16);
        Self {
            first,
            count,
            destinations: SipHasher24::new_with_keys(rng.next_u64(), rng.next_u64()),
            counters,
        }
    }

    /// A port from which to connect to `peer`. `None`: `is_free` has refused each of the range.
    pub(crate) fn next(
        &mut self,
        local: IpAddr,
        peer: SocketAddr,
        mut is_free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let (key, counter) = self.hash(local, peer);
        let start = u32::from(self.counters[counter]);
        for step in 0..self.count {
            let index = (start + step) % self.count;
            // Both are below 2^16.
            let port = self.first + self.permute(index, key) as u16;
            if is_free(port) {
                self.counters[counter] = ((index + 1) % self.count) as u16;
                return Some(port);
            }
        }
        None
    }

    /// The key of the destination's permutation, and the number of its counter.
    fn hash(&self, local: IpAddr, peer: SocketAddr) -> (u64, usize) {
        let mut input = [0; 16 + 16 + 2 + 1];
        input[..16].copy_from_slice(&octets(local));
        input[16..32].copy_from_slice(&octets(peer.ip()));
        input[32..34].copy_from_slice(&peer.port().to_be_bytes());
        let key = self.destinations.hash(&input);
        input[34] = 1;
        let counter = self.destinations.hash(&input);
        (key, counter as usize % COUNTERS)
    }

    /// A keyed permutation of the numbers below `count`: one of 16 bits, applied until the result
    /// is in the range. That ends, for a permutation comes back to where it began.
    fn permute(&self, index: u32, key: u64) -> u32 {
        let mut value = index;
        loop {
            value = feistel(value, key);
            if value < self.count {
                return value;
            }
        }
    }
}

fn feistel(value: u32, key: u64) -> u32 {
    let (mut left, mut right) = (value >> 8 & 0xff, value & 0xff);
    for round in 0..ROUNDS {
        let mixed = mix(u64::from(right) ^ key.rotate_left(round * 11));
        (left, right) = (right, left ^ (mixed & 0xff) as u32);
    }
    left << 8 | right
}

/// The finalizer of MurmurHash3: every bit of the input changes every bit of the output.
const fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl fmt::Debug for EphemeralPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EphemeralPorts")
            .field("first", &self.first)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 443))
    }

    fn ports(range: RangeInclusive<u16>, seed: u64) -> EphemeralPorts {
        EphemeralPorts::new(range, &mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn b7_successive_ports_to_one_destination_are_hardly_ever_neighbours() {
        for seed in 0..20 {
            let mut ports = ports(DEFAULT_RANGE, seed);
            let chosen: Vec<_> = (0..1000)
                .map(|_| ports.next(LOCAL, peer(9), |_| true).unwrap())
                .collect();
            assert!(chosen.iter().all(|port| DEFAULT_RANGE.contains(port)));
            let neighbours = chosen
                .windows(2)
                .filter(|pair| pair[0].abs_diff(pair[1]) <= 1);
            assert!(neighbours.count() < 10, "seed {seed}");
            // Nor does the step between them repeat.
            let steps = chosen.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
            assert!(steps.collect::<HashSet<_>>().len() > 900, "seed {seed}");
        }
    }

    #[test]
    fn a_port_to_one_destination_comes_again_only_after_all_others() {
        for range in [DEFAULT_RANGE, 1..=65_535, 5000..=5000, 7..=300] {
            let mut ports = ports(range.clone(), 3);
            let mut next = || ports.next(LOCAL, peer(9), |_| true).unwrap();
            let chosen: HashSet<_> = range.clone().map(|_| next()).collect();
            assert_eq!(chosen.len(), range.count());
        }
    }

    #[test]
    fn the_last_free_port_is_found_and_none_is_an_answer() {
        let mut ports = ports(DEFAULT_RANGE, 4);
        assert_eq!(
            ports.next(LOCAL, peer(9), |port| port == 40_001),
            Some(40_001)
        );
        let mut tries = 0;
        let none = ports.next(LOCAL, peer(9), |_| {
            tries += 1;
            false
        });
        assert_eq!((none, tries), (None, DEFAULT_RANGE.len()));
    }

    #[test]
    fn destinations_and_stacks_have_unrelated_sequences() {
        let sequence = |seed, last| {
            let mut ports = ports(DEFAULT_RANGE, seed);
            (0..20)
                .map(|_| ports.next(LOCAL, peer(last), |_| true).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(sequence(1, 9), sequence(1, 9));
        assert_ne!(sequence(1, 9), sequence(1, 8));
        assert_ne!(sequence(1, 9), sequence(2, 9));
    }
}

//! Which connection a segment belongs to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use tracing::{level_filters::LevelFilter, span::EnteredSpan};

/// The two ends of a connection; IPv4 addresses are mapped, which saves their tags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FourTuple {
    local: [u8; 16],
    peer: [u8; 16],
    local_port: u16,
    peer_port: u16,
}

/// What stands before the four bytes of a mapped address.
const MAPPED: u128 = 0xffff << 32;

fn mapped(ip: IpAddr) -> [u8; 16] {
    let bits = match ip {
        IpAddr::V4(v4) => MAPPED | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    bits.to_be_bytes()
}

fn canonical(octets: [u8; 16]) -> IpAddr {
    let bits = u128::from_be_bytes(octets);
    match bits ^ MAPPED {
        v4 if v4 >> 32 == 0 => IpAddr::V4(Ipv4Addr::from_bits(v4 as u32)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

impl FourTuple {
    pub(crate) fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local: mapped(local.ip()),
            peer: mapped(peer.ip()),
            local_port: local.port(),
            peer_port: peer.port(),
        }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(canonical(self.local), self.local_port)
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        SocketAddr::new(canonical(self.peer), self.peer_port)
    }

    /// What is logged until this is dropped is logged of this connection. Costs a comparison where
    /// nobody listens to `debug`.
    #[must_use]
    pub(crate) fn logged(&self) -> Option<EnteredSpan> {
        (LevelFilter::current() >= LevelFilter::DEBUG).then(|| self.enter())
    }

    #[cold]
    fn enter(&self) -> EnteredSpan {
        tracing::debug_span!("connection", local = %self.local(), peer = %self.peer()).entered()
    }
}

impl fmt::Debug for FourTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <- {}", self.local(), self.peer())
    }
}

/// What a four-tuple leads to: an index, with the table it is of in the upper two bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Slot(u32),
    HalfOpen(u32),
    TimeWait(u32),
}

const INDEX_BITS: u32 = 30;

impl Target {
    fn pack(self) -> u32 {
        match self {
            Self::Slot(index) => index,
            Self::HalfOpen(index) => 1 << INDEX_BITS | index,
            Self::TimeWait(index) => 2 << INDEX_BITS | index,
        }
    }

    fn unpack(packed: u32) -> Self {
        let index = packed & ((1 << INDEX_BITS) - 1);
        match packed >> INDEX_BITS {
            0 => Self::Slot(index),
            1 => Self::HalfOpen(index),
            _ => Self::TimeWait(index),
        }
    }
}

/// Four-tuples to targets. The four-tuples themselves stay where the targets are, which makes an
/// entry five bytes; hence the function that looks them up.
pub(crate) struct Demux {
    table: HashTable<u32>,
    hasher: SipHasher13,
    /// What was found last, or [`NOTHING`]: segments come in bursts. Always in the table.
    last: u32,
}

/// No target, for the upper two bits name no table.
const NOTHING: u32 = u32::MAX;

impl fmt::Debug for Demux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demux")
            .field("len", &self.table.len())
            .finish_non_exhaustive()
    }
}

impl Demux {
    /// The key keeps attackers from choosing four-tuples that collide.
    pub(crate) fn new(key: (u64, u64)) -> Self {
        Self {
            table: HashTable::new(),
            hasher: SipHasher13::new_with_keys(key.0, key.1),
            last: NOTHING,
        }
    }

    fn hash(hasher: &SipHasher13, tuple: &FourTuple) -> u64 {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&tuple.local);
        bytes[16..32].copy_from_slice(&tuple.peer);
        bytes[32..34].copy_from_slice(&tuple.local_port.to_be_bytes());
        bytes[34..].copy_from_slice(&tuple.peer_port.to_be_bytes());
        hasher.hash(&bytes)
    }

    pub(crate) fn get<'a>(
        &self,
        tuple: &FourTuple,
        of: impl Fn(Target) -> &'a FourTuple,
    ) -> Option<Target> {
        let found = self.table.find(Self::hash(&self.hasher, tuple), |packed| {
            of(Target::unpack(*packed)) == tuple
        });
        found.map(|packed| Target::unpack(*packed))
    }

    /// The same for a segment that has come: the next is likely to go to the same place.
    pub(crate) fn find<'a>(
        &mut self,
        tuple: &FourTuple,
        of: impl Fn(Target) -> &'a FourTuple,
    ) -> Option<Target> {
        let last = Target::unpack(self.last);
        if self.last != NOTHING && of(last) == tuple {
            return Some(last);
        }
        let found = self.get(tuple, of)?;
        self.last = found.pack();
        Some(found)
    }

    /// The four-tuple must not be in the table, and its target must already know it.
    pub(crate) fn insert<'a>(
        &mut self,
        tuple: &FourTuple,
        target: Target,
        of: impl Fn(Target) -> &'a FourTuple,
    ) {
        let hasher = &self.hasher;
        let rehash = |packed: &u32| Self::hash(hasher, of(Target::unpack(*packed)));
        self.table
            .insert_unique(Self::hash(hasher, tuple), target.pack(), rehash);
    }

    pub(crate) fn remove(&mut self, tuple: &FourTuple, target: Target) {
        let packed = target.pack();
        if self.last == packed {
            self.last = NOTHING;
        }
        if let Ok(entry) = self
            .table
            .find_entry(Self::hash(&self.hasher, tuple), |found| *found == packed)
        {
            entry.remove();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes held.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.table.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(peer_port: u16) -> FourTuple {
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        FourTuple::new(at(80), at(peer_port))
    }

    #[test]
    fn what_was_found_last_is_found_again_until_it_is_removed_and_by_no_other_tuple() {
        let tuples = [tuple(1), tuple(2)];
        let of = |target| match target {
            Target::Slot(index) => &tuples[index as usize],
            target => unreachable!("{target:?} was not inserted"),
        };
        let mut demux = Demux::new((1, 2));
        demux.insert(&tuples[0], Target::Slot(0), of);
        demux.insert(&tuples[1], Target::Slot(1), of);
        for (tuple, slot) in [(0, 0), (0, 0), (1, 1), (0, 0)] {
            assert_eq!(demux.find(&tuples[tuple], of), Some(Target::Slot(slot)));
        }
        assert_eq!(demux.find(&tuple(3), of), None);
        demux.remove(&tuples[0], Target::Slot(0));
        // What lay there may be gone.
        let of = |target| match target {
            Target::Slot(1) => &tuples[1],
            target => unreachable!("{target:?} was removed"),
        };
        assert_eq!(demux.find(&tuples[0], of), None);
        assert_eq!(demux.find(&tuples[1], of), Some(Target::Slot(1)));
    }
}

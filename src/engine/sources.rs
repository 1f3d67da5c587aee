//! How many connections there are with each peer, for a limit to it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use crate::config::PER_SOURCE_UNLIMITED;

/// Connections of each peer, half-open ones included; nothing is counted when there is no limit.
#[derive(Debug)]
pub(crate) struct Sources {
    max: usize,
    counts: HashMap<IpAddr, u32>,
}

impl Sources {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            counts: HashMap::new(),
        }
    }

    fn is_limited(&self) -> bool {
        self.max < PER_SOURCE_UNLIMITED
    }

    pub(crate) fn add(&mut self, peer: IpAddr) {
        if self.is_limited() {
            *self.counts.entry(source(peer)).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, peer: IpAddr) {
        let source = source(peer);
        if let Some(count) = self.counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&source);
            }
        }
    }

    /// Whether this peer has as many as it may have.
    pub(crate) fn is_full(&self, peer: IpAddr) -> bool {
        let count = self.counts.get(&source(peer)).copied().unwrap_or(0);
        self.is_limited() && count as usize >= self.max
    }
}

/// Who has an IPv6 address has all of its /64.
fn source(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_ipv6_counts_as_one_source_and_nothing_is_left_behind() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut sources = Sources::new(2);
        sources.add(at("fd00::1"));
        sources.add(at("fd00::2"));
        assert!(sources.is_full(at("fd00::3")));
        assert!(!sources.is_full(at("fd00:0:0:1::3")) && !sources.is_full(at("10.0.0.1")));
        sources.remove(at("fd00::1"));
        assert!(!sources.is_full(at("fd00::3")));
        sources.remove(at("fd00::2"));
        assert!(sources.counts.is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut sources = Sources::new(PER_SOURCE_UNLIMITED);
        sources.add("10.0.0.1".parse().unwrap());
        assert!(sources.counts.is_empty());
    }
}

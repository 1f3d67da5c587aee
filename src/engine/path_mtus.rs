//! What connections have found out about the paths to their peers, for those that come later.

use std::{collections::HashMap, net::IpAddr};

use crate::{engine::fifo::Fifo, tcp::path_mtu::BELIEVED_FOR, time::Time};

/// Peers that are remembered; the one that was learned first goes for one more.
const PEERS_MAX: usize = 1024;

/// The path MTUs that were learned in the last ten minutes, by the peer's address.
///
/// What routers said of segments in flight, and nothing else: who can forge that can make the
/// connection slow that it is about, and now also those to the same address, but no other.
#[derive(Debug)]
pub(crate) struct PathMtus {
    entries: Fifo<(IpAddr, u32), 1>,
    by_peer: HashMap<IpAddr, u32>,
}

impl PathMtus {
    pub(crate) fn new() -> Self {
        Self {
            entries: Fifo::new(),
            by_peer: HashMap::new(),
        }
    }

    /// A connection to `peer` has learned that packets of more than `mtu` bytes do not arrive.
    pub(crate) fn learn(&mut self, peer: IpAddr, mtu: u32, now: Time) {
        while let Some(old) = self.entries.first_due(now) {
            self.forget(old);
        }
        match self.by_peer.get(&peer) {
            // It is of before that was learned.
            Some(&entry) if self.entries.get(entry).1 < mtu => return,
            Some(&entry) => self.forget(entry),
            None if self.by_peer.len() >= PEERS_MAX => {
                if let Some(first) = self.entries.first(0) {
                    self.forget(first);
                }
            }
            None => {}
        }
        let entry = self.entries.push(0, now + BELIEVED_FOR, (peer, mtu));
        self.by_peer.insert(peer, entry);
    }

    fn forget(&mut self, entry: u32) {
        if let Some((peer, _)) = self.entries.remove(entry) {
            self.by_peer.remove(&peer);
        }
    }

    /// What the path to `peer` takes, and until when to believe that.
    pub(crate) fn get(&self, peer: IpAddr, now: Time) -> Option<(u32, Time)> {
        if self.by_peer.is_empty() {
            return None;
        }
        let &entry = self.by_peer.get(&peer)?;
        let until = self.entries.due(entry);
        (now < until).then_some((self.entries.get(entry).1, until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> IpAddr {
        IpAddr::from((n as u32 | 0x0a00_0000).to_be_bytes())
    }

    #[test]
    fn what_was_learned_is_believed_for_ten_minutes_and_the_least_of_it() {
        let mut paths = PathMtus::new();
        paths.learn(peer(1), 1400, Time::ZERO);
        paths.learn(peer(1), 1200, Time::from_millis(1000));
        paths.learn(peer(1), 1300, Time::from_millis(2000));
        let until = Time::from_millis(601_000);
        assert_eq!(
            paths.get(peer(1), Time::from_millis(600_999)),
            Some((1200, until))
        );
        assert_eq!(paths.get(peer(2), Time::ZERO), None);
        assert_eq!(paths.get(peer(1), until), None);
        // Then more is believed again.
        paths.learn(peer(1), 1300, until);
        assert_eq!(paths.get(peer(1), until).map(|(mtu, _)| mtu), Some(1300));
    }

    #[test]
    fn many_peers_push_out_those_that_came_first() {
        let mut paths = PathMtus::new();
        for n in 0..2 * PEERS_MAX {
            paths.learn(peer(n), 1300, Time::ZERO);
        }
        assert_eq!(
            (paths.entries.len(), paths.by_peer.len()),
            (PEERS_MAX, PEERS_MAX)
        );
        assert_eq!(paths.get(peer(PEERS_MAX - 1), Time::ZERO), None);
        assert!(paths.get(peer(PEERS_MAX), Time::ZERO).is_some());
        // Time makes room as well.
        paths.learn(peer(0), 1300, Time::from_millis(600_000));
        assert_eq!(paths.by_peer.len(), 1);
    }
}

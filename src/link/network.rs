//! What handles know of their stack's network without asking the reactor.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;

use super::{Doorbell, Ports};
use crate::packet::PACKET_MAX;

/// Length of the header of UDP, and of an ICMP echo.
const HEADER_LEN: usize = 8;

/// The error number of Linux, for which `io::ErrorKind` has no name.
const EMSGSIZE: i32 = 90;

/// The addresses and the MTU of a stack, its UDP ports, and the memory that waiting datagrams hold.
#[derive(Debug)]
pub(crate) struct Network {
    addresses: Box<[IpNet]>,
    mtu: AtomicUsize,
    udp_ports: Arc<Ports>,
    /// Somebody has the socket for any destination.
    any_taken: AtomicBool,
    /// What datagrams hold counts in the budget of the stack.
    bell: Arc<Doorbell>,
    held: AtomicUsize,
}

impl Network {
    /// Nothing is held yet.
    pub(crate) fn new(
        addresses: &[IpNet],
        mtu: usize,
        udp_ports: Arc<Ports>,
        bell: Arc<Doorbell>,
    ) -> Arc<Self> {
        Arc::new(Self {
            addresses: addresses.into(),
            mtu: AtomicUsize::new(mtu),
            udp_ports,
            any_taken: AtomicBool::new(false),
            bell,
            held: AtomicUsize::new(0),
        })
    }

    /// The UDP ports.
    pub(crate) const fn udp_ports(&self) -> &Arc<Ports> {
        &self.udp_ports
    }

    /// Whether it means all hosts of the network, which none of them is called.
    pub(crate) fn is_broadcast_of(net: &IpNet, ip: IpAddr) -> bool {
        match net {
            // RFC 3021: where two addresses are all there is, each is a host's.
            IpNet::V4(net) => net.prefix_len() < 31 && IpAddr::V4(net.broadcast()) == ip,
            IpNet::V6(_) => false,
        }
    }

    /// Whether a datagram or an echo to `peer` fits in one packet: nothing is fragmented.
    ///
    /// # Errors
    /// `EMSGSIZE`: it does not.
    pub(crate) fn check_len(&self, len: usize, peer: IpAddr) -> io::Result<()> {
        let mtu = if self.is_local(peer) {
            PACKET_MAX
        } else {
            self.mtu.load(Ordering::Relaxed)
        };
        check_len(len, peer, mtu)
    }

    /// [engine] The device takes packets of up to `mtu` bytes from now on.
    pub(crate) fn set_mtu(&self, mtu: usize) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Whether packets to this address come back to the stack itself.
    pub(crate) fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.iter().any(|net| net.addr() == ip)
    }

    /// Whether it means many hosts: a multicast or a broadcast address.
    pub(crate) fn is_for_many(&self, ip: IpAddr) -> bool {
        ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) || self.is_broadcast(ip)
    }

    /// Whether it means all hosts of one of our networks.
    pub(crate) fn is_broadcast(&self, ip: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|net| Self::is_broadcast_of(net, ip))
    }

    /// The address from which packets to `peer` are sent: of its network, else the first of its
    /// family.
    pub(crate) fn source_for(&self, peer: IpAddr) -> Option<IpAddr> {
        match peer {
            // As on Linux: any of them is reached from the first.
            IpAddr::V4(ip) if ip.is_loopback() => return Some(Ipv4Addr::LOCALHOST.into()),
            _ if self.is_local(peer) => return Some(peer),
            _ => {}
        }
        let family = |net: &&IpNet| net.addr().is_ipv4() == peer.is_ipv4();
        let mut of_family = self.addresses.iter().filter(family);
        let near = of_family.clone().find(|net| net.contains(&peer));
        near.or_else(|| of_family.next()).map(IpNet::addr)
    }

    /// Takes the socket for any destination; false if somebody has it.
    pub(crate) fn take_any(&self) -> bool {
        !self.any_taken.swap(true, Ordering::AcqRel)
    }

    /// Gives it back.
    pub(crate) fn release_any(&self) {
        self.any_taken.store(false, Ordering::Release);
    }

    /// Accounts for memory that a datagram holds; false if there is no room for it. As with pipes,
    /// all datagrams together may hold a quarter of what others leave.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let max = self.bell.budget().free() / 4;
        let add = |held: usize| held.checked_add(bytes).filter(|held| *held <= max);
        let ordering = Ordering::Relaxed;
        let fits = self.held.fetch_update(ordering, ordering, add).is_ok();
        if fits {
            self.bell.budget().charge(bytes);
        }
        fits
    }

    /// The memory is free again.
    pub(super) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.bell.budget().discharge(bytes);
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// Whether a datagram or an echo to `peer` fits in a packet of `mtu` bytes.
///
/// # Errors
/// `EMSGSIZE`: it does not.
pub(super) fn check_len(len: usize, peer: IpAddr, mtu: usize) -> io::Result<()> {
    let ip_header_len = if peer.is_ipv4() { 20 } else { 40 };
    if len + HEADER_LEN + ip_header_len > mtu.min(PACKET_MAX) {
        return Err(io::Error::from_raw_os_error(EMSGSIZE));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Arc<Network> {
        let addresses: Vec<IpNet> = ["10.7.0.2/24", "10.8.0.2/16", "fd07::2/64"]
            .map(|net| net.parse().unwrap())
            .into();
        let ports = Ports::new(addresses.iter().map(IpNet::addr).collect(), false, 1);
        let bell = Doorbell::new();
        bell.budget().set_limit(1 << 20);
        Network::new(&addresses, 1500, ports, bell)
    }

    #[test]
    fn the_source_is_the_nearest_address() {
        let network = network();
        for (peer, source) in [
            ("10.7.0.9", Some("10.7.0.2")),
            ("10.8.9.9", Some("10.8.0.2")),
            ("1.1.1.1", Some("10.7.0.2")),
            ("10.8.0.2", Some("10.8.0.2")),
            ("127.0.0.9", Some("127.0.0.1")),
            ("fd08::1", Some("fd07::2")),
            ("::1", Some("::1")),
        ] {
            let source = source.map(|ip| ip.parse().unwrap());
            assert_eq!(network.source_for(peer.parse().unwrap()), source, "{peer}");
        }
        let none = Network::new(&[], 1500, network.udp_ports().clone(), Doorbell::new());
        assert_eq!(none.source_for("1.1.1.1".parse().unwrap()), None);
    }

    #[test]
    fn memory_has_a_limit_that_is_the_stacks_and_comes_back() {
        let network = network();
        let (budget, before) = (network.bell.budget(), network.bell.budget().free());
        assert!(network.hold(600) && !network.hold(usize::MAX) && network.hold(400));
        assert_eq!((network.held(), budget.free()), (1000, before - 1000));
        let mut datagrams = 2;
        while network.hold(1000) {
            datagrams += 1;
        }
        assert!(network.held() <= before / 4 && network.held() > before / 6);
        assert!(budget.free() > before / 2, "others have room");
        network.release(1000 * (datagrams - 1));
        assert_eq!((network.held(), budget.free()), (0, before));
    }
}

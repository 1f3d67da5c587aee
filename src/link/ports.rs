//! Which local addresses and ports are taken.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use siphasher::sip::SipHasher13;

/// Where a free port is looked for. Linux: `ip_local_port_range`.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// The local addresses and ports of a stack that are bound, and those that connections use.
///
/// Shared, because binding is synchronous and knows of no reactor.
#[derive(Debug)]
pub(crate) struct Ports {
    addresses: Vec<IpAddr>,
    any_address: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    bound: HashMap<u16, Vec<Bound>>,
    /// By port, and by what the local address hashes to: a stack that answers for any address has as
    /// many on one port as there are servers.
    connections: BTreeMap<(u16, NonZeroU32), Used>,
    /// Keys the sequence of ports that are tried first, so that nobody can foresee it.
    key: u64,
    /// Of binds so far: the name of the next, and the place in that sequence.
    count: u64,
}

/// How connections use a port on one address.
#[derive(Clone, Copy, Debug)]
struct Used {
    count: u32,
    v6: bool,
    /// All of them come from who let others share the port.
    reuse: Reuse,
}

/// Whom one that holds a port shares it with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reuse {
    /// `SO_REUSEADDR`: with those that have it too, unless they listen.
    pub(crate) addr: bool,
    /// `SO_REUSEPORT`: with those that have it too.
    pub(crate) port: bool,
}

impl Reuse {
    /// As a listener of ours does, and Tokio's.
    pub(crate) const ADDR: Self = Self {
        addr: true,
        port: false,
    };

    /// With everybody who shares at all.
    pub(crate) const ALL: Self = Self {
        addr: true,
        port: true,
    };

    /// What both agree to.
    const fn and(self, other: Self) -> Self {
        Self {
            addr: self.addr && other.addr,
            port: self.port && other.port,
        }
    }
}

/// One that holds a port.
#[derive(Clone, Copy, Debug)]
struct Bound {
    id: u64,
    ip: IpAddr,
    reuse: Reuse,
    listening: bool,
}

impl Ports {
    /// Nothing is bound. Only `addresses`, loopback and unspecified ones can be, unless
    /// `any_address` says that the stack serves all there are.
    pub(crate) fn new(addresses: Vec<IpAddr>, any_address: bool, key: u64) -> Arc<Self> {
        Arc::new(Self {
            addresses,
            any_address,
            inner: Mutex::new(Inner {
                bound: HashMap::new(),
                connections: BTreeMap::new(),
                key,
                count: 0,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a local address until the guard is dropped. Port zero picks a free one.
    ///
    /// As on Linux, two that overlap exclude each other, unless both have [`Reuse::port`], or both
    /// have [`Reuse::addr`] and none of them listens. A wildcard overlaps every address of its
    /// family, and `[::]` those of IPv4 too. A connection counts like the one that it comes from,
    /// which need not be there any more, and until its TIME-WAIT is over.
    ///
    /// # Errors
    /// `AddrNotAvailable` if the address is not ours, `AddrInUse` if the port is taken.
    pub(crate) fn bind(
        self: &Arc<Self>,
        addr: SocketAddr,
        reuse: Reuse,
        listening: bool,
    ) -> io::Result<PortGuard> {
        let ip = addr.ip().to_canonical();
        if !self.may_bind(ip) {
            return Err(not_local(ip, &self.addresses));
        }
        let mut inner = self.lock();
        inner.count += 1;
        let bound = Bound {
            id: inner.count,
            ip,
            reuse,
            listening,
        };
        let port = match addr.port() {
            0 => inner.pick(ip).ok_or_else(|| no_port(ip))?,
            port if inner.is_taken(port, &bound) => return Err(in_use(port, ip)),
            port => port,
        };
        inner.bound.entry(port).or_default().push(bound);
        let mut local = addr;
        local.set_port(port);
        Ok(PortGuard {
            ports: Arc::clone(self),
            local,
            id: bound.id,
        })
    }

    fn may_bind(&self, ip: IpAddr) -> bool {
        self.any_address || ip.is_unspecified() || ip.is_loopback() || self.is_local(ip)
    }

    /// Whether the stack was given this address.
    pub(crate) fn is_local(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip.to_canonical())
    }

    /// [engine] Whether anybody has bound this port, on whichever address.
    pub(crate) fn is_bound(&self, port: u16) -> bool {
        self.lock().bound.contains_key(&port)
    }

    /// Whoever has this name holds the port no longer, if he did.
    fn unbind(&self, port: u16, id: u64) {
        let mut inner = self.lock();
        if let Some(bound) = inner.bound.get_mut(&port) {
            bound.retain(|bound| bound.id != id);
            if bound.is_empty() {
                inner.bound.remove(&port);
            }
        }
    }

    /// [engine] A connection uses this port, in whichever state. It shares it with whom those do
    /// that are bound there; where nobody is, that is `unbound`.
    pub(crate) fn connection_opened(&self, local: SocketAddr, unbound: Reuse) {
        let mut inner = self.lock();
        let bound = inner.bound.get(&local.port()).into_iter().flatten();
        let reuse = bound
            .filter(|bound| overlap(bound.ip, local.ip().to_canonical()))
            .map(|bound| bound.reuse)
            .reduce(Reuse::and);
        inner.count_connection(local, reuse.unwrap_or(unbound));
    }

    /// [engine] A connection that uses this port goes on to do so as something else.
    pub(crate) fn connection_lingers(&self, local: SocketAddr) {
        self.lock().count_connection(local, Reuse::ALL);
    }

    /// [engine] It does so no longer.
    pub(crate) fn connection_closed(&self, local: SocketAddr) {
        let mut inner = self.lock();
        let at = (local.port(), inner.hash(local.ip()));
        if let Some(used) = inner.connections.get_mut(&at) {
            used.count -= 1;
            if used.count == 0 {
                inner.connections.remove(&at);
            }
        }
    }
}

impl Inner {
    fn is_taken(&self, port: u16, new: &Bound) -> bool {
        self.is_used(port, new) || self.conflicts(port, new)
    }

    /// How connections use the port, on whichever address.
    fn uses(&self, port: u16) -> impl Iterator<Item = &Used> {
        let all = (port, NonZeroU32::MIN)..=(port, NonZeroU32::MAX);
        self.connections.range(all).map(|(_, used)| used)
    }

    /// Whether connections use the port on that address, and do not share it.
    fn is_used(&self, port: u16, new: &Bound) -> bool {
        let shares = |used: &Used| new.reuse.and(used.reuse) != Reuse::default();
        if new.ip.is_unspecified() {
            let mut all = self.uses(port);
            return all.any(|used| (new.ip.is_ipv6() || !used.v6) && !shares(used));
        }
        let used = self.connections.get(&(port, self.hash(new.ip)));
        used.is_some_and(|used| !shares(used))
    }

    fn count_connection(&mut self, local: SocketAddr, reuse: Reuse) {
        let at = (local.port(), self.hash(local.ip()));
        let used = self.connections.entry(at).or_insert_with(|| Used {
            count: 0,
            v6: local.ip().to_canonical().is_ipv6(),
            reuse,
        });
        used.count += 1;
        used.reuse = used.reuse.and(reuse);
    }

    fn hash(&self, ip: IpAddr) -> NonZeroU32 {
        let mut hasher = SipHasher13::new_with_keys(self.key, !self.key);
        ip.to_canonical().hash(&mut hasher);
        NonZeroU32::new(hasher.finish() as u32).unwrap_or(NonZeroU32::MAX)
    }

    fn conflicts(&self, port: u16, new: &Bound) -> bool {
        let others = self.bound.get(&port).into_iter().flatten();
        others.into_iter().any(|other| new.conflicts(other))
    }

    /// A port in nobody's use. The first that is tried is random, then each in turn.
    fn pick(&self, ip: IpAddr) -> Option<u16> {
        let ports = u64::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        let mut hasher = SipHasher13::new_with_keys(self.key, !self.key);
        hasher.write_u64(self.count);
        let first = hasher.finish() % ports;
        (0..ports)
            .map(|n| EPHEMERAL.start() + ((first + n) % ports) as u16)
            .find(|port| {
                let mut bound = self.bound.get(port).into_iter().flatten();
                self.uses(*port).next().is_none() && !bound.any(|other| overlap(other.ip, ip))
            })
    }
}

impl Bound {
    fn conflicts(&self, other: &Self) -> bool {
        let both = self.reuse.and(other.reuse);
        let shared = both.port || both.addr && !other.listening;
        self.id != other.id && overlap(self.ip, other.ip) && !shared
    }
}

/// Whether a packet could be for both.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |wide: IpAddr, ip: IpAddr| {
        wide == Ipv6Addr::UNSPECIFIED || (wide.is_unspecified() && wide.is_ipv4() == ip.is_ipv4())
    };
    a == b || covers(a, b) || covers(b, a)
}

fn in_use(port: u16, ip: IpAddr) -> io::Error {
    let text = format!("port {port} of {ip} is in use");
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

fn no_port(ip: IpAddr) -> io::Error {
    let (first, last) = EPHEMERAL.into_inner();
    let text = format!("all ports from {first} to {last} of {ip} are in use");
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

fn not_local(ip: IpAddr, addresses: &[IpAddr]) -> io::Error {
    let ours = match addresses {
        [] => "it has none".to_owned(),
        _ => addresses
            .iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let text = format!("{ip} is not an address of this stack ({ours})");
    io::Error::new(io::ErrorKind::AddrNotAvailable, text)
}

/// Holds a local address; dropped, it gives it back.
#[derive(Debug)]
pub(crate) struct PortGuard {
    ports: Arc<Ports>,
    local: SocketAddr,
    id: u64,
}

impl PortGuard {
    /// The address, with the port that was picked.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Gives the address back before the guard does.
    pub(crate) fn release(&self) -> PortRelease {
        PortRelease(Some((Arc::clone(&self.ports), self.local.port(), self.id)))
    }

    /// Whom it is shared with from now on.
    pub(crate) fn set_reuse(&self, reuse: Reuse) {
        let mut inner = self.ports.lock();
        let bound = inner.bound.get_mut(&self.local.port());
        for bound in bound.into_iter().flatten() {
            if bound.id == self.id {
                bound.reuse = reuse;
            }
        }
    }

    /// Goes from bound to listening.
    ///
    /// # Errors
    /// `AddrInUse` if somebody listens there already.
    pub(crate) fn listen(&self) -> io::Result<()> {
        let port = self.local.port();
        let mut inner = self.ports.lock();
        let bound = inner.bound.get(&port).into_iter().flatten();
        let own = bound.copied().find(|bound| bound.id == self.id);
        if own.is_some_and(|own| inner.conflicts(port, &own)) {
            return Err(in_use(port, self.local.ip()));
        }
        for bound in inner.bound.get_mut(&port).into_iter().flatten() {
            bound.listening |= bound.id == self.id;
        }
        Ok(())
    }
}

impl Drop for PortGuard {
    fn drop(&mut self) {
        self.ports.unbind(self.local.port(), self.id);
    }
}

/// Gives a local address back when it is dropped, wherever the guard is by then.
#[derive(Debug)]
pub(crate) struct PortRelease(Option<(Arc<Ports>, u16, u64)>);

impl PortRelease {
    /// Leaves it to the guard.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for PortRelease {
    fn drop(&mut self) {
        if let Some((ports, port, id)) = self.0.take() {
            ports.unbind(port, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Arc<Ports> {
        let addresses = ["10.7.0.2", "10.7.0.3", "fd07::2"].map(|ip| ip.parse().unwrap());
        Ports::new(addresses.into(), false, 7)
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn kind(result: io::Result<PortGuard>) -> Option<io::ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn wildcards_exclude_addresses_of_their_family_and_v6_all() {
        let ports = ports();
        for (held, wanted, conflict) in [
            ("10.7.0.2:80", "10.7.0.2:80", true),
            ("10.7.0.2:80", "10.7.0.2:81", false),
            ("10.7.0.2:80", "10.7.0.3:80", false),
            ("10.7.0.2:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "10.7.0.2:80", true),
            ("0.0.0.0:80", "[fd07::2]:80", false),
            ("0.0.0.0:80", "[::]:80", true),
            ("[::]:80", "10.7.0.2:80", true),
            ("[::]:80", "[fd07::2]:80", true),
            ("[fd07::2]:80", "10.7.0.2:80", false),
            ("[::ffff:10.7.0.2]:80", "10.7.0.2:80", true),
        ] {
            let guard = ports.bind(addr(held), Reuse::default(), true).unwrap();
            let other = ports.bind(addr(wanted), Reuse::default(), true);
            assert_eq!(other.is_err(), conflict, "{held} and {wanted}");
            drop((guard, other));
            assert!(!ports.is_bound(80));
        }
    }

    #[test]
    fn who_shares_a_port_is_decided_by_both_and_by_who_listens() {
        let ports = ports();
        // Whether addresses and ports are shared and whether it listens, of the first and of the
        // second.
        for (first, second, conflict) in [
            ((true, false, false), (true, false, false), false),
            ((true, false, false), (false, false, false), true),
            ((true, false, true), (true, false, true), true),
            ((true, false, true), (true, false, false), true),
            ((true, false, false), (true, false, true), false),
            ((false, true, true), (false, true, true), false),
            ((false, true, true), (true, false, true), true),
            ((true, true, true), (true, true, true), false),
        ] {
            let bind = |(addr_too, port, listening)| {
                let reuse = Reuse {
                    addr: addr_too,
                    port,
                };
                ports.bind(addr("10.7.0.2:80"), reuse, listening)
            };
            let guard = bind(first).unwrap();
            assert_eq!(bind(second).is_err(), conflict, "{first:?} {second:?}");
            drop(guard);
        }
    }

    #[test]
    fn of_two_that_are_bound_one_may_listen() {
        let ports = ports();
        let bind = || ports.bind(addr("10.7.0.2:80"), Reuse::ADDR, false);
        let (first, second) = (bind().unwrap(), bind().unwrap());
        first.listen().unwrap();
        first.listen().unwrap();
        let error = second.listen().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(error.to_string(), "port 80 of 10.7.0.2 is in use");
        drop(first);
        second.listen().unwrap();
    }

    #[test]
    fn an_address_that_is_not_ours_is_refused_with_those_that_are() {
        let error = ports().bind(addr("10.9.9.9:80"), Reuse::default(), true);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(
            error.to_string(),
            "10.9.9.9 is not an address of this stack (10.7.0.2, 10.7.0.3, fd07::2)"
        );
        for ours in ["127.0.0.9:80", "[::1]:80", "0.0.0.0:80", "[::]:80"] {
            ports().bind(addr(ours), Reuse::default(), true).unwrap();
        }
        let any = Ports::new(vec![], true, 7);
        any.bind(addr("10.9.9.9:80"), Reuse::default(), true)
            .unwrap();
        let none = Ports::new(vec![], false, 7);
        let error = none.bind(addr("10.9.9.9:80"), Reuse::default(), true);
        assert!(error.unwrap_err().to_string().ends_with("(it has none)"));
    }

    #[test]
    fn port_zero_picks_what_nobody_uses_until_there_is_nothing_left() {
        let ports = ports();
        ports.connection_opened(addr("10.7.0.2:40000"), Reuse::default());
        let mut guards = Vec::new();
        while let Ok(guard) = ports.bind(addr("10.7.0.2:0"), Reuse::ADDR, false) {
            assert!(EPHEMERAL.contains(&guard.local().port()));
            guards.push(guard);
            if guards.len() == 3 {
                let bind = || ports.bind(addr("10.7.0.2:0"), Reuse::default(), false);
                let port = bind().unwrap().local().port();
                assert_ne!(bind().unwrap().local().port(), port + 1, "not in turn");
                // All but a few are taken by somebody else from here on.
                EPHEMERAL.filter(|port| port % 1000 != 0).for_each(|port| {
                    let local = SocketAddr::from(([10, 7, 0, 3], port));
                    ports.connection_opened(local, Reuse::default());
                });
            }
        }
        let mut picked: Vec<_> = guards.iter().map(|guard| guard.local().port()).collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked.len(), guards.len());
        assert!((27..=31).contains(&picked.len()), "{}", picked.len());
        assert!(!picked.contains(&40_000));
        let full = ports.bind(addr("10.7.0.2:0"), Reuse::ADDR, false);
        assert_eq!(kind(full), Some(io::ErrorKind::AddrInUse));
        let other = ports.bind(addr("10.7.0.3:0"), Reuse::ADDR, false);
        assert!(other.is_ok(), "bound ports of another address are free");
    }

    #[test]
    fn a_port_that_connections_use_is_bound_by_those_that_both_sides_share_it_with() {
        let ports = ports();
        let at = addr("10.7.0.2:80");
        let open = |at| ports.connection_opened(at, Reuse::default());
        let kept = ports.bind(addr("0.0.0.0:80"), Reuse::ADDR, true).unwrap();
        open(at);
        open(at);
        drop(kept);
        ports.connection_lingers(at);
        ports.connection_closed(at);
        ports.connection_closed(at);
        let refused = ports.bind(at, Reuse::default(), true);
        assert_eq!(kind(refused), Some(io::ErrorKind::AddrInUse));
        ports.bind(at, Reuse::ADDR, true).unwrap();
        // On another address nobody uses it, until a connection does, which shares nothing.
        let other = addr("10.7.0.3:80");
        ports.bind(other, Reuse::default(), true).unwrap();
        let any = ports.bind(addr("0.0.0.0:80"), Reuse::default(), true);
        assert_eq!(kind(any), Some(io::ErrorKind::AddrInUse));
        open(other);
        for (at, reuse, free) in [
            (at, Reuse::ADDR, true),
            (other, Reuse::ADDR, false),
            (addr("0.0.0.0:80"), Reuse::ADDR, false),
            (addr("[::]:80"), Reuse::ADDR, false),
            (addr("[fd07::2]:80"), Reuse::default(), true),
        ] {
            assert_eq!(ports.bind(at, reuse, true).is_ok(), free, "{at}");
        }
        ports.connection_closed(other);
        open(addr("[fd07::2]:80"));
        ports.bind(addr("0.0.0.0:80"), Reuse::ADDR, true).unwrap();
        ports.connection_closed(at);
        ports.bind(at, Reuse::default(), true).unwrap();
        // Who is not bound to anything shares with nobody, unless the engine says so.
        ports.connection_opened(at, Reuse::ALL);
        ports.bind(at, Reuse::ADDR, true).unwrap();
    }
}

//! Which local addresses and ports are taken.

use std::{
    collections::HashMap,
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
    connections: HashMap<u16, Used>,
    /// Keys the sequence of ports that are tried first, so that nobody can foresee it.
    key: u64,
    /// Of binds so far: the name of the next, and the place in that sequence.
    count: u64,
}

/// How connections use a port.
#[derive(Clone, Copy, Debug)]
struct Used {
    count: u32,
    /// What all their local addresses hash to: those of a port are nearly always the same. None, if
    /// there were several.
    ip: Option<NonZeroU32>,
}

/// One that holds a port.
#[derive(Clone, Copy, Debug)]
struct Bound {
    id: u64,
    ip: IpAddr,
    reuseaddr: bool,
    reuseport: bool,
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
                connections: HashMap::new(),
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
    /// As on Linux, two that overlap exclude each other, unless both have `reuseport`, or both have
    /// `reuseaddr` and none of them listens. A wildcard overlaps every address of its family, and
    /// `[::]` those of IPv4 too. A port that connections use is free on their address only with one
    /// of the two.
    ///
    /// # Errors
    /// `AddrNotAvailable` if the address is not ours, `AddrInUse` if the port is taken.
    pub(crate) fn bind(
        self: &Arc<Self>,
        addr: SocketAddr,
        reuseaddr: bool,
        reuseport: bool,
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
            reuseaddr,
            reuseport,
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

    /// [engine] A connection uses this port, in whichever state.
    pub(crate) fn connection_opened(&self, local: SocketAddr) {
        let mut inner = self.lock();
        let ip = Some(inner.hash(local.ip()));
        let new = Used { count: 0, ip };
        let used = inner.connections.entry(local.port()).or_insert(new);
        used.count += 1;
        used.ip = used.ip.filter(|_| used.ip == ip);
    }

    /// [engine] It does so no longer.
    pub(crate) fn connection_closed(&self, local: SocketAddr) {
        let mut inner = self.lock();
        match inner.connections.get_mut(&local.port()) {
            Some(used) if used.count > 1 => used.count -= 1,
            _ => {
                inner.connections.remove(&local.port());
            }
        }
    }
}

impl Inner {
    fn is_taken(&self, port: u16, new: &Bound) -> bool {
        let used = self.is_used(port, new.ip) && !new.reuseaddr && !new.reuseport;
        used || self.conflicts(port, new)
    }

    /// Whether connections use the port on that address.
    fn is_used(&self, port: u16, ip: IpAddr) -> bool {
        let theirs = self.connections.get(&port).map(|used| used.ip);
        theirs.is_some_and(|theirs| {
            ip.is_unspecified() || theirs.is_none_or(|theirs| theirs == self.hash(ip))
        })
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
                !self.connections.contains_key(port) && !bound.any(|other| overlap(other.ip, ip))
            })
    }
}

impl Bound {
    fn conflicts(&self, other: &Self) -> bool {
        let shared = self.reuseport && other.reuseport
            || self.reuseaddr && other.reuseaddr && !other.listening;
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
        let mut inner = self.ports.lock();
        if let Some(bound) = inner.bound.get_mut(&self.local.port()) {
            bound.retain(|bound| bound.id != self.id);
            if bound.is_empty() {
                inner.bound.remove(&self.local.port());
            }
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
            let guard = ports.bind(addr(held), false, false, true).unwrap();
            let other = ports.bind(addr(wanted), false, false, true);
            assert_eq!(other.is_err(), conflict, "{held} and {wanted}");
            drop((guard, other));
            assert!(!ports.is_bound(80));
        }
    }

    #[test]
    fn who_shares_a_port_is_decided_by_both_and_by_who_listens() {
        let ports = ports();
        // (reuseaddr, reuseport, listening) of the first and of the second.
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
            let bind = |(reuseaddr, reuseport, listening)| {
                ports.bind(addr("10.7.0.2:80"), reuseaddr, reuseport, listening)
            };
            let guard = bind(first).unwrap();
            assert_eq!(bind(second).is_err(), conflict, "{first:?} {second:?}");
            drop(guard);
        }
    }

    #[test]
    fn of_two_that_are_bound_one_may_listen() {
        let ports = ports();
        let bind = || ports.bind(addr("10.7.0.2:80"), true, false, false);
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
        let error = ports().bind(addr("10.9.9.9:80"), false, false, true);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(
            error.to_string(),
            "10.9.9.9 is not an address of this stack (10.7.0.2, 10.7.0.3, fd07::2)"
        );
        for ours in ["127.0.0.9:80", "[::1]:80", "0.0.0.0:80", "[::]:80"] {
            ports().bind(addr(ours), false, false, true).unwrap();
        }
        let any = Ports::new(vec![], true, 7);
        any.bind(addr("10.9.9.9:80"), false, false, true).unwrap();
        let none = Ports::new(vec![], false, 7);
        let error = none.bind(addr("10.9.9.9:80"), false, false, true);
        assert!(error.unwrap_err().to_string().ends_with("(it has none)"));
    }

    #[test]
    fn port_zero_picks_what_nobody_uses_until_there_is_nothing_left() {
        let ports = ports();
        ports.connection_opened(addr("10.7.0.2:40000"));
        let mut guards = Vec::new();
        while let Ok(guard) = ports.bind(addr("10.7.0.2:0"), true, false, false) {
            assert!(EPHEMERAL.contains(&guard.local().port()));
            guards.push(guard);
            if guards.len() == 3 {
                let bind = || ports.bind(addr("10.7.0.2:0"), false, false, false);
                let port = bind().unwrap().local().port();
                assert_ne!(bind().unwrap().local().port(), port + 1, "not in turn");
                // All but a few are taken by somebody else from here on.
                let mut inner = ports.lock();
                EPHEMERAL.filter(|port| port % 1000 != 0).for_each(|port| {
                    let (count, ip) = (1, None);
                    inner.connections.insert(port, Used { count, ip });
                });
            }
        }
        let mut picked: Vec<_> = guards.iter().map(|guard| guard.local().port()).collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked.len(), guards.len());
        assert!((27..=31).contains(&picked.len()), "{}", picked.len());
        assert!(!picked.contains(&40_000));
        let full = ports.bind(addr("10.7.0.2:0"), true, false, false);
        assert_eq!(kind(full), Some(io::ErrorKind::AddrInUse));
        let other = ports.bind(addr("10.7.0.3:0"), true, false, false);
        assert!(other.is_ok(), "bound ports of another address are free");
    }

    #[test]
    fn a_port_that_connections_use_is_bound_only_with_reuse() {
        let ports = ports();
        let at = addr("10.7.0.2:80");
        ports.connection_opened(at);
        ports.connection_opened(at);
        ports.connection_closed(at);
        let refused = ports.bind(at, false, false, true);
        assert_eq!(kind(refused), Some(io::ErrorKind::AddrInUse));
        ports.bind(at, true, false, true).unwrap();
        // On another address nobody uses it, until a connection does.
        let other = addr("10.7.0.3:80");
        ports.bind(other, false, false, true).unwrap();
        let any = ports.bind(addr("0.0.0.0:80"), false, false, true);
        assert_eq!(kind(any), Some(io::ErrorKind::AddrInUse));
        ports.connection_opened(other);
        for at in [at, other] {
            let refused = ports.bind(at, false, false, true);
            assert_eq!(kind(refused), Some(io::ErrorKind::AddrInUse));
        }
        ports.connection_closed(other);
        ports.connection_closed(at);
        ports.connection_closed(at);
        ports.bind(at, false, false, true).unwrap();
    }
}

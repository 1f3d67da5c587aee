//! The few rtnetlink requests that set an interface up.

#![expect(unsafe_code, reason = "system calls that std does not have")]

use std::{
    fs::File,
    io::{self, Read, Write},
    net::IpAddr,
    os::fd::{FromRawFd, OwnedFd},
};

use ipnet::IpNet;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const FLAGS: u16 = 0x1 | 0x4 | 0x100 | 0x400; // REQUEST | ACK | REPLACE | CREATE
const LINK_MTU: u16 = 4;
const LINK_TX_QUEUE_LEN: u16 = 13;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const NO_DAD: u8 = 0x02;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_TYPE: usize = HEADER + 7;
const ROUTE_LOCAL: u8 = 2;
const ERROR: u16 = 2;
const HEADER: usize = 16;

/// A netlink socket in the network namespace of the thread that made it.
pub(super) struct RtNetlink(File);

impl RtNetlink {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Sets what is given, and switches the interface on if `up`.
    pub(super) fn set_link(
        &mut self,
        index: u32,
        mtu: Option<u32>,
        tx_queue_len: Option<u32>,
        up: bool,
    ) -> io::Result<()> {
        let up = u32::from(up) * libc::IFF_UP as u32;
        let mut body = vec![0; 4]; // Family, padding, type.
        body.extend(index.to_ne_bytes());
        body.extend(up.to_ne_bytes()); // Flags.
        body.extend(up.to_ne_bytes()); // Which of them are set.
        for (kind, value) in [(LINK_MTU, mtu), (LINK_TX_QUEUE_LEN, tx_queue_len)] {
            if let Some(value) = value {
                attribute(&mut body, kind, &value.to_ne_bytes());
            }
        }
        // A link that is there is meant, none is to be made.
        self.request(NEW_LINK, FLAGS & !0x500, &body)
    }

    /// Gives the interface an address and, with it, a route to the network.
    pub(super) fn add_address(&mut self, index: u32, net: IpNet) -> io::Result<()> {
        let (family, octets) = match net {
            IpNet::V4(net) => (libc::AF_INET, net.addr().octets().to_vec()),
            IpNet::V6(net) => (libc::AF_INET6, net.addr().octets().to_vec()),
        };
        // The only other host on the link is ours: nothing to detect.
        let flags = if family == libc::AF_INET6 { NO_DAD } else { 0 };
        let mut body = vec![family as u8, net.prefix_len(), flags, 0];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, LOCAL, &octets);
        attribute(&mut body, ADDRESS, &octets);
        self.request(NEW_ADDRESS, FLAGS, &body)
    }

    /// Whether the kernel takes packets to this address for its own.
    pub(super) fn is_local(&mut self, address: IpAddr) -> io::Result<bool> {
        let (family, octets) = match address {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let mut body = vec![0; 12];
        body[0] = family as u8;
        body[1] = octets.len() as u8 * 8;
        attribute(&mut body, ROUTE_DESTINATION, &octets);
        let mut answer = [0; 4096];
        let len = self.exchange(GET_ROUTE, FLAGS & !0x504, &body, &mut answer)?;
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        // An error says that there is no route at all.
        Ok(len > ROUTE_TYPE && kind == NEW_ROUTE && answer[ROUTE_TYPE] == ROUTE_LOCAL)
    }

    /// Removes an interface.
    #[cfg(test)]
    pub(super) fn delete_link(&mut self, name: &str) -> io::Result<()> {
        let mut body = vec![0; 16];
        attribute(&mut body, 3, format!("{name}\0").as_bytes());
        self.request(17, FLAGS & !0x500, &body)
    }

    /// Sends one request and waits until it is acknowledged.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut answer = [0; 4096];
        let len = self.exchange(kind, flags, body, &mut answer)?;
        match answer[..len] {
            [_, _, _, _, a, b, ..] if u16::from_ne_bytes([a, b]) == ERROR && len >= HEADER + 4 => {
                let error = &answer[HEADER..HEADER + 4];
                match i32::from_ne_bytes([error[0], error[1], error[2], error[3]]) {
                    0 => Ok(()),
                    error => Err(io::Error::from_raw_os_error(-error)),
                }
            }
            _ => Err(io::Error::other(
                "the kernel's rtnetlink answer makes no sense",
            )),
        }
    }

    /// Sends one request and waits for its answer, whose length it returns.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        answer: &mut [u8],
    ) -> io::Result<usize> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]); // Sequence number, sender.
        message.extend(body);
        // An unconnected netlink socket talks to the kernel.
        self.0.write_all(&message)?;
        self.0.read(answer)
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

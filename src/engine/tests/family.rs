//! The same scripts over IPv4 and over IPv6.

use std::net::SocketAddr;

use super::{
    pair::pattern,
    raw::{self, ACK},
    script::Script,
};
use crate::config::Config;

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// What a router may say of a packet of ours.
#[derive(Clone, Copy, Debug)]
pub(super) enum Complaint {
    Host,
    Port,
    TimeExceeded,
    TooBig(u32),
    /// Type and code.
    Other(u8, u8),
}

impl Family {
    pub(super) fn of(s: &Script) -> Self {
        match s.local {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }

    pub(super) fn script(self) -> Script {
        let mut s = Script::new(Config::default());
        if self == Self::V6 {
            s.local = "[fd00::1]:8080".parse().unwrap();
            s.peer = "[2001:db8::1]:49152".parse().unwrap();
        }
        s
    }

    pub(super) fn listening(self) -> Script {
        let mut s = self.script();
        s.listener = Some(s.engine.listen(s.local, 16).unwrap());
        s
    }

    /// The peer takes segments as long as the MTU allows.
    pub(super) fn accepted(self) -> Script {
        let mut s = self.listening();
        let mss = self.mss();
        s.recv(&format!(
            "S 0:0(0) win 65535 <mss {mss},sackOK,nop,wscale 0>"
        ));
        s.sent("S. 0:0(0) ack 1");
        s.recv(". 1:1(0) ack 1 win 65535");
        s.silence();
        s.accept();
        s
    }

    /// What fits in an MTU of 1500.
    pub(super) const fn mss(self) -> u16 {
        1480 - self.header_len() as u16
    }

    pub(super) const fn header_len(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// A segment as a packet, whatever it says.
    pub(super) fn packet(src: SocketAddr, dst: SocketAddr, segment: &[u8]) -> Vec<u8> {
        if src.is_ipv4() {
            raw::ipv4(raw::v4(src), raw::v4(dst), 6, segment)
        } else {
            raw::ipv6(raw::v6(src), raw::v6(dst), 6, segment)
        }
    }
}

/// A data segment of ten bytes for an accepted connection.
pub(super) fn data(s: &Script) -> raw::Tcp {
    let mut seg = raw::Tcp::from_peer(s, ACK, 1);
    seg.ack = s.iss().wrapping_add(1);
    seg.payload = pattern(0, 10);
    seg
}

/// The connection still takes its next bytes.
#[track_caller]
pub(super) fn lives(s: &mut Script) {
    s.silence();
    let seg = data(s);
    s.recv_packet(seg.packet());
    s.sent(". 1:1(0) ack 11");
    assert_eq!(s.read().unwrap(), pattern(0, 10));
}

/// A segment of ours with this number, full-sized.
pub(super) fn ours(s: &Script, seq: u32) -> Vec<u8> {
    let mut about = raw::Tcp::from_peer(s, ACK, 0);
    (about.src, about.dst, about.seq) = (s.local, s.peer, s.iss().wrapping_add(seq));
    about.payload = vec![0; Family::of(s).mss().into()];
    about.bytes()
}

/// A router's error about it.
pub(super) fn complain(s: &mut Script, complaint: Complaint, seq: u32) {
    let about = ours(s, seq);
    let bytes = match Family::of(s) {
        Family::V4 => {
            let (kind, code, rest) = match complaint {
                Complaint::Host => (3, 1, 0),
                Complaint::Port => (3, 3, 0),
                Complaint::TimeExceeded => (11, 0, 0),
                Complaint::TooBig(mtu) => (3, 4, mtu),
                Complaint::Other(kind, code) => (kind, code, 0),
            };
            raw::icmp_error(raw::v4(s.local), kind, code, rest, &about)
        }
        Family::V6 => {
            let (kind, code, rest) = match complaint {
                Complaint::Host => (1, 3, 0),
                Complaint::Port => (1, 4, 0),
                Complaint::TimeExceeded => (3, 0, 0),
                Complaint::TooBig(mtu) => (2, 0, mtu),
                Complaint::Other(kind, code) => (kind, code, 0),
            };
            raw::icmpv6_error(raw::v6(s.local), kind, code, rest, &about)
        }
    };
    s.recv_packet(raw::packet(&bytes));
}

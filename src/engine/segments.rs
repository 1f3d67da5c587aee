//! From packets to connections: what is checked before, and what answers when there is none.

use std::{net::IpAddr, time::Instant};

use crate::{
    engine::{
        Engine,
        demux::{FourTuple, Target},
        slots::Slot,
    },
    info::Counters,
    link::Reuse,
    packet::{Packet, Payload},
    tcp::{Segment, handshake::Progress, time_wait::Reaction},
    time::Time,
    wire::{
        Malformed, icmp,
        ip::{self, IpHeader},
        protocol,
        tcp::{Flags, TcpHeader},
    },
};

impl Engine {
    /// A packet from the device.
    ///
    /// ```
    /// # use std::{collections::VecDeque, time::Instant};
    /// # use synack::{config::Config, engine::Engine};
    /// # let now = Instant::now();
    /// # let mut server = Engine::new(Config::default(), &["10.0.0.1/24".parse()?], 1500, now);
    /// # let mut client = Engine::new(Config::default(), &["10.0.0.2/24".parse()?], 1500, now);
    /// # let exchange = |one: &mut Engine, other: &mut Engine| for _ in 0..9 {
    /// #     let mut packets = VecDeque::new();
    /// #     one.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| other.on_packet(packet, now));
    /// #     other.poll_packet(now, 64, &mut packets);
    /// #     packets.drain(..).for_each(|packet| one.on_packet(packet, now));
    /// # };
    /// # use synack::packet::{Meta, Packet};
    /// // Whatever comes from the network: what is damaged or not for us is dropped and counted.
    /// server.on_packet(Packet::received(vec![0x45; 20].into(), Meta::default()), now);
    /// assert_eq!(server.counters().packets_received, 1);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_packet(&mut self, mut packet: Packet, now: Instant) {
        let now = self.tick(now);
        self.counters.packets_received += 1;
        let ip = match ip::parse(packet.first(), packet.len()) {
            Ok(ip) => ip,
            Err(reason) => {
                count(&mut self.counters, reason);
                return self.report_headers(&packet, now);
            }
        };
        if self.is_martian(ip.src) {
            self.counters.drop_martian += 1;
        } else if !self.takes(&ip) {
            self.counters.drop_not_ours += 1;
        } else if ip.fragment.is_some() {
            self.counters.drop_fragment += 1;
        } else {
            self.on_transport(&mut packet, &ip, now);
        }
    }

    /// Tells the sender of a packet to us that its headers ask for what we do not know.
    fn report_headers(&mut self, packet: &Packet, now: Time) {
        let problem = ip::problem(packet.first(), packet.len());
        if let Some((ip, problem)) = problem.filter(|(ip, _)| !self.is_martian(ip.src))
            && self.takes(&ip)
        {
            self.report(packet, &ip, icmp::Report::Header(problem), now);
        }
    }

    /// Our own address never comes in from outside (threat: LAND), and loopback neither.
    fn is_martian(&self, src: IpAddr) -> bool {
        ip::is_martian_source(src) || self.is_ours(src) || self.network.is_broadcast(src)
    }

    /// Whether a packet is for us: for one of our addresses, or of a protocol of which we end all.
    fn takes(&self, ip: &IpHeader) -> bool {
        let any = match ip.protocol {
            protocol::TCP => self.incoming.any_destination,
            protocol::UDP => self.udp.takes_any(),
            _ => false,
        };
        ip::is_unicast_destination(ip.dst)
            && (self.is_ours(ip.dst) || any && !self.network.is_broadcast(ip.dst))
    }

    /// A packet that we sent to ourselves.
    pub(super) fn on_looped(&mut self, mut packet: Packet, now: Time) {
        match ip::parse(packet.first(), packet.len()) {
            Ok(ip) => self.on_transport(&mut packet, &ip, now),
            Err(reason) => count(&mut self.counters, reason),
        }
    }

    fn on_transport(&mut self, packet: &mut Packet, ip: &IpHeader, now: Time) {
        match (ip.protocol, ip.dst) {
            (protocol::TCP, _) => self.on_tcp(packet, ip, now),
            (protocol::UDP, _) => self.on_datagram(packet, ip, now),
            (protocol::ICMP, IpAddr::V4(_)) | (protocol::ICMPV6, IpAddr::V6(_)) => {
                self.on_icmp(packet, ip, now)
            }
            (protocol::NONE, IpAddr::V6(_)) => self.counters.drop_protocol += 1,
            _ => {
                self.counters.drop_protocol += 1;
                self.report(packet, ip, icmp::Report::Protocol, now);
            }
        }
    }

    fn on_tcp(&mut self, packet: &mut Packet, ip: &IpHeader, now: Time) {
        let header = match TcpHeader::of(packet, ip) {
            Ok(header) => header,
            Err(reason) => return count(&mut self.counters, reason),
        };
        if header.src_port == 0 || header.dst_port == 0 {
            self.counters.drop_bad_flags += 1;
            return;
        }
        self.counters.segments_received += 1;
        let gso_size = u32::from(packet.meta.gso_size);
        let payload_at = ip.header_len + header.header_len;
        let len = ip.total_len.saturating_sub(payload_at) as u32;
        let payload = if len > 0 {
            packet.take_payload(payload_at, ip.total_len)
        } else {
            Payload::new()
        };
        let count = if gso_size > 0 {
            len.div_ceil(gso_size).max(1)
        } else {
            1
        };
        let mut seg = Segment {
            header,
            payload,
            len,
            count,
            ce: ip.tos & 3 == 3,
            ect: ip.tos & 3 != 0,
        };
        let tuple = FourTuple::new(
            (ip.dst, header.dst_port).into(),
            (ip.src, header.src_port).into(),
        );
        match self.receiver(&tuple) {
            Some(Target::Slot(index)) => self.on_slot_segment(index, &mut seg, now),
            Some(Target::HalfOpen(entry)) => self.in_syn_received(entry, seg, now),
            Some(Target::TimeWait(record)) => self.in_time_wait(record, tuple, seg, now),
            None if seg.header.flags.has(Flags::RST) => self.counters.drop_no_socket += 1,
            None => match self.listener_for(&tuple) {
                Some(listener) => self.in_listen(listener, tuple, seg, now),
                None if self.offer(tuple, &seg, now) => {}
                None => {
                    self.counters.drop_no_socket += 1;
                    self.reset(&tuple, &seg, now);
                }
            },
        }
    }

    /// A segment for an opening or a connection.
    pub(super) fn on_slot_segment(&mut self, index: u32, seg: &mut Segment, now: Time) {
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        match &mut entry.slot {
            Slot::Open(connection) => {
                let _logged = entry.tuple.logged();
                connection.on_segment(seg, &mut context!(self, now));
                if !std::mem::replace(&mut entry.ready, true) {
                    self.ready.push_back(index);
                }
            }
            Slot::Opening(opening) => {
                let progress = opening.on_segment(seg, &mut context!(self, now));
                self.progress(index, progress, Some(seg), now);
            }
            Slot::Undecided(_) => self.in_undecided(index, seg),
            Slot::Idle(_) | Slot::Listener(_) | Slot::Done(_) => {}
        }
    }

    /// What a segment, a timeout or an ICMP error has made of an opening.
    pub(super) fn progress(
        &mut self,
        index: u32,
        progress: Progress,
        seg: Option<&mut Segment>,
        now: Time,
    ) {
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        let tuple = entry.tuple;
        match progress {
            Progress::Wait => self.settle(index),
            Progress::Reset => {
                self.settle(index);
                if let Some(seg) = seg {
                    self.reset(&tuple, seg, now);
                }
            }
            Progress::Failed => self.finish_opening(index),
            Progress::Established(connection) => {
                let link = std::sync::Arc::clone(&connection.link);
                let passive = matches!(&entry.slot, Slot::Opening(opening) if opening.passive);
                let shift = connection.send_shift();
                entry.slot = Slot::Open(connection);
                if entry.bound.is_some() {
                    self.ports.connection_opened(tuple.local(), Reuse::ADDR);
                }
                self.deadlines.set(index, None);
                link.set_connected(tuple.local(), passive, &mut self.wakes);
                tracing::debug!(local = %tuple.local(), peer = %tuple.peer(), "connected");
                // Text and FIN may ride on the SYN-ACK (RFC 9293 §3.10.7.3), and on the last ACK.
                let syn = |seg: &Segment| seg.header.flags.has(Flags::SYN);
                let carries = |seg: &Segment| seg.len > 0 || seg.header.flags.has(Flags::FIN);
                if let Some(seg) = seg.filter(|seg| !syn(seg) || carries(seg)) {
                    if syn(seg) {
                        seg.header.flags = seg.header.flags.without(Flags::SYN);
                        seg.header.seq += 1;
                        // A SYN's window is not scaled, and this one will be (RFC 7323 §2.2).
                        seg.header.wnd >>= shift;
                    }
                    self.on_slot_segment(index, seg, now);
                }
                self.look(index, now);
            }
        }
    }

    pub(super) fn on_slot_timeout(&mut self, index: u32, now: Time) {
        let Some(entry) = self.slots.get_mut(index) else {
            return;
        };
        match &mut entry.slot {
            Slot::Open(connection) => {
                let _logged = entry.tuple.logged();
                connection.on_timeout(&mut context!(self, now));
                self.settle(index);
            }
            Slot::Opening(opening) => {
                let progress = opening.on_timeout(&mut context!(self, now));
                self.progress(index, progress, None, now);
            }
            Slot::Undecided(undecided) if undecided.deadline <= now => {
                self.counters.timed_out += 1;
                drop(self.remove_slot(index));
            }
            Slot::Undecided(_) | Slot::Idle(_) | Slot::Listener(_) | Slot::Done(_) => {}
        }
    }

    /// RFC 9293 §3.10.7.4 for TIME-WAIT, RFC 1337, RFC 6191.
    fn in_time_wait(&mut self, record: u32, tuple: FourTuple, seg: Segment, now: Time) {
        let waiting = &mut self.time_wait.get_mut(record).record;
        match waiting.on_segment(&seg, now) {
            Reaction::Drop => self.counters.drop_no_socket += 1,
            Reaction::Acknowledge { restart } => {
                let header = waiting.acknowledgement(now);
                let may_answer = waiting.may_answer(&seg, now);
                if restart {
                    self.time_wait
                        .move_to(record, 0, now + self.config.time_wait);
                }
                // Data and FIN make no loop of acknowledgements.
                let harmless = seg.seq_len() > 0 && !seg.header.flags.has(Flags::SYN);
                if may_answer && (harmless || self.limits.acks.allows(now, &mut self.rng)) {
                    let options = self.config.options;
                    self.send(tuple, header, &options);
                } else {
                    self.counters.limited += 1;
                }
            }
            Reaction::Reuse => {
                let (iss, header) = (waiting.next_iss(), waiting.acknowledgement(now));
                let Some(listener) = self.listener_for(&tuple) else {
                    return self.acknowledge_for(tuple, header, now);
                };
                if self.is_backlogged(listener) {
                    self.counters.drop_accept_queue += 1;
                    return;
                }
                self.forget_time_wait(record);
                self.take_syn(listener, tuple, &seg, iss, now);
            }
        }
    }

    /// An acknowledgement for what is no connection any more.
    fn acknowledge_for(&mut self, tuple: FourTuple, header: TcpHeader, now: Time) {
        if self.limits.acks.allows(now, &mut self.rng) {
            let options = self.config.options;
            self.send(tuple, header, &options);
        } else {
            self.counters.limited += 1;
        }
    }

    fn is_backlogged(&self, listener: u32) -> bool {
        match self.slots.get(listener).map(|entry| &entry.slot) {
            Some(Slot::Listener(listener)) => listener.link.is_full(),
            _ => true,
        }
    }

    pub(super) fn reset_unless_rst(&mut self, tuple: &FourTuple, seg: &Segment, now: Time) {
        if !seg.header.flags.has(Flags::RST) {
            self.reset(tuple, seg, now);
        }
    }

    /// RFC 9293 §3.5.2, group 1 and 2: a reset that the peer must believe.
    pub(super) fn reset(&mut self, tuple: &FourTuple, seg: &Segment, now: Time) {
        if !self.config.reset_closed_ports {
            return;
        }
        if !self.is_allowed(|limits| &mut limits.resets, tuple.peer().ip(), now) {
            return;
        }
        let mut header = TcpHeader {
            flags: Flags::RST,
            ..TcpHeader::default()
        };
        match seg.header.ack {
            Some(ack) => header.seq = ack,
            None => {
                header.flags = Flags::RST | Flags::ACK;
                header.ack = Some(seg.header.seq + seg.seq_len());
            }
        }
        let options = self.config.options;
        if self.send(*tuple, header, &options) {
            self.counters.resets_sent += 1;
        }
    }
}

/// Counts a malformed packet by its reason.
pub(super) fn count(counters: &mut Counters, reason: Malformed) {
    let counter = match reason {
        Malformed::IpChecksum => &mut counters.drop_ip_checksum,
        Malformed::TcpTruncated | Malformed::DataOffset => &mut counters.drop_malformed_tcp,
        Malformed::TcpChecksum => &mut counters.drop_tcp_checksum,
        Malformed::UdpTruncated | Malformed::UdpLength => &mut counters.drop_malformed_udp,
        Malformed::UdpChecksum => &mut counters.drop_udp_checksum,
        Malformed::IcmpTruncated | Malformed::IcmpChecksum | Malformed::IcmpQuote => {
            &mut counters.drop_icmp
        }
        _ => &mut counters.drop_malformed_ip,
    };
    *counter += 1;
}

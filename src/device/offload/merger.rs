//! Merges segments that were received one after the other.

use std::collections::VecDeque;

use super::buffer::Buffer;
use crate::{
    checksum::sum_packet,
    device::{
        headers::{Ip, Tcp},
        run::Run,
    },
    packet::{Checksum, Packet},
};

/// Flows that are merged at one time; the next one closes the oldest.
const FLOWS_MAX: usize = 8;

/// Merges consecutive segments of one flow within a batch.
#[derive(Debug, Default)]
pub(super) struct Merger {
    /// Flows that the next segment may continue.
    open: VecDeque<Chain>,
    /// Runs of more than one segment that nothing can continue.
    closed: Vec<Chain>,
    /// One for each packet of the batch.
    links: Vec<Link>,
}

/// A packet's place in a run.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The packet that continues it.
    next: Option<usize>,
    /// It continues another one and is no packet of its own any more.
    merged: bool,
}

/// A run, and where it is in the batch.
#[derive(Debug)]
struct Chain {
    flow: [u8; 36],
    first: usize,
    last: usize,
    run: Run,
}

impl Merger {
    /// Merges what it can of `packets[start..]`. Packets of one flow stay in their order.
    pub(super) fn merge(&mut self, packets: &mut Vec<Packet>, start: usize, buffer: &mut Buffer) {
        self.links.clear();
        self.links.resize(packets.len(), Link::default());
        for index in start..packets.len() {
            if let Some(tcp) = Tcp::of(&packets[index]) {
                self.add(packets, index, tcp);
            }
        }
        while !self.open.is_empty() {
            self.close(0);
        }
        if self.closed.is_empty() {
            return;
        }
        for chain in self.closed.drain(..) {
            packets[chain.first] = build(&chain, packets, &self.links, buffer);
        }
        let mut links = self.links.iter();
        packets.retain(|_| links.next().is_none_or(|link| !link.merged));
    }

    /// Lets a segment continue the run of its flow, or begin one, or end it.
    fn add(&mut self, packets: &mut [Packet], index: usize, tcp: Tcp) {
        let flow = flow_of(packets[index].first(), tcp.ip);
        let at = self.open.iter().position(|chain| chain.flow == flow);
        let Some(run) = begin(&mut packets[index], tcp) else {
            if let Some(at) = at {
                self.close(at);
            }
            return;
        };
        if let Some(at) = at {
            let chain = &mut self.open[at];
            let (first, header) = (packets[chain.first].first(), packets[index].first());
            let continues = chain.run.push(first, header, &run);
            if continues {
                self.links[chain.last].next = Some(index);
                self.links[index].merged = true;
                chain.last = index;
            }
            // What ends a run need not be part of it.
            if !continues || chain.run.has_ended() {
                self.close(at);
            }
            if continues {
                return;
            }
        }
        if run.has_ended() {
            return;
        }
        if self.open.len() == FLOWS_MAX {
            self.close(0);
        }
        self.open.push_back(Chain {
            flow,
            first: index,
            last: index,
            run,
        });
    }

    fn close(&mut self, at: usize) {
        if let Some(chain) = self.open.remove(at)
            && chain.first != chain.last
        {
            self.closed.push(chain);
        }
    }
}

/// Addresses and ports, as they stand in the packet.
pub(super) fn flow_of(header: &[u8], ip: Ip) -> [u8; 36] {
    let mut flow = [0; 36];
    if ip.v6 {
        flow[..32].copy_from_slice(&header[8..40]);
    } else {
        flow[..8].copy_from_slice(&header[12..20]);
    }
    flow[32..].copy_from_slice(&header[ip.header_len..ip.header_len + 4]);
    flow
}

/// A run of one, if the packet may be part of one and is undamaged.
fn begin(packet: &mut Packet, tcp: Tcp) -> Option<Run> {
    if packet.meta.gso_size > 0 {
        return None;
    }
    let run = Run::begin(packet.first(), tcp)?;
    if packet.meta.checksum == Checksum::Complete {
        let at = tcp.ip.header_len;
        let pseudo = tcp.ip.pseudo_header(packet.first(), tcp.ip.total_len - at);
        if !sum_packet(packet, at..tcp.ip.total_len, pseudo).is_valid() {
            return None;
        }
        packet.meta.checksum = Checksum::Verified;
    }
    Some(run)
}

/// The super-packet that a run is, with the headers of its first segment.
fn build(chain: &Chain, packets: &[Packet], links: &[Link], buffer: &mut Buffer) -> Packet {
    let Tcp { ip, header_len } = chain.run.tcp();
    buffer.reserve(chain.run.total_len());
    let mut index = chain.first;
    let (mut from, mut to) = (0, ip.total_len);
    loop {
        packets[index]
            .slices(from..to)
            .for_each(|slice| buffer.block.extend_from_slice(slice));
        let Some(next) = links[index].next else {
            break;
        };
        index = next;
        from = header_len;
        to = Tcp::of(&packets[index]).map_or(from, |tcp| tcp.ip.total_len);
    }
    let meta = chain.run.finish(&mut buffer.block);
    buffer.finish(meta)
}

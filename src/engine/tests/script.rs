//! Segment scripts: this in, that out, at this time.
//!
//! Segments are written as packetdrill writes them: `FLAGS SEQ:END(LEN) ack ACK win WND <OPTIONS>`,
//! where flags are of `SFRPEWU.` (a dot is ACK), numbers count from either side's initial sequence
//! number, and options are `mss N`, `wscale N`, `sackOK`, `TS val N ecr N` and `sack A:B C:D`. In
//! what is expected, everything behind the sequence numbers may be left out, and then may be
//! anything.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::pair::pattern;
use crate::{
    config::{Config, Congestion, SocketOptions},
    engine::{ConnId, Engine},
    info::{Counters, State, TcpInfo},
    packet::{Meta, Packet, Payload},
    seq::SeqNum,
    wire::{
        ip::{self, IpEmit},
        options::{TcpOptions, Timestamps},
        tcp::{self, Flags, TcpHeader},
    },
};

/// The peer's initial sequence number, unless the script sets another.
pub(super) const PEER_ISN: u32 = 0xffff_fff0;

/// One engine, driven by hand.
pub(super) struct Script {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    start: Instant,
    sent: VecDeque<Packet>,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Our initial sequence number, from the first SYN that we sent.
    iss: Option<SeqNum>,
    pub(super) peer_isn: u32,
    /// Added to what TSval the script expects, from the first timestamp that we sent.
    ts_base: Option<u32>,
    pub(super) id: Option<ConnId>,
    pub(super) listener: Option<ConnId>,
    /// Shows data that goes out in one go as one segment: how large its segments are depends on the
    /// rate.
    merges: bool,
}

/// A segment that was sent, in the script's numbers.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) text: String,
    pub(super) header: TcpHeader,
    pub(super) payload: Vec<u8>,
    pub(super) gso_size: u16,
    pub(super) tos: u8,
    pub(super) ttl: u8,
}

impl Script {
    pub(super) fn new(config: Config) -> Self {
        Self::with_mtu(config, 1500)
    }

    pub(super) fn with_mtu(mut config: Config, mtu: usize) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "where virtual time begins is of no matter"
        )]
        let now = Instant::now();
        config.seed(1);
        let nets = [
            "192.168.0.1/16".parse().unwrap(),
            "fd00::1/64".parse().unwrap(),
        ];
        Self {
            engine: Engine::new(config, &nets, mtu, now),
            now,
            start: now,
            sent: VecDeque::new(),
            local: "192.168.0.1:8080".parse().unwrap(),
            peer: "192.0.2.1:49152".parse().unwrap(),
            iss: None,
            peer_isn: PEER_ISN,
            ts_base: None,
            id: None,
            listener: None,
            merges: false,
        }
    }

    /// A listener on `local`.
    pub(super) fn listening(config: Config, backlog: usize) -> Self {
        let mut script = Self::new(config);
        script.listener = Some(script.engine.listen(script.local, backlog).unwrap());
        script
    }

    /// Accepted: the peer has opened with MSS 1000, SACK, a window of 65,535 that is not scaled and
    /// no timestamps, and has received nothing but the SYN-ACK.
    pub(super) fn accepted(config: Config) -> Self {
        Self::accepted_with(config, "mss 1000,sackOK,nop,wscale 0", 65_535)
    }

    pub(super) fn accepted_with(config: Config, options: &str, window: u16) -> Self {
        let mut script = Self::listening(config, 16);
        script.recv(&format!("S 0:0(0) win {window} <{options}>"));
        script.sent("S. 0:0(0) ack 1");
        let ts = if options.contains("TS") {
            " <TS val 100 ecr 0>"
        } else {
            ""
        };
        script.recv(&format!(". 1:1(0) ack 1 win {window}{ts}"));
        script.silence();
        script.accept();
        script
    }

    /// As [`accepted_with`](Self::accepted_with), over a round trip of `rtt` milliseconds, and with
    /// congestion control as plain as it can be: MSS 1000, cwnd 10,000, SRTT `rtt`, RTO three times
    /// that, but `rtt` and 200 ms at least.
    pub(super) fn distant(mut config: Config, options: &str, rtt: u64) -> Self {
        let socket = SocketOptions {
            congestion: Congestion::Reno,
            ..config.options
        };
        config.options(socket);
        let mut script = Self::listening(config, 16);
        script.merges = true;
        script.recv(&format!("S 0:0(0) win 65535 <mss 1000,{options}>"));
        script.sent("S. 0:0(0) ack 1");
        script.wait_ms(rtt);
        let ts = if options.contains("TS") {
            " <TS val 100 ecr 0>"
        } else {
            ""
        };
        script.recv(&format!(". 1:1(0) ack 1 win 65535{ts}"));
        script.silence();
        script.accept();
        script
    }

    /// An acknowledgement without data, of everything before `ack`, with these options.
    pub(super) fn acked(&mut self, ack: u32, options: &str) {
        self.recv(&format!(". 1:1(0) ack {ack} win 65535 <{options}>"));
    }

    /// cwnd, ssthresh and bytes in flight.
    pub(super) fn windows(&self) -> (u32, u32, u64) {
        let info = self.info();
        (info.cwnd, info.ssthresh, info.in_flight)
    }

    pub(super) fn accept(&mut self) -> ConnId {
        let listener = self.listener.expect("the script listens");
        let (id, _) = self
            .engine
            .accept(listener)
            .expect("a connection is in the accept queue");
        self.id = Some(id);
        id
    }

    /// Connecting: the SYN is to be sent.
    pub(super) fn connecting(config: Config) -> Self {
        let mut script = Self::new(config);
        script.connect();
        script
    }

    pub(super) fn connect(&mut self) -> ConnId {
        let id = self.engine.connect(self.peer, self.now).unwrap();
        self.id = Some(id);
        self.collect();
        let first = self.sent.back().expect("a SYN").clone();
        let ip = ip::parse(first.first(), first.len()).unwrap();
        let header = TcpHeader::of(&first, &ip).unwrap();
        self.local = SocketAddr::new(ip.src, header.src_port);
        id
    }

    pub(super) fn id(&self) -> ConnId {
        self.id.expect("the script has a connection")
    }

    /// Our initial sequence number, as on the wire.
    pub(super) fn iss(&self) -> u32 {
        self.iss.expect("a SYN was sent").raw()
    }

    /// Which of several connections the numbers are of: the one with this number of ours.
    pub(super) fn set_iss(&mut self, iss: u32) {
        self.iss = Some(SeqNum::new(iss));
    }

    pub(super) fn state(&self) -> Option<State> {
        self.engine.state(self.id())
    }

    /// Sockets in this state.
    pub(super) fn count(&self, state: State) -> usize {
        let infos = self.engine.sockets(self.now);
        infos.iter().filter(|info| info.state == state).count()
    }

    /// What came is challenged, and nothing else; the next challenge may be sent when this returns.
    pub(super) fn challenged(&mut self, rcv_nxt: u32, snd_nxt: u32) {
        self.sent(&format!(". {snd_nxt}:{snd_nxt}(0) ack {rcv_nxt}"));
        self.silence();
        self.wait_ms(510);
        self.drain();
    }

    pub(super) fn counters(&self) -> &Counters {
        self.engine.counters()
    }

    /// The script's time.
    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Lets time pass, timers firing when they are due. What they send waits to be expected.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        self.collect();
        while let Some(next) = self.engine.next_deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.engine.on_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    pub(super) fn wait_ms(&mut self, millis: u64) {
        self.wait(Duration::from_millis(millis));
    }

    /// Lets time pass until a timer fires, and returns how long that took.
    pub(super) fn wait_for_timer(&mut self) -> Option<Duration> {
        self.collect();
        let next = self.engine.next_deadline()?.max(self.now);
        let passed = next - self.now;
        self.now = next;
        self.engine.on_timeout(self.now);
        self.collect();
        Some(passed)
    }

    pub(super) fn collect(&mut self) {
        while !self.engine.poll_packet(self.now, 64, &mut self.sent) {}
        self.engine.wakes().clear();
    }

    /// A segment of the peer's. Payload is [`pattern`], starting from 0 at sequence number 1.
    pub(super) fn recv(&mut self, text: &str) {
        let packet = self.packet(text);
        self.recv_packet(packet);
    }

    pub(super) fn recv_packet(&mut self, packet: Packet) {
        self.engine.on_packet(packet, self.now);
        self.collect();
    }

    /// An ICMP error of type and code `kind` from the peer about a segment that we sent, quoting
    /// the packet on the wire that carried its byte `offset`. `word` is what follows the checksum:
    /// the MTU, if there is one.
    pub(super) fn recv_icmp(&mut self, kind: (u8, u8), word: u32, about: &Sent, offset: u32) {
        let (src, dst) = (self.local.ip(), self.peer.ip());
        let each = match usize::from(about.gso_size) {
            0 => about.payload.len(),
            each => each,
        };
        let ip = IpEmit {
            src,
            dst,
            protocol: 6,
            ttl: 64,
            tos: 0,
            payload_len: about.header.header_len + each,
        };
        let mut message = vec![kind.0, kind.1, 0, 0];
        message.extend(word.to_be_bytes());
        let mut quoted = [0; 40];
        let len = ip::emit(&mut quoted, &ip);
        message.extend(&quoted[..len]);
        message.extend(self.local.port().to_be_bytes());
        message.extend(self.peer.port().to_be_bytes());
        message.extend((about.header.seq + offset).raw().to_be_bytes());
        let protocol = if src.is_ipv4() { 1 } else { 58 };
        let pseudo = ip::pseudo_sum(dst, src, protocol, message.len() as u32);
        let body = crate::checksum::sum(&message);
        let check = if src.is_ipv4() {
            body
        } else {
            pseudo.combine(body)
        };
        message[2..4].copy_from_slice(&check.finish().to_be_bytes());
        let outer = IpEmit {
            src: dst,
            dst: src,
            protocol,
            ttl: 64,
            tos: 0,
            payload_len: message.len(),
        };
        let mut packet = vec![0; outer.header_len()];
        ip::emit(&mut packet, &outer);
        packet.extend(message);
        self.recv_packet(Packet::received(packet.into(), Meta::default()));
    }

    /// The same packet as `recv` takes, marked by a router (RFC 3168 §5).
    pub(super) fn recv_marked(&mut self, text: &str) {
        let mut bytes = self.packet(text).to_vec();
        bytes[1] |= 3;
        bytes[10..12].fill(0);
        let sum = crate::checksum::sum(&bytes[..20]).finish();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        self.recv_packet(Packet::received(bytes.into(), Meta::default()));
    }

    /// The packet that a text stands for.
    pub(super) fn packet(&self, text: &str) -> Packet {
        let parsed = Parsed::new(text);
        let payload: Vec<u8> = pattern(parsed.seq.wrapping_sub(1) as usize, parsed.len);
        let iss = self.iss.unwrap_or_default();
        let mut options = parsed.options.unwrap_or_default();
        let absolute = |ack: u32| iss + ack;
        let mut blocks = crate::wire::options::SackBlocks::default();
        for (left, right) in options.sack.iter() {
            blocks.push(absolute(left.raw()), absolute(right.raw()));
        }
        options.sack = blocks;
        if let Some(ts) = &mut options.timestamps {
            ts.ecr = if ts.ecr == 0 {
                0
            } else {
                ts.ecr.wrapping_add(self.ts_base.unwrap_or(0))
            };
        }
        let header = TcpHeader {
            src_port: self.peer.port(),
            dst_port: self.local.port(),
            seq: SeqNum::new(self.peer_isn) + parsed.seq,
            ack: parsed.ack.map(absolute),
            wnd: parsed.wnd.unwrap_or(65_535),
            flags: parsed.flags,
            options,
            urgent: parsed.urgent.unwrap_or(0),
            ..TcpHeader::default()
        };
        let ip = IpEmit {
            src: self.peer.ip(),
            dst: self.local.ip(),
            protocol: 6,
            ttl: 64,
            tos: 0,
            payload_len: 0,
        };
        let mut body = Payload::new();
        if !payload.is_empty() {
            body.push(Bytes::from(payload));
        }
        let mut packet = tcp::packet(ip, &header, body, 0);
        tcp::fill_checksum(&mut packet, ip.header_len());
        Packet::received(packet.to_vec().into(), Meta::default())
    }

    /// Expects the next segment to be this one, and returns it.
    #[track_caller]
    pub(super) fn sent(&mut self, text: &str) -> Sent {
        let sent = self.next().unwrap_or_else(|| {
            panic!("at {:?}: nothing was sent, expected {text}", self.elapsed())
        });
        let expected = Parsed::new(text);
        let got = Parsed::new(&sent.text);
        let options = |parsed: &Parsed| parsed.options.map(|options| format!("{options:?}"));
        let ok = got.flags == expected.flags
            && (got.seq, got.len) == (expected.seq, expected.len)
            && expected.ack.is_none_or(|ack| got.ack == Some(ack))
            && expected.wnd.is_none_or(|wnd| got.wnd == Some(wnd))
            && (expected.options.is_none() || options(&got) == options(&expected));
        assert!(
            ok,
            "at {:?}: sent     {}\n expected {text}",
            self.elapsed(),
            sent.text
        );
        sent
    }

    /// Takes the next segment that was sent.
    pub(super) fn next(&mut self) -> Option<Sent> {
        let mut sent = self.next_segment()?;
        while self.merges && !sent.payload.is_empty() && !self.sent.is_empty() {
            let rest = self.sent.clone();
            let next = self.next_segment()?;
            let end = sent.header.seq + sent.payload.len() as u32;
            if next.header.seq != end || next.payload.is_empty() {
                self.sent = rest;
                break;
            }
            sent.payload.extend(&next.payload);
            sent.header.flags = sent.header.flags | next.header.flags;
            sent.text = self.describe(&sent.header, sent.payload.len());
        }
        Some(sent)
    }

    fn next_segment(&mut self) -> Option<Sent> {
        self.collect();
        let packet = self.sent.pop_front()?;
        let ip = ip::parse(packet.first(), packet.len()).expect("what we send is well-formed");
        let header = TcpHeader::of(&packet, &ip).expect("what we send is well-formed");
        let (meta, total) = (packet.meta, ip.total_len);
        let payload: Vec<u8> = packet
            .into_payload(ip.header_len + header.header_len, total)
            .concat();
        if header.flags.has(Flags::SYN) {
            self.iss = Some(header.seq);
        }
        if let Some(ts) = header.options.timestamps {
            let millis = self.elapsed().as_millis() as u32;
            self.ts_base
                .get_or_insert_with(|| ts.val.wrapping_sub(millis));
        }
        let text = self.describe(&header, payload.len());
        Some(Sent {
            text,
            header,
            payload,
            gso_size: meta.gso_size,
            tos: ip.tos,
            ttl: ip.ttl,
        })
    }

    /// Expects nothing more to have been sent.
    #[track_caller]
    pub(super) fn silence(&mut self) {
        if let Some(sent) = self.next() {
            panic!(
                "at {:?}: sent {}, expected nothing",
                self.elapsed(),
                sent.text
            );
        }
    }

    /// Everything that was sent and not looked at.
    pub(super) fn drain(&mut self) -> Vec<Sent> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn describe(&self, header: &TcpHeader, len: usize) -> String {
        let letters = [
            (Flags::SYN, 'S'),
            (Flags::FIN, 'F'),
            (Flags::RST, 'R'),
            (Flags::PSH, 'P'),
            (Flags::ECE, 'E'),
            (Flags::CWR, 'W'),
            (Flags::URG, 'U'),
            (Flags::ACK, '.'),
        ];
        let mut text: String = letters
            .iter()
            .filter(|(flag, _)| header.flags.has(*flag))
            .map(|(_, c)| c)
            .collect();
        let seq = header.seq.since(self.iss.unwrap_or_default());
        text += &format!(" {seq}:{}({len})", seq.wrapping_add(len as u32));
        if let Some(ack) = header.ack {
            text += &format!(" ack {}", ack.since(SeqNum::new(self.peer_isn)));
        }
        text += &format!(" win {} <", header.wnd);
        let mut options = Vec::new();
        let own = &header.options;
        own.mss
            .iter()
            .for_each(|mss| options.push(format!("mss {mss}")));
        if own.sack_permitted {
            options.push("sackOK".into());
        }
        if let Some(ts) = own.timestamps {
            let val = ts.val.wrapping_sub(self.ts_base.unwrap_or(0));
            options.push(format!("TS val {val} ecr {}", ts.ecr));
        }
        own.window_scale
            .iter()
            .for_each(|shift| options.push(format!("wscale {shift}")));
        if !own.sack.is_empty() {
            let relative = |seq: SeqNum| seq.since(SeqNum::new(self.peer_isn));
            let blocks: Vec<_> = own
                .sack
                .iter()
                .map(|(l, r)| format!("{}:{}", relative(*l), relative(*r)))
                .collect();
            options.push(format!("sack {}", blocks.join(" ")));
        }
        text + &options.join(",") + ">"
    }

    // What the application does.

    /// Writes `len` bytes of [`pattern`] from `offset` on.
    pub(super) fn write(&mut self, offset: usize, len: usize) -> usize {
        let written = self
            .engine
            .write(self.id(), &pattern(offset, len), self.now)
            .unwrap();
        self.collect();
        written
    }

    /// Reads everything there is.
    pub(super) fn read(&mut self) -> std::io::Result<Vec<u8>> {
        self.read_some(1 << 20)
    }

    /// Reads up to so many bytes.
    pub(super) fn read_some(&mut self, max: usize) -> std::io::Result<Vec<u8>> {
        let mut buf = vec![0; max];
        let n = self.engine.read(self.id(), &mut buf, self.now)?;
        buf.truncate(n);
        self.collect();
        Ok(buf)
    }

    /// Changes the connection's options.
    pub(super) fn set(&mut self, change: impl FnOnce(&mut SocketOptions)) {
        self.engine
            .set_options(self.id(), change, self.now)
            .unwrap();
        self.collect();
    }

    pub(super) fn info(&self) -> TcpInfo {
        self.engine.info(self.id()).expect("the connection is open")
    }

    pub(super) fn shutdown(&mut self) {
        self.engine.shutdown(self.id(), self.now).unwrap();
        self.collect();
    }

    pub(super) fn close(&mut self) {
        self.engine.close(self.id(), self.now);
        self.collect();
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A segment's text, read.
struct Parsed {
    flags: Flags,
    seq: u32,
    len: usize,
    ack: Option<u32>,
    wnd: Option<u16>,
    urgent: Option<u16>,
    options: Option<TcpOptions>,
}

impl Parsed {
    fn new(text: &str) -> Self {
        let (fixed, options) = match text.split_once('<') {
            Some((fixed, options)) => (fixed, Some(options.trim_end_matches('>'))),
            None => (text, None),
        };
        let mut words = fixed.split_whitespace();
        let flags = words
            .next()
            .expect("flags")
            .chars()
            .fold(Flags::NONE, |flags, c| {
                flags
                    | match c {
                        'S' => Flags::SYN,
                        'F' => Flags::FIN,
                        'R' => Flags::RST,
                        'P' => Flags::PSH,
                        'E' => Flags::ECE,
                        'W' => Flags::CWR,
                        'U' => Flags::URG,
                        '.' => Flags::ACK,
                        '-' => Flags::NONE,
                        _ => panic!("no flag {c} in {text}"),
                    }
            });
        let numbers = words.next().expect("sequence numbers");
        let (seq, rest) = numbers.split_once(':').expect("a range");
        let len = rest
            .split_once('(')
            .expect("a length")
            .1
            .trim_end_matches(')');
        let value = |name: &str| {
            let mut words = fixed.split_whitespace().skip_while(|word| *word != name);
            words
                .next()
                .and_then(|_| words.next())
                .map(|word| word.parse::<i64>().expect("a number") as u32)
        };
        Self {
            flags,
            seq: seq.parse::<i64>().expect("a number") as u32,
            len: len.parse().expect("a length"),
            ack: value("ack"),
            wnd: value("win").map(|wnd| wnd as u16),
            urgent: value("urg").map(|urgent| urgent as u16),
            options: options.map(parse_options),
        }
    }
}

fn parse_options(text: &str) -> TcpOptions {
    let mut options = TcpOptions::default();
    for option in text
        .split(',')
        .map(str::trim)
        .filter(|option| !option.is_empty())
    {
        let words: Vec<&str> = option.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u32>().expect("a number");
        match words[0] {
            "mss" => options.mss = Some(number(1) as u16),
            "wscale" => options.window_scale = Some(number(1) as u8),
            "sackOK" => options.sack_permitted = true,
            "nop" | "eol" => {}
            "TS" => {
                options.timestamps = Some(Timestamps {
                    val: number(2),
                    ecr: number(4),
                })
            }
            "sack" => {
                for block in &words[1..] {
                    let (left, right) = block.split_once(':').expect("a block");
                    let number =
                        |text: &str| SeqNum::new(text.parse::<i64>().expect("a number") as u32);
                    options.sack.push(number(left), number(right));
                }
            }
            other => panic!("no option {other}"),
        }
    }
    options
}

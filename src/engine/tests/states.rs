//! Every transition of the state diagram, by a script, and the ladders of `docs/states.md`, by two
//! engines.

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};

use super::{pair::pattern, script::Script};
use crate::{
    config::{Config, SocketOptions},
    engine::{ConnId, Engine},
    info::State::{self, *},
    link::{Command, StreamLink},
    packet::{Meta, Packet},
    seq::SeqNum,
    wire::{
        ip,
        tcp::{Flags, TcpHeader},
    },
};

impl Script {
    /// The states of all sockets, without the listener if there is something else.
    fn states(&self) -> Vec<State> {
        let all: Vec<State> = self
            .engine
            .sockets(self.now)
            .iter()
            .map(|info| info.state)
            .collect();
        let others: Vec<State> = all
            .iter()
            .copied()
            .filter(|state| *state != Listen)
            .collect();
        if others.is_empty() { all } else { others }
    }

    /// In ESTABLISHED, accepted.
    fn open() -> Self {
        let script = Self::accepted(Config::default());
        assert_eq!(script.states(), [Established]);
        script
    }

    /// In FIN-WAIT-1, the FIN sent; the owner still reads.
    fn fin_wait_1() -> Self {
        let mut script = Self::open();
        script.shutdown();
        script.sent("F. 1:1(0) ack 1");
        assert_eq!(script.states(), [FinWait1]);
        script
    }

    fn fin_wait_2() -> Self {
        let mut script = Self::fin_wait_1();
        script.recv(". 1:1(0) ack 2");
        assert_eq!(script.states(), [FinWait2]);
        script
    }

    fn close_wait() -> Self {
        let mut script = Self::open();
        script.recv("F. 1:1(0) ack 1");
        script.sent(". 1:1(0) ack 2");
        assert_eq!(script.states(), [CloseWait]);
        script
    }

    fn last_ack() -> Self {
        let mut script = Self::close_wait();
        script.close();
        script.sent("F. 1:1(0) ack 2");
        assert_eq!(script.states(), [LastAck]);
        script
    }

    fn closing() -> Self {
        let mut script = Self::fin_wait_1();
        script.recv("F. 1:1(0) ack 1");
        script.sent(". 2:2(0) ack 2");
        assert_eq!(script.states(), [Closing]);
        script
    }

    fn time_wait() -> Self {
        let mut script = Self::fin_wait_2();
        script.recv("F. 1:1(0) ack 2");
        script.sent(". 2:2(0) ack 2");
        assert_eq!(script.states(), [TimeWait]);
        script
    }

    fn syn_received() -> Self {
        let mut script = Self::listening(Config::default(), 16);
        script.recv("S 0:0(0) win 65535 <mss 1000>");
        script.sent("S. 0:0(0) ack 1");
        assert_eq!(script.states(), [SynReceived]);
        script
    }

    fn syn_sent() -> Self {
        let mut script = Self::connecting(Config::default());
        script.sent("S 0:0(0)");
        assert_eq!(script.states(), [SynSent]);
        script
    }

    /// SYN-RECEIVED after both sides have sent a SYN.
    fn crossed() -> Self {
        let mut script = Self::syn_sent();
        script.recv("S 0:0(0) win 65535 <mss 1000>");
        script.sent("S. 0:0(0) ack 1");
        assert_eq!(script.states(), [SynReceived]);
        script
    }
}

#[test]
fn closed_listens_on_listen() {
    assert_eq!(Script::listening(Config::default(), 1).states(), [Listen]);
}

#[test]
fn closed_sends_a_syn_on_connect() {
    Script::syn_sent();
}

#[test]
fn listen_receives_a_syn() {
    Script::syn_received();
}

#[test]
fn listen_ends_on_close() {
    let mut s = Script::syn_received();
    let listener = s.listener.expect("the script listens");
    s.engine.close(listener, s.now);
    assert_eq!(s.states(), []);
}

#[test]
fn syn_sent_receives_a_syn() {
    Script::crossed();
}

#[test]
fn syn_sent_receives_a_syn_ack() {
    let mut s = Script::syn_sent();
    s.recv("S. 0:0(0) ack 1 win 65535 <mss 1000>");
    s.sent(". 1:1(0) ack 1");
    assert_eq!(s.states(), [Established]);
}

#[test]
fn syn_sent_ends_on_reset() {
    let mut s = Script::syn_sent();
    s.recv("R. 0:0(0) ack 1");
    assert_eq!(s.states(), []);
    assert_eq!(
        s.read().unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn syn_sent_ends_on_close() {
    let mut s = Script::syn_sent();
    s.close();
    s.silence();
    assert_eq!(s.states(), []);
}

#[test]
fn syn_sent_ends_when_nobody_answers() {
    let mut s = Script::syn_sent();
    s.wait(Duration::from_secs(300));
    assert_eq!(s.states(), []);
    assert_eq!(s.read().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn syn_received_receives_the_last_ack() {
    let mut s = Script::syn_received();
    s.recv(". 1:1(0) ack 1");
    assert_eq!(s.states(), [Established]);
}

#[test]
fn syn_received_after_two_syns_receives_the_ack() {
    for answer in [". 1:1(0) ack 1", "S. 0:0(0) ack 1"] {
        let mut s = Script::crossed();
        s.recv(answer);
        assert_eq!(s.states(), [Established], "{answer}");
    }
}

#[test]
fn syn_received_returns_to_listen_on_reset() {
    let mut s = Script::syn_received();
    s.recv("R 1:1(0)");
    s.silence();
    assert_eq!(s.states(), [Listen]);
}

#[test]
fn syn_received_after_two_syns_ends_on_reset() {
    let mut s = Script::crossed();
    s.recv("R 1:1(0)");
    assert_eq!(s.states(), []);
    assert_eq!(
        s.read().unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn syn_received_returns_to_listen_when_nobody_answers() {
    let mut s = Script::syn_received();
    s.wait(Duration::from_secs(300));
    assert_eq!(s.states(), [Listen]);
}

#[test]
fn established_ends_its_side() {
    Script::fin_wait_1();
}

#[test]
fn established_receives_a_fin() {
    Script::close_wait();
}

#[test]
fn fin_wait_1_receives_the_ack_of_its_fin() {
    Script::fin_wait_2();
}

#[test]
fn fin_wait_1_receives_a_fin() {
    Script::closing();
}

#[test]
fn fin_wait_1_receives_a_fin_with_the_ack_of_its_own() {
    let mut s = Script::fin_wait_1();
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    assert_eq!(s.states(), [TimeWait]);
}

#[test]
fn fin_wait_2_receives_a_fin() {
    Script::time_wait();
}

#[test]
fn fin_wait_2_without_an_owner_ends_after_a_minute() {
    let mut s = Script::open();
    s.close();
    s.sent("F. 1:1(0) ack 1");
    s.recv(". 1:1(0) ack 2");
    assert_eq!(s.states(), [FinWait2]);
    s.wait_ms(59_900);
    assert_eq!(s.states(), [FinWait2]);
    s.wait_ms(200);
    assert_eq!(s.states(), [Listen]);
}

#[test]
fn close_wait_ends_its_side() {
    Script::last_ack();
}

#[test]
fn closing_receives_the_ack_of_its_fin() {
    let mut s = Script::closing();
    s.recv(". 2:2(0) ack 2");
    assert_eq!(s.states(), [TimeWait]);
}

#[test]
fn last_ack_receives_the_ack_of_its_fin() {
    let mut s = Script::last_ack();
    s.recv(". 2:2(0) ack 2");
    assert_eq!(s.states(), [Listen]);
}

#[test]
fn time_wait_ends_after_2_msl() {
    let mut s = Script::time_wait();
    s.wait_ms(59_900);
    assert_eq!(s.states(), [TimeWait]);
    s.wait_ms(200);
    assert_eq!(s.states(), [Listen]);
}

#[test]
fn time_wait_starts_again_with_every_fin() {
    let mut s = Script::time_wait();
    s.wait_ms(59_900);
    s.recv("F. 1:1(0) ack 2");
    s.sent(". 2:2(0) ack 2");
    s.wait_ms(59_900);
    assert_eq!(s.states(), [TimeWait]);
    s.wait_ms(200);
    assert_eq!(s.states(), [Listen]);
}

#[test]
fn time_wait_gives_way_to_a_newer_syn() {
    let mut s = Script::time_wait();
    s.recv("S 100000:100000(0) win 65535 <mss 1000>");
    assert!(
        s.next()
            .expect("a SYN-ACK")
            .header
            .flags
            .has(Flags::SYN | Flags::ACK)
    );
    assert_eq!(s.states(), [SynReceived]);
}

/// Every synchronized state that has an owner or a peer.
fn synchronized() -> [Script; 6] {
    [
        Script::open(),
        Script::fin_wait_1(),
        Script::fin_wait_2(),
        Script::close_wait(),
        Script::closing(),
        Script::last_ack(),
    ]
}

#[test]
fn every_synchronized_state_ends_on_reset() {
    for mut s in synchronized() {
        let before = s.states();
        let nxt = if matches!(before[0], CloseWait | Closing | LastAck) {
            2
        } else {
            1
        };
        s.recv(&format!("R {nxt}:{nxt}(0)"));
        s.silence();
        assert_eq!(s.states(), [Listen], "from {before:?}");
    }
}

#[test]
fn every_synchronized_state_ends_on_abort() {
    for mut s in synchronized() {
        let before = s.states();
        s.engine.abort(s.id(), s.now);
        let reset = s
            .next()
            .is_some_and(|sent| sent.header.flags.has(Flags::RST));
        // RFC 9293 §3.10.5: where both sides have ended, nobody needs to be told.
        let expected = !matches!(before[0], Closing | LastAck);
        assert_eq!(reset, expected, "from {before:?}");
        assert_eq!(s.states(), [Listen], "from {before:?}");
    }
}

/// Two engines whose packets wait to be delivered one by one, and the lines that this leaves.
struct Ladder {
    engines: [Engine; 2],
    now: Instant,
    /// What each side has sent and nobody has received.
    path: [VecDeque<Packet>; 2],
    ids: [Option<ConnId>; 2],
    listener: Option<ConnId>,
    first: [Option<SeqNum>; 2],
    text: String,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

impl Ladder {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
    fn new() -> Self {
        let now = Instant::now();
        let engine = |number: u64| {
            let mut config = Config::default();
            config.seed(number).timestamps(false);
            Engine::new(
                config,
                &[format!("10.0.0.{}/24", number + 1).parse().unwrap()],
                1500,
                now,
            )
        };
        Self {
            engines: [engine(0), engine(1)],
            now,
            path: Default::default(),
            ids: [None; 2],
            listener: None,
            first: [None; 2],
            text: String::new(),
        }
    }

    /// The right side listens.
    fn listening() -> Self {
        let mut ladder = Self::new();
        ladder.listener = Some(
            ladder.engines[RIGHT]
                .listen("10.0.0.2:80".parse().unwrap(), 4)
                .unwrap(),
        );
        ladder.states();
        ladder
    }

    /// As [`listening`](Self::listening), and connected; nothing is written down.
    fn open() -> Self {
        let mut ladder = Self::listening();
        ladder.connect(LEFT);
        while ladder.path.iter().any(|path| !path.is_empty()) {
            ladder.deliver(LEFT);
            ladder.deliver(RIGHT);
        }
        ladder.text.clear();
        ladder.states();
        ladder
    }

    fn connect(&mut self, side: usize) {
        let address = |side: usize| {
            format!("10.0.0.{}:{}", side + 1, [1024, 80][side])
                .parse()
                .unwrap()
        };
        let engine = &mut self.engines[side];
        let bound = engine
            .ports()
            .bind(address(side), crate::link::Reuse::default(), false)
            .unwrap();
        let bell = std::sync::Arc::clone(engine.doorbell());
        let options = SocketOptions::default();
        let link = StreamLink::new(
            bell,
            address(side),
            address(1 - side),
            options,
            1 << 16,
            1 << 16,
        );
        let link = std::sync::Arc::new(link);
        let button = std::sync::Arc::clone(&link);
        engine.on_command(
            Command::Connect {
                link,
                bound: Some(bound),
                peer: address(1 - side),
            },
            self.now,
        );
        self.ids[side] = button.button.id();
        self.note(side, "connect");
    }

    fn shutdown(&mut self, side: usize) {
        self.engines[side]
            .shutdown(self.ids[side].unwrap(), self.now)
            .unwrap();
        self.note(side, "shutdown");
    }

    fn close(&mut self, side: usize) {
        self.engines[side].close(self.ids[side].unwrap(), self.now);
        self.note(side, "close");
    }

    fn write(&mut self, side: usize, len: usize) {
        self.engines[side]
            .write(self.ids[side].unwrap(), &pattern(0, len), self.now)
            .unwrap();
        self.note(side, &format!("write {len}"));
    }

    /// What has arrived; nothing at the end.
    fn read(&mut self, side: usize) -> usize {
        let read = self.engines[side]
            .read(self.ids[side].unwrap(), &mut [0; 100], self.now)
            .unwrap();
        self.note(
            side,
            &if read == 0 {
                "read the end".into()
            } else {
                format!("read {read}")
            },
        );
        read
    }

    fn collect(&mut self) {
        for side in 0..2 {
            while !self.engines[side].poll_packet(self.now, 64, &mut self.path[side]) {}
            self.engines[side].wakes().clear();
        }
        if let Some(listener) = self.listener
            && let Some((id, _)) = self.engines[RIGHT].accept(listener)
        {
            self.ids[RIGHT] = Some(id);
        }
    }

    /// The state of a side, as its netstat view has it.
    fn state(&self, side: usize) -> State {
        let all: Vec<State> = self.engines[side]
            .sockets(self.now)
            .iter()
            .map(|info| info.state)
            .collect();
        all.iter()
            .copied()
            .find(|state| *state != Listen)
            .or_else(|| all.first().copied())
            .unwrap_or(Closed)
    }

    /// A line of states, with what is between them.
    fn line(&mut self, between: &str) {
        self.collect();
        let states = [self.state(LEFT), self.state(RIGHT)].map(|state| state.to_string());
        self.text += &format!("{:>14}  {between:^38}  {}", states[LEFT], states[RIGHT]);
        self.text += "\n";
    }

    fn states(&mut self) {
        self.line("");
    }

    fn note(&mut self, side: usize, what: &str) {
        let between = if side == LEFT {
            format!("{what:<38}")
        } else {
            format!("{what:>38}")
        };
        self.line(&between);
    }

    /// The oldest packet of a side arrives at the other.
    fn deliver(&mut self, from: usize) -> bool {
        self.carry(from, true)
    }

    /// It does not.
    fn lose(&mut self, from: usize) {
        assert!(self.carry(from, false), "nothing to lose");
    }

    /// A copy of it, to arrive later.
    fn copy(&mut self, from: usize) -> Packet {
        self.path[from].front().expect("a packet").clone()
    }

    fn carry(&mut self, from: usize, arrives: bool) -> bool {
        self.collect();
        let Some(packet) = self.path[from].pop_front() else {
            return false;
        };
        let text = self.describe(from, &packet);
        let dashes = "─".repeat(32_usize.saturating_sub(text.chars().count()));
        let arrow = match (from, arrives) {
            (LEFT, true) => format!("── {text} {dashes}─▶"),
            (LEFT, false) => format!("── {text} {dashes}✗ "),
            (_, true) => format!("◀─{dashes} {text} ──"),
            (_, false) => format!(" ✗{dashes} {text} ──"),
        };
        if arrives {
            self.arrive(1 - from, packet);
        }
        self.line(&arrow);
        true
    }

    fn arrive(&mut self, at: usize, mut packet: Packet) {
        let ip = ip::parse(packet.first(), packet.len()).expect("what we send is well-formed");
        crate::wire::tcp::fill_checksum(&mut packet, ip.header_len);
        let bytes = packet.to_vec();
        self.engines[at].on_packet(Packet::received(bytes.into(), Meta::default()), self.now);
    }

    /// Delivers everything, in turn, until nothing is on its way.
    fn quiet(&mut self) {
        loop {
            let moved = [LEFT, RIGHT].map(|side| self.deliver(side));
            if moved == [false; 2] {
                return;
            }
        }
    }

    /// Lets time pass until the next timer of a side.
    fn timeout(&mut self, side: usize, what: &str) {
        self.collect();
        let at = self.engines[side].next_deadline().expect("a timer");
        self.now = self.now.max(at);
        self.engines[side].on_timeout(self.now);
        self.note(side, what);
    }

    fn describe(&mut self, from: usize, packet: &Packet) -> String {
        let ip = ip::parse(packet.first(), packet.len()).expect("what we send is well-formed");
        let header = TcpHeader::of(packet, &ip).expect("what we send is well-formed");
        let len = packet.len() - ip.header_len - header.header_len;
        if header.flags.has(Flags::SYN) {
            self.first[from].get_or_insert(header.seq);
        }
        let names = [
            (Flags::SYN, "SYN "),
            (Flags::FIN, "FIN "),
            (Flags::RST, "RST "),
        ];
        let mut text: String = names
            .iter()
            .filter(|(flag, _)| header.flags.has(*flag))
            .map(|(_, name)| *name)
            .collect();
        let relative = |seq: SeqNum, to: Option<SeqNum>| {
            to.map_or_else(|| "?".into(), |first| seq.since(first).to_string())
        };
        text += &format!("seq {}", relative(header.seq, self.first[from]));
        if len > 0 {
            text += &format!(" len {len}");
        }
        if let Some(ack) = header.ack {
            text += &format!(" ack {}", relative(ack, self.first[1 - from]));
        }
        text
    }
}

fn open() -> Ladder {
    let mut l = Ladder::listening();
    l.connect(LEFT);
    l.quiet();
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Established, Established));
    l
}

fn close() -> Ladder {
    let mut l = Ladder::open();
    l.close(LEFT);
    l.quiet();
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (FinWait2, CloseWait));
    assert_eq!(l.read(RIGHT), 0);
    l.close(RIGHT);
    l.quiet();
    l.timeout(LEFT, "after 2 MSL");
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Closed, Listen));
    l
}

fn half_close() -> Ladder {
    let mut l = Ladder::open();
    l.shutdown(LEFT);
    l.quiet();
    assert_eq!(l.read(RIGHT), 0);
    l.write(RIGHT, 5);
    l.quiet();
    assert_eq!(l.read(LEFT), 5);
    l.close(RIGHT);
    l.quiet();
    assert_eq!(l.read(LEFT), 0);
    l.close(LEFT);
    l.timeout(LEFT, "after 2 MSL");
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Closed, Listen));
    l
}

fn simultaneous_open() -> Ladder {
    let mut l = Ladder::new();
    l.states();
    l.connect(LEFT);
    l.connect(RIGHT);
    l.quiet();
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Established, Established));
    l
}

fn simultaneous_close() -> Ladder {
    let mut l = Ladder::open();
    l.close(LEFT);
    l.close(RIGHT);
    l.quiet();
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (TimeWait, TimeWait));
    l.timeout(LEFT, "after 2 MSL");
    l.timeout(RIGHT, "after 2 MSL");
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Closed, Listen));
    l
}

fn lost_last_ack() -> Ladder {
    let mut l = Ladder::open();
    l.close(LEFT);
    l.quiet();
    l.close(RIGHT);
    l.deliver(RIGHT);
    l.lose(LEFT);
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (TimeWait, LastAck));
    l.timeout(RIGHT, "timeout");
    l.quiet();
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (TimeWait, Listen));
    l.timeout(LEFT, "after 2 MSL");
    assert_eq!(l.state(LEFT), Closed);
    l
}

fn old_duplicate_syn() -> Ladder {
    let mut l = Ladder::listening();
    l.connect(LEFT);
    let old = l.copy(LEFT);
    // The connection that it was for has come and gone.
    l.quiet();
    l.close(LEFT);
    l.quiet();
    l.close(RIGHT);
    l.quiet();
    l.timeout(LEFT, "after 2 MSL");
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Closed, Listen));
    l.text.clear();
    l.states();
    l.path[LEFT].push_back(old);
    l.deliver(LEFT);
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Closed, SynReceived));
    l.first[RIGHT] = None;
    l.quiet();
    assert_eq!((l.state(LEFT), l.state(RIGHT)), (Closed, Listen));
    l
}

/// The page, with the ladders as they are now.
fn page(old: &str) -> String {
    type Draw = fn() -> Ladder;
    let ladders: [(&str, Draw); 7] = [
        ("open", open),
        ("close", close),
        ("half-close", half_close),
        ("simultaneous open", simultaneous_open),
        ("simultaneous close", simultaneous_close),
        ("lost last ACK", lost_last_ack),
        ("old duplicate SYN", old_duplicate_syn),
    ];
    let mut page = old.to_owned();
    for (name, ladder) in ladders {
        let (begin, end) = (format!("<!-- ladder: {name} -->\n"), "<!-- end -->");
        let from = page
            .find(&begin)
            .unwrap_or_else(|| panic!("no ladder of {name}"))
            + begin.len();
        let to = from + page[from..].find(end).expect("an end");
        let lines: Vec<String> = ladder()
            .text
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        println!("{name}\n{}\n", lines.join("\n"));
        page.replace_range(
            from..to,
            &format!("\n```text\n{}\n```\n\n", lines.join("\n")),
        );
    }
    page
}

/// `UPDATE_DOCS=1 cargo test states` writes what is compared here.
#[test]
fn the_ladders_in_docs_states_are_what_the_engines_do() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/states.md");
    let old = fs::read_to_string(path).unwrap();
    let new = page(&old);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &new).unwrap();
    } else {
        assert!(
            old == new,
            "docs/states.md is not what the engines do: UPDATE_DOCS=1 cargo test states"
        );
    }
}

#[test]
fn what_comes_again_with_a_newer_acknowledgement_acknowledges() {
    let mut s = Script::accepted(Config::default());
    s.recv("P. 1:101(100) ack 1");
    s.sent(". 1:1(0) ack 101");
    s.write(0, 1000);
    s.sent("P. 1:1001(1000) ack 101");
    // The peer has our data, and not the acknowledgement.
    s.recv("P. 1:101(100) ack 1001");
    s.sent(". 1001:1001(0) ack 101 <sack 1:101>");
    assert_eq!(s.info().in_flight, 0);
    assert_eq!(s.read().unwrap().len(), 100);
    // Older than that, or with a FIN where text was: not believed.
    s.recv("P. 101:201(100) ack 1001");
    s.wait_ms(40);
    s.sent(". 1001:1001(0) ack 201");
    s.write(1000, 1000);
    s.sent("P. 1001:2001(1000) ack 201");
    s.recv("P. 1:101(100) ack 2001");
    s.sent(". 2001:2001(0) ack 201 <sack 1:101>");
    assert_eq!(s.info().in_flight, 1000);
    s.recv("F. 101:200(99) ack 2001");
    s.sent(". 2001:2001(0) ack 201 <sack 101:201>");
    assert_eq!((s.info().in_flight, s.state()), (0, Some(Established)));
    s.recv("P. 201:301(100) ack 2001");
    s.wait_ms(40);
    s.sent(". 2001:2001(0) ack 301");
}

#[test]
fn a_fin_that_comes_again_acknowledges_ours() {
    let mut s = Script::accepted(Config::default());
    s.recv("F. 1:1(0) ack 1");
    s.sent(". 1:1(0) ack 2");
    s.shutdown();
    s.sent("F. 1:1(0) ack 2");
    s.recv("F. 1:1(0) ack 2");
    assert_eq!(s.state(), Some(Closed));
}

//! Breadth first through the states of two sides and of what is on its way between them.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    time::Instant,
};

use smallvec::SmallVec;

use super::{
    side::{Call, Input, Plan},
    table::{Packets, Table},
};
use crate::{
    config::Config,
    wire::{
        ip,
        tcp::{Flags, TcpHeader},
    },
};

/// More packets on their way than any run needs.
const IN_FLIGHT_MAX: usize = 12;

/// More steps than any fair run to the end takes.
const STEPS_MAX: usize = 2_000;

/// Packets that may be lost, packets that may come twice, timers that may fire before all else that
/// could happen has happened.
pub(super) type Bounds = [u8; 3];

/// What is explored.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Server and client, or two that connect to each other.
    pub(super) plans: [&'static Plan; 2],
    /// What was called before the exploration begins.
    pub(super) before: &'static [(u8, Call)],
    /// Each set of bounds is explored for itself.
    pub(super) bounds: &'static [Bounds],
    /// Neither side aborts or gives up what it did not read: whatever happens, all arrives.
    pub(super) orderly: bool,
}

/// A state of the two sides and of the path between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    nodes: [u32; 2],
    /// Packets on their way, with the side that each goes to, in order of their numbers.
    path: SmallVec<[(u8, u16); IN_FLIGHT_MAX]>,
    /// What is left of the bounds.
    left: Bounds,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Happens(u8, Input),
    /// A packet arrives, and will arrive once more.
    Twice(u8, u16),
    Lost(u8, u16),
}

/// A hash is its own hash.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type Hashes = HashSet<u64, BuildHasherDefault<Same>>;

/// What an exploration has found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// Distinct states of both sides, of the path and of what is left of the bounds.
    pub(super) states: usize,
    pub(super) transitions: usize,
    /// Distinct states of each side alone.
    pub(super) sides: [usize; 2],
    /// States in which nothing can happen any more.
    pub(super) ends: usize,
    /// The limit was reached before everything within the bounds was seen.
    pub(super) cut: bool,
}

/// An exploration under way.
#[derive(Debug)]
struct Search<'a> {
    scenario: &'a Scenario,
    bounds: Bounds,
    tables: [Table; 2],
    packets: Packets,
    seen: Hashes,
    /// States from which a fair run is known to end as it should.
    good: Hashes,
    /// How each state was reached first: from which, and by what.
    trail: Vec<(u32, Action)>,
    found: Found,
}

/// Explores all that can happen, up to `limit` states. Panics with the list of what happened when
/// something went wrong.
pub(super) fn explore(
    scenario: &Scenario,
    bounds: Bounds,
    config: &Config,
    limit: usize,
    start: Instant,
) -> Found {
    let table = |number: usize| Table::new(config.clone(), number, scenario.plans[number], start);
    let mut search = Search {
        scenario,
        bounds,
        tables: [table(0), table(1)],
        packets: Packets::default(),
        seen: Hashes::default(),
        good: Hashes::default(),
        trail: vec![(0, Action::Happens(0, Input::Timeout))],
        found: Found::default(),
    };
    search.run(limit);
    search.found.states = search.seen.len();
    search.found.sides = [search.tables[0].nodes.len(), search.tables[1].nodes.len()];
    search.found
}

fn hash(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

impl Search<'_> {
    fn run(&mut self, limit: usize) {
        let mut world = World {
            nodes: [0; 2],
            path: SmallVec::new(),
            left: self.bounds,
        };
        for (side, call) in self.scenario.before {
            let opened = self.apply(&world, Action::Happens(*side, Input::Call(*call)));
            world = opened
                .expect("no panic so early")
                .expect("opening never blocks");
        }
        self.seen.insert(hash(&world));
        let mut frontier = VecDeque::from([(world, 0_u32)]);
        let mut actions = Vec::new();
        while let Some((world, number)) = frontier.pop_front() {
            actions.clear();
            self.actions(&world, &mut actions);
            let mut moved = false;
            for action in &actions {
                let next = match self.apply(&world, *action) {
                    Ok(Some(next)) => next,
                    Ok(None) => continue,
                    Err(what) => self.fail(number, &[*action], &what),
                };
                moved = true;
                self.found.transitions += 1;
                if !self.seen.insert(hash(&next)) {
                    continue;
                }
                let child = self.trail.len() as u32;
                self.trail.push((number, *action));
                self.check(&next)
                    .unwrap_or_else(|what| self.fail(child, &[], &what));
                self.run_fairly(&next, child);
                if self.seen.len() >= limit {
                    self.found.cut = true;
                    return;
                }
                frontier.push_back((next, child));
            }
            self.found.ends += usize::from(!moved);
        }
    }

    /// Everything that may happen in a state, as far as it can be told without trying.
    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let [losses, copies, timeouts] = world.left;
        for side in 0..2_u8 {
            let node =
                &self.tables[usize::from(side)].nodes[world.nodes[usize::from(side)] as usize];
            actions.extend(
                node.calls
                    .iter()
                    .map(|call| Action::Happens(side, Input::Call(*call))),
            );
            if node.timer.is_some() && timeouts > 0 {
                actions.push(Action::Happens(side, Input::Timeout));
            }
        }
        let mut before = None;
        for (to, packet) in world.path.iter().copied() {
            if before.replace((to, packet)) == Some((to, packet)) {
                continue;
            }
            actions.push(Action::Happens(to, Input::Packet(packet)));
            if losses > 0 {
                actions.push(Action::Lost(to, packet));
            }
            if copies > 0 {
                actions.push(Action::Twice(to, packet));
            }
        }
    }

    /// The next state, unless the action is not possible after all.
    fn apply(&mut self, world: &World, action: Action) -> Result<Option<World>, String> {
        let mut next = world.clone();
        let take = |path: &mut SmallVec<_>, packet: (u8, u16)| {
            let at = path
                .iter()
                .position(|other| *other == packet)
                .expect("only what is on its way arrives");
            path.remove(at);
        };
        let (side, input) = match action {
            Action::Lost(to, packet) => {
                next.left[0] -= 1;
                take(&mut next.path, (to, packet));
                return Ok(Some(next));
            }
            Action::Twice(to, packet) => {
                next.left[1] -= 1;
                (to, Input::Packet(packet))
            }
            Action::Happens(to, Input::Packet(packet)) => {
                take(&mut next.path, (to, packet));
                (to, Input::Packet(packet))
            }
            Action::Happens(side, Input::Timeout) => {
                next.left[2] = next.left[2].saturating_sub(1);
                (side, Input::Timeout)
            }
            Action::Happens(side, input @ Input::Call(_)) => (side, input),
        };
        let at = usize::from(side);
        let step = self.tables[at].step(world.nodes[at], input, &mut self.packets)?;
        let Some((node, sent)) = step else {
            return Ok(None);
        };
        next.nodes[at] = *node;
        next.path
            .extend(sent.iter().map(|packet| (1 - side, *packet)));
        next.path.sort_unstable();
        if next.path.len() > 4 * IN_FLIGHT_MAX {
            return Err("packets without end".into());
        }
        Ok(Some(next))
    }

    /// What must hold in every state.
    fn check(&self, world: &World) -> Result<(), String> {
        for side in 0..2 {
            let app = |side: usize| &self.tables[side].nodes[world.nodes[side] as usize].app;
            let (reader, writer) = (app(side), app(1 - side));
            if reader.read > writer.written {
                return Err(format!(
                    "side {side} read {} of {} bytes",
                    reader.read, writer.written
                ));
            }
            if reader.ended && !(writer.shut || writer.closed) {
                return Err(format!("side {side} read an end that nobody sent"));
            }
            if reader.ended && reader.read != writer.written {
                return Err(format!(
                    "side {side} read the end after {} of {} bytes",
                    reader.read, writer.written
                ));
            }
            if self.scenario.orderly && reader.error.is_some() {
                return Err(format!(
                    "side {side} was told {:?}, and nobody had done wrong",
                    reader.error
                ));
            }
        }
        Ok(())
    }

    /// From here on everything arrives, the applications go on, and timers fire when nothing else
    /// happens: then all must come to its end.
    fn run_fairly(&mut self, from: &World, number: u32) {
        let mut world = World {
            left: [0; 3],
            ..from.clone()
        };
        let mut steps = Vec::new();
        loop {
            if !self.good.insert(hash(&world)) {
                return;
            }
            self.check(&world)
                .unwrap_or_else(|what| self.fail(number, &steps, &what));
            let Some((action, next)) = self
                .fair_step(&world)
                .unwrap_or_else(|what| self.fail(number, &steps, &what))
            else {
                return self
                    .check_end(&world)
                    .unwrap_or_else(|what| self.fail(number, &steps, &what));
            };
            steps.push(action);
            if steps.len() > STEPS_MAX {
                self.fail(number, &steps, "it does not come to an end");
            }
            world = next;
        }
    }

    fn fair_step(&mut self, world: &World) -> Result<Option<(Action, World)>, String> {
        let mut actions = Vec::new();
        actions.extend(
            world
                .path
                .first()
                .map(|(to, packet)| Action::Happens(*to, Input::Packet(*packet))),
        );
        let mut timers = SmallVec::<[_; 2]>::new();
        for side in 0..2_u8 {
            let node =
                &self.tables[usize::from(side)].nodes[world.nodes[usize::from(side)] as usize];
            // Reading before all else: what is not read would be a reason to reset.
            let (reads, others): (Vec<Call>, Vec<Call>) =
                node.calls.iter().partition(|call| **call == Call::Read);
            actions.extend(
                reads
                    .into_iter()
                    .chain(others)
                    .map(|call| Action::Happens(side, Input::Call(call))),
            );
            timers.extend(node.timer.map(|timer| (timer, side)));
        }
        timers.sort_unstable();
        actions.extend(
            timers
                .iter()
                .map(|(_, side)| Action::Happens(*side, Input::Timeout)),
        );
        for action in actions {
            if let Some(next) = self.apply(world, action)? {
                return Ok(Some((action, next)));
            }
        }
        Ok(None)
    }

    /// What must hold when nothing can happen any more.
    fn check_end(&self, world: &World) -> Result<(), String> {
        for side in 0..2 {
            let node = &self.tables[side].nodes[world.nodes[side] as usize];
            let idle = !node.app.closed && node.calls.contains(&Call::Accept) && !node.backlog;
            if !node.calls.is_empty() && !idle {
                return Err(format!("side {side} waits in vain to {:?}", node.calls));
            }
            if !node.clean {
                return Err(format!("side {side} keeps a record: {}", node.states));
            }
            let other = &self.tables[1 - side].nodes[world.nodes[1 - side] as usize];
            if self.scenario.orderly && node.app.read != other.app.written {
                return Err(format!(
                    "side {side} read {} of {} bytes",
                    node.app.read, other.app.written
                ));
            }
        }
        Ok(())
    }

    /// Ends the test with the list of what happened.
    fn fail(&self, number: u32, then: &[Action], what: &str) -> ! {
        let mut actions = Vec::new();
        let mut at = number;
        while at != 0 {
            let (before, action) = self.trail[at as usize];
            actions.push(action);
            at = before;
        }
        actions.reverse();
        let led = actions.len();
        actions.extend_from_slice(then);
        let lines: Vec<String> = actions
            .iter()
            .enumerate()
            .map(|(at, action)| {
                format!(
                    "{}{}",
                    if at == led {
                        "  -- then, fairly:\n"
                    } else {
                        ""
                    },
                    self.describe(*action)
                )
            })
            .collect();
        panic!(
            "{}: {what}\nafter {} actions:\n{}",
            self.scenario.name,
            lines.len(),
            lines.join("\n")
        );
    }

    fn describe(&self, action: Action) -> String {
        match action {
            Action::Happens(side, Input::Call(call)) => format!("  {side}: {call:?}"),
            Action::Happens(side, Input::Timeout) => format!("  {side}: timeout"),
            Action::Happens(side, Input::Packet(packet)) => {
                format!("  {side}: receives {}", self.text(packet))
            }
            Action::Twice(side, packet) => {
                format!("  {side}: receives, and will again, {}", self.text(packet))
            }
            Action::Lost(side, packet) => {
                format!("  {side}: will never receive {}", self.text(packet))
            }
        }
    }

    fn text(&self, number: u16) -> String {
        let packet = crate::packet::Packet::received(
            self.packets.get(number).to_vec().into(),
            Default::default(),
        );
        let ip = ip::parse(packet.first(), packet.len()).expect("what we send is well-formed");
        let header = TcpHeader::of(&packet, &ip).expect("what we send is well-formed");
        let len = packet.len() - ip.header_len - header.header_len;
        let flags = [
            (Flags::SYN, "SYN "),
            (Flags::FIN, "FIN "),
            (Flags::RST, "RST "),
        ];
        let flags: String = flags
            .iter()
            .filter(|(flag, _)| header.flags.has(*flag))
            .map(|(_, name)| *name)
            .collect();
        format!(
            "#{number} {flags}seq {} len {len} ack {:?} wnd {}",
            header.seq.raw(),
            header.ack.map(|ack| ack.raw()),
            header.wnd
        )
    }
}

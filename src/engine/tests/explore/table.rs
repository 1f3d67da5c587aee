//! What one side does in each of its states, found out once by a real engine.
//!
//! A side knows of the other only what packets tell, so its states and what each input makes of them
//! can be kept in a table. The states of both sides together, which are many more, are then found
//! by looking up. An engine cannot be copied: a state that is needed again is brought about again,
//! from the start, by the inputs that led to it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::side::{App, Call, Input, Plan, Side};
use crate::config::Config;

/// Engines kept where they are, for the next input.
const LIVE_MAX: usize = 4096;

/// All packets that were ever sent, by number.
#[derive(Debug, Default)]
pub(super) struct Packets {
    bytes: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, u16>,
}

impl Packets {
    fn number(&mut self, packet: Vec<u8>) -> u16 {
        let next = u16::try_from(self.bytes.len()).expect("fewer packets than that");
        let number = *self.numbers.entry(packet.clone()).or_insert(next);
        if number == next {
            self.bytes.push(packet);
        }
        number
    }

    pub(super) fn get(&self, number: u16) -> &[u8] {
        &self.bytes[usize::from(number)]
    }
}

/// A state of a side.
#[derive(Debug)]
pub(super) struct Node {
    /// Whence, and by what; the first state has none.
    parent: Option<(u32, Input)>,
    pub(super) app: App,
    pub(super) calls: Vec<Call>,
    pub(super) timer: Option<Duration>,
    pub(super) clean: bool,
    pub(super) backlog: bool,
    pub(super) states: String,
}

/// What an input makes of a state: the next state, and the packets sent.
pub(super) type Step = Option<(u32, Vec<u16>)>;

/// The states of one side, as far as they were found.
#[derive(Debug)]
pub(super) struct Table {
    number: usize,
    plan: &'static Plan,
    config: Config,
    start: Instant,
    pub(super) nodes: Vec<Node>,
    known: HashMap<u64, u32>,
    steps: HashMap<(u32, Input), Step>,
    live: HashMap<u32, Side>,
    text: String,
}

impl Table {
    pub(super) fn new(config: Config, number: usize, plan: &'static Plan, start: Instant) -> Self {
        let mut table = Self {
            number,
            plan,
            config,
            start,
            nodes: Vec::new(),
            known: HashMap::new(),
            steps: HashMap::new(),
            live: HashMap::new(),
            text: String::new(),
        };
        let side = table.fresh();
        table.keep(side, None);
        table
    }

    fn fresh(&self) -> Side {
        Side::new(self.config.clone(), self.number, self.plan, self.start)
    }

    /// The number of the state that `side` is in.
    fn keep(&mut self, mut side: Side, parent: Option<(u32, Input)>) -> u32 {
        self.text.clear();
        side.fingerprint(&mut self.text);
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        let next = self.nodes.len() as u32;
        let number = *self.known.entry(hasher.finish()).or_insert(next);
        if number == next {
            self.nodes.push(Node {
                parent,
                app: side.app.clone(),
                calls: side.calls(),
                timer: side.timer(),
                clean: side.is_clean(),
                backlog: side.has_backlog(),
                states: format!("{:?}", side.states()),
            });
        }
        if self.live.len() >= LIVE_MAX {
            self.live.clear();
        }
        self.live.entry(number).or_insert(side);
        number
    }

    /// What `input` makes of a state. The error is what the engine panicked with.
    pub(super) fn step(
        &mut self,
        from: u32,
        input: Input,
        packets: &mut Packets,
    ) -> Result<&Step, String> {
        if !self.steps.contains_key(&(from, input)) {
            let step = catch_unwind(AssertUnwindSafe(|| self.find(from, input, packets)));
            let step = step.map_err(|panic| match panic.downcast_ref::<String>() {
                Some(text) => text.clone(),
                None => format!("{:?}", panic.downcast_ref::<&str>()),
            })?;
            self.steps.insert((from, input), step);
        }
        Ok(&self.steps[&(from, input)])
    }

    fn find(&mut self, from: u32, input: Input, packets: &mut Packets) -> Step {
        let mut side = self
            .live
            .remove(&from)
            .unwrap_or_else(|| self.replay(from, packets));
        let sent = side.step(input, packet(input, packets))?;
        let number = self.keep(side, Some((from, input)));
        Some((
            number,
            sent.into_iter()
                .map(|packet| packets.number(packet))
                .collect(),
        ))
    }

    /// A side in a state, from the start.
    fn replay(&self, to: u32, packets: &Packets) -> Side {
        let mut inputs = Vec::new();
        let mut at = to;
        while let Some((before, input)) = self.nodes[at as usize].parent {
            inputs.push(input);
            at = before;
        }
        let mut side = self.fresh();
        for input in inputs.into_iter().rev() {
            side.step(input, packet(input, packets))
                .expect("what happened once happens again");
        }
        side
    }
}

fn packet(input: Input, packets: &Packets) -> Option<&[u8]> {
    match input {
        Input::Packet(number) => Some(packets.get(number)),
        Input::Call(_) | Input::Timeout => None,
    }
}

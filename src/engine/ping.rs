//! Asking others whether they are there.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use hashbrown::HashMap;
use rand::RngExt;
use tokio::sync::oneshot;

use crate::{
    engine::{Engine, icmp::failure_of},
    error::Failure,
    packet::Payload,
    time::Time,
    wire::{
        icmp::{self, Echo, IcmpError},
        ip::{self, IpHeader},
    },
};

/// Questions that may be open at one time.
const PINGS_MAX: usize = 4096;

/// Questions that nobody has answered yet, by the two numbers in them, which nobody can guess.
#[derive(Debug, Default)]
pub(super) struct Pings {
    open: HashMap<(u16, u16), Ping>,
}

#[derive(Debug)]
struct Ping {
    to: IpAddr,
    sent: Time,
    reply: oneshot::Sender<Result<Duration, Failure>>,
}

impl Pings {
    /// Nobody will be answered any more, and whoever waits sees that.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    fn take(&mut self, echo: Echo, from: IpAddr) -> Option<Ping> {
        let key = (echo.ident, echo.sequence);
        self.open.get(&key).filter(|ping| ping.to == from)?;
        self.open.remove(&key)
    }
}

impl Engine {
    /// Sends an echo request. Whoever asks decides how long to wait.
    pub(super) fn ping(
        &mut self,
        to: IpAddr,
        payload: Bytes,
        reply: oneshot::Sender<Result<Duration, Failure>>,
        now: Time,
    ) {
        match self.send_ping(to, payload) {
            Ok(key) => {
                let sent = now;
                self.pings.open.insert(key, Ping { to, sent, reply });
            }
            // Whoever asked may have gone; then nobody misses the answer.
            Err(failure) => {
                let _ = reply.send(Err(failure));
            }
        }
    }

    fn send_ping(&mut self, to: IpAddr, payload: Bytes) -> Result<(u16, u16), Failure> {
        if self.abort_at.is_some() {
            return Err(Failure::StackClosed);
        }
        let reachable = self.network.is_local(to) || ip::is_unicast_destination(to);
        let source = self.network.source_for(to).filter(|_| reachable);
        let source = source.ok_or(Failure::NetworkUnreachable)?;
        let open = &mut self.pings.open;
        if open.len() >= PINGS_MAX {
            open.retain(|_, ping| !ping.reply.is_closed());
        }
        if open.len() >= PINGS_MAX {
            return Err(Failure::NoMemory);
        }
        let key = loop {
            let key = (self.rng.random(), self.rng.random());
            if !open.contains_key(&key) {
                break key;
            }
        };
        let (ident, sequence) = key;
        let echo = Echo { ident, sequence };
        let (payload, ttl) = (Payload::from_iter([payload]), self.config.options.ttl);
        let packet = icmp::echo_request(source, to, echo, payload, ttl);
        self.route(packet, to);
        Ok(key)
    }

    pub(super) fn on_echo_reply(&mut self, echo: Echo, ip: &IpHeader, now: Time) {
        match self.pings.take(echo, ip.src) {
            Some(ping) => {
                let _ = ping.reply.send(Ok(now.since(ping.sent)));
            }
            None => self.counters.drop_icmp += 1,
        }
    }

    /// An ICMP error about something of ICMP's.
    pub(super) fn on_ping_error(&mut self, error: &IcmpError) {
        let failure = failure_of(error.kind);
        let ping = error
            .quote
            .echo_request()
            .filter(|_| failure.is_some())
            .and_then(|echo| self.pings.take(echo, error.quote.dst));
        match (ping, failure) {
            (Some(ping), Some((failure, _))) => {
                self.counters.icmp_errors += 1;
                let _ = ping.reply.send(Err(failure));
            }
            _ => self.counters.drop_icmp += 1,
        }
    }
}

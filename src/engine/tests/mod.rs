//! Whole engines, in virtual time.

mod basics;
mod close;
mod datagrams;
mod explore;
mod icmp;
mod injection;
mod lossy;
mod malformed;
mod open;
mod pair;
mod queues;
mod raw;
mod resets;
mod rfc9293;
mod script;
mod states;
mod threats_floods;
mod time_wait;

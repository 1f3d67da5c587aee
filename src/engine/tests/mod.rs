//! Whole engines, in virtual time.

mod basics;
mod close;
mod datagrams;
mod icmp;
mod injection;
mod lossy;
mod malformed;
mod open;
mod pair;
mod queues;
mod raw;
mod resets;
mod script;
mod threats_floods;
mod time_wait;

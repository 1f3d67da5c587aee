//! Whole engines, in virtual time.

mod basics;
mod close;
mod lossy;
mod open;
mod pair;
mod queues;
mod raw;
mod resets;
mod script;

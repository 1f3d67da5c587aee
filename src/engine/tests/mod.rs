//! Whole engines, in virtual time.

mod basics;
mod lossy;
mod open;
mod pair;
mod raw;
mod script;

//! Whole engines, in virtual time.

mod basics;
mod lossy;
mod pair;
mod script;

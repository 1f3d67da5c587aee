//! Whole engines, in virtual time.

mod lossy;
mod pair;

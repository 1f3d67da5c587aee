//! Stacks joined in memory by a link that delays, loses, reorders and damages packets as told.
//!
//! All chance comes from a seed: the same packets sent in the same order at the same times meet the
//! same fate. [`Path`] is one direction, with the time as an argument; [`Link`] makes two devices
//! of two such paths, on tokio's clock; [`Switch`] joins more than two.

/// What the builders have in common.
macro_rules! common_setters {
    ($mtu_of:literal) => {
        /// Where all chance comes from. Default zero.
        pub fn seed(mut self, seed: u64) -> Self {
            self.seed = seed;
            self
        }

        #[doc = concat!("The MTU of ", $mtu_of, ". Default 1500, at most 65,535.")]
        pub fn mtu(mut self, mtu: usize) -> Self {
            self.mtu = mtu;
            self
        }

        /// Whether super-packets and packets with an unfinished checksum pass as they are.
        /// Impairments then meet super-packets whole. Default no.
        pub fn offload(mut self, on: bool) -> Self {
            self.offload = on;
            self
        }
    };
}

mod chance;
mod end;
mod hub;
mod impairment;
mod pair;
mod path;
mod switch;
#[cfg(test)]
mod tests;

pub use self::{
    end::LinkEnd,
    impairment::{GilbertElliott, Impairment, QueueLimit},
    pair::{Direction, Link, LinkBuilder, LinkControl},
    path::{Path, PathStats, Verdict},
    switch::{Switch, SwitchBuilder},
};

/// The MTU of a link that is told none.
const MTU: usize = 1500;

//! TCP in user space with the face of `tokio::net`.

mod checksum;
pub mod config;
pub mod congestion;
pub mod device;
pub mod engine;
mod error;
pub mod info;
mod link;
pub mod net;
pub mod packet;
mod pool;
mod reactor;
mod seq;
mod tcp;
#[cfg(test)]
mod testing;
mod time;
mod wire;

pub use crate::{
    config::Config,
    error::{Failure, Unreachable},
    net::Stack,
    time::Time,
};

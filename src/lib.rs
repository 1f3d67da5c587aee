//! TCP in user space with the face of `tokio::net`.

pub mod config;
pub mod device;
mod error;
pub mod info;
pub mod packet;
mod pool;
mod seq;
mod time;

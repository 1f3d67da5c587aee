//! synack against Linux's TCP, through a TUN device in a network namespace of each test's own.
//!
//! In a test `lab.linux_*` and everything of `tokio::net` is Linux's end, and the `lab.stack` is
//! ours. Takes root, or unprivileged user namespaces, and `ip` and `nft` of iproute2 and nftables:
//! where they are missing, a test says so and passes, unless `CI` is set. A test that hangs shows
//! sockets and counters; `SYNACK_KERNEL_TEST_CAPTURE=file.pcapng` records one test.

#![cfg(all(feature = "tun", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod closed_window;
mod closing;
mod lab;
mod many;
mod opening;
mod path;
mod raw;
mod silence;
mod transfer;

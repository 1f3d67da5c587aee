//! What tests outside of the crate share.

#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]
#![allow(dead_code, reason = "each test file uses a part of it")]

#[cfg(all(feature = "tun", target_os = "linux"))]
use synack::device::{Tun, netns::NetNs};
use synack::{Stack, device};

/// Two stacks, 10.0.0.1 and 10.0.0.2, on one cable.
pub(crate) fn pair() -> (Stack, Stack) {
    let (one, other) = device::pair(1500);
    let stack = |device, host: u64| {
        Stack::builder()
            .address(format!("10.0.0.{host}/24").parse().unwrap())
            .seed(host)
            .spawn(device)
            .unwrap()
    };
    (stack(one, 1), stack(other, 2))
}

/// A network namespace of its own; `None`, with a word why, where the system forbids it and nobody
/// insists.
#[cfg(all(feature = "tun", target_os = "linux"))]
pub(crate) fn namespace() -> Option<NetNs> {
    match NetNs::new() {
        Ok(namespace) => Some(namespace),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A stack at 10.7.0.2 behind a TUN device, on whose other side Linux has 10.7.0.1.
#[cfg(all(feature = "tun", target_os = "linux"))]
pub(crate) fn behind_tun(namespace: &NetNs) -> Stack {
    let tun = Tun::builder()
        .name("syn0")
        .netns(namespace.clone())
        .address("10.7.0.1/24".parse().unwrap())
        .build()
        .unwrap();
    Stack::builder()
        .address("10.7.0.2/24".parse().unwrap())
        .spawn(tun)
        .unwrap()
}

/// Bytes that differ for each seed and can be made anywhere.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

//! Numbers that nobody outside may predict: initial sequence numbers, timestamp offsets, SYN
//! cookies.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use rand::Rng;
use siphasher::sip::SipHasher24;

use crate::{seq::SeqNum, time::Time};

/// Length of a SYN cookie's time slot. A cookie is good for this one and the next.
const SLOT_SECONDS: u64 = 64;

/// Bits of a SYN cookie that say what it was made of: the MSS, and whether its slot is odd.
const MSS_BITS: u32 = 3;
const PLAIN_BITS: u32 = MSS_BITS + 1;

/// The values of the MSS that a SYN cookie can remember; the greatest that is not above the peer's
/// is taken. The least is what we send to whoever asks for less.
const MSS_V4: [u16; 8] = [48, 536, 1200, 1360, 1440, 1460, 8960, 65_495];
const MSS_V6: [u16; 8] = [48, 1220, 1340, 1400, 1420, 1440, 8940, 65_475];

/// The low bits of a timestamp that carry options, as in Linux.
const OPTION_BITS: u32 = 6;
const OPTION_MASK: u32 = (1 << OPTION_BITS) - 1;
const SHIFT_MASK: u32 = 0xf;
const NO_SHIFT: u32 = 0xf;
const SACK_BIT: u32 = 1 << 4;
const ECN_BIT: u32 = 1 << 5;

/// The keys of a stack, one for each purpose, drawn when it starts. Never shown.
pub(crate) struct SecretKeys {
    isn: SipHasher24,
    timestamps: SipHasher24,
    cookies: SipHasher24,
}

/// What a SYN cookie keeps in the timestamp, if the peer sent one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CookieOptions {
    /// The peer's window shift, 0 to 14, if it offered window scaling.
    pub(crate) shift: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) ecn: bool,
}

impl SecretKeys {
    /// Draws new keys.
    pub(crate) fn new(rng: &mut impl Rng) -> Self {
        let mut key = || SipHasher24::new_with_keys(rng.next_u64(), rng.next_u64());
        Self {
            isn: key(),
            timestamps: key(),
            cookies: key(),
        }
    }

    /// RFC 6528 §3: ISN = M + F(four-tuple, secret), where M ticks every 4 µs.
    pub(crate) fn isn(&self, local: SocketAddr, peer: SocketAddr, now: Time) -> SeqNum {
        let offset = self.isn.hash(Input::new(local, peer).bytes()) as u32;
        let ticks = (now.as_micros() / 4) as u32; // Modulo 2^32, as sequence numbers are.
        SeqNum::new(offset.wrapping_add(ticks))
    }

    /// What is added to the timestamp clock on one four-tuple (RFC 7323 §7.1), so that it tells
    /// neither uptime nor which connections are of one stack.
    pub(crate) fn timestamp_offset(&self, local: SocketAddr, peer: SocketAddr) -> u32 {
        self.timestamps.hash(Input::new(local, peer).bytes()) as u32
    }

    /// An ISN from which the half-open connection can be told when it comes back (RFC 4987 §3.6):
    /// 28 bits of keyed hash over the four-tuple, the peer's ISN and the time, and what the hash
    /// cannot say.
    pub(crate) fn cookie(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        irs: SeqNum,
        mss: u16,
        now: Time,
    ) -> SeqNum {
        let fits = mss_table(peer).partition_point(|value| *value <= mss);
        let index = fits.saturating_sub(1) as u32; // Below 8.
        self.cookie_in_slot(local, peer, irs, index, slot(now))
    }

    /// The MSS that `cookie` remembers, if it is ours and no older than 64 to 128 s. `irs` is the
    /// peer's ISN: one less than the SEG.SEQ that came with the cookie's acknowledgement.
    pub(crate) fn check_cookie(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        irs: SeqNum,
        cookie: SeqNum,
        now: Time,
    ) -> Option<u16> {
        let index = cookie.raw() & ((1 << MSS_BITS) - 1);
        let is_odd = cookie.raw() >> MSS_BITS & 1;
        // Of two slots in a row one has the right parity, so one hash is enough.
        let age = (slot(now) ^ u64::from(is_odd)) & 1;
        let slot = slot(now).checked_sub(age)?;
        let expected = self.cookie_in_slot(local, peer, irs, index, slot);
        (cookie == expected).then(|| mss_table(peer)[index as usize])
    }

    fn cookie_in_slot(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        irs: SeqNum,
        index: u32,
        slot: u64,
    ) -> SeqNum {
        let mut input = Input::new(local, peer);
        input.push(&irs.raw().to_be_bytes());
        input.push(&slot.to_be_bytes());
        input.push(&index.to_be_bytes());
        let hash = self.cookies.hash(input.bytes()) as u32;
        let parity = (slot & 1) as u32;
        SeqNum::new(hash << PLAIN_BITS | parity << MSS_BITS | index)
    }
}

impl CookieOptions {
    /// The timestamp, before its offset, that carries these and is not later than `clock`.
    pub(crate) fn encode(self, clock: u32) -> u32 {
        let shift = self
            .shift
            .map_or(NO_SHIFT, |shift| u32::from(shift.min(14)));
        let flag = |on: bool, bit| if on { bit } else { 0 };
        let bits = shift | flag(self.sack, SACK_BIT) | flag(self.ecn, ECN_BIT);
        let encoded = clock & !OPTION_MASK | bits;
        if bits > clock & OPTION_MASK {
            encoded.wrapping_sub(1 << OPTION_BITS)
        } else {
            encoded
        }
    }

    /// What an echoed timestamp, its offset taken away, carries.
    pub(crate) fn decode(timestamp: u32) -> Self {
        let shift = timestamp & SHIFT_MASK;
        Self {
            shift: (shift != NO_SHIFT).then_some(shift as u8),
            sack: timestamp & SACK_BIT != 0,
            ecn: timestamp & ECN_BIT != 0,
        }
    }
}

const fn slot(now: Time) -> u64 {
    now.since_start().as_secs() / SLOT_SECONDS
}

const fn mss_table(peer: SocketAddr) -> &'static [u16; 8] {
    match peer {
        SocketAddr::V4(_) => &MSS_V4,
        SocketAddr::V6(_) => &MSS_V6,
    }
}

/// What is hashed: a four-tuple, and up to 16 bytes more.
struct Input {
    bytes: [u8; Self::TUPLE + 16],
    len: usize,
}

impl Input {
    const TUPLE: usize = 2 * (16 + 2);

    fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        let mut input = Self {
            bytes: [0; Self::TUPLE + 16],
            len: 0,
        };
        for end in [local, peer] {
            input.push(&octets(end.ip()));
            input.push(&end.port().to_be_bytes());
        }
        input
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKeys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn keys(seed: u64) -> SecretKeys {
        SecretKeys::new(&mut StdRng::seed_from_u64(seed))
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn seconds(secs: u64) -> Time {
        Time::from_start(Duration::from_secs(secs))
    }

    const IRS: SeqNum = SeqNum::new(77);

    #[test]
    fn b6_on_one_four_tuple_the_number_rises_every_4_microseconds() {
        let keys = keys(1);
        let isn = |now| keys.isn(at("10.0.0.1:80"), at("10.0.0.2:999"), now);
        let first = isn(Time::ZERO);
        assert_eq!(isn(Time::ZERO + Duration::from_micros(4)), first + 1);
        assert_eq!(isn(seconds(1)), first + 250_000);
        // The clock goes round every 4.77 hours.
        assert_eq!(
            isn(seconds(1 << 34) + Duration::from_micros(8)).since(first),
            { ((1u64 << 34) * 250_000 + 2) as u32 }
        );
    }

    #[test]
    fn b6_over_ports_the_steps_of_the_number_are_unrelated() {
        let keys = keys(2);
        let isn = |port| {
            let peer = SocketAddr::new("10.0.0.2".parse().unwrap(), port);
            keys.isn(at("10.0.0.1:80"), peer, Time::ZERO)
        };
        let mut steps: Vec<u32> = (1..5000).map(|p| isn(p + 1).since(isn(p))).collect();
        steps.sort_unstable();
        let median = steps[steps.len() / 2];
        let near = steps
            .iter()
            .filter(|s| s.abs_diff(median) < 1 << 20)
            .count();
        assert!(near * 20 < steps.len(), "{near}");
    }

    #[test]
    fn every_part_of_the_four_tuple_and_every_key_counts() {
        let tuples = [
            ("10.0.0.1:80", "10.0.0.2:999"),
            ("10.0.0.2:999", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.2:998"),
            ("10.0.0.1:81", "10.0.0.2:999"),
            ("10.0.0.1:80", "10.0.0.3:999"),
            ("[fd00::1]:80", "[fd00::2]:999"),
        ];
        let mut seen = Vec::new();
        for keys in [keys(1), keys(2)] {
            for (local, peer) in tuples {
                seen.push(keys.isn(at(local), at(peer), Time::ZERO).raw());
                seen.push(keys.timestamp_offset(at(local), at(peer)));
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 24);
    }

    #[test]
    fn no_secret_is_shown() {
        assert_eq!(format!("{:?}", keys(3)), "SecretKeys { .. }");
    }

    #[test]
    fn a_cookie_remembers_the_mss_rounded_down() {
        let keys = keys(4);
        for (local, peer, table) in [
            ("10.0.0.1:80", "10.0.0.2:999", MSS_V4),
            ("[fd00::1]:80", "[fd00::2]:999", MSS_V6),
        ] {
            let (local, peer) = (at(local), at(peer));
            let through = |mss| {
                let cookie = keys.cookie(local, peer, IRS, mss, seconds(9));
                keys.check_cookie(local, peer, IRS, cookie, seconds(9))
            };
            for mss in table {
                assert_eq!(through(mss), Some(mss));
            }
            assert_eq!(through(table[4] + 1), Some(table[4]));
            assert_eq!(through(table[2] - 1), Some(table[1]));
            assert_eq!((through(0), through(u16::MAX)), (Some(48), Some(table[7])));
        }
    }

    #[test]
    fn a_cookie_is_good_for_64_to_128_seconds() {
        let keys = keys(5);
        let (local, peer) = (at("10.0.0.1:80"), at("10.0.0.2:999"));
        for made in [0, 1, 63, 64, 6400, 6463] {
            let cookie = keys.cookie(local, peer, IRS, 1460, seconds(made));
            let check = |age| keys.check_cookie(local, peer, IRS, cookie, seconds(made + age));
            assert!((0..=64).all(|age| check(age) == Some(1460)), "{made}");
            assert!((128..1000).all(|age| check(age).is_none()), "{made}");
        }
    }

    #[test]
    fn a_cookie_is_good_for_nobody_else() {
        let ours = keys(6);
        let (local, peer) = (at("10.0.0.1:80"), at("10.0.0.2:999"));
        let cookie = ours.cookie(local, peer, IRS, 1460, seconds(70));
        let now = seconds(71);
        assert!(ours.check_cookie(local, peer, IRS, cookie, now).is_some());
        assert!(
            ours.check_cookie(local, peer, IRS + 1, cookie, now)
                .is_none()
        );
        assert!(ours.check_cookie(peer, local, IRS, cookie, now).is_none());
        assert!(
            keys(7)
                .check_cookie(local, peer, IRS, cookie, now)
                .is_none()
        );
        for bit in 0..32 {
            let forged = SeqNum::new(cookie.raw() ^ 1 << bit);
            assert!(ours.check_cookie(local, peer, IRS, forged, now).is_none());
        }
        let mut rng = StdRng::seed_from_u64(8);
        for _ in 0..100_000 {
            let guess = SeqNum::new(rng.random());
            assert!(ours.check_cookie(local, peer, IRS, guess, now).is_none());
        }
    }

    #[test]
    fn options_survive_in_a_timestamp_that_is_never_later_than_the_clock() {
        for shift in (0..=14).map(Some).chain([None]) {
            for (sack, ecn) in [(false, false), (true, false), (false, true), (true, true)] {
                let options = CookieOptions { shift, sack, ecn };
                for clock in [0, 1, 63, 64, 1_000_003, u32::MAX] {
                    let encoded = options.encode(clock);
                    assert_eq!(CookieOptions::decode(encoded), options);
                    assert!(clock.wrapping_sub(encoded) <= 64);
                }
            }
        }
    }
}

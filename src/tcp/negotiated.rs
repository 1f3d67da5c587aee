//! What the two SYNs agreed on.

use crate::{
    config::{Config, SocketOptions},
    wire::options::{TcpOptions, Timestamps},
};

/// The largest shift (RFC 7323 §2.3).
const SHIFT_MAX: u8 = 14;

/// Segments carry at least this much, whatever the peer says: Linux's `tcp_min_snd_mss`
/// less its options. A peer that asks for less wants us to drown in headers (CVE-2019-11479).
pub(crate) const MSS_MIN: u16 = 48;

/// What a connection's two SYNs agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// The MSS that the peer announced, or what its absence means (RFC 9293 §3.7.1).
    pub(crate) peer_mss: u16,
    /// Snd.Wind.Shift and Rcv.Wind.Shift, when both sides scale.
    pub(crate) shifts: Option<(u8, u8)>,
    pub(crate) sack: bool,
    pub(crate) timestamps: bool,
    pub(crate) ecn: bool,
}

impl Negotiated {
    /// What `options` of the peer's SYN mean to us, who offer (or offered) what `config` says, and
    /// `rcv_shift`.
    pub(crate) fn new(
        options: &TcpOptions,
        ecn: bool,
        is_v6: bool,
        rcv_shift: u8,
        config: &Config,
    ) -> Self {
        let default_mss = if is_v6 { 1220 } else { 536 };
        Self {
            peer_mss: options
                .mss
                .filter(|mss| *mss > 0)
                .unwrap_or(default_mss)
                .max(MSS_MIN),
            shifts: options
                .window_scale
                .filter(|_| config.window_scaling)
                .map(|shift| (shift.min(SHIFT_MAX), rcv_shift)),
            sack: options.sack_permitted && config.sack,
            timestamps: options.timestamps.is_some() && config.timestamps,
            ecn,
        }
    }

    /// What our SYN asks for.
    pub(crate) fn wanted(options: &SocketOptions, config: &Config) -> Self {
        Self {
            peer_mss: MSS_MIN,
            shifts: config
                .window_scaling
                .then(|| (0, receive_shift(options, config))),
            sack: config.sack,
            timestamps: config.timestamps,
            ecn: config.ecn,
        }
    }

    /// The options of the SYN that asks for this, or of the SYN-ACK that agrees to it.
    pub(crate) fn syn_options(&self, mss: u16, ts: Timestamps) -> TcpOptions {
        TcpOptions {
            mss: Some(mss),
            sack_permitted: self.sack,
            timestamps: self.timestamps.then_some(ts),
            window_scale: self.shifts.map(|(_, rcv)| rcv),
            ..TcpOptions::default()
        }
    }
}

/// The shift that a socket offers: enough for what its receive buffer may grow to, and for what it
/// is already, or was set to (`SO_RCVBUF`).
pub(crate) fn receive_shift(options: &SocketOptions, config: &Config) -> u8 {
    let fixed = options.recv_buffer.unwrap_or(config.recv_buffer);
    shift_for(fixed.max(config.recv_buffer_max))
}

/// The smallest shift that lets a window of `max` bytes be advertised.
fn shift_for(max: usize) -> u8 {
    (0..SHIFT_MAX)
        .find(|shift| 65_535_usize << shift >= max)
        .unwrap_or(SHIFT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_offers_are_bounded() {
        let config = Config::default();
        let options = TcpOptions {
            mss: Some(1),
            window_scale: Some(255),
            ..TcpOptions::default()
        };
        let agreed = Negotiated::new(&options, false, false, 7, &config);
        assert_eq!((agreed.peer_mss, agreed.shifts), (MSS_MIN, Some((14, 7))));
        let none = Negotiated::new(&TcpOptions::default(), false, true, 7, &config);
        assert_eq!(
            (none.peer_mss, none.shifts, none.sack, none.timestamps),
            (1220, None, false, false)
        );
    }

    #[test]
    fn the_shift_covers_the_largest_buffer() {
        assert_eq!(shift_for(65_535), 0);
        assert_eq!(shift_for(65_536), 1);
        assert_eq!(shift_for(6 << 20), 7);
        assert_eq!(shift_for(1 << 30), 14);
        assert_eq!(shift_for(usize::MAX), 14);
    }

    #[test]
    fn the_shift_covers_a_fixed_buffer_too() {
        let mut config = Config::default();
        let mut options = SocketOptions::default();
        assert_eq!(receive_shift(&options, &config), 7);
        options.recv_buffer = Some(4 << 10);
        assert_eq!(receive_shift(&options, &config), 7);
        options.recv_buffer = Some(64 << 20);
        assert_eq!(receive_shift(&options, &config), 11);
        config.recv_buffer(32 << 20);
        options.recv_buffer = None;
        assert_eq!(receive_shift(&options, &config), 10);
    }
}

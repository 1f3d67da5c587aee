//! What the two SYNs agreed on.

use crate::{
    config::Config,
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
    /// What `options` of the peer's SYN mean to us, who offer (or offered) what `config` says.
    pub(crate) fn new(options: &TcpOptions, ecn: bool, is_v6: bool, config: &Config) -> Self {
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
                .map(|shift| (shift.min(SHIFT_MAX), receive_shift(config.recv_buffer_max))),
            sack: options.sack_permitted && config.sack,
            timestamps: options.timestamps.is_some() && config.timestamps,
            ecn,
        }
    }

    /// The options of our SYN, or of a SYN-ACK when this is what the peer's SYN offered.
    pub(crate) fn syn_options(
        offer: Option<&Self>,
        mss: u16,
        ts: Timestamps,
        config: &Config,
    ) -> TcpOptions {
        let shift = receive_shift(config.recv_buffer_max);
        let mut options = TcpOptions {
            mss: Some(mss),
            ..TcpOptions::default()
        };
        match offer {
            None => {
                options.sack_permitted = config.sack;
                options.timestamps = config.timestamps.then_some(ts);
                options.window_scale = config.window_scaling.then_some(shift);
            }
            Some(agreed) => {
                options.sack_permitted = agreed.sack;
                options.timestamps = agreed.timestamps.then_some(ts);
                options.window_scale = agreed.shifts.map(|(_, rcv)| rcv);
            }
        }
        options
    }
}

/// The smallest shift that lets a window of `max` bytes be advertised.
pub(crate) fn receive_shift(max: usize) -> u8 {
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
        let agreed = Negotiated::new(&options, false, false, &config);
        assert_eq!((agreed.peer_mss, agreed.shifts), (MSS_MIN, Some((14, 7))));
        let none = Negotiated::new(&TcpOptions::default(), false, true, &config);
        assert_eq!(
            (none.peer_mss, none.shifts, none.sack, none.timestamps),
            (1220, None, false, false)
        );
    }

    #[test]
    fn the_shift_covers_the_largest_buffer() {
        assert_eq!(receive_shift(65_535), 0);
        assert_eq!(receive_shift(65_536), 1);
        assert_eq!(receive_shift(6 << 20), 7);
        assert_eq!(receive_shift(1 << 30), 14);
        assert_eq!(receive_shift(usize::MAX), 14);
    }
}

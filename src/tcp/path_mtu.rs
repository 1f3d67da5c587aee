//! How large a segment may be: what the peer, the path and the user allow (RFC 9293 §3.7.1), and
//! what the path turns out to take (RFC 1191, RFC 8201, RFC 4821).

use std::time::Duration;

use crate::{
    config::SocketOptions,
    tcp::{
        connection::Connection,
        liveness::R1,
        negotiated::MSS_MIN,
        recovery::{Frto, Mode},
    },
    time::Time,
};

/// Bytes of the timestamps option, padded.
const TIMESTAMPS_LEN: u16 = 12;

/// A smaller path MTU is believed for this long (RFC 1191 §6.3; Linux: `mtu_expires`).
pub(crate) const BELIEVED_FOR: Duration = Duration::from_secs(600);

/// What is tried when large packets vanish and nobody says why (RFC 4821 §7.7): packets with
/// segments of 1024 bytes (Linux: `tcp_base_mss`), then of 536.
const STEPS_V4: [u32; 2] = [1024 + 40, 536 + 40];

/// Every path of IPv6 takes this much (RFC 8201 §4).
const STEPS_V6: [u32; 1] = [1280];

/// The largest packets that the path takes, as far as we know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathMtu {
    /// In bytes.
    pub(super) mtu: u32,
    /// What our device takes.
    pub(super) device: u32,
    /// When to try that again.
    retry_at: Time,
}

impl PathMtu {
    /// As far as we know, as large as our device takes.
    pub(crate) const fn new(device: u32) -> Self {
        Self {
            mtu: device,
            device,
            retry_at: Time::MAX,
        }
    }

    /// No larger than `mtu`, as another connection has found out, until `retry_at`.
    pub(crate) fn at_most(self, mtu: u32, retry_at: Time) -> Self {
        if mtu >= self.mtu {
            return self;
        }
        Self {
            mtu,
            retry_at,
            ..self
        }
    }
}

/// A path that may swallow large packets without a word, or that carries nothing at all for a while:
/// silence alone does not tell which of the two it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlackHole {
    /// The packets that are tried in place of larger ones.
    mtu: u32,
    /// While nothing is acknowledged, they are.
    trying: bool,
    /// When one of these got through for the first time: what was sent larger since tells.
    since: Option<Time>,
}

/// What both sides of a handshake know of the stack around them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) mtu: PathMtu,
    pub(crate) is_v6: bool,
}

impl Path {
    /// The MSS to announce (MUST-67): what our device takes, whatever the path to the peer does.
    pub(super) fn announced_mss(self, options: &SocketOptions) -> u16 {
        let headers = if self.is_v6 { 60 } else { 40 };
        let mss = self
            .mtu
            .device
            .saturating_sub(headers)
            .clamp(88, u32::from(u16::MAX)) as u16;
        mss.min(options.mss.unwrap_or(u16::MAX))
    }
}

impl Connection {
    /// Eff.snd.MSS (RFC 9293 §3.7.1): what peer, path and user allow, less our options.
    pub(super) fn set_mss(&mut self) {
        let full = self.mss_for(self.path.mtu);
        // A peer whose window holds less than two segments gets two that are smaller, so that it
        // need not wait for the delayed acknowledgement of one (Linux: `tcp_bound_to_half_wnd`).
        let window = match self.snd.max_wnd {
            0 => u32::MAX,
            small @ 1..=536 => small,
            large => large / 2,
        };
        self.snd.mss = u32::from(full).min(window.max(u32::from(MSS_MIN - TIMESTAMPS_LEN))) as u16;
        self.cc.set_mss(u32::from(full));
    }

    fn mss_for(&self, mtu: u32) -> u16 {
        let path = mtu
            .saturating_sub(u32::from(self.overhead))
            .min(u32::from(u16::MAX)) as u16;
        let user = self.options.mss.unwrap_or(u16::MAX);
        let options = if self.agreed.timestamps {
            TIMESTAMPS_LEN
        } else {
            0
        };
        let mss = self.agreed.peer_mss.min(path).min(user).max(MSS_MIN);
        mss - options
    }

    /// The device takes packets of `mtu` bytes from now on.
    pub(crate) fn set_path_mtu(&mut self, mtu: u32) {
        if mtu != self.path.device {
            self.path = PathMtu::new(mtu);
            self.set_mss();
        }
    }

    /// The path does not take what is in flight (RFC 1191, RFC 8201): sends smaller segments, and
    /// what was too large again. Returns whether that is news.
    pub(crate) fn on_packet_too_big(&mut self, mtu: u32, now: Time) -> bool {
        if mtu >= self.path.mtu {
            return false;
        }
        tracing::debug!(mtu, "path MTU");
        let before = self.snd.mss;
        self.lower(mtu, now);
        if self.snd.mss >= before {
            return true;
        }
        let before = self.recovery.board.lost();
        self.recovery
            .board
            .mark_larger_lost(u64::from(self.snd.mss));
        let lost = self.recovery.board.lost() - before;
        self.recovery.lost_total += lost;
        // Not a sign of congestion (RFC 1191 §6.3): the window is as many segments as before.
        if lost > 0 && self.recovery.is_open() {
            self.recovery.undo = None;
            self.recovery.mode = Mode::Rto {
                recovery_point: self.snd.nxt,
                frto: Frto::Off,
                spared: 0,
            };
        }
        self.set_loss_timers(true, now);
        true
    }

    fn lower(&mut self, mtu: u32, now: Time) {
        self.path.mtu = mtu;
        self.path.retry_at = now + BELIEVED_FOR;
        self.set_mss();
    }

    /// Nothing was acknowledged for several timeouts: perhaps the path swallows large packets, so
    /// smaller ones are tried (Linux with `tcp_mtu_probing` 1). Once that was of use, a single
    /// timeout is enough.
    pub(super) fn suspect_black_hole(&mut self) {
        if let Some(hole) = self.black_hole
            && !hole.trying
            && self.snd.flight_size() > u64::from(self.mss_for(hole.mtu))
        {
            let trying = true;
            self.black_hole = Some(BlackHole { trying, ..hole });
            return;
        }
        if self.patience.retries < R1 {
            return;
        }
        let steps = if self.overhead > 40 {
            &STEPS_V6[..]
        } else {
            &STEPS_V4[..]
        };
        let tried = self.black_hole.map_or(self.path.mtu, |hole| hole.mtu);
        let Some(&mtu) = steps.iter().find(|step| **step < tried) else {
            return;
        };
        if self.recovery.board.head_len() > u64::from(self.mss_for(mtu)) {
            tracing::debug!(mtu, "silence: smaller packets are tried");
            self.black_hole = Some(BlackHole {
                mtu,
                trying: true,
                since: self.black_hole.and_then(|hole| hole.since),
            });
        }
    }

    /// Something was acknowledged; `large`: and it shows that the path takes large packets.
    ///
    /// After an outage small ones get through as well as large ones: so these are sent next, and
    /// only where they vanish and small ones get through again does the path swallow them.
    pub(super) fn judge_black_hole(&mut self, large: bool, now: Time) {
        let Some(hole) = self.black_hole else {
            return;
        };
        self.black_hole = match hole.since {
            _ if large => None,
            None => Some(BlackHole {
                trying: false,
                since: Some(now),
                ..hole
            }),
            Some(_) if hole.trying => {
                tracing::debug!(mtu = hole.mtu, "path MTU, from silence");
                self.lower(hole.mtu, now);
                None
            }
            Some(_) => Some(hole),
        };
    }

    /// What shows that there is none: segments of more bytes than this, sent since then.
    pub(super) fn black_hole_disproof(&self) -> Option<(Time, u64)> {
        let hole = self.black_hole?;
        Some((hole.since?, self.mss_for(hole.mtu).into()))
    }

    /// Payload bytes of a full segment, as things stand.
    pub(super) fn segment_max(&self) -> u16 {
        match self.black_hole {
            Some(hole) if hole.trying => self.snd.mss.min(self.mss_for(hole.mtu)),
            _ => self.snd.mss,
        }
    }

    /// What the path did not take ten minutes ago it may take now.
    pub(super) fn retry_path_mtu(&mut self, now: Time) {
        if now >= self.path.retry_at {
            self.path = PathMtu::new(self.path.device);
            self.set_mss();
        }
    }
}

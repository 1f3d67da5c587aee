//! What is checked of the values of socket options, and how Linux would report them.

use std::{fmt, io, time::Duration};

use crate::config::{KeepAlive, SocketOptions};

/// An `InvalidInput` error that names the value and what is allowed.
pub(super) fn invalid(what: &str, value: impl fmt::Debug, allowed: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{what} {value:?} is not allowed: {allowed}"),
    )
}

/// A time to live or hop limit.
pub(super) fn ttl(ttl: u32) -> io::Result<u8> {
    u8::try_from(ttl)
        .ok()
        .filter(|ttl| *ttl > 0)
        .ok_or_else(|| invalid("time to live", ttl, "1 to 255"))
}

/// A DSCP byte. Its two ECN bits belong to the stack, as they belong to Linux for TCP.
pub(super) fn tos(tos: u32) -> io::Result<u8> {
    u8::try_from(tos)
        .map(|tos| tos & !0b11)
        .map_err(|_| invalid("type of service", tos, "0 to 255"))
}

/// A linger time as Linux keeps it: in whole seconds.
pub(super) fn linger(time: Option<Duration>) -> Option<Duration> {
    time.map(|time| Duration::from_secs(time.as_secs()))
}

/// Limits of Linux, but for fractions of a second.
pub(super) fn keepalive(probes: KeepAlive) -> io::Result<KeepAlive> {
    for (what, time) in [
        ("keep-alive idle time", probes.idle),
        ("keep-alive interval", probes.interval),
    ] {
        if !KeepAlive::TIMES.contains(&time) {
            return Err(invalid(what, time, "1 ms to 32,767 s"));
        }
    }
    if !KeepAlive::COUNTS.contains(&probes.count) {
        return Err(invalid("keep-alive count", probes.count, "1 to 127"));
    }
    Ok(probes)
}

/// A user timeout; zero means none, as in Linux.
pub(super) fn user_timeout(time: Option<Duration>) -> Option<Duration> {
    time.filter(|time| !time.is_zero())
}

/// A limit for the segment size, within Linux's limits.
pub(super) fn mss(mss: Option<u16>) -> io::Result<Option<u16>> {
    match mss {
        Some(mss) if !SocketOptions::MSS.contains(&mss) => {
            Err(invalid("maximum segment size", mss, "88 to 32,767"))
        }
        _ => Ok(mss),
    }
}

/// Buffer sizes in bytes as the application sets and sees them.
///
/// Linux doubles what is set, to have room for its own overhead, and reports the double; programs
/// know. Here the half of what is reported is what the buffer holds.
#[derive(Clone, Copy)]
pub(super) enum Buffer {
    Recv,
    Send,
}

impl Buffer {
    /// Bytes that a buffer holds which was set to `size`.
    pub(super) fn to_hold(self, size: u32) -> usize {
        let min = match self {
            Self::Recv => SocketOptions::RECV_BUFFER_MIN,
            Self::Send => SocketOptions::SEND_BUFFER_MIN,
        };
        (size as usize).clamp(min, SocketOptions::BUFFER_MAX)
    }

    /// What is reported: `held` if it was set, or else the `default`.
    pub(super) fn to_report(self, held: Option<usize>, default: usize) -> u32 {
        let size = held.map_or(default, |held| held.saturating_mul(2));
        u32::try_from(size).unwrap_or(u32::MAX)
    }
}

/// Writes getters and setters that streams and sockets have in common. Each type has `options()`
/// and `change(FnOnce(&mut SocketOptions))`.
macro_rules! common_options {
    ($type:ty) => {
        impl $type {
            /// Whether Nagle's algorithm is off (`TCP_NODELAY`). Default: false, it is on.
            ///
            /// # Errors
            /// None; `io::Result` is for the likeness to `tokio::net`.
            pub fn nodelay(&self) -> io::Result<bool> {
                Ok(self.options().nodelay)
            }

            /// Switches Nagle's algorithm off (true) or on. When on, a small segment waits while
            /// earlier data is unacknowledged.
            ///
            /// # Errors
            /// None; `io::Result` is for the likeness to `tokio::net`.
            pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
                self.change(|options| options.nodelay = nodelay);
                Ok(())
            }

            /// What dropping the last handle does (`SO_LINGER`): see
            /// [`set_linger`](Self::set_linger). Default: `None`.
            ///
            /// # Errors
            /// None; `io::Result` is for the likeness to `tokio::net`.
            pub fn linger(&self) -> io::Result<Option<Duration>> {
                Ok(self.options().linger)
            }

            /// What dropping the last handle does (`SO_LINGER`): with `None`, what is left is sent
            /// in the background; with zero, it is discarded and the connection is reset. Any other
            /// time does as `None`; it is kept in whole seconds, rounded down.
            ///
            /// A socket of Linux whose linger time is over sends on in the background too: the time
            /// says only how long `close` blocks the thread, and dropping never does. What is to
            /// end for want of acknowledgements needs a
            /// [user timeout](Self::set_user_timeout), which holds beyond the drop.
            ///
            /// # Errors
            /// None; `io::Result` is for the likeness to `tokio::net`.
            pub fn set_linger(&self, time: Option<Duration>) -> io::Result<()> {
                self.change(|options| options.linger = options::linger(time));
                Ok(())
            }

            /// Makes dropping the last handle reset the connection and discard what was not sent.
            ///
            /// # Errors
            /// None; `io::Result` is for the likeness to `tokio::net`.
            pub fn set_zero_linger(&self) -> io::Result<()> {
                self.set_linger(Some(Duration::ZERO))
            }

            /// Whether small segments are held back (`TCP_CORK`). Default: false.
            pub fn cork(&self) -> bool {
                self.options().cork
            }

            /// Sends only full-sized segments until it is switched off again (`TCP_CORK`).
            pub fn set_cork(&self, cork: bool) {
                self.change(|options| options.cork = cork);
            }

            /// How long data may stay unacknowledged before the connection has timed out
            /// (`TCP_USER_TIMEOUT`). Default: `None`, until the retransmissions that the
            /// configuration allows are used up.
            pub fn user_timeout(&self) -> Option<Duration> {
                self.options().user_timeout
            }

            /// Limits how long data may stay unacknowledged; `None` or zero take the limit away.
            pub fn set_user_timeout(&self, time: Option<Duration>) {
                self.change(|options| options.user_timeout = options::user_timeout(time));
            }

            /// The congestion control algorithm (`TCP_CONGESTION`). Default: CUBIC.
            pub fn congestion(&self) -> Congestion {
                self.options().congestion
            }

            /// Chooses the congestion control algorithm. A connection that has one already starts
            /// over with the initial window.
            pub fn set_congestion(&self, congestion: Congestion) {
                self.change(|options| options.congestion = congestion);
            }

            /// The limit set for the segment size, in bytes (`TCP_MAXSEG`). Default: `None`, what
            /// the path allows.
            pub fn mss(&self) -> Option<u16> {
                self.options().mss
            }

            /// Limits the payload of the segments sent, and before the handshake also the size
            /// announced to the peer: 88 to 32,767 bytes.
            ///
            /// # Errors
            /// `InvalidInput`: outside of the range.
            pub fn set_mss(&self, mss: Option<u16>) -> io::Result<()> {
                let mss = options::mss(mss)?;
                self.change(|options| options.mss = mss);
                Ok(())
            }
        }
    };
}

/// Writes the deprecated names of the type of service.
macro_rules! older_names {
    ($type:ty) => {
        impl $type {
            /// [`tos_v4`](Self::tos_v4) by its older name.
            ///
            /// # Errors
            /// None; `io::Result` is for the likeness to `tokio::net`.
            #[deprecated = "renamed to `tos_v4`, as in tokio"]
            pub fn tos(&self) -> io::Result<u32> {
                self.tos_v4()
            }

            /// [`set_tos_v4`](Self::set_tos_v4) by its older name.
            ///
            /// # Errors
            /// As [`set_tos_v4`](Self::set_tos_v4).
            #[deprecated = "renamed to `set_tos_v4`, as in tokio"]
            pub fn set_tos(&self, tos: u32) -> io::Result<()> {
                self.set_tos_v4(tos)
            }
        }
    };
}

pub(super) use common_options;
pub(super) use older_names;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_value_and_what_is_allowed() {
        let text = ttl(256).unwrap_err().to_string();
        assert_eq!(text, "time to live 256 is not allowed: 1 to 255");
        assert_eq!(
            mss(Some(87)).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn buffer_sizes_are_reported_as_linux_reports_them() {
        let reported = |buffer: Buffer, size| {
            let held = Some(buffer.to_hold(size));
            buffer.to_report(held, 131_072)
        };
        assert_eq!(reported(Buffer::Recv, 100), 2304);
        assert_eq!(reported(Buffer::Send, 100), 4608);
        assert_eq!(reported(Buffer::Send, 65_536), 131_072);
        assert_eq!(Buffer::Recv.to_report(None, 131_072), 131_072);
    }

    #[test]
    fn linger_is_kept_in_whole_seconds() {
        assert_eq!(
            linger(Some(Duration::from_millis(1500))),
            Some(Duration::from_secs(1))
        );
    }
}

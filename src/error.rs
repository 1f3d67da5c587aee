//! Why a connection ended, and what the application is told.

use std::{error::Error, fmt, io};

/// Why a connection ended without an orderly close.
///
/// ```
/// use std::io::{self, ErrorKind};
/// use synack::Failure;
///
/// let error = io::Error::from(Failure::Reset);
/// assert_eq!(error.kind(), ErrorKind::ConnectionReset);
/// // What it was made of is inside, for those who want to know exactly.
/// let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>());
/// assert_eq!(inner, Some(&Failure::Reset));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Failure {
    /// The peer answered our SYN with a reset, or ICMP said that nobody serves the port.
    Refused = 1,
    /// The peer reset the connection.
    Reset,
    /// The peer had closed its side, then reset the connection: nobody reads what we write.
    BrokenPipe,
    /// We reset it.
    Aborted,
    /// Nothing was acknowledged for the user timeout, or keep-alive probes stayed unanswered.
    TimedOut,
    /// ICMP said that there is no way to the host.
    HostUnreachable,
    /// ICMP said that there is no way to its network.
    NetworkUnreachable,
    /// The device failed or is gone.
    DeviceGone,
    /// The stack was shut down.
    StackClosed,
    /// A connection between these two addresses and ports exists.
    AddressInUse,
    /// All local ports lead to this peer already.
    NoPort,
    /// The stack has as many connections as it may have.
    NoMemory,
}

/// What a peer is told by ICMP in place of a reset.
///
/// ```
/// # async fn example(wanted: synack::net::Incoming) {
/// use synack::Unreachable;
///
/// if wanted.local_addr().port() == 25 {
///     wanted.reject_with(Unreachable::AdminProhibited);
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unreachable {
    /// There is no way to the host.
    Host,
    /// Nobody is at the port.
    Port,
    /// Somebody does not want it to be.
    AdminProhibited,
}

impl Failure {
    /// The failure with this number, if there is one.
    pub(crate) const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Refused,
            2 => Self::Reset,
            3 => Self::BrokenPipe,
            4 => Self::Aborted,
            5 => Self::TimedOut,
            6 => Self::HostUnreachable,
            7 => Self::NetworkUnreachable,
            8 => Self::DeviceGone,
            9 => Self::StackClosed,
            10 => Self::AddressInUse,
            11 => Self::NoPort,
            12 => Self::NoMemory,
            _ => return None,
        })
    }

    /// The kind that `tokio::net` reports in the same case.
    pub const fn kind(self) -> io::ErrorKind {
        match self {
            Self::Refused => io::ErrorKind::ConnectionRefused,
            Self::Reset => io::ErrorKind::ConnectionReset,
            Self::BrokenPipe => io::ErrorKind::BrokenPipe,
            Self::Aborted => io::ErrorKind::ConnectionAborted,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::HostUnreachable => io::ErrorKind::HostUnreachable,
            Self::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            Self::DeviceGone => io::ErrorKind::NetworkDown,
            Self::StackClosed => io::ErrorKind::NotConnected,
            Self::AddressInUse => io::ErrorKind::AddrNotAvailable, // As `connect` has it on Linux.
            Self::NoPort => io::ErrorKind::AddrNotAvailable,
            Self::NoMemory => io::ErrorKind::OutOfMemory,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset by peer",
            Self::BrokenPipe => "broken pipe",
            Self::Aborted => "connection aborted",
            Self::TimedOut => "connection timed out",
            Self::HostUnreachable => "host unreachable",
            Self::NetworkUnreachable => "network unreachable",
            Self::DeviceGone => "the stack's device failed",
            Self::StackClosed => "the stack was shut down",
            Self::AddressInUse => "a connection between these addresses and ports exists",
            Self::NoPort => "every local port leads to this peer already",
            Self::NoMemory => "the stack has as many connections as it may have",
        })
    }
}

impl Error for Failure {}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind(), failure)
    }
}

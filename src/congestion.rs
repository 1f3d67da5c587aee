//! Congestion control: the three that are built in, and what one of your own has to be.
//!
//! What to retransmit, and when a loss episode begins and ends, is the business of loss recovery,
//! which also decides what is sent during the episode (PRR, RFC 9937). An algorithm only moves its
//! window, or sets a rate, on events that it is told about.
//!
//! ```
//! use std::time::Duration;
//! use synack::{Config, Time, config::{Congestion, SocketOptions}, congestion::{Ack, Cause, CongestionControl}};
//!
//! /// Keeps 20 segments in flight, come what may.
//! #[derive(Debug)]
//! struct Fixed {
//!     mss: u32,
//! }
//!
//! impl CongestionControl for Fixed {
//!     fn name(&self) -> &'static str {
//!         "fixed"
//!     }
//!     fn window(&self) -> u32 {
//!         20 * self.mss
//!     }
//!     fn ssthresh(&self) -> u32 {
//!         20 * self.mss
//!     }
//!     fn set_mss(&mut self, mss: u32) {
//!         self.mss = mss;
//!     }
//!     fn on_ack(&mut self, _: &Ack, _: Time) {}
//!     fn on_congestion(&mut self, _: u32, _: Cause, _: Time) {}
//!     fn on_rto(&mut self, _: u32, _: Time) {}
//!     fn on_spurious(&mut self, _: Time) {}
//!     fn on_idle_restart(&mut self, _: Duration, _: Duration) {}
//! }
//!
//! let mut options = SocketOptions::default();
//! options.congestion = Congestion::Custom;
//! let mut config = Config::default();
//! config.congestion_factory(|mss, _initial_window| Box::new(Fixed { mss })).options(options);
//! ```

use std::{
    fmt::{self, Debug},
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
    time::Duration,
};

use crate::time::Time;

/// What an acknowledgement says about the path.
///
/// ```
/// use synack::congestion::Ack;
///
/// /// Slow start: as many bytes more as were delivered, unless nobody would use them.
/// fn grown(cwnd: u32, ack: &Ack) -> u32 {
///     if ack.app_limited || ack.in_recovery { cwnd } else { cwnd + ack.delivered }
/// }
/// assert_eq!(grown(10_000, &Ack { delivered: 1460, ..Ack::default() }), 11_460);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Ack {
    /// Bytes newly known to be delivered, by this acknowledgement's number or by its SACK blocks.
    /// Up to 64 KiB and more at a time is normal.
    pub delivered: u32,
    /// FlightSize before this acknowledgement (RFC 5681 §2).
    pub flight_size: u32,
    /// The round-trip time that this acknowledgement measured.
    pub rtt: Option<Duration>,
    /// The smoothed round-trip time.
    pub srtt: Option<Duration>,
    /// The least round-trip time of the last minutes.
    pub min_rtt: Option<Duration>,
    /// Bytes believed to be in flight after it.
    pub in_flight: u32,
    /// Bytes found lost by it.
    pub lost: u32,
    /// The delivery rate sample that ends here.
    pub sample: Option<RateSample>,
    /// The application or the peer's window, not cwnd, was the limit: then cwnd must not grow.
    pub app_limited: bool,
    /// Something that was sent after the last such acknowledgement has arrived: a new round trip
    /// begins.
    pub round_start: bool,
    /// Packets have been seen to overtake each other on this path (RFC 8985, RACK.reordering_seen).
    pub reordered: bool,
    /// Fast recovery is under way, or may be about to begin, and cwnd must not grow. It is not set while lost data is
    /// retransmitted after a timeout: that is slow start.
    pub in_recovery: bool,
}

/// How fast the path delivered, by one acknowledgement
/// (draft-cheng-iccrg-delivery-rate-estimation).
///
/// It is about the time since the newest segment that was acknowledged was sent, and about what was
/// delivered in that time.
///
/// ```
/// use synack::congestion::RateSample;
///
/// /// What of the data was lost, in percent.
/// fn loss(sample: &RateSample) -> Option<u64> {
///     let delivered = sample.delivered - sample.prior_delivered;
///     (sample.lost * 100).checked_div(delivered + sample.lost)
/// }
/// assert_eq!(loss(&RateSample::default()), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateSample {
    /// Bytes a second; `None` when the time was too short to tell.
    pub rate: Option<u64>,
    /// The application was the limit when that segment was sent.
    pub app_limited: bool,
    /// Bytes delivered in all, when that segment was sent.
    pub prior_delivered: u64,
    /// Bytes delivered in all, now.
    pub delivered: u64,
    /// Bytes found lost since that segment was sent.
    pub lost: u64,
    /// Bytes in flight when that segment was sent.
    pub in_flight: u64,
}

/// Why the window has to be reduced.
///
/// ```
/// use synack::congestion::Cause;
///
/// /// RFC 8511: a mark weighs less than a loss.
/// fn reduced(cwnd: u32, cause: Cause) -> u32 {
///     match cause {
///         Cause::Loss => cwnd / 2,
///         Cause::Ecn => cwnd / 5 * 4,
///     }
/// }
/// assert_eq!(reduced(20_000, Cause::Ecn), 16_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Something was lost.
    Loss,
    /// The peer echoed a congestion mark (RFC 3168).
    Ecn,
}

/// A congestion control algorithm.
///
/// An episode begins with [`on_congestion`](Self::on_congestion) and ends with
/// [`on_recovery_exit`](Self::on_recovery_exit); [`on_rto`](Self::on_rto) may come within it or by
/// itself.
///
/// ```
/// use synack::{Time, congestion::{Ack, Cause, CongestionControl}};
/// # use std::time::Duration;
///
/// /// Halves on loss and grows by a segment in each round trip, and nothing else.
/// #[derive(Debug)]
/// struct Aimd { cwnd: u32, mss: u32 }
///
/// impl CongestionControl for Aimd {
///     fn name(&self) -> &'static str { "aimd" }
///     fn window(&self) -> u32 { self.cwnd }
///     fn ssthresh(&self) -> u32 { self.cwnd }
///     fn set_mss(&mut self, mss: u32) { self.mss = mss; }
///     fn on_ack(&mut self, ack: &Ack, _: Time) {
///         if ack.round_start && !ack.app_limited && !ack.in_recovery {
///             self.cwnd += self.mss;
///         }
///     }
///     fn on_congestion(&mut self, flight_size: u32, _: Cause, _: Time) {
///         self.cwnd = (flight_size / 2).max(2 * self.mss);
///     }
///     fn on_rto(&mut self, _: u32, _: Time) { self.cwnd = self.mss; }
///     fn on_spurious(&mut self, _: Time) {}
///     fn on_idle_restart(&mut self, _: Duration, _: Duration) {}
/// }
/// let mut cc = Aimd { cwnd: 20_000, mss: 1000 };
/// cc.on_congestion(20_000, Cause::Loss, Time::ZERO);
/// assert_eq!(cc.window(), 10_000);
/// ```
pub trait CongestionControl: Debug + Send {
    /// A short lower-case name, as in `TCP_CONGESTION`.
    fn name(&self) -> &'static str;

    /// cwnd in bytes.
    fn window(&self) -> u32;

    /// ssthresh in bytes; `u32::MAX` until something was lost.
    fn ssthresh(&self) -> u32;

    /// Bytes a second at which to send; `None` to send as soon as the window lets it, or by cwnd and
    /// SRTT where the connection paces by itself
    /// ([`Config::pacing`](crate::config::Config::pacing)).
    fn pacing_rate(&self) -> Option<u64> {
        None
    }

    /// Whether [`window`](Self::window) also says what may be in flight during loss recovery.
    /// Otherwise proportional rate reduction (RFC 9937) brings it down to
    /// [`ssthresh`](Self::ssthresh).
    fn controls_recovery(&self) -> bool {
        false
    }

    /// SMSS has changed.
    fn set_mss(&mut self, mss: u32);

    /// `bytes` are sent while `flight_size` bytes were in flight.
    fn on_sent(&mut self, _bytes: u32, _flight_size: u32, _now: Time) {}

    /// Data was acknowledged.
    fn on_ack(&mut self, ack: &Ack, now: Time);

    /// Loss recovery began, or the peer echoed congestion: once per window of data.
    fn on_congestion(&mut self, flight_size: u32, cause: Cause, now: Time);

    /// Loss recovery, or the round trip after a congestion echo, is over.
    fn on_recovery_exit(&mut self, _now: Time) {}

    /// The retransmission timer fired.
    fn on_rto(&mut self, flight_size: u32, now: Time);

    /// It fired again, and nothing before what it fired for was acknowledged in between: the window
    /// is one segment as before, and ssthresh stays (RFC 5681 §3.1). Unless it is told otherwise,
    /// like the first time.
    fn on_repeated_rto(&mut self, flight_size: u32, now: Time) {
        self.on_rto(flight_size, now);
    }

    /// The last reduction turned out to be for nothing (RFC 3522, RFC 3708, RFC 5682): restores
    /// what was before it.
    fn on_spurious(&mut self, now: Time);

    /// Data is sent again after nothing was for `idle`, which is longer than `rto` (RFC 5681 §4.1).
    fn on_idle_restart(&mut self, idle: Duration, rto: Duration);
}

/// Makes the algorithm of a connection from its SMSS and its initial window in segments.
#[derive(Clone)]
pub(crate) struct Factory(Arc<dyn Fn(u32, u32) -> Box<dyn CongestionControl> + Send + Sync>);

impl Factory {
    pub(crate) fn new(
        make: impl Fn(u32, u32) -> Box<dyn CongestionControl> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(make))
    }

    pub(crate) fn make(&self, mss: u32, initial_window: u32) -> Box<dyn CongestionControl> {
        (self.0)(mss, initial_window)
    }
}

impl Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory").finish_non_exhaustive()
    }
}

// A factory that has panicked has changed nothing that could be seen.
impl UnwindSafe for Factory {}
impl RefUnwindSafe for Factory {}

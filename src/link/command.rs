//! What handles ask of the reactor that is not bytes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Arrival, ConnId, DatagramLink, Decision, ListenerLink, PortGuard, StreamLink};
use crate::{
    error::Failure,
    info::{Counters, SocketInfo, TcpInfo},
};

/// A request, with the place for its answer.
#[derive(Debug)]
pub(crate) enum Command {
    /// Opens a connection. The answer is the connection's own: it becomes connected, or fails.
    Connect {
        /// What the handle shares with the connection.
        link: Arc<StreamLink>,
        /// The local address, if it was bound.
        bound: Option<PortGuard>,
        /// Where to.
        peer: SocketAddr,
    },
    /// Starts to take connections.
    Listen(Arc<ListenerLink>),
    /// Starts to take and to send datagrams.
    Datagrams(Arc<DatagramLink>),
    /// Asks for a flow for each pair of addresses that nobody else takes datagrams of.
    Flows(mpsc::Sender<Arc<DatagramLink>>),
    /// Asks whether somebody is there. The answer is the time it took.
    Ping {
        /// Who is asked.
        to: IpAddr,
        /// What is to come back.
        payload: Bytes,
        /// Closed by whoever waits no longer.
        reply: oneshot::Sender<Result<Duration, Failure>>,
    },
    /// Asks to be asked about connections to any address.
    Incoming(mpsc::UnboundedSender<Arrival>),
    /// The answer about one of them.
    Decide(ConnId, Decision),
    /// Asks for the netstat view.
    Sockets(oneshot::Sender<Vec<SocketInfo>>),
    /// Asks for the counters.
    Counters(oneshot::Sender<Counters>),
    /// Asks for the state of one connection.
    Info(ConnId, oneshot::Sender<Option<TcpInfo>>),
    /// Resets a connection.
    Abort(ConnId),
    /// Closes all listeners, opens nothing more, and resets what is left after `drain`.
    Shutdown {
        /// How long connections may take to end by themselves.
        drain: Duration,
    },
}

//! tonic serves on our streams.

use tonic::transport::server::{Connected, TcpConnectInfo};

use super::TcpStream;

/// A tonic server takes a [`TcpIncoming`](super::TcpIncoming), and its handlers see both addresses
/// in `Request::remote_addr` and `Request::local_addr`. A channel is made with a
/// [`Connector`](super::Connector).
///
/// ```text
/// let listener = stack.listen("10.7.0.2:50051").await?;
/// Server::builder().add_service(greeter).serve_with_incoming(listener.into_stream()).await?;
///
/// let channel = Endpoint::from_static("http://10.7.0.2:50051")
///     .connect_with_connector(Connector::new(stack))
///     .await?;
/// ```
impl Connected for TcpStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo {
            local_addr: self.local_addr().ok(),
            // A peer that has reset meanwhile had an address nevertheless.
            remote_addr: Some(self.link.peer()),
        }
    }
}

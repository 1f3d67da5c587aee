//! hyper's clients reach their servers through a stack.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Uri, uri::Scheme};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tower_service::Service;

use super::{Stack, TcpStream};

/// Opens the connections of an HTTP client: of `hyper_util::client::legacy::Client`, or of a tonic
/// channel made with `Endpoint::connect_with_connector`.
///
/// Names are looked up outside of the stack. The port is that of the URI, or else 443 for `https`
/// and 80 for anything else; there is no TLS in it, but a TLS connector can be put around. Socket
/// options are the stack's: see [`Config::options`](crate::Config::options).
///
/// ```no_run
/// # async fn example(stack: synack::Stack) -> Result<(), Box<dyn std::error::Error>> {
/// use http_body_util::{BodyExt, Empty};
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use synack::net::Connector;
///
/// let client: Client<_, Empty<bytes::Bytes>> =
///     Client::builder(TokioExecutor::new()).build(Connector::new(stack));
/// let response = client.get("http://10.7.0.1:8000/".parse()?).await?;
/// let body = response.into_body().collect().await?.to_bytes();
/// # drop(body);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Connector {
    stack: Stack,
}

impl Connector {
    /// A connector that opens connections from this stack.
    pub fn new(stack: Stack) -> Self {
        Self { stack }
    }
}

/// The connection that a [`Connector`] opens. Dropping it abandons the attempt.
///
/// ```no_run
/// # async fn example(stack: synack::Stack) -> std::io::Result<()> {
/// use synack::net::Connector;
/// use tower_service::Service;
///
/// let connecting = Connector::new(stack).call(http::Uri::from_static("http://10.7.0.1:8080/"));
/// let stream = connecting.await?.into_inner();
/// # Ok(()) }
/// ```
pub struct Connecting(Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>);

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let stack = self.stack.clone();
        Connecting(Box::pin(async move {
            let (host, port) = authority(&uri)?;
            stack.connect((host, port)).await.map(TokioIo::new)
        }))
    }
}

impl Future for Connecting {
    type Output = io::Result<TokioIo<TcpStream>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}

impl Connection for TcpStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Host and port that a URI leads to.
fn authority(uri: &Uri) -> io::Result<(&str, u16)> {
    let host = uri.host().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the URI {uri} names no host to connect to"),
        )
    })?;
    // An IPv6 address stands in brackets in a URI and nowhere else.
    let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_https = uri.scheme() == Some(&Scheme::HTTPS);
    let default = if is_https { 443 } else { 80 };
    Ok((address.unwrap_or(host), uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_leads_to_its_host_and_to_the_port_of_its_scheme() {
        let cases = [
            ("http://example.org/x", "example.org", 80),
            ("https://example.org", "example.org", 443),
            ("http://[fd00::1]:81/", "fd00::1", 81),
            ("https://10.0.0.1:1", "10.0.0.1", 1),
        ];
        for (uri, host, port) in cases {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(authority(&uri).unwrap(), (host, port));
        }
        let error = authority(&"/path".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

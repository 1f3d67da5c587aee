//! gRPC with tonic, server and client on TCP in user space.
//!
//! ```sh
//! cargo run --features tonic --example grpc
//! ```
//!
//! It needs no privileges: two stacks in this process talk over a link of 5 ms. The service is the
//! standard one for health checks; one that `tonic-prost-build` has made of your `.proto` file goes
//! in its place.

use std::{error::Error, time::Duration};

use synack::{Stack, device::Link, net::Connector};
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let (client_end, server_end) = Link::builder().delay(Duration::from_millis(5)).build();
    let server = Stack::builder()
        .address("10.0.0.1/24".parse()?)
        .spawn(server_end)?;
    let client = Stack::builder()
        .address("10.0.0.2/24".parse()?)
        .spawn(client_end)?;
    for line in run(&server, &client).await? {
        println!("{line}");
    }
    Ok(())
}

/// Serves on 10.0.0.1:50051 of one stack and asks from the other; the answers in words.
pub async fn run(server: &Stack, client: &Stack) -> Result<Vec<String>> {
    // The server: a listener as a stream of connections.
    let incoming = server.listen("10.0.0.1:50051").await?.into_stream();
    let (reporter, service) = tonic_health::server::health_reporter();
    let serving = Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming);
    let serving = tokio::spawn(serving);

    // The client: a channel whose connections are made by the stack.
    let channel = Endpoint::from_static("http://10.0.0.1:50051")
        .connect_with_connector(Connector::new(client.clone()))
        .await?;
    let mut health = HealthClient::new(channel);
    let whole_server = HealthCheckRequest::default();
    let status = health.check(whole_server.clone()).await?.into_inner();
    let mut lines = vec![format!("asked once: {:?}", status.status())];

    // A stream of answers: one at once, and one whenever it changes.
    let mut watched = health.watch(whole_server).await?.into_inner();
    for status in [
        tonic_health::ServingStatus::NotServing,
        tonic_health::ServingStatus::Serving,
    ] {
        if let Some(seen) = watched.message().await? {
            lines.push(format!("watched: {:?}", seen.status()));
        }
        reporter.set_service_status("", status).await;
    }
    if let Some(seen) = watched.message().await? {
        lines.push(format!("watched: {:?}", seen.status()));
    }
    serving.abort();
    Ok(lines)
}

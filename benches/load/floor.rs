//! The least that a tonic server can spend on the same messages: it drops them, undecoded.

use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use snakepit_otel_bridge::proto::service::snakepit_bridge_server::{SnakepitBridge, SnakepitBridgeServer};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::FLOOR_ROLE;
use crate::process::Process;

/// A running floor.
#[derive(Debug)]
pub(crate) struct Floor {
    /// Where workers connect.
    pub(crate) endpoint: String,
    /// To be measured.
    pub(crate) process: Process,
}

impl Floor {
    /// Starts a copy of this program as the floor.
    ///
    /// # Errors
    ///
    /// When it does not say where it listens.
    pub(crate) fn start() -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut process = Process::spawn("the floor", std::process::Command::new(program).arg(FLOOR_ROLE))?;
        let address = process.first_line()?;
        Ok(Self { endpoint: format!("http://{address}"), process })
    }
}

/// Serves until killed.
///
/// # Errors
///
/// When it cannot listen.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.with_nodelay(Some(true));
        let address = incoming.local_addr().context("failed to find the address")?;
        println!("{address}");
        tonic::transport::Server::builder()
            .add_service(SnakepitBridgeServer::new(Dropping))
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    })
}

/// Answers how many messages there were when the stream ends, and nothing before.
struct Dropping;

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

#[tonic::async_trait]
impl SnakepitBridge for Dropping {
    type StreamTelemetryStream = Answers;
    type StreamTelemetryBatchesStream = Answers;

    async fn stream_telemetry(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Answers>, Status> {
        let mut messages = request.into_inner();
        let mut count = 0_u64;
        while let Some(message) = messages.next().await {
            message?;
            count += 1;
        }
        let answer = Bytes::copy_from_slice(&count.to_be_bytes());
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    async fn stream_telemetry_batches(
        &self,
        _: Request<Streaming<Bytes>>,
    ) -> Result<Response<Answers>, Status> {
        Err(Status::unimplemented("the floor drops events only"))
    }
}

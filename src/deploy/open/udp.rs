//! The UDP tracker's socket: one datagram, at most one answer.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use crate::deploy::hub::Hub;

/// The longest request: a scrape of 74 torrents has 1496 bytes, a BEP 41 path may follow.
const REQUEST_BYTES_MAX: usize = 2048;
/// How long the loop rests after the socket failed.
const FAILURE_REST: Duration = Duration::from_millis(100);

/// Answers until its runtime ends.
pub(super) async fn serve(socket: UdpSocket, hub: Arc<Hub>) {
    let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else {
        tracing::error!("The tracker's socket cannot be polled");
        return;
    };
    let mut buffer = [0; REQUEST_BYTES_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                if let Some(answer) = hub.peers().answer_udp(from, &buffer[..len]) {
                    // A full socket loses it, as a network does: the client asks again.
                    drop(socket.try_send_to(&answer, from));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "The tracker's socket failed");
                tokio::time::sleep(FAILURE_REST).await;
            }
        }
    }
}

//! Clients of a listener with TLS, until their handshake is done. Only then a target is looked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::conn::Stage;
use super::opening::Opening;
use super::socket::Socket;
use super::{ConnId, ListenerRef, Worker};
use crate::payload::Class;

/// A handshake may take so long.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

impl Worker {
    /// Begin the handshake. Where there is no usable certificate the client is refused: it never gets on without TLS.
    pub(super) fn welcome(
        &mut self,
        stream: TcpStream,
        listener: Arc<ListenerRef>,
        opening: Box<Opening>,
    ) {
        let first = listener
            .keys
            .first()
            .map(|key| Arc::clone(&key.routing_key));
        let config = match &listener.tls {
            Some(tls) => tls.load().server(),
            None => return,
        };
        let record = self.record(first.unwrap_or_default(), Some(listener));
        let (socket, refusal) = match config {
            Ok(config) => match Socket::accept(stream, config) {
                Ok(socket) => (socket, None),
                Err(_) => return,
            },
            Err(why) => (Socket::of(stream), Some(why)),
        };
        let stage = Stage::Greeting {
            opening,
            deadline: self.now + GREETING_DEADLINE,
        };
        let Some(id) = self.add_conn(socket, stage, record, true, None) else {
            return;
        };
        if let Some(why) = refusal {
            self.abort(id.0, Class::Refused, &why);
        } else if self.stopping {
            self.abort(id.0, Class::Drain, "the router is leaving");
        } else {
            self.look_again(id);
        }
    }

    /// News of a client that is greeting.
    pub(super) fn greet(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        match conn.socket.is_connected() {
            Ok(false) => {}
            Ok(true) => {
                let stage = std::mem::replace(&mut conn.stage, Stage::Parked(Box::default()));
                if let Stage::Greeting { mut opening, .. } = stage {
                    // The time that it took is not the targets'.
                    (opening.since, opening.tried_since) = (now, now);
                    conn.stage = Stage::Parked(opening);
                }
                self.decide(id);
            }
            Err(error) => {
                // So that the alert, which says why, arrives.
                conn.socket.deliver_on_close();
                self.turn_down(id, &error.to_string());
            }
        }
    }

    /// Its time may be up.
    pub(super) fn wait_for_greeting(&mut self, id: ConnId, deadline: Instant) {
        if self.now >= deadline {
            let seconds = GREETING_DEADLINE.as_secs();
            self.turn_down(id, &format!("TLS: no handshake within {seconds} s"));
        } else {
            self.look_again(id);
        }
    }

    fn turn_down(&mut self, id: ConnId, reason: &str) {
        self.shared
            .handshakes_failed
            .fetch_add(1, Ordering::Relaxed);
        self.abort(id.0, Class::Client, reason);
    }
}

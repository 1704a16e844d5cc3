//! Clients of a listener with TLS, until their handshake is done. Only then a target is looked for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::net::TcpStream;

use super::conn::Stage;
use super::opening::Opening;
use super::socket::Socket;
use super::{ConnId, ListenerRef, Worker};
use crate::limits::{CLIENT_HANDSHAKE_DEADLINE, MAX_CLIENT_HANDSHAKES};
use crate::payload::Class;

/// Clients that are greeting, by the name of their listener, the oldest first; among them some whose handshake is over.
pub(super) type Greeters = HashMap<Arc<str>, VecDeque<ConnId>>;

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
        let name = Arc::clone(&listener.name);
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
            deadline: self.now + CLIENT_HANDSHAKE_DEADLINE,
        };
        let Some(id) = self.add_conn(socket, stage, record, true, None) else {
            return;
        };
        if let Some(why) = refusal {
            self.abort(id.0, Class::Refused, &why);
        } else if self.stopping {
            self.abort(id.0, Class::Drain, "the router is leaving");
        } else {
            self.make_room(name, id);
            self.look_again(id);
        }
    }

    /// Another client is greeting. Where there are too many, the oldest gives way.
    fn make_room(&mut self, listener: Arc<str>, id: ConnId) {
        let greeters = self.greeters.entry(listener).or_default();
        if greeters.len() >= MAX_CLIENT_HANDSHAKES {
            let conns = &self.conns;
            greeters.retain(|&(index, generation)| {
                conns.get(index as usize).is_some_and(|conn| {
                    conn.generation == generation && matches!(conn.stage, Stage::Greeting { .. })
                })
            });
        }
        let oldest = (greeters.len() >= MAX_CLIENT_HANDSHAKES).then(|| greeters.pop_front());
        greeters.push_back(id);
        if let Some(Some(oldest)) = oldest {
            let reason =
                "TLS: it gave way to new clients: too many have not finished their handshake";
            self.turn_down(oldest, Class::Resource, reason);
        }
    }

    /// A listener is gone: whoever still greets there is let go by the deadline.
    pub(super) fn forget_greeters(&mut self) {
        let listeners = &self.listeners;
        self.greeters
            .retain(|name, _| listeners.values().any(|l| l.name() == name));
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
                self.turn_down(id, Class::Client, &error.to_string());
            }
        }
    }

    /// Its time may be up.
    pub(super) fn wait_for_greeting(&mut self, id: ConnId, deadline: Instant) {
        if self.now >= deadline {
            let seconds = CLIENT_HANDSHAKE_DEADLINE.as_secs();
            let reason = format!("TLS: no handshake within {seconds} s");
            self.turn_down(id, Class::Client, &reason);
        } else {
            self.look_again(id);
        }
    }

    fn turn_down(&mut self, id: ConnId, class: Class, reason: &str) {
        self.shared
            .handshakes_failed
            .fetch_add(1, Ordering::Relaxed);
        self.abort(id.0, class, reason);
    }
}

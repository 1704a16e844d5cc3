//! Listening sockets of listeners: bound when the listener is created, listening while it is matched.
//!
//! A port is held from the start, so that one that is in use shows at once. Clients of a listener without a target are refused by the
//! kernel: the socket listens from the first match until some seconds after the last. On Linux, `shutdown` ends listening and keeps
//! the port; `listen` begins it again.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::state::State;
use crate::contract::{Event, KeyWeight, ListenerEntry};
use crate::control::BindStatus;
use crate::events::Slot;
use crate::limits;
use crate::table::Weighted;
use crate::worker::{Job, ListenerRef, Shared, set_keepalive};

/// Ports that are tried when any will do.
const EPHEMERAL_TRIES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct ListenerState {
    pub address: SocketAddr,
    /// As the entry has it: the port may be 0.
    wanted: SocketAddr,
    pub socket: Option<Arc<TcpListener>>,
    pub reference: Arc<ListenerRef>,
    /// The workers know it by this number while it listens.
    listening: Option<u64>,
    unmatched_since: Option<Instant>,
    retry_at: Option<Instant>,
    status: BindStatus,
}

impl ListenerState {
    /// Whether one of its keys is.
    fn is_matched(&self, shared: &Shared) -> bool {
        let table = shared.table.load();
        let keys = &self.reference.keys;
        keys.iter().any(|key| table.is_matched(&key.routing_key))
    }
}

/// The keys of a listener, at least one.
fn keys_of(entry: &ListenerEntry) -> Box<[Weighted]> {
    if entry.keys.is_empty() {
        return Box::new([Weighted {
            routing_key: Arc::from(entry.routing_key.as_str()),
            weight: 1,
        }]);
    }
    let weighted = |key: &KeyWeight| Weighted {
        routing_key: Arc::from(key.routing_key.as_str()),
        weight: key.weight,
    };
    entry.keys.iter().map(weighted).collect()
}

impl State {
    pub fn put_listener(&mut self, shared: &Shared, entry: &ListenerEntry, now: Instant) {
        let Ok(ip) = entry.host.parse() else { return };
        let address = SocketAddr::new(ip, entry.port);
        let old = self.take_listener(shared, &entry.name);
        let tally = old
            .as_ref()
            .map_or_else(Arc::default, |l| Arc::clone(&l.reference.tally));
        let reference = Arc::new(ListenerRef {
            name: Arc::from(entry.name.as_str()),
            strategy: entry.strategy,
            keys: keys_of(entry),
            tls: self.tls_of(&entry.tls),
            tally,
        });
        let mut listener = ListenerState {
            address,
            wanted: address,
            socket: None,
            reference: Arc::clone(&reference),
            listening: None,
            unmatched_since: None,
            retry_at: None,
            status: BindStatus::Failed,
        };
        let mut error = String::new();
        match old {
            // Only the key changed: the port stays ours all the time.
            Some(old)
                if (old.address == address || old.wanted == address) && old.socket.is_some() =>
            {
                listener.address = old.address;
                listener.socket = old.socket;
                listener.status = BindStatus::Bound;
            }
            _ => {
                drop(old);
                error = self.bind(&mut listener, now);
            }
        }
        if listener
            .socket
            .as_ref()
            .is_some_and(|s| SockRef::from(&**s).is_listener().unwrap_or(false))
        {
            // A predecessor's, or our own under another key: it counts as just matched.
            self.listen(shared, &mut listener);
            listener.unmatched_since = Some(now);
        }
        publish(shared, &entry.name, &listener, &error);
        for key in &reference.keys {
            self.by_key
                .entry(Arc::clone(&key.routing_key))
                .or_default()
                .insert(entry.name.clone());
        }
        self.listeners.insert(entry.name.clone(), listener);
        self.rematch_listener(shared, entry.name.clone(), now);
    }

    pub fn drop_listener(&mut self, shared: &Shared, name: &str) {
        if let Some(listener) = self.take_listener(shared, name) {
            // The workers let go of it in their own time; who comes from now on is refused all the same.
            if let Some(socket) = &listener.socket
                && !self.shared_out
            {
                let _ = SockRef::from(&**socket).shutdown(std::net::Shutdown::Both);
            }
            shared.events.set(
                Slot::Listener(name.to_owned()),
                Event::Listener {
                    name: name.to_owned(),
                    status: BindStatus::Bound.as_str(),
                    port: listener.address.port(),
                    error: String::new(),
                    gone: true,
                },
            );
        }
    }

    /// Out of the maps; the workers let go of its socket.
    fn take_listener(&mut self, shared: &Shared, name: &str) -> Option<ListenerState> {
        let listener = self.listeners.remove(name)?;
        for key in &listener.reference.keys {
            if let Some(names) = self.by_key.get_mut(&key.routing_key) {
                names.remove(name);
                if names.is_empty() {
                    self.by_key.remove(&key.routing_key);
                }
            }
        }
        if let Some(id) = listener.listening {
            shared.broadcast(|| Job::Unlisten(id));
        }
        Some(listener)
    }

    /// Bind the port. Returns why not, in words.
    fn bind(&mut self, listener: &mut ListenerState, now: Instant) -> String {
        let address = listener.address;
        let adopted = self.adopted.remove(&(address.ip(), address.port()));
        let bound = match adopted {
            Some(fd) => Ok(Socket::from(fd)),
            None => bind(address),
        }
        .and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => {
                if let Some(bound) = socket.local_addr().ok().and_then(|a| a.as_socket()) {
                    listener.address = bound;
                }
                listener.socket = Some(Arc::new(socket.into()));
                listener.status = BindStatus::Bound;
                listener.retry_at = None;
                String::new()
            }
            Err(error) => {
                listener.status = status_of(&error);
                listener.retry_at = Some(now + limits::BIND_RETRY);
                describe(address, &error)
            }
        }
    }

    /// Begin to listen, on all workers.
    fn listen(&mut self, shared: &Shared, listener: &mut ListenerState) {
        if listener.listening.is_some() {
            return;
        }
        let Some(socket) = listener.socket.as_ref() else {
            return;
        };
        let id = self.next_listening;
        // Tokens have 30 bits for it.
        self.next_listening = self.next_listening % 0x3FFF_FFFF + 1;
        listener.listening = Some(id);
        listener.status = BindStatus::Listening;
        shared.broadcast(|| Job::Listen(id, Arc::clone(socket), Arc::clone(&listener.reference)));
    }

    /// Whether the listeners of a key are matched may have changed.
    pub fn rematch(&mut self, shared: &Shared, key: &Arc<str>, now: Instant) {
        let names: Vec<String> = self
            .by_key
            .get(key)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for name in names {
            self.rematch_listener(shared, name, now);
        }
    }

    fn rematch_listener(&mut self, shared: &Shared, name: String, now: Instant) {
        let Some(mut listener) = self.listeners.remove(&name) else {
            return;
        };
        if listener.is_matched(shared) {
            listener.unmatched_since = None;
            self.begin(shared, &name, &mut listener, now);
        } else if listener.listening.is_some() {
            listener.unmatched_since.get_or_insert(now);
        }
        self.listeners.insert(name, listener);
    }

    fn begin(&mut self, shared: &Shared, name: &str, listener: &mut ListenerState, now: Instant) {
        if listener.listening.is_some() {
            return;
        }
        let Some(socket) = listener.socket.as_ref() else {
            return;
        };
        let socket = SockRef::from(&**socket);
        match socket
            .set_reuse_address(true)
            .and_then(|()| socket.listen(limits::LISTEN_BACKLOG))
        {
            Ok(()) => {
                self.listen(shared, listener);
                publish(shared, name, listener, "");
            }
            Err(error) => {
                // Somebody else listens there since we bound it.
                listener.status = status_of(&error);
                listener.retry_at = Some(now + limits::BIND_RETRY);
                publish(shared, name, listener, &describe(listener.address, &error));
            }
        }
    }

    /// Now and then: stop listening where nothing was matched for a while, and try ports again that were in use.
    pub fn tend_listeners(&mut self, shared: &Shared, now: Instant) {
        let linger = self.linger;
        let due: Vec<String> = self
            .listeners
            .iter()
            .filter(|(_, l)| {
                l.unmatched_since
                    .is_some_and(|since| now.saturating_duration_since(since) >= linger)
                    || l.retry_at.is_some_and(|at| now >= at)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let Some(mut listener) = self.listeners.remove(&name) else {
                continue;
            };
            let before = listener.status;
            if listener.unmatched_since.take().is_some()
                && let Some(id) = listener.listening.take()
            {
                shared.broadcast(|| Job::Unlisten(id));
                if let Some(socket) = &listener.socket
                    && !self.shared_out
                {
                    let socket = SockRef::from(&**socket);
                    let _ = socket.shutdown(std::net::Shutdown::Both);
                    let _ = socket.set_reuse_address(false);
                }
                listener.status = BindStatus::Bound;
            }
            if listener.retry_at.take().is_some() {
                let mut error = String::new();
                if listener.socket.is_none() {
                    error = self.bind(&mut listener, now);
                }
                if !error.is_empty() && listener.status != before {
                    publish(shared, &name, &listener, &error);
                }
                if listener.socket.is_some() && listener.is_matched(shared) {
                    self.begin(shared, &name, &mut listener, now);
                }
            }
            if listener.status != before && listener.retry_at.is_none() {
                publish(shared, &name, &listener, "");
            }
            self.listeners.insert(name, listener);
        }
    }

    /// The router leaves: clients are refused by the kernel from now on, unless a successor has a duplicate of the socket.
    pub fn close_listeners(&mut self, shared: &Shared) {
        for listener in self.listeners.values_mut() {
            if let Some(id) = listener.listening.take() {
                shared.broadcast(|| Job::Unlisten(id));
            }
            listener.unmatched_since = None;
            listener.retry_at = None;
            listener.socket = None;
        }
    }
}

/// Bind, on port 0 to one that the kernel finds free: a port that it chose itself would be lost when the socket stops listening.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    if address.port() != 0 {
        return bind_to(address);
    }
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..EPHEMERAL_TRIES {
        let probe = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        probe.bind(&address.into())?;
        let free = probe.local_addr()?.as_socket().unwrap_or(address);
        drop(probe);
        match bind_to(free) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            done => return done,
        }
    }
    Err(last)
}

fn bind_to(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // Accepted sockets inherit these.
    socket.set_tcp_nodelay(true)?;
    set_keepalive(&SockRef::from(&socket))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // Perhaps only old connections in TIME_WAIT are in the way. The option is on for this moment only: with it on both
            // sides two bound sockets that do not listen could share a port, and the second would learn of it too late.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.set_reuse_address(false)?;
        }
        done => done?,
    }
    Ok(socket)
}

/// What failed, where.
fn describe(address: SocketAddr, error: &io::Error) -> String {
    format!("{} port {}: {error}", address.ip(), address.port())
}

fn status_of(error: &io::Error) -> BindStatus {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindStatus::InUse,
        io::ErrorKind::PermissionDenied | io::ErrorKind::AddrNotAvailable => BindStatus::Denied,
        _ => BindStatus::Failed,
    }
}

fn publish(shared: &Shared, name: &str, listener: &ListenerState, error: &str) {
    shared.events.set(
        Slot::Listener(name.to_owned()),
        Event::Listener {
            name: name.to_owned(),
            status: listener.status.as_str(),
            port: listener.address.port(),
            error: error.to_owned(),
            gone: false,
        },
    );
}

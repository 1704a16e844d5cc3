//! Link accesses: getting a port, saying how it is, and accepting on it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;
use std::time::Instant;

use mio::Interest;

use super::callers::Who;
use super::thread::{Entry, Thread, Unbound, token};
use crate::limits;
use crate::link_port::{self, Accepted, BindStatus, LinkPort};

impl Thread {
    pub(super) fn put_access(
        &mut self,
        name: String,
        address: SocketAddr,
        credential: String,
        adopt: Option<OwnedFd>,
    ) {
        if let Some(Entry::Port(port)) = self
            .ports
            .get(&name)
            .and_then(|key| self.entries.get_mut(*key))
            && port.wanted == address
        {
            port.credential = credential;
            self.report(&name);
            return;
        }
        self.close_port(&name);
        self.unbound.remove(&name);
        self.bind(name, address, credential, adopt, None);
    }

    /// Try to get a port. `before`: what the last try came to, if that has been reported.
    pub(super) fn bind(
        &mut self,
        name: String,
        address: SocketAddr,
        credential: String,
        adopt: Option<OwnedFd>,
        before: Option<BindStatus>,
    ) {
        match self.open_port(&name, address, &credential, adopt) {
            Ok(()) => self.report(&name),
            Err(error) => {
                let (status, sentence) = link_port::bind_failure(&name, address, &error);
                if before != Some(status) {
                    self.outcome
                        .access_state(&name, status, 0, &sentence, false);
                }
                let retry = Instant::now() + limits::BIND_RETRY;
                self.unbound.insert(
                    name,
                    Unbound {
                        address,
                        credential,
                        status,
                        retry,
                    },
                );
            }
        }
    }

    fn open_port(
        &mut self,
        name: &str,
        address: SocketAddr,
        credential: &str,
        adopt: Option<OwnedFd>,
    ) -> io::Result<()> {
        let mut listener = link_port::listen(address, adopt)?;
        let bound = listener.local_addr()?;
        let duplicate = listener.as_fd().try_clone_to_owned()?;
        let slot = self.entries.vacant_entry();
        let key = slot.key();
        self.poll
            .registry()
            .register(&mut listener, token(key, 0), Interest::READABLE)?;
        slot.insert(Entry::Port(LinkPort {
            name: name.to_owned(),
            wanted: address,
            credential: credential.to_owned(),
            listener,
            // Callers may be waiting on an adopted socket.
            ready: true,
            paused: None,
        }));
        self.ports.insert(name.to_owned(), key);
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), (bound, duplicate));
        Ok(())
    }

    /// Returns the port that it had, or 0.
    pub(super) fn close_port(&mut self, name: &str) -> u16 {
        let had = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        if let Some(key) = self.ports.remove(name) {
            self.entries.try_remove(key);
        }
        had.map_or(0, |(address, _)| address.port())
    }

    pub(super) fn report_users_of(&self, credential: &str) {
        for key in self.ports.values() {
            if let Some(Entry::Port(port)) = self.entries.get(*key)
                && port.credential == credential
            {
                self.report(&port.name);
            }
        }
    }

    /// Say how a port of ours is.
    fn report(&self, name: &str) {
        let Some(Entry::Port(port)) = self.ports.get(name).and_then(|key| self.entries.get(*key))
        else {
            return;
        };
        let bound = port.listener.local_addr().map_or(0, |a| a.port());
        if self.credentials.contains_key(&port.credential) {
            self.outcome
                .access_state(name, BindStatus::Listening, bound, "", false);
        } else {
            let sentence = format!(
                "access {name}: there is no credential {:?}; callers are turned away until there is",
                port.credential
            );
            self.outcome
                .access_state(name, BindStatus::Bound, bound, &sentence, false);
        }
    }
    pub(super) fn accept_all(&mut self, now: Instant) {
        let ports: Vec<usize> = self.ports.values().copied().collect();
        for key in ports {
            for _ in 0..limits::ACCEPT_BATCH {
                let Some(Entry::Port(port)) = self.entries.get_mut(key) else {
                    break;
                };
                let Accepted::Caller(socket, address) = port.accept(now) else {
                    break;
                };
                let who = Who::Caller {
                    access: port.name.clone(),
                    credential: port.credential.clone(),
                };
                self.welcome(socket, address, who, now);
            }
        }
    }
}

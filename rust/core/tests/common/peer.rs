//! A peer that does what a test tells it, frame by frame: real TLS and HELLO, then nothing by itself.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use van_core::control::{
    BindStatus, Control, ControlConfig, DialFailure, EstablishedLane, Outcome, VisitorHandoff,
};
use van_core::frame::{self, Kind};
use van_core::greeting::Refusal;
use van_core::payload;

use super::{Ca, Site};

enum News {
    Lane(Box<EstablishedLane>),
    Failed(DialFailure),
    Port(u16),
}

struct Recorder(Mutex<Sender<News>>);

impl Recorder {
    fn put(&self, news: News) {
        let _ = self.0.lock().expect("no panic").send(news);
    }
}

impl Outcome for Recorder {
    fn lane(&self, lane: EstablishedLane) {
        self.put(News::Lane(Box::new(lane)));
    }
    fn dial_failed(&self, _: u64, failure: DialFailure) {
        self.put(News::Failed(failure));
    }
    fn visitor(&self, _: VisitorHandoff) {}
    fn access_state(&self, _: &str, _: BindStatus, port: u16, _: &str, _: bool) {
        self.put(News::Port(port));
    }
    fn handshake_failed(&self, _: &str, _: &Refusal) {}
    fn probe(&self) {}
}

/// See the module.
pub struct Peer {
    pub site: Site,
    control: Control,
    news: Receiver<News>,
    dials: u64,
}

impl Peer {
    pub fn new(name: &str, ca: &Ca) -> Self {
        Self::with_boot(name, ca, 7)
    }

    pub fn with_boot(name: &str, ca: &Ca, boot: u64) -> Self {
        let site = Site {
            boot,
            ..Site::new(name)
        };
        Self::of_site(site, ca)
    }

    pub fn of_site(site: Site, ca: &Ca) -> Self {
        let (sender, news) = channel();
        let config = ControlConfig {
            identity_key: site.identity_key(),
            boot: site.boot,
            site_name: site.name.clone(),
            workers: 4,
            software: String::new(),
            per_source_limit: 0,
            handshakes_per_second: 0,
            edge: false,
        };
        let control =
            Control::spawn(config, Box::new(Recorder(Mutex::new(sender)))).expect("a thread");
        control
            .put_credential("own", &site.credential(ca))
            .expect("a credential");
        control.put_link("east", "own", None, 1);
        Self {
            site,
            control,
            news,
            dials: 0,
        }
    }

    fn next(&self) -> News {
        self.news
            .recv_timeout(Duration::from_secs(10))
            .expect("news")
    }

    pub fn id(&self) -> String {
        self.site.router().to_string()
    }

    /// Open a port for lanes.
    pub fn access(&self) -> SocketAddr {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        self.control.put_access("main", any, "own", None);
        match self.next() {
            News::Port(port) => SocketAddr::new(any.ip(), port),
            _ => panic!("no port"),
        }
    }

    /// The next lane that somebody dials to us.
    pub fn accept(&self) -> Wire {
        match self.next() {
            News::Lane(lane) => Wire::new(*lane),
            News::Failed(failure) => panic!("{failure:?}"),
            News::Port(_) => self.accept(),
        }
    }

    pub fn dial(&mut self, address: SocketAddr) -> Wire {
        self.dials += 1;
        self.control.dial(self.dials, "east", address, "");
        self.accept()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.control.stop();
        self.control.join();
    }
}

/// A frame that arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Got {
    pub stream: u32,
    pub kind: Kind,
    pub payload: Vec<u8>,
}

/// One lane, by hand.
pub struct Wire {
    lane: EstablishedLane,
    plain: Vec<u8>,
    got: std::collections::VecDeque<Got>,
    pub closed: bool,
}

impl Wire {
    fn new(mut lane: EstablishedLane) -> Self {
        let plain = std::mem::take(&mut lane.plain);
        let mut wire = Self {
            lane,
            plain,
            got: std::collections::VecDeque::new(),
            closed: false,
        };
        wire.open(Vec::new());
        wire
    }

    fn open(&mut self, arrived: Vec<u8>) {
        let mut incoming = std::mem::take(&mut self.lane.incoming);
        incoming.extend(arrived);
        let mut at = 0;
        while at < incoming.len() {
            let mut room = vec![0; 600_000];
            let rest = incoming.get_mut(at..).expect("in range");
            let Ok(opened) = self
                .lane
                .records
                .open_into(rest, &mut room, &mut self.lane.outgoing)
            else {
                self.closed = true;
                break;
            };
            self.plain.extend_from_slice(&room[..opened.plain]);
            at += opened.consumed;
            self.closed |= opened.closed;
            if opened.consumed == 0 {
                break;
            }
        }
        self.lane.incoming = incoming.split_off(at.min(incoming.len()));
        let mut used = 0;
        while let Ok(Some((frame, len))) = frame::decode(&self.plain[used..]) {
            used += len;
            if let Some(kind) = frame.kind {
                self.got.push_back(Got {
                    stream: frame.stream,
                    kind,
                    payload: frame.payload.to_vec(),
                });
            }
        }
        self.plain.drain(..used);
    }

    /// Send frames, whole, waiting as long as it takes.
    pub fn send(&mut self, frames: &[u8]) {
        let mut sealed = std::mem::take(&mut self.lane.outgoing);
        self.lane
            .records
            .seal(frames, &mut sealed)
            .expect("it seals");
        let mut at = 0;
        let deadline = Instant::now() + Duration::from_secs(10);
        while at < sealed.len() && Instant::now() < deadline {
            match self.lane.socket.write(&sealed[at..]) {
                Ok(written) => at += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    pub fn put(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        let mut out = Vec::new();
        frame::put(&mut out, stream, kind, payload);
        self.send(&out);
    }

    pub fn put_reason(&mut self, stream: u32, kind: Kind, code: u8, reason: &str) {
        let mut out = Vec::new();
        payload::put_reason(&mut out, stream, kind, code, reason);
        self.send(&out);
    }

    pub fn accept_stream(&mut self, stream: u32, credit: u32) {
        self.put(stream, Kind::OpenOk, &credit.to_be_bytes());
    }

    pub fn shutdown(&mut self) {
        let _ = self.lane.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Read what is there; PINGs are answered if wanted. `false`: nothing came.
    pub fn poll(&mut self, answer_pings: bool) -> bool {
        let mut buffer = vec![0; 262_144];
        let some = match self.lane.socket.read(&mut buffer) {
            Ok(0) => {
                self.closed = true;
                false
            }
            Ok(count) => {
                buffer.truncate(count);
                self.open(buffer);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(_) => {
                self.closed = true;
                false
            }
        };
        if answer_pings {
            let pings: Vec<Got> = self
                .got
                .iter()
                .filter(|g| g.kind == Kind::Ping)
                .cloned()
                .collect();
            self.got.retain(|g| g.kind != Kind::Ping);
            for ping in pings {
                self.put(0, Kind::Pong, &ping.payload);
            }
        }
        some
    }

    /// The next frame of that kind within a time; others before it are dropped, PINGs answered.
    pub fn find(&mut self, kind: Kind, within: Duration) -> Option<Got> {
        let deadline = Instant::now() + within;
        loop {
            while let Some(got) = self.got.pop_front() {
                if got.kind == kind {
                    return Some(got);
                }
                if got.kind == Kind::Ping {
                    self.put(0, Kind::Pong, &got.payload);
                }
            }
            if Instant::now() >= deadline || self.closed {
                return None;
            }
            if !self.poll(false) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub fn expect(&mut self, kind: Kind) -> Got {
        self.find(kind, Duration::from_secs(5))
            .unwrap_or_else(|| panic!("{kind:?} did not come; closed: {}", self.closed))
    }
}

//! Out of file descriptors: a process of its own, because the whole process is.

mod common;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use common::{Ca, Site};
use nix::time::{ClockId, clock_gettime};
use van_core::control::{
    BindStatus, Control, ControlConfig, DialFailure, EstablishedLane, Outcome, VisitorHandoff,
};
use van_core::greeting::{Reason, Refusal};

#[derive(Debug)]
enum Event {
    Port(u16),
    Probe,
    Failed(DialFailure),
}

struct Recorder(Mutex<Sender<Event>>);

impl Recorder {
    fn put(&self, event: Event) {
        let _ = self.0.lock().expect("no panic").send(event);
    }
}

impl Outcome for Recorder {
    fn lane(&self, _: EstablishedLane) {}
    fn dial_failed(&self, _: u64, failure: DialFailure) {
        self.put(Event::Failed(failure));
    }
    fn visitor(&self, _: VisitorHandoff) {}
    fn access_state(&self, _: &str, _: BindStatus, port: u16, _: &str, _: bool) {
        self.put(Event::Port(port));
    }
    fn handshake_failed(&self, _: &str, _: &Refusal) {}
    fn probe(&self) {
        self.put(Event::Probe);
    }
}

fn cpu() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock"))
}

#[test]
fn without_file_descriptors_it_waits_without_spinning_and_then_goes_on() {
    let (site, ca) = (Site::new("north"), Ca::new("CA"));
    let (sender, events) = channel();
    let config = ControlConfig {
        identity_key: site.identity_key(),
        boot: 1,
        site_name: "north".to_owned(),
        workers: 1,
        software: String::new(),
        per_source_limit: 0,
        handshakes_per_second: 0,
        edge: false,
    };
    let control = Control::spawn(config, Box::new(Recorder(Mutex::new(sender)))).expect("a thread");
    let next = || {
        events
            .recv_timeout(Duration::from_secs(5))
            .expect("an event")
    };
    control
        .put_credential("own", &site.credential(&ca))
        .expect("a credential");
    control.put_link("west", "own", None, 1);
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    control.put_access("main", any, "own", None);
    let Event::Port(port) = next() else {
        panic!("no port")
    };
    let address = SocketAddr::new(any.ip(), port);
    let silent = TcpListener::bind(any).expect("a port");
    let elsewhere = silent.local_addr().expect("an address");

    let file = File::open("/dev/null").expect("a file");
    let mut all = Vec::new();
    let error = loop {
        match file.try_clone() {
            Ok(copy) => all.push(copy),
            Err(error) => break error,
        }
    };
    assert_ne!(error.kind(), ErrorKind::PermissionDenied);
    // One descriptor for the client, none for us.
    all.pop();
    let client = TcpStream::connect(address).expect("the kernel answers");
    let before = cpu();
    std::thread::sleep(Duration::from_millis(600));
    let spent = cpu() - before;
    assert!(spent < Duration::from_millis(60), "{spent:?}");

    control.dial(1, "west", elsewhere, "");
    let Event::Failed(failure) = next() else {
        panic!("no failure")
    };
    assert_eq!(
        (failure.reason, failure.retryable),
        (Reason::Unreachable, true)
    );
    assert!(
        failure.sentence.contains("out of file descriptors"),
        "{failure:?}"
    );

    drop(all);
    let start = Instant::now();
    drop(client);
    assert!(matches!(next(), Event::Probe));
    assert!(start.elapsed() < Duration::from_secs(1));
    control.stop();
    control.join();
}

//! Applications at both ends of a stream that is carried somewhere, and routers that move it meanwhile.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, scope, sleep, spawn};
use std::time::Duration;

use van_core::plane::Plane;

/// Longer than a stream between two lanes is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of the entrance, and the server that it is led to.
pub fn connect(entrance: SocketAddr, backend: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(entrance).expect("it listens");
    let (server, _) = backend.accept().expect("it arrives");
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    }
    (client, server)
}

/// The byte at each place differs from its neighbours, also a frame or a window away.
pub fn byte(seed: usize, at: usize) -> u8 {
    ((at ^ (at >> 8) ^ (at >> 16)).wrapping_mul(167) >> 3 ^ seed) as u8
}

pub fn send(mut socket: &TcpStream, seed: usize, len: usize) -> Result<()> {
    for at in (0..len).step_by(65_536) {
        let bytes: Vec<u8> = (at..(at + 65_536).min(len))
            .map(|at| byte(seed, at))
            .collect();
        socket.write_all(&bytes)?;
    }
    Ok(())
}

/// Read to the end and check every byte; says how many there were, and how it ended.
pub fn check(mut socket: &TcpStream, seed: usize, pause: Duration) -> (usize, Result<()>) {
    let mut buffer = vec![0; 65_536];
    let mut at = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return (at, Ok(())),
            Ok(count) => {
                for (offset, got) in buffer[..count].iter().enumerate() {
                    assert_eq!(*got, byte(seed, at + offset), "at {}", at + offset);
                }
                at += count;
                sleep(pause);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (at, Err(error)),
        }
    }
}

/// Ask and answer once.
pub fn speak(client: &mut TcpStream, server: &mut TcpStream) {
    let mut word = [0; 5];
    client.write_all(b"hello").expect("sent");
    server.read_exact(&mut word).expect("heard");
    server.write_all(&word).expect("answered");
    client.read_exact(&mut word).expect("heard");
}

/// A download without end, until it is dropped.
pub struct Flood {
    client: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    pub fn new((client, mut server): (TcpStream, TcpStream)) -> Self {
        let mut reader = client.try_clone().expect("a descriptor");
        Self {
            client,
            threads: vec![
                spawn(move || while server.write_all(&[7; 65_536]).is_ok() {}),
                spawn(move || {
                    let mut buffer = vec![0; 262_144];
                    while reader.read(&mut buffer).is_ok_and(|count| count > 0) {
                        sleep(Duration::from_millis(1));
                    }
                }),
            ],
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.client.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// While `work` runs, these routers send every stream to another lane again and again, each as often as it is said.
pub fn shuffled<T>(planes: &[(&Plane, Duration)], work: impl FnOnce() -> T) -> T {
    /// Ends the shuffling also when `work` panics.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    scope(|scope| {
        for &(plane, every) in planes {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    plane.shuffle();
                    sleep(every);
                }
            });
        }
        let _over = Over(&over);
        work()
    })
}

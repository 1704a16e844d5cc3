//! Random streams: what both ends of each do comes from a seed, and each checks what the other did.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;

const HEADER: usize = 8;

/// xorshift64*: small, and the same at both ends.
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What one end of a stream does; both ends derive both from the seed.
#[derive(Clone, Debug)]
struct Part {
    /// Bytes that it sends, all told.
    len: usize,
    /// It resets after so many of them instead of ending.
    abort_at: Option<usize>,
    /// It reads no faster than this, every 64 KiB.
    pause: Duration,
    /// It sends only after it has read everything.
    after: bool,
    seed: u64,
}

impl Part {
    fn new(chance: &mut Chance, may_wait: bool) -> Self {
        let len = match chance.below(8) {
            0 => 0,
            1 => chance.below(200) as usize,
            2 => 16_374 + chance.below(5) as usize,
            3 => 65_534 + chance.below(5) as usize,
            4..=6 => chance.below(300_000) as usize,
            _ => chance.below(2_000_000) as usize,
        };
        let aborts = chance.below(6) == 0;
        Self {
            len,
            abort_at: aborts.then(|| chance.below(len as u64 + 1) as usize),
            pause: Duration::from_millis([0, 0, 0, 0, 0, 2, 20][chance.below(7) as usize]),
            after: may_wait && chance.below(5) == 0,
            seed: chance.next(),
        }
    }
}

fn script(seed: u64) -> (Part, Part) {
    let mut chance = Chance::new(seed);
    let client = Part::new(&mut chance, false);
    // One that waits for the other's end; both at once would wait for ever.
    let server = Part::new(&mut chance, true);
    (client, server)
}

fn fill(chance: &mut Chance, buffer: &mut [u8]) {
    for byte in buffer {
        *byte = (chance.next() >> 32) as u8;
    }
}

/// Send as the part says. `false`: the stream broke, or we broke it.
fn send(socket: &TcpStream, part: &Part) -> bool {
    let mut chance = Chance::new(part.seed);
    let until = part.abort_at.unwrap_or(part.len);
    let mut buffer = vec![0; 40_000];
    let mut sent = 0;
    while sent < until {
        let len = (until - sent).min(buffer.len());
        fill(&mut chance, &mut buffer[..len]);
        if (&*socket).write_all(&buffer[..len]).is_err() {
            return false;
        }
        sent += len;
    }
    if part.abort_at.is_some() {
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        return false;
    }
    socket.shutdown(Shutdown::Write).is_ok()
}

/// Read what the other part sends. `Ok(true)`: whole; `Ok(false)`: reset.
fn receive(mut socket: &TcpStream, from: &Part, pause: Duration) -> Result<bool, String> {
    let mut chance = Chance::new(from.seed);
    let mut got = 0;
    let mut buffer = vec![0; 65_536];
    let mut expected = vec![0; 65_536];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) if got == from.len && from.abort_at.is_none() => return Ok(true),
            Ok(0) => return Err(format!("a clean end after {got} bytes of {from:?}")),
            Ok(count) => {
                fill(&mut chance, &mut expected[..count]);
                if buffer[..count] != expected[..count] || got + count > from.len {
                    return Err(format!("wrong bytes after {got} of {from:?}"));
                }
                got += count;
                std::thread::sleep(pause);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(format!(
                    "nothing came for long after {got} bytes of {from:?}"
                ));
            }
            Err(_) => return Ok(false),
        }
    }
}

/// One end of a stream. Says whether it ended whole.
fn run(socket: &Arc<TcpStream>, mine: &Part, theirs: &Part) -> Result<bool, String> {
    let _ = socket.set_read_timeout(Some(Duration::from_secs(20)));
    let _ = socket.set_write_timeout(Some(Duration::from_secs(20)));
    let (received, sent) = if mine.after {
        let received = receive(socket, theirs, mine.pause)?;
        (received, received && send(socket, mine))
    } else {
        let writing = {
            let (socket, mine) = (Arc::clone(socket), mine.clone());
            std::thread::spawn(move || {
                let done = send(&socket, &mine);
                if mine.abort_at.is_some() {
                    // Wakes our own reader, too; closing comes when it has let go.
                    let _ = socket.shutdown(Shutdown::Read);
                }
                done
            })
        };
        let received = receive(socket, theirs, mine.pause);
        let sent = writing.join().expect("no panic");
        if mine.abort_at.is_some() {
            // We cut it ourselves: what our own reader saw then says nothing.
            return Ok(false);
        }
        match received {
            // The kernel tells of a reset once, and told the writing half: the reading half then sees an end.
            Err(_) if !sent => return Ok(false),
            received => (received?, sent),
        }
    };
    let whole = received && sent;
    if whole && (mine.abort_at.is_some() || theirs.abort_at.is_some()) {
        return Err("a stream that was aborted ended cleanly".to_owned());
    }
    Ok(whole)
}

fn serve(listener: &TcpListener, stop: &AtomicBool, failed: &Arc<std::sync::Mutex<Vec<String>>>) {
    listener.set_nonblocking(true).expect("an option");
    let mut threads = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut socket, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let failed = Arc::clone(failed);
        threads.push(std::thread::spawn(move || {
            let _ = socket.set_nonblocking(false);
            let _ = socket.set_read_timeout(Some(Duration::from_secs(20)));
            let mut header = [0; HEADER];
            if socket.read_exact(&mut header).is_err() {
                return;
            }
            let seed = u64::from_be_bytes(header);
            let (client, server) = script(seed);
            if let Err(error) = run(&Arc::new(socket), &server, &client) {
                failed
                    .lock()
                    .expect("no panic")
                    .push(format!("server, seed {seed}: {error}"));
            }
        }));
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
}

/// Random streams from `entrance` to `backend` for a while: each ends whole or reset, and reset only if somebody aborted it.
/// `quiet` waits until the routers have none.
pub fn storm(
    entrance: SocketAddr,
    backend: &TcpListener,
    seed: u64,
    span: Duration,
    quiet: impl FnOnce(),
) {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let server = {
        let backend = backend.try_clone().expect("a descriptor");
        let (stop, failed) = (Arc::clone(&stop), Arc::clone(&failed));
        std::thread::spawn(move || serve(&backend, &stop, &failed))
    };
    let ended = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let deadline = Instant::now() + span;
    let clients: Vec<_> = (0..24u64)
        .map(|client| {
            let (failed, ended) = (Arc::clone(&failed), Arc::clone(&ended));
            std::thread::spawn(move || {
                for round in 0.. {
                    if Instant::now() >= deadline {
                        return;
                    }
                    let seed = seed << 32 | client << 20 | round;
                    let mut socket = TcpStream::connect(entrance).expect("the listener listens");
                    let (client, server) = script(seed);
                    match seed % 97 {
                        0 => continue, // says nothing at all
                        1 => {
                            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                            continue;
                        }
                        _ => {}
                    }
                    if socket.write_all(&seed.to_be_bytes()).is_err() {
                        continue;
                    }
                    match run(&Arc::new(socket), &client, &server) {
                        Ok(whole) => {
                            ended[usize::from(whole)].fetch_add(1, Ordering::Relaxed);
                            if !whole && client.abort_at.is_none() && server.abort_at.is_none() {
                                failed.lock().expect("no panic").push(format!(
                                    "client, seed {seed}: reset though nobody aborted: {client:?} {server:?}"
                                ));
                            }
                        }
                        Err(error) => failed
                            .lock()
                            .expect("no panic")
                            .push(format!("client, seed {seed}: {error}")),
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no panic");
    }
    quiet();
    stop.store(true, Ordering::Relaxed);
    server.join().expect("no panic");
    let failures = std::mem::take(&mut *failed.lock().expect("no panic"));
    assert!(failures.is_empty(), "{} {failures:#?}", failures.len());
    let [reset, whole] = [0, 1].map(|i| ended[i].load(Ordering::Relaxed));
    assert!(whole > 0 && reset > 0, "{whole} whole, {reset} reset");
    println!("{whole} whole, {reset} reset");
}

//! What applications at both ends see of a stream.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use common::planes::Network;
use socket2::SockRef;

fn reset(socket: TcpStream) {
    SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .expect("an option");
}

#[test]
fn an_abort_of_the_client_is_never_a_clean_end_for_the_server() {
    let mut network = Network::new(2, |_| {});
    for (len, pause, shut) in [
        (50, 0, false),
        (50, 20, false),
        (50, 0, true),
        (0, 0, false),
        (100_000, 5, true),
    ] {
        for _ in 0..20 {
            let mut client = TcpStream::connect(network.entrance).expect("it listens");
            client.write_all(b"hello").expect("sent");
            let (mut server, _) = network.backend.accept().expect("it arrives");
            client.write_all(&vec![7; len]).expect("sent");
            std::thread::sleep(Duration::from_millis(pause));
            if shut {
                client.shutdown(Shutdown::Read).expect("shut");
            }
            reset(client);
            let end = server.read_to_end(&mut Vec::new());
            assert!(end.is_err(), "{len} bytes, {pause} ms, {shut}: {end:?}");
        }
    }
    network.quiet();
}

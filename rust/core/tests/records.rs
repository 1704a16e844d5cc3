//! Both record layers against each other, however the bytes are cut, and against a peer that holds the keys and means ill.
#![allow(clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use common::{Ca, Layer, Site, record_pair, tls_pair};
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ConnectionTrafficSecrets, client::UnbufferedClientConnection};
use van_core::record::{MAX_RECORD, RECORD_OVERHEAD, Records, Tls, TlsError, sealed_len};
use van_core::tls::{Credential, provider};

const LAYERS: [Layer; 2] = [Layer::Rustls, Layer::Direct];

fn mixed(client: Layer, server: Layer) -> (Records, Records) {
    let (c, s) = tls_pair();
    (
        common::into_records(c, client),
        common::into_records(s, server),
    )
}

/// Give `wire` to `to` in pieces of these sizes.
fn deliver(
    to: &mut Records,
    wire: &[u8],
    cuts: &[usize],
    max_plain: usize,
) -> Result<Vec<u8>, TlsError> {
    let (mut incoming, mut plain, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let (mut at, mut turn) = (0, 0);
    loop {
        let cut = cuts[turn % cuts.len()].min(wire.len() - at);
        turn += 1;
        incoming.extend_from_slice(&wire[at..at + cut]);
        at += cut;
        loop {
            let opened = to.open(&mut incoming, &mut plain, max_plain, &mut Vec::new())?;
            assert!(plain.len() <= max_plain);
            incoming.drain(..opened.consumed);
            all.append(&mut plain);
            if opened.consumed == 0 {
                break;
            }
        }
        if at == wire.len() {
            assert!(incoming.is_empty());
            return Ok(all);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn how_bytes_are_cut_never_changes_them(
        sizes in proptest::collection::vec(prop_oneof![0usize..5, 16_380usize..16_390, 0usize..70_000], 1..5),
        cuts in proptest::collection::vec(prop_oneof![1usize..40, 1usize..40_000], 1..6),
        client_direct in any::<bool>(),
        server_direct in any::<bool>(),
        refresh in any::<bool>(),
    ) {
        let layer = |direct| if direct { Layer::Direct } else { Layer::Rustls };
        let (mut client, mut server) = mixed(layer(client_direct), layer(server_direct));
        for outward in [true, false] {
            let (a, b) = if outward { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let (mut wire, mut sent) = (Vec::new(), Vec::new());
            for (n, size) in sizes.iter().enumerate() {
                let part: Vec<u8> = (0..*size).map(|i| (i * 31 + n) as u8).collect();
                if refresh {
                    a.refresh().expect("refreshed");
                }
                a.seal(&part, &mut wire).expect("sealed");
                sent.extend_from_slice(&part);
            }
            let got = deliver(b, &wire, &cuts, 20_000).expect("opened");
            prop_assert!(got == sent);
        }
    }

    #[test]
    fn no_bytes_make_a_record_layer_panic(
        records in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
        direct in any::<bool>(),
    ) {
        let (_, mut to) = record_pair(if direct { Layer::Direct } else { Layer::Rustls });
        let mut wire = Vec::new();
        for (kind, body) in records {
            wire.extend_from_slice(&[20 + kind % 5, 3, 3, 0, body.len() as u8]);
            wire.extend_from_slice(&body);
        }
        let (mut plain, mut outgoing) = (Vec::new(), Vec::new());
        for end in 0..=wire.len() {
            if to.open(&mut wire[..end].to_vec(), &mut plain, 1_000, &mut outgoing).is_err() {
                break;
            }
        }
        let _ = to.seal(b"more", &mut outgoing);
        to.close(&mut outgoing);
    }
}

/// Every bit of a record, with both layers. The direct one, which lanes use, compares the type and authenticates the header as it came.
///
/// rustls authenticates the header that a record must have and does not look at the one that it says: of the version, RFC 8446 (5.1)
/// wants that it "MUST be ignored for all purposes". So it passes that the type becomes that of a handshake or an alert, or the
/// version's second byte any other, and changes nothing: contents and real type are what was sealed. Nothing else passes.
#[test]
fn a_changed_bit_is_never_other_plaintext() {
    const TEXT: &[u8] = b"the first record";
    for layer in LAYERS {
        for (at, bit) in
            (0..TEXT.len() + RECORD_OVERHEAD).flat_map(|at| (0..8).map(move |bit| (at, bit)))
        {
            let what = format!("{layer:?}, byte {at}, bit {bit}");
            let (mut from, mut to) = record_pair(layer);
            let mut wire = Vec::new();
            from.seal(TEXT, &mut wire).expect("sealed");
            assert_eq!(wire.len(), TEXT.len() + RECORD_OVERHEAD);
            let sent = [wire[3], wire[4]];
            wire[at] ^= 1 << bit;
            let (mut plain, mut outgoing) = (Vec::new(), Vec::new());
            let opened = to.open(&mut wire, &mut plain, 1_000, &mut outgoing);
            let is_ignored = layer == Layer::Rustls && matches!((at, bit), (0, 0 | 1) | (2, _));
            let is_longer = [wire[3], wire[4]] > sent && wire[3] < 65;
            match opened {
                Ok(opened) if is_ignored => {
                    assert_eq!(opened.consumed, TEXT.len() + RECORD_OVERHEAD, "{what}");
                    assert_eq!(plain, TEXT, "{what}");
                    continue;
                }
                Ok(opened) => {
                    assert!(is_longer, "{what}: only a longer length waits for more");
                    assert_eq!(opened.consumed, 0, "{what}");
                }
                Err(error) => {
                    assert!(!is_longer && !is_ignored, "{what}: {error}");
                    assert!(
                        matches!(error, TlsError::Misbehaved(_)),
                        "{what}: {error:?}"
                    );
                    assert!(
                        to.open(&mut [], &mut plain, 1_000, &mut outgoing).is_err()
                            || layer == Layer::Rustls,
                        "{what}"
                    );
                    // rustls goes on sending after a length that no record has; the lane is closed all the same.
                    let goes_on = layer == Layer::Rustls && at == 3;
                    assert!(
                        to.seal(b"more", &mut outgoing).is_err() || goes_on,
                        "{what}"
                    );
                }
            }
            assert!(plain.is_empty(), "{what}");
        }
    }
}

#[test]
fn records_stay_where_they_are_while_there_is_no_room() {
    for layer in LAYERS {
        let (mut from, mut to) = record_pair(layer);
        let mut wire = Vec::new();
        from.seal(&[7; 40_000], &mut wire).expect("sealed");
        assert_eq!(wire.len(), 40_000 + 3 * RECORD_OVERHEAD);
        let (mut plain, mut outgoing) = (vec![1, 2, 3], Vec::new());
        let opened = to
            .open(&mut wire, &mut plain, 16_386, &mut outgoing)
            .expect("opened");
        assert_eq!((opened.consumed, plain.len()), (0, 3), "{layer:?}");
        let opened = to
            .open(&mut wire, &mut plain, 16_387, &mut outgoing)
            .expect("opened");
        assert_eq!(
            (opened.consumed, plain.len()),
            (16_384 + RECORD_OVERHEAD, 16_387),
            "{layer:?}"
        );
        wire.drain(..opened.consumed);
        let mut slice = [0; 40_000];
        let opened = to
            .open_into(&mut wire, &mut slice[..16_384], &mut outgoing)
            .expect("opened");
        assert_eq!((opened.consumed, opened.plain), (0, 0), "{layer:?}");
        let opened = to
            .open_into(&mut wire, &mut slice, &mut outgoing)
            .expect("opened");
        assert_eq!(
            (opened.consumed, opened.plain),
            (wire.len(), 40_000 - 16_384),
            "{layer:?}"
        );
        assert!(outgoing.is_empty());
    }
}

#[test]
fn sealing_needs_no_more_room_than_it_says_and_refuses_less() {
    for layer in LAYERS {
        let (mut from, _) = record_pair(layer);
        for size in [0, 1, 16_384, 16_385, 262_144] {
            from.refresh().expect("refreshed");
            let plain = vec![1; size];
            assert!(
                from.seal_into(&plain, &mut vec![0; sealed_len(size) - 1])
                    .is_err()
            );
            from.seal_into(&plain, &mut vec![0; sealed_len(size)])
                .expect("sealed");
        }
    }
}

#[test]
fn every_cipher_works_with_both_layers_at_both_ends() {
    let suites = provider().cipher_suites.clone();
    assert_eq!(suites.len(), 3);
    for suite in suites {
        for (client, server) in LAYERS.into_iter().flat_map(|c| LAYERS.map(|s| (c, s))) {
            let (c, s) = common::tls_pair_with(Some(suite));
            let (mut client, mut server) = (
                common::into_records(c, client),
                common::into_records(s, server),
            );
            for _ in 0..2 {
                for outward in [true, false] {
                    let (from, to) = if outward {
                        (&mut client, &mut server)
                    } else {
                        (&mut server, &mut client)
                    };
                    let mut wire = Vec::new();
                    from.seal(&[7; 50_000], &mut wire).expect("sealed");
                    from.refresh().expect("refreshed");
                    let got = deliver(to, &wire, &[9_999], 20_000).expect("opened");
                    assert!(got == [7; 50_000], "{suite:?}");
                }
            }
        }
    }
}

#[test]
fn close_notify_ends_one_direction() {
    for layer in LAYERS {
        let (mut from, mut to) = record_pair(layer);
        let mut wire = Vec::new();
        from.seal(b"last words", &mut wire).expect("sealed");
        from.close(&mut wire);
        assert!(from.seal(b"more", &mut Vec::new()).is_err() || layer == Layer::Rustls);
        wire.extend_from_slice(b"whatever comes behind it");
        let (mut plain, mut outgoing) = (Vec::new(), Vec::new());
        let opened = to
            .open(&mut wire, &mut plain, 1_000, &mut outgoing)
            .expect("opened");
        assert!(opened.closed && plain == b"last words", "{layer:?}");
        let mut back = Vec::new();
        to.seal(b"the other direction", &mut back).expect("sealed");
        to.close(&mut back);
        plain.clear();
        let opened = from
            .open(&mut back, &mut plain, 1_000, &mut outgoing)
            .expect("opened");
        assert!(
            opened.closed && plain == b"the other direction",
            "{layer:?}"
        );
    }
}

/// 2^24 records of one byte: the key is changed on the way, and nobody notices.
#[test]
#[ignore = "takes some seconds with optimisation, a minute without"]
fn a_key_is_changed_before_it_is_worn_out() {
    let (mut from, mut to) = mixed(Layer::Direct, Layer::Rustls);
    let (mut wire, mut plain, mut outgoing) = (vec![0; sealed_len(1)], [0; 64], Vec::new());
    let mut updates = 0;
    for _ in 0..(1u32 << 24) + 100 {
        let sealed = from.seal_into(&[7], &mut wire).expect("sealed");
        updates += u32::from(sealed > 1 + RECORD_OVERHEAD);
        let opened = to
            .open_into(&mut wire[..sealed], &mut plain, &mut outgoing)
            .expect("opened");
        assert_eq!((opened.consumed, opened.plain), (sealed, 1));
    }
    assert_eq!(updates, 1);
}

// ---- A peer that holds the keys and means ill ---------------------------------------------------------------------------

struct Evil {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Evil {
    /// An inner plaintext as it is: with or without content type, with padding or not.
    fn record(&mut self, inner: &[u8]) -> Vec<u8> {
        let len = (inner.len() + 16) as u16;
        let [high, low] = len.to_be_bytes();
        let header = [23, 3, 3, high, low];
        let mut nonce = self.iv;
        for (byte, of) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of;
        }
        self.sequence += 1;
        let mut body = inner.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(header),
                &mut body,
            )
            .expect("sealed");
        [&header[..], &body].concat()
    }

    fn typed(&mut self, kind: u8, text: &[u8]) -> Vec<u8> {
        self.record(&[text, &[kind]].concat())
    }
}

/// A client that gave its keys away, and a server that talks to it.
fn evil_pair(layer: Layer) -> (Evil, Records) {
    let (north, south, ca) = (Site::new("north"), Site::new("south"), Ca::new("CA"));
    let accept = Credential::new(&north.credential(&ca)).expect("a credential");
    let dial = Credential::new(&south.credential(&ca)).expect("a credential");
    let name = ServerName::try_from("unknown.van").expect("a name");
    let mut client =
        UnbufferedClientConnection::new(Arc::clone(&dial.client(&name)), name).expect("a client");
    let mut server = Tls::server(accept.server()).expect("a server");
    let (mut there, mut back) = (Vec::new(), Vec::new());
    while client.is_handshaking() || server.is_handshaking() {
        loop {
            let UnbufferedStatus { discard, state, .. } = client.process_tls_records(&mut back);
            let mut wait = false;
            match state.expect("in order") {
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut buffer = [0; 20_000];
                    let written = data.encode(&mut buffer).expect("room");
                    there.extend_from_slice(&buffer[..written]);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => wait = true,
            }
            back.drain(..discard);
            if wait {
                break;
            }
        }
        let done = server.handshake(&mut there, &mut back).expect("in order");
        there.drain(..done.consumed);
    }
    let (secrets, _) = client.dangerous_into_kernel_connection().expect("secrets");
    let (sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
        panic!("AES-128-GCM first");
    };
    let evil = Evil {
        key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).expect("a key")),
        iv: iv.as_ref().try_into().expect("12 bytes"),
        sequence,
    };
    (evil, common::into_records(server, layer))
}

/// What the server makes of it: plaintext, or an error; and whether it said anything.
fn hear(to: &mut Records, wire: &[u8]) -> (Result<Vec<u8>, TlsError>, bool) {
    let (mut plain, mut outgoing) = (Vec::new(), Vec::new());
    let mut wire = wire.to_vec();
    let outcome = to
        .open(&mut wire, &mut plain, 1 << 20, &mut outgoing)
        .map(|_| plain);
    // Whatever it was, the other direction does not panic.
    let _ = to.seal(b"more", &mut Vec::new());
    (outcome, !outgoing.is_empty())
}

#[test]
fn what_a_peer_may_do_is_done() {
    for layer in LAYERS {
        let (mut evil, mut server) = evil_pair(layer);
        let padded = evil.record(&[b"padded".as_slice(), &[23], &[0; 500]].concat());
        assert_eq!(
            hear(&mut server, &padded).0.expect("fine"),
            b"padded",
            "{layer:?}"
        );
        let canceled = evil.typed(21, &[1, 90]);
        assert_eq!(
            hear(&mut server, &canceled).0.expect("fine"),
            b"",
            "{layer:?}"
        );
        let empty = evil.typed(23, b"");
        assert_eq!(hear(&mut server, &empty).0.expect("fine"), b"", "{layer:?}");
        let full = evil.typed(23, &[9; 16_384]);
        assert_eq!(full.len(), 16_384 + RECORD_OVERHEAD);
        assert_eq!(
            hear(&mut server, &full).0.expect("fine").len(),
            16_384,
            "{layer:?}"
        );
    }
}

#[test]
fn what_a_peer_may_not_do_ends_the_connection_with_an_alert_and_never_a_panic() {
    type Make = fn(&mut Evil) -> Vec<u8>;
    let cases: [(&str, Make); 15] = [
        ("half a key update", |e| e.typed(22, &[24, 0, 0])),
        ("a key update in two records", |e| {
            [e.typed(22, &[24, 0]), e.typed(22, &[0, 1, 0])].concat()
        }),
        ("a key update with a friend", |e| {
            e.typed(22, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0])
        }),
        ("a malformed key update", |e| e.typed(22, &[24, 0, 0, 1, 7])),
        ("a ticket from a client", |e| e.typed(22, &[4, 0, 0, 1, 0])),
        ("a ClientHello", |e| e.typed(22, &[1, 0, 0, 1, 0])),
        ("an empty handshake record", |e| e.typed(22, &[])),
        ("padding alone", |e| e.record(&[0; 20])),
        ("nothing at all", |e| e.record(&[])),
        ("an unknown type", |e| e.typed(99, b"x")),
        ("a change of ciphers", |_| vec![20, 3, 3, 0, 1, 1]),
        ("a plaintext alert", |_| vec![21, 3, 3, 0, 2, 1, 0]),
        ("an alert of one byte", |e| e.typed(21, &[1])),
        ("too much plaintext", |e| e.typed(23, &[0; 16_385])),
        ("empty records for ever", |e| {
            (0..100).flat_map(|_| e.typed(23, b"")).collect()
        }),
    ];
    for layer in LAYERS {
        for (what, make) in cases {
            let (mut evil, mut server) = evil_pair(layer);
            let wire = make(&mut evil);
            let (outcome, said) = hear(&mut server, &wire);
            assert!(
                matches!(outcome, Err(TlsError::Misbehaved(_))),
                "{layer:?} {what}: {outcome:?}"
            );
            assert!(said || layer == Layer::Rustls, "{what}");
            assert!(
                hear(&mut server, &evil.typed(23, b"later")).0.is_err(),
                "{layer:?} {what}"
            );
        }
        let (mut evil, mut server) = evil_pair(layer);
        let alert = evil.typed(21, &[2, 40]);
        assert!(
            matches!(hear(&mut server, &alert).0, Err(TlsError::Alert(_))),
            "{layer:?}"
        );
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_before_it_is_there() {
    for layer in LAYERS {
        let (_, mut server) = evil_pair(layer);
        let len = (MAX_RECORD - 4) as u16;
        let [high, low] = len.to_be_bytes();
        assert!(
            hear(&mut server, &[23, 3, 3, high, low]).0.is_err(),
            "{layer:?}"
        );
    }
}

#[test]
fn a_replayed_record_and_a_skipped_one_do_not_decrypt() {
    for layer in LAYERS {
        let (mut evil, mut server) = evil_pair(layer);
        let first = evil.typed(23, b"one");
        hear(&mut server, &first).0.expect("fine");
        assert!(hear(&mut server, &first).0.is_err(), "{layer:?}");
        let (mut evil, mut server) = evil_pair(layer);
        evil.typed(23, b"lost");
        assert!(
            hear(&mut server, &evil.typed(23, b"two")).0.is_err(),
            "{layer:?}"
        );
    }
}

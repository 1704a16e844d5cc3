//! HELLO on the wire: what goes in comes out, and nothing that strangers send makes the codec panic.
#![allow(clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Site, now};
use proptest::prelude::*;
use van_core::handshake::{
    Hello, HelloCredit, HelloError, MAX_SIBLINGS, RouterId, Statement, attributes, is_site_name,
    put_attribute, site_from_text, site_id, site_text,
};

fn hello(site: &Site) -> Hello {
    Hello {
        identity_key: site.identity_key(),
        statement: site.statement([5; 32], now() + 100),
        router: site.router(),
        site_name: site.name.clone(),
        lanes_wanted: 2,
        credit: HelloCredit::OURS,
        siblings: vec![],
        cost: 1,
        link_name: String::new(),
        software: String::new(),
        features: 0,
        edge: false,
    }
}

fn payload(hello: &Hello) -> Vec<u8> {
    let mut out = Vec::new();
    hello.encode(&mut out);
    out
}

/// The payload with one attribute replaced or left out.
fn with(hello: &Hello, kind: u16, value: Option<&[u8]>) -> Vec<u8> {
    let whole = payload(hello);
    let mut out = vec![1];
    for (k, v) in attributes(&whole[1..]).expect("well formed") {
        if k != kind {
            put_attribute(&mut out, k, v);
        }
    }
    if let Some(value) = value {
        put_attribute(&mut out, kind, value);
    }
    out
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        name in "[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?",
        lanes_wanted in 1..=u16::MAX,
        credit in (65_540u32..1 << 31, 0u32..1 << 31, 0u32..1 << 31),
        siblings in proptest::collection::vec(any::<u64>(), 0..=MAX_SIBLINGS),
        cost in 1u32..=1_000_000,
        link_name in "[a-z]{0,63}",
        software in "[ -~]{0,63}",
        features in any::<u64>(),
        edge in any::<bool>(),
    ) {
        let sent = Hello {
            site_name: name,
            lanes_wanted,
            credit: HelloCredit { control: credit.0, opens: credit.1, early: credit.2 },
            siblings,
            cost,
            link_name,
            software,
            features,
            edge,
            ..hello(&Site::new("x"))
        };
        prop_assert_eq!(Hello::decode(&payload(&sent)), Ok(sent.clone()));
        let frame = sent.frame();
        prop_assert_eq!(frame.len(), 8 + payload(&sent).len());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Hello::decode(&bytes);
        let mut versioned = vec![1];
        versioned.extend_from_slice(&bytes);
        let _ = Hello::decode(&versioned);
        let _ = Statement::decode(&bytes);
    }

    #[test]
    fn attributes_of_any_kind_and_size_are_judged_without_a_panic(
        kind in 0u16..14,
        value in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let _ = Hello::decode(&with(&hello(&Site::new("x")), kind, Some(&value)));
    }

    #[test]
    fn cut_anywhere_it_is_refused(cut in any::<prop::sample::Index>()) {
        let whole = payload(&hello(&Site::new("x")));
        prop_assert!(Hello::decode(&whole[..cut.index(whole.len())]).is_err());
    }

    #[test]
    fn ids_survive_text(site in any::<[u8; 32]>(), boot in any::<u64>()) {
        let text = site_text(&site);
        prop_assert_eq!(text.len(), 52);
        prop_assert_eq!(site_from_text(&text), Some(site));
        let id = RouterId { site, boot };
        prop_assert_eq!(id.to_string().parse::<RouterId>(), Ok(id));
    }

    #[test]
    fn any_text_that_is_read_as_an_id_is_how_it_is_written(text in "[a-z2-7]{52}/[0-9a-f]{16}") {
        if let Ok(id) = text.parse::<RouterId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}

#[test]
fn unknown_attributes_are_ignored_and_doubled_ones_are_not() {
    let good = hello(&Site::new("north"));
    assert_eq!(
        Hello::decode(&with(&good, 0x7000, Some(b"?"))),
        Ok(good.clone())
    );
    let mut twice = with(&good, 0x7000, Some(b"?"));
    put_attribute(&mut twice, 0x7000, b"?");
    assert_eq!(
        Hello::decode(&twice),
        Err(HelloError::Malformed("attribute list"))
    );
}

#[test]
fn every_required_attribute_is_required_and_every_form_is_checked() {
    let good = hello(&Site::new("north"));
    for kind in 1..=6 {
        assert!(
            matches!(
                Hello::decode(&with(&good, kind, None)),
                Err(HelloError::Missing(_))
            ),
            "{kind}"
        );
    }
    let key = good.identity_key.clone();
    let mut compressed = key.clone();
    compressed[26] = 2;
    let bad: &[(u16, &[u8])] = &[
        (1, b""),
        (1, &key[..90]),
        (1, &compressed),
        (1, &[&key[..], b"x"].concat()),
        (2, &[0; 40]),
        (2, &[0; 113]),
        (3, &[0; 7]),
        (4, b""),
        (4, b"North"),
        (4, b"north."),
        (4, b"-north"),
        (4, b"no\0rth"),
        (4, "n\u{f6}rth".as_bytes()),
        (4, &[b'a'; 64]),
        (5, &[0, 0]),
        (5, &[1]),
        (6, &[0; 12]),
        (6, &[0; 13]),
        (6, &[0xff; 12]),
        (7, &[0; 9]),
        (7, &[0; 8 * 65]),
        (8, &0u32.to_be_bytes()),
        (8, &1_000_001u32.to_be_bytes()),
        (9, &[b'x'; 64]),
        (9, b"\xff"),
        (9, b"a\nb"),
        (10, &[b'x'; 64]),
        (11, &[0; 4]),
    ];
    for (kind, value) in bad {
        let error = Hello::decode(&with(&good, *kind, Some(value)));
        assert!(
            matches!(error, Err(HelloError::Malformed(_))),
            "{kind} {value:?}: {error:?}"
        );
    }
    let mut other = payload(&good);
    other[0] = 2;
    assert_eq!(Hello::decode(&other), Err(HelloError::Version(2)));
    assert!(Hello::decode(&[]).is_err());
}

#[test]
fn a_statement_counts_until_its_last_second_for_its_leaf_and_its_key_alone() {
    let (north, south) = (Site::new("north"), Site::new("south"));
    let statement = north.statement([5; 32], 1_000);
    let key = north.identity_key();
    assert_eq!(statement.verify(&key, &[5; 32], 1_000), Ok(()));
    assert_eq!(
        statement.verify(&key, &[5; 32], 1_001),
        Err(HelloError::StatementExpired(1))
    );
    assert_eq!(
        statement.verify(&key, &[6; 32], 0),
        Err(HelloError::OtherLeaf)
    );
    assert_eq!(
        statement.verify(&south.identity_key(), &[5; 32], 0),
        Err(HelloError::Signature)
    );
    assert_eq!(
        statement.verify(&key[..80], &[5; 32], 0),
        Err(HelloError::Malformed("identity key"))
    );
    for bit in 0..statement.signature.len() * 8 {
        let mut forged = statement.clone();
        forged.signature[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            forged.verify(&key, &[5; 32], 0),
            Err(HelloError::Signature),
            "{bit}"
        );
    }
}

#[test]
fn ids_are_what_the_protocol_says() {
    // SHA-256 and base32 are fixed by vectors: of the empty string, and of 32 zero bytes.
    assert_eq!(site_text(&[0; 32]), "a".repeat(52));
    assert_eq!(site_text(&[0xff; 32]), format!("{}q", "7".repeat(51)));
    assert_eq!(
        site_from_text(&format!("{}7", "7".repeat(51))),
        None,
        "bits behind the end"
    );
    assert_eq!(site_id(b"no key"), None);
    assert!(
        is_site_name("a") && is_site_name("a-b.c0") && !is_site_name("a-") && !is_site_name("A")
    );
    assert!("x/0".parse::<RouterId>().is_err());
    assert!(
        format!("{}/{:016X}", "a".repeat(52), 0xabcu64)
            .parse::<RouterId>()
            .is_err()
    );
}

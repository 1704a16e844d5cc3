//! The few facts that policy needs from an X.509 leaf: its key, its dates, its names.
//!
//! Sans-IO, and no verification: chains are for `tls.rs`. Nothing here panics on any bytes.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::handshake::sha256;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const VISIBLE_STRING: u8 = 0x1a;
const UNIVERSAL_STRING: u8 = 0x1c;
const BMP_STRING: u8 = 0x1e;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// Attribute types that have a short name in RFC 4514; others are written as numbers.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// What we want to know of a leaf.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// SHA-256 of its SubjectPublicKeyInfo DER.
    pub key_hash: [u8; 32],
    /// Seconds since the epoch.
    pub not_before: u64,
    /// Seconds since the epoch.
    pub not_after: u64,
    /// Common names, the whole subject (as RFC 4514 writes it: `CN=north,O=Corp`), then subject alternative names (DNS in lower case,
    /// mail, URI, IP). Names with control characters are left out.
    pub names: Vec<String>,
}

impl Leaf {
    /// Read a certificate in DER. `None`: it is none.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (certificate, _) = take(der, SEQUENCE)?;
        let (body, _) = take(certificate, SEQUENCE)?;
        let body = take(body, VERSION).map_or(body, |(_, rest)| rest);
        let (_serial, body) = take(body, 0x02)?;
        let (_algorithm, body) = take(body, SEQUENCE)?;
        let (_issuer, body) = take(body, SEQUENCE)?;
        let (validity, body) = take(body, SEQUENCE)?;
        let (subject, body) = take(body, SEQUENCE)?;
        let (_, rest) = take(body, SEQUENCE)?;
        let key = body.get(..body.len() - rest.len())?;

        let (not_before, validity) = time(validity)?;
        let (not_after, _) = time(validity)?;
        let mut names = common_names(subject);
        names.extend(subject_text(subject));
        names.extend(alternative_names(rest).unwrap_or_default());
        names.retain(|name| !name.is_empty() && !name.chars().any(char::is_control));
        Some(Self {
            key_hash: sha256(key),
            not_before,
            not_after,
            names,
        })
    }

    /// Whether one of the names matches one of the shell-style patterns.
    #[must_use]
    pub fn is_named(&self, patterns: &[String]) -> bool {
        patterns
            .iter()
            .any(|pattern| self.names.iter().any(|name| matches(pattern, name)))
    }
}

/// The contents of the element at the front, which must have this tag, and what follows it.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = element(bytes)?;
    (found == tag).then_some((contents, rest))
}

/// Tag and contents of the element at the front, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let len = digits
                .iter()
                .fold(0, |len, digit| (len << 8) | usize::from(*digit));
            (len, rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((tag, contents, rest))
}

/// All elements of a constructed one, up to the first that is broken.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, contents, rest) = element(bytes)?;
        bytes = rest;
        Some((tag, contents))
    })
}

fn common_names(subject: &[u8]) -> Vec<String> {
    elements(subject)
        .filter(|(tag, _)| *tag == SET)
        .flat_map(|(_, set)| elements(set))
        .filter_map(|(_, pair)| {
            let (kind, rest) = take(pair, OID)?;
            let (tag, value, _) = element(rest)?;
            (kind == COMMON_NAME).then(|| text(tag, value))?
        })
        .collect()
}

/// The whole subject as RFC 4514 writes it. `None` if a part of it is no text.
fn subject_text(subject: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for (_, set) in elements(subject).filter(|(tag, _)| *tag == SET) {
        let mut attributes = Vec::new();
        for (_, pair) in elements(set) {
            let (kind, rest) = take(pair, OID)?;
            let (tag, value, _) = element(rest)?;
            let kind = dotted(kind)?;
            let name = SHORT_NAMES
                .iter()
                .find_map(|(number, name)| (*number == kind).then_some(*name))
                .unwrap_or(&kind);
            attributes.push(format!("{name}={}", escaped(&text(tag, value)?)));
        }
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | NUMERIC_STRING | PRINTABLE_STRING | IA5_STRING | VISIBLE_STRING => {
            String::from_utf8(value.to_vec()).ok()
        }
        BMP_STRING => {
            let (units, []) = value.as_chunks::<2>() else {
                return None;
            };
            char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)))
                .collect::<Result<_, _>>()
                .ok()
        }
        UNIVERSAL_STRING => {
            let (units, []) = value.as_chunks::<4>() else {
                return None;
            };
            units
                .iter()
                .map(|unit| char::from_u32(u32::from_be_bytes(*unit)))
                .collect()
        }
        _ => None,
    }
}

/// An object identifier in numbers.
fn dotted(oid: &[u8]) -> Option<String> {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    let mut is_whole = true;
    for byte in oid {
        number = number.checked_mul(128)? | u64::from(byte & 0x7f);
        is_whole = byte & 0x80 == 0;
        if is_whole {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.extend([first, number - 40 * first]);
            } else {
                numbers.push(number);
            }
            number = 0;
        }
    }
    let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
    is_whole.then(|| words.join("."))
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (at, letter) in value.chars().enumerate() {
        let special = match letter {
            '\\' | '"' | '+' | ',' | ';' | '<' | '>' => true,
            '#' => at == 0,
            ' ' => at == 0 || at == last,
            _ => false,
        };
        if special {
            out.push('\\');
        }
        if letter == '\0' {
            out.push_str("\\00");
        } else {
            out.push(letter);
        }
    }
    out
}

/// From what follows the key.
fn alternative_names(rest: &[u8]) -> Option<Vec<String>> {
    let (_, extensions) = elements(rest).find(|(tag, _)| *tag == EXTENSIONS)?;
    let (list, _) = take(extensions, SEQUENCE)?;
    let value = elements(list).find_map(|(_, extension)| {
        let (kind, _) = take(extension, OID)?;
        let (_, value) = elements(extension).find(|(tag, _)| *tag == OCTET_STRING)?;
        (kind == SUBJECT_ALT_NAME).then_some(value)
    })?;
    let (names, _) = take(value, SEQUENCE)?;
    let names = elements(names).filter_map(|(tag, name)| match tag {
        0x82 => Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase()),
        0x81 | 0x86 => String::from_utf8(name.to_vec()).ok(),
        0x87 => match name.len() {
            4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(name).ok()?).to_string()),
            16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(name).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    });
    Some(names.collect())
}

/// Seconds since the epoch (0 for what lies before it) of the time at the front, and what follows it.
fn time(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (tag, digits, rest) = element(bytes)?;
    let (year, digits) = match tag {
        UTC_TIME => {
            let (year, digits) = number(digits, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, digits)
        }
        GENERALIZED_TIME => number(digits, 4)?,
        _ => return None,
    };
    let (month, digits) = number(digits, 2)?;
    let (day, digits) = number(digits, 2)?;
    let (hour, digits) = number(digits, 2)?;
    let (minute, digits) = number(digits, 2)?;
    let (second, digits) = number(digits, 2)?;
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61
        && digits == b"Z";
    let seconds = days_from_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    valid.then_some((u64::try_from(seconds).unwrap_or(0), rest))
}

fn number(digits: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (number, rest) = digits.split_at_checked(count)?;
    let value = number.iter().try_fold(0, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + i64::from(digit - b'0'))
    })?;
    Some((value, rest))
}

/// Days from 1970-01-01 in the Gregorian calendar (years counted from March, so that leap days come last).
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Shell-style match of the whole text: `*`, `?`, `[abc]`, `[a-z]`, `[!a-z]`, as Python's `fnmatch.fnmatchcase`.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last star, with one character more for the star.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            (Some(_), Some(letter)) => {
                if let Some(after) = matches_one(&pattern, p, *letter) {
                    p = after;
                    t += 1;
                    continue;
                }
            }
            _ => {}
        }
        match retry {
            Some((after_star, from)) if from < text.len() => {
                p = after_star;
                t = from + 1;
                retry = Some((after_star, t));
            }
            _ => return false,
        }
    }
}

/// Whether the one-letter part of the pattern at `p` takes this letter; if so, where the next part begins.
fn matches_one(pattern: &[char], p: usize, letter: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => {
            let negated = pattern.get(p + 1) == Some(&'!');
            let first = p + 1 + usize::from(negated);
            // A bracket right behind the opening one is a letter.
            let Some(end) = pattern
                .iter()
                .skip(first + 1)
                .position(|c| *c == ']')
                .map(|at| first + 1 + at)
            else {
                return (letter == '[').then_some(p + 1);
            };
            let set = pattern.get(first..end)?;
            let mut found = false;
            let mut at = 0;
            while let Some(low) = set.get(at) {
                if let (Some('-'), Some(high)) = (set.get(at + 1), set.get(at + 2)) {
                    found |= (*low..=*high).contains(&letter);
                    at += 3;
                } else {
                    found |= *low == letter;
                    at += 1;
                }
            }
            (found != negated).then_some(end + 1)
        }
        plain => (*plain == letter).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Leaf, SEQUENCE, SET, days_from_epoch, matches, subject_text, take};

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("north", "north", true),
            ("north", "north2", false),
            ("*.corp.example", "a.b.corp.example", true),
            ("*.corp.example", "corp.example", false),
            ("spiffe://*/ns/?", "spiffe://td/x/ns/a", true),
            ("n[a-o]rth", "north", true),
            ("n[!a-o]rth", "north", false),
            ("[]x]", "]", true),
            ("[", "[", true),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "axxbyybzzc", true),
            ("a*b*c", "axxbyybzz", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }

    /// The names, in DER, and how Python's `cryptography` prints them.
    #[test]
    fn a_subject_is_written_as_rfc_4514_wants_it() {
        for (der, expected) in [
            (
                "304a310b300906035504061302444531183016060355040a0c0f466f6f2c20426172202b20536f6e733111300f060355040b0c082331203c6f70733e310e300c06035504030c056e6f727468",
                "CN=north,OU=\\#1 \\<ops\\>,O=Foo\\, Bar \\+ Sons,C=DE",
            ),
            (
                "305f31173015060a0992268993f22c64011916076578616d706c6531143012060a0992268993f22c6401191604636f727031133011060a0992268993f22c6401010c03753b313119301706035504030c10206c65616420616e6420747261696c20",
                "CN=\\ lead and trail\\ ,UID=u\\;1,DC=corp,DC=example",
            ),
            (
                "30323120300c06035504070c054bc3b66c6e301006035504080c0973617920226869225c310e300c06035504090c053120576179",
                "STREET=1 Way,L=Köln+ST=say \\\"hi\\\"\\\\",
            ),
            (
                "303d310b30090603550405130234323112301006092a864886f70d0109011603614062310e300c06058837cbad070c036f6464310a300806035504030c0120",
                "CN=\\ ,2.999.1234567=odd,1.2.840.113549.1.9.1=a@b,2.5.4.5=42",
            ),
            (
                "30223111300f06035504031e080067007200fc006e310d300b060355042a1c04000020ac",
                "2.5.4.42=€,CN=grün",
            ),
            ("3000", ""),
        ] {
            let bytes: Vec<u8> = (0..der.len() / 2)
                .filter_map(|at| u8::from_str_radix(der.get(2 * at..2 * at + 2)?, 16).ok())
                .collect();
            let (subject, _) = take(&bytes, SEQUENCE).expect("a name");
            assert_eq!(subject_text(subject).as_deref(), Some(expected));
        }
        assert_eq!(subject_text(&[SET, 2, SEQUENCE, 0]), None);
    }

    #[test]
    fn a_hostile_pattern_costs_no_more_than_the_product_of_the_lengths() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(&pattern, &"a".repeat(2_000)));
    }

    #[test]
    fn days_are_counted_as_in_the_calendar() {
        assert_eq!(days_from_epoch(1970, 1, 1), 0);
        assert_eq!(days_from_epoch(2000, 2, 29), 11_016);
        assert_eq!(days_from_epoch(2000, 3, 1), 11_017);
        assert_eq!(days_from_epoch(2026, 12, 31), 20_818);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Leaf::parse(&bytes);
        }
    }
}
